"""The official Python SDK: a session in each of the two ways, and a call of every tool. The SDK checks answers against the schemas.

    sdk.py URL TOKEN CALLS     CALLS: {"tool": {arguments}}, and {"refused": [{"tool": {arguments}}]}
"""

import asyncio
import json
import logging
import sys

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

async def session(url, token, mode, calls, refused):
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = (await client.list_tools()).tools
            assert sorted(tool.name for tool in tools) == sorted(calls), tools
            for tool, arguments in calls.items():
                answer = await client.call_tool(tool, arguments)
                assert not answer.is_error, answer
                assert answer.structured_content, answer
            for tool, arguments in (pair for call in refused for pair in call.items()):
                answer = await client.call_tool(tool, arguments)
                assert answer.is_error and answer.content[0].text, (tool, arguments, answer)
            return f"{mode}: {len(tools)} tools, {len(refused)} refused calls"


class Complaints(logging.Handler):
    """What the SDK warns of: it ends a session with a warning where it does not get the status that it expects."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


async def main():
    url, token, calls = sys.argv[1:]
    calls = json.loads(calls)
    refused = calls.pop("refused", [])
    complaints = Complaints()
    logging.getLogger("mcp").addHandler(complaints)
    said = [await session(url, token, mode, calls, refused) for mode in ("legacy", "auto")]
    assert not complaints.texts, complaints.texts
    print(", ".join(said))


asyncio.run(main())
