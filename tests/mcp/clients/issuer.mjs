// An OpenID Connect provider (node-oidc-provider, certified) that gives access tokens to programs, as JWTs for a resource.
// It prints its address; a line "rotate" on its input makes it sign with a new key and forget the old one.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { exportJWK, generateKeyPair } from "jose";
import { Provider } from "oidc-provider";

const clients = (algorithm) => [
  ["agent", "observe"],
  ["stranger", "other"],
].map(([client_id, scope]) => ({
  client_id,
  client_secret: `secret-of-${client_id}`,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: algorithm,
  scope,
}));

async function provider(issuer, algorithm) {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
  const key = { ...(await exportJWK(privateKey)), alg: algorithm, use: "sig", kid: `${algorithm}-${Date.now()}` };
  return new Provider(issuer, {
    clients: clients(algorithm),
    jwks: { keys: [key] },
    scopes: ["observe", "other"],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_, __, oneOf) => oneOf,
        getResourceServerInfo: (_, resource) => ({
          scope: "observe other",
          audience: resource,
          accessTokenFormat: "jwt",
          accessTokenTTL: 300,
          jwt: { sign: { alg: algorithm } },
        }),
        useGrantedResource: () => true,
      },
    },
  });
}

let current;
const server = createServer((request, response) => current(request, response));
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const issuer = `http://127.0.0.1:${server.address().port}`;
current = (await provider(issuer, "RS256")).callback();
console.log(issuer);
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "rotate") break;
  current = (await provider(issuer, "ES256")).callback();
  console.log("rotated");
}
process.exit(0);
