"""An HTTP proxy in front of an S3 server that counts requests and injects what object stores do on bad days.

As a module, `S3Proxy` starts it as a process of its own and tells it what to do; as a program it is that process.

    pass         hands everything on
    slowdown     answers 503 SlowDown, without asking the store
    error        answers 500 InternalError, without asking the store
    lose         lets the store do it, and closes the connection instead of answering
    cut          lets the store do it, and closes the connection in the middle of the answer
    hang         never answers, and does not ask the store
    hang-after   lets the store do it, and never answers
    slow         waits before it asks the store
    refuse       closes every connection
"""

import asyncio
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import threading

KINDS = ("pass", "slowdown", "error", "lose", "cut", "hang", "hang-after", "slow", "refuse")


class S3Proxy:
    """The process; `address` is where brokers find the store."""

    def __init__(self, upstream, host="127.0.0.1"):
        self.process = subprocess.Popen([sys.executable, str(pathlib.Path(__file__).resolve()), host, upstream], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()
        self.address = f"{host}:{json.loads(self.process.stdout.readline())['port']}"

    def tell(self, **order):
        with self.lock:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())

    def do(self, kind, share=1.0, methods=("GET", "PUT", "DELETE", "HEAD", "POST"), delay_s=1.0):
        """From now on, this share of the requests with these methods meets this."""
        assert kind in KINDS, kind
        self.tell(kind=kind, share=share, methods=list(methods), delay_s=delay_s)

    def counts(self):
        """How many requests arrived, by `METHOD area`, and how many faults were injected, by kind."""
        return collections.Counter(self.tell(ask="counts"))

    def close(self):
        self.process.kill()
        self.process.wait()


class Proxy:
    def __init__(self, upstream):
        host, port = upstream.rsplit(":", 1)
        self.upstream = host, int(port)
        self.order = {"kind": "pass", "share": 1.0, "methods": [], "delay_s": 0}
        self.counts = collections.Counter()
        self.chance = random.Random(1)
        self.changed = asyncio.Event()

    def take(self, order):
        if order.get("ask") == "counts":
            return dict(self.counts)
        self.order = order
        self.changed.set()
        self.changed = asyncio.Event()
        return {"ok": True}

    async def serve(self, reader, writer):
        store = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, fields = parse_head(head)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self.counts[f"{method} {area(head)}"] += 1
                fault = self.fault(method)
                if fault != "pass":
                    self.counts[f"injected {fault}"] += 1
                if not await self.before(fault, writer):
                    continue
                if store is None:
                    store = await asyncio.open_connection(*self.upstream)
                store[1].write(head + body)
                answer = await read_answer(store[0], method)
                if fault in ("lose", "cut", "hang-after"):
                    if fault == "cut":
                        writer.write(answer[:len(answer) // 2])
                        await writer.drain()
                    if fault == "hang-after":
                        await self.changed.wait()
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            for end in (writer, store[1] if store else None):
                if end:
                    end.transport.abort()

    def fault(self, method):
        order = self.order
        hit = method in order["methods"] and self.chance.random() < order["share"]
        return order["kind"] if hit else "pass"

    async def before(self, fault, writer):
        """Whether the store is to be asked."""
        if fault == "refuse":
            raise ConnectionError("refused")
        if fault == "hang":
            await self.changed.wait()
            raise ConnectionError("hung")
        if fault == "slow":
            await asyncio.sleep(self.order["delay_s"])
        if fault in ("slowdown", "error"):
            status, code = ("503 Slow Down", "SlowDown") if fault == "slowdown" else ("500 Internal Server Error", "InternalError")
            text = f"<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            return False
        return True


def parse_head(head):
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return first.split(" ")[0], fields


def area(head):
    """The first folders of the key, which say what the object is for; `list` for a listing."""
    target = head.split(b" ", 2)[1].decode("latin-1")
    path, _, query = target.partition("?")
    if "list-type" in query or "prefix=" in query:
        return "list"
    parts = path.strip("/").split("/")[1:]
    named = [part for part in parts if part in ("wal", "topics")]
    return named[0] if named else "other"


async def read_answer(reader, method):
    head = await reader.readuntil(b"\r\n\r\n")
    first, fields = parse_head(head)
    status = int(head.split(b" ", 2)[1])
    if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
        return head
    if fields.get("transfer-encoding", "").lower() == "chunked":
        parts = [head]
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts += [line, await reader.readexactly(size + 2)]
            if size == 0:
                return b"".join(parts)
    return head + await reader.readexactly(int(fields.get("content-length", 0)))


async def main(host, upstream):
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.serve, host, 0, limit=1 << 20)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        print(json.dumps(proxy.take(json.loads(line))), flush=True)
    os._exit(0)  # whoever started it is gone; connections need no farewell


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
