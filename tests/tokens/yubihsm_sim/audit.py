"""The log store: 62 entries in a chain of digests.

An entry's digest is the first 16 bytes of SHA-256 over the entry and the digest before it; its result is the first
byte of the response, or the error of a refused command. Published entries of real devices agree (see the acceptance
test).
"""

import hashlib
import os
import struct

from .defs import LOG_CAPACITY, NOBODY, Error, HsmError

FORMAT = "!HBHHHHBL"


class Log:
    def __init__(self):
        self.clear()

    def clear(self):
        """A factory reset: the line of ones opens a new chain."""
        self.entries = []
        self.number = 0
        self.digest = os.urandom(16)
        self.unlogged_boots = self.unlogged_auths = 0
        self.append(0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFF, 0xFFFFFFFF)

    @property
    def full(self):
        return len(self.entries) >= LOG_CAPACITY

    def append(self, command, length, session_key, target, second, result, tick):
        """Writes an entry; over the oldest one when there is no room."""
        self.number = (self.number + 1) & 0xFFFF
        data = struct.pack(FORMAT, self.number, command, length, session_key, target, second, result, tick)
        self.digest = hashlib.sha256(data + self.digest).digest()[:16]
        self.entries = [*self.entries, data + self.digest][-LOG_CAPACITY:]

    def boot(self, forced):
        if forced and self.full:
            self.unlogged_boots = min(self.unlogged_boots + 1, 0xFFFF)
        else:
            self.append(0, 0, NOBODY, 0, 0, 0, 0)

    def missed_authentication(self):
        self.unlogged_auths = min(self.unlogged_auths + 1, 0xFFFF)

    def consume(self, number):
        """SET LOG INDEX: everything up to this entry has been read."""
        for at, entry in enumerate(self.entries):
            if struct.unpack_from("!H", entry)[0] == number:
                self.entries = self.entries[at + 1 :]
                self.unlogged_boots = self.unlogged_auths = 0
                return
        raise HsmError(Error.INVALID_DATA)

    def read(self):
        head = struct.pack("!HHB", self.unlogged_boots, self.unlogged_auths, len(self.entries))
        return head + b"".join(self.entries)

    def dump(self):
        return {
            "entries": [entry.hex() for entry in self.entries],
            "number": self.number,
            "digest": self.digest.hex(),
            "unlogged": [self.unlogged_boots, self.unlogged_auths],
        }

    def load(self, saved):
        self.entries = [bytes.fromhex(entry) for entry in saved["entries"]]
        self.number = saved["number"]
        self.digest = bytes.fromhex(saved["digest"])
        self.unlogged_boots, self.unlogged_auths = saved["unlogged"]
