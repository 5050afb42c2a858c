"""python3 tests/tokens/yubihsm_sim --port 0"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from yubihsm_sim.server import main

main()
