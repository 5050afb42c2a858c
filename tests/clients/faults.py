#!/usr/bin/env python3
"""Injects faults of the token, its module and the module's process under load, and shows that the daemon copes.

    python3 tests/clients/faults.py [--only WORDS] [--keep]

After each fault: no wrong signature was given out, each one that was given has its INTENT and RESULT in the log,
clients were refused with stable codes only, service is back within 5 s by itself (after a PIN fault: once an operator
acted), and memory, threads and descriptors are as before. Needs what ./test installs and builds.
"""

import argparse
import os
import random
import re
import signal
import sys
import threading
import time

from faultrig import BACK_WITHIN, CALL_TIMEOUT_MS, OTHER_PIN, PIN, FaultLoad, FaultRig, check_log, end_process
from rig import Failed, must

GONE = {"token_gone", "token_timeout", "token_busy"}
LATE = GONE | {"busy"}
# What a daemon says that has just started, until the token has confirmed the state directory.
STARTED = LATE | {"stopping", "state_unconfirmed"}


def during(seconds, *rules, codes=GONE, see=()):
    """A fault of the module, for so long."""

    def inject(rig, _load):
        rig.fault(*rules)
        time.sleep(seconds)
        rig.fault()
        return time.monotonic()

    return inject, codes, see


def healed(seconds, rule, at_least):
    """A fault that no client notices; the shim's own count says that it happened."""

    def inject(rig, _load):
        since = rig.mark()
        rig.fault(f"{rule} note")
        time.sleep(seconds)
        rig.fault()
        end = time.monotonic()
        hits = sum(how == "fault" for _, _, _, how, _ in rig.calls(rule.split()[0], since))
        must(hits >= at_least, f"the fault happened {hits} times only")
        return end

    return inject, set(), ()


def with_kill(seconds, *rules, codes=GONE, see=("token_gone",)):
    """A fault that a worker meets as it starts."""

    def inject(rig, _load):
        rig.fault(*rules)
        end_process(rig.worker())
        time.sleep(seconds)
        rig.fault()
        return time.monotonic()

    return inject, codes, see


def stopped(rig, load, for_seconds=None):
    """The worker stands still. The daemon replaces it without waiting for the end of that."""
    pid = rig.worker()
    began = time.monotonic()
    end_process(pid, signal.SIGSTOP)
    if for_seconds is None or for_seconds > 4:
        # The fault's end for the clients is when the daemon gives the worker up, not when somebody continues it.
        load.back_after(began)
        must(rig.worker() != pid, "the worker that stands still is still in use")
    if for_seconds is None:
        return began
    time.sleep(max(0, began + for_seconds - time.monotonic()))
    end_process(pid, signal.SIGCONT)
    return time.monotonic()


def killed(rig, load):
    for _ in range(8):
        end_process(rig.worker())
        time.sleep(0.4)
    return time.monotonic()


def unplugged(rig, _load):
    away = rig.tokens.with_name("tokens-away")
    rig.tokens.rename(away)
    try:
        time.sleep(3)
    finally:
        away.rename(rig.tokens)
    return time.monotonic()


def one_session(rig, _load):
    """The token gives one session in place of two: served, said, and mended without a reconnection."""
    rig.fault("C_OpenSession limit=2")
    end_process(rig.worker())
    time.sleep(2)
    token = rig.token()
    must(token["state"] == "degraded" and "1 of 2" in token["reason"], f"not degraded: {token}")
    rig.fault()
    end = time.monotonic()
    while rig.token()["state"] != "usable":
        must(time.monotonic() < end + BACK_WITHIN, f"still {rig.token()}")
        time.sleep(0.05)
    must(rig.worker() == token["worker"], "the worker was replaced")
    return end


def corrupted(rig, load):
    """A bit of each signature is flipped: none may leave, and the log of the daemon says so aloud."""
    rig.fault("C_Sign corrupt")
    time.sleep(1)
    rig.fault("C_Sign corrupt=0")
    time.sleep(1)
    rig.fault()
    end = time.monotonic()
    alarms = (rig.dir / "clavigerd.log").read_text().count("does not verify")
    must(alarms >= load.histogram().get("signature_invalid", 0) > 0, f"{alarms} alarms for {load.histogram()}")
    return end


def locked(rig, logins, since, tries):
    """Waits for the locked state, and for what must not happen then: another login."""
    end = time.monotonic() + 15
    while rig.token()["state"] != "locked":
        must(time.monotonic() < end, f"not locked: {rig.token()}")
        time.sleep(0.05)
    time.sleep(2)
    token = rig.token()
    must(token["state"] == "locked", f"not locked any more: {token}")
    must("claviger unlock" in token["reason"], f"the state does not say what to do: {token['reason']}")
    sent = len(rig.calls("C_Login", since))
    must(sent == tries, f"the PIN was sent {sent} times and not {tries}: {rig.calls('C_Login', since)}")


def pin_changed(rig, load):
    """The PIN is rejected once, whatever clients do; an operator's unlock, wrong and then right, or a restart."""
    rig.change_pin(PIN, OTHER_PIN)
    since = rig.mark()
    end_process(rig.worker())
    locked(rig, load, since, 1)
    must(not rig.unlock(PIN), "a wrong PIN unlocked the token")
    locked(rig, load, since, 2)
    must(rig.unlock(OTHER_PIN), "the right PIN did not unlock the token")
    return time.monotonic()


def pin_changed_restart(rig, load):
    rig.change_pin(OTHER_PIN, PIN)
    since = rig.mark()
    end_process(rig.worker())
    locked(rig, load, since, 1)
    # The PIN file holds the right one already.
    rig.kill_daemon(signal.SIGTERM)
    rig.start_daemon()
    return time.monotonic()


def slow(rig, load):
    """More is asked than a slow token can do: it still does what it can, and nobody's turn comes too late."""
    each, sessions, seconds = 0.3, 2, 4
    rig.fault(f"C_Sign delay_ms={each * 1000:.0f}")
    time.sleep(2)
    before = len(load.times)
    time.sleep(seconds)
    done, possible = len(load.times) - before, seconds * sessions / each
    rig.fault()
    end = time.monotonic()
    must(done >= 0.7 * possible, f"{done} signatures of a token that can give {possible:.0f}: {load.histogram()}")
    return end


def other_token(rig, _load):
    """A token of the same name is not ours: it gets no PIN."""
    ours, other = rig.tokens.with_name("tokens-ours"), rig.tokens.with_name("tokens-other")
    conf = rig.dir / "other.conf"
    other.mkdir()
    conf.write_text(f"directories.tokendir = {other}\n")
    rig.run(
        "env", f"SOFTHSM2_CONF={conf}", "softhsm2-util", "--init-token", "--free", "--label", "claviger-rig",
        "--pin", OTHER_PIN, "--so-pin", "94812763",
    )
    since = rig.mark()
    rig.tokens.rename(ours)
    other.rename(rig.tokens)
    time.sleep(3)
    logins = rig.calls("C_Login", since)
    rig.tokens.rename(other)
    ours.rename(rig.tokens)
    must(not logins, f"a PIN was sent to another token: {logins}")
    return time.monotonic()


def daemon_ended(rig, load, how):
    """The daemon ends while the token hangs: its worker ends with it, and what was begun is in the log as open."""
    rig.fault("C_Sign hang")
    load.until_refused(1)
    # By the system's word: while a hung worker is replaced, the daemon names none.
    old = [pid for pid, _ in rig.children()]
    began = time.monotonic()
    rig.kill_daemon(how)
    must(time.monotonic() - began < 2 * CALL_TIMEOUT_MS / 1000 + 1, f"the daemon took {time.monotonic() - began:.1f} s")
    end = time.monotonic() + 2
    while any(os.path.exists(f"/proc/{pid}") for pid in old):
        must(time.monotonic() < end, "a worker outlived its daemon")
        time.sleep(0.01)
    rig.fault()
    rig.start_daemon()
    return time.monotonic()


def started_in(*rules):
    """A daemon that starts during a fault tries the token again when it is over, and gives no verdict before."""

    def inject(rig, _load):
        rig.fault(*rules)
        rig.kill_daemon(signal.SIGKILL)
        rig.daemon = rig.spawn("clavigerd", rig.bin / "clavigerd", "--config", rig.config)
        time.sleep(3)
        rig.fault()
        end = time.monotonic()
        rig.ready()
        must(rig.token()["payment"] is True, f"payment keys are refused after the fault: {rig.token()}")
        return end

    return inject, STARTED | {"token_locked"}, ()


def anything(rig, _load):
    """Faults as they come, one after the other and together."""
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    dice = random.Random(seed)
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            rig.fault(*dice.sample(ANYTHING, dice.choice([0, 1, 1, 2])))
            if dice.random() < 0.25:
                end_process(rig.token()["worker"] or 0, dice.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGABRT]))
            time.sleep(dice.uniform(0.1, 0.8))
    except Failed as error:
        raise Failed(f"SEED={seed}: {error}") from error
    rig.fault()
    return time.monotonic()


def login_dies_twice(rig, load):
    since = rig.mark()
    rig.fault("C_Login die once=one", "C_Login die once=two")
    end_process(rig.worker())
    end = time.monotonic() + 10
    while len(rig.calls("C_Login", since)) < 3:
        must(time.monotonic() < end, f"no third login: {rig.calls('C_Login', since)}")
        time.sleep(0.02)
    return time.monotonic()


def login_dies(rig, load):
    """Whether the token counted a login that was never answered, nobody knows: three tries, then an operator's."""
    since = rig.mark()
    rig.fault("C_Login die")
    end_process(rig.worker())
    locked(rig, load, since, 3)
    rig.fault()
    must(rig.unlock(PIN), "the right PIN did not unlock the token")
    return time.monotonic()


def login_fails(rig, load):
    """An error that says nothing about the PIN may still have cost a try."""
    since = rig.mark()
    rig.fault("C_Login late rv=CKR_GENERAL_ERROR")
    end_process(rig.worker())
    locked(rig, load, since, 3)
    rig.fault()
    must(rig.unlock(PIN), "the right PIN did not unlock the token")
    return time.monotonic()


def last_try(rig, load):
    """The last try is not the daemon's to spend."""
    since = rig.mark()
    rig.fault("C_GetTokenInfo flags=+CKF_USER_PIN_FINAL_TRY")
    end_process(rig.worker())
    locked(rig, load, since, 0)
    rig.fault()
    must(rig.unlock(PIN), "the right PIN did not unlock the token")
    return time.monotonic()


def storm(code):
    return (f"storm of {code}", *during(1.5, f"C_Sign rv={code}", see=("token_gone",)))


ANYTHING = [
    "C_Sign hang", "C_Sign late delay_ms=2500", "C_Sign delay_ms=50", "C_Sign corrupt", "C_Sign empty", "C_Sign late die",
    "C_Sign rv=CKR_DEVICE_ERROR every=3", "C_Sign stuck every=3", "C_SignInit crash every=5", "C_SignInit stuck every=2",
    "C_SignInit rv=CKR_KEY_HANDLE_INVALID every=2", "C_OpenSession rv=CKR_SESSION_COUNT", "C_OpenSession limit=2",
    "C_FindObjects empty", "C_FindObjects hang", "C_GetAttributeValue corrupt", "C_GetSlotList empty", "C_Finalize crash",
    "C_GetTokenInfo rv=CKR_DEVICE_REMOVED", "C_GetTokenInfo hang", "C_Initialize die every=2", "C_CloseSession hang",
    "* rv=CKR_GENERAL_ERROR", "* delay_ms=20",
]
LOCKED = GONE | {"token_locked"}
SCENARIOS = [
    ("worker stopped for 1 s", lambda rig, load: stopped(rig, load, 1), LATE, ()),
    ("worker stopped for 10 s, then continued", lambda rig, load: stopped(rig, load, 10), LATE, ()),
    ("worker stopped for ever", stopped, LATE, ()),
    ("worker killed 8 times", killed, GONE, ("token_gone",)),
    ("token directory away for 3 s", unplugged, GONE, ("token_gone",)),
    ("no session to be had", *with_kill(2, "C_OpenSession limit=1")),
    ("one session to be had in place of two", one_session, GONE, ("token_gone",)),
    ("sessions lost, and none to be had", *during(
        2, "C_Sign rv=CKR_SESSION_HANDLE_INVALID", "C_OpenSession rv=CKR_SESSION_COUNT", see=("token_busy",))),
    storm("CKR_DEVICE_ERROR"),
    storm("CKR_GENERAL_ERROR"),
    storm("CKR_SESSION_HANDLE_INVALID"),
    storm("CKR_USER_NOT_LOGGED_IN"),
    storm("CKR_KEY_HANDLE_INVALID"),
    storm("CKR_TOKEN_NOT_PRESENT"),
    storm("CKR_DEVICE_REMOVED"),
    ("every call CKR_DEVICE_REMOVED", *during(2.5, "* rv=CKR_DEVICE_REMOVED", see=("token_gone",))),
    ("each tenth C_Sign CKR_DEVICE_ERROR: nobody notices", *healed(2, "C_Sign rv=CKR_DEVICE_ERROR every=10", 20)),
    ("C_Sign stuck in CKR_OPERATION_ACTIVE", *healed(2, "C_Sign stuck every=20", 10)),
    ("C_SignInit stuck in CKR_OPERATION_ACTIVE", *during(2, "C_SignInit stuck", see=("token_gone",))),
    ("C_Sign hangs", *during(3, "C_Sign hang", codes=LATE, see=("token_timeout",))),
    ("C_Sign answers too late", *during(3.5, "C_Sign late delay_ms=2500", codes=LATE, see=("token_timeout",))),
    ("C_GetTokenInfo hangs for 3 s", *during(3, "C_GetTokenInfo hang", see=("token_gone",))),
    ("C_Sign fails and C_Finalize hangs", *during(
        2, "C_Sign rv=CKR_DEVICE_ERROR", "C_Finalize hang", see=("token_gone",))),
    ("C_Sign gives a corrupted signature", corrupted, {"signature_invalid"}, ("signature_invalid",)),
    ("C_Sign gives an empty signature", *during(
        1.5, "C_Sign empty", codes={"signature_invalid"}, see=("signature_invalid",))),
    ("keys are not found", *with_kill(2, "C_FindObjects empty")),
    ("C_Sign takes 0.3 s", slow, GONE, ()),
    ("another token in its place", other_token, GONE, ("token_gone",)),
    ("worker dies in C_Sign", *during(2, "C_Sign die after=10", see=("token_gone",))),
    ("worker dies after C_Sign, the answer is lost", *during(2, "C_Sign late die after=10", see=("token_gone",))),
    ("worker crashes in C_SignInit", *during(2, "C_SignInit crash after=10", see=("token_gone",))),
    ("worker dies in each C_Initialize", *with_kill(3.5, "C_Initialize die")),
    ("any faults for 10 s", anything, LATE | {"signature_invalid"}, ()),
    ("daemon killed while C_Sign hangs", lambda rig, load: daemon_ended(rig, load, signal.SIGKILL), STARTED, ()),
    ("daemon told to stop while C_Sign hangs", lambda rig, load: daemon_ended(rig, load, signal.SIGTERM),
     STARTED, ()),
    ("daemon started while signing fails", *started_in("C_Sign rv=CKR_DEVICE_ERROR")),
    ("daemon started while wrapping fails", *started_in("C_WrapKey rv=CKR_DEVICE_ERROR")),
    ("daemon started while attributes cannot be read", *started_in("C_GetAttributeValue rv=CKR_DEVICE_ERROR every=2")),
    ("C_Login hangs for 3 s", *with_kill(3, "C_Login hang")),
    ("worker dies twice in C_Login", login_dies_twice, GONE, ("token_gone",)),
    ("worker dies in each C_Login: locked after 3", login_dies, LOCKED, ("token_locked",)),
    ("C_Login fails without a verdict: locked after 3", login_fails, LOCKED, ("token_locked",)),
    ("one try of the PIN is left: not spent", last_try, LOCKED, ("token_locked",)),
    ("PIN changed behind our back, then unlock", pin_changed, LOCKED, ("token_locked",)),
    ("PIN changed back, then restart", pin_changed_restart, LOCKED | STARTED, ("token_locked",)),
]


def suffer(rig, inject, allowed, see):
    """One fault under load, and all that must hold after it; the line that is printed."""
    before, entries, daemon = rig.figures(), rig.log_size(), rig.daemon
    load = FaultLoad(rig)
    try:
        load.until_signed(60)
        end = inject(rig, load)
        back = load.back_after(end)
        load.steady()
    finally:
        rig.fault()
        try:
            load.end()
        finally:
            rig.next_nonce = load.last_nonce()
    released = rig.checker.settle()
    codes = load.histogram()
    odd = set(codes) - set(allowed)
    must(not odd, f"unexpected refusals {odd}: {codes}, first: {[r for r in load.refused if r[1] in odd][:1]}")
    must(set(see) <= set(codes), f"nobody was told {set(see) - set(codes)}: {codes}")
    after = rig.figures()
    same = rig.daemon is daemon
    check_log(rig.entries(entries), released, codes if same else None)
    if same:
        after.against(before)
    children = rig.children()
    must(len(children) == 1 and children[0][1] not in "ZT", f"not one worker: {children}")
    return f"back after {back:.2f} s; {len(released)} signed; {codes or 'no refusals'}; {before} -> {after}"


def verify_log(rig):
    text = (rig.dir / "clavigerd.log").read_text()
    must(not re.search(rf"\b({PIN}|{OTHER_PIN})\b", text), "a PIN stands in the daemon's log lines")
    export = rig.dir / "export"
    rig.claviger("log", "export", export)
    report = rig.claviger("log", "verify", export, timeout=120)
    return f"{report['entries']} entries, {report['results']} results; {rig.signed} signatures checked"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="inject faults whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rig = FaultRig(keep=options.keep)
    passed = failed = 0

    def give_up():
        print("FAIL  the run itself did not end in time", flush=True)
        rig.close()
        os._exit(1)

    timer = threading.Timer(600, give_up)
    timer.daemon = True
    timer.start()

    def attempt(name, what):
        nonlocal passed, failed
        began = time.monotonic()
        try:
            note = what()
            passed += 1
            print(f"ok    {name} ({time.monotonic() - began:.1f} s){f': {note}' if note else ''}", flush=True)
            return True
        except (Failed, OSError, KeyError, TypeError, ValueError) as error:
            failed += 1
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            print(f"FAIL  {name}: {kind}{error}", flush=True)
            return False

    try:
        if attempt("token behind the shim, daemon, key, policy, first load", rig.set_up):
            for name, inject, allowed, see in SCENARIOS:
                if options.only in name:
                    attempt(name, lambda: suffer(rig, inject, allowed, see))
            attempt("the whole log verifies offline", lambda: verify_log(rig))
    except KeyboardInterrupt:
        failed += 1
    finally:
        rig.close()
        timer.cancel()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
