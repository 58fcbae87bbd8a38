"""The official Python SDK as a client that starts the server itself, and speaks with it over stdin and stdout."""

import asyncio
import sys

from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client


async def main():
    command, *args = sys.argv[1:]
    server = StdioServerParameters(command=command, args=args)
    async with Client(stdio_client(server)) as client:
        tools = (await client.list_tools()).tools
        answer = await client.call_tool("cluster_status", {})
        assert len(tools) == 9 and not answer.is_error, answer
        print(answer.structured_content["health"])


asyncio.run(main())
