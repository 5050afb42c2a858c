#!/usr/bin/env python3
"""Kills the daemon at any moment of an order or a wipe, under clients that sign.

    python3 tests/clients/stopped.py [--kills N] [--wipes N] [--keep]

An order is sent over the operator's socket, and the daemon is killed a random moment later. What was answered stands after the
restart, what was not is either there or not, and is taken when it is sent again; no signature comes out after an answer. A wipe
that was begun comes to its end after the restart. Needs SoftHSM, ssh-keygen and the built programs (CLAVIGER_BIN).
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

import lost
from lost import Lost, Signing
from rig import Failed, Rig, find, must

lost.CLIENTS_AT_ONCE = 8
# The kill strikes within one of these many seconds of the order: at its first steps, in its midst, about its end.
WITHIN = (0.01, 0.03, 0.1)


class Stopped(Lost):
    """The people of a device that is stopped, without any network."""

    def __init__(self, keep):
        Rig.__init__(self, keep)
        self.people = self.dir / "people"
        self.epoch = 0

    def set_up(self):
        self.people.mkdir()
        self.make_token()
        self.claviger_init()
        self.authority()
        text = self.config.read_text()
        self.config.write_text(f'authority_file = "authority.toml"\n{text}')
        self.start_daemon()
        for name in ("hot-1", "hot-2", "hot-3", "hot-4"):
            self.keys[name] = find(self.claviger("key", "create", name, "--algorithm", "secp256k1"), "address")
            self.nonces[name] = 0
        exe = os.readlink("/proc/self/exe")
        self.claviger("app", "add", "runner", "--path", exe, "--eth-sign-transaction", "object")
        self.apps = {exe: "runner"}
        self.claviger("reload")
        self.apply_policy()
        self.device = find(self.claviger("order", "device"), "device")

    def authority(self):
        text = (
            'schema = 1\ndeployment = "lost-1"\nfiles_allowed = true\n[orders]\nrevokers = ["guards"]\n'
            'reactivate = { quorum = 2, of = "ops" }\n[quorum.authority]\nquorum = 2\nof = "ops"\n'
        )
        for group, who in (("guards", "gina"), ("guards", "gus"), ("ops", "alice"), ("ops", "bob")):
            text += f'[[person]]\nid = "{who}"\ngroups = ["{group}"]\nkeys = ["{self.keygen(who)}"]\n'
        text += f'[[person]]\nid = "otto"\nroles = ["operator"]\nuid = {os.getuid()}\n'
        (self.home / "authority.toml").write_text(text)

    def start_daemon(self):
        """Whether it may sign or not."""
        self.daemon = self.spawn("clavigerd", self.bin / "clavigerd", "--config", self.config)
        self.until(15, "the operator's socket", self.answers)

    def answers(self):
        return self.run(self.bin / "claviger", "--config", self.config, "order", "status", check=False).returncode == 0

    def paper(self, level):
        self.epoch += 1
        file = self.people / f"{self.epoch}.order"
        self.claviger(
            "order", "new", "--deployment", "lost-1", "--device", self.device, "--level", level, "--epoch", self.epoch,
            "--reason", "a crash", "--out", file,
        )
        who = ("gina", "gus") if level == "wipe" else ("gina",)
        return {"text": file.read_text(), "signatures": [self.sign(w, "clavigerd-order@v1", file) for w in who]}

    def level(self):
        return find(self.claviger("order", "status"), "level")

    def close(self):
        Rig.close(self)


class Sending(threading.Thread):
    """An order on its way; when it was answered."""

    def __init__(self, rig, paper):
        super().__init__(daemon=True)
        self.path, self.answered = str(rig.home / "operator.sock"), None
        self.request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "operator_orderSend", "params": paper}).encode()
        self.start()

    def run(self):
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.settimeout(30)
                made.connect(self.path)
                made.sendall(self.request + b"\n")
                with made.makefile("rb") as replies:
                    line = replies.readline()
            if line.endswith(b"\n"):
                self.answered = time.monotonic()
                must("result" in json.loads(line), f"the order was refused: {line[:300]!r}")
        except OSError:
            pass


def stopping(rig, kills):
    """Orders that only a quorum lifts, each with a kill."""
    signing = Signing(rig)
    counts = {"answered": 0, "heard": 0, "not heard": 0}
    for n in range(kills):
        level = ("suspend", "inactivate")[n % 2]
        signing.runs(30)
        paper = rig.paper(level)
        sending = Sending(rig, paper)
        time.sleep(random.uniform(0, random.choice(WITHIN)))
        rig.kill_daemon()
        sending.join(30)
        quiet = signing.last
        must(not sending.answered or quiet <= sending.answered, "a signature came out after the answer")
        rig.start_daemon()
        found = rig.level()
        must(found in (None, level), f"the level is {found!r}, and {level} was asked for")
        must(not sending.answered or found == level, "an order that was answered is gone")
        counts["answered" if sending.answered else "heard" if found else "not heard"] += 1
        if found:
            time.sleep(0.2)
            must(signing.last <= quiet or signing.last < time.monotonic() - 0.2, "it signs while an order stands")
        again = Sending(rig, paper)
        again.join(30)
        must(again.answered and rig.level() == level, "the order was not taken when it was sent again")
        rig.start_again()
    signing.runs(30)
    signing.end()
    print(f"ok    {kills} kills in orders: {json.dumps(counts)}; {signing.signed} signatures, none after an answer")
    export = rig.dir / "export"
    rig.claviger("log", "export", export)
    told = rig.run(rig.bin / "claviger", "log", "verify", export, check=False, timeout=600)
    must(told.returncode == 0, f"the log does not verify: {(told.stderr or told.stdout)[-400:]}")
    print("ok    the whole log verifies")


def wiping(wipes, keep):
    """There is no way back from a wipe: each kill has a device of its own."""
    answered = 0
    for n in range(wipes):
        rig = Stopped(keep)
        try:
            rig.set_up()
            signing = Signing(rig)
            signing.runs(30)
            sending = Sending(rig, rig.paper("wipe"))
            time.sleep(random.uniform(0, 3 * random.choice(WITHIN)))
            rig.kill_daemon()
            sending.join(30)
            answered += bool(sending.answered)
            quiet = signing.last
            must(not sending.answered or quiet <= sending.answered, "a signature came out after the answer")
            rig.start_daemon()
            if rig.level() is None:
                must(not sending.answered, "a wipe that was answered is gone")
                again = Sending(rig, json.loads(sending.request)["params"])
                again.join(30)
                must(again.answered, "the wipe was not taken when it was sent again")
            rig.until(30, "the end of the wipe", lambda: find(rig.claviger("order", "status"), "to_wipe") in ([], None))
            states = {k["name"]: k["state"] for k in rig.claviger("key", "list")}
            left = [name for name, state in states.items() if name.startswith("hot") and state != "destroyed"]
            must(not left, f"keys are left after the wipe: {left}")
            signing.end()
        finally:
            rig.close()
    print(f"ok    {wipes} kills in wipes, {answered} after the answer: every key is gone, none before it was said")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12, help="kills in orders (default 12)")
    parser.add_argument("--wipes", type=int, default=3, help="kills in wipes (default 3)")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    options = parser.parse_args()
    for tool in ("ssh-keygen", "softhsm2-util"):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed")
            return 0
    rig = Stopped(options.keep)
    try:
        rig.set_up()
        stopping(rig, options.kills)
        wiping(options.wipes, options.keep)
        return 0
    except (Failed, OSError, KeyError, TypeError, ValueError, subprocess.SubprocessError) as error:
        print(f"FAIL  {error}")
        log = rig.dir / "clavigerd.log"
        if log.exists():
            print(log.read_text(errors="replace")[-1500:])
        return 1
    finally:
        rig.close()


if __name__ == "__main__":
    sys.exit(main())
