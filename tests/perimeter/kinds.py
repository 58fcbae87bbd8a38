"""The hospital's tables in each kind of collection: put there, changed, taken away, and what the source saw of being asked.

A kind has the methods of `hospital.Sqlite`, and:

    start()         its server, before `fill`
    settled(h)      what an operator does between writing perimeter.toml and serving
    faults          how it can be hurt: modes of `between.Between`
    hurt(mode)      a context in which that is so
    spoil()         columns are called otherwise, or have values of another kind
    asked()         raises where the source was asked for anything but reading, and returns what it was asked, counted
    seen()          what the source's own log says of requests, as text
    of(sql)         a statement as it is asked of this kind, or None where it cannot be
    place(column)   the table and the column where something of patients is
    rules(text)     rules and policies, for the names that its tables and columns have
    secrets         of the perimeter at the source

Those with a server of their own are in kinds_of_servers.py.
"""

import collections
import contextlib
import csv
import hashlib
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from broker import Broker  # noqa: E402
from cache import python  # noqa: E402
from hospital import TABLES, Sqlite  # noqa: E402
from rows import check  # noqa: E402
from s3proxy import S3Proxy  # noqa: E402
from services import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server  # noqa: E402

COLUMNS = {table: [column.split()[0] for column in columns.split(", ")] for table, columns in TABLES.items()}


def typed(table):
    """As `kafscale.sql.schema` has them."""
    types = {"INTEGER": "bigint", "TEXT": "text", "REAL": "double"}
    return ", ".join(f"{column.split()[0]} {types[column.split()[1]]}" for column in TABLES[table].split(", "))


def objects(table, rows):
    return [dict(zip(COLUMNS[table], row)) for row in rows]


class Kind:
    faults, secrets = (), ()
    # Tables whose names it cannot have.
    without = ()
    # Whether half of an answer can be told from a whole one; and whether rows have their entities after `spoil`.
    is_whole, entities_stay = True, False

    def __init__(self):
        self.tables = None

    def start(self):
        return self

    def environment(self):
        return {}

    def settled(self, hospital):
        pass

    def of(self, sql):
        return sql

    def place(self, column):
        return "patients", column

    def rules(self, text):
        return text

    def seen(self):
        return ""

    @contextlib.contextmanager
    def away(self):
        with self.hurt(self.faults[0]):
            yield

    def close(self):
        pass


class OfSqlite(Kind, Sqlite):
    """The default."""

    faults = ("refuse",)
    away = Sqlite.away

    def fill(self, directory, tables):
        settings = Sqlite.fill(self, directory, tables)
        self.before = self.content()
        return settings

    def content(self):
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def change(self, sql, *values):
        Sqlite.change(self, sql, *values)
        self.before = self.content()

    def hurt(self, _):
        return self.away()

    def spoil(self):
        self.change("ALTER TABLE patients RENAME COLUMN ssn TO number")
        self.change("ALTER TABLE visits RENAME COLUMN patient_id TO person")

    def asked(self):
        check(self.content() == self.before, "the file of the database has changed")
        return {}


class Files(Kind):
    """A file for each table, in a directory beside perimeter.toml. Of a text that is cut, whole records are read."""

    faults = ("refuse", "cut")
    is_whole = False
    extension = None

    def fill(self, directory, tables):
        self.root, self.tables = directory / "clinic", {name: list(rows) for name, rows in tables.items()}
        self.root.mkdir()
        for table in self.tables:
            self.write(table)
        return '[collections.clinic]\nkind = "files"\nroot = "clinic"\n'

    def path(self, table):
        return self.root / f"{table}.{self.extension}"

    def write(self, table, names=None):
        rows = [dict(zip(names or COLUMNS[table], row)) for row in self.tables[table]]
        self.put(self.path(table), rows)
        self.before = self.content()

    def put(self, path, rows):
        raise NotImplementedError

    def content(self):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.root.iterdir()}

    def come(self, visit):
        self.tables["visits"].append(visit)
        self.write("visits")

    def leave(self, visit):
        self.tables["visits"].remove(visit)
        self.write("visits")

    @contextlib.contextmanager
    def hurt(self, mode):
        if mode == "refuse":
            elsewhere = self.root.with_name("elsewhere")
            self.root.rename(elsewhere)
        else:
            for table in ("patients", "visits"):
                whole = self.path(table).read_bytes()
                self.path(table).write_bytes(whole[:len(whole) // 2 - 5])
        try:
            yield
        finally:
            if mode == "refuse":
                elsewhere.rename(self.root)
            else:
                for table in ("patients", "visits"):
                    self.write(table)

    def spoil(self):
        self.write("patients", ["number" if name == "ssn" else name for name in COLUMNS["patients"]])
        self.write("visits", ["person" if name == "patient_id" else name for name in COLUMNS["visits"]])

    def asked(self):
        check(self.content() == self.before, "files have changed")
        return {}


class Ndjson(Files):
    extension = "ndjson"

    def put(self, path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Csv(Files):
    extension = "csv"

    def put(self, path, rows):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


class Parquet(Files):
    """Written by PyArrow, of `tests/setup sql`, in several groups of rows with statistics."""

    extension, is_whole = "parquet", True
    WRITE = """
import json, sys, pyarrow, pyarrow.parquet
rows = json.load(sys.stdin)
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sys.argv[1], row_group_size=500, compression="zstd")
"""

    def put(self, path, rows):
        done = subprocess.run([python("sql-venv"), "-c", self.WRITE, str(path)], input=json.dumps(rows), capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"Parquet cannot be written (tests/setup sql): {done.stderr[-500:]}")


class S3(Parquet):
    """The same files, some of Parquet and some of JSON, on an S3 server behind a proxy that counts its requests."""

    faults = ("refuse", "error", "hang", "cut")
    secrets = (SECRET_KEY,)

    def __init__(self):
        super().__init__()
        self.server, self.proxy = S3Server(), None

    def start(self):
        self.server.start()
        self.proxy = S3Proxy(self.server.address)
        return self

    def fill(self, directory, tables):
        super().fill(directory, tables)
        return (f'[collections.clinic]\nkind = "files"\nroot = "s3://{BUCKET}/clinic"\nendpoint = "http://{self.proxy.address}"\n'
                f'region = "us-east-1"\naccess_key_id = "{ACCESS_KEY}"\nsecret_access_key = {{ env = "CLINIC_SECRET" }}\n')

    def environment(self):
        return {"CLINIC_SECRET": SECRET_KEY}

    def path(self, table):
        return self.root / f"{table}.{'parquet' if table == 'visits' else 'ndjson'}"

    def put(self, path, rows):
        (Parquet if path.suffix == ".parquet" else Ndjson).put(self, path, rows)
        # By the server's own view of files, not by the proxy.
        target = f"http://127.0.0.1:{self.server.ports['filer']}/buckets/{BUCKET}/clinic/{path.name}"
        done = subprocess.run(["curl", "-sS", "--fail", "-T", str(path), "-H", "Content-Type: application/octet-stream", target], capture_output=True, text=True, timeout=60)
        check(done.returncode == 0, f"{target}: {done.stderr}")
        self.there = sorted(self.server.objects("clinic/"))

    @contextlib.contextmanager
    def hurt(self, mode):
        self.proxy.do(mode)
        try:
            yield
        finally:
            self.proxy.do("pass")

    def asked(self):
        counts = {what: count for what, count in self.proxy.counts().items() if not what.startswith("injected")}
        check(counts and all(what.split()[0] in ("GET", "HEAD") for what in counts), f"asked of the S3 server: {counts}")
        check(sorted(self.server.objects("clinic/")) == self.there, "objects have changed")
        return counts

    def close(self):
        if self.proxy:
            self.proxy.close()
            self.proxy = None
        self.server.close()


class Topics(Kind):
    """A topic for each table, produced by kcat to a real broker. A topic's name has no `@`."""

    faults = ("refuse",)
    without = ("notes@secret",)
    entities_stay = True

    def __init__(self):
        super().__init__()
        self.broker = Broker()

    def start(self):
        self.broker.start()
        return self

    def fill(self, _, tables):
        self.ends = collections.Counter()
        for table, rows in tables.items():
            if table not in self.without:
                self.produce(table, objects(table, rows))
        return f'[collections.clinic]\nkind = "topics"\ndata_dir = "{self.broker.data_dir}"\n'

    def kcat(self, *args, **options):
        done = subprocess.run(["kcat", "-b", self.broker.bootstrap, *args], capture_output=True, text=True, timeout=60, **options)
        check(done.returncode == 0, f"kcat: {done.stderr[-500:]}")
        return done.stdout

    def produce(self, table, rows):
        self.kcat("-P", "-t", table, "-p", "0", "-X", "topic.request.required.acks=-1", input="".join(json.dumps(row) + "\n" for row in rows))
        self.ends[table] += len(rows)

    def come(self, visit):
        self.produce("visits", objects("visits", [visit]))

    def leave(self, _):
        """A record stays."""

    @contextlib.contextmanager
    def hurt(self, _):
        elsewhere = self.broker.data_dir.with_name("elsewhere")
        self.broker.data_dir.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(self.broker.data_dir)

    def spoil(self):
        """Of another kind, in the records that columns are inferred from."""
        odd = objects("patients", [(f"x{n}", {"first": f"Nam{n}"}, [f"123-45-{6000 + n}"], n, "two", {"at": "x"}, "heavy", 5) for n in range(200)])
        self.produce("patients", odd)
        self.produce("visits", [{"person": 7, "id": n, "cost": "much"} for n in range(200)])

    def asked(self):
        for table, end in self.ends.items():
            told = self.kcat("-Q", "-t", f"{table}:0:-1")
            check(f"offset {end}" in told, f"{table} has other records than before: {told}, not {end}")
        topics = {topic["topic"] for topic in json.loads(self.kcat("-L", "-J"))["topics"]}
        check({topic for topic in topics if not topic.startswith("__")} == set(self.ends), f"other topics: {topics}")
        return {}

    def close(self):
        self.broker.close()

