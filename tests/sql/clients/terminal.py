"""pgcli, whose completion looks into the catalogs, in a scripted run."""

import os
import pathlib
import subprocess
import sys
import tempfile

from rows import check
from server import ORDERS


def all(step, sql):
    pgcli = str(pathlib.Path(sys.executable).parent / "pgcli")
    with step("pgcli:a-script"), tempfile.TemporaryDirectory() as home:
        script = "SELECT count(*) FROM orders;\n\\dt\n\\d orders\nSELECT customer FROM orders WHERE id = 8;\n\\q\n"
        env = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "PAGER": "cat", "PGUSER": "ana", "TERM": "dumb"}
        command = [pgcli, "-h", "127.0.0.1", "-p", str(sql.port), "-d", "kafscale", "--no-password", "--less-chatty"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, env=env)
        for text in (str(ORDERS), "orders", "_offset", "bigint", "c1"):
            check(text in done.stdout, f"no {text}: {done.stdout[-1500:]} {done.stderr[-500:]}")
        check("Traceback" not in done.stdout + done.stderr and "ERROR" not in done.stdout, done.stdout + done.stderr)
    with step("pgcli:completion"):
        from pgcli.pgexecute import PGExecute

        executor = PGExecute("kafscale", "ana", None, "127.0.0.1", str(sql.port), None)
        tables = set(executor.tables())
        check(("public", "orders") in tables, tables)
        columns = {(column[1], column[2]) for column in executor.table_columns()}
        check(("orders", "amount") in columns, columns)
        check("public" in executor.schemata() and "kafscale" in executor.databases(), "schemas, databases")
        for listed in (executor.views, executor.view_columns, executor.foreignkeys, executor.functions, executor.datatypes, executor.casing):
            list(listed())
        check(executor.search_path() and executor.full_databases() is not None, "search path")
