// Who signed what: reads raw transactions from standard input, one a line, and tells each one's sender, content and
// signature. ethers, so that the daemon's own code does not judge itself.
import { createInterface } from "node:readline";
import { Transaction } from "ethers";

for await (const line of createInterface({ input: process.stdin })) {
  let told;
  try {
    const tx = Transaction.from(line);
    const { r, s } = tx.signature;
    told = { from: tx.from, nonce: tx.nonce, to: tx.to, value: String(tx.value), signed: tx.unsignedHash, signature: r + s.slice(2) };
  } catch (error) {
    told = { error: String(error) };
  }
  console.log(JSON.stringify(told));
}
