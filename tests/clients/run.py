#!/usr/bin/env python3
"""Runs unmodified wallet clients, refusals, kills and a vanishing token against the built daemon.

    python3 tests/clients/run.py [--kills N] [--only WORDS] [--keep]

Needs what ./test installs: .venv, node_modules, SoftHSM, and the release binaries.
"""

import argparse
import os
import signal
import sys
import threading
import time

from chaos import kill_rounds, unplug
from rig import Failed, Rig
from scenarios import SCENARIOS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="rounds of kill -9 (default 10)")
    parser.add_argument("--only", default="", help="run scenarios whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    scenarios = [
        *SCENARIOS,
        (f"kill -9, {options.kills} rounds, 16 clients: window holds", lambda rig: kill_rounds(rig, options.kills)),
        ("token gone for 10 s under load: service resumes", unplug),
    ]
    passed = failed = 0
    rig = Rig(keep=options.keep)

    def give_up():
        print("FAIL  the run itself did not end in time", flush=True)
        rig.close()
        os._exit(1)

    # Nothing here waits without a limit; this is the limit of limits.
    timer = threading.Timer(900 + 15 * options.kills, give_up)
    timer.daemon = True
    timer.start()
    try:
        scenarios.insert(0, ("token, daemon, keys, apps, policy, chain", Rig.set_up))
        for name, scenario in scenarios:
            if passed and options.only not in name:
                continue
            started = time.monotonic()
            try:
                note = scenario(rig)
                passed += 1
                print(f"ok    {name} ({time.monotonic() - started:.1f} s){f': {note}' if note else ''}", flush=True)
            except (Failed, OSError, KeyError, TypeError, ValueError) as error:
                failed += 1
                print(f"FAIL  {name}: {type(error).__name__ + ': ' if not isinstance(error, Failed) else ''}{error}", flush=True)
                if not passed:
                    failed += len(scenarios) - 1
                    print("      nothing else can run", flush=True)
                    break
    except KeyboardInterrupt:
        failed += 1
    finally:
        rig.close()
        timer.cancel()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
