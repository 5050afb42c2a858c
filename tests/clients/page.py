#!/usr/bin/env python3
"""The beacon's page as people see it: a thousand devices in headless Chromium, some with names that are no names.

    python3 tests/clients/page.py [--out FILE.png]

Needs Chromium, OpenSSH and the built programs (CLAVIGER_BIN names their folder).
"""

import argparse
import http.client
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from rig import ROOT, Failed, must

DEVICES = 1000
LEVELS = [None, "suspend", "inactivate", "wipe"]
# The colours of the levels in page.css.
COLOURS = {None: (0x1A, 0x7F, 0x37), "suspend": (0xF2, 0xC2, 0x00), "inactivate": (0xCF, 0x22, 0x2E), "wipe": (0x24, 0x14, 0x3F)}
HOSTILE = [
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=\"document.title='owned'\">",
    "</td></tr></table><h1>owned</h1>",
    "<svg onload=document.title='owned'>",
    "&lt;b&gt; javascript:alert(1) ' onmouseover='x",
    "<style>tr{display:none}</style>",
    "\u202eeman a ton",
]


def device(n):
    return f"{n:064x}"


class Beacon:
    def __init__(self, folder):
        self.dir = folder
        bin_dir = Path(os.environ.get("CLAVIGER_BIN", ROOT / "target" / "release"))
        for who in ("gina", "alice"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / who], check=True)
        key = lambda who: (folder / f"{who}.pub").read_text().strip()
        (folder / "authority.toml").write_text(
            'schema = 1\ndeployment = "page-1"\nfiles_allowed = true\n[orders]\nrevokers = ["guards"]\n'
            '[quorum.authority]\nquorum = 1\nof = "ops"\n'
            f'[[person]]\nid = "gina"\ngroups = ["guards"]\nkeys = ["{key("gina")}"]\n'
            f'[[person]]\nid = "alice"\ngroups = ["ops"]\nkeys = ["{key("alice")}"]\n'
        )
        config = 'authority = "authority.toml"\nstate = "state"\nstale_seconds = 3600\n[listen]\nplain = "127.0.0.1:0"\n'
        for n in range(0, DEVICES, 2):
            name = HOSTILE[n // 100 % len(HOSTILE)] if n % 100 == 0 else f"till {n % 9 + 1}, shop {n:04}"
            config += f"[[device]]\nid = \"{device(n)}\"\nname = {json.dumps(name)}\n"
        (folder / "beacon.toml").write_text(config)
        self.process = subprocess.Popen(
            [bin_dir / "claviger-beacon", "--config", folder / "beacon.toml"], stderr=subprocess.PIPE, text=True
        )
        self.address = self.process.stderr.readline().strip().rsplit(" ", 1)[-1]
        must(re.fullmatch(r"127\.0\.0\.1:\d+", self.address), f"the beacon does not start: {self.address}")
        self.connection = http.client.HTTPConnection(self.address, timeout=20)

    def fill(self):
        for n in range(DEVICES):
            said = {
                "deployment": "page-1", "device": device(n), "epoch": n % 3 + 1, "level": LEVELS[n // 2 % 4 if n % 3 == 0 else 0],
                "version": "0.1.0" if n % 50 else HOSTILE[n // 50 % len(HOSTILE)],
                "lease_left": 14400 - n if n % 4 else None,
                "facts": {"fit": n % 11 != 0, "digest": "0" * 64},
            }
            self.connection.request("POST", "/v1/ask", json.dumps(said))
            answer = self.connection.getresponse()
            must(answer.status == 200, answer.read())
            answer.read()

    def close(self):
        self.process.terminate()
        self.process.wait(10)


def chromium(browser, folder, url, *words):
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
        "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", *words, url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    must(done.returncode == 0, f"chromium ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def pixels(file):
    """How often each colour is in a PNG of 8 bits a channel, without interlace: all that Chromium writes."""
    data = file.read_bytes()
    must(data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG")
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
            must(depth == 8 and colour in (2, 6) and interlace == 0, "another kind of PNG")
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    step = 3 if colour == 2 else 4
    raw, stride = zlib.decompress(packed), width * step
    above, counts = bytearray(stride), {}
    for y in range(height):
        how, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left = line[x - step] if x >= step else 0
            up, corner = above[x], above[x - step] if x >= step else 0
            if how == 1:
                line[x] = (line[x] + left) & 255
            elif how == 2:
                line[x] = (line[x] + up) & 255
            elif how == 3:
                line[x] = (line[x] + (left + up) // 2) & 255
            elif how == 4:
                guess = left + up - corner
                best = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
                line[x] = (line[x] + best) & 255
        for x in range(0, stride, step):
            rgb = (line[x], line[x + 1], line[x + 2])
            counts[rgb] = counts.get(rgb, 0) + 1
        above = line
    return counts


def looked_at(browser, folder, out):
    beacon = Beacon(folder)
    try:
        beacon.fill()
        url = f"http://{beacon.address}/"
        began = time.monotonic()
        beacon.connection.request("GET", "/")
        size = len(beacon.connection.getresponse().read())
        print(f"ok    {DEVICES} devices, {size // 1024} KiB, made in {(time.monotonic() - began) * 1000:.0f} ms")
        dom = chromium(browser, folder, url, "--dump-dom")
        table = dom.partition("<tbody>")[2].partition("</tbody>")[0]
        must(table.count("<tr ") == DEVICES, f"{table.count('<tr ')} rows")
        must("<title>Claviger beacon</title>" in dom, "something was executed")
        for bad in ("<script", "<img", "<svg", "<h1>owned", "<style>tr", "\u202e"):
            must(bad not in dom.lower(), f"{bad} is in the page")
        must("owned" in dom, "the hostile names are shown as text")
        # Each level is as often marked as devices have it, and what is filtered is what is left.
        for level in ("running", "suspend", "inactivate", "wipe"):
            count = table.count(f'class="mark {level}"')
            must(count > 0, f"no device is {level}")
            some = chromium(browser, folder, f"{url}?show={level}", "--dump-dom").partition("<tbody>")[2].partition("</tbody>")[0]
            must(some.count("<tr ") == count, f"{level}: {some.count('<tr ')} of {count} rows")
        print("ok    nothing of them was executed, each level can be picked out")
        chromium(browser, folder, url, f"--screenshot={out}", "--window-size=1400,1000", "--blink-settings=preferredColorScheme=1")
        seen = pixels(out)
        for level, colour in COLOURS.items():
            must(seen.get(colour, 0) > 300, f"{level or 'running'} is not in the picture: {seen.get(colour, 0)} pixels")
        print("ok    the levels differ in the picture: " + ", ".join(f'{level or "running"} {seen[c]}' for level, c in COLOURS.items()) + " pixels")
    finally:
        beacon.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the picture here")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser or not shutil.which("ssh-keygen"):
        print(f"skipped: {'ssh-keygen' if browser else 'chromium'} is not installed")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="page."))
    try:
        looked_at(browser, folder, options.out or folder / "page.png")
        return 0
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"FAIL  {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
