// The official TypeScript SDK as an app with somebody before it: it knows the address of the server, and nothing of its issuer. The
// server's refusal leads it there; a code with PKCE, for this server (RFC 8707), becomes a token.
//
//     oauth_code.mjs URL TOOL ARGUMENTS
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { UnauthorizedError } from "@modelcontextprotocol/sdk/client/auth.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, tool, args] = process.argv.slice(2);
const redirectUrl = "http://127.0.0.1:9/callback";
const kept = {};
let code;

// Follows the pages as a browser does.
async function browse(address) {
  const cookies = new Map();
  for (let step = 0; step < 12; step += 1) {
    if (address.href.startsWith(redirectUrl)) return address;
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const answer = await fetch(address, { redirect: "manual", headers: { cookie } });
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=");
      cookies.set(name, value);
    }
    const location = answer.headers.get("location");
    if (!location) throw new Error(`${address}: ${answer.status} ${await answer.text()}`);
    address = new URL(location, address);
  }
  throw new Error(`no end at ${address}`);
}

const authProvider = {
  redirectUrl,
  clientMetadata: { client_name: "kafscale-tests", redirect_uris: [redirectUrl], token_endpoint_auth_method: "none", scope: "observe" },
  clientInformation: () => ({ client_id: "app" }),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => void (kept.tokens = tokens),
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  codeVerifier: () => kept.verifier,
  async redirectToAuthorization(address) {
    if (address.searchParams.get("code_challenge_method") !== "S256") throw new Error(`no PKCE: ${address}`);
    if (address.searchParams.get("resource") !== url) throw new Error(`not for this server: ${address}`);
    code = (await browse(address)).searchParams.get("code");
  },
};
const transport = () => new StreamableHTTPClientTransport(new URL(url), { authProvider });
const first = transport();
try {
  await new Client({ name: "kafscale-tests", version: "1" }).connect(first);
  throw new Error("nobody was let in");
} catch (error) {
  if (!(error instanceof UnauthorizedError)) throw error;
}
await first.finishAuth(code);
const client = new Client({ name: "kafscale-tests", version: "1" });
await client.connect(transport());
const answer = await client.callTool({ name: tool, arguments: JSON.parse(args) });
if (answer.isError) throw new Error(JSON.stringify(answer));
await client.close();
console.log(JSON.stringify(answer.structuredContent));
