"""The device: its state, its sessions, and the way of one frame through it."""

import json
import os
import secrets
import struct
import threading
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from . import commands, defs, scp03
from .audit import Log
from .defs import Algorithm, Command, Error, HsmError, Option, Origin, Type
from .objects import Object

# Never refused because the log is full: how a log is read and freed, and what it takes to get there.
ALWAYS = (
    Command.CREATE_SESSION,
    Command.AUTHENTICATE_SESSION,
    Command.GET_LOG_ENTRIES,
    Command.SET_LOG_INDEX,
)
IN_THE_CLEAR = (Command.ECHO, Command.DEVICE_INFO, Command.GET_DEVICE_PUBLIC_KEY)


@dataclass
class Request:
    """A command on its way. `target` and `second` are the keys that the log names."""

    command: int
    data: bytes
    session: scp03.Session = None
    target: int = defs.NOBODY
    second: int = defs.NOBODY
    spoil: bool = False
    after: list = field(default_factory=list)


class Device:
    def __init__(self, serial, firmware, state, idle, faults):
        self.firmware, self.state, self.idle, self.faults = firmware, state, idle, faults
        self.serial = serial
        self.lock = threading.Lock()
        self.skew = 0.0
        self.sessions = {}
        self.log = Log()
        if state and os.path.exists(state):
            self._load()
        else:
            self.attestation_key = ec.generate_private_key(ec.SECP256R1())
            self.static_key = ec.generate_private_key(ec.SECP256R1())
            self.factory_reset()
        self.boot()
        self.save()

    # Time, boots and resets

    def now(self):
        return time.monotonic() + self.skew

    def tick(self):
        return int((self.now() - self.booted) * 1000) & 0xFFFFFFFF

    def boot(self):
        self.sessions.clear()
        self.booted = self.now()
        self.log.boot(self.options[Option.FORCE_AUDIT] != defs.OFF)
        self.dirty = True

    def factory_reset(self):
        self.objects = {}
        self.sequences = {}
        logged = defs.OFF if self.firmware >= (2, 3, 1) else defs.ON
        every = sorted({*Command, *defs.UNSUPPORTED} - {Command.SESSION_MESSAGE})
        self.options = {
            Option.FORCE_AUDIT: defs.OFF,
            Option.COMMAND_AUDIT: {command: logged for command in every},
            Option.ALGORITHM_TOGGLE: {algorithm: 1 for algorithm in defs.algorithms(self.firmware)},
        }
        if self.firmware < (2, 3, 1):
            for silent in (Command.ECHO, Command.DEVICE_INFO, Command.GET_LOG_ENTRIES):
                self.options[Option.COMMAND_AUDIT][silent] = defs.OFF
        everything = defs.all_capabilities(self.firmware)
        self.store(
            Object(
                1,
                Type.AUTHENTICATION_KEY,
                Algorithm.AES128_YUBICO_AUTHENTICATION,
                b"DEFAULT AUTHKEY CHANGE THIS ASAP".ljust(defs.LABEL_LEN, b"\0"),
                0xFFFF,
                everything,
                everything,
                Origin.IMPORTED,
                0,
                scp03.password_keys(defs.FACTORY_PASSWORD),
            )
        )
        self.log.clear()

    # Objects

    def store(self, obj):
        """Keeps an object under its id, or under a free one when it asks for none."""
        if obj.id == defs.NOBODY:
            raise HsmError(Error.INVALID_ID)
        while obj.id == 0:
            drawn = secrets.randbelow(0xFFFE) + 1
            obj.id = 0 if (obj.type, drawn) in self.objects else drawn
        if (obj.type, obj.id) in self.objects:
            raise HsmError(Error.OBJECT_EXISTS)
        if len(self.objects) >= defs.RECORDS or self.pages(obj) > defs.PAGES - self.used_pages():
            raise HsmError(Error.STORAGE_FAILED)
        generation = self.sequences.get((obj.type, obj.id), -1) + 1 & 0xFF
        obj.sequence = self.sequences[obj.type, obj.id] = generation
        self.objects[obj.type, obj.id] = obj
        self.dirty = True
        return obj

    @staticmethod
    def pages(obj):
        return -(-len(obj.body) // defs.PAGE_SIZE)

    def used_pages(self):
        return sum(map(self.pages, self.objects.values()))

    # Frames

    def transceive(self, frame):
        """Answers one frame, as the USB device does: one at a time. None means that no answer may be sent."""
        with self.lock:
            if self.faults.take("rebooted"):
                self.boot()
            if self.faults.take("lose_sessions"):
                self.sessions.clear()
            self.expire()
            self.mangle = lambda response: response
            try:
                response = self._answer(frame)
            except HsmError as refused:
                response = error(refused.code)
            if self.dirty:
                self.save()
            return self.mangle(response)

    def expire(self):
        stale = [sid for sid, session in self.sessions.items() if self.now() - session.used >= self.idle]
        for sid in stale:
            del self.sessions[sid]

    def _answer(self, frame):
        if len(frame) < 3 or len(frame) != 3 + int.from_bytes(frame[1:3], "big"):
            raise HsmError(Error.WRONG_LENGTH)
        if len(frame) > (3136 if self.firmware >= (2, 4, 0) else 2048):
            raise HsmError(Error.WRONG_LENGTH)
        command, data = frame[0], frame[3:]
        if command == Command.SESSION_MESSAGE:
            return self._message(frame)
        if command == Command.CREATE_SESSION:
            return self._execute(Request(command, data), self._create_session)
        if command == Command.AUTHENTICATE_SESSION:
            return self._execute(Request(command, data), lambda request: self._authenticate(request, frame))
        if command not in IN_THE_CLEAR:
            raise HsmError(Error.INVALID_COMMAND)
        return self._execute(Request(command, data))

    def _create_session(self, request):
        if len(request.data) not in (2 + 8, 2 + 65):
            raise HsmError(Error.WRONG_LENGTH)
        request.target = int.from_bytes(request.data[:2], "big")
        key = self.objects.get((Type.AUTHENTICATION_KEY, request.target))
        if key is None:
            raise HsmError(Error.OBJECT_NOT_FOUND)
        free = [sid for sid in range(defs.MAX_SESSIONS) if sid not in self.sessions]
        if not free:
            raise HsmError(Error.SESSIONS_FULL)
        session = scp03.Session(free[0], key, self.now())
        symmetric = key.algorithm == Algorithm.AES128_YUBICO_AUTHENTICATION
        if symmetric != (len(request.data) == 10):
            raise HsmError(Error.INVALID_DATA)
        if symmetric:
            answer = session.open_symmetric(key.data, request.data[2:])
        else:
            client = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key.data)
            answer = session.open_asymmetric(self.static_key, client, request.data[2:])
        self.sessions[session.sid] = session
        return bytes([session.sid]) + answer

    def _authenticate(self, request, frame):
        if len(request.data) != 17:
            raise HsmError(Error.WRONG_LENGTH)
        session = self.sessions.get(request.data[0])
        if session is None or session.authenticated:
            raise HsmError(Error.INVALID_SESSION)
        request.target = session.auth_id
        try:
            session.authenticate(frame)
        except HsmError:
            del self.sessions[session.sid]
            raise
        session.used = self.now()
        return b""

    def _message(self, frame):
        if len(frame) < 3 + 1 + 16 + scp03.MAC_LEN:
            raise HsmError(Error.WRONG_LENGTH)
        session = self.sessions.get(frame[3])
        if session is None or not session.authenticated:
            raise HsmError(Error.INVALID_SESSION)
        try:
            inner = session.decrypt(frame)
        except HsmError:
            del self.sessions[session.sid]
            raise
        session.used = self.now()
        if len(inner) < 3 or len(inner) != 3 + int.from_bytes(inner[1:3], "big"):
            return session.encrypt(error(Error.WRONG_LENGTH))
        request = Request(inner[0], inner[3:], session)
        response = session.encrypt(self._execute(request))
        for action in request.after:
            action()
        return response

    def _execute(self, request, handler=None):
        """Runs a command, and writes the log when it is audited. Always a response frame."""
        audited = self.options[Option.COMMAND_AUDIT].get(request.command, defs.OFF) != defs.OFF
        blocked = audited and self.options[Option.FORCE_AUDIT] != defs.OFF and self.log.full
        if blocked and request.command not in ALWAYS:
            return error(Error.LOG_FULL)
        try:
            name = Command(request.command).name.lower() if request.command in iter(Command) else None
            request.spoil = self.faults.strike(name)
            response = commands.run(self, request) if handler is None else handler(request)
            response = struct.pack("!BH", request.command | 0x80, len(response)) + response
        except HsmError as refused:
            response = error(refused.code)
        self.mangle = self.faults.mangler(name)
        if audited:
            refused = response[0] == defs.ERROR_RESPONSE
            self._record(request, response[3] if refused else response[0])
        return response

    def _record(self, request, result):
        self.dirty = True
        if self.log.full and self.options[Option.FORCE_AUDIT] != defs.OFF:
            if request.command == Command.AUTHENTICATE_SESSION:
                self.log.missed_authentication()
            return
        key = request.session.auth_id if request.session else defs.NOBODY
        self.log.append(request.command, len(request.data), key, request.target, request.second, result, self.tick())

    # The state file

    def save(self):
        self.dirty = False
        if not self.state:
            return
        saved = {
            "serial": self.serial,
            "objects": [obj.dump() for obj in self.objects.values()],
            "sequences": [[*key, count] for key, count in self.sequences.items()],
            "options": {
                str(int(option)): value if isinstance(value, int) else [[int(k), v] for k, v in value.items()]
                for option, value in self.options.items()
            },
            "log": self.log.dump(),
            "attestation_key": pkcs8(self.attestation_key),
            "static_key": pkcs8(self.static_key),
        }
        fresh = f"{self.state}.{os.getpid()}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(saved, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, self.state)

    def _load(self):
        with open(self.state) as source:
            saved = json.load(source)
        self.serial = saved["serial"]
        self.objects = {(obj.type, obj.id): obj for obj in map(Object.load, saved["objects"])}
        self.sequences = {(type_, id_): count for type_, id_, count in saved["sequences"]}
        self.options = {
            Option(int(option)): value if isinstance(value, int) else {k: v for k, v in value}
            for option, value in saved["options"].items()
        }
        self.log.load(saved["log"])
        self.attestation_key = load_der_private_key(bytes.fromhex(saved["attestation_key"]), None)
        self.static_key = load_der_private_key(bytes.fromhex(saved["static_key"]), None)


def pkcs8(key):
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex()


def error(code):
    return struct.pack("!BHB", defs.ERROR_RESPONSE, 1, code)
