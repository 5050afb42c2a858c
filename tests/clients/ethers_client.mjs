// ethers over the wallet socket: accounts, then one signed transaction. Usage: ethers_client.mjs SOCKET TX_JSON
import { IpcSocketProvider, JsonRpcSigner } from "ethers";

const [socketPath, text] = process.argv.slice(2);
const tx = JSON.parse(text);
const provider = new IpcSocketProvider(socketPath);
try {
  const accounts = await provider.send("eth_accounts", []);
  const { gas, ...rest } = tx;
  const signer = new JsonRpcSigner(provider, tx.from);
  const signed = await signer.signTransaction({ ...rest, gasLimit: gas, nonce: Number(tx.nonce), type: 2 });
  console.log(JSON.stringify({ accounts, raw: signed.raw ?? signed }));
} catch (error) {
  const found = error.info?.error ?? error.error ?? { message: String(error) };
  console.log(JSON.stringify({ error: found, clientCode: error.code }));
}
process.exit(0);
