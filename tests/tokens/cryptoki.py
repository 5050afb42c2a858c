"""As much PKCS#11 as it takes to set a token up and to look into it, over ctypes. Standard library only."""

import ctypes
from contextlib import contextmanager

ULONG = ctypes.c_ulong
UNAVAILABLE = ULONG(-1).value

CKU_SO, CKU_USER = 0, 1
CKF_RW_SESSION, CKF_SERIAL_SESSION, CKF_OS_LOCKING_OK = 2, 4, 2
CKF_TOKEN_INITIALIZED = 0x400
CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED = 0x10000, 0x20000, 0x40000
CKO_DATA, CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY = 0, 2, 3, 4
CKK_EC, CKK_GENERIC_SECRET, CKK_AES = 0x03, 0x10, 0x1F
CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_VALUE, CKA_TRUSTED = 0x0, 0x1, 0x2, 0x3, 0x11, 0x86
CKA_KEY_TYPE, CKA_ID, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT = 0x100, 0x102, 0x103, 0x104, 0x105
CKA_WRAP, CKA_UNWRAP, CKA_SIGN, CKA_VERIFY, CKA_DERIVE = 0x106, 0x107, 0x108, 0x10A, 0x10C
CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_VALUE_LEN = 0x120, 0x121, 0x122, 0x161
CKA_EXTRACTABLE, CKA_LOCAL, CKA_NEVER_EXTRACTABLE, CKA_ALWAYS_SENSITIVE = 0x162, 0x163, 0x164, 0x165
CKA_MODIFIABLE, CKA_COPYABLE = 0x170, 0x171
CKA_EC_PARAMS, CKA_EC_POINT, CKA_WRAP_WITH_TRUSTED, CKA_ALLOWED_MECHANISMS = 0x180, 0x181, 0x210, 0x40000600
CKD_NULL = 1

MECHANISMS = {
    "CKM_RSA_PKCS_KEY_PAIR_GEN": 0x0, "CKM_RSA_PKCS": 0x1, "CKM_SHA256_HMAC": 0x251,
    "CKM_EC_KEY_PAIR_GEN": 0x1040, "CKM_ECDSA": 0x1041, "CKM_ECDSA_SHA1": 0x1042, "CKM_ECDSA_SHA256": 0x1044,
    "CKM_ECDH1_DERIVE": 0x1050, "CKM_EC_EDWARDS_KEY_PAIR_GEN": 0x1055, "CKM_EDDSA": 0x1057,
    "CKM_AES_KEY_GEN": 0x1080, "CKM_AES_ECB": 0x1081, "CKM_AES_CBC_PAD": 0x1085, "CKM_AES_GCM": 0x1087,
    "CKM_AES_KEY_WRAP": 0x2109, "CKM_AES_KEY_WRAP_PAD": 0x210A, "CKM_AES_KEY_WRAP_KWP": 0x210B,
    "CKM_AES_KEY_WRAP_PKCS7": 0x210C,
}  # fmt: skip

CODES = {
    0x0: "OK", 0x2: "HOST_MEMORY", 0x3: "SLOT_ID_INVALID", 0x5: "GENERAL_ERROR", 0x6: "FUNCTION_FAILED", 0x7: "ARGUMENTS_BAD",
    0x10: "ATTRIBUTE_READ_ONLY", 0x11: "ATTRIBUTE_SENSITIVE", 0x12: "ATTRIBUTE_TYPE_INVALID",
    0x13: "ATTRIBUTE_VALUE_INVALID", 0x1B: "ACTION_PROHIBITED", 0x20: "DATA_INVALID", 0x21: "DATA_LEN_RANGE",
    0x30: "DEVICE_ERROR", 0x31: "DEVICE_MEMORY", 0x32: "DEVICE_REMOVED", 0x40: "ENCRYPTED_DATA_INVALID",
    0x54: "FUNCTION_NOT_SUPPORTED", 0x60: "KEY_HANDLE_INVALID", 0x62: "KEY_SIZE_RANGE", 0x63: "KEY_TYPE_INCONSISTENT",
    0x67: "KEY_NEEDED", 0x68: "KEY_FUNCTION_NOT_PERMITTED", 0x69: "KEY_NOT_WRAPPABLE", 0x6A: "KEY_UNEXTRACTABLE",
    0x70: "MECHANISM_INVALID", 0x71: "MECHANISM_PARAM_INVALID", 0x82: "OBJECT_HANDLE_INVALID", 0x90: "OPERATION_ACTIVE",
    0x91: "OPERATION_NOT_INITIALIZED", 0xA0: "PIN_INCORRECT", 0xA1: "PIN_INVALID", 0xA2: "PIN_LEN_RANGE",
    0xA3: "PIN_EXPIRED", 0xA4: "PIN_LOCKED", 0xB0: "SESSION_CLOSED", 0xB1: "SESSION_COUNT",
    0xB3: "SESSION_HANDLE_INVALID", 0xB5: "SESSION_READ_ONLY", 0xB8: "SESSION_READ_WRITE_SO_EXISTS",
    0xC0: "SIGNATURE_INVALID", 0xD0: "TEMPLATE_INCOMPLETE", 0xD1: "TEMPLATE_INCONSISTENT", 0xE0: "TOKEN_NOT_PRESENT",
    0x100: "USER_ALREADY_LOGGED_IN", 0x101: "USER_NOT_LOGGED_IN", 0x102: "USER_PIN_NOT_INITIALIZED",
    0x103: "USER_TYPE_INVALID", 0x113: "WRAPPING_KEY_HANDLE_INVALID", 0x115: "WRAPPING_KEY_TYPE_INCONSISTENT",
    0x130: "DOMAIN_PARAMS_INVALID", 0x140: "CURVE_NOT_SUPPORTED", 0x150: "BUFFER_TOO_SMALL",
    0x190: "CRYPTOKI_NOT_INITIALIZED", 0x191: "CRYPTOKI_ALREADY_INITIALIZED",
}  # fmt: skip

# Kryoptic exports C_GetFunctionList alone, so every call goes through the list: position by position, as the standard
# numbers them after the version.
POSITIONS = {
    "C_Initialize": 0, "C_Finalize": 1, "C_GetInfo": 2, "C_GetSlotList": 4, "C_GetTokenInfo": 6, "C_GetMechanismList": 7,
    "C_InitToken": 9, "C_InitPIN": 10, "C_OpenSession": 12, "C_CloseSession": 13, "C_CloseAllSessions": 14, "C_Login": 18,
    "C_Logout": 19, "C_CopyObject": 21, "C_DestroyObject": 22, "C_GetAttributeValue": 24, "C_SetAttributeValue": 25,
    "C_FindObjectsInit": 26, "C_FindObjects": 27, "C_FindObjectsFinal": 28, "C_EncryptInit": 29, "C_Encrypt": 30,
    "C_DecryptInit": 33, "C_Decrypt": 34, "C_SignInit": 42, "C_Sign": 43, "C_GenerateKey": 58, "C_GenerateKeyPair": 59,
    "C_WrapKey": 60, "C_DeriveKey": 62,
}  # fmt: skip


class Refused(Exception):
    """A call did not return CKR_OK."""

    def __init__(self, call, code):
        self.code = code
        self.name = CODES.get(code, f"0x{code:X}")
        super().__init__(f"{call}: {self.name}")


class Absent(Exception):
    """What was looked for is not there."""


class InitializeArgs(ctypes.Structure):
    # NSS puts a pointer of its own before pReserved; the last word keeps it from reading past the end.
    _fields_ = [("mutexes", ctypes.c_void_p * 4), ("flags", ULONG), ("reserved", ctypes.c_char_p), ("end", ctypes.c_void_p)]


class Info(ctypes.Structure):
    _fields_ = [
        ("cryptoki", ctypes.c_ubyte * 2), ("manufacturer", ctypes.c_char * 32), ("flags", ULONG),
        ("description", ctypes.c_char * 32), ("version", ctypes.c_ubyte * 2),
    ]  # fmt: skip


class TokenInfo(ctypes.Structure):
    _fields_ = [
        ("label", ctypes.c_char * 32), ("manufacturer", ctypes.c_char * 32), ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16), ("flags", ULONG), ("max_sessions", ULONG), ("sessions", ULONG),
        ("max_rw_sessions", ULONG), ("rw_sessions", ULONG), ("max_pin", ULONG), ("min_pin", ULONG), ("memory", ULONG * 4),
        ("versions", ctypes.c_ubyte * 4), ("time", ctypes.c_char * 16),
    ]  # fmt: skip


class Attribute(ctypes.Structure):
    _fields_ = [("type", ULONG), ("value", ctypes.c_char_p), ("length", ULONG)]


class Mechanism(ctypes.Structure):
    _fields_ = [("mechanism", ULONG), ("parameter", ctypes.c_void_p), ("length", ULONG)]


class EcdhParameters(ctypes.Structure):
    _fields_ = [
        ("kdf", ULONG), ("shared_length", ULONG), ("shared", ctypes.c_char_p), ("public_length", ULONG),
        ("public", ctypes.c_char_p),
    ]  # fmt: skip


class GcmParameters(ctypes.Structure):
    _fields_ = [
        ("iv", ctypes.c_char_p), ("iv_length", ULONG), ("iv_bits", ULONG), ("aad", ctypes.c_char_p), ("aad_length", ULONG),
        ("tag_bits", ULONG),
    ]  # fmt: skip


def mechanism(name, parameter=None):
    """A mechanism, whose parameter may be absent, bytes, or a structure."""
    if parameter is None:
        return Mechanism(MECHANISMS[name])
    if isinstance(parameter, bytes):
        parameter = ctypes.create_string_buffer(parameter, len(parameter))
    made = Mechanism(MECHANISMS[name], ctypes.addressof(parameter), ctypes.sizeof(parameter))
    # The structure holds a bare address.
    made.keep = parameter
    return made


def template(attributes):
    """A template and its length; integers become CK_ULONG, truth values CK_BBOOL."""
    rows = []
    for kind, value in attributes.items():
        if isinstance(value, bool):
            value = bytes([value])
        elif isinstance(value, int):
            value = bytes(ULONG(value))
        rows.append(Attribute(kind, value, len(value)))
    return (Attribute * len(rows))(*rows), ULONG(len(rows))


def text(field):
    return bytes(field).split(b"\0")[0].decode(errors="replace").rstrip()


class Module:
    """A loaded and initialised module. Its environment must be set before."""

    def __init__(self, path, init=None):
        library = ctypes.CDLL(path)
        listed = ctypes.c_void_p()
        library.C_GetFunctionList.restype = ULONG
        code = library.C_GetFunctionList(ctypes.byref(listed))
        if code:
            raise Refused("C_GetFunctionList", code)
        size = ctypes.sizeof(ctypes.c_void_p)
        call = ctypes.CFUNCTYPE(ULONG)
        self._functions = {
            # The version takes two bytes and its padding the rest of the first word.
            name: call(ctypes.c_void_p.from_address(listed.value + size * (1 + position)).value)
            for name, position in POSITIONS.items()
        }
        args = InitializeArgs(flags=CKF_OS_LOCKING_OK, reserved=init.encode() if init else None)
        self.call("C_Initialize", ctypes.byref(args))

    def call(self, name, *args):
        code = self._functions[name](*(ULONG(a) if isinstance(a, int) else a for a in args))
        if code:
            raise Refused(name, code)

    def finalize(self):
        self.call("C_Finalize", None)

    def info(self):
        info = Info()
        self.call("C_GetInfo", ctypes.byref(info))
        return info

    def slots(self):
        return self._numbers("C_GetSlotList", b"\1")

    def mechanisms(self, slot):
        return self._numbers("C_GetMechanismList", slot)

    def _numbers(self, name, first):
        count = ULONG(0)
        self.call(name, first, None, ctypes.byref(count))
        found = (ULONG * count.value)()
        self.call(name, first, found, ctypes.byref(count))
        return list(found)[: count.value]

    def token(self, slot):
        info = TokenInfo()
        self.call("C_GetTokenInfo", slot, ctypes.byref(info))
        return info

    def slot_of(self, label):
        for slot in self.slots():
            if text(self.token(slot).label) == label:
                return slot
        raise Absent(f"no token is called {label}")

    def open(self, slot, read_only=False):
        handle = ULONG()
        flags = CKF_SERIAL_SESSION | (0 if read_only else CKF_RW_SESSION)
        self.call("C_OpenSession", slot, flags, None, None, ctypes.byref(handle))
        return Session(self, handle.value)

    @contextmanager
    def session(self, slot, user=None, pin=""):
        session = self.open(slot)
        try:
            if user is not None:
                session.login(user, pin)
            yield session
        finally:
            session.close()

    def init_token(self, slot, so_pin, label):
        self.call("C_InitToken", slot, so_pin.encode(), len(so_pin), label.encode().ljust(32))


class Session:
    def __init__(self, module, handle):
        self.module = module
        self.handle = handle

    def call(self, name, *args):
        self.module.call(name, self.handle, *args)

    def close(self):
        self.call("C_CloseSession")

    def login(self, user, pin):
        self.call("C_Login", user, pin.encode(), len(pin))

    def logout(self):
        self.call("C_Logout")

    def init_pin(self, pin):
        self.call("C_InitPIN", pin.encode(), len(pin))

    def generate_pair(self, how, public, private):
        """The handles of a new pair, the public one first."""
        handles = ULONG(), ULONG()
        templates = *template(public), *template(private)
        self.call("C_GenerateKeyPair", ctypes.byref(how), *templates, *map(ctypes.byref, handles))
        return tuple(handle.value for handle in handles)

    def generate(self, how, attributes):
        handle = ULONG()
        self.call("C_GenerateKey", ctypes.byref(how), *template(attributes), ctypes.byref(handle))
        return handle.value

    def copy(self, handle, attributes):
        new = ULONG()
        self.call("C_CopyObject", handle, *template(attributes), ctypes.byref(new))
        return new.value

    def derive(self, how, handle, attributes):
        new = ULONG()
        self.call("C_DeriveKey", ctypes.byref(how), handle, *template(attributes), ctypes.byref(new))
        return new.value

    def find(self, attributes):
        self.call("C_FindObjectsInit", *template(attributes))
        found, count = (ULONG * 100)(), ULONG()
        self.call("C_FindObjects", found, len(found), ctypes.byref(count))
        self.call("C_FindObjectsFinal")
        return list(found)[: count.value]

    def attribute(self, handle, kind):
        buffer = ctypes.create_string_buffer(4096)
        row = Attribute(kind, ctypes.cast(buffer, ctypes.c_char_p), len(buffer))
        self.call("C_GetAttributeValue", handle, ctypes.byref(row), 1)
        if row.length > len(buffer):
            raise Absent(f"attribute 0x{kind:X} has no value")
        return buffer.raw[: row.length]

    def set(self, handle, attributes):
        self.call("C_SetAttributeValue", handle, *template(attributes))

    def wrap(self, how, wrapper, handle):
        return self._out("C_WrapKey", ctypes.byref(how), wrapper, handle)

    def sign(self, how, handle, message):
        self.call("C_SignInit", ctypes.byref(how), handle)
        return self._out("C_Sign", message, len(message))

    def encrypt(self, how, handle, message):
        self.call("C_EncryptInit", ctypes.byref(how), handle)
        return self._out("C_Encrypt", message, len(message))

    def decrypt(self, how, handle, message):
        self.call("C_DecryptInit", ctypes.byref(how), handle)
        return self._out("C_Decrypt", message, len(message))

    def _out(self, name, *args):
        out, length = ctypes.create_string_buffer(4096), ULONG(4096)
        self.call(name, *args, out, ctypes.byref(length))
        return out.raw[: length.value]
