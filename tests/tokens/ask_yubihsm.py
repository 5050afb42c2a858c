#!/usr/bin/env python3
"""Asks the keys of a YubiHSM for every use, with Yubico's own client and every right that there is.

    python3 tests/tokens/ask_yubihsm.py URL PURPOSE=REFERENCE ...     one line of JSON: {"PURPOSE|OPERATION": done}
"""

import json
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm import YubiHsm
from yubihsm.backends.http import HttpBackend
from yubihsm.defs import ALGORITHM, CAPABILITY
from yubihsm.exceptions import YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, HmacKey, WrapKey

EVERYWHERE = 0xFFFF


def attempts(session, found, thief):
    """The client minds types by itself: the object is asked as each of them."""
    asymmetric, hmac = AsymmetricKey(session, found.id), HmacKey(session, found.id)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    yield "sign ECDSA", lambda: asymmetric.sign_ecdsa(b"sixteen bytes ok")
    yield "sign EdDSA", lambda: asymmetric.sign_eddsa(b"sixteen bytes ok")
    yield "sign HMAC", lambda: hmac.sign_hmac(b"sixteen bytes ok")
    yield "derive", lambda: asymmetric.derive_ecdh(other)
    yield "decrypt", lambda: asymmetric.decrypt_pkcs1v1_5(bytes(256))
    yield "attest", lambda: asymmetric.attest(found.id)
    yield "be wrapped", lambda: thief.export_wrapped(found)


def main():
    url, *pairs = sys.argv[1:]
    told = {}
    with YubiHsm(HttpBackend(url, 10)).create_session_derived(1, "password") as session:
        thief = WrapKey.generate(session, 0x7009, "thief", EVERYWHERE, CAPABILITY.ALL, ALGORITHM.AES256_CCM_WRAP, CAPABILITY.ALL)
        for pair in pairs:
            purpose, reference = pair.split("=")
            (found,) = session.list_objects(label="claviger" + reference)
            for operation, attempt in attempts(session, found, thief):
                try:
                    attempt()
                    told[f"{purpose}|{operation}"] = True
                except (YubiHsmDeviceError, ValueError):
                    told[f"{purpose}|{operation}"] = False
        thief.delete()
    print(json.dumps(told))


main()
