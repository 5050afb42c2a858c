// viem over the wallet socket: accounts, then one signed transaction. Usage: viem_client.mjs SOCKET TX_JSON
import { createWalletClient } from "viem";
import { ipc } from "viem/node";
import { anvil } from "viem/chains";

const [socketPath, text] = process.argv.slice(2);
const tx = JSON.parse(text);
const client = createWalletClient({ chain: anvil, transport: ipc(socketPath, { timeout: 20_000, retryCount: 0 }) });
try {
  const accounts = await client.getAddresses();
  const signed = await client.signTransaction({
    account: tx.from,
    to: tx.to,
    data: tx.data,
    value: BigInt(tx.value),
    gas: BigInt(tx.gas),
    nonce: Number(tx.nonce),
    maxFeePerGas: BigInt(tx.maxFeePerGas),
    maxPriorityFeePerGas: BigInt(tx.maxPriorityFeePerGas),
    type: "eip1559",
  });
  console.log(JSON.stringify({ accounts, raw: signed.raw ?? signed }));
} catch (error) {
  let found = error;
  while (found.cause) found = found.cause;
  console.log(JSON.stringify({ error: { code: found.code, message: found.message, data: found.data }, client: error.name }));
}
process.exit(0);
