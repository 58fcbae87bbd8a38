"""Somebody without a token, and one principal with one, take what there is of the MCP server: connections, sessions, streams."""

import contextlib
import hashlib
import json
import socket
import tempfile
import time

from agent import Agent
from broker import free_port
from rows import check

ABOUT = "1,200 half heads, then 530 streams and 1,000 sessions of one principal, on the MCP port"
PORT = free_port()
TOKENS = tempfile.NamedTemporaryFile("w", prefix="kafscale-tokens-", suffix=".txt")
for who in ("attacker", "honest"):
    TOKENS.write(f"{who} observe sha256:{hashlib.sha256(f'token-of-{who}'.encode()).hexdigest()}\n")
TOKENS.flush()
ARGS = ["--mcp-http-addr", f"127.0.0.1:{PORT}", "--mcp-auth-token-file", TOKENS.name, "--mcp-calls-per-second", "1000"]
URL = f"http://127.0.0.1:{PORT}/mcp"
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "attack", "version": "1"}}}).encode()


def honest():
    agent = Agent(URL, "token-of-honest")
    reply = agent.request("tools/call", {"name": "cluster_status", "arguments": {}}, limit_s=3)
    check(reply.status == 200, f"{reply.status} {reply.text[:200]}")


def begins_a_session():
    reply = Agent(URL, "token-of-honest").http("POST", INITIALIZE, JSON, 3)
    check(reply.status == 200, f"{reply.status} {reply.text[:200]}")
    headers = {"Mcp-Session-Id": reply.headers["Mcp-Session-Id"]}
    check(Agent(URL, "token-of-honest").http("DELETE", None, headers, 3).status == 204, "the session does not end")


def probes(arena):
    return {"call": honest, "session": begins_a_session}


def half_heads(arena):
    held = []
    for _ in range(1200):
        with contextlib.suppress(OSError):
            stream = socket.create_connection(("127.0.0.1", PORT), 2)
            stream.sendall(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n")
            held.append(stream)
        time.sleep(0.002)
    honest()
    return held


def sessions():
    attacker, refused = Agent(URL, "token-of-attacker"), {}
    begun = []
    for _ in range(1000):
        # Without pauses the attacker's own work is what slows everybody on a small machine.
        time.sleep(0.01)
        reply = attacker.http("POST", INITIALIZE, JSON, 5)
        if reply.status == 200:
            begun.append(reply.headers["Mcp-Session-Id"])
        else:
            refused[reply.status] = refused.get(reply.status, 0) + 1
            if sum(refused.values()) == 20:
                break
    check(set(refused) == {429}, f"{len(begun)} sessions, then {refused}")
    return begun


def head(session):
    return ("GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nAuthorization: Bearer token-of-attacker\r\n"
            f"Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n\r\n").encode()


def streams(sessions):
    held, statuses = [], {}
    for n in range(530):
        time.sleep(0.005)
        stream = socket.create_connection(("127.0.0.1", PORT), 5)
        # A second stream of a session ends the first one.
        stream.sendall(head(sessions[n % len(sessions)]))
        status = stream.recv(12).decode()[9:]
        statuses[status] = statuses.get(status, 0) + 1
        held.append(stream)
    check(statuses.get("200") == 128 and statuses.get("429") == 402, statuses)
    return held


def attack(arena):
    held = half_heads(arena)
    begun = sessions()
    held += streams(begun)
    honest()
    begins_a_session()
    arena.note("sessions", len(begun))
    for stream in held:
        stream.close()
