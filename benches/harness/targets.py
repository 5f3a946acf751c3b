"""What is compared: no proxy, a bare relay, PgBouncer and pgsluice, over the same rows.

pgsluice stands before four shards with a replica each. The others have no shards: they get one
database with all rows on the first shard's primary. Each pooler may open the same number of
connections for any one kind of work: PgBouncer `pool` to its server, pgsluice a share of it to each
primary and to each replica.
"""

import base64
import hashlib
import hmac
import os
import subprocess

from .processes import free_port, pgbouncer, service_user, version, wait_for
from .site import Site

TARGETS = ("direct", "relay", "PgBouncer", "pgsluice")
POOLERS = TARGETS[2:]
WHOLE = "whole"
# Logs in by SCRAM; `app` needs no password.
GUEST = "guest"


def verifier(password):
    """What Postgres keeps of a password."""
    salt = b"0123456789abcdef"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 4096)
    sign = lambda text: hmac.digest(salted, text, "sha256")
    text = lambda data: base64.b64encode(data).decode()
    stored = hashlib.sha256(sign(b"Client Key")).digest()
    return f"SCRAM-SHA-256$4096:{text(salt)}${text(stored)}:{text(sign(b'Server Key'))}"


class Targets(Site):
    """A site with all targets. `args`: pool, threads, clients (most at once in session mode)."""

    def __init__(self, binary, relay, folder, args):
        super().__init__(binary, folder)
        self.relay_binary, self.args = os.path.abspath(relay), args
        self.pids, self.ports = {}, {}

    def prepare(self):
        """What must be there before rows and proxies are."""
        self.whole(WHOLE)
        self.sql(self.shards[0].primary, "postgres",
                 f"CREATE ROLE {GUEST} LOGIN PASSWORD '{GUEST}'", user="postgres")
        self.ports["direct"] = self.shards[0].primary
        self.make_certificate()

    def start(self):
        """Starts the proxies."""
        self.start_relay()
        self.start_pgbouncer()
        self.ports["pgsluice"] = free_port()
        process = self.proxy("pgsluice", self.pgsluice_config(self.ports["pgsluice"]),
                             port=self.ports["pgsluice"])
        self.pids["pgsluice"] = process.pid

    def make_certificate(self):
        """One for all targets; the servers get copies, as Postgres wants to own its key."""
        key, certificate = self.path("server.key"), self.path("server.crt")
        subprocess.run(["openssl", "req", "-new", "-x509", "-nodes", "-days", "30", "-newkey",
                        "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost",
                        "-keyout", key, "-out", certificate], check=True, capture_output=True)
        os.chmod(key, 0o644)
        port = self.shards[0].primary
        data = self.sql(port, "postgres", "SHOW data_directory", user="postgres")
        owner = os.stat(data)
        for source in (key, certificate):
            copy = os.path.join(data, os.path.basename(source))
            with open(source) as original, open(copy, "w") as file:
                file.write(original.read())
            os.chmod(copy, 0o600)
            os.chown(copy, owner.st_uid, owner.st_gid)
        self.sql(port, "postgres", "ALTER SYSTEM SET ssl = on", user="postgres")
        self.sql(port, "postgres", "SELECT pg_reload_conf()", user="postgres")

    def path(self, name):
        return os.path.join(self.folder, name)

    def start_relay(self):
        port = free_port()
        process, log = self.spawn("relay", [self.relay_binary, f"127.0.0.1:{port}",
                                            f"127.0.0.1:{self.ports['direct']}"])
        wait_for(port, process, "relay", log)
        self.pids["relay"], self.ports["relay"] = process.pid, port

    def start_pgbouncer(self):
        port = free_port()
        users = self.write("users.txt", f'"app" "app"\n"{GUEST}" "{verifier(GUEST)}"\n')
        rules = self.write("hba.conf", f"host all app 127.0.0.1/32 trust\n"
                           f"host all {GUEST} 127.0.0.1/32 scram-sha-256\n")
        server = f"host=127.0.0.1 port={self.ports['direct']} dbname={WHOLE} user=app password=app"
        config = self.write("pgbouncer.ini", f"""\
[databases]
app = {server}
; For `-M prepared`, where this PgBouncer cannot keep prepared statements in transaction mode.
app_session = {server} pool_mode=session pool_size={self.args.most_clients}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = hba
auth_hba_file = {rules}
auth_file = {users}
client_tls_sslmode = allow
client_tls_key_file = {self.path("server.key")}
client_tls_cert_file = {self.path("server.crt")}
server_tls_sslmode = disable
pool_mode = transaction
default_pool_size = {self.args.pool}
max_client_conn = {self.args.idle + 500}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
server_lifetime = 3600
{"max_prepared_statements = 500" if pgbouncer_prepares() else ""}
""")
        process, log = self.spawn("pgbouncer", [pgbouncer(), config], stdout=subprocess.DEVNULL,
                                  **service_user())
        wait_for(port, process, "PgBouncer", log)
        self.pids["PgBouncer"], self.ports["PgBouncer"] = process.pid, port

    def pgsluice_config(self, port, pool=None):
        share = max(1, (pool or self.args.pool) // len(self.shards))
        threads = f"threads = {self.args.threads}" if self.args.threads else ""
        return f"""\
[listen]
address = "127.0.0.1:{port}"
tls_certificate = "{self.path("server.crt")}"
tls_key = "{self.path("server.key")}"
{threads}
[pool]
size = {share}
wait_timeout = "30s"
[limits]
clients = 20000
[[user]]
name = "app"
auth = "trust"
admin = true
[[user]]
name = "{GUEST}"
password = "{verifier(GUEST)}"
[[database]]
name = "app"
tenant_column = "aid"
home_shard = 0
auto_prepare = {str(getattr(self.args, "auto_prepare", False)).lower()}
""" + self.shard_sections(parameters="?sslmode=disable")

    def database(self, target, mode="simple"):
        """The database to name for a run."""
        if target in ("direct", "relay"):
            return WHOLE
        is_old = target == "PgBouncer" and not pgbouncer_prepares()
        return "app_session" if is_old and mode == "prepared" else "app"


def pgbouncer_prepares():
    return version(pgbouncer()) >= (1, 21)
