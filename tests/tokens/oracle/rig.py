"""A simulator in a process of its own, Yubico's client against it, and the checks that are counted."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import urllib.request
from pathlib import Path

from yubihsm import YubiHsm
from yubihsm.backends.http import HttpBackend
from yubihsm.defs import ALGORITHM, CAPABILITY, COMMAND, ERROR, OBJECT
from yubihsm.exceptions import YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, WrapKey

SIMULATOR = Path(__file__).resolve().parents[1] / "yubihsm_sim"
SERIAL = 7654321
ALL = CAPABILITY.ALL


class Checks:
    """Prints one line per check and counts the failed ones."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, what, condition, why=""):
        if condition:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok  ' if condition else 'FAIL'} {what}{f': {why}' if why and not condition else ''}", flush=True)

    def equal(self, what, got, expected):
        self.that(what, got == expected, f"{got!r} is not {expected!r}")

    def refused(self, what, code, act, *args, **more):
        """The device must answer with this error, and with no other."""
        try:
            got = act(*args, **more)
        except YubiHsmDeviceError as why:
            self.that(what, why.code == code, f"{why.code.name} is not {code.name}")
        except Exception as why:
            self.that(what, False, f"{why!r} is not {code.name}")
        else:
            self.that(what, False, f"{got!r} in place of {code.name}")

    def raises(self, what, kind, act, *args, **more):
        try:
            got = act(*args, **more)
        except kind:
            self.that(what, True)
        except Exception as why:
            self.that(what, False, f"{why!r} is not {kind.__name__}")
        else:
            self.that(what, False, f"{got!r} in place of {kind.__name__}")

    def section(self, name, run):
        print(f"-- {name}", flush=True)
        try:
            run(self)
        except Exception:
            traceback.print_exc()
            self.that(f"{name} runs to its end", False)


class Sim:
    """A simulator that ends with the block that uses it."""

    def __init__(self, *args, state=None):
        self.args = [*args, *(["--state", str(state)] if state else [])]

    def __enter__(self):
        self.start()
        return self

    def start(self):
        command = [sys.executable, str(SIMULATOR), "--serial", str(SERIAL), *self.args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = json.loads(line)["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_):
        self.stop()

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()

    def restart(self):
        self.stop()
        self.start()

    def connect(self, timeout=10):
        return YubiHsm(HttpBackend(self.url, timeout))

    def open(self, key=1, password="password", timeout=10):
        return self.connect(timeout).create_session_derived(key, password)

    def fault(self, **wanted):
        return self._side("/sim/fault", wanted)

    def advance(self, seconds):
        return self._side("/sim/clock", {"advance": seconds})

    def state(self):
        return self._side("/sim/state", None)

    def _side(self, path, value):
        body = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(self.url + path, body, timeout=10) as answer:
            return json.load(answer)

    def raw(self, data, pause=0.0):
        """Bytes over a plain socket; the pieces as they arrive, up to the end of the stated length."""
        pieces = []
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)
            while True:
                piece = connection.recv(65536)
                if not piece:
                    break
                pieces.append(piece)
                head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
                stated = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                if stated and len(body) >= int(stated[0].split(b":")[1]):
                    break
        return pieces

    def post(self, frame):
        """A frame to the connector; the status and the body."""
        request = b"POST /connector/api HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(frame), frame)
        head, _, body = b"".join(self.raw(request)).partition(b"\r\n\r\n")
        return int(head.split()[1]), body


def scratch():
    return tempfile.TemporaryDirectory(prefix="yubihsm-")


def auth(session, id_, capabilities, delegated=CAPABILITY.NONE, domains=0xFFFF, password="password"):
    """An authentication key with just these rights."""
    return AuthenticationKey.put_derived(session, id_, "", domains, capabilities, delegated, password)


def key(session, algorithm=ALGORITHM.EC_K256, capabilities=None, id_=0, domains=1, label="key"):
    if capabilities is None:
        capabilities = CAPABILITY.SIGN_EDDSA if algorithm == ALGORITHM.EC_ED25519 else CAPABILITY.SIGN_ECDSA
    return AsymmetricKey.generate(session, id_, label, domains, capabilities, algorithm)


def wrap_key(session, capabilities=None, delegated=ALL, id_=0, material=None, domains=0xFFFF):
    if capabilities is None:
        capabilities = CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED
    algorithm = ALGORITHM.AES256_CCM_WRAP
    material = material or os.urandom(32)
    return WrapKey.put(session, id_, "wrap", domains, capabilities, algorithm, delegated, material)


__all__ = [
    "ALGORITHM",
    "ALL",
    "CAPABILITY",
    "COMMAND",
    "ERROR",
    "OBJECT",
    "SERIAL",
    "Checks",
    "Sim",
    "auth",
    "key",
    "scratch",
    "wrap_key",
]
