"""The databases that collections read from, as real processes on ports and in directories of their own."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys

from cache import CACHE
from rows import check
from services import Service, free_ports

HERE = pathlib.Path(__file__).resolve().parent
POSTGRES = pathlib.Path("/usr/lib/postgresql/15/bin")


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
        return True
    return False


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    check(done.returncode == 0, f"{command[0]}: {done.stderr[-1500:]}")


class Database(Service):
    """A server with an account of its own where we are root, which knows us by a certificate for localhost alone."""

    user = "nobody"

    def __init__(self):
        super().__init__(type(self).__name__.lower(), "127.0.0.1")
        (self.port,) = free_ports(1)
        self.cert, self.key = self.dir / "cert.pem", self.dir / "key.pem"
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(self.key), "-out",
             str(self.cert), "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        self.as_user = []
        if os.getuid() == 0:
            self.as_user = ["runuser", "-u", self.user, "--"]
            account = pwd.getpwnam(self.user)
            for path in (self.dir, self.cert, self.key):
                shutil.chown(path, account.pw_uid, account.pw_gid)

    def ready(self):
        return accepts(self.port)

    def variables(self):
        """What the tests are told of it."""
        name = f"KAFSCALE_TEST_{self.name.upper()}"
        return {f"{name}_PORT": str(self.port), f"{name}_LOG": str(self.log_path), f"{name}_CA": str(self.cert)}


class Postgres(Database):
    user = "postgres"

    def start(self, limit_s=60):
        self.data = self.dir / "data"
        run([*self.as_user, str(POSTGRES / "initdb"), "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"], cwd=self.dir)
        hba = "local all all trust\nhost all secretive 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n"
        (self.data / "pg_hba.conf").write_text(hba)
        return super().start(limit_s)

    def command(self):
        settings = {"fsync": "off", "ssl": "on", "ssl_cert_file": self.cert, "ssl_key_file": self.key, "log_statement": "all",
                    "log_line_prefix": "%p %u ", "max_connections": "60"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self.as_user, str(POSTGRES / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "localhost", "-k", "", *options]

    def stop(self, sign=signal.SIGINT):
        # The process that we started is runuser; the server is asked by its own id.
        if self.process and self.process.poll() is None:
            pid_file = self.data / "postmaster.pid"
            os.kill(int(pid_file.read_text().splitlines()[0]) if pid_file.exists() else self.process.pid, signal.SIGINT)
            self.process.wait(20)


class Mariadb(Database):
    def start(self, limit_s=60):
        self.data, self.general = self.dir / "data", self.dir / "general.log"
        run([*self.as_user, "mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal", "--skip-test-db"], cwd=self.dir)
        (self.dir / "init.sql").write_text("CREATE USER 'admin'@'%';\nGRANT ALL PRIVILEGES ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n")
        return super().start(limit_s)

    def command(self):
        return [*self.as_user, "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={self.data}", f"--port={self.port}", "--bind-address=localhost",
                f"--socket={self.dir / 'socket'}", f"--pid-file={self.dir / 'pid'}", "--skip-name-resolve", f"--init-file={self.dir / 'init.sql'}",
                "--general-log", f"--general-log-file={self.general}", f"--ssl-cert={self.cert}", f"--ssl-key={self.key}",
                "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", "--log-bin-trust-function-creators"]

    def variables(self):
        return {**super().variables(), "KAFSCALE_TEST_MARIADB_LOG": str(self.general)}

    def stop(self, sign=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            pid_file = self.dir / "pid"
            os.kill(int(pid_file.read_text()) if pid_file.exists() else self.process.pid, signal.SIGTERM)
            self.process.wait(30)


class Redis(Database):
    def command(self):
        return [*self.as_user, "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(self.dir)]

    def stop(self, sign=signal.SIGTERM):
        super().stop(signal.SIGTERM)


class Mongodb(Database):
    """FerretDB (of `tests/setup`, where another account cannot reach), with TLS on a second port. `guarded` is another one, which asks who somebody is. Its log has each command as it came."""

    options = ()

    def __init__(self):
        super().__init__()
        (self.tls_port,) = free_ports(1)
        self.guarded = None

    def env(self):
        return {"DO_NOT_TRACK": "1"}

    def command(self):
        return [str(CACHE / "bin" / "ferretdb"), "--handler=sqlite", f"--sqlite-url=file:{self.dir}/", f"--state-dir={self.dir}",
                f"--listen-addr=127.0.0.1:{self.port}", f"--listen-tls=127.0.0.1:{self.tls_port}", f"--listen-tls-cert-file={self.cert}",
                f"--listen-tls-key-file={self.key}", "--debug-addr=-", "--telemetry=disable", "--log-level=DEBUG", *self.options]

    def start(self, limit_s=60):
        super().start(limit_s)
        if type(self) is Mongodb:
            self.guarded = GuardedMongodb().start(limit_s)
        return self

    def variables(self):
        return {**super().variables(), "KAFSCALE_TEST_MONGODB_TLS_PORT": str(self.tls_port),
                "KAFSCALE_TEST_MONGODB_GUARDED_PORT": str(self.guarded.port), "KAFSCALE_TEST_MONGODB_GUARDED_LOG": str(self.guarded.log_path)}

    def stop(self, sign=signal.SIGTERM):
        super().stop(signal.SIGTERM)
        if self.guarded:
            self.guarded.close()


class GuardedMongodb(Mongodb):
    """Has a user `perimeter`."""

    options = ("--test-enable-new-auth", "--setup-database=admin", "--setup-username=perimeter", "--setup-password=secret")


class Etcd(Database):
    """With TLS on a second port. `Guarded` is another one, which asks who somebody is."""

    def __init__(self):
        super().__init__()
        self.tls_port, self.peer_port = free_ports(2)
        self.guarded = None

    def command(self):
        client, tls, peer = f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.tls_port}", f"http://127.0.0.1:{self.peer_port}"
        return [*self.as_user, "etcd", "--name", "etcd", "--data-dir", str(self.dir / "data"), "--listen-client-urls", f"{client},{tls}",
                "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"etcd={peer}",
                "--cert-file", str(self.cert), "--key-file", str(self.key), "--log-level", "error", "--unsafe-no-fsync"]

    def start(self, limit_s=60):
        super().start(limit_s)
        if type(self) is Etcd:
            self.guarded = GuardedEtcd().start(limit_s)
        return self

    def ready(self):
        return super().ready() and self.http_ok(f"http://127.0.0.1:{self.port}/health")

    def ctl(self, *words):
        run(["etcdctl", f"--endpoints=http://127.0.0.1:{self.port}", *words], env={**os.environ, "ETCDCTL_API": "3"})

    def variables(self):
        return {**super().variables(), "KAFSCALE_TEST_ETCD_TLS_PORT": str(self.tls_port), "KAFSCALE_TEST_ETCD_GUARDED_PORT": str(self.guarded.port)}

    def stop(self, sign=signal.SIGTERM):
        super().stop(signal.SIGTERM)
        if self.guarded:
            self.guarded.close()


class GuardedEtcd(Etcd):
    """Has a user `perimeter`, who may read what is below /allowed/."""

    def start(self, limit_s=60):
        super().start(limit_s)
        for words in ["put /allowed/a 1", "put /denied/a 2", "user add root:root", "user grant-role root root", "role add reader",
                      "role grant-permission reader read --prefix=true /allowed/", "user add perimeter:secret", "user grant-role perimeter reader", "auth enable"]:
            self.ctl(*words.split())
        return self


class Program(Database):
    """A server of ours, whose requests are lines of a log."""

    def __init__(self):
        super().__init__()
        self.requests = self.dir / "requests.jsonl"
        self.requests.touch()

    def variables(self):
        return {**super().variables(), f"KAFSCALE_TEST_{self.name.upper()}_LOG": str(self.requests)}


class Http(Program):
    def command(self):
        return [sys.executable, str(HERE / "upstream_api.py"), str(self.port), str(self.cert), str(self.key), str(self.requests)]


class Mcp(Program):
    def command(self):
        return [str(CACHE / "mcp-venv" / "bin" / "python"), str(HERE / "upstream_mcp.py"), str(self.port), str(self.requests)]
