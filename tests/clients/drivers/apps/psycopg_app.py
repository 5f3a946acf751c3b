"""psycopg 3: pipelines, prepared statements, cursors, COPY, two-way types."""

import asyncio
import datetime
import os
import sys
import threading
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range
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
def prepared_shown():
    shown = "SELECT statement, parameter_types FROM pg_prepared_statements"
    for autocommit in (True, False):
        with psycopg.connect(DSN, autocommit=autocommit) as conn:
            conn.prepared_max = 3
            conn.execute("SELECT %s", [datetime.date(2026, 1, 2)], prepare=True)
            assert conn.execute(shown).fetchall() == [("SELECT $1", ["date"])]
            for i in range(10):
                conn.execute(f"SELECT {i}", prepare=True)
            assert len(conn.execute(shown).fetchall()) == 3
            conn.execute("DROP TABLE IF EXISTS psy_none")
            assert conn.execute(shown).fetchall() == []
        with psycopg.connect(DSN, autocommit=autocommit) as conn:
            counts = [conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] for _ in range(10)]
            assert counts == [0] * 5 + [1] * 5, counts


@step
def prepared_types_made_again():
    with psycopg.connect(DSN, prepare_threshold=0) as conn:
        for dropped in (False, False, True, False):
            conn.execute("CREATE TYPE psy_kind AS ENUM ('a', 'b')")
            conn.execute("CREATE TABLE psy_list (id int, kinds psy_kind[])")
            conn.execute("INSERT INTO psy_list (kinds) VALUES (%s::psy_kind[])", [["a"]])
            conn.cursor().executemany("INSERT INTO psy_list (kinds) VALUES (%s::psy_kind[])", [[["a"]], [["a", "b"]]])
            if dropped:
                conn.execute("DROP TABLE psy_list")
                conn.execute("DROP TYPE psy_kind")
            else:
                conn.rollback()


@step
def prepared_in_a_savepoint_undone():
    with psycopg.connect(DSN, prepare_threshold=0) as conn:
        for _ in range(3):
            with conn.transaction(force_rollback=True):
                conn.execute("CREATE TABLE psy_undone (a int)")
                conn.execute("INSERT INTO psy_undone VALUES (%s)", [1])
                assert conn.execute("SELECT a FROM psy_undone").fetchone() == (1,)


@step
def pipeline_prepared():
    with connect(prepare_threshold=0) as conn, conn.pipeline():
        conn.prepared_max = 5
        cursors = [conn.execute(f"SELECT %s + {i % 10}", [i]) for i in range(100)]
        assert [cur.fetchone()[0] for cur in cursors] == [i + i % 10 for i in range(100)]
        conn.execute("DEALLOCATE ALL")
        assert conn.execute("SELECT %s + 1", [1]).fetchone() == (2,)


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


@step
def transaction_characteristics():
    with psycopg.connect(DSN) as conn:
        conn.isolation_level, conn.read_only, conn.deferrable = psycopg.IsolationLevel.SERIALIZABLE, True, True
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        assert [conn.execute(f"SHOW {it}").fetchone()[0] for it in names] == ["serializable", "on", "on"]
        try:
            conn.execute("DELETE FROM psy")
        except psycopg.errors.ReadOnlySqlTransaction:
            conn.rollback()
        conn.isolation_level = conn.read_only = conn.deferrable = None
        assert conn.execute("SHOW transaction_read_only").fetchone()[0] == "off"


@step
def asynchronous():
    async def work(conn, at):
        async with conn.cursor() as cur:
            await cur.execute("SELECT %s, pg_sleep(0.01)", [at])
            return (await cur.fetchone())[0]

    async def main():
        conns = [await psycopg.AsyncConnection.connect(DSN) for _ in range(8)]
        assert await asyncio.gather(*(work(it, at) for at, it in enumerate(conns))) == list(range(8))
        sleeping = asyncio.create_task(conns[0].execute("SELECT pg_sleep(10)"))
        await asyncio.sleep(0.3)
        sleeping.cancel()
        try:
            await sleeping
            raise AssertionError("was not cancelled")
        except asyncio.CancelledError:
            pass
        await conns[0].rollback()
        assert await work(conns[0], 5) == 5
        [await it.close() for it in conns]

    asyncio.run(main())


@step
def composite_and_range_types():
    with connect() as conn:
        conn.execute("DROP TYPE IF EXISTS psy_pair; CREATE TYPE psy_pair AS (a int, b text)")
        info = psycopg.types.composite.CompositeInfo.fetch(conn, "psy_pair")
        psycopg.types.composite.register_composite(info, conn)
        for binary in (False, True):
            cur = conn.cursor(binary=binary)
            assert cur.execute("SELECT row(1, 'x')::psy_pair").fetchone()[0] == (1, "x")
            ranges = [Range(1, 5), Range(7, 9)]
            assert cur.execute("SELECT %s::int4multirange", [Multirange(ranges)]).fetchone()[0] == Multirange(ranges)


for one in STEPS:
    if len(sys.argv) > 1 and sys.argv[1] not in one.__name__:
        continue
    try:
        one()
        print("ok", one.__name__, flush=True)
    except BaseException as error:
        print(f"not ok {one.__name__}: {type(error).__name__}: {error}", flush=True)
