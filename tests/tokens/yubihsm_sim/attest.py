"""Attestation certificates with the extensions that Yubico documents."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from . import objects
from .defs import Algorithm, Error, HsmError

ARC = "1.3.6.1.4.1.41482.4."
OCTETS, INTEGER, BITS, UTF8 = 0x04, 0x02, 0x03, 0x0C


def der(tag, value):
    return bytes([tag, len(value)]) + value


def number(value):
    return der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def public_key(obj):
    if obj.algorithm == Algorithm.EC_ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(objects.public_bytes(obj))
    return objects.private_key(obj).public_key()


def certificate(subject, issuer, public, since, until, extensions, signer):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1 | 1)
        .not_valid_before(since)
        .not_valid_after(until)
    )
    for arc, value in extensions.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(ARC + str(arc)), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def identity(device):
    return {1: der(OCTETS, bytes(device.firmware)), 2: number(device.serial)}


def claims(device, obj):
    label = obj.label.rstrip(b"\0")
    return {
        **identity(device),
        3: der(BITS, bytes([0, obj.origin])),
        4: der(BITS, b"\0" + obj.domains.to_bytes(2, "big")),
        5: der(BITS, b"\0" + obj.capabilities.to_bytes(8, "big")),
        6: number(obj.id),
        9: der(UTF8, label),
    }


def device_certificate(device):
    """What the opaque object 0 holds: here it is signed by its own key, not by Yubico's authority."""
    subject = name(f"YubiHSM Attestation ({device.serial})")
    since = datetime.datetime(2017, 1, 1)
    key = device.attestation_key
    return certificate(subject, subject, key.public_key(), since, datetime.datetime(2071, 10, 5), identity(device), key)


def by_device(device, obj):
    return _sign(device, obj, x509.load_der_x509_certificate(device_certificate(device)), device.attestation_key)


def by_key(device, obj, issuer, template):
    try:
        parent = x509.load_der_x509_certificate(template)
    except ValueError:
        raise HsmError(Error.INVALID_DATA) from None
    return _sign(device, obj, parent, objects.private_key(issuer))


def _sign(device, obj, parent, key):
    subject = name(f"YubiHSM Attestation id 0x{obj.id:04x}")
    return certificate(
        subject,
        parent.subject,
        public_key(obj),
        parent.not_valid_before_utc,
        parent.not_valid_after_utc,
        claims(device, obj),
        key,
    )
