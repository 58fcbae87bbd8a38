"""The official Python SDK: a session in each of the two ways, and a call of every tool."""

import asyncio
import logging
import sys

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

ARGUMENTS = {
    "describe_topics": {"names": ["orders"]},
    "describe_group": {"group_id": "orders"},
    "fetch_offsets": {"group_id": "orders"},
    "describe_configs": {"topics": ["payments"]},
}


async def session(url, token, mode):
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = (await client.list_tools()).tools
            assert len(tools) == 9, tools
            for tool in tools:
                answer = await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))
                assert not answer.is_error, answer
                assert answer.structured_content, answer
            return f"{mode}: {len(tools)} tools"


class Complaints(logging.Handler):
    """What the SDK warns of: it ends a session with a warning where it does not get the status that it expects."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


async def main():
    url, token = sys.argv[1:]
    complaints = Complaints()
    logging.getLogger("mcp").addHandler(complaints)
    said = [await session(url, token, mode) for mode in ("legacy", "auto")]
    assert not complaints.texts, complaints.texts
    print(", ".join(said))


asyncio.run(main())
