"""Asks the ten questions over MCP, and shows beside each what the audit log has of it."""

import json
import urllib.error
import urllib.request

import show
from configuration import TOKENS
from questions import QUESTIONS, Asked

REVISION = "2026-07-28"


class Failed(Exception):
    """Something that a person can do something about."""


class Agent:
    """An MCP client, as small as one can be: one request, one answer."""

    def __init__(self, url, token):
        self.url, self.token = url, token

    def call(self, tool, arguments):
        meta = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "demo-perimeter", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": meta}}
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", "Accept": "application/json",
                   "MCP-Protocol-Version": REVISION, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                reply = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Failed(f"the perimeter answers {error.code}: {show.harmless(error.read().decode(errors='replace')[:300])}") from None
        if "result" not in reply:
            raise Failed(f"the perimeter refused the request: {show.harmless(json.dumps(reply)[:300])}")
        return reply["result"]


class AuditLog:
    """What the log has gained."""

    def __init__(self, path):
        self.path, self.at = path, path.stat().st_size

    def new_lines(self):
        with self.path.open("rb") as log:
            log.seek(self.at)
            data = log.read()
        self.at += len(data)
        return [json.loads(line) for line in data.splitlines()]


def decision(lines, answer):
    """In words, what the audit log has of the decision."""
    decided = next((line for line in lines if line["outcome"] == "decided"), None)
    if decided is None:
        return "refused" if answer.why else "allowed: the answer has only what this caller may know of"
    rules = ", ".join(decided["details"].get("rules", []))
    word = "allowed" if decided["decision"] == "allow" else "refused"
    return f"{word} by {rules}" if rules else word


def shown_answer(answer):
    def lines(columns):
        if answer.why:
            return [(line, "red") for line in show.wrapped(answer.why, columns)]
        if answer.tool == "list_collections":
            listed = [[c["name"], c["kind"], ", ".join(c["tables"])] for c in answer.said["collections"]]
            return show.table(["collection", "kind", "tables"], listed, columns)
        rows = [[f"{value:.2f}" if isinstance(value, float) else "NULL" if value is None else value for value in row] for row in answer.rows]
        return show.table(answer.names, rows, columns) if rows else [("no rows", "dim")]
    return lines


def ask_all(url, log):
    """Asks, shows, and gives how many answers were not as expected."""
    missed = 0
    for number, question in enumerate(QUESTIONS, 1):
        answer = Asked(question.tool, Agent(url, TOKENS[question.principal]).call(question.tool, question.arguments))
        lines = log.new_lines()
        request = [question.tool, question.arguments.get("sql", ""), f"purpose: {question.arguments['purpose']}"]
        holds = question.holds(answer)
        missed += not holds
        show.question(number, len(QUESTIONS), question.principal, question.asked, [part for part in request if part],
                      decision(lines, answer), answer.shaped_by, shown_answer(answer), question.lesson, holds)
    return missed
