#!/usr/bin/env python3
"""Drives the YubiHSM 2 simulator with Yubico's own client: it is a YubiHSM when the client cannot tell.

    python3 tests/tokens/yubihsm_oracle.py [--only WORDS]

Needs what tests/tokens/requirements.txt pins. Ends with 1 when a check failed.
"""

import argparse
import sys

from oracle import channel, faulty, keys, memory, rules
from oracle.rig import Checks

SECTIONS = {name: run for part in (channel, keys, rules, memory, faulty) for name, run in part.SECTIONS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run sections whose name contains this")
    options = parser.parse_args()
    checks = Checks()
    for name, run in SECTIONS.items():
        if options.only in name:
            checks.section(name, run)
    print(f"{checks.passed} checks passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
