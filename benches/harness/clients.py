"""The clients of a soak. Every answer carries the marker of whoever asked, and is checked."""

import random
import socket
import struct
import threading
import time

from . import wire
from .wire import Client, ServerError, rows

TENANTS = 200
LONG_ROWS = 10_000


class Violation(Exception):
    """What must never happen."""


def expect(found, wanted, what):
    if found != wanted:
        raise Violation(f"{what}: expected {str(wanted)[:200]}, found {str(found)[:200]}")


class Worker(threading.Thread):
    """Logs in, does some steps, leaves, from anew until the end."""

    steps_per_login = (20, 200)

    def __init__(self, soak, number):
        super().__init__(daemon=True)
        self.soak, self.number, self.steps, self.slowest = soak, number, 0, 0.0
        self.random = random.Random(f"{soak.seed}-{number}")
        self.label = f"{type(self).__name__}-{number}"
        # The worker's own tenant, nobody else writes its rows.
        self.tenant = 1_000_000 + number

    def run(self):
        self.prepare()
        while not self.soak.is_over:
            try:
                client = self.login()
                for _ in range(self.random.randint(*self.steps_per_login)):
                    if self.soak.is_over:
                        break
                    begin = time.time()
                    self.step(client)
                    self.slowest = max(self.slowest, time.time() - begin)
                    self.steps += 1
                client.close()
            except Exception as error:
                self.soak.violated(self, error)
                time.sleep(0.2)

    def prepare(self):
        """Once, before the first step."""

    def login(self):
        return Client(self.soak.port, password="app", timeout=120)

    def marker(self):
        """Differs from all others ever given."""
        return f"{self.label}:{self.steps}:{self.random.randrange(1 << 40)}"

    def any_tenant(self):
        return self.random.randint(1, TENANTS)

    def step(self, client):
        raise NotImplementedError


class Simple(Worker):
    """Point selects, multi-statement queries, errors; statements that differ each time."""

    def step(self, client):
        marker, tenant = self.marker(), self.any_tenant()
        expect(client.rows(f"SELECT '{marker}', aid FROM soak_accounts WHERE aid = {tenant}"),
               [[marker, str(tenant)]], "a point select")
        kind = self.random.randrange(4)
        if kind == 0:
            found = client.rows(f"SELECT '{marker}', sum(n) AS x{self.random.randrange(1 << 30)} "
                                f"FROM soak_long WHERE aid = {tenant % 8 + 1} AND n <= 100")
            expect(found, [[marker, "5050"]], "a sum")
        elif kind == 1:
            found = client.rows(f"SELECT '{marker}', count(*) FROM soak_accounts")
            expect(found, [[marker, str(TENANTS)]], "a count over all shards")
        elif kind == 2:
            try:
                client.rows(f"SELECT '{marker}' FROM soak_no_such_table_{self.number}")
                raise Violation("a table that is not there was found")
            except ServerError as error:
                expect(error.code, "42P01", "a missing table")
                expect(f"soak_no_such_table_{self.number}" in str(error), True, f"whose error: {error}")


class Extended(Worker):
    """Unnamed Parse, Bind, Execute."""

    sql = "SELECT $1::text, aid FROM soak_accounts WHERE aid = $2"

    def step(self, client):
        marker, tenant = self.marker(), self.any_tenant()
        client.send(wire.parse("", self.sql) + wire.bind("", "", [marker, tenant]) +
                    wire.describe(b"P", "") + wire.execute() + wire.SYNC)
        expect(rows(client.answer()), [[marker, str(tenant)]], "an extended query")


class Prepared(Worker):
    """Named statements; all clients use the same names for texts of their own."""

    def login(self):
        client = super().login()
        self.kinds = {}
        for name in ("s1", "s2", "s3"):
            self.kinds[name] = self.random.randrange(50)
            sql = f"SELECT $1::text, aid, {self.kinds[name]} FROM soak_accounts WHERE aid = $2"
            client.send(wire.parse(name, sql) + wire.SYNC)
            rows(client.answer())
        return client

    def step(self, client):
        marker, tenant = self.marker(), self.any_tenant()
        name = self.random.choice(list(self.kinds))
        client.send(wire.bind("", name, [marker, tenant]) + wire.execute() + wire.SYNC)
        expect(rows(client.answer()), [[marker, str(tenant), str(self.kinds[name])]],
               f"prepared statement {name}")


class Pipeline(Worker):
    """Several batches sent at once, some of them with an error in the middle."""

    def step(self, client):
        batches, data = [], b""
        for _ in range(self.random.randint(2, 12)):
            marker, tenant = self.marker(), self.any_tenant()
            fails = self.random.random() < 0.2
            sql = f"SELECT $1::text, 1 / {0 if fails else 1} FROM soak_accounts WHERE aid = $2"
            data += wire.parse("", sql) + wire.bind("", "", [marker, tenant]) + wire.execute()
            # What follows an error is skipped up to Sync.
            data += wire.bind("", "", [marker, tenant]) + wire.execute() + wire.SYNC
            batches.append((marker, fails))
        client.send(data)
        for marker, fails in batches:
            frames = client.answer()
            if not fails:
                expect(rows(frames), [[marker, "1"]] * 2, "a batch of a pipeline")
                continue
            errors = [wire.fields(body).get("C") for kind, body in frames if kind == b"E"]
            expect(errors, ["22012"], "the error of a batch")


class Counter(Worker):
    """Increments a counter of its own and reads it back; nothing acknowledged may be lost."""

    def prepare(self):
        self.count = 0
        client = super().login()
        client.rows(f"INSERT INTO soak_counters (aid, n) VALUES ({self.tenant}, 0)")
        client.close()

    def login(self):
        client = super().login()
        client.rows(f"BEGIN; SELECT n FROM soak_counters WHERE aid = {self.tenant}; COMMIT")
        return client

    def step(self, client):
        client.send(wire.query(f"UPDATE soak_counters SET n = n + 1 WHERE aid = {self.tenant}"))
        rows(client.answer())
        self.count += 1
        found = client.rows(f"SELECT n FROM soak_counters WHERE aid = {self.tenant}")
        expect(found, [[str(self.count)]], "an own write read back")


class Transfer(Worker):
    """Transactions that move money between tenants of different shards, or give up."""

    def step(self, client):
        # In one order, so that they do not wait for each other in a circle.
        one, two = sorted(self.random.sample(range(1, TENANTS + 1), 2))
        amount, marker = self.random.randint(-50, 50), self.marker()
        client.rows("BEGIN")
        for tenant, change in ((one, -amount), (two, amount)):
            client.rows(f"UPDATE soak_accounts SET balance = balance + {change} WHERE aid = {tenant}")
        expect(client.rows(f"SELECT '{marker}', aid FROM soak_accounts WHERE aid = {one}"),
               [[marker, str(one)]], "a read in a transaction")
        expect(client.status, b"T", "the state within a transaction")
        client.rows("ROLLBACK" if self.random.random() < 0.3 else "COMMIT")
        expect(client.status, b"I", "the state after a transaction")


class Copy(Worker):
    """COPY in for rows of many tenants, aborted now and then, and COPY out."""

    def prepare(self):
        self.copied = 0

    def step(self, client):
        marker, count = self.marker(), self.random.randint(1, 300)
        client.send(wire.query("COPY soak_log (aid, marker, n) FROM STDIN"))
        self.until(client, b"G")
        lines = [f"{self.any_tenant()}\t{self.label}\t{it}\n" for it in range(count)]
        client.send(b"".join(wire.frame(b"d", it.encode()) for it in lines))
        if self.random.random() < 0.2:
            client.send(wire.frame(b"f", wire.text(marker)))
            errors = [wire.fields(body) for kind, body in client.answer() if kind == b"E"]
            expect([it.get("C") for it in errors], ["57014"], "an aborted COPY")
        else:
            client.send(wire.frame(b"c"))
            frames = client.answer()
            rows(frames)
            expect([body for kind, body in frames if kind == b"C"], [f"COPY {count}\0".encode()],
                   "COPY's count")
            self.copied += count
        tenant = self.any_tenant()
        client.send(wire.query(f"COPY (SELECT '{marker}', aid FROM soak_accounts WHERE aid = {tenant}) "
                               "TO STDOUT"))
        frames = client.answer()
        rows(frames)
        expect([body for kind, body in frames if kind == b"d"], [f"{marker}\t{tenant}\n".encode()],
               "COPY out")

    def until(self, client, wanted):
        kind, body = client.frame()
        while kind in (b"N", b"S"):
            kind, body = client.frame()
        if kind == b"E":
            client.answer()
            raise ServerError(wire.fields(body))
        expect(kind, wanted, "the answer to COPY")


class Cursor(Worker):
    """Cursors of SQL and portals that are read in pieces."""

    steps_per_login = (3, 20)

    def step(self, client):
        marker, tenant = self.marker(), self.random.randint(1, 8)
        sql = f"SELECT '{marker}', n FROM soak_long WHERE aid = {tenant} ORDER BY n"
        client.rows("BEGIN")
        client.rows(f"DECLARE c CURSOR FOR {sql}")
        for piece in range(3):
            wanted = [[marker, str(piece * 50 + it + 1)] for it in range(50)]
            expect(client.rows("FETCH 50 FROM c"), wanted, "rows of a cursor")
        client.rows("COMMIT")
        client.send(wire.parse("", sql) + wire.bind("", "", []) + wire.execute("", 40) +
                    wire.execute("", 40) + wire.SYNC)
        wanted = [[marker, str(it + 1)] for it in range(80)]
        expect(rows(client.answer()), wanted, "rows of a portal")


class Settings(Worker):
    """Settings that no other client may see, and that survive any change of the server."""

    def login(self):
        client = super().login()
        self.path = f"soak_{self.number}, public"
        client.rows(f"SET search_path = {self.path}")
        self.own = self.marker()
        client.rows(f"SET app.marker = '{self.own}'")
        return client

    def step(self, client):
        if self.random.random() < 0.2:
            self.own = self.marker()
            client.rows(f"SELECT set_config('app.marker', '{self.own}', false)")
        if self.random.random() < 0.1:
            client.rows("BEGIN; SET LOCAL app.marker = 'gone'; ROLLBACK")
        expect(client.rows("SELECT current_setting('app.marker')"), [[self.own]], "a setting")
        expect(client.rows("SHOW search_path"), [[self.path]], "search_path")


class Temporary(Worker):
    """A temporary table under a name that others use as well."""

    steps_per_login = (2, 10)

    def step(self, client):
        marker = self.marker()
        client.rows("CREATE TEMP TABLE soak_temp (marker text)")
        client.rows(f"INSERT INTO soak_temp VALUES ('{marker}')")
        for _ in range(5):
            expect(client.rows("SELECT marker FROM soak_temp"), [[marker]], "a temporary table")
        if self.random.random() < 0.5:
            client.rows("DROP TABLE pg_temp.soak_temp")
        else:
            client.rows("DISCARD ALL")


class Listen(Worker):
    """Notifications of an own channel, sent by somebody else."""

    steps_per_login = (3, 30)

    def login(self):
        client = super().login()
        client.rows(f"LISTEN soak_{self.number}")
        client.rows("LISTEN soak_all")
        return client

    def step(self, client):
        marker, other = self.marker(), Worker.login(self)
        try:
            other.rows(f"NOTIFY soak_{self.number}, '{marker}'")
            other.rows(f"NOTIFY soak_all, '{marker}'")
        finally:
            other.close()
        missing, deadline = {f"soak_{self.number}", "soak_all"}, time.time() + 30
        while missing:
            if time.time() > deadline:
                raise Violation(f"no notification {marker} on {missing} within 30 s")
            expect(client.rows(f"SELECT '{marker}'"), [[marker]], "a listener's query")
            for channel, payload in client.notifications:
                if channel not in ("soak_all", f"soak_{self.number}"):
                    raise Violation(f"a notification of {channel}, on which nobody here listens")
                if payload == marker:
                    missing.discard(channel)
            client.notifications.clear()


class SlowReader(Worker):
    """Long results, read slowly."""

    steps_per_login = (1, 3)

    def login(self):
        client = super().login()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        return client

    def step(self, client):
        marker = self.marker()
        tenant = "aid <= 4" if self.random.random() < 0.3 else "aid = 3"
        client.send(wire.query(f"SELECT '{marker}', n, repeat('x', 50) FROM soak_long WHERE {tenant}"))
        count = 0
        while True:
            kind, body = client.frame()
            if kind == b"E":
                raise ServerError(wire.fields(body))
            if kind == b"D":
                expect(wire.row(body)[0], marker, "a row of a slow reader")
                count += 1
                if count % 2000 == 0:
                    time.sleep(0.2)
            if kind == b"Z":
                break
        expect(count, LONG_ROWS * (4 if "<=" in tenant else 1), "rows of a slow reader")


class Cancelled(Worker):
    """Cancels its own statements, early, late or just when they end."""

    def step(self, client):
        marker = self.marker()
        seconds = self.random.choice((0.0, 0.01, 5.0))
        client.send(wire.query(f"SELECT '{marker}', pg_sleep({seconds})"))
        time.sleep(self.random.random() * 0.03)
        wire.cancel(self.soak.port, client.key)
        # A late cancel may hit what this client does next.
        for sql in (None, f"SELECT '{marker}', ''", f"SELECT '{marker}', ''"):
            if sql:
                client.send(wire.query(sql))
            try:
                expect(rows(client.answer()), [[marker, ""]], "a statement with a cancel")
            except ServerError as error:
                expect(error.code, "57014", "a cancel")


class Abandoned(Worker):
    """Goes away at bad moments. What it wrote was never committed."""

    steps_per_login = (1, 1)

    def step(self, client):
        moments = [
            lambda: self.start_transaction(client),
            lambda: client.send(wire.query("SELECT * FROM soak_long")),
            lambda: client.send(wire.query("SELECT pg_sleep(3), * FROM soak_accounts WHERE aid = 7")),
            lambda: client.send(wire.query("COPY soak_log (aid, marker, n) FROM STDIN") +
                                wire.frame(b"d", b"5\tnever\t1\n")),
            lambda: client.send(wire.query("SELECT 1")[:-3]),
            lambda: client.send(wire.parse("", "SELECT 1") + wire.bind("", "", [])),
            lambda: client.send(wire.parse("", "SELECT 1") + wire.FLUSH),
            lambda: client.send(wire.query("SELECT * FROM soak_long WHERE aid = 1") * 20),
            lambda: client.send(wire.query("CREATE TEMP TABLE gone (x int)")),
        ]
        self.random.choice(moments)()
        time.sleep(self.random.random() * 0.05)
        if self.random.random() < 0.5:
            # Closing sends a reset.
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.stream.close()

    def start_transaction(self, client):
        client.rows("BEGIN")
        for tenant in (self.any_tenant(), self.any_tenant()):
            client.rows(f"INSERT INTO soak_log (aid, marker, n) VALUES ({tenant}, 'never', 0)")
        if self.random.random() < 0.5:
            client.send(wire.query("UPDATE soak_log SET n = 1 WHERE marker = 'never' AND aid = 5"))


class Victim(Worker):
    """Is killed by the console's KILL, sooner or later."""

    def login(self):
        client = super().login()
        [pid] = struct.unpack("!i", client.key[:4])
        killer = Client(self.soak.port, password="app", database="pgsluice")
        self.timer = threading.Timer(self.random.random(), self.kill, [killer, pid])
        self.timer.start()
        return client

    def kill(self, killer, pid):
        try:
            killer.rows(f"KILL {pid}")
        except ServerError:
            # It has left.
            pass
        finally:
            killer.close()

    def step(self, client):
        marker = self.marker()
        try:
            expect(client.rows(f"SELECT '{marker}', pg_sleep(0.01)"), [[marker, ""]], "a victim's query")
        except (ConnectionError, ServerError) as error:
            if isinstance(error, ServerError) and error.code != "57P01":
                raise
            client.close()
            self.timer.join()
            replacement = self.login()
            # The step after this one uses the new connection.
            client.__dict__.update(replacement.__dict__)


ALL = (Simple, Simple, Simple, Extended, Extended, Prepared, Prepared, Pipeline, Counter, Counter,
       Transfer, Transfer, Copy, Cursor, Settings, Settings, Temporary, Listen, Listen, SlowReader,
       Cancelled, Cancelled, Abandoned, Abandoned, Victim)
