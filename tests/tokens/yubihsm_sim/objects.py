"""Objects, their key material in the device's own form, and the form under wrap.

The material is kept as Yubico's offline wrapping tool writes it: an EC key is d || x || y, an Ed25519 key is the
reversed scalar || the prefix || the public key (|| the seed, which newer firmware keeps), an HMAC key is its two pads.
"""

import hashlib
import hmac
import os
import secrets
import struct
from dataclasses import dataclass, fields

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from . import ed25519
from .defs import LABEL_LEN, Algorithm, Error, HsmError, Type

CURVES = {
    Algorithm.EC_P224: ec.SECP224R1,
    Algorithm.EC_P256: ec.SECP256R1,
    Algorithm.EC_P384: ec.SECP384R1,
    Algorithm.EC_P521: ec.SECP521R1,
    Algorithm.EC_K256: ec.SECP256K1,
    Algorithm.EC_BP256: ec.BrainpoolP256R1,
    Algorithm.EC_BP384: ec.BrainpoolP384R1,
    Algorithm.EC_BP512: ec.BrainpoolP512R1,
}
ORDERS = {
    Algorithm.EC_P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    Algorithm.EC_K256: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}
DIGESTS = {20: hashes.SHA1(), 28: hashes.SHA224(), 32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
HMACS = {
    Algorithm.HMAC_SHA1: hashlib.sha1,
    Algorithm.HMAC_SHA256: hashlib.sha256,
    Algorithm.HMAC_SHA384: hashlib.sha384,
    Algorithm.HMAC_SHA512: hashlib.sha512,
}
WRAP_SIZES = {Algorithm.AES128_CCM_WRAP: 16, Algorithm.AES192_CCM_WRAP: 24, Algorithm.AES256_CCM_WRAP: 32}
AES_SIZES = {Algorithm.AES128: 16, Algorithm.AES192: 24, Algorithm.AES256: 32}
AUTH_SIZES = {Algorithm.AES128_YUBICO_AUTHENTICATION: 32, Algorithm.EC_P256_YUBICO_AUTHENTICATION: 64}
OPAQUES = (Algorithm.OPAQUE_DATA, Algorithm.OPAQUE_X509_CERTIFICATE)
DELEGATING = (Type.AUTHENTICATION_KEY, Type.WRAP_KEY)
NONCE_LEN, TAG_LEN = 13, 16
HEADER = f"!BQHHHBBBB{LABEL_LEN}s"


@dataclass
class Object:
    id: int
    type: int
    algorithm: int
    label: bytes
    domains: int
    capabilities: int
    delegated: int
    origin: int
    sequence: int
    data: bytes

    @property
    def body(self):
        """The stored bytes: delegated capabilities are part of them, and of the length."""
        return (self.delegated.to_bytes(8, "big") if self.type in DELEGATING else b"") + self.data

    def info(self):
        return struct.pack(
            f"!QHHHBBBB{LABEL_LEN}sQ",
            self.capabilities,
            self.id,
            len(self.body),
            self.domains,
            self.type,
            self.algorithm,
            self.sequence,
            self.origin,
            self.label,
            self.delegated,
        )

    def dump(self):
        return {f.name: v.hex() if isinstance(v := getattr(self, f.name), bytes) else int(v) for f in fields(self)}

    @classmethod
    def load(cls, saved):
        return cls(**{k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in saved.items()})


def invalid(condition):
    if condition:
        raise HsmError(Error.INVALID_DATA)


def sized(sizes, algorithm, key):
    """A key of raw bytes, which must have its algorithm's length."""
    invalid(algorithm not in sizes)
    if len(key) != sizes[algorithm]:
        raise HsmError(Error.WRONG_LENGTH)
    return key


def generated(sizes, algorithm):
    invalid(algorithm not in sizes)
    return os.urandom(sizes[algorithm])


# Asymmetric keys


def coordinate_len(algorithm):
    return (CURVES[algorithm]().key_size + 7) // 8


def asymmetric_material(algorithm, raw=None, with_seed=True):
    """The stored form of a private key, freshly made when none is given."""
    if algorithm == Algorithm.EC_ED25519:
        seed = os.urandom(32) if raw is None else raw
        if len(seed) != 32:
            raise HsmError(Error.WRONG_LENGTH)
        return ed25519.expand(seed) + (seed if with_seed else b"")
    if algorithm in (Algorithm.RSA_2048, Algorithm.RSA_3072, Algorithm.RSA_4096):
        raise HsmError(Error.ALGORITHM_DISABLED)
    invalid(algorithm not in CURVES)
    size, curve = coordinate_len(algorithm), CURVES[algorithm]()
    if raw is None:
        key = ec.generate_private_key(curve)
    elif len(raw) != size:
        raise HsmError(Error.WRONG_LENGTH)
    else:
        try:
            key = ec.derive_private_key(int.from_bytes(raw, "big"), curve)
        except ValueError:
            raise HsmError(Error.INVALID_DATA) from None
    numbers = key.private_numbers()
    point = numbers.public_numbers
    return b"".join(n.to_bytes(size, "big") for n in (numbers.private_value, point.x, point.y))


def private_key(obj):
    invalid(obj.algorithm not in CURVES)
    size = coordinate_len(obj.algorithm)
    return ec.derive_private_key(int.from_bytes(obj.data[:size], "big"), CURVES[obj.algorithm]())


def public_bytes(obj):
    if obj.algorithm == Algorithm.EC_ED25519:
        return obj.data[64:96]
    invalid(obj.algorithm not in CURVES)
    return obj.data[coordinate_len(obj.algorithm) :]


def sign_ecdsa(obj, digest):
    """A DER signature whose S is high as often as low: the device does not normalise."""
    invalid(obj.algorithm not in CURVES or len(digest) not in DIGESTS)
    r, s = decode_dss_signature(private_key(obj).sign(digest, ec.ECDSA(Prehashed(DIGESTS[len(digest)]))))
    if obj.algorithm in ORDERS and secrets.randbits(1):
        s = ORDERS[obj.algorithm] - s
    return encode_dss_signature(r, s)


def sign_eddsa(obj, message):
    invalid(obj.algorithm != Algorithm.EC_ED25519)
    return ed25519.sign(obj.data, message)


def derive_ecdh(obj, point):
    invalid(obj.algorithm not in CURVES)
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[obj.algorithm](), point)
    except ValueError:
        raise HsmError(Error.INVALID_DATA) from None
    return private_key(obj).exchange(ec.ECDH(), peer)


# HMAC keys


def hmac_material(algorithm, raw=None):
    invalid(algorithm not in HMACS)
    block = HMACS[algorithm]().block_size
    key = os.urandom(block) if raw is None else raw
    if not 0 < len(key) <= block:
        raise HsmError(Error.WRONG_LENGTH)
    key = key.ljust(block, b"\0")
    return bytes(b ^ 0x36 for b in key) + bytes(b ^ 0x5C for b in key)


def hmac_sign(obj, message):
    block = len(obj.data) // 2
    return hmac.new(bytes(b ^ 0x36 for b in obj.data[:block]), message, HMACS[obj.algorithm]).digest()


# Under wrap


def seal(key, plain):
    nonce = os.urandom(NONCE_LEN)
    return nonce + AESCCM(key, TAG_LEN).encrypt(nonce, plain, None)


def unseal(key, sealed):
    if len(sealed) <= NONCE_LEN + TAG_LEN:
        raise HsmError(Error.WRONG_LENGTH)
    try:
        return AESCCM(key, TAG_LEN).decrypt(sealed[:NONCE_LEN], sealed[NONCE_LEN:], None)
    except InvalidTag:
        raise HsmError(Error.INVALID_DATA) from None


def wrapped(obj, wrap_key, with_seed):
    body = obj.body
    if obj.algorithm == Algorithm.EC_ED25519 and not with_seed:
        body = body[:96]
    head = struct.pack(
        HEADER,
        wrap_key.algorithm,
        obj.capabilities,
        obj.id,
        len(body),
        obj.domains,
        obj.type,
        obj.algorithm,
        obj.sequence,
        obj.origin,
        obj.label,
    )
    return seal(wrap_key.data, head + body)


def unwrapped(sealed, wrap_key):
    plain = unseal(wrap_key.data, sealed)
    size = struct.calcsize(HEADER)
    invalid(len(plain) < size)
    wrapper, capabilities, id_, length, domains, type_, algorithm, _, origin, label = struct.unpack(
        HEADER, plain[:size]
    )
    body, delegated = plain[size:], 0
    invalid(wrapper != wrap_key.algorithm or len(body) != length)
    if type_ in DELEGATING:
        delegated, body = int.from_bytes(body[:8], "big"), body[8:]
    invalid(not material_fits(type_, algorithm, body))
    return Object(id_, type_, algorithm, label, domains, capabilities, delegated, origin, 0, body)


def material_fits(type_, algorithm, data):
    if type_ == Type.OPAQUE:
        return algorithm in OPAQUES and len(data) > 0
    if type_ == Type.ASYMMETRIC_KEY:
        if algorithm == Algorithm.EC_ED25519:
            return len(data) in (96, 128)
        return algorithm in CURVES and len(data) == 3 * coordinate_len(algorithm)
    if type_ == Type.HMAC_KEY:
        return algorithm in HMACS and len(data) == 2 * HMACS[algorithm]().block_size
    sizes = {Type.AUTHENTICATION_KEY: AUTH_SIZES, Type.WRAP_KEY: WRAP_SIZES, Type.SYMMETRIC_KEY: AES_SIZES}
    return sizes.get(type_, {}).get(algorithm) == len(data)
