#!/usr/bin/env python3
"""One suite for every backend: what `claviger token check` tries, and what it must come to.

    python3 tests/clients/conformance.py [--only BACKEND] [--write]

The table of docs/conformance.md is compared with what was found here; --write makes it anew. A backend that cannot be
had on this machine is left out, with the reason.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOKENS = ROOT / "tests" / "tokens"
PREPARE = TOKENS / "prepare.py"
SHIM = ROOT / "tests" / "shim" / "target" / "release" / "libfault_shim.so"
DOCUMENT = ROOT / "docs" / "conformance.md"
MISSING = 3
PIN = "a long passphrase"

# Column: profile, module that is prepared (none for the embedded token), whether payment keys may live in it.
BACKENDS = {
    "embedded": ("embedded", None, True),
    "softhsm2": ("softhsm2", "softhsm2", True),
    "softhsm2 under the fault shim": ("softhsm2", "softhsm2", True),
    "kryoptic": ("kryoptic", "kryoptic", True),
    "yubihsm2 (simulated)": ("yubihsm2", "yubihsm_sim", True),
    "nss": ("nss", "nss", False),
    "tpm2": ("tpm2", "tpm2", False),
}
HEAD = """# Conformance

What each backend did when it was tried: `claviger token check` runs the same suite on all of them, at every start of
the daemon too. This table was written by `tests/clients/conformance.py --write`, and the tests compare it with what
they find. "not claimed" is a declared exception: the profile does not claim it, and the device does not do it.
Backends without a column could not be tried by the project; their profiles say so.

"""


class Skip(Exception):
    """This backend cannot be had here; the text says why."""


def prepared(what, folder):
    """A fresh token, as tests/tokens/prepare.py tells of it."""
    done = subprocess.run([sys.executable, PREPARE, what, folder], capture_output=True, text=True, timeout=900)
    if done.returncode == MISSING:
        raise Skip(done.stderr.strip() or "it cannot be made here")
    if done.returncode != 0:
        raise RuntimeError(f"no {what} token: {done.stderr[-400:]}")
    return json.loads(done.stdout)


def simulated(scratch):
    """A YubiHSM 2 that is a program, and its port."""
    python = os.environ.get("CLAVIGER_SIM_PYTHON", ROOT / ".venv" / "sim" / "bin" / "python")
    probe = subprocess.run([python, "-c", "import cryptography"], capture_output=True, check=False) if Path(python).exists() else None
    if probe is None or probe.returncode:
        raise Skip(f"{python} with tests/tokens/requirements.txt is missing")
    process = subprocess.Popen([python, "-m", "yubihsm_sim"], cwd=TOKENS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return process, json.loads(process.stdout.readline())["port"]


def check(name, scratch, claviger):
    """The verdict of one backend, as `token check --json` gives it."""
    profile, what, _ = BACKENDS[name]
    env, words = dict(os.environ), ["--json", "token", "check", profile]
    pin = scratch / "pin"
    pin.touch(mode=0o600)
    folder = scratch / "token"
    simulator = None
    if what == "yubihsm_sim":
        simulator, port = simulated(scratch)
        pin.write_text("0001password")
        words += ["--connector", f"http://127.0.0.1:{port}"]
    elif what is None:
        pin.write_text(PIN)
        made = subprocess.run(
            [claviger, "init", "--dir", scratch / "home", "--profile", "embedded", "--pin-file", pin, "--yes"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(f"no embedded token: {made.stderr[-400:]}")
        folder = next((scratch / "home").rglob("token.json")).parent
    else:
        token = prepared(what, folder)
        env.update(token["env"])
        pin.write_text(token["pin"])
        module = token["module"]
        if name.endswith("shim"):
            if not SHIM.exists():
                raise Skip("tests/shim is not built")
            control = scratch / "rules"
            control.write_text("")
            env.update(SHIM_MODULE=module, SHIM_CONTROL=str(control))
            module = SHIM
        words += ["--label", token["label"], "--module", module]
    began = time.monotonic()
    done = subprocess.run(
        [claviger, *words, "--pin-file", pin, "--directory", folder], env=env, capture_output=True, text=True, timeout=180
    )
    try:
        verdict = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"no verdict: {(done.stdout + done.stderr)[-600:]}") from None
    finally:
        if simulator:
            simulator.kill()
            simulator.wait()
        elif what:
            subprocess.run([sys.executable, PREPARE, "stop", folder], capture_output=True, check=False)
    verdict = verdict.get("data", verdict)
    return verdict, done.returncode, time.monotonic() - began


def judge(name, verdict, status):
    """What is not as it must be."""
    may_pay = BACKENDS[name][2]
    wrong = [f"{row['check']}: claimed and not found ({row['note']})" for row in verdict["proofs"] if not row["ok"]]
    if verdict["payment"] != may_pay:
        wrong.append(f"payment keys are {'taken' if verdict['payment'] else 'refused: ' + verdict['reason']}")
    if (status == 0) != may_pay:
        wrong.append(f"token check ended with {status}")
    lacking = [row for row in verdict["proofs"] if row["required"] and not row["found"]]
    if not may_pay and not all(row["check"] in verdict["reason"] for row in lacking):
        wrong.append(f"the reason does not name what failed: {verdict['reason']}")
    if not may_pay and not lacking:
        wrong.append("it is refused, and nothing that payment keys need was found to be lacking")
    return wrong


def table(verdicts):
    checks = list(dict.fromkeys(row["check"] for verdict in verdicts.values() for row in verdict["proofs"]))
    checks.sort(key=lambda check: ": make," not in check)
    lines = ["| | " + " | ".join(verdicts) + " |", "|---" * (len(verdicts) + 1) + "|"]
    for check_name in checks:
        cells = []
        for verdict in verdicts.values():
            row = next((r for r in verdict["proofs"] if r["check"] == check_name), None)
            word = "" if row is None else "yes" if row["found"] else "**not claimed**" if not row["claimed"] else "**FAILED**"
            cells.append(word)
        lines.append(f"| {check_name} | " + " | ".join(cells) + " |")
    payment = ["yes" if verdict["payment"] else "**refused**" for verdict in verdicts.values()]
    lines.append("| **payment keys** | " + " | ".join(payment) + " |")
    return "\n".join(lines) + "\n"


def columns(text):
    """A table's columns by their heads, without the cells' padding."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {head: {row[0]: row[place] for row in rows[2:] if row[place]} for place, head in enumerate(rows[0]) if head}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="backends whose name contains this")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    options = parser.parse_args()
    claviger = Path(os.environ.get("CLAVIGER_BIN", ROOT / "target" / "release")) / "claviger"
    (ROOT / "target").mkdir(exist_ok=True)
    verdicts, failed = {}, 0
    for name in BACKENDS:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="conf.", dir=ROOT / "target") as scratch:
            try:
                verdict, status, took = check(name, Path(scratch), claviger)
                wrong = judge(name, verdict, status)
                verdicts[name] = verdict
            except Skip as reason:
                print(f"skip  {name}: {reason}", flush=True)
                continue
            except (OSError, RuntimeError, KeyError, subprocess.TimeoutExpired) as error:
                wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            failed += 1
            print(f"FAIL  {name}: " + "; ".join(wrong), flush=True)
        else:
            end = "fit for payment keys" if verdict["payment"] else "refused, " + verdict["reason"]
            print(f"ok    {name} ({took:.1f} s): {end}", flush=True)
    text = table(verdicts) if verdicts else ""
    if options.write:
        DOCUMENT.write_text(HEAD + text)
    elif verdicts:
        kept = columns(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
        for name, column in columns(text).items():
            if kept.get(name) != column:
                failed += 1
                print(f"FAIL  {name}: docs/conformance.md says something else; run with --write and read the change")
    return 1 if failed or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
