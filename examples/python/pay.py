#!/usr/bin/env python3
"""Pays an EIP-1559 transaction through clavigerd, with the standard library alone.

    pay.py --to 0x... --value 1 --nonce 0 [--socket PATH [--daemon-uid UID] | --through HELPER]

Register the interpreter that really runs, and permit it; or install claviger-connect for the user that this script runs as
(docs/apps.md): a digest of python3 says nothing of a script.
"""

import argparse
import json
import os
import socket
import struct
import subprocess
import sys

INSTALLED = "/run/claviger/wallet.sock"


class Refused(Exception):
    """The daemon refused. Decide by data["code"], which is never renamed."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.data = error["data"]


class Unknown(Exception):
    """No answer came: the payment may have been signed. Ask again with the very same one; it is counted once."""


class Claviger:
    """One connection. It never connects again by itself: what is unknown must be asked."""

    def __init__(self, path=None, daemon_uid=0, helper=None):
        self.claviger, self.seq = None, 0
        if helper:
            child = subprocess.Popen([helper], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.input, self.output = child.stdout, child.stdin
            return  # the helper says hello, and looks who listens
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(60)
        line.connect(path)
        # Who listens: somebody else could give another account to pay into.
        _pid, uid, _gid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, daemon_uid):
            sys.exit(f"{path} belongs to user {uid}, not to the daemon's")
        self.input = self.output = line.makefile("rwb")
        self.claviger = {"nonce": self.call("claviger_hello", {})["nonce"]}

    def call(self, method, params):
        self.seq += 1
        request = {"jsonrpc": "2.0", "id": self.seq, "method": method, "params": params}
        if self.claviger:
            request["claviger"] = {**self.claviger, "seq": self.seq}
        try:
            self.output.write(json.dumps(request).encode() + b"\n")
            self.output.flush()
            line = self.input.readline()
        except OSError as e:
            raise Unknown(f"{method}: {e}") from e
        if not line.endswith(b"\n"):
            raise Unknown(f"{method}: the connection ended")
        try:
            reply = json.loads(line)
        except ValueError as e:
            raise Unknown(f"{method}: {e}") from e
        if "error" in reply:
            raise Refused(reply["error"])
        if reply["id"] != self.seq:
            raise Unknown(f"{method}: the reply is to another request")
        return reply["result"]


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--socket", default=os.environ.get("CLAVIGER_SOCKET", INSTALLED))
    words.add_argument("--through")
    words.add_argument("--daemon-uid", type=int, default=0)
    words.add_argument("--chain", type=int, default=1)
    words.add_argument("--nonce", type=int, required=True)
    words.add_argument("--to", required=True)
    words.add_argument("--value", type=int, required=True)
    words = words.parse_args()
    try:
        daemon = Claviger(words.socket, words.daemon_uid, words.through)
        keys = daemon.call("claviger_listKeys", {})
        transaction = {
            "type": "0x2",
            "from": next(key["address"] for key in keys if key["address"]),
            "chainId": hex(words.chain),
            "nonce": hex(words.nonce),
            "to": words.to,
            "value": hex(words.value),
            "gas": hex(21_000),
            "maxFeePerGas": hex(1_000_000_000),
            "maxPriorityFeePerGas": hex(1),
        }
        signed = daemon.call("claviger_signPayment", {"transaction": transaction})
    except Refused as why:
        print(f"refused {why.data['code']}: {why}\nadvice: {why.data['advice']}")
        return 1
    except Unknown as why:
        print(f"unknown, ask again with the very same payment: {why}")
        return 75
    print(f"signed {signed['hash']}\nraw {signed['raw']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
