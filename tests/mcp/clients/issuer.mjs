// An OpenID Connect provider (node-oidc-provider, certified) that gives access tokens, as JWTs for a resource: to programs by
// their credentials, and to an app for whoever sits before it, by a code with PKCE; whoever that is, logs in as ana and consents.
//
//     issuer.mjs [CLAIMS]     CLAIMS: {"client or account": {claims of its tokens}}
//
// It prints its address; a line "rotate" on its input makes it sign with a new key and forget the old one.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { exportJWK, generateKeyPair } from "jose";
import { Provider } from "oidc-provider";

const claims = JSON.parse(process.argv[2] ?? "{}");
const redirect = "http://127.0.0.1:9/callback";

const programs = (algorithm) => [
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

const app = (algorithm) => ({
  client_id: "app",
  token_endpoint_auth_method: "none",
  application_type: "native",
  grant_types: ["authorization_code"],
  response_types: ["code"],
  redirect_uris: [redirect],
  id_token_signed_response_alg: algorithm,
  scope: "openid observe",
});

// Says yes to whatever somebody is asked.
async function interact(issuer, request, response) {
  const { prompt, params, session } = await issuer.interactionDetails(request, response);
  if (prompt.name === "login") {
    return issuer.interactionFinished(request, response, { login: { accountId: "ana" } });
  }
  const grant = new issuer.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  grant.addResourceScope(params.resource, "observe");
  return issuer.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

async function provider(issuer, algorithm) {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
  const key = { ...(await exportJWK(privateKey)), alg: algorithm, use: "sig", kid: `${algorithm}-${Date.now()}` };
  const made = new Provider(issuer, {
    clients: [...programs(algorithm), app(algorithm)],
    jwks: { keys: [key] },
    scopes: ["openid", "observe", "other"],
    extraTokenClaims: (_, token) => claims[token.accountId ?? token.clientId],
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
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
  const serve = made.callback();
  return (request, response) =>
    request.url.startsWith("/interaction/") ? interact(made, request, response) : serve(request, response);
}

let current;
const server = createServer((request, response) => current(request, response));
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const issuer = `http://127.0.0.1:${server.address().port}`;
current = await provider(issuer, "RS256");
console.log(issuer);
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "rotate") break;
  current = await provider(issuer, "ES256");
  console.log("rotated");
}
process.exit(0);
