#!/usr/bin/env python3
"""Whether the throw-away tokens of prepare.py work: a login, a P-256 key made inside, and a signature that is right.

    check.py [NAME...]    all of them, or the named ones; one line per check. Exits with 1 when one failed
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cryptoki
import curves
import prepare

PREPARE = [sys.executable, str(Path(__file__).with_name("prepare.py"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(prepare.TOKENS))
    # A module reads its environment when it is loaded, so each has a process of its own.
    parser.add_argument("--within", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if unknown := set(words.names) - set(prepare.TOKENS):
        parser.error(f"no such token: {', '.join(sorted(unknown))}")
    if words.within:
        return run(words.names[0], json.loads(words.within))
    # A list, not a generator: one failure must not skip the rest.
    return max([check(name) for name in words.names or prepare.TOKENS])


def check(name):
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        made = subprocess.run([*PREPARE, name, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        why = " ".join(made.stderr.split())
        if made.returncode == prepare.MISSING:
            print(f"skipped: {why}", flush=True)
            return 0
        if made.returncode:
            return say(name, "prepare", why or "failed")
        say(name, "prepare")
        token = json.loads(made.stdout)
        try:
            within = [sys.executable, __file__, name, "--within", json.dumps(token)]
            code = subprocess.run(within, env={**os.environ, **token["env"]}, timeout=60).returncode
            if code not in (0, 1):
                say(name, "module", f"its process ended with {code}")
            failed = 1 if code else pkcs11_tool(name, token, Path(folder))
        except subprocess.TimeoutExpired:
            failed = say(name, "module", "hung for 60 s")
        finally:
            stopped = subprocess.run([*PREPARE, "stop", folder], stderr=subprocess.PIPE, text=True)
        return max(failed, say(name, "stop", stopped.stderr.strip() if stopped.returncode else None))


def say(name, what, fault=None):
    print(f"{name}: {what}: {fault or 'ok'}", flush=True)
    return 1 if fault else 0


def run(name, token):
    """The checks within the module's own process."""
    what = "load"
    try:
        module = cryptoki.Module(token["module"], token.get("init"))
        slot = module.slot_of(token["label"])
        say(name, what)
        what = "a wrong PIN is refused"
        wrong = "0" * len(token["pin"])
        try:
            with module.session(slot, cryptoki.CKU_USER, wrong):
                return say(name, what, "it was accepted")
        except cryptoki.Refused as why:
            if why.name != "PIN_INCORRECT":
                return say(name, what, str(why))
            say(name, what)
        what = "login"
        with module.session(slot, cryptoki.CKU_USER, token["pin"]) as session:
            say(name, what)
            what = "P-256 key generation"
            public, private = session.generate_pair(cryptoki.mechanism("CKM_EC_KEY_PAIR_GEN"), *p256_templates())
            say(name, what)
            what = "signature"
            digest = hashlib.sha256(b"claviger").digest()
            signature = session.sign(cryptoki.mechanism("CKM_ECDSA"), private, digest)
            point, _ = curves.point_of(session.attribute(public, cryptoki.CKA_EC_POINT), 65)
            if not curves.P256.verify(point, digest, signature):
                return say(name, what, "it is not right")
            say(name, what)
        what = "the key is there for the next login"
        with module.session(slot, cryptoki.CKU_USER, token["pin"]) as session:
            found = session.find({cryptoki.CKA_CLASS: cryptoki.CKO_PRIVATE_KEY, cryptoki.CKA_ID: b"\1"})
            if len(found) != 1:
                return say(name, what, f"found {len(found)}")
            session.sign(cryptoki.mechanism("CKM_ECDSA"), found[0], digest)
            say(name, what)
        module.finalize()
    except (cryptoki.Refused, cryptoki.Absent) as why:
        return say(name, what, str(why))
    return 0


def p256_templates():
    both = {cryptoki.CKA_TOKEN: True, cryptoki.CKA_LABEL: b"check", cryptoki.CKA_ID: b"\1"}
    secret = {cryptoki.CKA_PRIVATE: True, cryptoki.CKA_SENSITIVE: True, cryptoki.CKA_EXTRACTABLE: False}
    return (
        {**both, cryptoki.CKA_VERIFY: True, cryptoki.CKA_EC_PARAMS: curves.P256.params},
        {**both, **secret, cryptoki.CKA_SIGN: True},
    )


def pkcs11_tool(name, token, folder):
    """The same by somebody else's program, with the key that was made before."""
    tool = prepare.program("pkcs11-tool")
    what = "pkcs11-tool signs"
    if tool is None or "init" in token:
        why = "it cannot pass an init string" if tool else "no pkcs11-tool here"
        print(f"skipped: {name}: {what}: {why}", flush=True)
        return 0
    (folder / "digest").write_bytes(hashlib.sha256(b"claviger").digest())
    words = ["--module", token["module"], "--token-label", token["label"], "--login", "--pin", token["pin"], "--sign"]
    words += ["--mechanism", "ECDSA", "--id", "01", "--input-file", str(folder / "digest")]
    words += ["--output-file", str(folder / "signature")]
    ran = subprocess.run([tool, *words], env={**os.environ, **token["env"]}, capture_output=True, text=True, timeout=60)
    if ran.returncode or (folder / "signature").stat().st_size != 64:
        return say(name, what, " ".join(ran.stderr.split()) or "no signature of 64 bytes")
    return say(name, what)


if __name__ == "__main__":
    sys.exit(main())
