"""Real MCP clients, as tests/setup installs them, and what suites for them have in common: both servers are asked by the same ones."""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

from cache import CACHE

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "mcp/clients"
NODE_DIR = CACHE / "mcp-node"
NODE = NODE_DIR / "node_modules/node/bin/node"
MCP_PYTHON = CACHE / "mcp-venv/bin/python"
TOOLS_LIST_MAX_TOKENS = 3000
TYPICAL_MAX_TOKENS = 800


class Skipped(Exception):
    """A runtime is missing."""


def node(script):
    """The command of a script of ours, next to the packages that it imports."""
    if not NODE.exists():
        raise Skipped("the clients for Node are not installed: run tests/setup")
    shutil.copy(CLIENTS / script, NODE_DIR)
    return [NODE, NODE_DIR / script]


def package(name):
    if not NODE.exists():
        raise Skipped("the clients for Node are not installed: run tests/setup")
    return [NODE, NODE_DIR / "node_modules/.bin" / name]


def output(command, cwd=None, limit_s=120):
    """What a command prints, also where it fails."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit_s)
    return done.stdout + done.stderr


def run(command, limit_s=120, cwd=None, env=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env={**os.environ, **(env or {})}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=limit_s)
    if done.returncode != 0:
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def python_sdk(url, token, calls):
    """A session in each of the two ways. `calls` has the arguments of each tool, and perhaps `refused`: others, which must be an error."""
    if not MCP_PYTHON.exists():
        raise Skipped("the MCP client for Python is not installed: run tests/setup")
    return run([MCP_PYTHON, CLIENTS / "sdk.py", url, token, json.dumps(calls)])


def typescript_sdk(url, token, calls):
    return run([*node("sdk.mjs"), url, token, json.dumps(calls)], cwd=NODE_DIR)


def inspector(url, token, calls):
    """The list of tools, strictly, and the tools of `calls`, each with its arguments."""
    base = [*package("mcp-inspector"), "--cli", url, "--transport", "http", "--header", f"Authorization: Bearer {token}"]
    run([*base, "--method", "tools/list", "--strict"])
    for tool, arguments in calls.items():
        given = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in arguments.items()]
        given = ["--tool-arg", *given] if given else []
        answer = json.loads(run([*base, "--method", "tools/call", "--tool-name", tool, *given]))
        assert not answer.get("isError") and answer["structuredContent"], (tool, answer)
    return f"tools/list --strict, {len(calls)} tools called"


def mcp_remote(url, token, tool, arguments):
    return run([*node("remote.mjs"), url, token, tool, json.dumps(arguments)], cwd=NODE_DIR)


def budgets(answers):
    """Counts the tokens of the list of tools and of typical answers, by their names, and holds them against what they may have."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({name: json.dumps(answer, separators=(",", ":")) for name, answer in answers.items()}, file)
        file.flush()
        counts = json.loads(run([*node("tokens.mjs"), file.name], cwd=NODE_DIR))
    assert counts["tools/list"] < TOOLS_LIST_MAX_TOKENS, counts
    over = {name: n for name, n in counts.items() if name != "tools/list" and n > TYPICAL_MAX_TOKENS}
    assert not over, over
    return json.dumps(counts)


class Issuer:
    """A certified OpenID Connect provider, as a process."""

    def __init__(self, claims=None):
        """`claims` are those that tokens have beside the usual ones, by client or account."""
        self.claims = claims or {}

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        command = [str(c) for c in [*node("issuer.mjs"), json.dumps(self.claims)]]
        self.process = subprocess.Popen(command, cwd=NODE_DIR, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def rotate(self):
        self.process.stdin.write("rotate\n")
        self.process.stdin.flush()
        # It has notices of its own to tell.
        for line in self.process.stdout:
            if line.strip() == "rotated":
                return
        self.log.seek(0)
        raise AssertionError(f"the issuer ended: {self.log.read()[-1500:]}")

    def token(self, client, scope, resource):
        form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": scope, "resource": resource,
                                       "client_id": client, "client_secret": f"secret-of-{client}"})
        with urllib.request.urlopen(f"{self.url}/token", form.encode(), timeout=20) as answer:
            return json.load(answer)["access_token"]


def check_all(checks, wanted, subject):
    """Asks each of the checks, those that are wanted by their names, and returns how many passed, failed, and were skipped."""
    passed, failed, skipped = 0, 0, 0
    for ask in checks:
        if wanted and ask.__name__ not in wanted:
            continue
        try:
            said = ask(subject)
            passed += 1
            print(f"PASS {ask.__name__}: {(said or '').strip()}", flush=True)
        except Skipped as why:
            skipped += 1
            failed += os.environ.get("CI") == "true"
            print(f"!!! SKIP {ask.__name__}: {why} !!!", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError, KeyError, ValueError) as why:
            failed += 1
            print(f"FAIL {ask.__name__}: {why!r}", flush=True)
    return passed, failed, skipped


def close(passed, failed, skipped):
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


def wanted_checks(parser):
    """What the command line says, and the names of checks in it."""
    parser.add_argument("--only", help="names of checks, with commas between")
    given = parser.parse_args()
    return given, given.only.split(",") if given.only else None


def parser_of(doc):
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
