#!/usr/bin/env python3
"""Stops a device from afar, as its people would: a beacon in one network, the device in another, 64 clients that sign.

    python3 tests/clients/lost.py [--trials N] [--keep]

Each trial hands an order to the beacon, signed by the stock ssh-keygen, and looks when the last signature comes out of the
daemon; the receipt that came back is verified, and a quorum starts the device again. Then the network is cut while leases are
short. Needs root, `ip netns`, OpenSSL, SoftHSM and the built programs (CLAVIGER_BIN names their folder).
"""

import argparse
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from rig import Failed, Rig, Wallet, find, must

CLIENTS_AT_ONCE = 64
LEASE = 8
NEAR, FAR = "10.77.31.2", "10.77.31.1"
CLONE_NEWNET = 0x40000000


class Network:
    """Two namespaces and a cable between them."""

    def __init__(self):
        self.device, self.beacon = (f"claviger-{who}-{os.getpid()}" for who in ("dev", "bcn"))
        self.cable = f"cv{os.getpid()}"
        self.near, self.far = self.cable + "n", self.cable + "f"

    def lay(self):
        for name in (self.device, self.beacon):
            self.ip("netns", "add", name)
            self.inside(name, "ip", "link", "set", "lo", "up")
        self.ip("link", "add", self.near, "netns", self.device, "type", "veth", "peer", "name", self.far, "netns", self.beacon)
        self.inside(self.device, "ip", "addr", "add", f"{NEAR}/24", "dev", self.near)
        self.inside(self.beacon, "ip", "addr", "add", f"{FAR}/24", "dev", self.far)
        self.inside(self.device, "ip", "link", "set", self.near, "up")
        self.inside(self.beacon, "ip", "link", "set", self.far, "up")

    def ip(self, *words, check=True):
        subprocess.run(["ip", *words], check=check, capture_output=True)

    def enter(self, name):
        """The network alone: the daemon refuses apps that see other files than it does."""
        return ("nsenter", f"--net=/run/netns/{name}")

    def inside(self, name, *words):
        subprocess.run([*self.enter(name), *words], check=True, capture_output=True)

    def cut(self, is_cut):
        """Beyond the device: its own link stays up, and it hears nothing any more."""
        self.inside(self.beacon, "ip", "link", "set", self.far, "down" if is_cut else "up")

    def connect(self, host, port):
        """A socket that belongs to the beacon's network, however many namespaces there are."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as own, open(f"/run/netns/{self.beacon}", "rb") as theirs:
            must(libc.setns(theirs.fileno(), CLONE_NEWNET) == 0, "the namespace cannot be entered")
            try:
                made = socket.create_connection((host, port), timeout=20)
            finally:
                must(libc.setns(own.fileno(), CLONE_NEWNET) == 0, "the namespace cannot be left")
        return made

    def close(self):
        for name in (self.device, self.beacon):
            self.ip("netns", "del", name, check=False)


class Lost(Rig):
    """A rig whose daemon and beacon live in networks of their own."""

    def __init__(self, keep):
        super().__init__(keep)
        self.network = Network()
        self.people = self.dir / "people"
        self.beacon_port = 8443
        self.epoch = 0

    def set_up(self):
        self.network.lay()
        self.people.mkdir()
        self.make_token()
        made = self.claviger_init()
        self.vkey = self.dir / "log.vkey"
        self.vkey.write_text(find(made, "vkey") + "\n")
        self.authority()
        self.certificates()
        self.start_beacon()
        text = self.config.read_text()
        orders = f'[orders]\nurl = "https://{FAR}:{self.beacon_port}"\nca = "{self.people / "ca.pem"}"\npost_quantum = "require"\n'
        self.config.write_text(f'authority_file = "authority.toml"\n{text}\n{orders}')
        self.start_daemon()
        for name in ("hot-1", "hot-2", "hot-3", "hot-4"):
            self.keys[name] = find(self.claviger("key", "create", name, "--algorithm", "secp256k1"), "address")
            self.nonces[name] = 0
        exe = os.readlink("/proc/self/exe")
        self.claviger("app", "add", "runner", "--path", exe, "--eth-sign-transaction", "object")
        self.apps = {exe: "runner"}
        self.claviger("reload")
        self.apply_policy()
        self.device = find(self.claviger("order", "device"), "device")

    def claviger_init(self):
        done = self.run(
            self.bin / "claviger", "init", "--dir", self.home, "--profile", "softhsm2", "--token-label", "claviger-rig",
            "--pin-file", self.dir / "pin", "--yes", "--json",
        )
        return json.loads(done.stdout)

    def authority(self):
        text = (
            'schema = 1\ndeployment = "lost-1"\nfiles_allowed = true\n[orders]\nrevokers = ["guards"]\n'
            'reactivate = { quorum = 2, of = "ops" }\n'
            f'[orders.lease]\nkey = "{self.keygen("lease")}"\nmax_ttl = "{LEASE}s"\nrequired = true\n'
            '[quorum.authority]\nquorum = 2\nof = "ops"\n'
        )
        for group, who in (("guards", "gina"), ("ops", "alice"), ("ops", "bob")):
            text += f'[[person]]\nid = "{who}"\ngroups = ["{group}"]\nkeys = ["{self.keygen(who)}"]\n'
        text += f'[[person]]\nid = "otto"\nroles = ["operator"]\nuid = {os.getuid()}\n'
        (self.home / "authority.toml").write_text(text)

    def keygen(self, who):
        path = self.people / who
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", path)
        return path.with_suffix(".pub").read_text().strip()

    def certificates(self):
        ca, server, names = self.people / "ca", self.people / "server", self.people / "names"
        names.write_text(f"subjectAltName=IP:{FAR},IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self.run("openssl", "req", "-x509", *curve, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", 2, "-subj", "/CN=ca")
        self.run("openssl", "req", *curve, "-keyout", f"{server}.key", "-out", f"{server}.csr", "-subj", "/CN=beacon")
        self.run(
            "openssl", "x509", "-req", "-in", f"{server}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", 2, "-extfile", names, "-out", f"{server}.pem",
        )

    def start_beacon(self):
        home = self.dir / "beacon"
        home.mkdir(exist_ok=True)
        config = home / "beacon.toml"
        config.write_text(
            f'authority = "{self.home / "authority.toml"}"\nstate = "{home / "state"}"\n'
            f'[listen]\nplain = "127.0.0.1:8480"\ntls = "{FAR}:{self.beacon_port}"\n'
            f'certificate = "{self.people / "server.pem"}"\nkey = "{self.people / "server.key"}"\n'
            f'[lease]\nkey = "{self.people / "lease"}"\nseconds = {LEASE}\n'
        )
        self.beacon = self.spawn(
            "beacon", *self.network.enter(self.network.beacon), self.bin / "claviger-beacon", "--config", config
        )
        self.until(10, "the beacon", lambda: self.http("GET", "/healthz")[0] == 200)

    def start_daemon(self, *before):
        self.daemon = self.spawn(
            "clavigerd", *before, *self.network.enter(self.network.device), self.bin / "clavigerd", "--config", self.config
        )
        self.ready(30)

    def until(self, seconds, what, holds):
        end = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except OSError:
                pass
            must(time.monotonic() < end, f"{what}: not within {seconds} s")
            time.sleep(0.01)

    def http(self, method, path, body=None):
        """Asks the beacon at its own machine."""
        data = json.dumps(body).encode() if body is not None else b""
        with self.network.connect("127.0.0.1", 8480) as made:
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
            made.sendall(head.encode() + data)
            answer = b"".join(iter(lambda: made.recv(65536), b""))
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), text.decode()

    def sign(self, who, namespace, file):
        Path(f"{file}.sig").unlink(missing_ok=True)
        self.run("ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", self.people / who, file)
        return Path(f"{file}.sig").read_text()

    def order(self):
        """A signed order for this epoch: its file, and what the beacon is handed."""
        self.epoch += 1
        file = self.people / f"{self.epoch}.order"
        self.claviger(
            "order", "new", "--deployment", "lost-1", "--device", self.device, "--level", "suspend", "--epoch", self.epoch,
            "--reason", "lost", "--out", file,
        )
        paper = {"text": file.read_text(), "signatures": [self.sign("gina", "clavigerd-order@v1", file)]}
        return file, paper

    def publish(self, paper):
        """Hands it to the beacon; when that began, and the order's hash."""
        began = time.monotonic()
        status, text = self.http("POST", "/v1/orders", paper)
        must(status == 200, f"the beacon did not take the order: {text}")
        return began, json.loads(text)["order"]

    def receipt(self, order, file, seconds=20):
        """Waits for the receipt at the beacon and verifies it; when it was there."""
        path = f"/v1/receipts/{order}"
        self.until(seconds, "the receipt", lambda: self.http("GET", path)[0] == 200)
        arrived = time.monotonic()
        kept = self.people / "receipt.json"
        kept.write_text(self.http("GET", path)[1])
        told = self.claviger("order", "verify-receipt", kept, "--key", self.vkey, "--order", file)
        must(told["verified"] is True and told["level"] == "suspend", f"the receipt: {told}")
        return arrived

    def start_again(self):
        file = self.people / "again.txt"
        self.claviger("order", "challenge", "--out", file)
        for who in ("alice", "bob"):
            self.sign(who, "clavigerd-reactivation@v1", file)
            shutil.move(f"{file}.sig", self.people / f"{who}.sig")
        self.claviger("order", "reactivate", file, self.people / "alice.sig", self.people / "bob.sig")

    def lease_left(self):
        return find(self.claviger("order", "status"), "seconds_left")

    def close(self):
        super().close()
        self.network.close()


class Signing:
    """Clients that sign all the time, and when the last signature was given out."""

    def __init__(self, rig):
        self.rig, self.counter = rig, itertools.count()
        self.stop = threading.Event()
        self.last, self.signed, self.codes, self.faults = 0.0, 0, {}, []
        self.first = {}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, daemon=True) for _ in range(CLIENTS_AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def client(self):
        wallet = None
        while not self.stop.is_set():
            try:
                wallet = wallet or Wallet(self.rig.wallet_path, timeout=30)
                reply = wallet.call("eth_signTransaction", [self.rig.tx("hot-3", nonce=next(self.counter))])
            except OSError:
                # The daemon is restarted.
                wallet = None
                self.stop.wait(0.1)
                continue
            except Failed as error:
                self.faults.append(str(error))
                return
            now = time.monotonic()
            with self.lock:
                if "result" in reply:
                    self.last, self.signed = max(self.last, now), self.signed + 1
                    continue
                code = (reply["error"].get("data") or {}).get("code")
                self.codes[code] = self.codes.get(code, 0) + 1
                self.first.setdefault(code, now)
            self.stop.wait(0.1)
        if wallet:
            wallet.close()

    def runs(self, seconds=20):
        """Waits until signatures come out; how long that took."""
        began = time.monotonic()
        self.rig.until(seconds, f"signatures (refusals: {self.codes})", lambda: self.last > began)
        return self.last - began

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
        must(not self.faults, f"clients failed: {self.faults[:3]}")


def spread(values):
    values = sorted(values)
    at = lambda percent: values[min(len(values) * percent // 100, len(values) - 1)] * 1000
    return f"p50 {at(50):.0f} ms, p99 {at(99):.0f} ms, longest {values[-1] * 1000:.0f} ms"


def stopping(rig, signing, trials):
    stopped, answered, resumed = [], [], []
    for _ in range(trials):
        resumed.append(signing.runs())
        time.sleep(0.3)
        file, paper = rig.order()
        began, order = rig.publish(paper)
        answered.append(rig.receipt(order, file) - began)
        # Long enough for whatever still was under way to come out.
        time.sleep(0.5)
        stopped.append(signing.last - began)
        quiet = signing.signed
        time.sleep(0.3)
        must(signing.signed == quiet, "a signature came out after the receipt")
        rig.start_again()
    signing.runs()
    print(f"ok    {trials} orders by the beacon, {CLIENTS_AT_ONCE} clients, {signing.signed} signatures")
    print(f"      from handing the order in to the last signature: {spread(stopped)}")
    print(f"      to the receipt at the beacon, which verified: {spread(answered)}")
    print(f"      from the reactivation to the first signature, with a fresh lease: {spread(resumed[1:] or resumed)}")
    must(sorted(stopped)[min(len(stopped) * 99 // 100, len(stopped) - 1)] < 1, "signing did not stop within a second")


def cutting(rig, signing):
    signing.runs()
    left = rig.lease_left()
    rig.network.cut(True)
    began = time.monotonic()
    must(left, "a lease runs")
    time.sleep(LEASE + 3)
    ended = signing.last - began
    print(f"      cut off with {left} to {left + 1} s of a lease left: the last signature came after {ended:.2f} s")
    must(left - 1.5 < ended < left + 1.5, "signing did not end with the lease")
    rig.network.cut(False)
    print(f"ok    the cut is over: signing goes on by itself after {signing.runs(30):.2f} s")

    # The order is handed in while the device hears nothing: it stops by its lease, and never starts again by one.
    rig.network.cut(True)
    file, paper = rig.order()
    _, order = rig.publish(paper)
    time.sleep(LEASE + 2)
    quiet = signing.signed
    rig.network.cut(False)
    began = time.monotonic()
    arrived = rig.receipt(order, file, 40)
    print(f"      an order that was handed in meanwhile arrives {arrived - began:.2f} s after the cut is over")
    time.sleep(LEASE)
    must(signing.signed == quiet, "a lease lifted an order")
    rig.start_again()
    signing.runs(30)
    print("ok    no lease lifts an order, and a quorum does")


def a_new_beacon(rig, signing):
    """The beacon is restarted: those who wait come back by themselves, and nothing is lost."""
    signing.runs()
    rig.beacon.send_signal(signal.SIGTERM)
    rig.beacon.wait(15)
    rig.start_beacon()
    file, paper = rig.order()
    began, order = rig.publish(paper)
    arrived = rig.receipt(order, file, 20)
    print(f"ok    handed to a beacon that was just started again: the receipt came after {arrived - began:.2f} s")
    rig.start_again()
    signing.runs(30)


def setting_back(rig, signing):
    """The wall clock of the daemon is set back by two days while it is cut off: its lease ends all the same.

    It stops signing at once for the clock alone; that the lease ended is what refuses from the end of the lease on.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        print("skipped: the wall clock is not set back, faketime is not installed (the unit tests do it with a clock of theirs)")
        return
    clock = rig.dir / "clock"
    clock.write_text("+0\n")
    rig.kill_daemon(signal.SIGTERM)
    wall = ("LD_PRELOAD=" + str(found[0]), f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
    rig.start_daemon("env", *wall)
    signing.runs(30)
    left = rig.lease_left()
    rig.network.cut(True)
    began = time.monotonic()
    signing.first.clear()
    before = signing.signed
    clock.write_text("-2d\n")
    time.sleep(LEASE + 3)
    ended = signing.first.get("lease_missing", began) - began
    # What was under way then may still come out, one for each client; nothing new does.
    late = signing.signed - before
    must(late < 2 * CLIENTS_AT_ONCE and "clock_stepped" in signing.first, f"it signs by a clock that was set back: {late} signatures, {signing.codes}")
    told = rig.claviger("order", "status")
    behind = find(told, "clock_behind_seconds")
    print(f"      with its wall clock set back by two days and {left} to {left + 1} s left: refused at once, and for the lease after {ended:.2f} s")
    must(behind and behind > 170_000, f"the clock was not set back: {told}")
    must(left - 1.5 < ended < left + 1.5, "signing did not end with the lease")
    clock.write_text("+0\n")
    rig.network.cut(False)
    print(f"ok    with the clock set right it goes on by itself after {signing.runs(30):.2f} s")


def verified(rig, signing):
    export = rig.dir / "export"
    rig.claviger("log", "export", export)
    told = rig.run(rig.bin / "claviger", "log", "verify", export, "--key", rig.vkey, check=False, timeout=600)
    must(told.returncode == 0, f"the log does not verify: {(told.stderr or told.stdout)[-400:]}")
    print(f"ok    the log of {signing.signed} signatures verifies; refusals: {json.dumps(signing.codes)}")


def lacking():
    """Why the trial cannot be made here."""
    if os.getuid() != 0:
        return "it needs root"
    for tool in ("ip", "nsenter", "openssl", "ssh-keygen", "softhsm2-util"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    probe = f"claviger-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"ip netns does not work: {made.stderr.strip()}" if made.returncode else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="orders (default 20)")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    why = lacking()
    if why:
        print(f"skipped: {why}")
        return 0
    rig = Lost(options.keep)
    try:
        rig.set_up()
        signing = Signing(rig)
        stopping(rig, signing, options.trials)
        a_new_beacon(rig, signing)
        cutting(rig, signing)
        verified(rig, signing)
        setting_back(rig, signing)
        signing.end()
        return 0
    except (Failed, OSError, KeyError, TypeError, ValueError, subprocess.SubprocessError) as error:
        print(f"FAIL  {error}")
        for name in ("clavigerd", "beacon"):
            log = rig.dir / f"{name}.log"
            if log.exists():
                print(f"-- {name}: {log.read_text(errors='replace')[-1500:]}")
        return 1
    finally:
        rig.close()


if __name__ == "__main__":
    sys.exit(main())
