// node-postgres: simple and extended queries, parameters, prepared statements, cursors, errors. Prints a line for each step.
import { strict as assert } from "node:assert";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.SQL_NODE_MODULES}/`);
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");

const [port, orders] = [Number(process.argv[2]), Number(process.argv[3])];
const config = { host: "127.0.0.1", port, user: "ana", database: "kafscale" };
let failed = 0;

async function step(name, work) {
  const client = new Client(config);
  try {
    await client.connect();
    await work(client);
    console.log(`PASS ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${String(error.stack ?? error).replaceAll("\n", " ").slice(0, 600)}`);
  } finally {
    await client.end().catch(() => {});
  }
}

const sql = `SELECT 1::int AS i, 2::bigint AS b, 1.5::float8 AS f, 12.50::numeric(10, 2) AS n, true AS t, 'x' AS s,
  '\\x00ff'::bytea AS y, '2026-01-02 03:04:05.678Z'::timestamptz AS z, ARRAY[1, 2] AS a, ARRAY['a', NULL] AS l,
  NULL AS e, at, tags FROM orders WHERE id = 35`;

function types(row) {
  const { y, z, ...rest } = row;
  assert.deepEqual(rest, {
    i: 1, b: "2", f: 1.5, n: "12.50", t: true, s: "x", a: [1, 2], l: ["a", null], e: null, at: { day: 5 }, tags: ["a", 35],
  });
  assert.deepEqual([...y], [0, 255]);
  assert.equal(z.toISOString(), "2026-01-02T03:04:05.678Z");
}

await step("types-in-a-simple-query", async (client) => types((await client.query(sql)).rows[0]));
await step("several-statements", async (client) => {
  const results = await client.query("SELECT 1 AS a; SELECT 2 AS b");
  assert.deepEqual(results.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
});
await step("types-in-binary", async (client) => {
  const { rows } = await client.query({ text: "SELECT 1::int AS i, 1.5::float8 AS f, true AS t, '\\x00ff'::bytea AS y", binary: true });
  assert.equal(rows[0].i, 1);
  assert.equal(rows[0].f, 1.5);
});
await step("parameters", async (client) => {
  const { rows } = await client.query("SELECT id, customer FROM orders WHERE id = $1 AND customer = $2 AND amount > $3", [8, "c1", 1.5]);
  assert.deepEqual(rows, [{ id: "8", customer: "c1" }]);
  const any = await client.query("SELECT id FROM orders WHERE id = ANY($1) ORDER BY id", [[3, 1, 2]]);
  assert.deepEqual(any.rows.map((row) => row.id), ["1", "2", "3"]);
  const each = await client.query(
    "SELECT $1::int AS i, $2::text AS s, $3::boolean AS t, $4::timestamptz AS z, $5::json AS j, $6::bytea AS y, $7::text AS n, $8::date AS d",
    [7, "d'été", true, new Date("2026-01-02T03:04:05.678Z"), { a: [1] }, Buffer.from([0, 255]), null, "2026-01-02"],
  );
  const row = each.rows[0];
  assert.deepEqual([row.i, row.s, row.t, row.n, row.j], [7, "d'été", true, null, { a: [1] }]);
  assert.equal(row.z.toISOString(), "2026-01-02T03:04:05.678Z");
  assert.deepEqual([...row.y], [0, 255]);
});
await step("prepared-statements", async (client) => {
  for (let id = 0; id < 20; id++) {
    const { rows } = await client.query({ name: "by-id", text: "SELECT customer FROM orders WHERE id = $1", values: [id] });
    assert.equal(rows[0].customer, `c${id % 7}`);
  }
});
await step("a-cursor", async (client) => {
  const cursor = client.query(new Cursor("SELECT id FROM orders WHERE id >= $1 ORDER BY id", [0]));
  let next = 0;
  for (;;) {
    const rows = await cursor.read(500);
    if (rows.length === 0) break;
    for (const row of rows) assert.equal(row.id, String(next++));
  }
  assert.equal(next, orders);
  await cursor.close();
  assert.equal((await client.query("SELECT 1 AS one")).rows[0].one, 1);
});
await step("an-error-and-after-it", async (client) => {
  for (const [text, code] of [["SELECT nosuch FROM orders", "42703"], ["SELECT * FROM ordersx", "42P01"]]) {
    const error = await client.query(text).catch((e) => e);
    assert.equal(error.code, code, text);
  }
  const error = await client.query("SELECT 1 FORM orders x y").catch((e) => e);
  assert.equal(error.code, "42601");
  assert.ok(Number(error.position) > 0, `position ${error.position}`);
  assert.equal((await client.query("SELECT $1::int AS one", [1])).rows[0].one, 1);
});
await step("a-pool", async () => {
  const pool = new Pool({ ...config, max: 4 });
  const counts = await Promise.all(Array.from({ length: 12 }, () => pool.query("SELECT count(*)::int AS n FROM orders")));
  assert.ok(counts.every(({ rows }) => rows[0].n === orders));
  await pool.end();
});
process.exit(failed === 0 ? 0 : 1);
