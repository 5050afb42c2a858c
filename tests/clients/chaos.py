"""What happens when the daemon is killed or the token is pulled out, under load."""

import itertools
import random
import threading
import time

from rig import UNIT, Failed, Wallet, must

CLIENTS_AT_ONCE = 16


class Load:
    """Concurrent clients that sign with rising nonces, and remember every signature that they were given."""

    def __init__(self, rig, key, first=0, pause=(0, 0.03)):
        self.rig, self.key, self.pause = rig, key, pause
        self.released = {}
        self.codes = {}
        self.faults = []
        self.lock = threading.Lock()
        self.counter = itertools.count(first)
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.client, daemon=True) for _ in range(CLIENTS_AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def client(self):
        wallet, nonce = None, None
        while not self.stop.is_set():
            try:
                wallet = wallet or Wallet(self.rig.wallet_path, timeout=15)
                if nonce is None:
                    nonce = next(self.counter)
                reply = wallet.call("eth_signTransaction", [self.rig.tx(self.key, nonce=nonce)])
                again = self.note(nonce, reply)
                nonce = nonce if again else None
                time.sleep(random.uniform(*self.pause))
            except TimeoutError:
                self.faults.append("a request got no answer within 15 s")
                wallet = None
            except OSError:
                # The daemon is down. Half of the time the same payment is asked again, half of the time it is dropped.
                wallet = None
                nonce = random.choice([nonce, None])
                time.sleep(0.02)
            except (Failed, ValueError) as error:
                self.faults.append(str(error))
                return

    def note(self, nonce, reply):
        """Remembers a reply; whether the same payment shall be asked again."""
        with self.lock:
            if "error" in reply:
                code = (reply["error"].get("data") or {}).get("code") or str(reply["error"])
                self.codes[code] = self.codes.get(code, 0) + 1
                return code in ("token_gone", "token_timeout", "token_busy", "busy", "stopping")
            result = reply["result"]
            raw = result["raw"] if isinstance(result, dict) else result
            self.released.setdefault(nonce, set()).add(raw)
            return False

    def count(self):
        with self.lock:
            return len(self.released)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(25)
        must(not any(thread.is_alive() for thread in self.threads), "a client hangs")
        must(not self.faults, f"{len(self.faults)} faults, first: {self.faults[:1]}")
        double = [nonce for nonce, raws in self.released.items() if len(raws) > 1]
        must(not double, f"two signatures were released for nonce {double[:3]}")


def kill_rounds(rig, rounds):
    """kill -9 at random moments never lets more money out than the window holds, and never breaks the log."""
    limit = rounds * 60 * UNIT
    rig.apply_policy(chaos_limit=limit)
    load = Load(rig, "hot-3")
    try:
        for _ in range(rounds):
            time.sleep(random.uniform(0.05, 0.6))
            rig.kill_daemon()
            rig.start_daemon()
        end = time.monotonic() + 60
        while load.codes.get("window_exceeded", 0) == 0 and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        load.end()
    spent = load.count() * UNIT
    must(load.count() > 0, f"nothing was signed: {load.codes}")
    must(spent <= limit, f"{spent} wei were released under a limit of {limit}")
    must(load.codes.get("window_exceeded"), f"the window was never reached: {load.count()} signed, {load.codes}")
    # Just after a restart the token may still be on its way.
    odd = set(load.codes) - {"window_exceeded", "busy", "stopping", "token_busy", "token_gone"}
    must(not odd, f"unexpected refusals: {load.codes}")
    export = rig.dir / "export-chaos"
    rig.claviger("log", "export", export)
    rig.claviger("log", "verify", export, timeout=120)
    log = rig.log_text()
    must("window_exceeded" in log, "the refusals are not in the log")
    return f"{rounds} kills, {load.count()} signatures, {spent * 100 // limit} % of the window"


def unplug(rig):
    """Without its token the daemon refuses and lives; with it back it signs again by itself."""
    load = Load(rig, "hot-4")
    away = rig.tokens.with_name("tokens-away")
    try:
        end = time.monotonic() + 10
        while load.count() < 20:
            must(time.monotonic() < end, f"no load before the token went: {load.codes}")
            time.sleep(0.05)
        rig.tokens.rename(away)
        time.sleep(10)
        gone = dict(load.codes)
        away.rename(rig.tokens)
        back = time.monotonic()
        before = load.count()
        while load.count() < before + 20:
            must(time.monotonic() < back + 5, f"no service 5 s after the token came back: {load.codes}")
            must(rig.daemon.poll() is None, "the daemon died")
            time.sleep(0.05)
        took = time.monotonic() - back
    finally:
        if away.exists():
            away.rename(rig.tokens)
        load.end()
    must(gone.get("token_gone"), f"nobody was told token_gone: {gone}")
    odd = set(load.codes) - {"token_gone", "token_timeout", "token_busy", "busy"}
    must(not odd, f"unexpected refusals: {load.codes}")
    return f"{gone['token_gone']} times token_gone, back after {took:.1f} s"
