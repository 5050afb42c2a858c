"""Who may do what: capabilities, delegated capabilities, domains."""

import os
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm.objects import (
    AsymmetricKey,
    AuthenticationKey,
    HmacKey,
    Opaque,
    SymmetricKey,
    WrapKey,
)

from .rig import ALGORITHM, ALL, CAPABILITY, COMMAND, ERROR, OBJECT, Sim, auth, key, wrap_key

NONE = CAPABILITY.NONE
DENIED = ERROR.INSUFFICIENT_PERMISSIONS


def operations(session, objects):
    """Every command that asks for a capability, by that capability, as a thing to do in a session."""

    def on(name):
        return objects[name].with_session(session)

    def put(id_):
        return session, id_, "", 1, NONE

    return {
        "PUT_ASYMMETRIC": lambda: AsymmetricKey.put(*put(0), ec.generate_private_key(ec.SECP256K1())),
        "GENERATE_ASYMMETRIC_KEY": lambda: AsymmetricKey.generate(*put(0), ALGORITHM.EC_K256),
        "SIGN_ECDSA": lambda: on("ec").sign_ecdsa(b"x"),
        "SIGN_EDDSA": lambda: on("ed").sign_eddsa(b"x"),
        "DERIVE_ECDH": lambda: on("ec").derive_ecdh(ec.generate_private_key(ec.SECP256K1()).public_key()),
        "GET_OPAQUE": lambda: on("opaque").get(),
        "PUT_OPAQUE": lambda: Opaque.put(*put(0), ALGORITHM.OPAQUE_DATA, b"x"),
        "PUT_AUTHENTICATION_KEY": lambda: AuthenticationKey.put_derived(*put(0), NONE, "x"),
        "PUT_WRAP_KEY": lambda: WrapKey.put(*put(0), ALGORITHM.AES128_CCM_WRAP, NONE, bytes(16)),
        "GENERATE_WRAP_KEY": lambda: WrapKey.generate(*put(0), ALGORITHM.AES128_CCM_WRAP, NONE),
        "EXPORT_WRAPPED": lambda: on("wrap").export_wrapped(on("opaque")),
        "IMPORT_WRAPPED": lambda: on("wrap").import_wrapped(objects["sealed"]),
        "WRAP_DATA": lambda: on("wrap").wrap_data(b"x"),
        "UNWRAP_DATA": lambda: on("wrap").unwrap_data(objects["data"]),
        "SET_OPTION": lambda: session.set_command_audit({COMMAND.ECHO: 0}),
        "GET_OPTION": lambda: session.get_force_audit(),
        "GET_PSEUDO_RANDOM": lambda: session.get_pseudo_random(1),
        "GET_LOG_ENTRIES": lambda: session.get_log_entries(),
        "PUT_HMAC_KEY": lambda: HmacKey.put(*put(0), b"x"),
        "GENERATE_HMAC_KEY": lambda: HmacKey.generate(*put(0)),
        "SIGN_HMAC": lambda: on("hmac").sign_hmac(b"x"),
        "VERIFY_HMAC": lambda: on("hmac").verify_hmac(bytes(32), b"x"),
        "PUT_SYMMETRIC_KEY": lambda: SymmetricKey.put(*put(0), ALGORITHM.AES128, bytes(16)),
        "GENERATE_SYMMETRIC_KEY": lambda: SymmetricKey.generate(*put(0), ALGORITHM.AES128),
        "ENCRYPT_ECB": lambda: on("aes").encrypt_ecb(bytes(16)),
        "DECRYPT_ECB": lambda: on("aes").decrypt_ecb(bytes(16)),
        "ENCRYPT_CBC": lambda: on("aes").encrypt_cbc(bytes(16), bytes(16)),
        "DECRYPT_CBC": lambda: on("aes").decrypt_cbc(bytes(16), bytes(16)),
        "SIGN_ATTESTATION_CERTIFICATE": lambda: on("ec").attest(),
        "CHANGE_AUTHENTICATION_KEY": lambda: AuthenticationKey(session, 2).change_password("password"),
        "DELETE_OPAQUE": lambda: on("opaque").delete(),
        "DELETE_ASYMMETRIC_KEY": lambda: on("ed").delete(),
        "DELETE_WRAP_KEY": lambda: on("wrap").delete(),
        "DELETE_HMAC_KEY": lambda: on("hmac").delete(),
        "DELETE_SYMMETRIC_KEY": lambda: on("aes").delete(),
        "DELETE_AUTHENTICATION_KEY": lambda: AuthenticationKey(session, 3).delete(),
        "RESET_DEVICE": lambda: session.send_secure_cmd(COMMAND.RESET_DEVICE),
    }


def furnish(admin):
    """One object of each type, which may do everything itself: what is refused is refused to the session."""
    wrap = wrap_key(admin, ALL, ALL)
    opaque = Opaque.put(admin, 0, "", 1, CAPABILITY.EXPORTABLE_UNDER_WRAP, ALGORITHM.OPAQUE_DATA, b"x")
    other = Opaque.put(admin, 0, "", 1, CAPABILITY.EXPORTABLE_UNDER_WRAP, ALGORITHM.OPAQUE_DATA, b"x")
    sealed = wrap.export_wrapped(other)
    other.delete()
    auth(admin, 3, NONE)
    return {
        "ec": key(admin, capabilities=ALL),
        "ed": key(admin, ALGORITHM.EC_ED25519, ALL),
        "opaque": opaque,
        "wrap": wrap,
        "sealed": sealed,
        "data": wrap.wrap_data(b"x"),
        "hmac": HmacKey.generate(admin, 0, "", 1, ALL),
        "aes": SymmetricKey.generate(admin, 0, "", 1, ALL, ALGORITHM.AES128),
    }


def capabilities(c):
    for name in operations(None, None):
        with Sim() as sim:
            admin = sim.open()
            objects = furnish(admin)
            auth(admin, 2, ALL & ~CAPABILITY[name], NONE)
            with sim.open(2) as session:
                c.refused(f"all but {name}", DENIED, operations(session, objects)[name])
            AuthenticationKey(admin, 2).delete()
            auth(admin, 2, CAPABILITY[name], NONE)
            session = sim.open(2)
            try:
                operations(session, objects)[name]()
                c.that(f"{name} and nothing else", True)
            except Exception as why:
                c.that(f"{name} and nothing else", False, repr(why))

    with Sim() as sim, sim.open() as admin:
        auth(admin, 2, NONE)
        with sim.open(2) as session:
            free = (COMMAND.ECHO, COMMAND.DEVICE_INFO, COMMAND.GET_STORAGE_INFO, COMMAND.LIST_OBJECTS)
            for command in free:
                c.that(f"{command.name} needs no capability", session.send_secure_cmd(command) is not None)
            shown = key(admin).with_session(session)
            c.that("an object's info needs no capability", shown.get_info() is not None)
            c.that("a public key needs no capability", shown.get_public_key() is not None)


def object_capabilities(c):
    with Sim() as sim, sim.open() as admin:
        c.refused("ECDSA by a key that may not", DENIED, key(admin, capabilities=NONE).sign_ecdsa, b"x")
        c.refused("EdDSA by a key that may not", DENIED, key(admin, ALGORITHM.EC_ED25519, NONE).sign_eddsa, b"x")
        c.refused("HMAC by a key that may not", DENIED, HmacKey.generate(admin, 0, "", 1, NONE).sign_hmac, b"x")
        peer = ec.generate_private_key(ec.SECP256K1()).public_key()
        c.refused("ECDH by a key that may not", DENIED, key(admin, capabilities=NONE).derive_ecdh, peer)

        exportable = CAPABILITY.EXPORTABLE_UNDER_WRAP
        wrap = wrap_key(admin)
        c.refused("export of a key that is not exportable", DENIED, wrap.export_wrapped, key(admin))
        both = CAPABILITY.SIGN_ECDSA | exportable
        subject = key(admin, capabilities=both)
        c.refused(
            "export by a key that may not", DENIED, wrap_key(admin, CAPABILITY.IMPORT_WRAPPED).export_wrapped, subject
        )
        narrow = wrap_key(admin, delegated=exportable)
        c.refused("export of more than the wrap key may give", DENIED, narrow.export_wrapped, subject)
        c.refused("export of what is not there", ERROR.OBJECT_NOT_FOUND, wrap.export_wrapped, AsymmetricKey(admin, 77))
        c.refused("export by what is not there", ERROR.OBJECT_NOT_FOUND, WrapKey(admin, 77).export_wrapped, subject)
        material = os.urandom(32)
        broad = wrap_key(admin, material=material)
        sealed = broad.export_wrapped(subject)
        subject.delete()
        narrow = wrap_key(admin, delegated=CAPABILITY.SIGN_ECDSA, material=material)
        c.refused("import of more than the wrap key may give", DENIED, narrow.import_wrapped, sealed)
        closed = wrap_key(admin, CAPABILITY.EXPORT_WRAPPED, material=material)
        c.refused("import by a key that may not", DENIED, closed.import_wrapped, sealed)
        exact = wrap_key(admin, delegated=both, material=material)
        c.equal("import of just what the wrap key may give", exact.import_wrapped(sealed).id, subject.id)


def delegated(c):
    with Sim() as sim, sim.open() as admin:
        auth(admin, 2, ALL, CAPABILITY.SIGN_ECDSA | CAPABILITY.SIGN_HMAC | CAPABILITY.WRAP_DATA)
        with sim.open(2) as session:
            c.that("a capability that may be given", key(session) is not None)
            c.refused(
                "generate with one that may not",
                DENIED,
                key,
                session,
                capabilities=CAPABILITY.SIGN_ECDSA | CAPABILITY.DERIVE_ECDH,
            )
            c.refused("generate an Ed25519 key with one that may not", DENIED, key, session, ALGORITHM.EC_ED25519)
            private = ec.generate_private_key(ec.SECP256K1())
            c.refused(
                "put with one that may not",
                DENIED,
                AsymmetricKey.put,
                session,
                0,
                "",
                1,
                CAPABILITY.EXPORTABLE_UNDER_WRAP,
                private,
            )
            c.refused(
                "put an HMAC key with one that may not",
                DENIED,
                HmacKey.put,
                session,
                0,
                "",
                1,
                CAPABILITY.VERIFY_HMAC,
                b"x",
            )
            c.refused(
                "generate an HMAC key with one that may not",
                DENIED,
                HmacKey.generate,
                session,
                0,
                "",
                1,
                CAPABILITY.VERIFY_HMAC,
            )
            c.refused(
                "put an opaque object with one that may not",
                DENIED,
                Opaque.put,
                session,
                0,
                "",
                1,
                CAPABILITY.EXPORTABLE_UNDER_WRAP,
                ALGORITHM.OPAQUE_DATA,
                b"x",
            )
            c.refused(
                "an AES key with one that may not",
                DENIED,
                SymmetricKey.generate,
                session,
                0,
                "",
                1,
                CAPABILITY.ENCRYPT_ECB,
                ALGORITHM.AES128,
            )
            c.refused("a wrap key with one that may not", DENIED, wrap_key, session, CAPABILITY.EXPORT_WRAPPED, NONE)
            c.refused(
                "a wrap key that gives on one that may not",
                DENIED,
                wrap_key,
                session,
                CAPABILITY.WRAP_DATA,
                CAPABILITY.EXPORT_WRAPPED,
            )
            c.that("a wrap key within it", wrap_key(session, CAPABILITY.WRAP_DATA, CAPABILITY.SIGN_ECDSA) is not None)
            c.refused("an authentication key with one that may not", DENIED, auth, session, 9, CAPABILITY.GET_OPTION)
            c.refused(
                "an authentication key that gives on one that may not",
                DENIED,
                auth,
                session,
                9,
                NONE,
                CAPABILITY.GET_OPTION,
            )
            c.that(
                "an authentication key within it",
                auth(session, 9, CAPABILITY.SIGN_ECDSA, CAPABILITY.SIGN_ECDSA).id == 9,
            )
        info = AuthenticationKey(admin, 2).get_info()
        c.equal(
            "delegated capabilities are shown",
            info.delegated_capabilities,
            CAPABILITY.SIGN_ECDSA | CAPABILITY.SIGN_HMAC | CAPABILITY.WRAP_DATA,
        )


def domains(c):
    with Sim() as sim, sim.open() as admin:
        auth(admin, 2, ALL, ALL, domains=0b0110)
        exportable = CAPABILITY.SIGN_ECDSA | CAPABILITY.EXPORTABLE_UNDER_WRAP
        hidden = key(admin, id_=10, domains=0b1001, capabilities=exportable)
        shared = key(admin, id_=11, domains=0b1100, capabilities=exportable)
        far = wrap_key(admin, domains=0b1000)
        with sim.open(2) as session:
            gone = ERROR.OBJECT_NOT_FOUND
            mine = hidden.with_session(session)
            c.refused("a signature in another domain", gone, mine.sign_ecdsa, b"x")
            c.refused("an info in another domain", gone, mine.get_info)
            c.refused("a public key in another domain", gone, mine.get_public_key)
            c.refused("a deletion in another domain", gone, mine.delete)
            near = wrap_key(session, domains=0b0100)
            c.refused("an export from another domain", gone, near.export_wrapped, mine)
            c.refused("an export by another domain's wrap key", gone, far.with_session(session).export_wrapped, shared)
            c.refused(
                "a deletion of an unknown type",
                ERROR.INVALID_DATA,
                session.send_secure_cmd,
                COMMAND.DELETE_OBJECT,
                struct.pack("!HB", 1, 0x7F),
            )
            listed = {one.id for one in session.list_objects(object_type=OBJECT.ASYMMETRIC_KEY)}
            c.equal("a list shows the shared domains", listed, {11})
            c.that("one shared domain is enough", len(shared.with_session(session).sign_ecdsa(b"x")) > 60)
            c.that("an object in the session's domains", key(session, domains=0b0110) is not None)
            c.refused("an object in one domain more", DENIED, key, session, domains=0b0111)
            c.refused("an object in no domain", ERROR.INVALID_DATA, key, session, domains=0)
            sealed = near.export_wrapped(shared.with_session(session))
            shared.delete()
            c.refused("an import into a domain more", DENIED, near.import_wrapped, sealed)
        c.refused("an id in a hidden place is still taken", ERROR.OBJECT_EXISTS, key, admin, id_=10)


SECTIONS = {
    "capabilities of the session": capabilities,
    "capabilities of the object": object_capabilities,
    "delegated capabilities": delegated,
    "domains": domains,
}
