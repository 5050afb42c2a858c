"""The connector: HTTP/1.1 in front of the device, and the side endpoints that steer it."""

import argparse
import json
import os
import socket
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import defs
from .device import Device
from .faults import Faults

VERSION = "3.0.5"
MAX_FRAME = 3136 + 3


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/connector/status":
            self.reply(200, self.status().encode())
        elif self.path == "/sim/state":
            self.reply_json(200, self.state())
        elif self.path in ("/connector/api", "/sim/fault", "/sim/clock"):
            self.reply(405, b"Method Not Allowed\n", allow="POST")
        else:
            self.reply(404, b"404 page not found\n")

    def do_POST(self):
        if self.path == "/connector/api":
            self.api()
        elif self.path in ("/sim/fault", "/sim/clock"):
            self.steer()
        elif self.path in ("/connector/status", "/sim/state"):
            self.reply(405, b"Method Not Allowed\n", allow="GET")
        else:
            self.reply(404, b"404 page not found\n")

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def status(self):
        host, port = self.server.server_address[:2]
        lines = {
            "status": "NO_DEVICE" if self.server.faults.on("unplugged") else "OK",
            "serial": f"{self.server.device.serial:010d}",
            "version": VERSION,
            "pid": os.getpid(),
            "address": host,
            "port": port,
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def api(self):
        length = int(self.headers.get("Content-Length") or 0)
        if not 3 <= length <= MAX_FRAME:
            self.close_connection = True
            self.reply(400, b"Bad Request\n")
            return
        frame = self.body()
        if self.server.faults.take("unplugged"):
            self.reply(500, b"Internal Server Error\n")
            return
        response = self.server.device.transceive(frame)
        if response is None:
            self.close_connection = True
            return
        self.reply(200, response, "application/octet-stream", split=self.server.faults.take("split"))

    def steer(self):
        try:
            wanted = json.loads(self.body() or b"{}")
            if self.path == "/sim/clock":
                self.server.device.skew += float(wanted["advance"])
            else:
                self.server.faults.set(wanted)
        except (ValueError, KeyError, TypeError, AttributeError) as why:
            self.reply_json(400, {"error": str(why)})
            return
        self.reply_json(200, self.state())

    def state(self):
        device = self.server.device
        now = device.now()
        lost = self.server.faults.on("rebooted") or self.server.faults.on("lose_sessions")
        known = [] if lost else list(device.sessions.values())
        live = [one for one in known if now - one.used < device.idle]
        counts = {}
        for type_, _ in list(device.objects):
            counts[defs.Type(type_).name.lower()] = counts.get(defs.Type(type_).name.lower(), 0) + 1
        return {
            "serial": device.serial,
            "firmware": ".".join(map(str, device.firmware)),
            "sessions": [
                {
                    "id": one.sid,
                    "auth_key": one.auth_id,
                    "authenticated": one.authenticated,
                    "idle": round(now - one.used, 3),
                }
                for one in live
            ],
            "objects": counts,
            "log_used": len(device.log.entries),
            "unlogged": {"boots": device.log.unlogged_boots, "authentications": device.log.unlogged_auths},
            "faults": self.server.faults.dump(),
        }

    def reply_json(self, code, value):
        self.reply(code, json.dumps(value).encode() + b"\n", "application/json")

    def reply(self, code, body, kind="text/plain; charset=utf-8", allow=None, split=None):
        """Head and body in one write, or in two segments when the split fault asks for it."""
        head = [
            f"HTTP/1.1 {code} {self.responses[code][0]}",
            f"Date: {self.date_time_string()}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            f"X-Request-ID: {self.headers.get('X-Request-ID') or uuid.uuid4()}",
        ]
        if allow:
            head.append(f"Allow: {allow}")
        if self.close_connection:
            head.append("Connection: close")
        data = "\r\n".join([*head, "", ""]).encode()
        parts = [data, body] if split else [data + body]
        try:
            for at, part in enumerate(parts):
                time.sleep(0.1 * at)
                self.connection.sendall(part)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address, device, faults):
        super().__init__(address, Handler)
        self.device, self.faults = device, faults

    def get_request(self):
        connection, peer = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, peer

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(prog="yubihsm_sim", description="A YubiHSM 2 and its connector, for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--state", help="where the device's memory is kept; without it, nowhere")
    parser.add_argument("--serial", type=int, default=12345678, help="of a new device")
    parser.add_argument("--firmware", default="2.4.1", help="whose behaviour to show")
    parser.add_argument("--idle", type=float, default=defs.IDLE_SECONDS, help="seconds until a session is gone")
    args = parser.parse_args()
    faults = Faults()
    firmware = tuple(int(part) for part in args.firmware.split("."))
    device = Device(args.serial, firmware, args.state, args.idle, faults)
    server = Server(("127.0.0.1", args.port), device, faults)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
