// The official TypeScript SDK: a session over HTTP, and a call of every tool. The SDK checks answers against the schemas.
//
//     sdk.mjs URL TOKEN CALLS     CALLS: {"tool": {arguments}}, null for a tool that is not called, {"refused": [{"tool": {arguments}}]}
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, token] = process.argv.slice(2);
const { refused = [], ...calls } = JSON.parse(process.argv[4]);

const client = new Client({ name: "kafscale-tests", version: "1" });
const requestInit = { headers: { Authorization: `Bearer ${token}` } };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
const { tools } = await client.listTools();
const names = tools.map((tool) => tool.name).sort();
if (names.join() !== Object.keys(calls).sort().join()) throw new Error(`tools: ${names}`);
for (const [name, args] of Object.entries(calls)) {
  if (args === null) continue;
  const answer = await client.callTool({ name, arguments: args });
  if (answer.isError || !answer.structuredContent) throw new Error(`${name}: ${JSON.stringify(answer)}`);
}
for (const call of refused) {
  const [[name, args]] = Object.entries(call);
  const answer = await client.callTool({ name, arguments: args });
  if (!answer.isError || !answer.content[0].text) throw new Error(`${name} ${JSON.stringify(args)}: ${JSON.stringify(answer)}`);
}
await client.close();
console.log(`${tools.length} tools, ${refused.length} refused calls`);
