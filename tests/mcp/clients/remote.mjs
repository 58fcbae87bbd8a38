// mcp-remote: a client that only starts processes reaches the server over HTTP.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [url, token, tool, args] = process.argv.slice(2);
const client = new Client({ name: "kafscale-tests", version: "1" });
await client.connect(
  new StdioClientTransport({
    command: process.execPath,
    args: ["node_modules/.bin/mcp-remote", url, "--allow-http", "--header", `Authorization: Bearer ${token}`],
  }),
);
const answer = await client.callTool({ name: tool, arguments: JSON.parse(args) });
if (answer.isError) throw new Error(JSON.stringify(answer));
await client.close();
console.log("a call over the bridge");
