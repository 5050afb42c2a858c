"""Faults that a test switches on and off while the device runs.

A fault is `{kind: value}`; next to it may stand `command` (only that command, by its name) and `times` (so often, then
it is gone). A value of false or null switches a kind off, `{"clear": true}` all of them.
"""

import os
import threading
import time

from .defs import Command, Error, HsmError

KINDS = ("unplugged", "delay_ms", "hang", "split", "error", "lose_sessions", "garbage", "wrong_signature", "drop")
ONCE = ("lose_sessions", "rebooted")
SIGNERS = ("sign_ecdsa", "sign_eddsa", "sign_hmac")


class Faults:
    def __init__(self):
        self.active = []
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)

    def set(self, wanted):
        """Takes one request of the side endpoint; what it cannot mean is a ValueError."""
        if not isinstance(wanted, dict):
            raise ValueError("an object is expected")
        times, command = wanted.get("times"), wanted.get("command")
        made = []
        for kind, value in wanted.items():
            if kind in ("times", "command", "clear"):
                continue
            if kind not in KINDS:
                raise ValueError(f"no such fault: {kind}")
            name = command
            if kind == "error" and value:
                name = value.get("command", command)
                Error[value["code"].upper()]
            if kind == "delay_ms" and value and not isinstance(value, (int, float)):
                raise ValueError("delay_ms is a number")
            if name is not None and name not in {member.name.lower() for member in Command}:
                raise ValueError(f"no such command: {name}")
            made.append({"kind": kind, "value": value, "command": name, "times": times})
        with self.changed:
            was = self._on("unplugged")
            if wanted.get("clear"):
                self.active = [fault for fault in self.active if fault["kind"] == "rebooted"]
            for fault in made:
                same = (fault["kind"], fault["command"]) if fault["value"] else (fault["kind"], None)
                self.active = [
                    old
                    for old in self.active
                    if not (old["kind"] == same[0] and (old["command"] == same[1] or not fault["value"]))
                ]
                if fault["value"]:
                    once = 1 if fault["kind"] in ONCE else fault["times"]
                    self.active.append({**fault, "times": once})
            if self._on("unplugged") and not was:
                self.active.append({"kind": "rebooted", "value": True, "command": None, "times": 1})
            self.changed.notify_all()

    def _on(self, kind):
        return any(fault["kind"] == kind for fault in self.active)

    def on(self, kind):
        with self.lock:
            return self._on(kind)

    def take(self, kind, command=None):
        """The value of a fault that strikes now, which uses up one of its times."""
        with self.lock:
            for fault in self.active:
                if fault["kind"] == kind and fault["command"] in (None, command):
                    if fault["times"] is not None:
                        fault["times"] -= 1
                        if fault["times"] <= 0:
                            self.active.remove(fault)
                    return fault["value"]
        return None

    def strike(self, command):
        """Before a command runs: it may be late, wait for ever, or be refused. True if its signature must be wrong."""
        time.sleep((self.take("delay_ms", command) or 0) / 1000)
        if self._hangs(command, "before"):
            self.wait_while_hung()
        refusal = self.take("error", command)
        if refusal:
            raise HsmError(Error[refusal["code"].upper()])
        return command in SIGNERS and bool(self.take("wrong_signature", command))

    def mangler(self, command):
        """After a command ran: what becomes of its response. None is no response at all."""
        hangs = self._hangs(command, "after")
        garbage, drop = self.take("garbage", command), self.take("drop", command)

        def mangle(response):
            if hangs:
                self.wait_while_hung()
            if drop:
                return None
            if garbage == "short":
                return response[: len(response) // 2]
            return os.urandom(len(response)) if garbage else response

        return mangle

    def _hangs(self, command, when):
        with self.lock:
            return any(
                fault["kind"] == "hang"
                and fault["command"] in (None, command)
                and (fault["value"] == "after") == (when == "after")
                for fault in self.active
            )

    def wait_while_hung(self):
        with self.changed:
            self.changed.wait_for(lambda: not self._on("hang"))

    def dump(self):
        with self.lock:
            return [dict(fault) for fault in self.active]
