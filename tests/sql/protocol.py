"""Steps about the protocol: what clients prepare, keep, send and are sent, and what a transaction takes back."""

import asyncio
import contextlib
import json
import socket
import struct
import uuid

import asyncpg
import psycopg
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from rows import check, wait_for


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


def parse(name, text):
    return message(b"P", name + b"\0" + text + b"\0\0\0")


def bind(portal, name, values=(), binary=False):
    body = portal + b"\0" + name + b"\0\0\0" + struct.pack("!H", len(values))
    body += b"".join(struct.pack("!i", len(value)) + value for value in values)
    return message(b"B", body + (b"\0\x01\0\x01" if binary else b"\0\0"))


def execute(portal):
    return message(b"E", portal + b"\0\0\0\0\0")


def query(text):
    return message(b"Q", text + b"\0")


SYNC = message(b"S", b"")


class Wire:
    """A client that sends bytes."""

    def __init__(self, port, startup=b"user\0ana\0database\0kafscale\0\0"):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.sendall(struct.pack("!II", len(startup) + 8, 196_608) + startup)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        self.until_ready()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def until_ready(self):
        """Messages, as their kinds and bodies, up to the one that says what may come next. `EOF` where the connection ends."""
        seen = []
        while True:
            head = self.file.read(5)
            if len(head) < 5:
                return [*seen, ("EOF", b"")]
            kind, body = head[:1].decode(), self.file.read(struct.unpack("!I", head[1:])[0] - 4)
            seen.append((kind, body))
            if kind == "Z":
                return seen

    def ask(self, data):
        self.socket.sendall(data)
        return self.until_ready()

    def error(self, data):
        """The code of the error that is answered, and the whole answer."""
        seen = self.ask(data)
        codes = [field[1:].decode() for kind, body in seen if kind == "E" for field in body.split(b"\0") if field[:1] == b"C"]
        check(len(codes) <= 1, seen)
        return (codes or [None])[0], seen


def refused(connection, statement, code, *args):
    try:
        rows = connection.execute(statement, *args)
    except psycopg.Error as error:
        check(error.sqlstate == code, f"{statement}: {error.sqlstate} {error}")
        return str(error)
    raise AssertionError(f"{statement} was answered: {rows}")


def create(broker, name, schema=None, records=()):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(name, 1, 1, topic_configs={"kafscale.sql.schema": schema} if schema else {})])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    for record in records:
        producer.send(name, record).get(20)
    producer.close()


def alter(broker, sql, name, schema):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs={"kafscale.sql.schema": schema})])
    admin.close()
    expected = [tuple(column.split(" ", 1)) for column in schema.split(", ")]

    def is_seen():
        rows = sql.rows("SELECT column_name, data_type FROM kafscale.columns WHERE topic = %s AND column_name NOT LIKE '\\_%%' ORDER BY ordinal", (name,))
        return [(column, {"double precision": "double"}.get(kind, kind)) for column, kind in rows] == expected
    wait_for(f"{name} to have {schema}", is_seen, 20)


def changed_columns(step, broker, sql):
    with step("changed-columns-of-prepared-statements"):
        create(broker, "changing", "a bigint", [b'{"a":12345678}'])
        for binary in (False, True):
            alter(broker, sql, "changing", "a bigint")
            with psycopg.connect(sql.dsn(), autocommit=True) as connection, Wire(sql.port) as wire:
                cursor = connection.cursor(binary=binary)
                ask = lambda: cursor.execute("SELECT a FROM changing", prepare=True).fetchall()  # noqa: E731
                wire.ask(parse(b"", b"SELECT * FROM changing") + parse(b"named", b"TABLE changing") + SYNC)
                check(ask() == [(12345678,)], "before")
                alter(broker, sql, "changing", "a text")
                for _ in range(2):
                    try:
                        rows = ask()
                    except psycopg.errors.FeatureNotSupported as error:
                        check(str(error) == "cached plan must not change result type", error)
                        check(error.diag.source_function == "RevalidateCachedQuery", error.diag.source_function)
                    else:
                        raise AssertionError(f"binary={binary}: {rows}")
                for name in (b"", b"named"):
                    code, seen = wire.error(bind(b"", name, binary=binary) + execute(b"") + SYNC)
                    check(code == "0A000" and "D" not in [kind for kind, _ in seen], seen)
                # Prepared again, it gives what there is now.
                connection.execute("DEALLOCATE ALL")
                wire.ask(parse(b"", b"SELECT a FROM changing") + SYNC)
                code, seen = wire.error(parse(b"", b"SELECT a FROM changing") + bind(b"", b"", binary=binary) + execute(b"") + SYNC)
                check(code is None and ("D", b"\0\x01\0\0\0\x0812345678") in seen, seen)
    with step("changed-columns-of-cursors"):
        alter(broker, sql, "changing", "a bigint")
        with psycopg.connect(sql.dsn(), autocommit=True) as connection, Wire(sql.port) as wire:
            wire.ask(query(b"BEGIN; DECLARE c CURSOR FOR SELECT a FROM changing"))
            wire.ask(parse(b"f", b"FETCH 1 FROM c") + SYNC)
            wire.ask(query(b"CLOSE c; DECLARE c CURSOR FOR SELECT a::text FROM changing"))
            check(wire.error(bind(b"", b"f") + execute(b"") + SYNC)[0] == "0A000", "FETCH of another cursor")
            connection.execute("BEGIN")
            connection.execute("DECLARE d CURSOR FOR SELECT * FROM changing")
            check(len(connection.execute("FETCH 1 FROM d").fetchall()) == 1, "the row")
            alter(broker, sql, "changing", "a bigint, b text")
            refused(connection, "FETCH FIRST FROM d", "0A000")
    with step("asyncpg-prepares-again"):
        async def pooled():
            connection = await asyncpg.connect(host="127.0.0.1", port=sql.port, user="ana", database="kafscale")
            alter(broker, sql, "changing", "a bigint")
            first = await connection.fetch("SELECT * FROM changing")
            alter(broker, sql, "changing", "a text, b text")
            second = await connection.fetch("SELECT * FROM changing")
            await connection.close()
            return first[0]["a"], second[0]["a"]
        check(asyncio.run(pooled()) == (12345678, "12345678"), "what is given again")


def nul(step, broker, sql):
    with step("nul-in-names-and-texts"):
        create(broker, "nul", None, [json.dumps({"ok": 1, "x\0y": 2, "z": "a\0b"}).encode()])
        with psycopg.connect(sql.dsn(), autocommit=True) as connection:
            for binary in (False, True):
                cursor = connection.cursor(binary=binary)
                row = cursor.execute("SELECT * FROM nul").fetchone()
                names = [column.name for column in cursor.description]
                check(names[-2:] == ["ok", "z"] and row[-2:] == (1, "a\ufffdb"), f"{names}: {row}")
                value = cursor.execute("SELECT chr(0) || 'x', ARRAY[z, 'c'], _value ->> 'x\\0y' FROM nul").fetchone()
                check(value[:2] == ("\ufffdx", ["a\ufffdb", "c"]), value)
            text = refused(connection, "SELECT z::int FROM nul", "22P02")
            check("a\ufffdb" in text, text)
        with Wire(sql.port) as wire:
            code, _ = wire.error(parse(b"", b"SELECT $1::text") + bind(b"", b"", [b"a\0b"]) + execute(b"") + SYNC)
            check(code == "22021", code)
            check(wire.error(query(b"SELECT 1"))[0] is None, "it goes on")


def transactions(step, sql):
    with step("savepoints"):
        with psycopg.connect(sql.dsn()) as connection:
            with connection.transaction():
                for _ in range(2):
                    with contextlib.suppress(psycopg.errors.UndefinedColumn), connection.transaction():
                        connection.execute("SELECT nosuch FROM orders")
                check(connection.execute("SELECT 1").fetchone() == (1,), "behind a nested transaction that failed")
        with psycopg.connect(sql.dsn(), autocommit=True) as connection:
            for statement in ("SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"):
                refused(connection, statement, "25P01")
            connection.execute("BEGIN")
            connection.execute("SAVEPOINT a")
            refused(connection, "ROLLBACK TO b", "3B001")
            refused(connection, "SAVEPOINT b", "25P02")
            connection.execute("ROLLBACK TO a")
            connection.execute("DECLARE late CURSOR FOR SELECT 1")
            connection.execute("ROLLBACK TO SAVEPOINT a")
            refused(connection, "FETCH late", "34000")
            check(connection.execute("COMMIT").statusmessage == "ROLLBACK", "of a transaction that failed")
            for end, tag in (("COMMIT AND CHAIN", "COMMIT"), ("ROLLBACK AND CHAIN", "ROLLBACK")):
                connection.execute("BEGIN")
                check(connection.execute(end).statusmessage == tag, end)
                check(connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS, "no transaction behind it")
                connection.execute("ROLLBACK")
        done = sql.psql("\\set ON_ERROR_ROLLBACK on", "BEGIN", "SELECT nosuch", "SELECT 7", "COMMIT", ok=False)
        check(done.stdout.split() == ["BEGIN", "7", "COMMIT"], done.stdout + done.stderr)
        check("there is no transaction in progress" in sql.psql("COMMIT").stderr, "the warning")
    with step("settings-end-with-their-block"):
        with psycopg.connect(sql.dsn(), autocommit=True) as connection:
            name = lambda: connection.execute("SELECT current_setting('application_name')").fetchone()[0]  # noqa: E731
            for statements, expected in (
                (("SET application_name = 'a'",), "a"),
                (("BEGIN", "SET LOCAL application_name = 'b'", "COMMIT"), "a"),
                (("BEGIN", "SET application_name = 'c'", "ROLLBACK"), "a"),
                (("BEGIN", "SET application_name = 'd'", "SAVEPOINT s", "SET application_name = 'e'", "ROLLBACK TO s", "COMMIT"), "d"),
                (("SET LOCAL application_name = 'f'",), "d"),
                (("SELECT set_config('application_name', 'g', false)",), "g"),
                (("BEGIN", "SELECT set_config('application_name', 'h', true)", "COMMIT"), "g"),
                (("RESET ALL",), ""),
            ):
                for statement in statements:
                    connection.execute(statement)
                check((name(), connection.info.parameter_status("application_name")) == (expected,) * 2 or "set_config" in str(statements),
                      f"{statements}: {name()}, {connection.info.parameter_status('application_name')}")
                check(name() == expected, f"{statements}: {name()}")
            refused(connection, "SELECT current_setting('no.such')", "42704")
            check(connection.execute("SELECT current_setting('no.such', true)").fetchone() == (None,), "missing_ok")


def catalog(step, broker, sql):
    with step("topics-named-as-catalog-tables"):
        before = sql.rows("SELECT count(*) FROM pg_type")
        for name in ("pg_class", "pg_type", "pg_constraint"):
            create(broker, name, None, [b'{"only":1}'])
        check(sql.rows("SELECT count(*) FROM pg_type") == before, "pg_type is the catalog's")
        check(sql.rows("SELECT relname FROM pg_class WHERE pg_class.relname = 'orders'") == [("orders",)], "pg_class is the catalog's")
        check(sql.rows('SELECT "only" FROM public.pg_class TAIL 1') == [(1,)], "the topic by its schema")
        check(sql.rows('SELECT "only" FROM public.pg_constraint') == [(1,)], "a topic called as an empty table")
        check("orders|bigint" not in sql.psql("\\d orders").stdout and "amount|double precision" in sql.psql("\\d orders").stdout, "\\d")
    with step("casts-to-regclass"):
        with psycopg.connect(sql.dsn(), autocommit=True) as connection:
            one = lambda text: connection.execute(f"SELECT {text}").fetchone()[0]  # noqa: E731
            oid = connection.execute("SELECT oid FROM pg_class WHERE relname = 'orders'").fetchone()[0]
            check(one("'orders'::regclass") == one("'public.orders'::regclass::oid") == oid, "the oid")
            check(one("'pg_class'::regclass") == 1259 and one("'public.pg_class'::regclass") != 1259, "of the catalog and of the topic")
            check(one("'public.\"orders\"'::regclass::text") == "orders", "the name")
            check(one("'\"With.Odd-name\"'::regclass::text") == '"With.Odd-name"', "a name with dots")
            for name in ("'nope'::regclass", "'nope'::regclass::text"):
                check('"nope" does not exist' in refused(connection, f"SELECT {name}", "42P01"), name)
    with step("words-of-sql-that-were-missing"):
        rows = sql.rows("SELECT id FROM orders ORDER BY id OFFSET 1 ROW FETCH FIRST 2 ROWS ONLY")
        check(rows == [(1,), (2,)], rows)
        check(sql.rows("SELECT id FROM orders ORDER BY id FETCH NEXT ROW ONLY") == [(0,)], "one row")
        check(len(sql.rows("TABLE declared")) == 5, "TABLE")
        check(sql.rows("SELECT current_schema, current_schema()") == [("public", "public")], "current_schema")
    with step("ranges-that-would-be-dropped-and-topics-that-are-not-there"):
        with psycopg.connect(sql.dsn(), autocommit=True) as connection:
            for ranges in ("0:0-2,0:4-6", "", " , "):
                refused(connection, f"SELECT count(*) FROM orders AS OF '{ranges}'", "22023")
            for statement in ("DESCRIBE nope", "SHOW PARTITIONS FROM nope"):
                refused(connection, statement, "42P01")


def messages(step, sql):
    with step("messages-that-lie-are-told"):
        with Wire(sql.port) as wire:
            for data, code in (
                (message(b"B", b"\0\0" + struct.pack("!HHi", 0, 1, 2**30)) + SYNC, "08P01"),
                (message(b"B", b"\0\0" + struct.pack("!HHi", 0, 1, 3) + b"xx") + SYNC, "08P01"),
                (message(b"P", b"\0select 1\0\0\x09") + SYNC, "08P01"),
                (message(b"Q", b"select 1"), "08P01"),
                (message(b"Q", b"select 1\0garbage\0"), "08P01"),
                (message(b"Q", b"select '\xff'\0"), "22021"),
                (parse(b"", b"select '\xff'") + SYNC, "22021"),
                (message(b"D", b"X\0") + SYNC, "08P01"),
                (message(b"F", b"\0"), "0A000"),
            ):
                seen, _ = wire.error(data)
                check(seen == code, f"{data}: {seen}")
                check(wire.error(query(b"SELECT 1"))[0] is None, f"it goes on behind {data}")
            seen, answer = wire.error(message(b"\xff", b""))
            check(seen == "08P01" and answer[-1][0] == "EOF", answer)
        wire = Wire(sql.port, b"database\0kafscale\0\0")
        seen = wire.until_ready()
        check(b"C28000" in seen[0][1] and len(seen) <= 3, seen)
        wire.socket.close()
        check("panicked" not in sql.log(), sql.log()[-1500:])
    with step("what-one-connection-keeps-is-bounded"):
        with Wire(sql.port) as wire:
            check(wire.error(parse(b"a", b"SELECT 1") + parse(b"a", b"SELECT 2") + SYNC)[0] == "42P05", "two of one name")
            wire.ask(query(b"DEALLOCATE a"))
            check(wire.error(query(b"DEALLOCATE a"))[0] == "26000", "it is gone")
            check(wire.error(parse(b"a", b"SELECT 1") + bind(b"p", b"a") + bind(b"p", b"a") + SYNC)[0] == "42P03", "two portals of one name")
            check(wire.error(bind(b"p", b"a") + SYNC)[0] is None, "portals end with Sync")
            wire.ask(query(b"DISCARD ALL"))
            check(wire.error(bind(b"", b"a") + SYNC)[0] == "26000", "DISCARD ALL")
            before = sql.rss_mib()
            wire.ask(query(b"BEGIN") + parse(b"big", b"SELECT $1::text") + SYNC)
            wire.until_ready()
            value = b"z" * 3_000_000
            code, _ = wire.error(b"".join(bind(b"p%d" % at, b"big", [value]) for at in range(60)) + SYNC)
            check(code == "53200", code)
            check(sql.rss_mib() - before < 160, f"{sql.rss_mib() - before} MiB")
            wire.ask(query(b"ROLLBACK"))
            text = b"SELECT '" + b"y" * 900_000 + b"'"
            code, _ = wire.error(b"".join(parse(b"s%d" % at, text) for at in range(60)) + SYNC)
            check(code == "53200", code)
            check(wire.error(query(b"SELECT 1"))[0] is None, "it goes on")


async def arrays(sql):
    connection = await asyncpg.connect(host="127.0.0.1", port=sql.port, user="ana", database="kafscale")
    try:
        count = await connection.fetchval("SELECT count(*) FROM orders WHERE id = ANY($1::bigint[])", [1, 2, 99_999])
        check(count == 2, count)
        count = await connection.fetchval("SELECT count(*) FROM orders WHERE customer = ANY($1::text[]) AND id < 14", ["c1", "c2"])
        check(count == 4, count)
        row = await connection.fetchrow("SELECT $1::int[] AS i, $2::text[] AS t, $3::double precision[] AS d, ARRAY[1::bigint, NULL] AS n",
                                        [1, None], ["a", "b,c"], [1.5])
        check(tuple(row) == ([1, None], ["a", "b,c"], [1.5], [1, None]), row)
        check(await connection.fetchval("SELECT array_agg(id ORDER BY id) FROM orders WHERE id < 3") == [0, 1, 2], "array_agg")
        one = str(uuid.uuid4())
        check(await connection.fetchval("SELECT $1::uuid::text", one) == one, "uuid")
        check(await connection.fetchval("SELECT '6f7c1f5e-0000-4000-8000-000000000001'::uuid") == "6f7c1f5e-0000-4000-8000-000000000001", "a cast")
    finally:
        await connection.close()


def check_wire(step, broker, sql):
    changed_columns(step, broker, sql)
    nul(step, broker, sql)
    transactions(step, sql)
    messages(step, sql)
    with step("asyncpg-arrays"):
        asyncio.run(arrays(sql))
    catalog(step, broker, sql)
