"""postgres_fdw of a real PostgreSQL, which reads topics by cursors and joins them with its own tables."""

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import psycopg
from broker import free_port
from rows import check, wait_for
from server import ORDERS

BIN = pathlib.Path("/usr/lib/postgresql/15/bin")


@contextlib.contextmanager
def postgresql():
    """A PostgreSQL of this test's own. It refuses to run as root."""
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    directory = tempfile.mkdtemp(prefix="kafscale-sql-pg-")
    process = None
    try:
        if as_user:
            shutil.chown(directory, pwd.getpwnam("postgres").pw_uid)
        data, port = f"{directory}/data", free_port()
        subprocess.run([*as_user, str(BIN / "initdb"), "-D", data, "-A", "trust", "-U", "postgres"], check=True, capture_output=True, cwd=directory)
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        process = subprocess.Popen([*as_user, str(BIN / "postgres"), "-D", data, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)

        def connects():
            with contextlib.suppress(psycopg.OperationalError):
                return psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True)

        with wait_for("PostgreSQL", connects) as connection:
            yield connection
    finally:
        if process is not None:
            pid = int(pathlib.Path(f"{directory}/data/postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, 2)
            process.wait(20)
        shutil.rmtree(directory, ignore_errors=True)


def all(step, sql):
    with step("postgres_fdw"), postgresql() as connection:
        execute = connection.execute
        execute("CREATE EXTENSION postgres_fdw")
        execute(f"CREATE SERVER topics FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{sql.port}', dbname 'kafscale', fetch_size '500')")
        execute("CREATE USER MAPPING FOR PUBLIC SERVER topics OPTIONS (user 'ana', password_required 'false')")
        execute("CREATE SCHEMA topics")
        with step("postgres_fdw:import-foreign-schema"):
            execute("IMPORT FOREIGN SCHEMA public LIMIT TO (orders, declared) FROM SERVER topics INTO topics")
            types = dict(execute("SELECT attname, format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'topics.orders'::regclass AND attnum > 0").fetchall())
            check(types["_offset"] == "bigint" and types["amount"] == "double precision" and types["_ts"] == "timestamp with time zone", types)
        with step("postgres_fdw:all-rows"):
            rows = execute("SELECT id, customer, amount, paid, tags FROM topics.orders ORDER BY id").fetchall()
            check([row[0] for row in rows] == list(range(ORDERS)) and rows[8][1:4] == ("c1", 12.0, True), rows[:9])
        with step("postgres_fdw:conditions-and-aggregates-are-pushed-down"):
            plan = "\n".join(row[0] for row in execute("EXPLAIN (VERBOSE) SELECT customer, sum(amount) FROM topics.orders WHERE id < 100 GROUP BY customer"))
            check("Remote SQL" in plan and "GROUP BY" in plan, plan)
            sums = dict(execute("SELECT customer, sum(amount) FROM topics.orders WHERE id < 100 GROUP BY customer").fetchall())
            check(sums["c1"] == sum(i * 1.5 for i in range(100) if i % 7 == 1), sums)
            check(execute("SELECT count(*) FROM topics.orders WHERE customer = 'c1' AND _ts >= '2023-11-14 22:13:25+00'").fetchone()[0] > 0, "by text and time")
        with step("postgres_fdw:a-topic-joined-with-a-table"):
            execute("CREATE TABLE customers (id text PRIMARY KEY, name text)")
            execute("INSERT INTO customers SELECT 'c' || i, 'Customer ' || i FROM generate_series(0, 6) i")
            execute("ANALYZE customers")
            rows = execute("SELECT c.name, count(*), sum(o.amount) FROM topics.orders o JOIN customers c ON o.customer = c.id GROUP BY 1 ORDER BY 1").fetchall()
            check([row[1] for row in rows] == [len(range(i, ORDERS, 7)) for i in range(7)], rows)
        with step("postgres_fdw:a-scan-that-begins-again"):
            for setting in ("enable_hashjoin", "enable_mergejoin", "enable_material"):
                execute(f"SET {setting} = off")
            rows = execute("SELECT c.id, (SELECT count(*) FROM topics.orders o WHERE o.customer = c.id AND o.id < 70) FROM customers c ORDER BY 1").fetchall()
            check(rows == [(f"c{i}", 10) for i in range(7)], rows)
            rows = execute("SELECT count(*) FROM customers c, topics.orders o WHERE o.id + 0 * length(c.name) < 10 * random() + 5").fetchone()
            check(rows[0] > 0, rows)
        with step("postgres_fdw:nothing-can-be-written"):
            try:
                execute("DELETE FROM topics.orders WHERE id = 1")
            except psycopg.Error as error:
                check(error.sqlstate == "25006", f"{error.sqlstate} {error}")
            else:
                raise AssertionError("it was written")
        with step("postgres_fdw:after-an-error"):
            check(execute("SELECT count(*) FROM topics.orders").fetchone() == (ORDERS,), "count")
