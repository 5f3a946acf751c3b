"""psycopg 3: pipelines, prepared statements, cursors, COPY, two-way types."""

import datetime
import os
import sys
import threading
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

DSN = "host={PGHOST} port={PGPORT} user={PGUSER} password={PGPASSWORD} dbname={PGDATABASE}".format(**os.environ)
STEPS = []


def step(function):
    STEPS.append(function)
    return function


def connect(**options):
    return psycopg.connect(DSN, autocommit=True, **options)


@step
def table():
    with connect() as conn:
        conn.execute("DROP TABLE IF EXISTS psy")
        conn.execute("CREATE TABLE psy (id int PRIMARY KEY, name text, data jsonb)")
        with conn.cursor() as cur:
            cur.executemany("INSERT INTO psy VALUES (%s, %s, %s)", [(i, f"n{i}", Jsonb({"i": i})) for i in range(100)])
            assert cur.rowcount == 100
            cur.executemany("SELECT %s::int", [(i,) for i in range(5)], returning=True)
            assert cur.fetchone() == (0,)


@step
def types():
    values = [1, 2**40, 1.5, "x", b"\0\1", True, None, [1, 2], uuid.UUID(int=5), datetime.date(2026, 1, 2),
              datetime.timedelta(days=1), datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)]
    for binary in (False, True):
        with connect() as conn, conn.cursor(binary=binary) as cur:
            for value in values:
                assert cur.execute("SELECT %s", [value]).fetchone()[0] == value, value


@step
def prepared():
    with connect(prepare_threshold=0) as conn:
        for i in range(300):
            assert conn.execute(f"SELECT %s + {i % 150}", [i], prepare=True).fetchone()[0] == i + i % 150
        conn.execute("DEALLOCATE ALL")
        assert conn.execute("SELECT %s", [5], prepare=True).fetchone()[0] == 5


@step
def prepared_after_failure():
    with psycopg.connect(DSN, prepare_threshold=0) as conn:
        for _ in range(3):
            try:
                conn.execute("SELECT 1 / %s", [0])
            except psycopg.errors.DivisionByZero:
                conn.rollback()
        assert conn.execute("SELECT 1 / %s", [1]).fetchone()[0] == 1


@step
def pipeline():
    with connect() as conn, conn.pipeline() as pipe:
        cursors = [conn.execute("SELECT %s", [i]) for i in range(200)]
        pipe.sync()
        assert [cur.fetchone()[0] for cur in cursors] == list(range(200))


@step
def pipeline_errors():
    with connect() as conn:
        try:
            with conn.pipeline():
                conn.execute("SELECT 1")
                conn.execute("SELECT nope")
                conn.execute("SELECT 2")
        except psycopg.errors.UndefinedColumn:
            pass
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("SELECT 3").fetchone()[0] == 3


@step
def pipeline_transaction():
    with connect() as conn:
        with conn.pipeline(), conn.transaction():
            conn.execute("UPDATE psy SET name = 'p' WHERE id < 5")
            cur = conn.execute("SELECT count(*) FROM psy WHERE name = 'p'")
            assert cur.fetchone()[0] == 5
        try:
            with conn.pipeline(), conn.transaction():
                conn.execute("DELETE FROM psy")
                conn.execute("SELECT nope")
        except psycopg.Error:
            pass
        assert conn.execute("SELECT count(*) FROM psy").fetchone()[0] == 100


@step
def nested():
    with connect() as conn, conn.transaction():
        conn.execute("INSERT INTO psy VALUES (500)")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO psy VALUES (500)")
        except psycopg.errors.UniqueViolation as error:
            assert error.diag.constraint_name == "psy_pkey" and error.diag.table_name == "psy"
        conn.execute("DELETE FROM psy WHERE id = 500")


@step
def server_cursor():
    with psycopg.connect(DSN) as conn, conn.cursor("named") as cur:
        cur.execute("SELECT generate_series(1, 1000)")
        cur.itersize = 100
        assert cur.description[0].name == "generate_series"
        assert sum(row[0] for row in cur) == 500500


@step
def server_cursor_scroll():
    with psycopg.connect(DSN) as conn, conn.cursor("scrolled", scrollable=True, withhold=True) as cur:
        cur.execute("SELECT generate_series(1, 50)")
        conn.commit()
        cur.scroll(10)
        assert cur.fetchone() == (11,)
        cur.scroll(0, mode="absolute")
        assert cur.fetchmany(2) == [(1,), (2,)]


@step
def stream():
    with connect() as conn, conn.cursor() as cur:
        assert sum(row[0] for row in cur.stream("SELECT generate_series(1, 500)")) == 125250


@step
def copy():
    with connect() as conn, conn.cursor() as cur:
        for options in ("", "(FORMAT binary)"):
            cur.execute("CREATE TABLE IF NOT EXISTS psy_copy (a int4, b text)")
            with cur.copy(f"COPY psy_copy FROM STDIN {options}") as out:
                out.set_types(["int4", "text"])
                for i in range(2000):
                    out.write_row((i, "x" * 100))
            assert cur.rowcount == 2000
            with cur.copy(f"COPY psy_copy TO STDOUT {options}") as rows:
                rows.set_types(["int4", "text"])
                assert sum(1 for _ in rows.rows()) == 2000
            cur.execute("DROP TABLE psy_copy")


@step
def copy_aborted():
    with connect() as conn, conn.cursor() as cur:
        try:
            with cur.copy("COPY psy (id) FROM STDIN") as out:
                out.write_row((9000,))
                raise KeyError
        except KeyError:
            pass
        try:
            with cur.copy("COPY psy (id) FROM STDIN") as out:
                out.write(b"bad\n")
        except psycopg.errors.InvalidTextRepresentation:
            pass
        assert cur.execute("SELECT count(*) FROM psy").fetchone()[0] == 100


@step
def cancel():
    with connect() as conn:
        threading.Timer(0.3, conn.cancel_safe).start()
        try:
            conn.execute("SELECT pg_sleep(10)")
            raise AssertionError("was not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        assert conn.execute("SELECT 1").fetchone()[0] == 1


@step
def notices():
    with connect() as conn:
        said = []
        conn.add_notice_handler(lambda it: said.append((it.severity, it.message_primary, it.message_hint)))
        conn.execute("DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'so'; END $$")
        assert said == [("WARNING", "careful", "so")], said


@step
def listen():
    with connect() as conn, connect() as other:
        conn.execute("LISTEN psy_channel")
        other.execute("NOTIFY psy_channel, 'hello'")
        got = next(conn.notifies(timeout=5, stop_after=1))
        assert (got.channel, got.payload) == ("psy_channel", "hello")


@step
def parameter_status():
    with connect(options="-c datestyle=german") as conn:
        assert conn.info.parameter_status("DateStyle").startswith("German")
        conn.execute("SET timezone TO 'Asia/Tokyo'")
        assert conn.info.parameter_status("TimeZone") == "Asia/Tokyo"
        conn.execute("SET client_encoding TO latin1")
        assert conn.info.encoding == "iso8859-1"
        assert conn.execute("SELECT %s", ["é"]).fetchone()[0] == "é"
        conn.execute("RESET ALL")


@step
def parameter_status_in_transaction():
    with connect() as conn:
        conn.execute("BEGIN")
        conn.execute("SET timezone TO 'Asia/Tokyo'")
        assert conn.info.parameter_status("TimeZone") == "Asia/Tokyo"
        before = conn.execute("SELECT 1").fetchone()
        conn.execute("ROLLBACK")
        assert before and conn.info.parameter_status("TimeZone") != "Asia/Tokyo"


@step
def temporary_table():
    with connect() as conn:
        conn.execute("CREATE TEMP TABLE psy_temp AS SELECT 1 AS a")
        assert conn.execute("SELECT a FROM psy_temp").fetchone() == (1,)
        conn.execute("DISCARD ALL")


@step
def two_phase():
    with psycopg.connect(DSN) as conn:
        conn.tpc_begin(conn.xid(1, "psy", "x"))
        conn.execute("UPDATE psy SET name = 'two' WHERE id = 1")
        conn.tpc_prepare()
        conn.tpc_rollback()


@step
def pool():
    with ConnectionPool(DSN, min_size=4, max_size=8, kwargs={"row_factory": dict_row}) as pool:
        def work(at):
            for i in range(20):
                with pool.connection() as conn:
                    assert conn.execute("SELECT %s + %s AS sum", [at, i]).fetchone()["sum"] == at + i
        threads = [threading.Thread(target=work, args=[at]) for at in range(8)]
        [it.start() for it in threads]
        [it.join() for it in threads]


@step
def custom_types():
    with connect() as conn:
        conn.execute("DROP TYPE IF EXISTS psy_mood; CREATE TYPE psy_mood AS ENUM ('good', 'bad')")
        assert conn.execute("SELECT 'bad'::psy_mood").fetchone()[0] == "bad"
        assert psycopg.types.TypeInfo.fetch(conn, "psy_mood").name == "psy_mood"


for one in STEPS:
    if len(sys.argv) > 1 and sys.argv[1] not in one.__name__:
        continue
    try:
        one()
        print("ok", one.__name__, flush=True)
    except BaseException as error:
        print(f"not ok {one.__name__}: {type(error).__name__}: {error}", flush=True)
