#!/usr/bin/env python3
"""One key, one purpose: every key is asked for every operation, by the daemon and behind its back.

    python3 tests/clients/purposes.py [--only BACKEND] [--keep]

For each backend a key of each purpose is made. Then an app asks each key for each operation over wallet.sock; and,
with the daemon stopped, the token itself is asked with the PIN in hand: by a PKCS#11 client of our tests, and by
OpenSC's pkcs11-tool. What the purpose allows must work, everything else must be refused. Prints the matrix.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tokens"))

import cryptoki as ck  # noqa: E402
from rig import BOB, CHAIN, ETHER, UNIT, Failed, Rig, Wallet, find, must  # noqa: E402

TOKENS = Path(__file__).resolve().parents[1] / "tokens"
PREPARE = TOKENS / "prepare.py"
BACKENDS = ("embedded", "softhsm2", "kryoptic", "yubihsm2")
MISSING = 3
PLAIN = "0x" + b"between the two of us, sixteen bytes at least".hex()
CHALLENGE = "0x" + bytes(range(32)).hex()
ACTS = ("transfer", "message", "login", "encrypt", "decrypt", "mac", "verify-mac", "random")

# Purpose: algorithm, what the daemon does with it, what the token does with it.
KEYS = {
    "payment": ("p256", {"payment", "message"}, {"sign ECDSA"}),
    "authentication": ("ed25519", {"login"}, {"sign EdDSA"}),
    "encryption": ("aes256-gcm", {"encrypt", "decrypt"}, {"encrypt GCM", "decrypt GCM"}),
    "integrity": ("hmac-sha256", {"mac", "verify-mac"}, {"sign HMAC"}),
    "transport": ("aes256-kw", set(), {"wrap"}),
    "random": ("hmac-sha256", {"random"}, {"sign HMAC"}),
}


class Bench(Rig):
    """A daemon over one backend, with a key of each purpose that the backend can serve."""

    def __init__(self, backend, keep):
        super().__init__(keep=keep)
        self.backend = backend
        self.token = None
        lacking = {"encryption", "transport"} if backend == "yubihsm2" else set()
        self.kinds = {purpose: kind for purpose, kind in KEYS.items() if purpose not in lacking}

    def build(self):
        """Whether the backend can be had here; why not otherwise."""
        words = ["--dir", self.home, "--profile", self.backend, "--yes", "--json"]
        if self.backend == "embedded":
            self.claviger_init(words)
            return None
        if self.backend == "yubihsm2":
            return self.build_yubihsm(words)
        made = subprocess.run(
            [sys.executable, PREPARE, self.backend, self.dir / "token"], capture_output=True, text=True, timeout=900
        )
        if made.returncode == MISSING:
            return made.stderr.strip() or "it cannot be made here"
        must(made.returncode == 0, f"no {self.backend} token: {made.stderr[-400:]}")
        self.token = json.loads(made.stdout)
        self.env.update(self.token["env"])
        pin = self.dir / "pin"
        pin.touch(mode=0o600)
        pin.write_text(self.token["pin"])
        self.claviger_init(
            [*words, "--token-label", self.token["label"], "--module", self.token["module"], "--pin-file", pin]
        )
        return None

    def build_yubihsm(self, words):
        if not ROOT_SIM.exists():
            return f"{ROOT_SIM} with tests/tokens/requirements.txt is missing"
        simulator = subprocess.Popen(
            [ROOT_SIM, TOKENS / "yubihsm_sim", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.processes.append(simulator)
        self.url = f"http://127.0.0.1:{json.loads(simulator.stdout.readline())['port']}"
        self.run(ROOT_SIM, TOKENS / "stranger.py", self.url, "prepare")
        pin = self.dir / "pin"
        pin.touch(mode=0o600)
        pin.write_text("0002correct horse")
        self.claviger_init([*words, "--connector", self.url, "--pin-file", pin])
        return None

    def claviger_init(self, words):
        self.run(self.bin / "claviger", "init", *words)

    def make_keys(self):
        self.start_daemon()
        self.accounts, self.ids = {}, {}
        for purpose, (algorithm, _, _) in self.kinds.items():
            made = self.claviger("key", "create", purpose, "--purpose", purpose, "--algorithm", algorithm)
            self.accounts[purpose], self.ids[purpose] = find(made, "address"), find(made, "token_id")
        self.claviger("app", "add", "runner", "--path", os.readlink("/proc/self/exe"))
        text = f"""schema = 1
[assets.ETH]
chain = "eip155:{CHAIN}"
native = true
decimals = 18
[books.friends]
bob = "{BOB}"
[[rule]]
id = "everything"
effect = "permit"
acts = {json.dumps(ACTS)}
keys = {json.dumps(list(self.kinds))}
apps = ["runner"]
chains = ["eip155:{CHAIN}"]
assets = ["ETH"]
to.allow = ["@friends"]
per_tx.max = "{ETHER}"
fee.max = "10000000000000000"
"""
        path = self.dir / "policy.toml"
        path.write_text(text)
        self.claviger("policy", "apply", path)
        for purpose in ("payment", "transport"):
            wrong = self.run(
                self.bin / "claviger", "--config", self.config, "--json", "key", "create", "wrong", "--purpose", purpose,
                "--algorithm", "hmac-sha256", check=False,
            )
            must(wrong.returncode != 0 and "key_purpose" in wrong.stdout + wrong.stderr, f"{purpose} took an HMAC key")

    # The daemon

    def asks(self, wallet, purpose, sealed, mac):
        """Every operation, asked of one key."""
        tx = {
            "to": BOB, "value": hex(UNIT), "gas": hex(21000), "maxFeePerGas": hex(3 * 10**9), "nonce": "0x0",
            "maxPriorityFeePerGas": hex(10**9), "chainId": hex(CHAIN),
        }  # fmt: skip
        key = {"key": purpose}
        account = self.accounts[purpose] or self.accounts["payment"]
        yield "payment", wallet.call("claviger_signPayment", {**key, "transaction": tx})
        if self.accounts[purpose] or purpose == "payment":
            yield "message", wallet.call("personal_sign", [PLAIN, account])
        yield "login", wallet.call("claviger_signLogin", {**key, "audience": "https://example.org", "challenge": CHALLENGE})
        yield "encrypt", wallet.call("claviger_encrypt", {**key, "plaintext": PLAIN, "aad": "0x01"})
        yield "decrypt", wallet.call("claviger_decrypt", {**key, "ciphertext": sealed, "aad": "0x01"})
        yield "mac", wallet.call("claviger_mac", {**key, "data": PLAIN})
        yield "verify-mac", wallet.call("claviger_verifyMac", {**key, "data": PLAIN, "mac": mac})
        yield "random", wallet.call("claviger_random", {**key, "bytes": 100})

    def ask_the_daemon(self):
        wallet = Wallet(self.wallet_path)
        sealed = "0x" + "00" * 40
        if "encryption" in self.kinds:
            sealed = wallet.call("claviger_encrypt", {"key": "encryption", "plaintext": PLAIN, "aad": "0x01"})
            sealed = sealed["result"]["ciphertext"]
        mac = wallet.call("claviger_mac", {"key": "integrity", "data": PLAIN})["result"]["mac"]
        matrix = {}
        for purpose, (_, allowed, _) in self.kinds.items():
            for operation, reply in self.asks(wallet, purpose, sealed, mac):
                done = "result" in reply
                matrix[purpose, operation] = done
                if done:
                    must(operation in allowed, f"the daemon did {operation} with the {purpose} key")
                    self.right(operation, reply["result"], mac)
                else:
                    code = reply["error"]["data"]["code"]
                    must(operation not in allowed, f"{operation} with the {purpose} key was refused: {reply['error']}")
                    must(code in ("key_purpose", "key_unknown"), f"{operation} with the {purpose} key: {code}")
        if "encryption" in self.kinds:
            self.minds_what_it_is_given(wallet, sealed, mac)
        wallet.close()
        return matrix

    def right(self, operation, result, mac):
        """What came back is what was asked for."""
        if operation == "decrypt":
            must(result["plaintext"] == PLAIN, "it decrypts to something else")
        if operation == "mac":
            must(result["mac"] == mac, "the same data has another MAC")
        if operation == "verify-mac":
            must(result["valid"] is True, "the right MAC is not valid")
        if operation == "random":
            must(len(result["random"]) == 202, "not as many random bytes as were asked for")
        if operation == "login":
            message = bytes.fromhex(result["message"][2:])
            must(message.startswith(b"\xffclaviger login"), f"the login message begins with {message[:12]!r}")
            self.verify_ed25519(result["public_key"], result["signature"], result["message"])

    def verify_ed25519(self, public, signature, message):
        """By another implementation, where there is one."""
        python = ROOT_SIM if ROOT_SIM.exists() else None
        if python is None:
            return
        code = (
            "import sys; from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as K;"
            "p, s, m = (bytes.fromhex(a[2:]) for a in sys.argv[1:]); K.from_public_bytes(p).verify(s, m)"
        )
        self.run(python, "-c", code, public, signature, message)

    def minds_what_it_is_given(self, wallet, sealed, mac):
        last = "0" if sealed[-1] != "0" else "1"
        for what, method, params, code in (
            ("a changed ciphertext", "claviger_decrypt", {"ciphertext": sealed[:-1] + last, "aad": "0x01"}, "data_invalid"),
            ("other associated data", "claviger_decrypt", {"ciphertext": sealed, "aad": "0x02"}, "data_invalid"),
            ("a cut ciphertext", "claviger_decrypt", {"ciphertext": sealed[:40]}, "data_invalid"),
            ("a long request", "claviger_encrypt", {"plaintext": "0x" + "00" * 40000}, "invalid_params"),
        ):
            reply = wallet.call(method, {"key": "encryption", **params})
            must(find(reply, "code") and reply["error"]["data"]["code"] == code, f"{what}: {str(reply)[:200]}")
        again = wallet.call("claviger_encrypt", {"key": "encryption", "plaintext": PLAIN, "aad": "0x01"})
        must(again["result"]["ciphertext"] != sealed, "the same text was encrypted to the same bytes twice")
        wrong = wallet.call("claviger_verifyMac", {"key": "integrity", "data": PLAIN, "mac": "0x" + "00" * 32})
        must(wrong["result"]["valid"] is False, "a wrong MAC is valid")
        short = wallet.call("claviger_signLogin", {"key": "authentication", "audience": "x", "challenge": "0x00"})
        must(short["error"]["data"]["code"] == "invalid_params", f"a guessable challenge was signed: {short}")
        # Garbage must not cost the others their token.
        began = time.monotonic()
        for _ in range(20):
            wallet.call("claviger_decrypt", {"key": "encryption", "ciphertext": sealed[:-1] + last})
        must(time.monotonic() - began < 5, "garbage slows the daemon down")
        reply = wallet.call("claviger_mac", {"key": "integrity", "data": PLAIN})
        must("result" in reply and reply["result"]["mac"] == mac, f"garbage made the token go away: {reply}")
        words = self.log_text()
        must("between the two" not in words and PLAIN[2:] not in words, "the log holds what a key protects")

    # The token

    def ask_the_token(self):
        """The same behind the daemon's back, with the PIN."""
        # The module reads its environment in this process: a fresh one for each backend.
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                os.environ.update(self.env)
                os.write(writer, json.dumps(self.behind()).encode())
                status = 0
            os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        must(status == 0 and told, f"the token could not be asked: {told}")
        matrix = {tuple(key.split("|")): value for key, value in json.loads(told).items()}
        for (purpose, operation), done in matrix.items():
            must(done == (operation in KEYS[purpose][2]), f"the token {'did' if done else 'refused'} {operation} with the {purpose} key")
        return matrix

    def ask_the_yubihsm(self):
        pairs = [f"{purpose}={self.ids[purpose]}" for purpose in self.kinds]
        told = json.loads(self.run(ROOT_SIM, TOKENS / "ask_yubihsm.py", self.url, *pairs).stdout)
        matrix = {tuple(key.split("|")): value for key, value in told.items()}
        for (purpose, operation), done in matrix.items():
            must(done == (operation in KEYS[purpose][2]), f"the device {'did' if done else 'refused'} {operation} with the {purpose} key")
        return matrix

    def behind(self):
        module = ck.Module(self.token["module"])
        slot = module.slot_of(self.token["label"])
        matrix = {}
        with module.session(slot, ck.CKU_USER, self.token["pin"]) as session:
            for purpose in KEYS:
                for operation, attempt in self.attempts(module, slot, purpose):
                    try:
                        attempt()
                        matrix[f"{purpose}|{operation}"] = True
                    except ck.Refused:
                        matrix[f"{purpose}|{operation}"] = False
            session.logout()
        module.finalize()
        return matrix

    def attempts(self, module, slot, purpose):
        wanted = bytes.fromhex(self.ids[purpose])

        def on_key(run):
            # A refused call may leave its session with a stuck operation.
            def attempt():
                with module.session(slot) as session:
                    found = [
                        handle for kind in (ck.CKO_PRIVATE_KEY, ck.CKO_SECRET_KEY)
                        for handle in session.find({ck.CKA_CLASS: kind, ck.CKA_ID: wanted})
                    ]  # fmt: skip
                    assert len(found) == 1, f"{len(found)} keys of purpose {purpose}"
                    return run(session, found[0])

            return attempt

        digest, text = bytes(32), b"sixteen bytes ok"
        iv = bytes([7]) * 12

        def gcm():
            parameters = ck.GcmParameters(iv, 12, 96, b"", 0, 128)
            return ck.mechanism("CKM_AES_GCM", parameters)

        def decrypt(session, key):
            if purpose != "encryption":
                return session.decrypt(gcm(), key, bytes(32))
            sealed = session.encrypt(gcm(), key, text)
            assert session.decrypt(gcm(), key, sealed) == text
            return sealed

        def wrap(session, key):
            target = session.generate(
                ck.mechanism("CKM_AES_KEY_GEN"),
                {ck.CKA_TOKEN: False, ck.CKA_EXTRACTABLE: True, ck.CKA_SENSITIVE: True, ck.CKA_VALUE_LEN: 32},
            )
            return session.wrap(ck.mechanism("CKM_AES_KEY_WRAP"), key, target)

        def stolen(session, key):
            thief = session.generate(
                ck.mechanism("CKM_AES_KEY_GEN"),
                {ck.CKA_TOKEN: False, ck.CKA_WRAP: True, ck.CKA_ENCRYPT: True, ck.CKA_VALUE_LEN: 32},
            )
            return session.wrap(ck.mechanism("CKM_AES_KEY_WRAP"), thief, key)

        yield "sign ECDSA", on_key(lambda s, k: s.sign(ck.mechanism("CKM_ECDSA"), k, digest))
        yield "sign EdDSA", on_key(lambda s, k: s.sign(ck.mechanism("CKM_EDDSA"), k, text))
        yield "sign HMAC", on_key(lambda s, k: s.sign(ck.mechanism("CKM_SHA256_HMAC"), k, text))
        yield "encrypt GCM", on_key(lambda s, k: s.encrypt(gcm(), k, text))
        yield "decrypt GCM", on_key(decrypt)
        yield "wrap", on_key(wrap)
        yield "be wrapped", on_key(stolen)
        yield "be read", on_key(lambda s, k: s.attribute(k, ck.CKA_VALUE))
        for name, kind in (("SIGN", ck.CKA_SIGN), ("DECRYPT", ck.CKA_DECRYPT), ("DERIVE", ck.CKA_DERIVE), ("EXTRACTABLE", ck.CKA_EXTRACTABLE)):
            yield f"set {name}", on_key(lambda s, k, kind=kind: s.set(k, {kind: True}))

    def ask_with_pkcs11_tool(self):
        """OpenSC's tool knows fewer operations; it is nobody's code of ours."""
        data = self.dir / "data"
        data.write_bytes(bytes(32))
        count = 0
        for purpose, (algorithm, _, _) in KEYS.items():
            for mechanism, right in (("ECDSA", "p256"), ("EDDSA", "ed25519"), ("SHA256-HMAC", "hmac-sha256")):
                done = self.run(
                    "pkcs11-tool", "--module", self.token["module"], "--token-label", self.token["label"], "--login", "--pin",
                    self.token["pin"], "--sign", "--mechanism", mechanism, "--id", self.ids[purpose], "--input-file", data,
                    "--output-file", self.dir / "out", check=False,
                )
                count += 1
                must((done.returncode == 0) == (right == algorithm), f"pkcs11-tool: {mechanism} with the {purpose} key ended with {done.returncode}")
        return count


ROOT_SIM = Path(__file__).resolve().parents[2] / ".venv" / "sim" / "bin" / "python"


def table(matrix, title):
    operations = list(dict.fromkeys(operation for _, operation in matrix))
    lines = [f"| {title} | " + " | ".join(operations) + " |", "|---" * (len(operations) + 1) + "|"]
    for purpose in KEYS:
        cells = [{True: "yes", False: "refused", None: ""}[matrix.get((purpose, o))] for o in operations]
        lines.append(f"| {purpose} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(backend, keep):
    bench = Bench(backend, keep)
    try:
        missing = bench.build()
        if missing:
            print(f"skip  {backend}: {missing}", flush=True)
            return None
        bench.make_keys()
        daemon = bench.ask_the_daemon()
        print(f"ok    {backend}: {len(daemon)} pairs of purpose and operation asked of the daemon", flush=True)
        bench.kill_daemon(signal.SIGTERM)
        if backend == "embedded":
            return daemon, None
        if backend == "yubihsm2":
            print(f"ok    {backend}: {len(bench.ask_the_yubihsm())} asked of the device with Yubico's client", flush=True)
            return None
        token = bench.ask_the_token()
        print(f"ok    {backend}: {len(token)} asked of the token itself", flush=True)
        print(f"ok    {backend}: {bench.ask_with_pkcs11_tool()} asked with pkcs11-tool", flush=True)
        return daemon, token
    finally:
        bench.close()
        if bench.token:
            subprocess.run([sys.executable, PREPARE, "stop", bench.dir / "token"], capture_output=True, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="backends whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folders")
    options = parser.parse_args()
    failed, daemon, token = 0, None, None
    for backend in BACKENDS:
        if options.only not in backend:
            continue
        try:
            told = run(backend, options.keep)
            if told:
                daemon, token = told[0], told[1] or token
        except (Failed, OSError, KeyError, TypeError, ValueError) as error:
            failed += 1
            print(f"FAIL  {backend}: {type(error).__name__}: {error}", flush=True)
    if daemon:
        print(table(daemon, "asked of the daemon"))
    if token:
        print(table(token, "asked of the token"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
