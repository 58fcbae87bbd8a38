"""The hospital's tables on servers of databases, of keys, of an API and of tools: see kinds.py."""

import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import servers  # noqa: E402
from between import MODES, Between  # noqa: E402
from cache import CACHE  # noqa: E402
from kinds import COLUMNS, Kind, objects, typed  # noqa: E402
from rows import check  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SECRET = "sekret-of-the-perimeter"
LIMITS = 'connect_timeout = "10s"\nanswer_timeout = "12s"\n'
TABLES = list(COLUMNS)


class Served(Kind):
    """Reached through something that can be told to fail."""

    faults = MODES[1:]
    secrets = (SECRET,)
    server_class, keeps = None, False

    def __init__(self):
        super().__init__()
        self.server, self.between = self.server_class(), None

    def start(self):
        self.server.start()
        self.between = Between(self.server.port, self.keeps)
        return self

    def environment(self):
        return {"CLINIC_SECRET": SECRET}

    def hurt(self, mode):
        return self.between.doing(mode)

    def close(self):
        if self.between:
            self.between.close()
        self.server.close()


class Sql(Served):
    """Statements of an administrator, by the server's own client."""

    types = {}
    quote = '"'

    def admin(self, sql):
        done = subprocess.run(self.client(), input=sql, capture_output=True, text=True, timeout=120)
        check(done.returncode == 0, f"{self.client()[0]}: {done.stderr[-800:]}")
        return done.stdout

    def create(self, tables):
        def literal(value):
            return "NULL" if value is None else repr(value) if isinstance(value, int | float) else "'" + value.replace("'", "''") + "'"
        q = self.quote
        for table, rows in tables.items():
            columns = ", ".join(f"{name} {self.types.get((table, name)) or self.types[type(value)]}" for name, value in zip(COLUMNS[table], rows[0]))
            yield f"CREATE TABLE {q}{table}{q} ({columns});"
            yield f"INSERT INTO {q}{table}{q} VALUES " + ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in rows) + ";"

    def come(self, visit):
        self.admin(f"INSERT INTO visits VALUES ({', '.join('NULL' if v is None else repr(v) for v in visit)});")

    def leave(self, visit):
        self.admin(f"DELETE FROM visits WHERE id = {visit[0]};")

    def spoil(self):
        self.admin("ALTER TABLE patients RENAME COLUMN ssn TO number; ALTER TABLE visits RENAME COLUMN patient_id TO person;")

    def counted(self, statements):
        """What each connection was told, in order: no table is read but within a transaction that only reads."""
        counts, reads_only = {}, {}
        for connection, text in statements:
            plain = " ".join(re.sub(r"/\*.*?\*/", " ", text).split())
            word = plain.split(" ", 1)[0].upper()
            check(word in self.allowed, f"the server was told: {text[:300]}")
            counts[word] = counts.get(word, 0) + 1
            if word in ("BEGIN", "START"):
                check("READ ONLY" in plain.upper(), f"a transaction that may write: {text[:300]}")
                reads_only[connection] = True
            elif word in ("ROLLBACK", "COMMIT"):
                reads_only[connection] = False
            elif " FROM " in plain.upper() and word in ("SELECT", "WITH", "DECLARE", "FETCH"):
                check(reads_only.get(connection), f"outside of a transaction that only reads: {text[:300]}")
                check("kafscale principal=" in text or "information_schema" in text or "pg_catalog" in text, f"nobody is named: {text[:300]}")
        check(counts.get("SELECT") and any(counts.get(begins) for begins in ("BEGIN", "START")), f"the log has no statements: {counts}")
        return counts


class Postgres(Sql):
    """`ward` and `month` are small, and texts are compared by a language's order."""

    server_class = servers.Postgres
    types = {int: "integer", float: "double precision", str: "text", ("patients", "ssn"): "varchar(11)", ("patients", "ward"): "smallint", ("visits", "month"): "smallint",
             ("patients", "id"): "integer PRIMARY KEY", ("visits", "id"): "bigint PRIMARY KEY"}
    allowed = ("BEGIN", "SET", "SELECT", "WITH", "DECLARE", "FETCH", "CLOSE", "ROLLBACK", "COMMIT", "DISCARD", "RESET")

    def client(self):
        return ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres", "postgres"]

    def fill(self, _, tables):
        self.admin("\n".join(self.create(tables)) + f"CREATE ROLE secretive LOGIN PASSWORD '{SECRET}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO secretive; ANALYZE;")
        return (f'[collections.clinic]\nkind = "postgres"\nhost = "127.0.0.1"\nport = {self.between.port}\ndatabase = "postgres"\nuser = "secretive"\n'
                f'password = {{ env = "CLINIC_SECRET" }}\n{LIMITS}')

    def entries(self):
        """(connection, kind, text) of what the perimeter's role said and was told."""
        found = []
        for line in self.server.log_path.read_text(errors="replace").splitlines():
            head = re.match(r"(\d+) (\S*) (LOG|ERROR|FATAL|DETAIL|STATEMENT|HINT|CONTEXT|WARNING): +(.*)", line)
            if head:
                found.append([head[1], head[2], head[3], head[4]])
            elif found:
                found[-1][3] += "\n" + line
        return [(pid, kind, text) for pid, user, kind, text in found if user == "secretive"]

    def asked(self):
        said = [(pid, re.match(r"(?:statement|execute [^:]*): (.*)", text, re.S)) for pid, kind, text in self.entries() if kind == "LOG"]
        return self.counted([(pid, found[1]) for pid, found in said if found])

    def seen(self):
        return "\n".join(text for _, _, text in self.entries())


class Mysql(Sql):
    """With a collation that knows no case."""

    server_class = servers.Mariadb
    quote = "`"
    types = {int: "int", float: "double", str: "varchar(200)", ("patients", "ward"): "tinyint", ("patients", "remark"): "text", ("patients", "id"): "int PRIMARY KEY", ("visits", "id"): "bigint PRIMARY KEY"}
    allowed = ("SELECT", "SET", "START", "ROLLBACK", "KILL")

    def client(self):
        return ["mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", str(self.server.port), "-u", "admin", *(["clinic"] if self.tables else [])]

    def fill(self, _, tables):
        self.admin(f"CREATE DATABASE clinic CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci; CREATE USER 'perimeter'@'%' IDENTIFIED BY '{SECRET}'; GRANT SELECT ON clinic.* TO 'perimeter'@'%';")
        self.tables = tables
        self.admin("\n".join(self.create(tables)))
        return (f'[collections.clinic]\nkind = "mysql"\nhost = "127.0.0.1"\nport = {self.between.port}\ndatabase = "clinic"\nuser = "perimeter"\n'
                f'password = {{ env = "CLINIC_SECRET" }}\n{LIMITS}')

    def said(self):
        """(connection, text) of what the perimeter's account said."""
        ours, found = set(), []
        for line in self.server.general.read_text(errors="replace").splitlines():
            head = re.match(r"(?:\d{6} +[\d:]+)?\t\s*(\d+) (Connect|Query|Execute|Prepare|Quit|Close stmt|Reset stmt|Reset connection|Ping|Init DB)\t?(.*)", line)
            if not head:
                if found and found[-1]:
                    found[-1][2] += "\n" + line
                continue
            connection, kind, text = head.groups()
            if kind == "Connect":
                (ours.add if text.startswith("perimeter@") else ours.discard)(connection)
            found.append([connection, kind, text] if connection in ours else None)
        return [entry for entry in found if entry]

    def asked(self):
        return self.counted([(connection, text) for connection, kind, text in self.said() if kind in ("Query", "Execute")])

    def seen(self):
        return "\n".join(text for _, _, text in self.said())


def bson(value):
    """A document of integers, floats, texts, nulls and documents."""
    out = b""
    for name, of in value.items():
        key = name.encode() + b"\0"
        if isinstance(of, dict | list):
            out += (b"\x04" if isinstance(of, list) else b"\x03") + key + bson(of if isinstance(of, dict) else {str(n): v for n, v in enumerate(of)})
        elif isinstance(of, int):
            out += b"\x12" + key + struct.pack("<q", of)
        elif isinstance(of, float):
            out += b"\x01" + key + struct.pack("<d", of)
        elif of is None:
            out += b"\x0a" + key
        else:
            out += b"\x02" + key + struct.pack("<i", len(of.encode()) + 1) + of.encode() + b"\0"
    return struct.pack("<i", len(out) + 5) + out + b"\0"


class QuietMongodb(servers.Mongodb):
    """Its log would have each answer, which takes seconds."""

    def command(self):
        return [word.replace("--log-level=DEBUG", "--log-level=ERROR") for word in super().command()]


class Mongodb(Served):
    """Columns are inferred. FerretDB knows no users here."""

    server_class = QuietMongodb
    secrets = ()
    keeps = True
    reads = {"hello", "isMaster", "ismaster", "find", "getMore", "killCursors", "listCollections", "buildInfo", "connectionStatus", "ping", "endSessions"}

    def tell(self, command):
        body = struct.pack("<I", 0) + b"\0" + bson({**command, "$db": "clinic", "comment": "of the test itself"})
        with socket.create_connection(("127.0.0.1", self.server.port), 30) as peer:
            peer.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
            head = peer.recv(4, socket.MSG_WAITALL)
            answer = peer.recv(struct.unpack("<i", head)[0] - 4, socket.MSG_WAITALL)
        check(b"ok\0" in answer and b"errmsg" not in answer and b"writeErrors" not in answer, f"{list(command)[0]}: {answer[:300]}")

    def fill(self, _, tables):
        for table, rows in tables.items():
            found = objects(table, rows)
            for at in range(0, len(found), 500):
                self.tell({"insert": table, "documents": [{"_id": f"{table}-{at + n}", **row} for n, row in enumerate(found[at:at + 500])]})
        return f'[collections.clinic]\nkind = "mongodb"\nhosts = ["127.0.0.1:{self.between.port}"]\ndatabase = "clinic"\n{LIMITS}'

    def environment(self):
        return {}

    def come(self, visit):
        self.tell({"insert": "visits", "documents": objects("visits", [visit])})

    def leave(self, visit):
        self.tell({"delete": "visits", "deletes": [{"q": {"id": visit[0]}, "limit": 1}]})

    def spoil(self):
        for table, change in [("patients", {"$rename": {"ssn": "number"}, "$set": {"weight": "heavy"}}), ("visits", {"$rename": {"patient_id": "person"}})]:
            self.tell({"update": table, "updates": [{"q": {}, "u": change, "multi": 1}]})

    def commands(self):
        """(name, bytes) of what passed to the server: OP_MSG, and OP_QUERY of the first greeting."""
        for kept in self.between.kept:
            kept, at = bytes(kept), 0
            while at + 16 <= len(kept):
                length, _, _, code = struct.unpack_from("<iiii", kept, at)
                check(length >= 16 and code in (2013, 2004), f"the server was sent a message of the kind {code}")
                message = kept[at:at + length]
                # A document begins behind the flags and the kind of its section; or behind a name and two numbers.
                begins = 21 if code == 2013 else message.index(b"\0", 20) + 9
                yield message[begins + 5:message.index(b"\0", begins + 5)].decode(), message
                at += length

    def asked(self):
        counts = {}
        for name, message in self.commands():
            check(name in self.reads, f"the server was told: {name}: {message[:600]}")
            check(b"$where" not in message and b"$function" not in message and b"$out" not in message, f"code: {message[:600]}")
            check(name != "find" or b"kafscale principal=" in message, f"nobody is named: {message[:600]}")
            counts[name] = counts.get(name, 0) + 1
        check(counts.get("find"), f"nothing was asked: {counts}")
        return counts

    def seen(self):
        return "\n".join(message.decode(errors="replace") for _, message in self.commands())


class Redis(Served):
    """Hashes, of whose fields the types are declared, and a user who may only read."""

    server_class = servers.Redis
    reads = {"scan", "type", "pttl", "strlen", "getrange", "hlen", "hmget", "hgetall", "llen", "lrange", "scard", "smembers", "zcard", "zrange", "info", "acl|whoami", "acl|dryrun", "auth", "hello",
             "client|setinfo", "client|setname", "select", "ping"}

    def tell(self, *commands):
        def words(command):
            parts = [str(part).encode() for part in command]
            return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        answers = []
        with socket.create_connection(("127.0.0.1", self.server.port), 30) as peer, peer.makefile("rb") as answer:
            for at in range(0, len(commands), 500):
                peer.sendall(b"".join(map(words, commands[at:at + 500])))
                for _ in commands[at:at + 500]:
                    line = answer.readline().strip()
                    check(not line.startswith(b"-"), f"redis: {line}")
                    answers.append(answer.read(int(line[1:]) + 2).decode() if line.startswith(b"$") and line != b"$-1" else line.decode())
        return answers

    @staticmethod
    def hash_of(table, at, row):
        fields = [part for name, value in row.items() if value is not None for part in (name, value)]
        return ["HSET", f"{table}:{at}", *fields]

    def fill(self, _, tables):
        self.tables = tables
        self.tell(*[self.hash_of(table, n, row) for table, rows in tables.items() for n, row in enumerate(objects(table, rows))],
                  ["ACL", "SETUSER", "perimeter", "on", f">{SECRET}", "~*", "+@read", "-@write", "+info", "+acl|whoami", "+acl|dryrun", "+select"], ["CONFIG", "RESETSTAT"])
        self.ours = {"config|resetstat": 1}
        settings = "".join(f'[collections.clinic.tables."{table}"]\npattern = "{table}:*"\nfields = "{typed(table)}"\n' for table in tables)
        return (f'[collections.clinic]\nkind = "redis"\nhost = "127.0.0.1"\nport = {self.between.port}\nuser = "perimeter"\npassword = {{ env = "CLINIC_SECRET" }}\n{LIMITS}'
                + settings)

    def told(self, *command):
        name = command[0].lower()
        self.ours[name] = self.ours.get(name, 0) + 1
        return self.tell(command)

    def come(self, visit):
        self.told(*self.hash_of("visits", visit[0], objects("visits", [visit])[0]))

    def leave(self, visit):
        self.told("DEL", f"visits:{visit[0]}")

    def spoil(self):
        """Keys of other kinds, and fields with other names and values."""
        changes = [change for n in range(len(self.tables["patients"])) for change in (["HDEL", f"patients:{n}", "ssn"], ["HSET", f"patients:{n}", "number", f"123-45-{6000 + n}", "weight", "heavy"])]
        changes += [["HDEL", f"visits:{n}", "patient_id"] for n in range(len(self.tables["visits"]))] + [["RPUSH", "patients:list", "a", "b"]]
        for change in changes:
            self.ours[change[0].lower()] = self.ours.get(change[0].lower(), 0) + 1
        self.tell(*changes)

    def asked(self):
        stats = self.tell(["INFO", "commandstats"])[0]
        calls = {name: int(count) for name, count in re.findall(r"cmdstat_([^:]+):calls=(\d+)", stats)}
        counts = {name: count - self.ours.get(name, 0) for name, count in calls.items() if count - self.ours.get(name, 0) > 0}
        check(set(counts) <= self.reads and counts.get("scan") and counts.get("hmget"), f"asked of the server: {sorted(set(counts) - self.reads)} of {counts}")
        return counts


class Http(Served):
    """Tables of a JSON API: patients in pages, and two columns that are told as parameters."""

    server_class = servers.Http
    without = ()

    def __init__(self):
        super().__init__()
        kind = self

        class Api(servers.Http):
            def command(self):
                return [sys.executable, str(HERE / "upstream_tables.py"), str(self.port), str(self.cert), str(self.key), str(kind.directory), str(self.requests)]
        self.server.close()
        self.server = Api()
        self.directory = self.server.dir / "tables"
        self.directory.mkdir()
        self.secrets = ("token-of-the-upstream",)

    def environment(self):
        return {"CLINIC_SECRET": "token-of-the-upstream"}

    def write(self, table, names=None):
        rows = [dict(zip(names or COLUMNS[table], row)) for row in self.tables[table]]
        part = self.directory / f"{table}.part"
        part.write_text(json.dumps(rows))
        part.rename(self.directory / f"{table}.json")

    def put(self, tables):
        self.tables = {name: list(rows) for name, rows in tables.items()}
        for table in tables:
            self.write(table)

    def fill(self, _, tables):
        self.put(tables)
        settings = "".join(f'[collections.clinic.tables."{table}"]\npath = "/tables/{urllib.parse.quote(table, safe="@")}"\nrows = "/data"\ncolumns = "{typed(table)}"\n'
                           + ('filters = { id = "id", name = "name" }\nparameters = { size = "150" }\npages = { by = "cursor", at = "/next", parameter = "cursor" }\n' if table == "patients" else "")
                           for table in tables)
        return (f'[collections.clinic]\nkind = "http"\nurl = "https://localhost:{self.between.port}/api"\ntls_ca_file = "{self.server.cert}"\nbearer = {{ env = "CLINIC_SECRET" }}\n'
                f'caller_headers = {{ X-User = "principal" }}\n{LIMITS}' + settings)

    def come(self, visit):
        self.tables["visits"].append(visit)
        self.write("visits")

    def leave(self, visit):
        self.tables["visits"].remove(visit)
        self.write("visits")

    def spoil(self):
        self.tables["patients"] = [(*row[:6], "heavy", row[7]) for row in self.tables["patients"]]
        self.write("patients", ["number" if name == "ssn" else name for name in COLUMNS["patients"]])
        self.write("visits", ["person" if name == "patient_id" else name for name in COLUMNS["visits"]])

    def requests(self):
        return [json.loads(line) for line in self.server.requests.read_text().splitlines()]

    def asked(self):
        counts = {}
        for request in self.requests():
            path = request["target"].split("?")[0]
            check(request["method"] == "GET" and path.removeprefix("/api/tables/").replace("%40", "@") in TABLES, f"asked of the API: {request}")
            counts[path] = counts.get(path, 0) + 1
        check([r for r in self.requests() if "id=7" in r["target"]], "a condition on what is shown as it is was not told")
        return counts

    def seen(self):
        return urllib.parse.unquote(self.server.requests.read_text())


class Mcp(Http):
    """Tools of an upstream MCP server, confirmed as an operator does it."""

    def __init__(self):
        Served.__init__(self)
        kind = self

        class Tools(servers.Mcp):
            def command(self):
                return [str(CACHE / "mcp-venv" / "bin" / "python"), str(HERE / "upstream_tools.py"), str(self.port), str(kind.directory), str(self.requests)]
        self.server.close()
        self.server = Tools()
        self.directory = self.server.dir / "tables"
        self.directory.mkdir()
        self.secrets = ("token-of-the-upstream",)

    server_class = servers.Mcp

    def fill(self, _, tables):
        self.put(tables)
        self.confirmed = {}
        return self.settings()

    def settings(self):
        def of(table):
            tool = "secret_notes" if "@" in table else table
            confirmed = self.confirmed.get(table, "")
            filters = 'filters = { id = "id", name = "name" }\n' if table == "patients" else ""
            return f'[collections.clinic.tables."{table}"]\ntool = "{tool}"\n{confirmed}\nrows = "/rows"\ncolumns = "{typed(table)}"\n{filters}'
        return (f'[collections.clinic]\nkind = "mcp"\nurl = "http://127.0.0.1:{self.between.port}/mcp"\nbearer = {{ env = "CLINIC_SECRET" }}\n{LIMITS}' + "".join(map(of, self.tables)))

    def settled(self, hospital):
        path = hospital.dir / "perimeter.toml"
        for _ in TABLES:
            done = subprocess.run(hospital.command("check"), env=hospital.environment(), capture_output=True, text=True, timeout=120)
            told = re.search(r'write (input_schema = "sha256:[0-9a-f]{64}")', done.stdout)
            if not told:
                break
            table = next(table for table in sorted(self.tables, key=len, reverse=True) if table not in self.confirmed and table in done.stdout.split("FAILED clinic", 1)[1])
            before = self.settings()
            self.confirmed[table] = told[1]
            path.write_text(path.read_text().replace(before, self.settings()))

    def asked(self):
        counts = {}
        for request in self.requests():
            counts[request["tool"]] = counts.get(request["tool"], 0) + 1
        check(set(counts) <= {"patients", "visits", "salaries", "notes", "secret_notes"} and counts.get("visits"), f"tools that were called: {counts}")
        check([r for r in self.requests() if r.get("id") == 7], "a condition on what is shown as it is was not told")
        return counts


class Etcd(Served):
    """Keys whose values are one column of a patient, or the patient of a visit; other columns are not there."""

    server_class = servers.Etcd
    secrets, entities_stay = (), True
    columns = ("name", "ssn", "email")
    number = "CAST(split_part({}key, '/', 3) AS bigint)"

    def put(self, pairs):
        import base64
        code = lambda text: base64.b64encode(text.encode()).decode()  # noqa: E731
        for at in range(0, len(pairs), 100):
            puts = [{"requestPut": {"key": code(key), "value": code(str(value))}} for key, value in pairs[at:at + 100]]
            request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}/v3/kv/txn", json.dumps({"success": puts}).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()

    def environment(self):
        return {}

    def fill(self, _, tables):
        pairs = [(f"/{name}s/{row['id']}", row[name]) for row in objects("patients", tables["patients"]) for name in self.columns]
        pairs += [(f"/visits/{row['id']}", row["patient_id"]) for row in objects("visits", tables["visits"])]
        pairs += [(f"/salaries/{n}", salary) for n, (_, salary) in enumerate(tables["salaries"])]
        self.put(pairs + [("/notes/1", "for everybody"), ("/notes@secret/1", "for nobody but the auditor")])
        prefixes = {**{f"patients_{name}": f"/{name}s/" for name in self.columns}, "visits": "/visits/", "salaries": "/salaries/", "notes": "/notes/", "notes@secret": "/notes@secret/"}
        self.before = self.handled()
        self.before["Txn"] = self.before.get("Txn", 0)
        return (f'[collections.clinic]\nkind = "etcd"\nendpoints = ["127.0.0.1:{self.between.port}"]\n{LIMITS}'
                + "".join(f'[collections.clinic.tables."{table}"]\nprefix = "{prefix}"\n' for table, prefix in prefixes.items()))

    def come(self, _):
        """It has no column for what is looked at."""

    leave = come

    def spoil(self):
        """Patients that are no numbers, and values that are no texts."""
        self.put([(f"/visits/{n}", "somebody") for n in range(100)])
        self.put([("/ssns/1", "\0"), ("/names/x", "no number")])
        self.before["Txn"] += 2

    def handled(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {name: int(float(count)) for name, count in re.findall(r'grpc_server_handled_total\{grpc_code="OK",grpc_method="(\w+)"[^}]*\} (\S+)', text)}

    def asked(self):
        now = self.handled()
        counts = {name: count - self.before.get(name, 0) for name, count in now.items() if count > self.before.get(name, 0)}
        check(set(counts) <= {"Range", "Authenticate", "Status", "MemberList"} and counts.get("Range"), f"asked of etcd: {counts}")
        return counts

    def of(self, sql):
        """The same about the one column that a statement is about."""
        if "clinic." not in sql:
            return sql
        named = [name for name in self.columns if re.search(rf"\b{name}\b", sql)]
        known = r"\b(born|ward|weight|remark|month|diagnosis|cost|salary)\b"
        if len(named) > 1 or re.search(known, re.sub(r"'[^']*'", "", sql)):
            return None
        if "clinic.visits" in sql and "clinic.patients" in sql:
            return None
        out = re.sub(r"\bnote\b", "value", sql).replace("clinic.patients", f"clinic.patients_{(named or ['name'])[0]}")
        column = named[0] if named else "patient_id" if "clinic.visits" in sql else None
        if column:
            out = re.sub(rf"\b{column}\b(?!s)", "value", out) if column != "patient_id" else re.sub(r"\bpatient_id\b", "CAST(value AS bigint)", out)
            out = out.replace("clinic.patients_value", f"clinic.patients_{column}")
        return re.sub(r"(?<![\w'])((?:\w\.)?)id\b(?!')", lambda found: self.number.format(found[1]), out)

    def place(self, column):
        return f"patients_{column}", "value"

    def rules(self, text):
        """One column of each table of patients is all of it."""
        for name in self.columns:
            text = text.replace(f'table = "clinic.patients"\ncolumn = "{name}"', f'table = "clinic.patients_{name}"\ncolumn = "value"')
        text = re.sub(r'\[\[label\]\]\ntable = "clinic.patients"\ncolumn = "born"\nlabels = "pii.birth"\n', "", text)
        text = text.replace('table = "clinic.patients"', 'table = "clinic.patients_name"').replace('"ward + 0 = 2"', "\"CAST(split_part(key, '/', 3) AS bigint) % 4 = 1\"")
        text = text.replace('entity = "id"', 'entity = "key"').replace('entity = "patient_id"', 'entity = "value"')
        return text.replace('Table::"clinic.patients"', 'Table::"clinic.patients_name"')


def is_installed(kind):
    """Whether what `tests/setup perimeter` installs for it is there."""
    needed = {"postgres": [servers.POSTGRES / "postgres"], "mysql": ["/usr/sbin/mariadbd", "/usr/bin/mariadb"], "mongodb": [CACHE / "bin/ferretdb"]}
    return all(os.path.exists(path) for path in needed.get(kind, []))
