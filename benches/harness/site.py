"""Servers on 127.0.0.1: the shards of a playground, pgbench's tables on them, proxies in front."""

import glob
import os
import re
import signal
import subprocess
import time

from .processes import cpu_of_trees, fail, free_port, pgbench, wait_for

# The bucket of a tenant, as docs/CONFIGURATION.md defines it.
BUCKET = "get_byte(decode(md5({}::text), 'hex'), 0)"

# Tables with a tenant in every one, for transactions like TPC-B's.
TPCB_TABLES = """
CREATE TABLE tpcb_accounts (aid int PRIMARY KEY, balance int NOT NULL, filler char(84));
CREATE TABLE tpcb_branches (aid int PRIMARY KEY, balance int NOT NULL, filler char(88));
CREATE TABLE tpcb_tellers (aid int, tid int, balance int NOT NULL, filler char(84), PRIMARY KEY (aid, tid));
CREATE TABLE tpcb_history (aid int, tid int, delta int, mtime timestamp, filler char(22));
"""
TPCB_ROWS = """
INSERT INTO tpcb_accounts SELECT aid, 0, '' FROM generate_series(1, {tenants}) aid WHERE {own};
INSERT INTO tpcb_branches SELECT aid, 0, '' FROM generate_series(1, {tenants}) aid WHERE {own};
INSERT INTO tpcb_tellers SELECT aid, tid, 0, '' FROM generate_series(1, {tenants}) aid,
  generate_series(1, 10) tid WHERE {own};
"""
# Answers of any length: WHERE aid = … AND n <= the number of rows wanted.
LONG_TABLES = "CREATE TABLE long (aid int, n int, name text, amount numeric, PRIMARY KEY (aid, n));"
LONG_ROWS = """
INSERT INTO long SELECT aid, n, 'row ' || n || ' of ' || aid, n * 1.25
  FROM generate_series(1, {tenants}) aid, generate_series(1, 10000) n WHERE {own};
"""
ACCOUNTS = """
INSERT INTO pgbench_accounts SELECT aid, (aid - 1) / 100000 + 1, 0, ''
  FROM generate_series(1, {rows}) aid WHERE {own};
"""
BRANCHES = "INSERT INTO pgbench_branches SELECT bid, 0, '' FROM generate_series(1, {scale}) bid;"


class Shard:
    """Ports of a shard's servers and the buckets it owns."""

    def __init__(self, buckets, primary, replicas):
        self.buckets, self.primary, self.replicas = buckets, primary, replicas

    @property
    def ports(self):
        return [self.primary, *self.replicas]


class Site:
    """Servers and proxies in a folder; `stop` ends them."""

    def __init__(self, binary, folder):
        self.binary, self.folder = os.path.abspath(binary), folder
        self.processes, self.shards, self.postmasters = [], [], []

    def spawn(self, name, command, **rest):
        log = os.path.join(self.folder, f"{name}.log")
        with open(log, "w") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file,
                                       cwd=self.folder, **{"stdout": file, **rest})
        self.processes.append(process)
        return process, log

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path

    def playground(self, shards=4, replicas=1):
        """Starts servers; the playground's own proxy is not used. `app` needs no password."""
        home = os.path.join(self.folder, "postgres")
        process, log = self.spawn(
            "playground", [self.binary, "playground", "--dir", home, "--port", str(free_port()),
                           "--shards", str(shards), "--replicas", str(replicas), "--empty"],
            stdout=subprocess.PIPE, text=True)
        if not any("DATABASE_URL=" in line for line in process.stdout):
            process.wait()
            fail(f"the playground did not start:\n{open(log).read()}")
        config = open(os.path.join(home, "pgsluice.toml")).read()
        primaries = [int(it) for it in re.findall(r"^primary = .*:(\d+)/", config, re.M)]
        followers = [[int(it) for it in re.findall(r":(\d+)/", line)]
                     for line in re.findall(r"^replicas = (.*)", config, re.M)] or [[]] * shards
        for number, (primary, replicas_) in enumerate(zip(primaries, followers)):
            buckets = (number * 256 // shards, (number + 1) * 256 // shards - 1)
            self.shards.append(Shard(buckets, primary, replicas_))
        for path in sorted(glob.glob(os.path.join(home, "shard*/*/postmaster.pid"))):
            self.postmasters.append(int(open(path).readline()))
            rules = os.path.join(os.path.dirname(path), "pg_hba.conf")
            text = open(rules).read()
            with open(rules, "w") as file:
                file.write("host all app 127.0.0.1/32 trust\n" + text)
        self.settings("synchronous_commit = off")

    def settings(self, *lines):
        """Changes settings of all servers that need no restart."""
        for shard in self.shards:
            for port in shard.ports:
                for line in lines:
                    self.sql(port, "postgres", f"ALTER SYSTEM SET {line}", user="postgres")
                self.sql(port, "postgres", "SELECT pg_reload_conf()", user="postgres")

    def sql(self, port, database, text, user="app"):
        """What psql prints."""
        done = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
                               str(port), "-U", user, database], input=text, capture_output=True,
                              text=True)
        if done.returncode != 0:
            fail(f"{text.strip()[:200]}: {done.stderr}")
        return done.stdout.strip()

    def whole(self, name="whole"):
        """A database on the first shard's primary that shall hold all rows, for targets without shards."""
        self.sql(self.shards[0].primary, "postgres", f"CREATE DATABASE {name} OWNER app",
                 user="postgres")
        return name

    def places(self, whole=None):
        """(port, database, predicate of the rows that belong there)."""
        for shard in self.shards:
            first, last = shard.buckets
            yield shard.primary, "app", f"{BUCKET.format('aid')} BETWEEN {first} AND {last}"
        if whole:
            yield self.shards[0].primary, whole, "true"

    def fill(self, scale, whole=None, tables="", rows="", **numbers):
        """pgbench's tables, and others; each row only where it belongs."""
        for port, database, own in self.places(whole):
            subprocess.run([pgbench(), "-i", "-q", "-I", "dtp", "-h", "127.0.0.1", "-p", str(port),
                            "-U", "app", database], check=True, capture_output=True)
            text = tables + (ACCOUNTS + rows).format(own=own, rows=scale * 100_000, **numbers)
            if port == self.shards[0].primary:
                text += BRANCHES.format(scale=scale)
            self.sql(port, database, text)
            self.sql(port, database, "VACUUM ANALYZE", user="postgres")
            self.sql(port, database, "CHECKPOINT", user="postgres")
        self.wait_for_replicas()

    def wait_for_replicas(self):
        for shard in self.shards:
            place = self.sql(shard.primary, "postgres", "SELECT pg_current_wal_lsn()", user="postgres")
            for port in shard.replicas:
                while self.sql(port, "postgres", "SELECT pg_last_wal_replay_lsn() >= "
                               f"'{place}'::pg_lsn", user="postgres") != "t":
                    time.sleep(0.1)

    def shard_sections(self, database="app", parameters=""):
        """The TOML of all shards."""
        url = lambda port: f'"postgres://app:app@127.0.0.1:{port}/{database}{parameters}"'
        return "".join(f"""\
[[database.shard]]
id = {number}
range = [{shard.buckets[0]}, {shard.buckets[1]}]
primary = {url(shard.primary)}
replicas = [{", ".join(url(it) for it in shard.replicas)}]
""" for number, shard in enumerate(self.shards))

    def server_cpu(self):
        """Seconds that all servers have taken."""
        return cpu_of_trees(self.postmasters)

    def proxy(self, name, config, command=(), port=None):
        """Starts pgsluice, perhaps under another program; its process."""
        path = self.write(f"{name}.toml", config)
        process, log = self.spawn(name, [*command, self.binary, "run", "--config", path])
        wait_for(port, process, name, log)
        return process

    def end(self, process):
        """Ends one process."""
        self.processes.remove(process)
        _interrupt([process])

    def stop(self):
        _interrupt(reversed(self.processes))


def _interrupt(processes):
    processes = list(processes)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
