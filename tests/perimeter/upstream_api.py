"""A JSON API over HTTPS, with a bearer token, filters and pages, whose requests are lines of its log.

    upstream_api.py PORT CERT KEY LOG
"""

import http.server
import json
import ssl
import sys
import time
import urllib.parse

TOKEN = "token-of-the-upstream"
CITIES = ["Ulm", "Köln", "a&b=c", "", None]
CUSTOMERS = [{"id": n, "name": f"Name {n}", "address": {"city": CITIES[n % 5]}, "since": f"20{n % 25:02}-01-{1 + n % 28:02}", "active": n % 2 == 0,
              "balance": (n - 500) / 4, "tags": ["x"] * (n % 3)} for n in range(1, 301)]
PAGE = 50

port, cert, key, log_path = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is one write: a second one would wait until the client's kernel has acknowledged the first, for 40 ms.
    wbufsize = 1 << 16

    def do_GET(self):
        with open(log_path, "a") as log:
            print(json.dumps({"target": self.path, "user": self.headers.get("X-User")}), file=log, flush=True)
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "who are you?"})
        if url.path == "/api/v2/customers":
            wanted = [c for c in CUSTOMERS if asked.get("city", c["address"]["city"]) == c["address"]["city"] and asked.get("id", str(c["id"])) == str(c["id"])]
            at = int(asked.get("cursor", 0))
            after = at + PAGE if at + PAGE < len(wanted) else None
            return self.answer(200, {"data": wanted[at:at + PAGE], "meta": {"next": after}})
        if url.path.startswith("/api/v2/customers/") and url.path.endswith("/orders"):
            customer = int(url.path.split("/")[4])
            return self.answer(200, [{"id": customer * 10 + n, "total": f"{n}.50"} for n in range(3)] if customer <= 300 else [])
        if url.path == "/api/v2/slow":
            time.sleep(60)
        return self.answer(404, {"error": "not here"})

    def do_POST(self):
        with open(log_path, "a") as log:
            print(json.dumps({"target": "POST " + self.path}), file=log, flush=True)
        self.answer(405, {})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", port), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
