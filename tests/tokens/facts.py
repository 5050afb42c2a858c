#!/usr/bin/env python3
"""What a PKCS#11 module does, as JSON: found by doing, not by asking it. The draft of a profile (../../hsm-profiles).

    facts.py NAME...       of the throw-away tokens of prepare.py; each group of facts gets a token of its own
    facts.py TOKEN-JSON    of a token described in such a file, a real one perhaps: leaves out what locks or wipes it.
                           Makes keys with the label "facts" and removes them again
    facts.py --table FILE  of what was printed before: the table of README.md

A refusal is named by its code without CKR_. "control" is the same call where it is allowed: if that is not OK, a
refusal next to it proves nothing.
"""

import argparse
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cryptoki as ck
import curves
import prepare

PREPARE = [sys.executable, str(Path(__file__).with_name("prepare.py"))]
DIGEST = hashlib.sha256(b"claviger").digest()
SESSIONS_TRIED = 2000
PINS_TRIED = 15
SECONDS = 60

# --- keys to try things on ---


def ec_templates(curve, **private):
    """Templates for a pair as a payment key has it, with what `private` says otherwise."""
    name = {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"facts", ck.CKA_ID: secrets.token_bytes(8)}
    own = {"PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False, "SIGN": True, **private}
    own = {getattr(ck, f"CKA_{key}"): value for key, value in own.items()}
    return {**name, ck.CKA_VERIFY: True, ck.CKA_EC_PARAMS: curve.params}, {**name, **own}


def p256_key(session, **private):
    return session.generate_pair(ck.mechanism("CKM_EC_KEY_PAIR_GEN"), *ec_templates(curves.P256, **private))[1]


def sign(session, key):
    return session.sign(ck.mechanism("CKM_ECDSA"), key, DIGEST)


def code(call, *args, **more):
    """OK, or the name of the refusal."""
    return told(call, *args, **more)[0]


def told(call, *args, **more):
    """The same, and what the call returned."""
    try:
        return "OK", call(*args, **more)
    except ck.Refused as why:
        return why.name, None
    except ck.Absent:
        return "absent", None


def flag(session, key, kind):
    """The truth of an attribute, or why it cannot be read."""
    said, value = told(session.attribute, key, kind)
    return bool(value[0]) if value else said


# --- the groups ---


def identity(token, facts):
    with logged_in(token) as (module, slot, _):
        info, about = module.info(), module.token(slot)
        facts["library"] = f"{ck.text(info.description)} {info.version[0]}.{info.version[1]}"
        facts["cryptoki"] = f"{info.cryptoki[0]}.{info.cryptoki[1]}"
        facts["token"] = f"{ck.text(about.manufacturer)} {ck.text(about.model)}"
        facts["pin_length"] = [about.min_pin, about.max_pin]


def sessions(token, facts):
    with logged_in(token) as (module, slot, session):
        about = module.token(slot)
        key = p256_key(session)
        said = {0: "infinite", ck.UNAVAILABLE: "not told"}
        facts["said_max"] = said.get(about.max_sessions, about.max_sessions)
        opened, answer = [session], "OK"
        while len(opened) < SESSIONS_TRIED and answer == "OK":
            answer, more = told(module.open, slot)
            if more:
                opened.append(more)
        facts["opened"] = len(opened)
        facts["then"] = answer if answer != "OK" else "not tried"
        for more in opened[1:]:
            more.close()
        read_only = module.open(slot, read_only=True)
        facts["read_only_signs"] = code(sign, read_only, key)


def mechanisms(token, facts):
    with logged_in(token) as (module, slot, _):
        listed = module.mechanisms(slot)
        facts["count"] = len(listed)
        for name, number in ck.MECHANISMS.items():
            facts[name] = number in listed


def algorithms(token, facts):
    ways = {
        "secp256k1": (curves.SECP256K1, "CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA", 65),
        "p256": (curves.P256, "CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA", 65),
        "ed25519": (curves.ED25519, "CKM_EC_EDWARDS_KEY_PAIR_GEN", "CKM_EDDSA", 32),
    }
    with logged_in(token) as (_, _, session):
        for name, (curve, generator, signer, length) in ways.items():
            answer, pair = told(session.generate_pair, ck.mechanism(generator), *ec_templates(curve))
            facts[name] = {"generate": answer}
            if not pair:
                continue
            public, private = pair
            facts[name]["sign"], signature = told(session.sign, ck.mechanism(signer), private, DIGEST)
            point, encoding = curves.point_of(session.attribute(public, ck.CKA_EC_POINT), length)
            facts[name]["point"] = encoding
            if signature:
                facts[name]["signature_is_right"] = curve.verify(point, DIGEST, signature)


def secrecy(token, facts):
    with logged_in(token) as (_, _, session):
        key = p256_key(session)
        facts["made"] = {
            "local": flag(session, key, ck.CKA_LOCAL),
            "always_sensitive": flag(session, key, ck.CKA_ALWAYS_SENSITIVE),
            "never_extractable": flag(session, key, ck.CKA_NEVER_EXTRACTABLE),
        }
        weaker = {"sensitive_false": {ck.CKA_SENSITIVE: False}, "extractable_true": {ck.CKA_EXTRACTABLE: True}}
        facts["read_value"] = code(session.attribute, key, ck.CKA_VALUE)
        facts["set"] = {}
        facts["copy"] = {"control": code(session.copy, key, {ck.CKA_LABEL: b"facts"})}
        for name, change in weaker.items():
            answer, copied = told(session.copy, key, {ck.CKA_LABEL: b"facts", **change})
            facts["copy"][name] = answer
            if copied:
                facts["copy"][f"{name}_then"] = strength(session, copied)
        for name, change in weaker.items():
            # A key for each, so that one change cannot make way for the other.
            key = p256_key(session)
            facts["set"][name] = code(session.set, key, change)
            if facts["set"][name] == "OK":
                facts["set"][f"{name}_then"] = strength(session, key)
        key = p256_key(session)
        if [code(session.set, key, change) for change in weaker.values()] == ["OK", "OK"]:
            facts["set"]["both_then"] = strength(session, key)
        for name in ("COPYABLE", "MODIFIABLE"):
            facts[f"made_with_{name}_false"] = code(p256_key, session, **{name: False})


def strength(session, key):
    return {
        "sensitive": flag(session, key, ck.CKA_SENSITIVE),
        "extractable": flag(session, key, ck.CKA_EXTRACTABLE),
        "read_value": code(session.attribute, key, ck.CKA_VALUE),
    }


def purpose(token, facts):
    with logged_in(token) as (_, _, session):
        answer, key = told(p256_key, session, SIGN=False)
        facts["sign"] = {"control": code(sign, session, p256_key(session))}
        facts["sign"]["refused"] = code(sign, session, key) if key else f"no such key: {answer}"
        facts["derive_if_unstated"] = flag(session, p256_key(session), ck.CKA_DERIVE)
        for name, attempt in (("derive", derive), ("decrypt", decrypt)):
            facts[name] = {"control": attempt(session, True), "refused": attempt(session, False)}
        # A purpose that may be added later is none, unless CKA_MODIFIABLE keeps it.
        facts["sign_added"] = sign_added(session)
        facts["sign_added_to_unmodifiable"] = sign_added(session, MODIFIABLE=False)


def sign_added(session, **private):
    answer, key = told(p256_key, session, SIGN=False, **private)
    if not key:
        return f"no such key: {answer}"
    answer = code(session.set, key, {ck.CKA_SIGN: True})
    return f"{answer}, then sign: {code(sign, session, key)}" if answer == "OK" else answer


def derive(session, derives):
    answer, key = told(p256_key, session, SIGN=not derives, DERIVE=derives)
    if not key:
        return f"no such key: {answer}"
    point = curves.P256.encoded_base()
    how = ck.mechanism("CKM_ECDH1_DERIVE", ck.EcdhParameters(ck.CKD_NULL, 0, None, len(point), point))
    wanted = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE_LEN: 32}
    wanted |= {ck.CKA_TOKEN: False, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
    return code(session.derive, how, key, wanted)


def decrypt(session, decrypts):
    """With an RSA key, as EC keys decrypt nowhere."""
    name = {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"facts", ck.CKA_ID: secrets.token_bytes(8)}
    public = {**name, ck.CKA_MODULUS_BITS: 2048, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1"}
    public[ck.CKA_ENCRYPT if decrypts else ck.CKA_VERIFY] = True
    private = {**name, ck.CKA_PRIVATE: True, ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False}
    private |= {ck.CKA_SIGN: not decrypts, ck.CKA_DECRYPT: decrypts}
    answer, pair = told(session.generate_pair, ck.mechanism("CKM_RSA_PKCS_KEY_PAIR_GEN"), public, private)
    if not pair:
        return f"no such key: {answer}"
    modulus = int.from_bytes(session.attribute(pair[0], ck.CKA_MODULUS), "big")
    padded = b"\0\2" + b"\xff" * (253 - len(DIGEST)) + b"\0" + DIGEST
    sealed = pow(int.from_bytes(padded, "big"), 65537, modulus).to_bytes(256, "big")
    answer, opened = told(session.decrypt, ck.mechanism("CKM_RSA_PKCS"), pair[1], sealed)
    return "another plaintext" if opened not in (None, DIGEST) else answer


def wrapping(token, facts):
    ways = {
        "CKM_AES_KEY_WRAP": None,
        "CKM_AES_KEY_WRAP_PAD": None,
        "CKM_AES_KEY_WRAP_KWP": None,
        "CKM_AES_KEY_WRAP_PKCS7": None,
        "CKM_AES_CBC_PAD": secrets.token_bytes(16),
        "CKM_AES_GCM": ck.GcmParameters(secrets.token_bytes(12), 12, 96, None, 0, 128),
    }
    aes = {ck.CKA_TOKEN: False, ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False, ck.CKA_VALUE_LEN: 32}
    aes |= {ck.CKA_WRAP: True, ck.CKA_LABEL: b"facts"}
    with logged_in(token) as (_, _, session):
        answer, wrapper = told(session.generate, ck.mechanism("CKM_AES_KEY_GEN"), aes)
        facts["aes_key"] = answer
        targets = {
            "control": {"EXTRACTABLE": True},
            "unextractable": {"EXTRACTABLE": False},
            "with_trusted_only": {"EXTRACTABLE": True, "WRAP_WITH_TRUSTED": True},
        }
        keys = {name: told(p256_key, session, **private) for name, private in targets.items()}
        wraps = []
        for how, parameter in ways.items() if wrapper else ():
            facts[how] = row = {}
            for name, (made, key) in keys.items():
                answer, blob = told(session.wrap, ck.mechanism(how, parameter), wrapper, key) if key else (made, None)
                row[name] = f"OK, {len(blob)} bytes" if blob else answer
            if row["control"].startswith("OK"):
                wraps.append(ck.mechanism(how, parameter))
        if not wrapper:
            # The order of checks is the module's: only a call that does not exist is an answer.
            facts["call"] = code(session.wrap, ck.mechanism("CKM_AES_KEY_WRAP"), keys["control"][1] or 0, keys["control"][1] or 0)
        made, key = keys["with_trusted_only"]
        facts["with_trusted_key"] = made
        if key:
            facts["with_trusted_reads"] = flag(session, key, ck.CKA_WRAP_WITH_TRUSTED)
            facts["with_trusted_reset"] = code(session.set, key, {ck.CKA_WRAP_WITH_TRUSTED: False})
        answer, trusted = told(session.generate, ck.mechanism("CKM_AES_KEY_GEN"), {**aes, ck.CKA_TRUSTED: True})
        facts["user_makes_trusted"] = answer
        answer, key = told(p256_key, session, **targets["with_trusted_only"])
        if trusted and key and wraps:
            facts["wrapped_with_it"] = code(session.wrap, wraps[0], trusted, key)
        facts["user_sets_trusted"] = code(session.set, wrapper, {ck.CKA_TRUSTED: True}) if wrapper else "no key"


def allowed_mechanisms(token, facts):
    def only(name):
        return {"ALLOWED_MECHANISMS": bytes(ck.ULONG(ck.MECHANISMS[name]))}

    with logged_in(token) as (_, _, session):
        for kind, more in (("token", {}), ("session", {"TOKEN": False})):
            facts[kind] = {}
            for name, mechanism in (("control", "CKM_ECDSA"), ("refused", "CKM_ECDSA_SHA256")):
                answer, key = told(p256_key, session, **more, **only(mechanism))
                facts[kind][name] = code(sign, session, key) if key else f"no such key: {answer}"


def lost(token, facts):
    """What each way to lose a session or a login looks like."""
    module, slot = load(token)
    user = ck.CKU_USER, token["pin"]
    first = module.open(slot)
    first.login(*user)
    key = p256_key(first)
    facts["login_again"] = code(module.open(slot).login, *user)
    facts["login_again_wrong_pin"] = code(first.login, ck.CKU_USER, wrong(token))
    gone = p256_key(first)
    first.call("C_DestroyObject", gone)
    facts["key_destroyed"] = code(sign, first, gone)
    first.call("C_SignInit", ctypes.byref(ck.mechanism("CKM_ECDSA")), key)
    facts["operation_left_open"] = code(sign, first, key)

    other = module.open(slot)
    other.close()
    facts["session_closed"] = code(sign, other, key)
    second = module.open(slot)
    second.logout()
    facts["logged_out"] = code(sign, second, key)
    second.login(*user)
    facts["handle_after_new_login"] = code(sign, second, key)
    module.call("C_CloseAllSessions", slot)
    facts["all_sessions_closed"] = code(sign, second, key)
    third = module.open(slot)
    facts["after_last_session"] = code(sign, third, key)
    module.finalize()
    facts["finalized"] = code(sign, third, key)


def taken_away(token, facts):
    """The files of the token vanish, or its broker dies, while a session is open."""
    module, slot = load(token)
    session = module.open(slot)
    session.login(ck.CKU_USER, token["pin"])
    key = p256_key(session)
    if "pids" in token:
        os.kill(token["pids"][-1], signal.SIGKILL)
    else:
        for path in Path(token["folder"]).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    facts["what"] = "broker killed" if "pids" in token else "files removed"
    facts["sign"] = code(sign, session, key)
    facts["sign_again"] = code(sign, session, key)
    facts["new_session"] = code(module.open, slot)
    facts["generate"] = code(p256_key, session)


def reinitialised(token, facts):
    """Another process wipes the token while a session is open."""
    module, slot = load(token)
    session = module.open(slot)
    session.login(ck.CKU_USER, token["pin"])
    key = p256_key(session)
    wipe = [sys.executable, __file__, "--wipe", json.dumps(token)]
    facts["wiped"] = subprocess.run(wipe, capture_output=True, text=True).stdout.strip() or "crashed"
    facts["sign"] = code(sign, session, key)
    facts["new_session"] = code(module.open, slot)


def wipe(token):
    os.environ.update(token["env"])
    module, slot = load(token)
    print(code(module.init_token, slot, token["so_pin"], token["label"]))


def pin_lock(token, facts):
    module, slot = load(token)
    names = {"COUNT_LOW": ck.CKF_USER_PIN_COUNT_LOW, "FINAL_TRY": ck.CKF_USER_PIN_FINAL_TRY, "LOCKED": ck.CKF_USER_PIN_LOCKED}
    session = module.open(slot)

    def flags():
        said = module.token(slot).flags
        return [name for name, bit in names.items() if said & bit]

    facts["flags_before"] = flags()
    facts["wrong"] = []
    facts["locked_at_try"] = None
    for number in range(1, PINS_TRIED + 1):
        answer = code(session.login, ck.CKU_USER, wrong(token))
        facts["wrong"].append(" ".join([answer, *flags()]))
        if answer != "PIN_INCORRECT":
            facts["locked_at_try"] = number
            break
    facts["right_pin_then"] = code(session.login, ck.CKU_USER, token["pin"])
    facts["flags_then"] = flags()
    if facts["right_pin_then"] != "OK":
        answer = code(session.login, ck.CKU_SO, token["so_pin"])
        facts["so_sets_pin"] = code(session.init_pin, token["pin"]) if answer == "OK" else f"SO login: {answer}"
        code(session.logout)
        facts["right_pin_after_so"] = code(session.login, ck.CKU_USER, token["pin"])


def wrong(token):
    return "0" * len(token["pin"])


HARMLESS = [identity, sessions, mechanisms, algorithms, secrecy, purpose, wrapping, allowed_mechanisms, lost]
DESTRUCTIVE = [pin_lock, reinitialised, taken_away]

# --- how a group is run ---


def load(token):
    module = ck.Module(token["module"], token.get("init"))
    return module, module.slot_of(token["label"])


@contextmanager
def logged_in(token):
    module, slot = load(token)
    with module.session(slot, ck.CKU_USER, token["pin"]) as session:
        yield module, slot, session


def sweep(token, facts):
    """Removes what the groups left on a token."""
    with logged_in(token) as (_, _, session):
        while found := session.find({ck.CKA_LABEL: b"facts"}):
            if "OK" not in [code(session.call, "C_DestroyObject", key) for key in found]:
                facts["left"] = len(found)
                return


class Facts(dict):
    """Facts that are told as they come, so that those before a crash are known."""

    def __init__(self, out):
        self.out = out

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        self.tell()

    def tell(self):
        print(json.dumps(self), file=self.out, flush=True)


def in_process(group, token):
    """Runs a group in a process of its own: a module that crashes or hangs is a fact too."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.environ.update(token["env"])
        signal.alarm(SECONDS)
        with open(writer, "w") as out:
            facts = Facts(out)
            try:
                group(token, facts)
            except (ck.Refused, ck.Absent) as why:
                facts["stopped"] = str(why)
            except Exception as why:
                facts["stopped"] = f"{type(why).__name__}: {why}"
            facts.tell()
        # Modules are known to crash in their destructors.
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        said = answer.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    facts = json.loads(said[-1]) if said else {}
    if status == -signal.SIGALRM:
        facts["stopped"] = f"hung for {SECONDS} s"
    elif status:
        facts["stopped"] = f"crashed: {signal.Signals(-status).name if status < 0 else status}"
    return facts


@contextmanager
def fresh(name):
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
        made = subprocess.run([*PREPARE, name, f"{folder}/token"], stdout=subprocess.PIPE, text=True)
        if made.returncode:
            raise SystemExit(made.returncode)
        # Outside the token's folder, which a group may empty.
        servers = Path(folder, "token", "servers.json")
        kept = servers.read_text() if servers.exists() else None
        try:
            yield {**json.loads(made.stdout), "folder": f"{folder}/token"}
        finally:
            if kept:
                servers.write_text(kept)
            subprocess.run([*PREPARE, "stop", f"{folder}/token"], check=True)


def facts_of(what):
    if what in prepare.TOKENS:
        facts = {"name": what}
        for group in HARMLESS + DESTRUCTIVE:
            with fresh(what) as token:
                facts[group.__name__] = in_process(group, token)
    else:
        token = json.loads(Path(what).read_text())
        facts = {"name": token["label"]}
        for group in HARMLESS:
            facts[group.__name__] = in_process(group, token)
        facts["sweep"] = in_process(sweep, token)
    facts["profile"] = profile(facts)
    return facts


def profile(facts):
    """The part of a profile that follows from the facts, by the names of ../../hsm-profiles. Null: not proved here."""

    def refused(row, control="control", tried="refused"):
        """Whether a call was refused, or null if it is refused where it is allowed, too."""
        return None if not row.get(control, "").startswith("OK") else not row[tried].startswith("OK")

    secrecy, purpose, wrapping = facts["secrecy"], facts["purpose"], facts["wrapping"]
    wraps = [refused(row, tried="unextractable") for row in wrapping.values() if isinstance(row, dict)]
    wraps += [True] if wrapping.get("call") == "FUNCTION_NOT_SUPPORTED" else []
    changes = [secrecy.get(way, {}).get(name) for way in ("set", "copy") for name in ("sensitive_false", "extractable_true")]
    uses = [refused(purpose.get(use, {})) for use in ("sign", "derive", "decrypt")]
    made = secrecy.get("made", {})
    return {
        "algorithms": [n for n, row in facts["algorithms"].items() if "signature_is_right" in row and row["signature_is_right"]],
        "read_write_sessions": facts["sessions"].get("read_only_signs") != "OK",
        "copyable": secrecy.get("made_with_COPYABLE_false") != "OK",
        "claims": {
            "made_inside": bool(made) and all(value is True for value in made.values()),
            "value_hidden": secrecy.get("read_value") not in ("OK", None),
            "attributes_fixed": "OK" not in changes and None not in changes,
            "wrap_refused": all_of(wraps),
            "purpose_enforced": all_of(uses),
        },
    }


def all_of(answers):
    """False if one is, else true if one is, else unknown."""
    return False if False in answers else True if True in answers else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="NAME|TOKEN-JSON", help=", ".join(prepare.TOKENS))
    parser.add_argument("--wipe", type=json.loads, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.wipe:
        wipe(words.wipe)
        return
    json.dump([facts_of(what) for what in words.what], sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
