"""An MCP client, byte for byte: a `kafscale mcp` process, and requests of the revision 2026-07-28 to any server."""

import datetime
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from broker import binary, free_port
from rows import check, wait_for

REVISION = "2026-07-28"


class Reply:
    def __init__(self, status, headers, text):
        self.status, self.headers, self.text = status, headers, text

    def json(self):
        if self.text.startswith("{"):
            return json.loads(self.text)
        return json.loads([line[6:] for line in self.text.splitlines() if line.startswith("data: {")][-1])


class Agent:
    """Whoever has an address and a token."""

    def __init__(self, url, token=None, context=None):
        self.url, self.token, self.context = url, token, context

    def http(self, method, body=None, headers=(), limit_s=30, url=None):
        request = urllib.request.Request(url or self.url, body, dict(headers), method=method)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=limit_s, context=self.context) as answer:
                return Reply(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read().decode())

    def request(self, method, params=None, limit_s=30):
        params = dict(params or {})
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
                   "MCP-Protocol-Version": REVISION, "Mcp-Method": method}
        if "name" in params or "uri" in params:
            headers["Mcp-Name"] = params.get("name") or params["uri"]
        params["_meta"] = {"io.modelcontextprotocol/protocolVersion": REVISION,
                           "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
                           "io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return self.http("POST", json.dumps(body).encode(), headers, limit_s)

    def result(self, tool, **arguments):
        reply = self.request("tools/call", {"name": tool, "arguments": arguments})
        check(reply.status == 200, f"{tool}: {reply.status} {reply.text}")
        answer = reply.json()
        check("result" in answer, answer)
        return answer["result"]

    def call(self, tool, **arguments):
        result = self.result(tool, **arguments)
        check(not result.get("isError"), result)
        check(json.loads(result["content"][0]["text"]) == result["structuredContent"], "the two forms differ")
        return result["structuredContent"]

    def call_since(self, moment, tool, **arguments):
        """An answer about a time after this one: it may be 10 s old where listings take long, as on a busy machine."""
        def fresh():
            result = self.result(tool, **arguments)
            # A group that had not joined yet is an error.
            seen = not result.get("isError") and result["structuredContent"]["observed_at"]
            return seen and datetime.datetime.fromisoformat(seen).timestamp() >= moment and result["structuredContent"]
        return wait_for(f"{tool} to see what came before", fresh, 30, 0.5)

    def error(self, tool, **arguments):
        result = self.result(tool, **arguments)
        check(result.get("isError"), f"{tool} answered {result}")
        return result["content"][0]["text"]

    def session(self):
        """Begins a session of the revision before and returns the headers of its requests."""
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}}
        reply = self.http("POST", json.dumps(body).encode(), headers)
        check(reply.status == 200, reply.text)
        return {**headers, "Mcp-Session-Id": reply.headers["Mcp-Session-Id"], "MCP-Protocol-Version": "2025-11-25"}


class McpProcess:
    """`kafscale mcp` on a port of its own, with what it prints kept in a file."""

    def __init__(self, args, env=None, scheme="http", preexec=None):
        self.port = free_port()
        self.address, self.url = f"127.0.0.1:{self.port}", f"{scheme}://127.0.0.1:{self.port}/mcp"
        self.args, self.env, self.preexec = list(args), dict(env or {}), preexec
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="kafscale-mcp-log-", suffix=".txt")[1])
        self.process = None

    def spawn(self):
        env = {**os.environ, "RUST_BACKTRACE": "1", **self.env}
        command = [binary(), "mcp", "--mcp-http-addr", self.address, *self.args]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            preexec_fn=self.preexec)
        return self

    def start(self, context=None, limit_s=30):
        self.spawn()
        began = time.monotonic()
        while not self.healthy(context):
            check(self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log()[-1500:]}")
            check(time.monotonic() - began < limit_s, f"it is not ready: {self.log()[-1500:]}")
            time.sleep(0.02)
        return self

    def healthy(self, context=None):
        try:
            with urllib.request.urlopen(self.url.replace("/mcp", "/healthz"), timeout=5, context=context) as answer:
                return answer.read() == b"ok\n"
        except OSError:
            return False

    def log(self):
        return self.log_path.read_text(errors="replace")

    def panics(self):
        return [line for line in self.log().splitlines() if "panicked at" in line]

    def stop(self, limit_s=10, sign=signal.SIGTERM):
        self.process.send_signal(sign)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end within {limit_s} s of a signal: {self.log()[-1500:]}") from None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        check(not self.panics(), self.panics())
        self.log_path.unlink(missing_ok=True)
