"""Objects and what can be done with them."""

import datetime
import hashlib
import hmac
import os
import struct

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from yubihsm.defs import ORIGIN
from yubihsm.objects import (
    AsymmetricKey,
    AttestationExtensions,
    HmacKey,
    Opaque,
    SymmetricKey,
    WrapKey,
)

from .rig import ALGORITHM, CAPABILITY, COMMAND, ERROR, OBJECT, SERIAL, Sim, key, wrap_key

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNING = {
    ALGORITHM.EC_K256: CAPABILITY.SIGN_ECDSA,
    ALGORITHM.EC_P256: CAPABILITY.SIGN_ECDSA,
    ALGORITHM.EC_ED25519: CAPABILITY.SIGN_EDDSA,
}


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def signs(obj, public, message=b"a message"):
    """Whether what the object signs is valid under the public key."""
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(obj.sign_eddsa(message), message)
        else:
            public.verify(obj.sign_ecdsa(message), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def asymmetric(c):
    with Sim() as sim, sim.open() as session:
        for algorithm, capability in SIGNING.items():
            made = key(session, algorithm, label=f"made {algorithm.name}")
            info = made.get_info()
            c.equal(
                f"{algorithm.name}: what was asked for",
                (info.algorithm, info.capabilities, info.domains, info.label),
                (algorithm, capability, 1, f"made {algorithm.name}"),
            )
            c.equal(f"{algorithm.name}: it was generated", (info.origin, info.sequence), (ORIGIN.GENERATED, 0))
            c.equal(f"{algorithm.name}: its length", info.size, 128 if algorithm == ALGORITHM.EC_ED25519 else 96)
            c.that(f"{algorithm.name}: a generated key signs", signs(made, made.get_public_key()))
            if algorithm == ALGORITHM.EC_ED25519:
                private = ed25519.Ed25519PrivateKey.generate()
            else:
                private = ec.generate_private_key(algorithm.to_curve())
            put = AsymmetricKey.put(session, 0, "put", 1, capability, private)
            c.equal(f"{algorithm.name}: a put key was imported", put.get_info().origin, ORIGIN.IMPORTED)
            c.equal(f"{algorithm.name}: its public key", put.get_public_key(), private.public_key())
            c.that(f"{algorithm.name}: a put key signs", signs(put, private.public_key()))
            made.delete()
            c.refused(f"{algorithm.name}: a deleted key", ERROR.OBJECT_NOT_FOUND, made.get_public_key)

        signer = key(session)
        halves = {decode_dss_signature(signer.sign_ecdsa(b"x"))[1] > ORDER // 2 for _ in range(40)}
        c.equal("S is high and low", halves, {True, False})
        for hash_ in (hashes.SHA1(), hashes.SHA384(), hashes.SHA512()):
            signature = signer.sign_ecdsa(b"x", hash_)
            signer.get_public_key().verify(signature, b"x", ec.ECDSA(hash_))
            c.that(f"a digest of {hash_.digest_size} bytes", True)
        wrong = struct.pack("!H", signer.id) + bytes(31)
        c.refused("a digest of 31 bytes", ERROR.INVALID_DATA, session.send_secure_cmd, COMMAND.SIGN_ECDSA, wrong)
        edwards = key(session, ALGORITHM.EC_ED25519, CAPABILITY.SIGN_EDDSA | CAPABILITY.SIGN_ECDSA)
        c.refused("ECDSA with an Ed25519 key", ERROR.INVALID_DATA, edwards.sign_ecdsa, b"x")
        both = key(session, ALGORITHM.EC_K256, CAPABILITY.SIGN_EDDSA)
        c.refused("EdDSA with a secp256k1 key", ERROR.INVALID_DATA, both.sign_eddsa, b"x")

        c.equal("an id of one's choice", key(session, id_=0x1234).id, 0x1234)
        c.refused("an id that is taken", ERROR.OBJECT_EXISTS, key, session, id_=0x1234)
        c.equal("the same id for another type", wrap_key(session, id_=0x1234).id, 0x1234)
        AsymmetricKey(session, 0x1234).delete()
        c.equal("a second key in one place has another sequence", key(session, id_=0x1234).get_info().sequence, 1)
        c.refused(
            "a key of zero",
            ERROR.INVALID_DATA,
            session.send_secure_cmd,
            COMMAND.PUT_ASYMMETRIC_KEY,
            struct.pack("!H40sHQB", 0, b"", 1, 0, ALGORITHM.EC_K256) + bytes(32),
        )
        c.refused(
            "a key that is too short",
            ERROR.WRONG_LENGTH,
            session.send_secure_cmd,
            COMMAND.PUT_ASYMMETRIC_KEY,
            struct.pack("!H40sHQB", 0, b"", 1, 0, ALGORITHM.EC_K256) + bytes(31),
        )
        c.refused("an algorithm of another type", ERROR.INVALID_DATA, key, session, ALGORITHM.AES128)
        one, two = key(session, capabilities=CAPABILITY.DERIVE_ECDH), ec.generate_private_key(ec.SECP256K1())
        c.equal("ECDH agrees", one.derive_ecdh(two.public_key()), two.exchange(ec.ECDH(), one.get_public_key()))

        storage = struct.unpack("!5H", session.send_secure_cmd(COMMAND.GET_STORAGE_INFO))
        for _ in range(storage[1]):
            key(session)
        c.refused("an object more than the device holds", ERROR.STORAGE_FAILED, key, session)


def listing(c):
    with Sim() as sim, sim.open() as session:
        first = key(session, id_=10, label="first", domains=1)
        second = key(session, ALGORITHM.EC_ED25519, id_=11, label="second", domains=2)
        wrap = wrap_key(session, CAPABILITY.WRAP_DATA, id_=10, domains=4)

        def ids(**filters):
            return sorted((one.object_type, one.id) for one in session.list_objects(**filters))

        a, w = OBJECT.ASYMMETRIC_KEY, OBJECT.WRAP_KEY
        c.equal("everything", ids(), [(OBJECT.AUTHENTICATION_KEY, 1), (a, 10), (a, 11), (w, 10)])
        c.equal("by id", ids(object_id=10), [(a, 10), (w, 10)])
        c.equal("by type", ids(object_type=a), [(a, 10), (a, 11)])
        c.equal("by one of the domains", ids(object_type=a, domains=2 | 8), [(a, 11)])
        c.equal("by one of the capabilities", ids(object_type=w, capabilities=CAPABILITY.WRAP_DATA), [(w, 10)])
        c.equal("by algorithm", ids(algorithm=ALGORITHM.EC_ED25519), [(a, 11)])
        c.equal("by label", ids(label="first"), [(a, 10)])
        c.equal("by a part of a label", ids(label="fir"), [])
        c.equal("by filters that agree on nothing", ids(object_id=10, algorithm=ALGORITHM.EC_ED25519), [])
        first.delete()
        again = key(session, id_=10)
        listed = [one for one in session.list_objects(object_id=10, object_type=a)]
        c.equal("a list gives the sequence", [one._seq for one in listed], [1])
        c.refused("an unknown filter", ERROR.INVALID_DATA, session.send_secure_cmd, COMMAND.LIST_OBJECTS, b"\x09\x01")
        c.that("a list after all that", {again.id, second.id, wrap.id} == {10, 11})


def hmac_keys(c):
    with Sim() as sim, sim.open() as session:
        use = CAPABILITY.SIGN_HMAC | CAPABILITY.VERIFY_HMAC
        known = HmacKey.put(session, 0, "", 1, use, b"Jefe")
        tag = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        text = b"what do ya want for nothing?"
        c.equal("RFC 4231, case 2", known.sign_hmac(text), tag)
        c.that("a right tag", known.verify_hmac(tag, text))
        c.that("a wrong tag", not known.verify_hmac(tag[:-1] + b"\0", text))
        c.that("a tag of another text", not known.verify_hmac(tag, text + b"?"))
        c.refused("half a tag", ERROR.WRONG_LENGTH, known.verify_hmac, tag[:9], b"")
        long = os.urandom(100)
        c.equal(
            "a key longer than a block",
            HmacKey.put(session, 0, "", 1, use, long).sign_hmac(text),
            hmac.new(long, text, hashlib.sha256).digest(),
        )
        for algorithm, size in ((ALGORITHM.HMAC_SHA1, 20), (ALGORITHM.HMAC_SHA384, 48), (ALGORITHM.HMAC_SHA512, 64)):
            made = HmacKey.generate(session, 0, "", 1, use, algorithm)
            tag = made.sign_hmac(text)
            c.that(f"{algorithm.name}: a generated key", len(tag) == size and made.verify_hmac(tag, text))
        c.equal("the length of an HMAC key", known.get_info().size, 128)
        signing = HmacKey.generate(session, 0, "", 1, CAPABILITY.SIGN_HMAC)
        c.refused("a key that may not verify", ERROR.INSUFFICIENT_PERMISSIONS, signing.verify_hmac, bytes(32), b"x")


def wrapping(c):
    with Sim() as sim, sim.open() as session:
        material = os.urandom(32)
        wrap = wrap_key(session, material=material)
        c.equal("the length of a wrap key", wrap.get_info().size, 40)
        for algorithm, capability in SIGNING.items():
            subject = key(session, algorithm, capability | CAPABILITY.EXPORTABLE_UNDER_WRAP, id_=99)
            public = subject.get_public_key()
            sealed = wrap.export_wrapped(subject)
            c.that(f"{algorithm.name}: two exports differ", sealed != wrap.export_wrapped(subject))
            plain = AESCCM(material, 16).decrypt(sealed[:13], sealed[13:], None)
            head = struct.unpack("!BQHHHBBBB40s", plain[:59])
            c.equal(
                f"{algorithm.name}: the head under wrap",
                head[:7],
                (ALGORITHM.AES256_CCM_WRAP, capability | CAPABILITY.EXPORTABLE_UNDER_WRAP, 99, 96, 1, 3, algorithm),
            )
            c.equal(f"{algorithm.name}: the material under wrap", len(plain), 59 + 96)
            c.refused(f"{algorithm.name}: import over itself", ERROR.OBJECT_EXISTS, wrap.import_wrapped, sealed)
            subject.delete()
            back = wrap.import_wrapped(sealed)
            c.equal(
                f"{algorithm.name}: it comes back in its place",
                (back.id, back.object_type),
                (99, OBJECT.ASYMMETRIC_KEY),
            )
            c.that(
                f"{algorithm.name}: it is the same key",
                raw(public) == raw(back.get_public_key())
                if algorithm == ALGORITHM.EC_ED25519
                else public == back.get_public_key(),
            )
            c.that(f"{algorithm.name}: it signs as before", signs(back, public))
            c.equal(f"{algorithm.name}: its origin", back.get_info().origin, ORIGIN.GENERATED | ORIGIN.IMPORTED_WRAPPED)
            back.delete()
            broken = bytearray(sealed)
            broken[40] ^= 1
            c.refused(f"{algorithm.name}: a bit changed", ERROR.INVALID_DATA, wrap.import_wrapped, bytes(broken))
            c.refused(
                f"{algorithm.name}: another wrap key", ERROR.INVALID_DATA, wrap_key(session).import_wrapped, sealed
            )

        exportable = CAPABILITY.EXPORTABLE_UNDER_WRAP
        private = ed25519.Ed25519PrivateKey.generate()
        subject = AsymmetricKey.put(session, 0, "", 1, CAPABILITY.SIGN_EDDSA | exportable, private)
        expected = private.sign(b"m")
        sealed, seeded = wrap.export_wrapped(subject), wrap.export_wrapped(subject, seed=True)
        c.equal("an Ed25519 seed only when asked for", len(seeded) - len(sealed), 32)
        plain = AESCCM(material, 16).decrypt(seeded[:13], seeded[13:], None)
        c.equal(
            "the seed under wrap", plain[-32:], private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        )
        for what, blob in (("without its seed", sealed), ("with its seed", seeded)):
            subject.delete()
            subject = wrap.import_wrapped(blob)
            c.equal(f"Ed25519 {what} signs the same", subject.sign_eddsa(b"m"), expected)

        for made in (
            HmacKey.generate(session, 0, "h", 1, CAPABILITY.SIGN_HMAC | exportable),
            Opaque.put(session, 0, "o", 1, exportable, ALGORITHM.OPAQUE_DATA, b"some data"),
            SymmetricKey.generate(session, 0, "s", 1, CAPABILITY.ENCRYPT_ECB | exportable, ALGORITHM.AES128),
            wrap_key(session, CAPABILITY.WRAP_DATA | exportable, CAPABILITY.SIGN_ECDSA),
        ):
            before, sealed = made.get_info(), wrap.export_wrapped(made)
            made.delete()
            after = wrap.import_wrapped(sealed).get_info()
            same = (
                "id",
                "size",
                "domains",
                "object_type",
                "algorithm",
                "label",
                "capabilities",
                "delegated_capabilities",
            )
            c.equal(
                f"{before.object_type.name} comes back as it was",
                [getattr(after, name) for name in same],
                [getattr(before, name) for name in same],
            )

        for algorithm in (ALGORITHM.AES128_CCM_WRAP, ALGORITHM.AES192_CCM_WRAP, ALGORITHM.AES256_CCM_WRAP):
            made = WrapKey.generate(
                session, 0, "", 1, CAPABILITY.WRAP_DATA | CAPABILITY.UNWRAP_DATA, algorithm, CAPABILITY.NONE
            )
            sealed = made.wrap_data(b"secret")
            c.equal(
                f"{algorithm.name}: data wrapped", (made.unwrap_data(sealed), len(sealed)), (b"secret", 13 + 6 + 16)
            )
            c.refused(
                f"{algorithm.name}: data changed",
                ERROR.INVALID_DATA,
                made.unwrap_data,
                bytes([sealed[0] ^ 1]) + sealed[1:],
            )
        c.refused("data under a key that may not", ERROR.INVALID_DATA, wrap.wrap_data, b"x")
    with Sim("--firmware", "2.5.0") as sim, sim.open() as session:
        c.refused("the same by newer firmware", ERROR.INSUFFICIENT_PERMISSIONS, wrap_key(session).wrap_data, b"x")


def opaque(c):
    with Sim() as sim, sim.open() as session:
        for size in (1, 1968):
            data = os.urandom(size)
            put = Opaque.put(session, 0, "data", 1, CAPABILITY.NONE, ALGORITHM.OPAQUE_DATA, data)
            c.equal(f"{size} opaque bytes", (put.get(), put.get_info().size), (data, size))
        c.refused("an opaque object that is not there", ERROR.OBJECT_NOT_FOUND, Opaque(session, 77).get)
        c.refused(
            "an empty object",
            ERROR.INVALID_DATA,
            session.send_secure_cmd,
            COMMAND.PUT_OPAQUE,
            struct.pack("!H40sHQB", 0, b"", 1, 0, ALGORITHM.OPAQUE_DATA),
        )


def symmetric(c):
    use = CAPABILITY.ENCRYPT_ECB | CAPABILITY.DECRYPT_ECB | CAPABILITY.ENCRYPT_CBC | CAPABILITY.DECRYPT_CBC
    with Sim() as sim, sim.open() as session:
        known = SymmetricKey.put(session, 0, "", 1, use, ALGORITHM.AES128, bytes(range(16)))
        block, sealed = (
            bytes.fromhex("00112233445566778899aabbccddeeff"),
            bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a"),
        )
        c.equal("FIPS 197, encrypted", known.encrypt_ecb(block), sealed)
        c.equal("FIPS 197, decrypted", known.decrypt_ecb(sealed), block)
        iv, text = os.urandom(16), os.urandom(160)
        cipher = Cipher(algorithms.AES(bytes(range(16))), modes.CBC(iv)).encryptor()
        c.equal("CBC as a library has it", known.encrypt_cbc(iv, text), cipher.update(text))
        c.equal("CBC and back", known.decrypt_cbc(iv, known.encrypt_cbc(iv, text)), text)
        for algorithm in (ALGORITHM.AES128, ALGORITHM.AES192, ALGORITHM.AES256):
            made = SymmetricKey.generate(session, 0, "", 1, use, algorithm)
            c.equal(f"{algorithm.name}: a generated key", made.decrypt_ecb(made.encrypt_ecb(text)), text)
            c.equal(f"{algorithm.name}: its length", made.get_info().size, algorithm.to_key_size())
        id_ = struct.pack("!H", known.id)
        for name in ("ENCRYPT_ECB", "DECRYPT_ECB", "ENCRYPT_CBC", "DECRYPT_CBC"):
            send = [session.send_secure_cmd, COMMAND[name]]
            c.refused(f"{name}: not whole blocks", ERROR.WRONG_LENGTH, *send, id_ + bytes(16 + 15))
            weak = SymmetricKey.generate(session, 0, "", 1, use & ~CAPABILITY[name], ALGORITHM.AES128)
            c.refused(
                f"{name}: a key that may not",
                ERROR.INSUFFICIENT_PERMISSIONS,
                *send,
                struct.pack("!H", weak.id) + bytes(32),
            )
        c.refused(
            "a key of another length",
            ERROR.WRONG_LENGTH,
            session.send_secure_cmd,
            COMMAND.PUT_SYMMETRIC_KEY,
            struct.pack("!H40sHQB", 0, b"", 1, 0, ALGORITHM.AES256) + bytes(16),
        )


def attestation(c):
    with Sim() as sim, sim.open() as session:
        subject = key(session, id_=0x77, label="a subject")
        own = x509.load_der_x509_certificate(Opaque(session, 0).get())
        by_device = subject.attest()
        by_device.verify_directly_issued_by(own)
        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        now = datetime.datetime(2026, 1, 1)
        template = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=9))
            .sign(private, hashes.SHA256())
        )
        issuer = AsymmetricKey.put(session, 0, "", 1, CAPABILITY.SIGN_ATTESTATION_CERTIFICATE, private)
        c.refused("an attesting key without a template", ERROR.OBJECT_NOT_FOUND, subject.attest, issuer.id)
        issuer.put_certificate("", 1, CAPABILITY.NONE, template)
        by_key = subject.attest(issuer.id)
        by_key.verify_directly_issued_by(template)
        for what, certificate in (("the device", by_device), ("a key", by_key)):
            claims, info = AttestationExtensions.parse(certificate), subject.get_info()
            c.equal(f"attested by {what}: the key", certificate.public_key(), subject.get_public_key())
            c.equal(f"attested by {what}: the device", (claims.firmware_version, claims.serial), ((2, 4, 1), SERIAL))
            c.equal(
                f"attested by {what}: the object",
                (claims.origin, claims.domains, claims.capabilities, claims.object_id, claims.label),
                (info.origin, info.domains, info.capabilities, info.id, info.label),
            )
        weak = AsymmetricKey.put(session, 0, "", 1, CAPABILITY.NONE, private)
        c.refused("an attesting key that may not", ERROR.INSUFFICIENT_PERMISSIONS, subject.attest, weak.id)


SECTIONS = {
    "asymmetric keys": asymmetric,
    "listing": listing,
    "HMAC keys": hmac_keys,
    "wrapping": wrapping,
    "opaque objects": opaque,
    "symmetric keys": symmetric,
    "attestation": attestation,
}
