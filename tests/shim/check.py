#!/usr/bin/env python3
"""Builds the fault shim and shows that it passes calls through and that each fault happens.

One line per check. With --without-faults no rule reaches the shim: then every check of a fault must fail, and the exit
is zero only if all of them did.
"""
import ctypes as c
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIM = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release/libfault_shim.so"
SOFTHSM = os.environ.get("SOFTHSM_MODULE", "/usr/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN, LABEL = b"7391-pin", b"7391-so-pin", "shim"

# The v2.40 list in its order, each with its number of arguments.
LIST = """Initialize1 Finalize1 GetInfo1 GetFunctionList1 GetSlotList3 GetSlotInfo2 GetTokenInfo2 GetMechanismList3
GetMechanismInfo3 InitToken4 InitPIN3 SetPIN5 OpenSession5 CloseSession1 CloseAllSessions1 GetSessionInfo2
GetOperationState3 SetOperationState5 Login4 Logout1 CreateObject4 CopyObject5 DestroyObject2 GetObjectSize3
GetAttributeValue4 SetAttributeValue4 FindObjectsInit3 FindObjects4 FindObjectsFinal1 EncryptInit3 Encrypt5
EncryptUpdate5 EncryptFinal3 DecryptInit3 Decrypt5 DecryptUpdate5 DecryptFinal3 DigestInit2 Digest5 DigestUpdate3
DigestKey2 DigestFinal3 SignInit3 Sign5 SignUpdate3 SignFinal3 SignRecoverInit3 SignRecover5 VerifyInit3 Verify5
VerifyUpdate3 VerifyFinal3 VerifyRecoverInit3 VerifyRecover5 DigestEncryptUpdate5 DecryptDigestUpdate5
SignEncryptUpdate5 DecryptVerifyUpdate5 GenerateKey5 GenerateKeyPair8 WrapKey6 UnwrapKey8 DeriveKey6 SeedRandom3
GenerateRandom3 GetFunctionStatus1 CancelFunction1 WaitForSlotEvent3"""
FUNCTIONS = [(name, int(count)) for name, count in re.findall(r"([A-Za-z]+)(\d)", LIST)]
U = c.c_ulong
OK, RW = 0, 4 | 2
ECDSA, EC_GEN = 0x1041, 0x1040
P256 = bytes.fromhex("06082a8648ce3d030107")


class Attribute(c.Structure):
    _fields_ = [("type", U), ("value", c.c_void_p), ("length", U)]


class Mechanism(c.Structure):
    _fields_ = [("type", U), ("value", c.c_void_p), ("length", U)]


def template(*pairs):
    array = (Attribute * len(pairs))()
    array.kept = []
    for slot, (kind, value) in zip(array, pairs):
        raw = value if isinstance(value, bytes) else bytes(U(value))
        held = c.create_string_buffer(raw, len(raw))
        array.kept.append(held)
        slot.type, slot.value, slot.length = kind, c.cast(held, c.c_void_p), len(raw)
    return array


class Module:
    """A PKCS#11 module by its function list: module.Sign(...) is its C_Sign, and gives the return value."""

    def __init__(self, path):
        self.library = c.CDLL(str(path))
        listed = c.c_void_p()
        rv = self.library.C_GetFunctionList(c.byref(listed))
        if rv != OK:
            raise RuntimeError(f"C_GetFunctionList: {rv:#x}")
        self.address = listed.value
        self.entries = (c.c_void_p * len(FUNCTIONS)).from_address(listed.value + 8)
        for entry, (name, count) in zip(self.entries, FUNCTIONS):
            types = [U if name != "GetSlotList" or i else c.c_ubyte for i in range(count)]
            setattr(self, name, self.wrap(c.CFUNCTYPE(U, *types)(entry), types))

    @staticmethod
    def wrap(function, types):
        def call(*arguments):
            plain = [c.cast(a, c.c_void_p).value if isinstance(a, (c.Array, c.Structure)) else a for a in arguments]
            return function(*[a if isinstance(a, int) else (a or 0) for a in plain])
        call.raw = function
        return call


def at(value):
    return c.addressof(value)


class Token:
    """The usual calls, on one module and the token of this run."""

    def __init__(self, module):
        self.m = module
        self.initialize()
        count = U(16)
        slots = (U * 16)()
        assert self.m.GetSlotList(1, at(slots), at(count)) == OK
        for slot in slots[: count.value]:
            if self.info(slot)[1][:32].rstrip() == LABEL.encode():
                self.slot = slot

    def initialize(self):
        arguments = (U * 6)(0, 0, 0, 0, 2, 0)  # CKF_OS_LOCKING_OK
        assert self.m.Initialize(at(arguments)) in (OK, 0x191)

    def info(self, slot=None):
        """The return value and the raw CK_TOKEN_INFO."""
        raw = c.create_string_buffer(208)
        return self.m.GetTokenInfo(self.slot if slot is None else slot, at(raw)), raw.raw

    def flags(self):
        return int.from_bytes(self.info()[1][96:104], "little")

    def open(self):
        session = U()
        return self.m.OpenSession(self.slot, RW, 0, 0, at(session)), session.value

    def session(self):
        rv, session = self.open()
        assert rv == OK, f"C_OpenSession: {rv:#x}"
        return session

    def login(self, session, pin=PIN):
        held = c.create_string_buffer(pin, len(pin))
        return self.m.Login(session, 1, at(held), len(pin))

    def key_pair(self, session):
        public = template((0x180, P256), (0x10A, b"\1"), (1, b"\0"))
        private = template((0x108, b"\1"), (0x103, b"\1"), (1, b"\0"), (2, b"\1"))
        mechanism = Mechanism(EC_GEN, None, 0)
        keys = U(), U()
        rv = self.m.GenerateKeyPair(session, at(mechanism), at(public), 3, at(private), 4, at(keys[0]), at(keys[1]))
        assert rv == OK, f"C_GenerateKeyPair: {rv:#x}"
        return keys[0].value, keys[1].value

    def sign_init(self, session, key):
        mechanism = Mechanism(ECDSA, None, 0)
        return self.m.SignInit(session, at(mechanism), key)

    def sign_length(self, session):
        data, length = c.create_string_buffer(b"d" * 32, 32), U()
        return self.m.Sign(session, at(data), 32, 0, at(length)), length.value

    def sign_only(self, session):
        data, out, length = c.create_string_buffer(b"d" * 32, 32), c.create_string_buffer(64), U(64)
        return self.m.Sign(session, at(data), 32, at(out), at(length)), out.raw[: length.value]

    def sign(self, session, key):
        rv = self.sign_init(session, key)
        return self.sign_only(session) if rv == OK else (rv, b"")

    def verify(self, session, key, signature):
        mechanism, data = Mechanism(ECDSA, None, 0), c.create_string_buffer(b"d" * 32, 32)
        held = c.create_string_buffer(signature, len(signature))
        rv = self.m.VerifyInit(session, at(mechanism), key)
        return self.m.Verify(session, at(data), 32, at(held), len(signature)) if rv == OK else rv

    def attribute(self, session, key, kind):
        """As most callers do: the length first, then the value."""
        asked = template((kind, b""))
        asked[0].value = None
        rv = self.m.GetAttributeValue(session, key, at(asked), 1)
        if rv != OK:
            return rv, b""
        held = c.create_string_buffer(asked[0].length)
        asked[0].value = c.cast(held, c.c_void_p)
        return self.m.GetAttributeValue(session, key, at(asked), 1), held.raw

    def find(self, session, *pairs):
        wanted, found, count = template(*pairs), (U * 9)(), U()
        rvs = [self.m.FindObjectsInit(session, at(wanted), len(pairs))]
        rvs.append(self.m.FindObjects(session, at(found), 9, at(count)))
        rvs.append(self.m.FindObjectsFinal(session))
        return rvs, list(found[: count.value])


class Rig:
    """The files of this run; control() is how a rule reaches the shim."""

    def __init__(self, folder, reach):
        self.folder, self.reach = Path(folder), reach
        self.file, self.counts = self.folder / "control", self.folder / "counts"

    def control(self, *lines):
        fresh = self.folder / ("control.new" if self.reach else "nowhere")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        if self.reach:
            fresh.rename(self.file)

    def noted(self, function=None):
        lines = self.counts.read_text().split("\n")[:-1] if self.counts.exists() else []
        words = [line.split() for line in lines]
        return [word for word in words if function in (None, word[1])]

    def environment(self):
        return {**os.environ, "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"), "SHIM_MODULE": SOFTHSM,
                "SHIM_CONTROL": str(self.file), "SHIM_COUNTS": str(self.counts)}

    def child(self, code, **more):
        """Runs code with this file's names in another process."""
        text = f"import sys; sys.path.insert(0, {str(HERE)!r}); sys.dont_write_bytecode = True\nfrom check import *\n{code}"
        return subprocess.run([sys.executable, "-c", text], env={**self.environment(), **more}, text=True,
                              capture_output=True, timeout=60)


CHECKS = []


def check(what, fault=True):
    def add(function):
        CHECKS.append((what, fault, function))
        return function
    return add


def same(found, wanted, what=""):
    if found != wanted:
        raise AssertionError(f"{what} {found!r}, not {wanted!r}".strip())


# Passing through ----------------------------------------------------------------------------------------------------

PROBE = """
typedef unsigned long u;
u seen[9];
static struct { u version; void *entry[68]; } list;
u C_GetFunctionList(void **out) { *out = &list; return 0; }
%s
__attribute__((constructor)) static void fill(void) { list.version = 0x2802; %s }
"""


@check("each of the 67 functions reaches its own, with all arguments in order, and its answer comes back", fault=False)
def forwarded(rig, token):
    bodies, fills = [], []
    for i, (name, count) in enumerate(FUNCTIONS):
        if name != "GetFunctionList":
            types = ["unsigned char" if name == "GetSlotList" and n == 0 else "u" for n in range(count)]
            arguments = ", ".join(f"{kind} a{n}" for n, kind in enumerate(types))
            stores = " ".join(f"seen[{n}] = a{n};" for n in range(count))
            bodies.append(f"static u f{i}({arguments}) {{ {stores} seen[8] = {i}; return 0x80001000 + {i}; }}")
            fills.append(f"list.entry[{i}] = f{i};")
    (rig.folder / "probe.c").write_text(PROBE % ("\n".join(bodies), " ".join(fills)))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", rig.folder / "probe.so", rig.folder / "probe.c"], check=True)
    code = f"""
probe = c.CDLL({str(rig.folder / "probe.so")!r})
seen = (U * 9).in_dll(probe, "seen")
shim = Module(SHIM)
same(c.c_ushort.from_address(shim.address).value, 0x2802, "version")
blank = template((0, b"x"), (0, b"x"))
for i, (name, count) in enumerate(FUNCTIONS):
    if name == "GetFunctionList":
        same(shim.entries[i], c.cast(shim.library.C_GetFunctionList, c.c_void_p).value, name)
        continue
    c.memset(seen, 0, c.sizeof(seen))
    given = [0x41 + n if name == "GetSlotList" else at(blank) + n for n in range(count)]
    if name == "GetAttributeValue":
        given = [1, 2, at(blank), 1]
    same(getattr(shim, name).raw(*given), 0x80001000 + i, name)
    same(list(seen), given + [0] * (8 - count) + [i], name)
"""
    done = rig.child(code, SHIM_MODULE=str(rig.folder / "probe.so"))
    same(done.returncode, 0, done.stderr)


SCRIPT = """
m = Module(PATH)
count, slots = U(16), (U * 16)()
print(m.GetSlotList(1, 0, at(count)), count.value)
t = Token(m)
print(t.info()[0], t.info()[1][:176].hex(), t.slot)
s = t.session()
print(t.sign_init(s, 99), t.login(s, b"wrong"), t.login(s), t.login(s), t.login(s, b"wrong"))
size = U()
print(m.GetMechanismList(t.slot, 0, at(size)), size.value)
kinds = (U * size.value)()
print(m.GetMechanismList(t.slot, at(kinds), at(size)), list(kinds))
for kind in kinds:
    about = (U * 3)()
    print(m.GetMechanismInfo(t.slot, kind, at(about)), list(about))
public, private = t.key_pair(s)
print(public, private, t.attribute(s, public, 0x180), t.attribute(s, private, 0x11), t.attribute(s, private, 0x163))
print(t.find(s, (0, 3)), t.find(s, (0, 3), (3, b"none")))
print(t.sign_init(s, private), t.sign_init(s, private), t.sign_length(s), t.sign_only(s)[0], t.sign_only(s)[0])
rv, signature = t.sign(s, private)
print(rv, len(signature), t.verify(s, public, signature), t.verify(s, public, bytes(64)))
info = (U * 4)()
print(m.GetSessionInfo(s, at(info)), list(info))
out = c.create_string_buffer(32)
print(m.GenerateRandom(s, at(out), 32), out.raw != bytes(32))
print(m.DestroyObject(s, private), m.DestroyObject(s, private), t.sign(s, private))
print(m.CloseSession(s), m.CloseSession(s), m.CloseAllSessions(t.slot), m.Logout(s), m.GetFunctionStatus(s))
print(m.Finalize(0), m.Finalize(0), t.open(), m.Initialize(0), m.Finalize(0))
"""


@check("a script of calls gives the same answers through the shim and without it", fault=False)
def alike(rig, token):
    direct, shimmed = (rig.child(f"PATH = {str(path)!r}\n{SCRIPT}") for path in (SOFTHSM, SHIM))
    same((direct.returncode, shimmed.returncode), (0, 0), direct.stderr + shimmed.stderr)
    same(shimmed.stdout.split("\n"), direct.stdout.split("\n"))
    assert direct.stdout.count("\n") > 80, f"the script said too little: {direct.stdout}"


@check("pkcs11-tool lists, signs and verifies through it", fault=False)
def tool(rig, token):
    def run(*words):
        command = ["pkcs11-tool", "--module", SHIM, "--token-label", LABEL, *words]
        return subprocess.run(command, env=rig.environment(), capture_output=True, text=True, timeout=60)
    done = run("--login", "--pin", PIN.decode(), "--test")
    same(done.returncode, 0, done.stderr)
    assert "No errors" in done.stdout, done.stdout


@check("no wrapped module: C_GetFunctionList fails and says why", fault=False)
def unwrapped(rig, token):
    done = rig.child("Module(SHIM)", SHIM_MODULE="/nonexistent.so")
    assert "C_GetFunctionList: 0x5" in done.stderr and "fault-shim: SHIM_MODULE" in done.stderr, done.stderr


@check("it adds less than 2 us to a call, with a control file of no rules", fault=False)
def quick(rig, token):
    rig.control()
    code = """
t = Token(Module(PATH))
call, s, info = t.m.GetSessionInfo.raw, t.session(), (U * 4)()
best = 9e9
for _ in range(40):
    start = time.perf_counter_ns()
    for _ in range(2000):
        call(s, at(info))
    best = min(best, time.perf_counter_ns() - start)
print(best / 2000)
"""
    direct, shimmed = (float(rig.child(f"PATH = {str(path)!r}\n{code}").stdout) for path in (SOFTHSM, SHIM))
    assert shimmed - direct < 2000, f"{shimmed - direct:.0f} ns"
    return f"{shimmed - direct:.0f} ns"


# Faults -------------------------------------------------------------------------------------------------------------

@check("C_Sign rv=0x30 times=5: five fail, the rest sign; spent rules stay spent when the file grows")
def times(rig, token):
    s, (public, private) = token.s, token.keys
    rig.control("C_Sign rv=0x30 times=5 late")
    same([token.sign(s, private)[0] for _ in range(7)], [0x30] * 5 + [0] * 2)
    rig.control("C_Sign rv=0x30 times=5 late", "C_Digest rv=CKR_DEVICE_REMOVED")
    same(token.sign(s, private)[0], OK)
    rig.control("C_Sign rv=0x30 times=5 late id=2")
    same(token.sign(s, private)[0], 0x30, "with another id")


@check("rv without late: the module is not reached, so its operation stays active")
def early(rig, token):
    s, key = token.fresh(), token.keys[1]
    rig.control("C_Sign rv=CKR_DEVICE_REMOVED times=1")
    same([token.sign(s, key)[0], token.sign(s, key)[0]], [0x32, 0x90])


@check("C_SignInit rv=0x90 after=3 every=2: calls 5, 7, 9 fail")
def after(rig, token):
    s, key = token.s, token.keys[1]
    rig.control("C_SignInit rv=0x90 after=3 every=2")
    same([token.sign(s, key)[0] for _ in range(9)], [0, 0, 0, 0, 0x90, 0, 0x90, 0, 0x90])


@check("a length query does not count; with query it is what is meant")
def query(rig, token):
    s, key = token.fresh(), token.keys[1]
    rig.control("C_Sign rv=0x31 times=1 late")
    same([token.sign_init(s, key), token.sign_length(s), token.sign_only(s)[0]], [0, (0, 64), 0x31])
    rig.control("C_Sign rv=0x31 query")
    same([token.sign_init(s, key), token.sign_length(s)[0], token.sign_only(s)[0]], [0, 0x31, 0])


@check("C_Sign delay_ms=300: that long, and no other function")
def delay(rig, token):
    rig.control("C_Sign delay_ms=300")
    start = time.monotonic()
    same(token.sign_init(token.s, token.keys[1]), OK)
    middle = time.monotonic()
    same(token.sign_only(token.s)[0], OK)
    end = time.monotonic()
    assert middle - start < 0.2 and 0.3 <= end - middle < 2, (middle - start, end - middle)


@check("C_Sign hang: blocks one thread and no other, and goes on when the rule is gone")
def hang(rig, token):
    s, other, key = token.fresh(), token.fresh(), token.keys[1]
    rig.control("C_Sign hang times=1")
    found = []
    thread = threading.Thread(target=lambda: found.append(token.sign(s, key)[0]), daemon=True)
    thread.start()
    time.sleep(0.3)
    same((found, token.sign(other, key)[0]), ([], OK), "while it hangs")
    same([word[3] for word in rig.noted("C_Sign")], ["hang"])
    rig.control()
    thread.join(2)
    same(found, [OK], "after")


@check("C_Sign crash: SIGABRT")
def crash(rig, token):
    rig.control("C_Sign crash")
    done = rig.child("t = Token(Module(SHIM)); s = t.session(); t.login(s); t.sign(s, t.key_pair(s)[1])")
    same(done.returncode, -signal.SIGABRT, done.stderr)
    same(rig.noted("C_Sign")[0][2:4], ["-", "crash"])


@check("die, C_Login die=7: the process exits at that call")
def die(rig, token):
    rig.control("die")
    same(rig.child("Module(SHIM).Initialize(0)").returncode, 1)
    rig.control("C_Login die=7")
    done = rig.child("t = Token(Module(SHIM)); s = t.session(); print('opened', flush=True); t.login(s)")
    same((done.returncode, done.stdout), (7, "opened\n"))


@check("* rv=0x30: everything fails, and C_Find* only that")
def everything(rig, token):
    rig.control("* rv=0x30")
    info = c.create_string_buffer(208)
    same([token.info()[0], token.open()[0], token.sign(token.s, 1)[0], token.m.GetInfo(at(info)), token.m.Finalize(0)],
         [0x30] * 5)
    rig.control("C_Find* rv=0x30")
    same([token.find(token.s)[0], token.info()[0]], [[0x30] * 3, OK])


@check("C_Login die once=x: in one process, not in the next; another name dies again")
def once(rig, token):
    rig.control("C_Login die once=x")
    code = "t = Token(Module(SHIM)); s = t.session(); print(t.login(s))"
    same([rig.child(code).returncode, rig.child(code).stdout], [1, "0\n"])
    rig.control("C_Login die once=y")
    same(rig.child(code).returncode, 1)


@check("C_Sign corrupt: the signature does not verify, and differs in one bit at the place asked for")
def corrupt(rig, token):
    s, (public, private) = token.s, token.keys
    rig.control("C_Sign corrupt times=1")
    (rv, bad), (_, good) = token.sign(s, private), token.sign(s, private)
    same([rv, token.verify(s, public, bad), token.verify(s, public, good)], [OK, 0xC0, OK])
    same(token.verify(s, public, bad[:-1] + bytes([bad[-1] ^ 1])), OK, "flipped back")
    rig.control("C_Sign corrupt=3")
    bad = token.sign(s, private)[1]
    same(token.verify(s, public, bad[:3] + bytes([bad[3] ^ 1]) + bad[4:]), OK, "flipped back at 3")


@check("C_GetAttributeValue corrupt attr=0x180: that attribute alone")
def attribute(rig, token):
    s, key = token.s, token.keys[0]
    rig.control("C_GetAttributeValue corrupt attr=0x180 times=1")
    point = token.attribute(s, key, 0x181)[1]
    rig.control("C_GetAttributeValue corrupt attr=0x180")
    same([token.attribute(s, key, 0x180)[1], token.attribute(s, key, 0x181)[1]],
         [P256[:-1] + bytes([P256[-1] ^ 1]), point])


@check("C_FindObjects empty: no objects, CKR_OK")
def empty(rig, token):
    before = token.find(token.s, (0, 3))
    assert len(before[1]) > 0
    rig.control("C_FindObjects empty times=1")
    same([token.find(token.s, (0, 3)), token.find(token.s, (0, 3))], [([0, 0, 0], []), before])


@check("C_Sign empty: no bytes, CKR_OK")
def empty_signature(rig, token):
    rig.control("C_Sign empty times=1")
    first, second = token.sign(token.s, token.keys[1]), token.sign(token.s, token.keys[1])
    same([first, second[0], len(second[1])], [(OK, b""), OK, 64])


@check("C_OpenSession limit=4: the fifth gets CKR_SESSION_COUNT, until one is closed")
def limit(rig, token):
    rig.control("C_OpenSession limit=4")
    sessions = [token.open() for _ in range(3)]  # The first of the run is open already.
    same([rv for rv, _ in sessions], [OK] * 3)
    same([token.open()[0], token.open()[0]], [0xB1, 0xB1])
    same(token.m.CloseSession(sessions[0][1]), OK)
    rv, again = token.open()
    same([rv, token.open()[0]], [OK, 0xB1])
    rig.control()
    same(token.open()[0], OK, "without the rule")


@check("C_SignInit stuck times=1: that session is stuck until it is closed, others are not")
def stuck(rig, token):
    s, other, key = token.fresh(), token.fresh(), token.keys[1]
    rig.control("C_SignInit stuck times=1")
    same([token.sign(x, key)[0] for x in (s, s, other, s)], [0x90, 0x90, 0, 0x90])
    rig.control()
    same([token.sign(s, key)[0] for _ in range(2)], [0x90] * 2, "without the rule")
    same([token.m.CloseSession(s), token.sign(token.fresh(), key)[0]], [OK, OK])
    rig.control("C_SignInit stuck times=1")
    code = """
t = Token(Module(SHIM)); s = t.session()
print(t.sign_init(s, 1), t.m.Finalize(0), t.initialize(), t.session() == s, t.sign_init(s, 1))
"""  # SoftHSM gives the same number to another session then.
    same(rig.child(code).stdout.split(), ["144", "0", "None", "True", "130"])


@check("C_GetTokenInfo flags=+0x20000,-CKF_TOKEN_INITIALIZED: those bits alone")
def flags(rig, token):
    before = token.flags()
    rig.control("C_GetTokenInfo flags=+0x20000,-CKF_TOKEN_INITIALIZED")
    assert before & 0x400 and not before & 0x20000, hex(before)
    same(token.flags(), (before | 0x20000) & ~0x400)
    rig.control("C_GetTokenInfo flags=+CKF_USER_PIN_FINAL_TRY,+CKF_USER_PIN_LOCKED")
    same(token.flags(), before | 0x60000)


@check("C_Login rv=0xA0: the PIN does not reach the token, and the counts tell each try apart")
def login(rig, token):
    code = """
t = Token(Module(SHIM)); s = t.session()
print(t.login(s), t.login(s, b"wrong"), t.login(s), t.m.CloseSession(s), t.m.Finalize(0))
"""
    rig.control("C_Login rv=0xA0 times=1")
    done = rig.child(code)
    same(done.stdout.split(), ["160", "160", "0", "0", "0"], done.stderr)
    words = rig.noted()
    same(len({word[0] for word in words}), 1, "pids")
    same([word[1:4] for word in words],
         [["C_Initialize", "0x0", "real"], ["C_OpenSession", "0x0", "real"], ["C_Login", "0xa0", "fault"],
          ["C_Login", "0xa0", "real"], ["C_Login", "0x0", "real"], ["C_CloseSession", "0x0", "real"],
          ["C_Finalize", "0x0", "real"]])
    assert abs(int(words[0][4]) / 1000 - time.time()) < 60, words[0]
    assert PIN.decode() not in rig.counts.read_text() + done.stderr


@check("C_Sign note: each C_Sign is in the counts")
def note(rig, token):
    rig.control("C_Sign note", "C_Sign rv=5 after=1 late")
    same([token.sign(token.s, token.keys[1])[0] for _ in range(2)], [0, 5])
    same([word[1:4] for word in rig.noted()], [["C_Sign", "0x0", "real"], ["C_Sign", "0x5", "late"]])


@check("a control file that is not understood makes every call fail, until it is mended")
def broken(rig, token):
    for line in ("C_Sing rv=1", "C_Sign", "C_Sign rv=x", "C_SignInit corrupt", "C_Sign rv=1 crash", "C_Sign limit=3",
                 "C_Sign rv=1 once=x times=2", "C_Sign rv=1 once=../x", "C_Sign flags=+1", "C_FindObjects* empty", "sleep", "C_Sign attr=1 rv=1", "C_Sign delay_ms"):
        rig.control("# a comment", "", "C_Login rv=1", line)
        same(token.info()[0], 0x80005348, line)
    rig.control("# a comment", "", "C_Login rv=1 # and why")
    same(token.info()[0], OK)
    rig.file.unlink()
    rig.file.mkdir()
    same(token.info()[0], 0x80005348, "unreadable")
    rig.file.rmdir()
    rig.file.symlink_to(rig.file)
    same(token.info()[0], 0x80005348, "a link to itself")
    rig.file.unlink()
    same(token.info()[0], OK, "absent")


@check("four threads, file replaced all the while: times=200 is 200 exactly, and nothing else fails")
def threads(rig, token):
    rule, key = "C_Sign rv=0x31 times=200 late", token.keys[1]
    sessions = [token.fresh() for _ in range(4)]
    found = []
    rig.control(rule)

    def work(session):
        found.extend([token.sign(session, key)[0] for _ in range(300)])
    workers = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for worker in workers:
        worker.start()
    turns = 0
    while any(worker.is_alive() for worker in workers):
        turns += 1
        rig.control(rule, *["C_Digest rv=5"] * (turns % 3))
        time.sleep(0.001)
    same((found.count(0x31), found.count(OK), turns > 3), (200, 1000, True))


@check("SHIM_STAT_MS=200: a new file is seen within that time, not at once")
def pause(rig, token):
    code = f"""
t = Token(Module(SHIM))
os.rename({str(rig.folder / 'next')!r}, {str(rig.file)!r})
print(t.info()[0], time.sleep(0.25), t.info()[0])
"""
    rig.control()
    (rig.folder / "next").write_text("C_GetTokenInfo rv=0x32\n" if rig.reach else "")
    same(rig.child(code, SHIM_STAT_MS="200").stdout.split(), ["0", "None", "50"])


# ---------------------------------------------------------------------------------------------------------------------

def make_token(rig):
    (rig.folder / "tokens").mkdir()
    (rig.folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {rig.folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN.decode(), "--so-pin",
               SO_PIN.decode()]
    subprocess.run(command, env=rig.environment(), check=True, stdout=subprocess.DEVNULL)


def prepare(rig, token):
    """Each check starts with no rules, one session of its own and a key pair in it."""
    rig.file.unlink(missing_ok=True)
    token.initialize()
    token.m.CloseAllSessions(token.slot)
    token.s, token.fresh = token.session(), token.session
    same(token.login(token.s), OK)
    token.keys = token.key_pair(token.s)
    rig.counts.unlink(missing_ok=True)


def main():
    reach = "--without-faults" not in sys.argv
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", HERE / "Cargo.toml"],
                   check=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="shim-") as folder:
        rig = Rig(folder, reach)
        make_token(rig)
        os.environ.update(rig.environment())
        token = Token(Module(SHIM))
        for what, fault, function in CHECKS:
            signal.alarm(120)
            prepare(rig, token)  # What fails here is no verdict on a fault, and ends the run.
            try:
                said, ok = function(rig, token), True
            except AssertionError as why:
                said, ok = why, False
            expected = ok if reach or not fault else not ok
            wrong += not expected
            print(f"{'ok  ' if ok else 'FAIL'} {what}" + (f" ({said})" if said else ""), flush=True)
    print(f"{len(CHECKS) - wrong} of {len(CHECKS)} as they should be")
    sys.stdout.flush()
    os._exit(1 if wrong else 0)  # Without SoftHSM's destructors, which may crash at exit.


if __name__ == "__main__":
    main()
