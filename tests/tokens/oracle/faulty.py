"""The faults that can be switched on."""

import json
import threading
import time
import urllib.error
import urllib.request

from yubihsm.exceptions import YubiHsmConnectionError, YubiHsmInvalidResponseError
from yubihsm.objects import HmacKey

from .keys import signs
from .rig import ALGORITHM, CAPABILITY, COMMAND, ERROR, Sim, key

ECHO = b"\x01\x00\x02hi"


def timed(act):
    start = time.monotonic()
    act()
    return time.monotonic() - start


def unplugged(c):
    with Sim() as sim:
        session = sim.open()
        sim.fault(unplugged=True)
        with urllib.request.urlopen(f"{sim.url}/connector/status") as answer:
            c.that("the status says so", answer.read().startswith(b"status=NO_DEVICE\n"))
        c.equal("a frame is an error of the connector", sim.post(ECHO)[0], 500)
        c.raises("which the client reports", YubiHsmConnectionError, session.get_pseudo_random, 1)
        c.equal("it is on the list", [one["kind"] for one in sim.state()["faults"]], ["unplugged", "rebooted"])
        sim.fault(unplugged=False)
        c.equal("plugged in again, it answers", sim.post(ECHO), (200, b"\x81\x00\x02hi"))
        c.refused("its sessions are lost", ERROR.INVALID_SESSION, session.get_pseudo_random, 1)
        commands = [one.command for one in sim.open().get_log_entries().entries]
        c.equal("its log has another boot", commands, [0xFF, 0, 0])


def lateness(c):
    with Sim() as sim:
        session = sim.open()
        sim.fault(delay_ms=800, command="get_pseudo_random")
        c.that("a command is late", timed(lambda: session.get_pseudo_random(1)) >= 0.8)
        c.that("another is not", timed(lambda: session.send_secure_cmd(COMMAND.ECHO)) < 0.7)
        sim.fault(clear=True)
        c.that("none is when it is over", timed(lambda: session.get_pseudo_random(1)) < 0.7)
        sim.fault(delay_ms=800, times=1)
        c.that("once late", timed(lambda: session.get_pseudo_random(1)) >= 0.8)
        c.that("once only", timed(lambda: session.get_pseudo_random(1)) < 0.7)

        done = []
        sim.fault(hang=True)
        thread = threading.Thread(target=lambda: done.append(session.get_pseudo_random(1)))
        thread.start()
        thread.join(0.4)
        c.equal("a hung device does not answer", done, [])
        c.raises("nor anyone else", YubiHsmConnectionError, lambda: sim.connect(timeout=0.3))
        c.equal("but the side door is open", [one["kind"] for one in sim.state()["faults"]], ["hang"])
        sim.fault(hang=False)
        thread.join(5)
        c.equal("then it goes on", [len(one) for one in done], [1])

        quick = sim.open(timeout=1)
        sim.fault(hang="after", command="generate_hmac_key")
        c.raises(
            "hung after the deed: no answer",
            YubiHsmConnectionError,
            HmacKey.generate,
            quick,
            9,
            "",
            1,
            CAPABILITY.SIGN_HMAC,
        )
        sim.fault(clear=True)
        c.equal("but the deed is done", [one.id for one in sim.open().list_objects(object_id=9)], [9])


def segments(c):
    request = b"POST /connector/api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + ECHO
    with Sim() as sim:
        sim.fault(split=True)
        pieces = sim.raw(request)
        c.equal("a split answer: head, then body", (len(pieces), pieces[-1]), (2, b"\x81\x00\x02hi"))
        c.that("which a good client does not mind", len(sim.open().get_pseudo_random(9)) == 9)
        sim.fault(split=False)
        c.equal("and in one piece again", len(sim.raw(request)), 1)
        sim.fault(drop=True, command="echo", times=1)
        c.equal("a dropped answer", sim.raw(request), [])
        c.equal("dropped once", len(sim.raw(request)), 1)


def errors(c):
    with Sim() as sim:
        session = sim.open()
        signer = key(session)
        sim.fault(error={"command": "sign_ecdsa", "code": "storage_failed"}, times=2)
        for _ in range(2):
            c.refused("an error that was asked for", ERROR.STORAGE_FAILED, signer.sign_ecdsa, b"x")
        c.that("twice, and not again", signs(signer, signer.get_public_key()))
        sim.fault(error={"command": "create_session", "code": "SESSIONS_FULL"}, times=1)
        c.refused("an error of a plain command", ERROR.SESSIONS_FULL, sim.open)
        sim.fault(error={"code": "log_full"})
        c.refused("an error of every command", ERROR.LOG_FULL, session.get_pseudo_random, 1)
        sim.fault(error=None)
        c.equal("until it is taken back", len(session.get_pseudo_random(1)), 1)
        for wanted in ({"error": {"code": "no_such"}}, {"nonsense": True}, {"delay_ms": 1, "command": "no_such"}, []):
            request = urllib.request.Request(f"{sim.url}/sim/fault", json.dumps(wanted).encode())
            try:
                urllib.request.urlopen(request)
                got = 200
            except urllib.error.HTTPError as why:
                got = why.code
            c.equal(f"a fault that is none: {json.dumps(wanted)}", got, 400)
        c.equal("none of them is on", sim.state()["faults"], [])


def lies(c):
    with Sim() as sim:
        session = sim.open()
        sim.fault(lose_sessions=True)
        c.refused("lost sessions", ERROR.INVALID_SESSION, session.get_pseudo_random, 1)
        session = sim.open()
        c.equal("are lost once", len(session.get_pseudo_random(1)), 1)

        for algorithm in (ALGORITHM.EC_K256, ALGORITHM.EC_P256, ALGORITHM.EC_ED25519):
            signer = key(session, algorithm)
            public = signer.get_public_key()
            sim.fault(wrong_signature=True, times=1)
            c.that(f"{algorithm.name}: a wrong signature", not signs(signer, public))
            c.that(f"{algorithm.name}: then a right one", signs(signer, public))
        tagger = HmacKey.generate(session, 0, "", 1, CAPABILITY.SIGN_HMAC | CAPABILITY.VERIFY_HMAC)
        sim.fault(wrong_signature=True)
        c.that("a wrong tag", not tagger.verify_hmac(tagger.sign_hmac(b"x"), b"x"))
        sim.fault(wrong_signature=False)
        c.that("a right tag", tagger.verify_hmac(tagger.sign_hmac(b"x"), b"x"))

        sim.fault(garbage=True, command="get_pseudo_random", times=1)
        c.raises("an answer of nonsense", (YubiHsmInvalidResponseError, ValueError), session.get_pseudo_random, 1)
        session = sim.open()
        c.equal("nonsense once", len(session.get_pseudo_random(1)), 1)
        sim.fault(garbage="short", command="get_pseudo_random", times=1)
        c.raises("half an answer", (YubiHsmInvalidResponseError, ValueError), session.get_pseudo_random, 1)


SECTIONS = {
    "unplugged": unplugged,
    "late and hung": lateness,
    "split and dropped": segments,
    "errors on demand": errors,
    "lies": lies,
}
