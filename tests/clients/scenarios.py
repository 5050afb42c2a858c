"""What wallets see: payments that are mined, and refusals that say why."""

import json
import shutil

from rig import BOB, CLIENTS, ETHER, STRANGER, UNIT, Failed, Wallet, find, must


def last_json(done):
    """The last line of a client's output."""
    lines = done.stdout.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise Failed(f"the client printed no JSON: {done.stdout[-200:]} {done.stderr[-500:]}") from error


def client_command(rig, name):
    return {
        "web3.py": [rig.web3, CLIENTS / "web3_client.py"],
        "ethers": [rig.node, CLIENTS / "ethers_client.mjs"],
        "viem": [rig.node, CLIENTS / "viem_client.mjs"],
    }[name]


def ask(rig, name, tx):
    return last_json(rig.run(*client_command(rig, name), rig.wallet_path, json.dumps(tx), timeout=60))


def mined(rig, before, sender_key, raw=None, tx_hash=None):
    """The signed bytes are this key's and the chain takes them; the money has moved."""
    if raw:
        must(rig.sender(raw).lower() == rig.keys[sender_key].lower(), "the recovered sender is not the key's address")
        tx_hash = rig.chain("eth_sendRawTransaction", raw)
    seen = rig.chain("eth_getTransactionByHash", tx_hash)
    must(seen["from"].lower() == rig.keys[sender_key].lower(), "mined from another account")
    must(seen["type"] == "0x2", f"not an EIP-1559 transaction: {seen['type']}")
    must(rig.chain("eth_getTransactionReceipt", tx_hash)["status"] == "0x1", "the transaction failed on the chain")
    after = int(rig.chain("eth_getBalance", BOB, "latest"), 16)
    must(after - before == UNIT, f"the payee got {after - before} wei, not {UNIT}")
    rig.nonces[sender_key] += 1


def pays(rig, name):
    before = int(rig.chain("eth_getBalance", BOB, "latest"), 16)
    reply = ask(rig, name, rig.tx())
    must("error" not in reply, f"refused: {reply.get('error')}")
    must(rig.keys["hot-1"].lower() in [a.lower() for a in reply["accounts"]], f"accounts: {reply['accounts']}")
    mined(rig, before, "hot-1", raw=reply["raw"])


def cast_pays(rig):
    before = int(rig.chain("eth_getBalance", BOB, "latest"), 16)
    done = rig.run(
        rig.cast, "mktx", "--ethsign", "--from", rig.keys["hot-1"], "--rpc-url", rig.wallet_path, "--chain", 31337,
        "--nonce", rig.nonces["hot-1"], "--gas-limit", 21000, "--gas-price", 3 * 10**9, "--priority-gas-price", 10**9,
        "--value", UNIT, BOB, timeout=30,
    )
    mined(rig, before, "hot-1", raw=done.stdout.strip())


def brownie_pays(rig):
    before = int(rig.chain("eth_getBalance", BOB, "latest"), 16)
    home = rig.dir / "home"
    home.mkdir(exist_ok=True)
    rig.env["HOME"], kept = str(home), rig.env.get("HOME", "/")
    try:
        done = rig.run(rig.brownie, CLIENTS / "brownie_client.py", rig.wallet_path, json.dumps(rig.tx()), rig.rpc_url, timeout=120)
    finally:
        rig.env["HOME"] = kept
    mined(rig, before, "hot-1", tx_hash=last_json(done)["hash"])


def cli_pays(rig):
    before = int(rig.chain("eth_getBalance", BOB, "latest"), 16)
    signed = rig.claviger(
        "sign", "--key", "hot-1", "--chain", "eip155:31337", "--to", BOB, "--amount", UNIT, "--nonce", rig.nonces["hot-1"],
        "--gas", 21000, "--max-fee", 3 * 10**9, "--priority-fee", 10**9,
    )
    raw = find(signed, "raw")
    must(raw, f"claviger sign gave no raw transaction: {signed}")
    mined(rig, before, "hot-1", raw=raw)


def refused(rig, reply, code):
    """A refusal is typed, readable, and in the log."""
    error = reply.get("error")
    must(error, f"signed what must be refused: {reply}")
    data = error.get("data") or {}
    must(data.get("code") == code, f"data.code is {data.get('code')}, not {code}: {error}")
    must(data.get("advice") and data.get("clause") and data.get("retry"), f"advice, clause or retry is missing: {data}")
    if error.get("code") == 4001:
        must("user denied: " in error["message"], f"message: {error['message']}")
    must(f'"{code}"' in rig.log_text(), f"{code} is not in the log")


def over_limit(rig):
    refused(rig, ask(rig, "web3.py", rig.tx(value=2 * ETHER)), "over_limit")


def unlisted(rig):
    reply = ask(rig, "ethers", rig.tx(to=STRANGER))
    must(reply.get("clientCode") == "ACTION_REJECTED", f"ethers made {reply.get('clientCode')} of it")
    refused(rig, reply, "destination_not_listed")


def unknown_call(rig):
    reply = ask(rig, "viem", rig.tx(value=0, data="0xdeadbeef"))
    refused(rig, reply, "contract_call_unknown")


def window(rig):
    for nonce in (0, 1):
        reply = ask(rig, "web3.py", rig.tx("hot-2", nonce=nonce))
        must("raw" in reply, f"payment {nonce + 1} inside the window was refused: {reply}")
    refused(rig, ask(rig, "web3.py", rig.tx("hot-2", nonce=2)), "window_exceeded")


def same_nonce(rig):
    """The same payment again gives the same bytes; another one under its nonce is refused."""
    tx = rig.tx()
    first, again = ask(rig, "web3.py", tx), ask(rig, "web3.py", tx)
    must("raw" in first and first.get("raw") == again.get("raw"), f"asked again, got {again}")
    refused(rig, ask(rig, "web3.py", {**tx, "value": hex(2 * UNIT)}), "nonce_conflict")
    rig.nonces["hot-1"] += 1


def stranger(rig):
    """A copy of a registered program at another path is another program."""
    copy = rig.dir / "node-copy"
    shutil.copy2(shutil.which("node"), copy)
    done = rig.run(copy, CLIENTS / "viem_client.mjs", rig.wallet_path, json.dumps(rig.tx()), timeout=60)
    refused(rig, last_json(done), "app_unknown")


def clef_denial(rig):
    wallet = Wallet(rig.wallet_path)
    reply = wallet.call("account_signTransaction", [rig.tx(value=2 * ETHER)])
    wallet.close()
    error = reply.get("error") or {}
    must((error.get("code"), error.get("message")) == (-32000, "request denied"), f"Clef's denial differs: {reply}")


def log_verifies(rig):
    rig.claviger("log", "export", rig.dir / "export")
    rig.claviger("log", "verify", rig.dir / "export")


SCENARIOS = [
    ("web3.py pays, mined", lambda rig: pays(rig, "web3.py")),
    ("ethers pays, mined", lambda rig: pays(rig, "ethers")),
    ("viem pays, mined", lambda rig: pays(rig, "viem")),
    ("cast mktx --ethsign pays, mined", cast_pays),
    ("brownie pays through Clef's interface, mined", brownie_pays),
    ("claviger sign pays, mined", cli_pays),
    ("above the limit: over_limit", over_limit),
    ("third payment in a window of two: window_exceeded", window),
    ("destination in no book: destination_not_listed", unlisted),
    ("unknown contract call: contract_call_unknown", unknown_call),
    ("unregistered program: app_unknown", stranger),
    ("same nonce, other payment: nonce_conflict", same_nonce),
    ("Clef's interface: request denied", clef_denial),
    ("exported log verifies", log_verifies),
]
