"""The connector, the plain commands, and sessions."""

import http.client
import os
import struct
import threading
import time
import urllib.error
import urllib.request

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AuthenticationKey

from .rig import ALGORITHM, CAPABILITY, COMMAND, ERROR, SERIAL, Sim, auth, key


def connector(c):
    with Sim() as sim:
        with urllib.request.urlopen(f"{sim.url}/connector/status") as answer:
            lines = dict(line.split("=", 1) for line in answer.read().decode().splitlines())
        c.equal("status is OK", lines.get("status"), "OK")
        c.equal("status names the serial", lines.get("serial"), f"{SERIAL:010d}")
        c.equal("status names the port", lines.get("port"), str(sim.port))
        c.equal("status has the connector's lines", list(lines), "status serial version pid address port".split())
        c.equal("a request without a frame is a bad request", sim.post(b"")[0], 400)
        c.equal("a frame that is too long is a bad request", sim.post(b"\x01" * 3140)[0], 400)
        echo = b"\x01\x00\x02hi"
        c.equal("a frame over plain HTTP", sim.post(echo), (200, b"\x81\x00\x02hi"))
        c.equal("a frame whose length lies", sim.post(b"\x01\x00\x09hi"), (200, b"\x7f\x00\x01\x08"))
        c.equal("an unknown command", sim.post(b"\x02\x00\x00"), (200, b"\x7f\x00\x01\x01"))
        c.equal("a session's command in the clear", sim.post(b"\x48\x00\x00"), (200, b"\x7f\x00\x01\x01"))
        one = b"POST /connector/api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + echo
        c.equal("head and body come in one segment", len(sim.raw(one)), 1)
        try:
            urllib.request.urlopen(f"{sim.url}/connector/api")
            got = 200
        except urllib.error.HTTPError as why:
            got = why.code
        c.equal("the API takes no GET", got, 405)
        client = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=10)
        sockets = set()
        for _ in range(5):
            client.request("POST", "/connector/api", echo)
            c.equal("an answer on a kept connection", client.getresponse().read(), b"\x81\x00\x02hi")
            sockets.add(client.sock)
        c.that("a connection is kept alive", len(sockets) == 1 and None not in sockets)


def device(c):
    with Sim() as sim, sim.open() as session:
        hsm = session._hsm
        info = hsm.get_device_info()
        c.equal("the serial", info.serial, SERIAL)
        c.equal("the firmware", info.version, (2, 4, 1))
        c.equal("the log's size", info.log_size, 62)
        c.that("the algorithms have secp256k1", ALGORITHM.EC_K256 in info.supported_algorithms)
        c.that("the second page names the part", bool(info.part_number))
        text = os.urandom(1024)
        c.equal("echo in the clear", hsm.send_cmd(COMMAND.ECHO, text), text)
        c.equal("echo in a session", session.send_secure_cmd(COMMAND.ECHO, text), text)
        sizes = {len(session.send_secure_cmd(COMMAND.ECHO, b"x" * n)) == n for n in range(0, 70)}
        c.equal("echo of every length around a block", sizes, {True})
        first, second = session.get_pseudo_random(32), session.get_pseudo_random(32)
        c.that("random bytes differ", len(first) == 32 and first != second)
        before = struct.unpack("!5H", session.send_secure_cmd(COMMAND.GET_STORAGE_INFO))
        c.equal("storage of a fresh device", before, (256, 255, 1024, 1023, 126))
        key(session)
        after = struct.unpack("!5H", session.send_secure_cmd(COMMAND.GET_STORAGE_INFO))
        c.equal("storage with a key more", after, (256, 254, 1024, 1022, 126))
        c.refused("an unknown command in a session", ERROR.INVALID_COMMAND, session.send_secure_cmd, 0x3F)
        c.refused(
            "a command that is too short", ERROR.WRONG_LENGTH, session.send_secure_cmd, COMMAND.GET_PUBLIC_KEY, b"\0"
        )
        state = sim.state()
        c.equal("the side door counts objects", state["objects"], {"authentication_key": 1, "asymmetric_key": 1})
        c.equal("the side door counts sessions", [one["auth_key"] for one in state["sessions"]], [1])
    with Sim("--firmware", "2.2.0") as sim, sim.open() as session:
        c.equal("older firmware says so", session._hsm.get_device_info().version, (2, 2, 0))
        c.refused("older firmware has no AES keys", ERROR.INVALID_COMMAND, session.send_secure_cmd, 0x6E, b"")
        c.that("older firmware logs from the start", len(session.get_log_entries().entries) > 2)


def sessions(c):
    with Sim() as sim:
        hsm = sim.connect()
        c.raises("a wrong password", YubiHsmAuthenticationError, hsm.create_session_derived, 1, "passw0rd")
        c.refused("an unknown key", ERROR.OBJECT_NOT_FOUND, hsm.create_session_derived, 77, "password")
        started = hsm.init_session(1)
        frame = COMMAND.AUTHENTICATE_SESSION, bytes([started._sid]) + bytes(16)
        c.refused("a wrong host cryptogram", ERROR.AUTHENTICATION_FAILED, hsm.send_cmd, *frame)
        c.refused("a second try at a failed session", ERROR.INVALID_SESSION, hsm.send_cmd, *frame)
        c.refused(
            "a message to a session that is not authenticated",
            ERROR.INVALID_SESSION,
            hsm.send_cmd,
            COMMAND.SESSION_MESSAGE,
            bytes([hsm.init_session(1)._sid]) + bytes(24),
        )

        session = hsm.create_session_derived(1, "password")
        session._key_mac = bytes(16)
        c.refused("a wrong MAC", ERROR.AUTHENTICATION_FAILED, session.get_pseudo_random, 1)
        session = hsm.create_session_derived(1, "password")
        recorded = []
        send = hsm._backend.transceive
        hsm._backend.transceive = lambda frame: recorded.append(frame) or send(frame)
        session.get_pseudo_random(1)
        hsm._backend.transceive = send
        c.equal("a replayed message", send(recorded[0]), b"\x7f\x00\x01\x04")
        c.refused("the session after a replay is gone", ERROR.INVALID_SESSION, session.get_pseudo_random, 1)


def capacity(c):
    with Sim() as sim:
        hsm = sim.connect()
        held = [hsm.create_session_derived(1, "password") for _ in range(16)]
        c.equal("sixteen sessions have sixteen ids", {one.sid for one in held}, set(range(16)))
        c.refused("the seventeenth session", ERROR.SESSIONS_FULL, hsm.create_session_derived, 1, "password")
        held[5].close()
        again = hsm.create_session_derived(1, "password")
        c.equal("a closed session makes room", again.sid, 5)
        c.refused("a full device, again", ERROR.SESSIONS_FULL, hsm.create_session_derived, 1, "password")
        sim.advance(29)
        c.that("a session of 29 idle seconds lives", len(held[0].get_pseudo_random(1)) == 1)
        sim.advance(2)
        c.refused("a session of 31 idle seconds", ERROR.INVALID_SESSION, held[1].get_pseudo_random, 1)
        c.that("a session that was used lives on", len(held[0].get_pseudo_random(1)) == 1)
        c.equal("idle sessions give their places back", len(sim.state()["sessions"]), 1)
        for _ in range(3):
            sim.advance(29)
            held[0].get_pseudo_random(1)
        c.that("a session in use does not expire", len(held[0].get_pseudo_random(1)) == 1)
        half = [hsm.init_session(1) for _ in range(15)]
        c.refused("sessions half open take places too", ERROR.SESSIONS_FULL, hsm.init_session, 1)
        sim.advance(31)
        c.that("and give them back", half and hsm.init_session(1)._sid == 0)
    with Sim("--idle", "1") as sim:
        session = sim.open()
        session.get_pseudo_random(1)
        time.sleep(1.2)
        c.refused("a shortened idle time by the clock on the wall", ERROR.INVALID_SESSION, session.get_pseudo_random, 1)


def parallel(c):
    with Sim() as sim, sim.open() as admin:
        signer = key(admin)
        public = signer.get_public_key()
        wrong = []

        def work():
            with sim.open() as session:
                mine = signer.with_session(session)
                for _ in range(20):
                    message = os.urandom(20)
                    try:
                        public.verify(mine.sign_ecdsa(message), message, ec.ECDSA(hashes.SHA256()))
                    except Exception as why:
                        wrong.append(why)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        c.equal("eight sessions sign at once", wrong, [])
        c.equal("and all are closed", len(sim.state()["sessions"]), 1)


def auth_keys(c):
    with Sim() as sim, sim.open() as admin:
        own = auth(admin, 2, CAPABILITY.CHANGE_AUTHENTICATION_KEY, password="first pass")
        c.refused("another's password", ERROR.INVALID_ID, own.change_password, "other")
        with sim.open(2, "first pass") as session:
            own.with_session(session).change_password("second pass")
            c.that("the session outlives the change", session.send_secure_cmd(COMMAND.ECHO, b"x") == b"x")
        c.raises("the old password", YubiHsmAuthenticationError, sim.open, 2, "first pass")
        c.that("the new password", sim.open(2, "second pass") is not None)
        auth(admin, 3, CAPABILITY.GET_PSEUDO_RANDOM)
        with sim.open(3) as session:
            c.refused(
                "a change without the capability",
                ERROR.INSUFFICIENT_PERMISSIONS,
                AuthenticationKey(session, 3).change_password,
                "x",
            )
        c.refused("an id that is taken", ERROR.OBJECT_EXISTS, auth, admin, 3, CAPABILITY.NONE)
        c.equal("the length of an authentication key", own.get_info().size, 40)
        AuthenticationKey(admin, 3).delete()
        c.refused("a deleted key opens nothing", ERROR.OBJECT_NOT_FOUND, sim.open, 3)

        private, stranger = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        AuthenticationKey.put_public_key(
            admin, 4, "", 1, CAPABILITY.GET_PSEUDO_RANDOM, CAPABILITY.NONE, private.public_key()
        )
        hsm = sim.connect()
        with hsm.create_session_asymmetric(4, private) as session:
            c.equal("a session by a P-256 key", len(session.get_pseudo_random(8)), 8)
        c.raises(
            "another's P-256 key",
            (YubiHsmAuthenticationError, YubiHsmDeviceError),
            hsm.create_session_asymmetric,
            4,
            stranger,
        )
        c.refused("a password for a P-256 key", ERROR.INVALID_DATA, hsm.create_session_derived, 4, "password")


SECTIONS = {
    "connector": connector,
    "device": device,
    "sessions": sessions,
    "capacity": capacity,
    "parallel": parallel,
    "authentication keys": auth_keys,
}
