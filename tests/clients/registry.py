#!/usr/bin/env python3
"""Keys that were in the token before, and the inventory that must equal the token's objects. SoftHSM.

    python3 tests/clients/registry.py [--keep]
"""

import argparse
import sys

from purposes import Bench
from rig import Failed, find, must

# Made by OpenSC's tool: its id, its algorithm, options, and how the adoption must end.
FOREIGN = {
    "good": ("0a", "EC:secp256k1", ["--usage-sign", "--sensitive"], None),
    "short id, P-256": ("7f", "EC:prime256v1", ["--usage-sign", "--sensitive"], None),
    "derives too": ("0b", "EC:secp256k1", ["--usage-sign", "--usage-derive", "--sensitive"], None),
    "may leave": ("0d", "EC:secp256k1", ["--usage-sign", "--sensitive", "--extractable"], "key_unprotected"),
}


def refusal(bench, *words):
    """The code of a command that must be refused."""
    done = bench.run(bench.bin / "claviger", "--config", bench.config, "--json", *words, check=False)
    must(done.returncode == 1, f"{' '.join(words)} ended with {done.returncode}: {done.stdout[-300:]}")
    return done.stdout + done.stderr


def tool(bench, *words):
    base = ["pkcs11-tool", "--module", bench.token["module"], "--token-label", bench.token["label"], "--login", "--pin"]
    return bench.run(*base, bench.token["pin"], *words)


def equal(bench, strangers, missing):
    done = bench.run(bench.bin / "claviger", "--config", bench.config, "--json", "token", "inventory", check=False)
    must((done.returncode == 0) == (not strangers and not missing), f"inventory ended with {done.returncode}: {done.stdout}")
    for word in [*strangers, *missing]:
        must(word in done.stdout, f"the inventory does not name {word}: {done.stdout}")


def adopts(bench):
    equal(bench, [], [])
    for name, (number, kind, options, _) in FOREIGN.items():
        tool(bench, "--keypairgen", "--key-type", kind, "--id", number, "--label", name, *options)
    equal(bench, ["0a", "7f", "0d"], [])
    doctor = refusal(bench, "doctor")
    must("strangers" in doctor and "7f" in doctor, f"doctor names no strangers: {doctor[-400:]}")
    for name, (number, _, _, code) in FOREIGN.items():
        words = ["key", "adopt", f"adopted-{number}", "--id", number]
        if code:
            told = refusal(bench, *words)
            must(code in told, f"{name}: {told[-300:]}")
        else:
            made = bench.claviger(*words)
            unproven = find(made, "unproven")
            must(unproven is not None and find(made, "address"), f"{name}: {made}")
            # The tool leaves CKA_MODIFIABLE as it is: anybody with the PIN may change it.
            must(any("attributes" in why for why in unproven), f"{name}: what is unproven is not told: {unproven}")
            must(any("it decrypts" in why for why in unproven), f"{name}: its other uses are not told: {unproven}")
            must(not any("outside" in why for why in unproven), f"{name}: it was made in the token: {unproven}")
    # What was taken away is gone in the token, not only in our records.
    told = tool(bench, "--list-objects", "--type", "privkey").stdout
    uses = {line.split(":")[1].strip() for line in told.splitlines() if "Usage:" in line}
    must(uses == {"sign"}, f"a key can do more than sign: {told}")
    again = refusal(bench, "key", "adopt", "twice", "--id", "0a", "--purpose", "authentication")
    must("key_exists" in again, f"one key was taken over for two purposes: {again[-300:]}")
    nothing = refusal(bench, "key", "adopt", "nothing", "--id", "ee")
    must("key_unknown" in nothing, f"a key that is not there was taken over: {nothing[-300:]}")
    wrong = refusal(bench, "key", "adopt", "wrong", "--id", "0a", "--purpose", "encryption")
    must("key_purpose" in wrong, f"a pair was taken over for encryption: {wrong[-300:]}")
    return f"{len(FOREIGN)} foreign keys judged"


def imports(bench):
    """A key that was made outside says so for good."""
    pem = bench.dir / "key.pem"
    bench.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-out", pem)
    bench.run(
        "softhsm2-util", "--import", pem, "--token", bench.token["label"], "--label", "imported", "--id", "cafe", "--pin",
        bench.token["pin"],
    )
    made = bench.claviger("key", "adopt", "imported", "--id", "cafe")
    unproven = find(made, "unproven")
    must(any("outside" in why for why in unproven), f"an imported key passes for one that was made inside: {unproven}")
    must("outside of the token" in bench.log_text(), "the log does not say what is unproven")
    return f"{len(unproven)} things unproven"


def loses(bench):
    """A registered key that is deleted behind the daemon's back is missed."""
    for kind in ("privkey", "pubkey"):
        tool(bench, "--delete-object", "--type", kind, "--id", "7f")
    equal(bench, ["0d"], ["adopted-7f"])
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    bench = Bench("softhsm2", parser.parse_args().keep)
    failed = 0
    try:
        missing = bench.build()
        must(not missing, missing)
        bench.start_daemon()
        for scenario in (adopts, imports, loses):
            try:
                note = scenario(bench)
                print(f"ok    registry: {scenario.__name__}{f': {note}' if note else ''}", flush=True)
            except (Failed, OSError, TypeError) as error:
                failed += 1
                print(f"FAIL  registry: {scenario.__name__}: {error}", flush=True)
    finally:
        bench.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
