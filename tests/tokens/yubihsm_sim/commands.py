"""What each command does. A command names the capability that the session's authentication key must have."""

import hmac
import os
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import attest, defs, objects
from .defs import Algorithm, Capability, Command, Error, HsmError, Option, Origin, Type

HANDLERS = {}


def command(code, capability=None):
    def register(handler):
        HANDLERS[code] = (handler, Capability[capability] if capability else 0)
        return handler

    return register


def run(device, request):
    code = request.command
    if code not in HANDLERS or device.firmware < defs.SINCE.get(code, (0,)):
        raise HsmError(Error.INVALID_COMMAND)
    handler, capability = HANDLERS[code]
    if capability and not request.session.capabilities & capability:
        raise HsmError(Error.INSUFFICIENT_PERMISSIONS)
    return handler(device, request)


def split(data, form, exact=True):
    """The fields of a command; with `exact` off, the rest of the data follows them."""
    size = struct.calcsize(form)
    if len(data) < size or (exact and len(data) != size):
        raise HsmError(Error.WRONG_LENGTH)
    values = struct.unpack_from(form, data)
    return values if exact else (*values, data[size:])


def find(device, session, type_, id_):
    """An object that the session can see: one that shares a domain with it."""
    obj = device.objects.get((type_, id_))
    if obj is None or not obj.domains & session.domains:
        raise HsmError(Error.OBJECT_NOT_FOUND)
    return obj


def usable(device, request, type_, id_, capability, refusal=Error.INSUFFICIENT_PERMISSIONS):
    """An object to work with: it must have the capability itself."""
    request.target = id_
    obj = find(device, request.session, type_, id_)
    if not obj.capabilities & Capability[capability]:
        raise HsmError(refusal)
    return obj


def spoilt(request, message):
    """What is signed in place of the message when a wrong signature was asked for."""
    return bytes([message[0] ^ 1]) + message[1:] if request.spoil and message else message


# The device


@command(Command.ECHO)
def echo(device, request):
    return request.data


@command(Command.DEVICE_INFO)
def device_info(device, request):
    if request.data == b"\x01" and device.firmware >= (2, 4, 0):
        return b"78CLUFX5000PQ1"
    if request.data not in (b"", b"\x00"):
        raise HsmError(Error.INVALID_DATA)
    head = struct.pack("!BBBIBB", *device.firmware, device.serial, defs.LOG_CAPACITY, len(device.log.entries))
    return head + defs.algorithms(device.firmware)


@command(Command.GET_DEVICE_PUBLIC_KEY)
def device_public_key(device, request):
    point = device.static_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return bytes([Algorithm.EC_P256_YUBICO_AUTHENTICATION]) + point[1:]


@command(Command.CLOSE_SESSION)
def close_session(device, request):
    request.after.append(lambda: device.sessions.pop(request.session.sid, None))
    return b""


@command(Command.BLINK_DEVICE)
def blink(device, request):
    split(request.data, "!B")
    return b""


@command(Command.RESET_DEVICE, "RESET_DEVICE")
def reset(device, request):
    def restart():
        device.factory_reset()
        device.boot()

    request.after.append(restart)
    return b""


@command(Command.GET_STORAGE_INFO)
def storage_info(device, request):
    free_records = defs.RECORDS - len(device.objects)
    return struct.pack("!5H", defs.RECORDS, free_records, defs.PAGES, defs.PAGES - device.used_pages(), defs.PAGE_SIZE)


@command(Command.GET_PSEUDO_RANDOM, "GET_PSEUDO_RANDOM")
def pseudo_random(device, request):
    (count,) = split(request.data, "!H")
    if count > 2021:
        raise HsmError(Error.INVALID_DATA)
    return os.urandom(count)


# The log and the options


@command(Command.GET_LOG_ENTRIES, "GET_LOG_ENTRIES")
def get_log(device, request):
    split(request.data, "!")
    return device.log.read()


@command(Command.SET_LOG_INDEX, "GET_LOG_ENTRIES")
def set_log_index(device, request):
    (number,) = split(request.data, "!H")
    device.log.consume(number)
    device.dirty = True
    return b""


def option(device, number):
    if number not in device.options:
        raise HsmError(Error.INVALID_DATA)
    return Option(number)


@command(Command.GET_OPTION, "GET_OPTION")
def get_option(device, request):
    value = device.options[option(device, *split(request.data, "!B"))]
    return bytes([value]) if isinstance(value, int) else b"".join(bytes(pair) for pair in value.items())


@command(Command.SET_OPTION, "SET_OPTION")
def set_option(device, request):
    number, length, value = split(request.data, "!BH", exact=False)
    if length != len(value):
        raise HsmError(Error.WRONG_LENGTH)
    chosen = option(device, number)
    if chosen == Option.FORCE_AUDIT:
        objects.invalid(length != 1)
        device.options[chosen] = toggled(device.options[chosen], value[0])
    else:
        objects.invalid(length == 0 or length % 2)
        audit = chosen == Option.COMMAND_AUDIT
        if not audit and list(device.objects) != [(Type.AUTHENTICATION_KEY, 1)]:
            raise HsmError(Error.INVALID_DATA)  # algorithms can only be toggled on a fresh device
        table = dict(device.options[chosen])
        for at in range(0, length, 2):
            objects.invalid(value[at] not in table or (not audit and value[at + 1] > 1))
            table[value[at]] = toggled(table[value[at]], value[at + 1]) if audit else value[at + 1]
        device.options[chosen] = table
    device.dirty = True
    return b""


def toggled(old, new):
    """An audit option that is fixed stays on until a factory reset."""
    objects.invalid(new > defs.FIXED or (old == defs.FIXED and new != defs.FIXED))
    return new


# Looking at objects


@command(Command.LIST_OBJECTS)
def list_objects(device, request):
    wanted, data = [], request.data
    forms = {1: "!H", 2: "!B", 3: "!H", 4: "!Q", 5: "!B", 6: f"!{defs.LABEL_LEN}s"}
    while data:
        objects.invalid(data[0] not in forms)
        value, rest = split(data[1:], forms[data[0]], exact=False)
        wanted.append((data[0], value))
        data = rest
    seen = [obj for obj in device.objects.values() if obj.domains & request.session.domains]
    seen = [obj for obj in seen if all(matches(obj, key, value) for key, value in wanted)]
    return b"".join(struct.pack("!HBB", obj.id, obj.type, obj.sequence) for obj in seen)


def matches(obj, key, value):
    return (
        (key == 1 and obj.id == value)
        or (key == 2 and obj.type == value)
        or (key == 3 and bool(obj.domains & value))
        or (key == 4 and bool(obj.capabilities & value))
        or (key == 5 and obj.algorithm == value)
        or (key == 6 and obj.label == value)
    )


@command(Command.GET_OBJECT_INFO)
def object_info(device, request):
    request.target, type_ = split(request.data, "!HB")
    return find(device, request.session, type_, request.target).info()


@command(Command.GET_PUBLIC_KEY)
def public_key(device, request):
    id_, rest = split(request.data, "!H", exact=False)
    request.target = id_
    if rest not in (b"", bytes([Type.ASYMMETRIC_KEY])):
        raise HsmError(Error.INVALID_DATA)
    obj = find(device, request.session, Type.ASYMMETRIC_KEY, id_)
    return bytes([obj.algorithm]) + objects.public_bytes(obj)


@command(Command.DELETE_OBJECT)
def delete(device, request):
    request.target, type_ = split(request.data, "!HB")
    objects.invalid(type_ not in defs.DELETES)
    if not request.session.capabilities & defs.DELETES[type_]:
        raise HsmError(Error.INSUFFICIENT_PERMISSIONS)
    find(device, request.session, type_, request.target)
    del device.objects[type_, request.target]
    device.dirty = True
    return b""


# Making objects


def create(device, request, type_, origin, material, delegating=False):
    """The common part of PUT and GENERATE: an object gets no more than its maker may give."""
    form = f"!H{defs.LABEL_LEN}sHQB" + ("Q" if delegating else "")
    id_, label, domains, capabilities, algorithm, *more, rest = split(request.data, form, exact=False)
    delegated = more[0] if more else 0
    request.target = id_
    session = request.session
    if (capabilities | delegated) & ~session.delegated or domains & ~session.domains:
        raise HsmError(Error.INSUFFICIENT_PERMISSIONS)
    objects.invalid(domains == 0)
    if not device.options[Option.ALGORITHM_TOGGLE].get(algorithm, 1):
        raise HsmError(Error.ALGORITHM_DISABLED)
    if origin == Origin.GENERATED and rest:
        raise HsmError(Error.WRONG_LENGTH)
    data = material(algorithm, rest)
    obj = objects.Object(id_, type_, algorithm, label, domains, capabilities, delegated, origin, 0, data)
    request.target = device.store(obj).id
    return struct.pack("!H", obj.id)


@command(Command.PUT_OPAQUE, "PUT_OPAQUE")
def put_opaque(device, request):
    def material(algorithm, data):
        objects.invalid(algorithm not in objects.OPAQUES or not data)
        return data

    return create(device, request, Type.OPAQUE, Origin.IMPORTED, material)


@command(Command.GET_OPAQUE, "GET_OPAQUE")
def get_opaque(device, request):
    (request.target,) = split(request.data, "!H")
    if request.target == 0:
        return attest.device_certificate(device)
    return find(device, request.session, Type.OPAQUE, request.target).data


def auth_material(algorithm, data):
    key = objects.sized(objects.AUTH_SIZES, algorithm, data)
    if algorithm == Algorithm.EC_P256_YUBICO_AUTHENTICATION:
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
        except ValueError:
            raise HsmError(Error.INVALID_DATA) from None
    return key


@command(Command.PUT_AUTHENTICATION_KEY, "PUT_AUTHENTICATION_KEY")
def put_auth(device, request):
    return create(device, request, Type.AUTHENTICATION_KEY, Origin.IMPORTED, auth_material, delegating=True)


@command(Command.CHANGE_AUTHENTICATION_KEY, "CHANGE_AUTHENTICATION_KEY")
def change_auth(device, request):
    request.target, algorithm, data = split(request.data, "!HB", exact=False)
    if request.target != request.session.auth_id:
        raise HsmError(Error.INVALID_ID)
    obj = find(device, request.session, Type.AUTHENTICATION_KEY, request.target)
    objects.invalid(algorithm != obj.algorithm)
    obj.data = auth_material(algorithm, data)
    device.dirty = True
    return struct.pack("!H", obj.id)


@command(Command.PUT_ASYMMETRIC_KEY, "PUT_ASYMMETRIC_KEY")
def put_asymmetric(device, request):
    seeded = device.firmware >= (2, 4, 0)
    return create(
        device,
        request,
        Type.ASYMMETRIC_KEY,
        Origin.IMPORTED,
        lambda algorithm, data: objects.asymmetric_material(algorithm, data, seeded),
    )


@command(Command.GENERATE_ASYMMETRIC_KEY, "GENERATE_ASYMMETRIC_KEY")
def generate_asymmetric(device, request):
    seeded = device.firmware >= (2, 4, 0)
    return create(
        device,
        request,
        Type.ASYMMETRIC_KEY,
        Origin.GENERATED,
        lambda algorithm, _: objects.asymmetric_material(algorithm, None, seeded),
    )


@command(Command.PUT_HMAC_KEY, "PUT_HMAC_KEY")
def put_hmac(device, request):
    return create(device, request, Type.HMAC_KEY, Origin.IMPORTED, objects.hmac_material)


@command(Command.GENERATE_HMAC_KEY, "GENERATE_HMAC_KEY")
def generate_hmac(device, request):
    return create(
        device, request, Type.HMAC_KEY, Origin.GENERATED, lambda algorithm, _: objects.hmac_material(algorithm)
    )


@command(Command.PUT_WRAP_KEY, "PUT_WRAP_KEY")
def put_wrap(device, request):
    return create(
        device,
        request,
        Type.WRAP_KEY,
        Origin.IMPORTED,
        lambda algorithm, data: objects.sized(objects.WRAP_SIZES, algorithm, data),
        delegating=True,
    )


@command(Command.GENERATE_WRAP_KEY, "GENERATE_WRAP_KEY")
def generate_wrap(device, request):
    return create(
        device,
        request,
        Type.WRAP_KEY,
        Origin.GENERATED,
        lambda algorithm, _: objects.generated(objects.WRAP_SIZES, algorithm),
        delegating=True,
    )


@command(Command.PUT_SYMMETRIC_KEY, "PUT_SYMMETRIC_KEY")
def put_symmetric(device, request):
    return create(
        device,
        request,
        Type.SYMMETRIC_KEY,
        Origin.IMPORTED,
        lambda algorithm, data: objects.sized(objects.AES_SIZES, algorithm, data),
    )


@command(Command.GENERATE_SYMMETRIC_KEY, "GENERATE_SYMMETRIC_KEY")
def generate_symmetric(device, request):
    return create(
        device,
        request,
        Type.SYMMETRIC_KEY,
        Origin.GENERATED,
        lambda algorithm, _: objects.generated(objects.AES_SIZES, algorithm),
    )


# Using keys


@command(Command.SIGN_ECDSA, "SIGN_ECDSA")
def sign_ecdsa(device, request):
    id_, digest = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.ASYMMETRIC_KEY, id_, "SIGN_ECDSA")
    return objects.sign_ecdsa(key, spoilt(request, digest))


@command(Command.SIGN_EDDSA, "SIGN_EDDSA")
def sign_eddsa(device, request):
    id_, message = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.ASYMMETRIC_KEY, id_, "SIGN_EDDSA")
    return objects.sign_eddsa(key, spoilt(request, message))


@command(Command.DERIVE_ECDH, "DERIVE_ECDH")
def derive_ecdh(device, request):
    id_, point = split(request.data, "!H", exact=False)
    return objects.derive_ecdh(usable(device, request, Type.ASYMMETRIC_KEY, id_, "DERIVE_ECDH"), point)


@command(Command.SIGN_HMAC, "SIGN_HMAC")
def sign_hmac(device, request):
    id_, message = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.HMAC_KEY, id_, "SIGN_HMAC")
    return objects.hmac_sign(key, spoilt(request, message))


@command(Command.VERIFY_HMAC, "VERIFY_HMAC")
def verify_hmac(device, request):
    id_, data = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.HMAC_KEY, id_, "VERIFY_HMAC")
    size = objects.HMACS[key.algorithm]().digest_size
    if len(data) < size:
        raise HsmError(Error.WRONG_LENGTH)
    return bytes([hmac.compare_digest(objects.hmac_sign(key, data[size:]), data[:size])])


@command(Command.SIGN_ATTESTATION_CERTIFICATE, "SIGN_ATTESTATION_CERTIFICATE")
def sign_attestation(device, request):
    request.target, request.second = split(request.data, "!HH")
    subject = find(device, request.session, Type.ASYMMETRIC_KEY, request.target)
    if request.second == 0:
        return attest.by_device(device, subject)
    target = request.target
    issuer = usable(device, request, Type.ASYMMETRIC_KEY, request.second, "SIGN_ATTESTATION_CERTIFICATE")
    request.target = target
    template = find(device, request.session, Type.OPAQUE, request.second)
    objects.invalid(template.algorithm != Algorithm.OPAQUE_X509_CERTIFICATE)
    return attest.by_key(device, subject, issuer, template.data)


def aes(mode, decrypt, capability):
    def handler(device, request):
        id_, data = split(request.data, "!H", exact=False)
        key = usable(device, request, Type.SYMMETRIC_KEY, id_, capability)
        iv = b""
        if mode is modes.CBC:
            (iv, data) = split(data, "!16s", exact=False)
        if not data or len(data) % 16:
            raise HsmError(Error.WRONG_LENGTH)
        cipher = Cipher(algorithms.AES(key.data), mode(iv) if iv else mode())
        context = cipher.decryptor() if decrypt else cipher.encryptor()
        return context.update(data) + context.finalize()

    return handler


for code, block_mode, decrypting in (
    (Command.ENCRYPT_ECB, modes.ECB, False),
    (Command.DECRYPT_ECB, modes.ECB, True),
    (Command.ENCRYPT_CBC, modes.CBC, False),
    (Command.DECRYPT_CBC, modes.CBC, True),
):
    command(code, code.name)(aes(block_mode, decrypting, code.name))


# Wrapping


def data_refusal(device):
    """What older firmware says when a wrap key lacks the capability to wrap data."""
    return Error.INSUFFICIENT_PERMISSIONS if device.firmware >= (2, 5, 0) else Error.INVALID_DATA


@command(Command.WRAP_DATA, "WRAP_DATA")
def wrap_data(device, request):
    id_, data = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.WRAP_KEY, id_, "WRAP_DATA", data_refusal(device))
    objects.invalid(not data)
    return objects.seal(key.data, data)


@command(Command.UNWRAP_DATA, "UNWRAP_DATA")
def unwrap_data(device, request):
    id_, data = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.WRAP_KEY, id_, "UNWRAP_DATA", data_refusal(device))
    return objects.unseal(key.data, data)


@command(Command.EXPORT_WRAPPED, "EXPORT_WRAPPED")
def export_wrapped(device, request):
    wrap_id, type_, id_, form = split(request.data, "!HBH", exact=False)
    objects.invalid(form not in (b"", b"\x00", b"\x01"))
    request.second = id_
    key = usable(device, request, Type.WRAP_KEY, wrap_id, "EXPORT_WRAPPED")
    obj = find(device, request.session, type_, id_)
    if not obj.capabilities & Capability.EXPORTABLE_UNDER_WRAP or obj.capabilities & ~key.delegated:
        raise HsmError(Error.INSUFFICIENT_PERMISSIONS)
    objects.invalid(form == b"\x01" and obj.algorithm == Algorithm.EC_ED25519 and len(obj.data) != 128)
    return objects.wrapped(obj, key, form == b"\x01")


@command(Command.IMPORT_WRAPPED, "IMPORT_WRAPPED")
def import_wrapped(device, request):
    wrap_id, sealed = split(request.data, "!H", exact=False)
    key = usable(device, request, Type.WRAP_KEY, wrap_id, "IMPORT_WRAPPED")
    obj = objects.unwrapped(sealed, key)
    request.second = obj.id
    if obj.capabilities & ~key.delegated or obj.domains & ~request.session.domains:
        raise HsmError(Error.INSUFFICIENT_PERMISSIONS)
    obj.origin |= Origin.IMPORTED_WRAPPED
    device.store(obj)
    return struct.pack("!BH", obj.type, obj.id)
