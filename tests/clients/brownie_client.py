"""Brownie with Claviger in Clef's place: one payment, signed over the socket and sent by Brownie to the chain.

Usage: brownie_client.py SOCKET TX_JSON RPC_URL; HOME is a scratch folder.
"""

import json
import subprocess
import sys
from pathlib import Path

socket_path, tx, rpc_url = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
brownie = Path(sys.executable).with_name("brownie")
add = [brownie, "networks", "add", "Ethereum", "rig", f"host={rpc_url}", "chainid=31337"]
subprocess.run(add, check=True, capture_output=True, timeout=60)

from brownie import accounts, network  # noqa: E402  (reads HOME when it is imported)

network.connect("rig")
accounts.connect_to_clef(socket_path, timeout=20)
sender = accounts.at(tx["from"])
assert type(sender).__name__ == "ClefAccount", "the account is not the signer's"
receipt = sender.transfer(
    tx["to"],
    int(tx["value"], 16),
    gas_limit=int(tx["gas"], 16),
    max_fee=int(tx["maxFeePerGas"], 16),
    priority_fee=int(tx["maxPriorityFeePerGas"], 16),
    nonce=int(tx["nonce"], 16),
    required_confs=1,
    silent=True,
)
print(json.dumps({"accounts": [str(account) for account in accounts], "hash": receipt.txid}))
