#!/usr/bin/env python3
"""Throw-away tokens of other people's PKCS#11 modules, for tests. Standard library only.

    prepare.py softhsm2|kryoptic|nss|tpm2 DIR   a new token in DIR, which must be empty or absent; one line of JSON:
                                                {"module", "env", "label", "pin", "so_pin"}, and for
                                                nss   "init": goes into pReserved of C_Initialize
                                                tpm2  "pids": a TPM, a bus and a broker that must go on running
    prepare.py stop DIR                         ends what runs for the token in DIR
    prepare.py available                        what can be made here, and what is missing for the rest
    prepare.py install                          installs the missing Debian packages (root)

Exit codes: 0 done, 1 it broke, 2 wrong words, 3 something is missing here, said in one sentence: skip with it as reason.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cryptoki

HERE = Path(__file__).resolve().parent
WRAPPER = HERE / "kryoptic"
LABEL = "claviger"
MISSING = 3


class Missing(Exception):
    """The token cannot be made on this machine; the text says why."""


class Broken(Exception):
    """The token should have been made and was not; the text says why."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*TOKENS, "stop", "available", "install"])
    parser.add_argument("dir", nargs="?", type=Path, metavar="DIR")
    words = parser.parse_args()
    if (words.dir is None) != (words.what in ("available", "install")):
        parser.error(f"{words.what} takes {'a' if words.dir is None else 'no'} folder")
    try:
        if words.what == "available":
            available()
        elif words.what == "install":
            install()
        elif words.what == "stop":
            stop(words.dir)
        else:
            print(json.dumps(make(words.what, words.dir)), flush=True)
    except Missing as why:
        print(f"{words.what}: {why}", file=sys.stderr)
        return MISSING
    except (Broken, cryptoki.Refused, cryptoki.Absent, OSError, subprocess.SubprocessError) as why:
        print(f"{words.what}: {why}", file=sys.stderr)
        return 1
    return 0


def make(name, folder):
    require(name)
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Broken(f"{folder} is not empty")
    token = {"label": LABEL, "pin": secrets.token_hex(8), "so_pin": secrets.token_hex(8)}
    return TOKENS[name]["make"](folder, token)


def initialise(token):
    """Sets label and PINs of the first token that has none yet."""
    os.environ.update(token["env"])
    module = cryptoki.Module(token["module"], token.get("init"))
    blank = [s for s in module.slots() if not module.token(s).flags & cryptoki.CKF_TOKEN_INITIALIZED]
    if not blank:
        raise Broken("the module has no slot without a token")
    module.init_token(blank[0], token["so_pin"], token["label"])
    # SoftHSM numbers the slot anew.
    with module.session(module.slot_of(token["label"]), cryptoki.CKU_SO, token["so_pin"]) as session:
        session.init_pin(token["pin"])
    module.finalize()
    return token


# --- what a machine must have ---


def libraries(*names):
    """The first of the paths below the places where Debian and others keep modules."""
    roots = [f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib", "/usr/lib64"]
    return next((p for name in names for root in roots if (p := Path(root, name)).exists()), None)


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def softhsm_module():
    return libraries("softhsm/libsofthsm2.so", "pkcs11/libsofthsm2.so")


def nss_module():
    return libraries("libsoftokn3.so", "nss/libsoftokn3.so")


def tpm2_module():
    return libraries("pkcs11/libtpm2_pkcs11.so", "libtpm2_pkcs11.so.1")


def lacks(name):
    """Pairs of what is missing and the Debian package that has it; none for what Debian has not."""
    return [(what, package) for what, package, found in TOKENS[name]["needs"]() if not found]


def require(name):
    missing = lacks(name)
    if missing:
        raise Missing(sentence(missing))


def sentence(missing):
    said = "missing here: " + ", ".join(what for what, _ in missing)
    packages = [package for _, package in missing if package]
    return said + (f" (Debian packages: {' '.join(packages)})" if packages else "")


def available():
    for name in TOKENS:
        missing = lacks(name)
        if missing:
            print(f"missing {name}: {sentence(missing)}")
        elif name == "kryoptic" and not kryoptic_module().exists():
            print(f"ok {name} (is built at first use: minutes, and needs crates.io and PyPI)")
        else:
            print(f"ok {name}")


def install():
    packages = sorted({package for name in TOKENS for _, package in lacks(name) if package})
    if not packages:
        return
    if os.geteuid() != 0 or not program("apt-get"):
        raise Missing(f"needs root and apt-get; install first: {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *words], env=env, stdout=sys.stderr, check=True)


# --- SoftHSM ---


def softhsm2(folder, token):
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    return initialise({"module": str(softhsm_module()), "env": {"SOFTHSM2_CONF": str(conf)}, **token})


# --- Kryoptic ---


def cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "claviger"


def kryoptic_module():
    """Where the module of these very sources is kept."""
    sources = ["Cargo.toml", "Cargo.lock", "requirements.txt", "src/lib.rs"]
    key = hashlib.sha256(platform.machine().encode())
    for source in sources:
        key.update((WRAPPER / source).read_bytes())
    pinned = (WRAPPER / "Cargo.toml").read_text().split('kryoptic-lib = { version = "=', 1)[1]
    version = pinned.split('"', 1)[0]
    return cache() / f"kryoptic-{version}" / key.hexdigest()[:16] / "libkryoptic_pkcs11.so"


def build_kryoptic():
    module = kryoptic_module()
    home = module.parent.parent
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        # Test binaries run side by side; the first one builds, the others find the module.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not module.exists():
            compile_kryoptic(home, module)
    return module


def compile_kryoptic(home, module):
    began = time.monotonic()
    log = home / "build.log"
    print(f"kryoptic: building, see {log}", file=sys.stderr)
    log.write_text("")

    def run(words, **more):
        with log.open("a") as out:
            return subprocess.run(["nice", "-n", "15", *map(str, words)], stdout=out, stderr=out, **more).returncode == 0

    def say(what):
        lines = log.read_text(errors="replace").splitlines()
        return "\n".join([what, *lines[-20:]])

    env = dict(os.environ)
    # What the product's build is told must not leak into a module that is kept for all of them.
    for name in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "OPENSSL_NO_VENDOR"):
        env.pop(name, None)
    if not run(["cargo", "fetch", "--locked"], cwd=WRAPPER, env=env):
        raise Missing(say("crates.io cannot be reached"))
    if "LIBCLANG_PATH" not in env:
        env["LIBCLANG_PATH"] = str(libclang(home, run, say))
    # The wheel has no headers of its own, not even stddef.h.
    headers = subprocess.run(["gcc", "-print-file-name=include"], capture_output=True, text=True, check=True).stdout
    env["BINDGEN_EXTRA_CLANG_ARGS"] = f"-I{headers.strip()}"
    target = home / "target"
    if not run(["cargo", "build", "--release", "--locked", "--target-dir", target], cwd=WRAPPER, env=env):
        raise Broken(say("the build failed"))
    module.parent.mkdir(exist_ok=True)
    part = module.with_suffix(".part")
    shutil.copy(target / "release" / module.name, part)
    part.rename(module)
    # Half a gigabyte that nobody needs again.
    shutil.rmtree(target)
    print(f"kryoptic: {time.monotonic() - began:.0f} s, {module.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


def libclang(home, run, say):
    venv = home / "venv"
    found = list(venv.glob("lib/python3*/site-packages/clang/native/libclang.so"))
    if not found:
        shutil.rmtree(venv, ignore_errors=True)
        if not run([sys.executable, "-m", "venv", venv]):
            raise Broken(say("no venv could be made"))
        pip = [venv / "bin/pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        if not run([*pip, "-r", WRAPPER / "requirements.txt"]):
            raise Missing(say("the libclang wheel cannot be fetched from PyPI"))
        found = list(venv.glob("lib/python3*/site-packages/clang/native/libclang.so"))
    return found[0].parent


def kryoptic(folder, token):
    module = build_kryoptic()
    conf = folder / "kryoptic.conf"
    conf.write_text(f'[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = {json.dumps(str(folder / "token.sql"))}\n')
    return initialise({"module": str(module), "env": {"KRYOPTIC_CONF": str(conf)}, **token})


# --- NSS ---


def nss(folder, token):
    # A key database is no token with a label and an SO: the label is an init word, and as long as there is no PIN
    # everybody may set one as SO with an empty PIN.
    token["init"] = f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='{LABEL}'"
    token = {"module": str(nss_module()), "env": {}, **token, "so_pin": ""}
    module = cryptoki.Module(token["module"], token["init"])
    with module.session(module.slot_of(LABEL), cryptoki.CKU_SO) as session:
        session.init_pin(token["pin"])
    module.finalize()
    return token


# --- TPM 2.0 ---

# tpm2-pkcs11 keeps objects loaded, and a TPM has room for three: a broker must swap them.


def tpm2(folder, token):
    bus = f"unix:path={folder}/bus"
    if len(bus) > 100:
        raise Broken(f"{folder} is too long for the path of a socket")
    (folder / "tpm").mkdir()
    (folder / "store").mkdir()
    env = {
        "TPM2_PKCS11_STORE": f"{folder}/store",
        "TPM2_PKCS11_BACKEND": "esysdb",
        "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
        "TPM2_PKCS11_LOG_LEVEL": "0",
        "TSS2_LOG": "all+none",
        "DBUS_SESSION_BUS_ADDRESS": bus,
    }
    servers = Servers(folder, {**os.environ, **env})
    try:
        port = servers.start_tpm()
        bus_words = ["--session", "--nofork", "--nopidfile", f"--address={bus}"]
        servers.start("dbus-daemon", bus_words, until=lambda: (folder / "bus").exists())
        broker_words = ["--session", "--flush-all", f"--tcti=swtpm:host=127.0.0.1,port={port}"]
        root = ["--allow-root"] if os.geteuid() == 0 else []
        servers.start("tpm2-abrmd", broker_words + root, until=servers.broker_answers)
        made = initialise({"module": str(tpm2_module()), "env": env, **token})
        return {**made, "pids": servers.pids()}
    except BaseException:
        servers.stop()
        raise


class Servers:
    """What must go on running for a token. A file in its folder says which processes these are."""

    def __init__(self, folder, env=None):
        self.folder = folder
        self.file = folder / "servers.json"
        self.env = env
        self.running = json.loads(self.file.read_text()) if self.file.exists() else []

    def start(self, name, words, until):
        log = self.folder / f"{name}.log"
        with log.open("w") as out:
            child = subprocess.Popen(
                [program(name), *words], env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.running.append({"name": name, "pid": child.pid, "born": born(child.pid)})
        self.file.write_text(json.dumps(self.running))
        end = time.monotonic() + 10
        while child.poll() is None and time.monotonic() < end:
            if until():
                return
            time.sleep(0.02)
        ended(self.running.pop(), signal.SIGKILL)
        raise Broken(f"{name} did not start: {log.read_text(errors='replace').strip()[-400:]}")

    def start_tpm(self):
        """Starts a TPM at two ports in a row, as its client wants them; returns the first."""
        for _ in range(20):
            port = secrets.randbelow(16000) + 16000
            state = ["--tpmstate", f"dir={self.folder}/tpm", "--flags", "not-need-init,startup-clear"]
            ports = ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
            try:
                self.start("swtpm", ["socket", "--tpm2", *state, *ports], until=lambda: listens(port) and listens(port + 1))
                return port
            except Broken as why:
                # Somebody else's port.
                if "bind" not in str(why) and "in use" not in str(why):
                    raise
        raise Broken("no two free ports in a row")

    def broker_answers(self):
        ask = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
        ask += ["org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd"]
        said = subprocess.run(ask, env=self.env, capture_output=True, text=True)
        return "boolean true" in said.stdout

    def pids(self):
        return [server["pid"] for server in self.running]

    def stop(self):
        # The last one first: the broker still talks to the others.
        for server in reversed(self.running):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if ended(server, sign):
                    break
            else:
                raise Broken(f"{server['name']} {server['pid']} does not end")
        self.file.unlink(missing_ok=True)


def born(pid):
    """When a process began, in ticks since boot: with its number it names one process for good. None if it is gone."""
    try:
        # The second field is a name in brackets, which may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else rest[18]


def ended(server, sign):
    end = time.monotonic() + 5
    if born(server["pid"]) == server["born"]:
        os.kill(server["pid"], sign)
    while born(server["pid"]) == server["born"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def listens(port):
    """Whether somebody listens at the port, without a connection, which the TPM might take for its client's."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


def stop(folder):
    Servers(folder.absolute()).stop()


TOKENS = {
    "softhsm2": {"make": softhsm2, "needs": lambda: [("SoftHSM", "softhsm2", softhsm_module())]},
    "kryoptic": {
        "make": kryoptic,
        "needs": lambda: kryoptic_module().exists() and [] or [
            ("cargo", None, program("cargo")),
            ("gcc", "gcc", program("gcc")),
            ("make", "make", program("make")),
            ("perl", "perl", program("perl")),
        ],
    },
    "nss": {"make": nss, "needs": lambda: [("NSS softokn", "libnss3", nss_module())]},
    "tpm2": {
        "make": tpm2,
        "needs": lambda: [
            ("tpm2-pkcs11", "libtpm2-pkcs11-1", tpm2_module()),
            ("swtpm", "swtpm", program("swtpm")),
            ("tpm2-abrmd", "tpm2-abrmd", program("tpm2-abrmd")),
            ("the broker's client", "libtss2-tcti-tabrmd0", libraries("libtss2-tcti-tabrmd.so.0")),
            ("the TPM's client", "libtss2-tcti-swtpm0", libraries("libtss2-tcti-swtpm.so.0")),
            ("dbus-daemon", "dbus-daemon", program("dbus-daemon")),
            ("dbus-send", "dbus-bin", program("dbus-send")),
        ],
    },
}


if __name__ == "__main__":
    sys.exit(main())
