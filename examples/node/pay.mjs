#!/usr/bin/env node
// Pays an EIP-1559 transaction through clavigerd, with Node's own modules alone.
//
//     pay.mjs --to 0x... --value 1 --nonce 0 [--socket PATH [--daemon-uid UID] | --through HELPER]
//
// Register the node that really runs (with --allow-jit, so at tier T1), and permit it; or install claviger-connect for the
// user that this script runs as (docs/apps.md), which reaches T2.

import { spawn } from "node:child_process";
import { statSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const PATIENCE = 60_000;
const INSTALLED = "/run/claviger/wallet.sock";

/** The daemon refused. Decide by data.code, which is never renamed. */
class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.data = error.data;
  }
}

/** No answer came: the payment may have been signed. Ask again with the very same one; it is counted once. */
class Unknown extends Error {}

/** One connection. It never connects again by itself: what is unknown must be asked. */
class Claviger {
  #next = 0;
  #nonce = null;
  #waiting = new Map();
  #ended = null;

  static async connect({ socket, daemonUid, through }) {
    const daemon = new Claviger();
    if (through) {
      // The helper says hello, and looks who listens.
      const helper = spawn(through, [], { stdio: ["pipe", "pipe", "inherit"] });
      helper.on("error", (e) => daemon.#end(e.message));
      daemon.#use(helper.stdout, helper.stdin);
      return daemon;
    }
    // Node cannot ask the kernel who listens, as claviger-connect does: the owner of the file is the next best.
    const owner = statSync(socket).uid;
    if (owner !== 0 && owner !== daemonUid) throw new Error(`${socket} belongs to user ${owner}, not to the daemon's`);
    const line = createConnection(socket);
    daemon.#use(line, line);
    daemon.#nonce = (await daemon.call("claviger_hello", {})).nonce;
    return daemon;
  }

  #use(input, output) {
    this.output = output;
    createInterface({ input }).on("line", (line) => this.#take(line)).on("close", () => this.#end("the connection ended"));
    input.on("error", (e) => this.#end(e.message));
    output.on("error", (e) => this.#end(e.message));
  }

  #take(line) {
    let reply;
    try {
      reply = JSON.parse(line);
    } catch (e) {
      return this.#end(e.message);
    }
    if (reply.id === null && reply.error) return this.#end(new Refused(reply.error));
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.error) waiting?.reject(new Refused(reply.error));
    else waiting?.resolve(reply.result);
  }

  #end(why) {
    this.#ended ??= why instanceof Error ? why : new Unknown(why);
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
    this.#waiting.clear();
  }

  call(method, params) {
    if (this.#ended) return Promise.reject(this.#ended);
    const id = ++this.#next;
    const request = { jsonrpc: "2.0", id, method, params };
    if (this.#nonce) request.claviger = { nonce: this.#nonce, seq: id };
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      setTimeout(() => this.#waiting.delete(id) && reject(new Unknown("no reply in time")), PATIENCE).unref();
      this.output.write(JSON.stringify(request) + "\n");
    });
  }

  close() {
    this.output.end();
  }
}

const string = { type: "string" };
const { values: words } = parseArgs({
  options: { socket: string, through: string, "daemon-uid": string, chain: string, nonce: string, to: string, value: string },
});
const hex = (text) => `0x${BigInt(text).toString(16)}`;

try {
  const daemon = await Claviger.connect({
    socket: words.socket ?? process.env.CLAVIGER_SOCKET ?? INSTALLED,
    daemonUid: Number(words["daemon-uid"] ?? 0),
    through: words.through,
  });
  const keys = await daemon.call("claviger_listKeys", {});
  const transaction = {
    type: "0x2",
    from: keys.find((key) => key.address).address,
    chainId: hex(words.chain ?? 1),
    nonce: hex(words.nonce),
    to: words.to,
    value: hex(words.value),
    gas: hex(21_000),
    maxFeePerGas: hex(1_000_000_000),
    maxPriorityFeePerGas: hex(1),
  };
  const signed = await daemon.call("claviger_signPayment", { transaction });
  console.log(`signed ${signed.hash}\nraw ${signed.raw}`);
  daemon.close();
} catch (why) {
  if (why instanceof Refused) console.log(`refused ${why.data.code}: ${why.message}\nadvice: ${why.data.advice}`);
  else if (why instanceof Unknown) console.log(`unknown, ask again with the very same payment: ${why.message}`);
  else console.log(why.message);
  process.exit(why instanceof Refused ? 1 : 75);
}
