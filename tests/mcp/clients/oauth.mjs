// The official TypeScript SDK as an OAuth client: it has credentials at an issuer and the address of the server, and nothing
// else. The server's refusal leads it to the issuer, and the issuer's token lets it in.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { ClientCredentialsProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, expectedIssuer, tool, args] = process.argv.slice(2);
const authProvider = new ClientCredentialsProvider({
  clientId: "agent",
  clientSecret: "secret-of-agent",
  scope: "observe",
  expectedIssuer,
});
const client = new Client({ name: "kafscale-tests", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { authProvider }));
const answer = await client.callTool({ name: tool, arguments: JSON.parse(args) });
if (answer.isError) throw new Error(JSON.stringify(answer));
await client.close();
console.log(JSON.stringify(answer.structuredContent));
