"""The daemon on a token whose faults can be had on demand, and everything that is looked at while they happen."""

import hashlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

from chaos import Load
from rig import BOB, CLIENTS, ROOT, UNIT, Failed, Rig, find, must

KEY = "hot-4"
PIN, OTHER_PIN = "7351942", "2840617"
# Short, so that a hung call is over soon; the daemon's default is 10 s.
CALL_TIMEOUT_MS = 2000
# Signatures in a row that count as service.
SERVICE = 20
# The daemon promises to be back by itself so soon after a fault's end.
BACK_WITHIN = 5.0
# What the database's caches and the allocator may take in one scenario of up to 3,000 payments, and what the daemon may
# ever have: the caches fill during the first scenarios, and then it must stay where it is.
DAEMON_GROWTH_KIB = 6 * 1024
DAEMON_MOST_KIB = 40 * 1024
# The worker is another process each time; what differs is how much SoftHSM had read.
WORKER_GROWTH_KIB = 4 * 1024
SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
)


class FaultRig(Rig):
    """A daemon whose PKCS#11 module is the fault shim around SoftHSM."""

    def __init__(self, keep=False):
        super().__init__(keep)
        self.rules, self.counts = self.dir / "rules", self.dir / "counts"
        self.shim = Path(os.environ.get("SHIM", ROOT / "tests" / "shim" / "target" / "release" / "libfault_shim.so"))
        self.softhsm = next((path for path in SOFTHSM if os.path.exists(path)), SOFTHSM[0])
        self.env |= {"SHIM_MODULE": self.softhsm, "SHIM_CONTROL": str(self.rules), "SHIM_COUNTS": str(self.counts)}
        self.next_nonce = 0
        self.signed = 0
        self.checker = None

    def set_up(self):
        must(self.shim.exists(), f"build the shim first: {self.shim} is missing")
        self.make_token()
        self.run(
            self.bin / "claviger", "init", "--dir", self.home, "--profile", "softhsm2", "--token-label", "claviger-rig",
            "--module", self.shim, "--pin-file", self.dir / "pin", "--yes", "--json",
        )
        text = self.config.read_text()
        self.config.write_text(text.replace("[token]\n", f"[token]\ntimeout_ms = {CALL_TIMEOUT_MS}\n", 1))
        self.start_daemon()
        self.keys[KEY] = find(self.claviger("key", "create", KEY, "--algorithm", "secp256k1"), "address")
        runner = os.readlink("/proc/self/exe")
        self.claviger("app", "add", "runner", "--path", runner, "--eth-sign-transaction", "object")
        self.apps = {runner: "runner"}
        self.claviger("reload")
        self.apply_policy()
        self.checker = Checker(self)
        # The first load makes the daemon's threads and caches; what is measured later is measured against that.
        load = FaultLoad(self)
        load.until_signed(400)
        load.end()
        self.next_nonce = load.last_nonce()
        self.checker.settle()
        self.checker.prove(next(iter(load.released.items())))

    def close(self):
        if self.checker:
            self.checker.close()
        super().close()

    # Faults

    def fault(self, *lines):
        """These rules and no others, from now on."""
        fresh = self.rules.with_name("rules.new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.rename(self.rules)

    def calls(self, function, since=0):
        """What the shim wrote down of a function from that line on: [pid, function, rv, how, unix_ms] each."""
        lines = self.counts.read_text().splitlines()[since:] if self.counts.exists() else []
        return [words for words in map(str.split, lines) if words[1] == function]

    def mark(self):
        """How many calls are written down so far."""
        return len(self.counts.read_text().splitlines()) if self.counts.exists() else 0

    def change_pin(self, old, new):
        self.run(
            "pkcs11-tool", "--module", self.softhsm, "--token-label", "claviger-rig", "--login", "--pin", old,
            "--change-pin", "--new-pin", new,
        )

    def unlock(self, pin):
        """What an operator types; whether the token is usable then."""
        done = subprocess.run(
            [str(self.bin / "claviger"), "--config", str(self.config), "--json", "unlock"],
            env=self.env, input=f"{pin}\n", capture_output=True, text=True, timeout=60,
        )
        return done.returncode == 0

    # What is seen from outside

    def token(self):
        return self.claviger("status")["token"]

    def worker(self, seconds=10):
        """The worker's process id, as soon as there is one."""
        end = time.monotonic() + seconds
        while True:
            pid = self.token()["worker"]
            if pid:
                return pid
            must(time.monotonic() < end, "the daemon has no worker")
            time.sleep(0.02)

    def children(self):
        """Workers of the daemon with their state: a zombie is one that nobody waited for. What looks at callers is none."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if int(parent) == self.daemon.pid and b"--attest" not in words:
                    found.append((int(folder.name), state))
        return found

    def figures(self):
        """Memory, threads and descriptors, without load."""
        self.ready()
        return Figures(self.daemon.pid, self.worker())

    def entries(self, start):
        """The log's entries from that one on."""
        found = []
        while True:
            page = self.claviger("log", "show", "--from", start + len(found), "--count", 500)["entries"]
            if not page:
                return found
            found += page

    def log_size(self):
        return self.claviger("status")["log"]["entries"]


class Figures:
    """Memory (KiB), threads and descriptors of the daemon and of its worker."""

    def __init__(self, daemon, worker):
        self.rss, self.worker_rss = resident(daemon), resident(worker)
        names = [(task / "comm").read_text().strip() for task in Path(f"/proc/{daemon}/task").iterdir()]
        # The runtime's pool for blocking work grows with the load and shrinks after 10 s; all others are ours.
        self.pool = sum(name.startswith("tokio") for name in names)
        self.threads = len(names) - self.pool
        self.worker_threads = len(list(Path(f"/proc/{worker}/task").iterdir()))
        try:
            self.files = settled(daemon)
        except PermissionError:
            # The daemon cannot be looked into by others; only root sees this.
            self.files = 0

    def against(self, before):
        """Fails when something grew."""
        must(self.threads == before.threads, f"threads of the daemon: {before.threads} before, {self.threads} after")
        must(self.pool <= before.pool + 16, f"threads of the pool: {before.pool} before, {self.pool} after")
        must(self.worker_threads == before.worker_threads, f"worker threads: {before.worker_threads}, {self.worker_threads}")
        must(self.files <= before.files + 2, f"descriptors of the daemon: {before.files} before, {self.files} after")
        grown, more = self.rss - before.rss, self.worker_rss - before.worker_rss
        must(grown <= DAEMON_GROWTH_KIB, f"the daemon grew by {grown} KiB from {before.rss}")
        must(self.rss <= DAEMON_MOST_KIB, f"the daemon has {self.rss} KiB")
        must(more <= WORKER_GROWTH_KIB, f"the worker is {more} KiB larger than the one before it")

    def __str__(self):
        return f"{self.rss / 1024:.1f}+{self.worker_rss / 1024:.1f} MiB, {self.threads}+{self.worker_threads} threads"


def settled(pid):
    """Descriptors of a process, the least of a moment: the connection of the command before is three, until it is closed."""
    counts = []
    for _ in range(6):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.05)
    return min(counts)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise Failed(f"process {pid} has no memory")


class FaultLoad(Load):
    """Sixteen clients; remembers when each signature came and what each refusal said."""

    def __init__(self, rig):
        self.times, self.refused = [], []
        super().__init__(rig, KEY, first=rig.next_nonce, pause=(0.02, 0.07))

    def note(self, nonce, reply):
        again = super().note(nonce, reply)
        now = time.monotonic()
        with self.lock:
            if "error" in reply:
                error = reply["error"]
                self.refused.append((now, (error.get("data") or {}).get("code"), error.get("message")))
            else:
                self.times.append(now)
                result = reply["result"]
                self.rig.checker.give(nonce, result["raw"] if isinstance(result, dict) else result)
        # Whatever it was: half of the clients insist, half of them pay somebody else.
        return again and nonce % 2 == 0

    def last_nonce(self):
        return next(self.counter)

    def until_signed(self, count, seconds=20):
        """Waits for so many more signatures."""
        wanted, end = len(self.times) + count, time.monotonic() + seconds
        while len(self.times) < wanted:
            must(time.monotonic() < end, f"not {count} signatures in {seconds} s: {self.codes}")
            must(self.rig.daemon.poll() is None, "the daemon died")
            time.sleep(0.01)

    def until_refused(self, count, seconds=20):
        end = time.monotonic() + seconds
        while len(self.refused) < count:
            must(time.monotonic() < end, "nobody was refused")
            time.sleep(0.01)

    def back_after(self, moment, within=BACK_WITHIN):
        """Seconds from that moment until there is service again."""
        while True:
            with self.lock:
                since = [at for at in self.times if at > moment]
            if len(since) >= SERVICE:
                return since[SERVICE - 1] - moment
            must(time.monotonic() < moment + within, f"no service {within} s after the fault's end: {self.histogram()}")
            must(self.rig.daemon.poll() is None, "the daemon died")
            time.sleep(0.01)

    def steady(self, seconds=0.8):
        """Once back, it stays: nobody is refused any more."""
        begin = time.monotonic()
        time.sleep(seconds)
        with self.lock:
            late = [(code, text) for at, code, text in self.refused if at > begin]
        must(not late, f"{len(late)} refusals after the service was back: {late[:2]}")

    def histogram(self):
        with self.lock:
            return dict(sorted(self.codes.items()))


class Checker:
    """Recovers the sender of every signature that was given out, in a process beside."""

    def __init__(self, rig):
        self.rig = rig
        self.sums, self.wrong = {}, []
        self.given = queue.Queue()
        self.process = subprocess.Popen(
            [rig.node, "check_signed.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CLIENTS, bufsize=1
        )
        self.thread = threading.Thread(target=self.judge, daemon=True)
        self.thread.start()

    def give(self, nonce, raw):
        self.given.put((nonce, raw))

    def judge(self):
        while (item := self.given.get()) is not None:
            try:
                self.judge_one(*item)
            except (OSError, ValueError, KeyError) as error:
                self.wrong.append(f"the signature for nonce {item[0]} could not be checked: {error}")
            finally:
                self.given.task_done()
        self.given.task_done()

    def judge_one(self, nonce, raw):
        self.process.stdin.write(f"{raw}\n")
        told = json.loads(self.process.stdout.readline())
        asked = (self.rig.keys[KEY].lower(), nonce, BOB.lower(), str(UNIT))
        is_so = (told.get("from", "").lower(), told.get("nonce"), told.get("to", "").lower(), told.get("value"))
        if is_so != asked:
            self.wrong.append(f"WRONG SIGNATURE: asked {asked}, got {told}")
            return
        signature = hashlib.sha256(bytes.fromhex(told["signature"][2:])).hexdigest()
        # The log holds SHA-256 of both: of what was signed and of the signature.
        self.sums[signature] = hashlib.sha256(bytes.fromhex(told["signed"][2:])).hexdigest()
        self.rig.signed += 1

    def prove(self, released):
        """A checker that finds nothing wrong must be able to: one bit of a signature, and another nonce."""
        nonce, (raw,) = released
        for item in ((nonce, raw[:-1] + f"{int(raw[-1], 16) ^ 1:x}"), (nonce + 1, raw)):
            self.give(*item)
            self.given.join()
            must(len(self.wrong) == 1, f"the checker does not see what is wrong with {item}")
            self.wrong.clear()

    def settle(self):
        """All that was given so far, as {sum of the signature: sum of what it signs}; fails if one was wrong."""
        self.given.join()
        must(not self.wrong, f"{len(self.wrong)} bad signatures were given out, first: {self.wrong[:1]}")
        sums, self.sums = self.sums, {}
        return sums

    def close(self):
        self.given.put(None)
        self.thread.join(20)
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()


def check_log(entries, released, codes=None):
    """Each signature that was given out has its INTENT and its RESULT, and nothing that was begun is left open.

    With the codes that clients were told, log and clients must agree in everything; a restart breaks connections.
    """
    digests, results, outcomes, refused = {}, {}, set(), {}
    for entry in entries:
        kind, request = entry["kind"], entry.get("request")
        if kind == "intent":
            digests[request] = entry["digest"]
        elif kind in ("result", "failed", "in-doubt"):
            must(request in digests, f"an outcome without its intent: {entry}")
            must(request not in outcomes, f"two outcomes of one request: {entry}")
            outcomes.add(request)
        if kind == "result":
            results[entry["signature"]] = digests[request]
        if kind in ("refusal", "failed"):
            refused[entry["code"]] = refused.get(entry["code"], 0) + 1
    open_ones = set(digests) - outcomes
    must(not open_ones, f"{len(open_ones)} intents have no outcome")
    lost = [sums for sums in released.items() if sums not in results.items()]
    must(not lost, f"{len(lost)} signatures were given out without their record")
    if codes is not None:
        must(len(results) == len(released), f"{len(results)} results in the log, {len(released)} signatures given out")
        must(refused == codes, f"clients were told {codes}, the log says {refused}")


def end_process(pid, how=signal.SIGKILL):
    if not pid:
        return
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass
