#!/usr/bin/env python3
"""Somebody else at the YubiHSM, with Yubico's own client.

    python3 tests/tokens/stranger.py URL prepare          the daemon's authentication key 2, and the audit of commands on
    python3 tests/tokens/stranger.py URL expel            gives that key another password
    python3 tests/tokens/stranger.py URL sign             signs with every asymmetric key
    python3 tests/tokens/stranger.py URL imitate          the same in a session of the daemon's own authentication key
    python3 tests/tokens/stranger.py URL make             makes a key, and removes it
    python3 tests/tokens/stranger.py URL modern           makes an AES key, and removes it
    python3 tests/tokens/stranger.py URL steal            takes entries out of the log before the daemon reads them
    python3 tests/tokens/stranger.py URL hold SECONDS     holds every free session
    python3 tests/tokens/stranger.py URL plant LABEL      makes a key that bears another's label, but came from outside
"""

import sys
import time

from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm import YubiHsm
from yubihsm.backends.http import HttpBackend
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, OBJECT
from yubihsm.exceptions import YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, SymmetricKey

# Nothing is learnt from these, and each look at the device would write one.
QUIET = (
    COMMAND.ECHO,
    COMMAND.CREATE_SESSION,
    COMMAND.AUTHENTICATE_SESSION,
    COMMAND.SESSION_MESSAGE,
    COMMAND.DEVICE_INFO,
    COMMAND.GET_LOG_ENTRIES,
    COMMAND.SET_LOG_INDEX,
    COMMAND.GET_PSEUDO_RANDOM,
    COMMAND.CLOSE_SESSION,
)
USES = CAPABILITY.SIGN_ECDSA | CAPABILITY.SIGN_EDDSA | CAPABILITY.SIGN_HMAC
RIGHTS = (
    USES
    | CAPABILITY.GENERATE_ASYMMETRIC_KEY
    | CAPABILITY.GENERATE_HMAC_KEY
    | CAPABILITY.DELETE_ASYMMETRIC_KEY
    | CAPABILITY.DELETE_HMAC_KEY
    | CAPABILITY.PUT_OPAQUE
    | CAPABILITY.GET_OPAQUE
    | CAPABILITY.DELETE_OPAQUE
    | CAPABILITY.GET_PSEUDO_RANDOM
    | CAPABILITY.GET_LOG_ENTRIES
    | CAPABILITY.GET_OPTION
)


def prepare(session):
    AuthenticationKey.put_derived(session, 2, "daemon", 0x003F, RIGHTS, USES, "correct horse")
    audited = session.get_command_audit()
    session.set_command_audit({command: AUDIT.OFF if command in QUIET else AUDIT.ON for command in audited})
    session.set_force_audit(AUDIT.ON)
    log = session.get_log_entries()
    session.set_log_index(log.entries[-1].number)


def expel(session):
    """Gives the daemon's authentication key another password."""
    AuthenticationKey(session, 2).delete()
    AuthenticationKey.put_derived(session, 2, "daemon", 0x003F, RIGHTS, USES, "another")


def sign(session):
    for found in session.list_objects(object_type=OBJECT.ASYMMETRIC_KEY):
        if found.get_info().algorithm == ALGORITHM.EC_ED25519:
            found.sign_eddsa(b"a stranger's")
        else:
            found.sign_ecdsa(b"a stranger's")


def make(session):
    AsymmetricKey.generate(session, 0x7001, "stranger", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_K256).delete()


def modern(session):
    """What came after the crate: it reads no log past this."""
    SymmetricKey.generate(session, 0x7003, "modern", 1, CAPABILITY.NONE, ALGORITHM.AES128).delete()


def steal(session):
    AsymmetricKey.generate(session, 0x7001, "stranger", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_K256)
    session.set_log_index(session.get_log_entries().entries[-1].number)


def plant(session, label):
    key = ec.generate_private_key(ec.SECP256K1())
    AsymmetricKey.put(session, 0x7002, label, 1, CAPABILITY.SIGN_ECDSA, key)


def hold(device, seconds):
    held = []
    try:
        while True:
            held.append(device.create_session_derived(1, "password"))
    except YubiHsmDeviceError as why:
        print(len(held), why.code.name, flush=True)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for session in held:
            session.get_pseudo_random(1)
        time.sleep(1)
    for session in held:
        session.close()


def main():
    url, act, *more = sys.argv[1:]
    device = YubiHsm(HttpBackend(url, 10))
    if act == "hold":
        hold(device, *more)
        return
    key, password = (2, "correct horse") if act == "imitate" else (1, "password")
    acts = {"prepare": prepare, "expel": expel, "sign": sign, "imitate": sign, "make": make, "modern": modern, "steal": steal, "plant": plant}
    with device.create_session_derived(key, password) as session:
        acts[act](session, *more)


main()
