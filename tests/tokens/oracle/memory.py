"""The log, the options, the state file, a reset."""

import json
import signal
import stat
from pathlib import Path

from yubihsm.core import LogEntry
from yubihsm.defs import AUDIT, OPTION
from yubihsm.exceptions import YubiHsmInvalidResponseError
from yubihsm.objects import AsymmetricKey, HmacKey

from .keys import signs
from .rig import ALGORITHM, CAPABILITY, COMMAND, ERROR, OBJECT, SERIAL, Sim, auth, key, scratch

QUIET = {COMMAND.SESSION_MESSAGE, COMMAND.ERROR}
RESET_LINE = b"\0\1" + b"\xff" * 14
# Published entries of real devices: after a reset, and a wrap key that was put after an import.
PUBLISHED = [
    (
        LogEntry(
            1, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFF, 0xFFFFFFFF, bytes.fromhex("33012657537e4842f57fa6ed3b09b25b")
        ),
        LogEntry(2, 0, 0, 0xFFFF, 0, 0, 0, 0, bytes.fromhex("fc153091560e18bca82621522c85bdba")),
    ),
    (
        LogEntry(46, 0x4B, 234, 1, 0xCF94, 0x997E, 0xCB, 335725, bytes.fromhex("415f51f1f035a1b713e730e4464e4033")),
        LogEntry(47, 0x4C, 77, 1, 0xAFF7, 0xFFFF, 0xCC, 351714, bytes.fromhex("5496a60d478c2b9c801d8d32ca66b554")),
    ),
]


def chained(entries):
    return all(after.validate(before) for before, after in zip(entries, entries[1:]))


def everything_on(session):
    session.set_command_audit({command: AUDIT.ON for command in session.get_command_audit() if command not in QUIET})


def line(entry):
    return entry.command, entry.length, entry.session_key, entry.target_key, entry.second_key, entry.result


def log(c):
    for number, (before, after) in enumerate(PUBLISHED):
        c.that(f"published entries, pair {number}: the digest is what we take it for", after.validate(before))
    with Sim() as sim, sim.open() as session:
        entries = session.get_log_entries().entries
        c.equal("a fresh device has two entries", len(entries), 2)
        c.equal("the first is the line of ones", entries[0].data, RESET_LINE)
        c.equal("the second is the boot", entries[1].data, PUBLISHED[0][1].data)
        c.equal("nothing is audited by itself", set(session.get_command_audit().values()), {AUDIT.OFF})
        c.equal("no audit is forced by itself", session.get_force_audit(), AUDIT.OFF)

        everything_on(session)
        start = session.get_log_entries().entries[-1].number
        signer = key(session)
        signer.sign_ecdsa(b"x")
        auth(session, 2, CAPABILITY.GET_PSEUDO_RANDOM)
        with sim.open(2) as other:
            other.get_pseudo_random(5)
            c.refused(
                "a refusal to be logged", ERROR.INSUFFICIENT_PERMISSIONS, signer.with_session(other).sign_ecdsa, b"x"
            )
            c.refused("another", ERROR.OBJECT_NOT_FOUND, AsymmetricKey(other, 15).get_info)
        entries = session.get_log_entries().entries
        c.that("the chain holds", chained(entries) and len(entries) > 10)
        digests = [entry.digest for entry in entries]
        c.equal("no digest comes twice", len(set(digests)), len(digests))
        forged = LogEntry(*[*vars(entries[5]).values()][:6], entries[5].result ^ 1, *[*vars(entries[5]).values()][7:])
        c.that("a changed entry breaks it", not forged.validate(entries[4]))
        lines = {entry.number: line(entry) for entry in entries}
        found = [one for number, one in sorted(lines.items()) if number > start]
        expected = [
            (COMMAND.GET_LOG_ENTRIES, 0, 1, 0xFFFF, 0xFFFF, 0xCD),
            (COMMAND.GENERATE_ASYMMETRIC_KEY, 53, 1, signer.id, 0xFFFF, 0xC6),
            (COMMAND.SIGN_ECDSA, 34, 1, signer.id, 0xFFFF, 0xD6),
            (COMMAND.PUT_AUTHENTICATION_KEY, 93, 1, 2, 0xFFFF, 0xC4),
            (COMMAND.DEVICE_INFO, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0x86),
            (COMMAND.DEVICE_INFO, 1, 0xFFFF, 0xFFFF, 0xFFFF, 0x86),
            (COMMAND.CREATE_SESSION, 10, 0xFFFF, 2, 0xFFFF, 0x83),
            (COMMAND.AUTHENTICATE_SESSION, 17, 0xFFFF, 2, 0xFFFF, 0x84),
            (COMMAND.GET_PSEUDO_RANDOM, 2, 2, 0xFFFF, 0xFFFF, 0xD1),
            (COMMAND.SIGN_ECDSA, 34, 2, 0xFFFF, 0xFFFF, ERROR.INSUFFICIENT_PERMISSIONS),
            (COMMAND.GET_OBJECT_INFO, 3, 2, 15, 0xFFFF, ERROR.OBJECT_NOT_FOUND),
            (COMMAND.CLOSE_SESSION, 0, 2, 0xFFFF, 0xFFFF, 0xC0),
        ]
        for got, wanted in zip(found, expected):
            c.equal(f"the entry of {wanted[0].name}", got, wanted)
        c.equal("there is an entry for each command", len(found), len(expected))
        ticks = [entry.tick for entry in entries[1:]]
        c.equal("ticks do not go back", ticks, sorted(ticks))

        last = entries[-1]
        session.set_log_index(last.number)
        entries = session.get_log_entries(last).entries
        c.equal("consumed entries are gone", entries[0].number, last.number + 1)
        c.equal("what was consumed cannot be again", _code(session.set_log_index, last.number), ERROR.INVALID_DATA)
        for _ in range(80):
            session.get_pseudo_random(1)
        entries = session.get_log_entries().entries
        c.equal("the store holds 62 entries and runs round", (len(entries), entries[-1].number > 80), (62, True))
        c.that("the chain holds after it ran round", chained(entries))
        c.equal("the device's info counts them", session._hsm.get_device_info().log_used, 62)


def _code(act, *args):
    try:
        act(*args)
    except Exception as why:
        return getattr(why, "code", why)
    return None


def forced(c):
    with scratch() as folder, Sim(state=f"{folder}/state") as sim:
        session = sim.open()
        signer = HmacKey.generate(session, 0, "", 1, CAPABILITY.SIGN_HMAC)
        everything_on(session)
        session.set_command_audit(
            {COMMAND.ECHO: AUDIT.OFF, COMMAND.DEVICE_INFO: AUDIT.OFF, COMMAND.GET_LOG_ENTRIES: AUDIT.OFF}
        )
        last = session.get_log_entries().entries[-1]
        session.set_log_index(last.number)
        session.set_force_audit(AUDIT.ON)
        signed = 0
        try:
            while signed < 100:
                signer.sign_hmac(b"x")
                signed += 1
        except Exception as why:
            c.equal("a full log stops what would be logged", getattr(why, "code", why), ERROR.LOG_FULL)
        c.equal("it took what fits", signed, 60)
        c.refused("and goes on stopping it", ERROR.LOG_FULL, signer.sign_hmac, b"x")
        c.equal("what is not audited still works", session.send_secure_cmd(COMMAND.ECHO, b"x"), b"x")
        other = sim.open()
        sim.open()
        data = other.get_log_entries(last)
        c.equal("sessions open all the same, and are counted", (data.n_auth, data.n_boot), (2, 0))
        c.equal("nothing was overwritten", (data.entries[0].number, len(data.entries)), (last.number + 1, 62))
        sim.restart()
        session = sim.open()
        data = session.get_log_entries()
        c.equal("a boot that finds no room is counted", (data.n_boot, len(data.entries)), (1, 62))
        last = data.entries[-1]
        session.set_log_index(last.number)
        c.equal("after the log is read, work goes on", len(signer.with_session(session).sign_hmac(b"x")), 32)
        data = session.get_log_entries(last)
        c.equal(
            "the chain goes on from the last entry read",
            [one.command for one in data.entries],
            [COMMAND.SET_LOG_INDEX, COMMAND.SIGN_HMAC],
        )
        c.equal("the counters start again", (data.n_boot, data.n_auth), (0, 0))
        wrong = LogEntry(*[*vars(last).values()][:-1], bytes(16))
        c.raises("a chain that does not go on is noticed", YubiHsmInvalidResponseError, session.get_log_entries, wrong)
        session.set_force_audit(AUDIT.OFF)
        for _ in range(70):
            signer.with_session(session).sign_hmac(b"x")
        c.equal("without force a full log stops nothing", len(session.get_log_entries().entries), 62)


def options(c):
    with Sim() as sim, sim.open() as session:
        session.set_command_audit({COMMAND.SIGN_ECDSA: AUDIT.FIXED, COMMAND.ECHO: AUDIT.ON})
        settings = session.get_command_audit()
        c.equal("options are kept", (settings[COMMAND.SIGN_ECDSA], settings[COMMAND.ECHO]), (AUDIT.FIXED, AUDIT.ON))
        session.set_command_audit({COMMAND.ECHO: AUDIT.OFF})
        c.equal("what is on can be off", session.get_command_audit()[COMMAND.ECHO], AUDIT.OFF)
        c.refused(
            "what is fixed cannot", ERROR.INVALID_DATA, session.set_command_audit, {COMMAND.SIGN_ECDSA: AUDIT.OFF}
        )
        c.refused(
            "a session message has no audit",
            ERROR.INVALID_DATA,
            session.set_command_audit,
            {COMMAND.SESSION_MESSAGE: AUDIT.ON},
        )
        c.refused("a value that is none", ERROR.INVALID_DATA, session.put_option, OPTION.FORCE_AUDIT, b"\x03")
        c.refused("an option that is none", ERROR.INVALID_DATA, session.get_option, 0x22)
        session.set_force_audit(AUDIT.FIXED)
        c.refused("a fixed force audit stays", ERROR.INVALID_DATA, session.set_force_audit, AUDIT.OFF)
        session.set_enabled_algorithms({ALGORITHM.EC_P256: False})
        c.refused("an algorithm that is off", ERROR.ALGORITHM_DISABLED, key, session, ALGORITHM.EC_P256)
        key(session)
        c.refused(
            "algorithms are chosen on a fresh device",
            ERROR.INVALID_DATA,
            session.set_enabled_algorithms,
            {ALGORITHM.EC_P256: True},
        )


def persistence(c):
    with scratch() as folder:
        state = Path(folder) / "state"
        with Sim(state=state) as sim:
            session = sim.open()
            everything_on(session)
            signer, edwards = key(session, id_=5), key(session, ALGORITHM.EC_ED25519, id_=6)
            public = signer.get_public_key(), edwards.get_public_key()
            key(session, id_=7).delete()
            auth(session, 2, CAPABILITY.GET_PSEUDO_RANDOM, password="another pass")
            before, device_key = signer.get_info(), sim.connect().get_device_public_key()
            last = session.get_log_entries().entries[-1]
            sim.restart()
            c.refused(
                "a session does not outlive the device",
                ERROR.INVALID_SESSION,
                _again(sim, session).get_pseudo_random,
                1,
            )
            session = sim.open()
            signer, edwards = signer.with_session(session), edwards.with_session(session)
            c.equal(
                "a killed device has its objects", (signer.get_info(), signer.get_public_key()), (before, public[0])
            )
            c.that("they sign", signs(signer, public[0]) and signs(edwards, public[1]))
            c.equal("it has its sequences", key(session, id_=7).get_info().sequence, 1)
            c.equal("it has its authentication keys", len(sim.open(2, "another pass").get_pseudo_random(3)), 3)
            c.equal("it has its options", session.get_command_audit()[COMMAND.SIGN_ECDSA], AUDIT.ON)
            c.equal("it has its own key", sim.connect().get_device_public_key(), device_key)
            entries = session.get_log_entries().entries
            c.that("its log goes on", chained(entries))
            after = [entry for entry in entries if entry.number > last.number]
            boots = [entry.data[2:] for entry in after if entry.command == 0]
            c.equal("and has the boot", boots, [PUBLISHED[0][1].data[2:]])
            c.equal("the state is its owner's alone", stat.S_IMODE(state.stat().st_mode), 0o600)
            c.equal("nothing lies beside it", [one.name for one in state.parent.iterdir()], ["state"])
            saved = json.loads(state.read_text())
            c.equal("it has its serial", saved["serial"], SERIAL)
            sim.stop(signal.SIGTERM)
            sim.args += ["--serial", "1"]
            sim.start()
            c.equal(
                "a serial is of the device, not of the command line", sim.connect().get_device_info().serial, SERIAL
            )


def _again(sim, session):
    """The session over a connection to the device that was started anew."""
    session._hsm = sim.connect()
    return session


def reset(c):
    with scratch() as folder, Sim(state=f"{folder}/state") as sim:
        session = sim.open()
        other = sim.open()
        made = key(session, id_=5)
        auth(session, 2, CAPABILITY.NONE)
        everything_on(session)
        before = session.get_log_entries().entries[0]
        session.reset_device()
        c.refused("all sessions are gone", ERROR.INVALID_SESSION, other.get_pseudo_random, 1)
        session = sim.open()
        listed = [(one.object_type, one.id) for one in session.list_objects()]
        c.equal("only the factory's key is left", listed, [(OBJECT.AUTHENTICATION_KEY, 1)])
        c.refused("a key is gone", ERROR.OBJECT_NOT_FOUND, made.with_session(session).get_info)
        entries = session.get_log_entries().entries
        c.equal(
            "the log starts with the line of ones and the boot",
            [one.data for one in entries],
            [RESET_LINE, PUBLISHED[0][1].data],
        )
        c.that("as another chain", entries[0].digest != before.digest and chained(entries))
        c.equal("options are the factory's", set(session.get_command_audit().values()), {AUDIT.OFF})
        c.equal("the serial stays", session._hsm.get_device_info().serial, SERIAL)
        sim.restart()
        c.equal("and all of it lasts", len(sim.open().list_objects()), 1)


SECTIONS = {
    "log": log,
    "forced audit": forced,
    "options": options,
    "persistence": persistence,
    "reset": reset,
}
