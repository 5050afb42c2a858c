"""The numbers of the YubiHSM 2 protocol, from Yubico's command reference and core concepts."""

from enum import IntEnum, IntFlag

FACTORY_PASSWORD = "password"
LABEL_LEN = 40
MAX_SESSIONS = 16
IDLE_SECONDS = 30.0
LOG_CAPACITY = 62
RECORDS = 256
PAGES, PAGE_SIZE = 1024, 126
NOBODY = 0xFFFF  # the key id that a log entry names when it has none


class Error(IntEnum):
    OK = 0x00
    INVALID_COMMAND = 0x01
    INVALID_DATA = 0x02
    INVALID_SESSION = 0x03
    AUTHENTICATION_FAILED = 0x04
    SESSIONS_FULL = 0x05
    SESSION_FAILED = 0x06
    STORAGE_FAILED = 0x07
    WRONG_LENGTH = 0x08
    INSUFFICIENT_PERMISSIONS = 0x09
    LOG_FULL = 0x0A
    OBJECT_NOT_FOUND = 0x0B
    INVALID_ID = 0x0C
    SSH_CA_CONSTRAINT_VIOLATION = 0x0E
    INVALID_OTP = 0x0F
    DEMO_MODE = 0x10
    OBJECT_EXISTS = 0x11
    ALGORITHM_DISABLED = 0x12
    COMMAND_UNEXECUTED = 0xFF


class HsmError(Exception):
    """What the device answers with its error response."""

    def __init__(self, code):
        super().__init__(Error(code).name)
        self.code = Error(code)


class Command(IntEnum):
    ECHO = 0x01
    CREATE_SESSION = 0x03
    AUTHENTICATE_SESSION = 0x04
    SESSION_MESSAGE = 0x05
    DEVICE_INFO = 0x06
    RESET_DEVICE = 0x08
    GET_DEVICE_PUBLIC_KEY = 0x0A
    CLOSE_SESSION = 0x40
    GET_STORAGE_INFO = 0x41
    PUT_OPAQUE = 0x42
    GET_OPAQUE = 0x43
    PUT_AUTHENTICATION_KEY = 0x44
    PUT_ASYMMETRIC_KEY = 0x45
    GENERATE_ASYMMETRIC_KEY = 0x46
    LIST_OBJECTS = 0x48
    EXPORT_WRAPPED = 0x4A
    IMPORT_WRAPPED = 0x4B
    PUT_WRAP_KEY = 0x4C
    GET_LOG_ENTRIES = 0x4D
    GET_OBJECT_INFO = 0x4E
    SET_OPTION = 0x4F
    GET_OPTION = 0x50
    GET_PSEUDO_RANDOM = 0x51
    PUT_HMAC_KEY = 0x52
    SIGN_HMAC = 0x53
    GET_PUBLIC_KEY = 0x54
    SIGN_ECDSA = 0x56
    DERIVE_ECDH = 0x57
    DELETE_OBJECT = 0x58
    GENERATE_HMAC_KEY = 0x5A
    GENERATE_WRAP_KEY = 0x5B
    VERIFY_HMAC = 0x5C
    SIGN_ATTESTATION_CERTIFICATE = 0x64
    SET_LOG_INDEX = 0x67
    WRAP_DATA = 0x68
    UNWRAP_DATA = 0x69
    SIGN_EDDSA = 0x6A
    BLINK_DEVICE = 0x6B
    CHANGE_AUTHENTICATION_KEY = 0x6C
    PUT_SYMMETRIC_KEY = 0x6D
    GENERATE_SYMMETRIC_KEY = 0x6E
    DECRYPT_ECB = 0x6F
    ENCRYPT_ECB = 0x70
    DECRYPT_CBC = 0x71
    ENCRYPT_CBC = 0x72


ERROR_RESPONSE = 0x7F

# Commands of the device that this simulator answers with INVALID COMMAND; they still have an audit option.
UNSUPPORTED = (
    0x47,
    0x49,
    0x55,
    0x59,
    0x5D,
    0x5E,
    0x5F,
    0x60,
    0x61,
    0x62,
    0x63,
    0x65,
    0x66,
    0x73,
    0x74,
    0x75,
    0x76,
    0x77,
)
SINCE = {  # the firmware that brought a command
    Command.CHANGE_AUTHENTICATION_KEY: (2, 1, 0),
    Command.GET_DEVICE_PUBLIC_KEY: (2, 3, 0),
    Command.PUT_SYMMETRIC_KEY: (2, 3, 0),
    Command.GENERATE_SYMMETRIC_KEY: (2, 3, 0),
    Command.DECRYPT_ECB: (2, 3, 0),
    Command.ENCRYPT_ECB: (2, 3, 0),
    Command.DECRYPT_CBC: (2, 3, 0),
    Command.ENCRYPT_CBC: (2, 3, 0),
}


class Type(IntEnum):
    OPAQUE = 1
    AUTHENTICATION_KEY = 2
    ASYMMETRIC_KEY = 3
    WRAP_KEY = 4
    HMAC_KEY = 5
    TEMPLATE = 6
    OTP_AEAD_KEY = 7
    SYMMETRIC_KEY = 8
    PUBLIC_WRAP_KEY = 9


class Algorithm(IntEnum):
    RSA_2048 = 9
    RSA_3072 = 10
    RSA_4096 = 11
    EC_P256 = 12
    EC_P384 = 13
    EC_P521 = 14
    EC_K256 = 15
    EC_BP256 = 16
    EC_BP384 = 17
    EC_BP512 = 18
    HMAC_SHA1 = 19
    HMAC_SHA256 = 20
    HMAC_SHA384 = 21
    HMAC_SHA512 = 22
    AES128_CCM_WRAP = 29
    OPAQUE_DATA = 30
    OPAQUE_X509_CERTIFICATE = 31
    AES128_YUBICO_AUTHENTICATION = 38
    AES192_CCM_WRAP = 41
    AES256_CCM_WRAP = 42
    EC_ED25519 = 46
    EC_P224 = 47
    EC_P256_YUBICO_AUTHENTICATION = 49
    AES128 = 50
    AES192 = 51
    AES256 = 52


def algorithms(firmware):
    """What DEVICE INFO lists: each firmware line added numbers at the end."""
    last = 47 if firmware < (2, 2, 0) else 48 if firmware < (2, 3, 0) else 54 if firmware < (2, 4, 0) else 55
    return bytes(range(1, last + 1))


class Option(IntEnum):
    FORCE_AUDIT = 1
    COMMAND_AUDIT = 3
    ALGORITHM_TOGGLE = 4
    FIPS_MODE = 5


OFF, ON, FIXED = 0, 1, 2  # the values of an audit option


class Origin(IntFlag):
    GENERATED = 0x01
    IMPORTED = 0x02
    IMPORTED_WRAPPED = 0x10


class Capability(IntFlag):
    GET_OPAQUE = 1 << 0x00
    PUT_OPAQUE = 1 << 0x01
    PUT_AUTHENTICATION_KEY = 1 << 0x02
    PUT_ASYMMETRIC_KEY = 1 << 0x03
    GENERATE_ASYMMETRIC_KEY = 1 << 0x04
    SIGN_ECDSA = 1 << 0x07
    SIGN_EDDSA = 1 << 0x08
    DERIVE_ECDH = 1 << 0x0B
    EXPORT_WRAPPED = 1 << 0x0C
    IMPORT_WRAPPED = 1 << 0x0D
    PUT_WRAP_KEY = 1 << 0x0E
    GENERATE_WRAP_KEY = 1 << 0x0F
    EXPORTABLE_UNDER_WRAP = 1 << 0x10
    SET_OPTION = 1 << 0x11
    GET_OPTION = 1 << 0x12
    GET_PSEUDO_RANDOM = 1 << 0x13
    PUT_HMAC_KEY = 1 << 0x14
    GENERATE_HMAC_KEY = 1 << 0x15
    SIGN_HMAC = 1 << 0x16
    VERIFY_HMAC = 1 << 0x17
    GET_LOG_ENTRIES = 1 << 0x18
    RESET_DEVICE = 1 << 0x1C
    SIGN_ATTESTATION_CERTIFICATE = 1 << 0x22
    WRAP_DATA = 1 << 0x25
    UNWRAP_DATA = 1 << 0x26
    DELETE_OPAQUE = 1 << 0x27
    DELETE_AUTHENTICATION_KEY = 1 << 0x28
    DELETE_ASYMMETRIC_KEY = 1 << 0x29
    DELETE_WRAP_KEY = 1 << 0x2A
    DELETE_HMAC_KEY = 1 << 0x2B
    CHANGE_AUTHENTICATION_KEY = 1 << 0x2E
    PUT_SYMMETRIC_KEY = 1 << 0x2F
    GENERATE_SYMMETRIC_KEY = 1 << 0x30
    DELETE_SYMMETRIC_KEY = 1 << 0x31
    DECRYPT_ECB = 1 << 0x32
    ENCRYPT_ECB = 1 << 0x33
    DECRYPT_CBC = 1 << 0x34
    ENCRYPT_CBC = 1 << 0x35


def all_capabilities(firmware):
    """Every bit that the firmware knows: what the factory's authentication key holds."""
    bits = 0x2F if firmware < (2, 3, 0) else 0x36 if firmware < (2, 4, 0) else 0x38
    return (1 << bits) - 1


DELETES = {
    Type.OPAQUE: Capability.DELETE_OPAQUE,
    Type.AUTHENTICATION_KEY: Capability.DELETE_AUTHENTICATION_KEY,
    Type.ASYMMETRIC_KEY: Capability.DELETE_ASYMMETRIC_KEY,
    Type.WRAP_KEY: Capability.DELETE_WRAP_KEY,
    Type.HMAC_KEY: Capability.DELETE_HMAC_KEY,
    Type.SYMMETRIC_KEY: Capability.DELETE_SYMMETRIC_KEY,
}
