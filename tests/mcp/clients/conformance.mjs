// The official conformance suite, as far as it needs no fixture tools: through a proxy that adds the bearer token, which the
// suite cannot send.
import { createServer, request } from "node:http";
import { spawn } from "node:child_process";

const SCENARIOS = [
  ["2025-11-25", "server-initialize"],
  ["2025-11-25", "server-session-lifecycle"],
  ["2025-11-25", "ping"],
  ["2025-11-25", "tools-list"],
  ["2026-07-28", "tools-list"],
  ["2025-11-25", "dns-rebinding-protection"],
  ["2026-07-28", "dns-rebinding-protection"],
];
const [url, token] = process.argv.slice(2);
const target = new URL(url);

const proxy = createServer((incoming, outgoing) => {
  const headers = { ...incoming.headers, authorization: `Bearer ${token}` };
  const options = { host: target.hostname, port: target.port, path: incoming.url, method: incoming.method, headers };
  const forwarded = request(options, (answer) => {
    outgoing.writeHead(answer.statusCode, answer.headers);
    answer.pipe(outgoing);
  });
  forwarded.on("error", () => outgoing.destroy());
  incoming.pipe(forwarded);
});
await new Promise((ready) => proxy.listen(0, "127.0.0.1", ready));
const through = `http://127.0.0.1:${proxy.address().port}${target.pathname}`;

function scenario(revision, name) {
  const args = ["node_modules/.bin/conformance", "server", "--url", through, "--scenario", name, "--spec-version", revision];
  return new Promise((done) => {
    const suite = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    suite.stdout.on("data", (data) => (text += data));
    suite.stderr.on("data", (data) => (text += data));
    suite.on("close", (status) => done({ status, text }));
  });
}

let failed = 0;
for (const [revision, name] of SCENARIOS) {
  const { status, text } = await scenario(revision, name);
  if (status !== 0) {
    failed += 1;
    console.error(`${revision} ${name} failed:\n${text.slice(-2000)}`);
  }
}
console.log(`${SCENARIOS.length - failed} of ${SCENARIOS.length} scenarios`);
proxy.closeAllConnections();
proxy.close();
process.exit(failed > 0 ? 1 : 0);
