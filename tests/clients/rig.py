"""The daemon, its token, a chain and the tools around them, for the client rigs. Standard library only."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "clients"
CHAIN = 31337
BOB = "0x00000000000000000000000000000000000B0b01"
STRANGER = "0x00000000000000000000000000000000000bad01"
ETHER = 10**18
UNIT = 10**15


class Failed(Exception):
    """A scenario did not go as it must; the text says why."""


def must(condition, why):
    if not condition:
        raise Failed(why)


def find(value, key):
    """The first value under `key` anywhere in a JSON document."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            found = find(item, key)
            if found is not None:
                return found
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Wallet:
    """A plain JSON-RPC connection to wallet.sock."""

    def __init__(self, path, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        self.next_id = 0

    def call(self, method, params):
        """The whole reply; OSError when the daemon went away."""
        self.next_id += 1
        request = {"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the daemon closed the connection")
        reply = json.loads(line)
        must(reply.get("id") == self.next_id, f"a reply to another request: {line[:200]!r}")
        return reply

    def close(self):
        self.file.close()
        self.socket.close()


class Rig:
    """Owns every process and file that a run makes, and removes them."""

    def __init__(self, keep=False):
        (ROOT / "target").mkdir(exist_ok=True)
        self.dir = Path(tempfile.mkdtemp(prefix="rig.", dir=ROOT / "target"))
        self.keep = keep
        self.home = self.dir / "claviger"
        self.tokens = self.dir / "tokens"
        self.config = self.home / "clavigerd.toml"
        self.wallet_path = self.home / "wallet.sock"
        self.bin = Path(os.environ.get("CLAVIGER_BIN", ROOT / "target" / "release"))
        self.web3 = ROOT / ".venv" / "web3" / "bin" / "python"
        self.brownie = ROOT / ".venv" / "brownie" / "bin" / "python"
        self.node = shutil.which("node") or "node"
        npm = CLIENTS / "node_modules" / "@foundry-rs"
        self.anvil_bin = npm / "anvil-linux-amd64" / "bin" / "anvil"
        self.cast = npm / "cast-linux-amd64" / "bin" / "cast"
        self.env = dict(os.environ, SOFTHSM2_CONF=str(self.dir / "softhsm2.conf"))
        self.daemon = None
        self.processes = []
        self.keys = {}
        self.nonces = {}

    # Processes

    def run(self, *command, timeout=60, check=True):
        """Runs a command to its end; its output as text."""
        command = [str(part) for part in command]
        try:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, cwd=CLIENTS)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{command[0]} did not end within {timeout} s") from error
        except OSError as error:
            raise Failed(f"{command[0]}: {error}") from error
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command[:8])} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
        return done

    def claviger(self, *args, **kwargs):
        """Runs the CLI with --json; its document."""
        done = self.run(self.bin / "claviger", "--config", self.config, "--json", *args, **kwargs)
        try:
            return json.loads(done.stdout or "null")
        except ValueError as error:
            raise Failed(f"claviger {args[0]} --json printed no JSON: {done.stdout[:300]}") from error

    def spawn(self, name, *command):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            [str(part) for part in command], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir
        )
        log.close()
        self.processes.append(process)
        return process

    # The house under test

    def set_up(self):
        self.make_token()
        self.run(
            self.bin / "claviger", "init", "--dir", self.home, "--profile", "softhsm2", "--token-label", "claviger-rig",
            "--pin-file", self.dir / "pin", "--yes", "--json",
        )
        self.start_daemon()
        for name in ("hot-1", "hot-2", "hot-3", "hot-4"):
            made = self.claviger("key", "create", name, "--algorithm", "secp256k1")
            address = find(made, "address")
            must(address, f"key create gave no address: {made}")
            self.keys[name], self.nonces[name] = address, 0
        self.register_apps()
        self.apply_policy()
        self.start_anvil()

    def make_token(self):
        self.tokens.mkdir()
        Path(self.env["SOFTHSM2_CONF"]).write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        pin = self.dir / "pin"
        pin.touch(mode=0o600)
        pin.write_text("7351942\n")
        self.run(
            "softhsm2-util", "--init-token", "--free", "--label", "claviger-rig", "--pin", "7351942", "--so-pin", "94812763"
        )

    def start_daemon(self):
        self.daemon = self.spawn("clavigerd", self.bin / "clavigerd", "--config", self.config)
        self.ready()

    def ready(self, seconds=10):
        try:
            self.claviger("status", "--wait", str(seconds), timeout=seconds + 10)
        except Failed as error:
            tail = (self.dir / "clavigerd.log").read_text(errors="replace")[-800:]
            raise Failed(f"the daemon is not ready: {error}\n{tail}") from error

    def kill_daemon(self, how=signal.SIGKILL):
        self.daemon.send_signal(how)
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired as error:
            self.daemon.kill()
            raise Failed(f"the daemon did not stop within 20 s of {how.name}") from error

    def register_apps(self):
        """Registers each client by the executable that the kernel will show."""
        self.apps = {}
        exe = "import os; print(os.readlink('/proc/self/exe'))"
        paths = {
            "web3": self.run(self.web3, "-c", exe).stdout.strip(),
            "node": self.run(self.node, "-e", "console.log(fs.readlinkSync('/proc/self/exe'))").stdout.strip(),
            "cast": str(self.cast.resolve()),
            "runner": os.readlink("/proc/self/exe"),
            "brownie": self.run(self.brownie, "-c", exe).stdout.strip(),
        }
        for name, path in paths.items():
            if path in self.apps:
                continue
            shape = "string" if name in ("node", "cast") else "object"
            # Node makes code while it runs.
            jit = ["--allow-jit"] if name == "node" else []
            self.claviger("app", "add", name, "--path", path, "--eth-sign-transaction", shape, *jit)
            self.apps[path] = name
        self.claviger("reload")

    def apply_policy(self, chaos_limit=10**6 * ETHER):
        names = json.dumps(sorted(set(self.apps.values()) | {"claviger-cli"}))
        text = "schema = 1\n\n"
        text += f'[assets.ETH]\nchain = "eip155:{CHAIN}"\nnative = true\ndecimals = 18\n\n'
        text += f'[books.friends]\nbob = "{BOB}"\n'
        for key, per_tx, window in (
            ("hot-1", ETHER, 100 * ETHER),
            ("hot-2", UNIT, 2 * UNIT),
            ("hot-3", UNIT, chaos_limit),
            ("hot-4", UNIT, 10**6 * ETHER),
        ):
            text += f"""
[[rule]]
id = "pay-{key}"
effect = "permit"
acts = ["transfer"]
keys = ["{key}"]
apps = {names}
chains = ["eip155:{CHAIN}"]
assets = ["ETH"]
to.allow = ["@friends"]
per_tx.max = "{per_tx}"
fee.max = "10000000000000000"
window = [{{ len = "24h", max = "{window}", scope = "key" }}]
"""
        path = self.dir / "policy.toml"
        path.write_text(text)
        self.claviger("policy", "check", path)
        self.claviger("policy", "apply", path)

    def start_anvil(self):
        port = free_port()
        self.rpc_url = f"http://127.0.0.1:{port}"
        self.spawn(
            "anvil", self.anvil_bin, "--host", "127.0.0.1", "--port", port, "--chain-id", CHAIN, "--accounts", 0, "--silent"
        )
        end = time.monotonic() + 20
        while True:
            try:
                must(int(self.chain("eth_chainId"), 16) == CHAIN, "anvil is on another chain")
                break
            except OSError as error:
                must(time.monotonic() < end, f"anvil did not start: {error}")
                time.sleep(0.1)
        for address in self.keys.values():
            self.chain("anvil_setBalance", address, hex(1000 * ETHER))

    def chain(self, method, *params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.rpc_url, body, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as reply:
            document = json.load(reply)
        must("error" not in document, f"anvil refused {method}: {document.get('error')}")
        return document["result"]

    # Payments

    def tx(self, key="hot-1", to=BOB, value=UNIT, nonce=None, data=None):
        tx = {
            "from": self.keys[key], "to": to, "value": hex(value), "gas": hex(21000 if not data else 90000),
            "maxFeePerGas": hex(3 * 10**9), "maxPriorityFeePerGas": hex(10**9), "chainId": hex(CHAIN),
            "nonce": hex(self.nonces[key] if nonce is None else nonce),
        }
        return {**tx, "data": data} if data else tx

    def sender(self, raw):
        code = "import sys; from eth_account import Account; print(Account.recover_transaction(sys.argv[1]))"
        return self.run(self.web3, "-c", code, raw).stdout.strip()

    def log_text(self):
        """The whole log, read page by page."""
        pages, start = [], 0
        while True:
            page = self.claviger("log", "show", "--from", start, "--count", 500)
            entries = page if isinstance(page, list) else find(page, "entries")
            if not entries:
                return "\n".join(pages)
            pages.append(json.dumps(entries))
            start += len(entries)

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        if self.keep:
            print(f"kept {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
