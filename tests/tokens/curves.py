"""Whether a signature is right, in plain Python: slow, with no secret in it, and nobody else's code. For tests only."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """y² = x³ + ax + b over p, with a base point of order n."""

    params: bytes
    p: int
    a: int
    b: int
    n: int
    base: tuple

    def add(self, one, two):
        if one is None or two is None:
            return one or two
        if one[0] == two[0]:
            if (one[1] + two[1]) % self.p == 0:
                return None
            slope = (3 * one[0] ** 2 + self.a) * pow(2 * one[1], -1, self.p)
        else:
            slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, self.p)
        x = (slope**2 - one[0] - two[0]) % self.p
        return x, (slope * (one[0] - x) - one[1]) % self.p

    def times(self, scalar, point):
        total = None
        while scalar:
            if scalar & 1:
                total = self.add(total, point)
            point = self.add(point, point)
            scalar >>= 1
        return total

    def has(self, point):
        x, y = point
        return x < self.p and y < self.p and (y**2 - x**3 - self.a * x - self.b) % self.p == 0

    def encoded_base(self):
        return b"\4" + b"".join(part.to_bytes(32, "big") for part in self.base)

    def verify(self, point, digest, signature):
        """ECDSA: an uncompressed point, 32 bytes, and r||s."""
        if len(point) != 65 or point[0] != 4 or len(signature) != 64:
            return False
        key = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not self.has(key) or not 0 < r < self.n or not 0 < s < self.n:
            return False
        inverse = pow(s, -1, self.n)
        ours = self.times(int.from_bytes(digest, "big") * inverse % self.n, self.base)
        sum_ = self.add(ours, self.times(r * inverse % self.n, key))
        return sum_ is not None and sum_[0] % self.n == r


P256_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
P256 = Curve(
    params=bytes.fromhex("06082a8648ce3d030107"),
    p=P256_P,
    a=P256_P - 3,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    base=(
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
SECP256K1 = Curve(
    params=bytes.fromhex("06052b8104000a"),
    p=2**256 - 2**32 - 977,
    a=0,
    b=7,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    base=(
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    ),
)


class Ed25519:
    """RFC 8032, 5.1.7, with the cofactor left out as most do."""

    params = bytes.fromhex("06032b6570")
    p = 2**255 - 19
    n = 2**252 + 27742317777372353535851937790883648493
    d = -121665 * pow(121666, -1, p) % p

    def add(self, one, two):
        (x, y), (u, v) = one, two
        cross = self.d * x * y * u * v
        return (
            (x * v + y * u) * pow(1 + cross, -1, self.p) % self.p,
            (y * v + x * u) * pow(1 - cross, -1, self.p) % self.p,
        )

    def times(self, scalar, point):
        total = (0, 1)
        while scalar:
            if scalar & 1:
                total = self.add(total, point)
            point = self.add(point, point)
            scalar >>= 1
        return total

    def decode(self, encoded):
        """The point of 32 bytes, or None."""
        number = int.from_bytes(encoded, "little")
        y, odd = number & (2**255 - 1), number >> 255
        square = (y * y - 1) * pow(self.d * y * y + 1, -1, self.p) % self.p
        x = pow(square, (self.p + 3) // 8, self.p)
        if x * x % self.p != square:
            x = x * pow(2, (self.p - 1) // 4, self.p) % self.p
        if y >= self.p or x * x % self.p != square or (x == 0 and odd):
            return None
        return (self.p - x if x & 1 != odd else x), y

    def verify(self, key, message, signature):
        if len(key) != 32 or len(signature) != 64:
            return False
        base = self.decode((4 * pow(5, -1, self.p) % self.p).to_bytes(32, "little"))
        public, commitment = self.decode(key), self.decode(signature[:32])
        s = int.from_bytes(signature[32:], "little")
        if public is None or commitment is None or s >= self.n:
            return False
        challenge = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % self.n
        return self.times(s, base) == self.add(commitment, self.times(challenge, public))


ED25519 = Ed25519()


def point_of(raw, length):
    """The point within CKA_EC_POINT, and how it was put there."""
    if len(raw) == length:
        return raw, "raw"
    for tag, name in ((b"\x04", "OCTET STRING"), (b"\x03", "BIT STRING")):
        inner = (b"\0" if name == "BIT STRING" else b"") + raw[-length:]
        if raw == tag + bytes([len(inner)]) + inner:
            return raw[-length:], name
    return raw[-length:], f"unknown: {raw.hex()}"
