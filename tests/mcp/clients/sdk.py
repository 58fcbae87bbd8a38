"""The official Python SDK: a session in each of the two ways, and a call of every tool."""

import asyncio
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
            assert len(tools) == 8, tools
            for tool in tools:
                answer = await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))
                assert not answer.is_error, answer
                assert answer.structured_content, answer
            return f"{mode}: {len(tools)} tools"


async def main():
    url, token = sys.argv[1:]
    print(", ".join([await session(url, token, mode) for mode in ("legacy", "auto")]))


asyncio.run(main())
