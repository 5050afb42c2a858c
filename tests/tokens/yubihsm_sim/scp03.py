"""The secure channel: key derivation, cryptograms, and messages with a MAC chain, as SCP03 has them on the device."""

import hmac
import os
import struct

from cryptography.hazmat.primitives import cmac, hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .defs import Command, Error, HsmError

CARD_CRYPTOGRAM, HOST_CRYPTOGRAM, S_ENC, S_MAC, S_RMAC = 0x00, 0x01, 0x04, 0x06, 0x07
MAC_LEN = 8


def password_keys(password):
    """The long-lived encryption and MAC keys of a password."""
    return PBKDF2HMAC(hashes.SHA256(), 32, b"Yubico", 10000).derive(password.encode())


def aes_cmac(key, *parts):
    mac = cmac.CMAC(algorithms.AES(key))
    for part in parts:
        mac.update(part)
    return mac.finalize()


def derive(key, constant, context, bits=128):
    return aes_cmac(key, b"\0" * 11 + struct.pack("!BBHB", constant, 0, bits, 1) + context)[: bits // 8]


class Session:
    """One of the device's sessions. What its authentication key allows is copied when it is created."""

    def __init__(self, sid, auth_key, now):
        self.sid = sid
        self.auth_id = auth_key.id
        self.capabilities = auth_key.capabilities
        self.delegated = auth_key.delegated
        self.domains = auth_key.domains
        self.authenticated = False
        self.counter = 1
        self.chain = b"\0" * 16
        self.used = now

    def open_symmetric(self, keys, host_challenge):
        """Answers CREATE SESSION: the card's challenge and cryptogram."""
        card_challenge = os.urandom(8)
        self.context = host_challenge + card_challenge
        self.enc = derive(keys[:16], S_ENC, self.context)
        self.mac = derive(keys[16:], S_MAC, self.context)
        self.rmac = derive(keys[16:], S_RMAC, self.context)
        return card_challenge + derive(self.mac, CARD_CRYPTOGRAM, self.context, 64)

    def open_asymmetric(self, device_key, client_static, client_ephemeral):
        """Answers CREATE SESSION with a P-256 authentication key: the device's ephemeral point and the receipt."""
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), client_ephemeral)
        except ValueError:
            raise HsmError(Error.INVALID_DATA) from None
        secret = ephemeral.exchange(ec.ECDH(), peer) + device_key.exchange(ec.ECDH(), client_static)
        keys = X963KDF(hashes.SHA256(), 64, b"\x3c\x88\x10").derive(secret)
        self.enc, self.mac, self.rmac = keys[16:32], keys[32:48], keys[48:]
        self.chain = aes_cmac(keys[:16], point, client_ephemeral)
        self.authenticated = True
        return point + self.chain

    def authenticate(self, frame):
        """AUTHENTICATE SESSION: the host's cryptogram, under the first link of the MAC chain."""
        self._verify(frame)
        expected = derive(self.mac, HOST_CRYPTOGRAM, self.context, 64)
        if not hmac.compare_digest(frame[4:-MAC_LEN], expected):
            raise HsmError(Error.AUTHENTICATION_FAILED)
        self.authenticated = True

    def decrypt(self, frame):
        """The inner command of a SESSION MESSAGE."""
        self._verify(frame)
        body = frame[4:-MAC_LEN]
        if not body or len(body) % 16:
            raise HsmError(Error.WRONG_LENGTH)
        decryptor = self._cipher().decryptor()
        padded = (decryptor.update(body) + decryptor.finalize()).rstrip(b"\0")
        if padded[-1:] != b"\x80":
            raise HsmError(Error.AUTHENTICATION_FAILED)
        return padded[:-1]

    def encrypt(self, inner):
        """The response frame of a SESSION MESSAGE."""
        padded = inner + b"\x80" + b"\0" * (15 - len(inner) % 16)
        encryptor = self._cipher().encryptor()
        body = encryptor.update(padded) + encryptor.finalize()
        frame = struct.pack("!BHB", Command.SESSION_MESSAGE | 0x80, 1 + len(body) + MAC_LEN, self.sid) + body
        self.counter += 1
        return frame + aes_cmac(self.rmac, self.chain, frame)[:MAC_LEN]

    def _verify(self, frame):
        chain = aes_cmac(self.mac, self.chain, frame[:-MAC_LEN])
        if not hmac.compare_digest(chain[:MAC_LEN], frame[-MAC_LEN:]):
            raise HsmError(Error.AUTHENTICATION_FAILED)
        self.chain = chain

    def _cipher(self):
        ecb = Cipher(algorithms.AES(self.enc), modes.ECB()).encryptor()
        return Cipher(algorithms.AES(self.enc), modes.CBC(ecb.update(self.counter.to_bytes(16, "big"))))
