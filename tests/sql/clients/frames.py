"""Data frames: ADBC, which reads by COPY in binary, pandas and Polars by it and by SQLAlchemy; COPY itself by psycopg."""

import datetime
import decimal

import adbc_driver_postgresql.dbapi as adbc
import pandas
import polars
import psycopg
import sqlalchemy
from rows import check
from server import ORDERS

UTC = datetime.timezone.utc


def all(step, sql):
    url = f"postgresql://ana@127.0.0.1:{sql.port}/kafscale"
    with step("adbc:rows-and-types"):
        with adbc.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id, amount, paid, customer, _ts, at FROM orders WHERE id < 3 ORDER BY id")
            table = cursor.fetch_arrow_table()
            check(table.column("id").to_pylist() == [0, 1, 2], table)
            check(table.column("customer").to_pylist() == ["c0", "c1", "c2"], table)
            check(table.column("paid").to_pylist() == [True, False, True], table)
            check(table.column("_ts").to_pylist()[1].timestamp() == 1_700_000_001, table)
            cursor.execute("SELECT ARRAY[1, 2]::bigint[] AS a, NULL::int AS n, 1.50::numeric(10, 2) AS d, '2026-01-02'::date AS day, '\\x00ff'::bytea AS b")
            row = cursor.fetch_arrow_table().to_pylist()[0]
            check((row["a"], row["n"], row["day"], row["b"]) == ([1, 2], None, datetime.date(2026, 1, 2), b"\x00\xff"), row)
            check(decimal.Decimal(str(row["d"])) == decimal.Decimal("1.5"), row)
    with step("adbc:parameters"):
        with adbc.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT customer FROM orders WHERE id = $1", (9,))
            check(cursor.fetchall() == [("c2",)], "the row")
    with step("adbc:objects"):
        with adbc.connect(url) as connection:
            objects = connection.adbc_get_objects(depth="columns", catalog_filter="kafscale", db_schema_filter="public").read_all().to_pylist()
            tables = {table["table_name"]: table for schema in objects[0]["catalog_db_schemas"] for table in schema["db_schema_tables"]}
            check("amount" in [column["column_name"] for column in tables["orders"]["table_columns"]], tables.keys())
            check("_offset" in connection.adbc_get_table_schema("orders").names, "the columns")
    with step("polars:adbc"):
        frame = polars.read_database_uri("SELECT id, customer, amount FROM orders ORDER BY id", url, engine="adbc")
        check(frame.height == ORDERS and frame["amount"].sum() == sum(i * 1.5 for i in range(ORDERS)), frame)
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://ana@127.0.0.1:{sql.port}/kafscale")
    with step("polars:sqlalchemy"):
        with engine.connect() as connection:
            frame = polars.read_database("SELECT customer, count(*) AS n FROM orders GROUP BY customer ORDER BY customer", connection)
        check(frame["n"].sum() == ORDERS and frame["customer"].to_list()[0] == "c0", frame)
    with step("pandas:sqlalchemy"):
        frame = pandas.read_sql("SELECT * FROM orders ORDER BY id", engine)
        check(len(frame) == ORDERS and frame["amount"].sum() == sum(i * 1.5 for i in range(ORDERS)), frame.dtypes)
        chunks = list(pandas.read_sql("SELECT id FROM orders ORDER BY id", engine, chunksize=1_000))
        check([len(chunk) for chunk in chunks] == [1_000] * 3, "in chunks")
        named = pandas.read_sql_table("orders", engine, columns=["id", "customer"])
        check(len(named) == ORDERS, "a table by its name")
    with step("pandas:adbc"):
        with adbc.connect(url) as connection:
            frame = pandas.read_sql("SELECT id, _ts FROM orders WHERE id < 10 ORDER BY id", connection)
            check(frame["id"].tolist() == list(range(10)), frame)
    with step("psycopg:a-server-side-cursor"):
        with psycopg.connect(sql.dsn()) as connection:
            for binary in (False, True):
                with connection.cursor("named", binary=binary) as cursor:
                    cursor.itersize = 700
                    cursor.execute("SELECT id, amount FROM orders WHERE id >= %s ORDER BY id", (5,))
                    check([row[0] for row in cursor] == list(range(5, ORDERS)), f"binary={binary}")
    copies(step, sql)


def copies(step, sql):
    query = "SELECT id, customer, amount, paid, _ts, NULL::text, E'a\\tb\\\\' FROM orders WHERE id < 2 ORDER BY id"
    with step("psycopg:copy-as-text"):
        with psycopg.connect(sql.dsn()) as connection, connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
                rows = list(copy.rows())
            check(rows[1] == ("1", "c1", "1.5", "f", "2023-11-14 22:13:21+00", None, "a\tb\\"), rows)
    with step("psycopg:copy-as-binary"):
        with psycopg.connect(sql.dsn()) as connection, connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
                copy.set_types(["int8", "text", "float8", "bool", "timestamptz", "text", "text"])
                rows = list(copy.rows())
            at = datetime.datetime.fromtimestamp(1_700_000_001, UTC)
            check(rows[1] == (1, "c1", 1.5, False, at, None, "a\tb\\"), rows)
            with cursor.copy("COPY orders TO STDOUT (FORMAT binary)") as copy:
                check(sum(1 for _ in copy.rows()) == ORDERS, "rows of a table")
    with step("psql:copy-as-csv"):
        out = sql.psql("COPY (SELECT 1 AS a, 'x,\"y\"' AS b, NULL AS c, '' AS d) TO STDOUT (FORMAT csv, HEADER)").stdout
        check(out == 'a,b,c,d\n1,"x,""y""",,""\n', out)
        out = sql.psql("\\copy (SELECT id, customer FROM orders WHERE id < 2 ORDER BY id) TO STDOUT WITH CSV DELIMITER ';'").stdout
        check(out == "0;c0\n1;c1\n", out)
