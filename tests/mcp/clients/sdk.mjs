// The official TypeScript SDK: a session over HTTP, and a call of every tool. The SDK checks answers against the schemas.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, token, only] = process.argv.slice(2);
const ARGUMENTS = {
  describe_topics: { names: ["orders"] },
  describe_group: { group_id: "orders" },
  fetch_offsets: { group_id: "orders" },
  describe_configs: { topics: ["payments"] },
};

const client = new Client({ name: "kafscale-tests", version: "1" });
const requestInit = { headers: { Authorization: `Bearer ${token}` } };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
const { tools } = await client.listTools();
if (tools.length !== 9) throw new Error(`${tools.length} tools`);
for (const { name } of tools) {
  // A demo without its sample topics has nothing to describe.
  if (only === "any" && ARGUMENTS[name]) continue;
  const answer = await client.callTool({ name, arguments: ARGUMENTS[name] ?? {} });
  if (answer.isError || !answer.structuredContent) throw new Error(`${name}: ${JSON.stringify(answer)}`);
}
await client.close();
console.log(`${tools.length} tools`);
