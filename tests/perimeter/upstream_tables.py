"""A JSON API over HTTPS that gives the tables of a directory, with a bearer token; each request is a line of its log.

    upstream_tables.py PORT CERT KEY DIRECTORY LOG

`/tables/NAME` is NAME.json of the directory, in pages where it is asked for them (`size`, `cursor`), with the parameters `id` and `name` as filters.
"""

import http.server
import json
import pathlib
import ssl
import sys
import urllib.parse

TOKEN = "token-of-the-upstream"
port, cert, key, directory, log_path = int(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4]), sys.argv[5]
known = {}


def rows_of(name):
    path = directory / f"{name}.json"
    stamp = path.stat().st_mtime_ns
    if known.get(name, (None,))[0] != stamp:
        rows = json.loads(path.read_text())
        known[name] = stamp, rows, json.dumps({"data": rows}).encode()
    return known[name][1:]


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is one write: a second one would wait until the client's kernel has acknowledged the first, for 40 ms.
    wbufsize = 1 << 22

    def log(self):
        with open(log_path, "a") as log:
            print(json.dumps({"method": self.command, "target": self.path}), file=log, flush=True)

    def do_GET(self):
        self.log()
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}")
        name = url.path.removeprefix("/api/tables/")
        if not (directory / f"{name}.json").is_file():
            return self.answer(404, b"{}")
        rows, whole = rows_of(name)
        if not asked:
            return self.answer(200, whole)
        wanted = [row for row in rows if all(str(row[of]) == asked[of] for of in ("id", "name") if of in asked)]
        at, size = int(asked.get("cursor", 0)), int(asked.get("size", len(wanted) or 1))
        after = at + size if at + size < len(wanted) else None
        return self.answer(200, json.dumps({"data": wanted[at:at + size], "next": after}).encode())

    def do_POST(self):
        self.log()
        self.answer(405, b"{}")

    do_PUT = do_DELETE = do_PATCH = do_POST

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", port), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
