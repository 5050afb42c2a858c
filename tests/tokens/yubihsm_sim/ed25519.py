"""Ed25519 from an expanded key: a key that came under wrap without its seed cannot be given to a library."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE_Y = 4 * pow(5, -1, P) % P
BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def expand(seed):
    """The scalar with its bytes reversed, the prefix, and the public key: 96 bytes."""
    digest = bytearray(hashlib.sha512(seed).digest())
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return bytes(digest[31::-1]) + bytes(digest[32:]) + public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(data, message):
    """Signs with the stored form of a key: through the library when it still has its seed."""
    if len(data) == 128:
        return Ed25519PrivateKey.from_private_bytes(data[96:]).sign(message)
    scalar, prefix, public = int.from_bytes(data[:32], "big"), data[32:64], data[64:96]
    nonce = _number(prefix, message)
    point = _encode(_times(nonce, BASE))
    return point + ((nonce + _number(point, public, message) * scalar) % L).to_bytes(32, "little")


def _number(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def _add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar, point):
    total = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


def _encode(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")
