"""web3.py over the wallet socket: accounts, then one signed transaction. Usage: web3_client.py SOCKET TX_JSON"""

import json
import sys

from web3 import Web3
from web3.exceptions import Web3RPCError

socket_path, tx = sys.argv[1], json.loads(sys.argv[2])
w3 = Web3(Web3.IPCProvider(socket_path, timeout=20))
for name in ("value", "gas", "nonce", "maxFeePerGas", "maxPriorityFeePerGas", "chainId"):
    tx[name] = int(tx[name], 16)
try:
    assert w3.is_connected()
    accounts = list(w3.eth.accounts)
    signed = w3.eth.sign_transaction(tx)
    print(json.dumps({"accounts": accounts, "raw": Web3.to_hex(signed["raw"])}))
except Web3RPCError as error:
    print(json.dumps({"error": error.rpc_response["error"]}))
