#!/usr/bin/env python3
"""The reads of PostgreSQL's regression suite, on one Postgres and through the proxy over four shards.

Usage: shards.py SUITE OUT SERVER PROXY [FILE]...

SUITE is src/test/regress of the source, SERVER a superuser's connection string to the databases `one`,
`twin0` to `twin2` and `shard0` to `shard3`, PROXY one to the proxy over the shards; without FILEs all of FILES run.
Each table gets a last column tenant_id, which a hash of the row fills. What is no read only happens in `one`;
definitions are repeated on the others, and before a read what has changed is copied: into the twins, each
time in another order, and to each shard what is its own. A read whose answers in `one` and a twin differ is
not determined by SQL; any other must be answered alike by the proxy, or refused. Prints counts; OUT/different
and OUT/refused tell what was not equal. The exit code is 1 if an answer differs.
"""

import collections
import hashlib
import pathlib
import re
import sys

import psycopg

HERE = pathlib.Path(__file__).resolve().parent
FILES = """select select_distinct select_distinct_on select_having select_implicit aggregates join subselect
    union case window groupingsets limit with arrays date float8 int8 interval jsonb numeric rangetypes rowtypes text
    timestamptz tsrf""".split()
# Made before each file, as the suite's first groups make them.
SETUP = ("test_setup", "create_aggregate", "create_operator", "create_misc")
SHARDS = 4
TWINS = 3
LARGE = 1000
FIRST_USER_OID = 16384
SETTINGS = "SET statement_timeout = '10s'; SET jit = off; SET session_replication_role = replica"
TIMEOUT = "57014"
SKIPPED = set("""BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE EXPLAIN VACUUM ANALYZE DECLARE FETCH MOVE
    CLOSE LISTEN NOTIFY UNLISTEN PREPARE EXECUTE DEALLOCATE DISCARD LOCK CHECKPOINT CLUSTER REINDEX LOAD SHOW
    REFRESH CALL""".split())
WRITES = set("INSERT UPDATE DELETE TRUNCATE COPY MERGE DO".split())
READS = set("SELECT WITH VALUES TABLE".split())
# The answer is another one each time, or tells of the server that gives it.
UNSTEADY = re.compile(
    r"\b(nextval|setval|currval|lastval|random|pg_backend_pid|txid_\w+|pg_relation_size|pg_current_\w+|pg_sleep|"
    r"set_config|pg_notify|pg_(try_)?advisory\w*|clock_timestamp|pg_stat\w*|ctid|xmin|xmax|tableoid)\b",
    re.I,
)


def statements(text, data):
    """Each statement of a psql script, and the rows of COPY … FROM stdin or a file below `data`."""
    token = re.compile(
        r"(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<quote>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"[^\"]*\")"
        r"|(?P<dollar>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)|(?P<meta>\\[^\n]*)|(?P<word>\w+)|(?P<other>.)",
        re.S,
    )
    variables, parts, depth, blocks, at = {}, [], 0, 0, 0
    while match := token.match(text, at):
        at = match.end()
        kind, found = match.lastgroup, match.group()
        if kind == "tag":
            kind = "dollar"
        if kind == "comment":
            parts.append(" ")
        elif kind == "meta":
            if path := re.match(r"\\set (\w+) :abs_srcdir '([^']*)'", found):
                variables[path[1]] = path[2]
            elif not found.startswith("\\set"):
                # \gset, \gexec and the like: of no use here.
                parts, depth, blocks = [], 0, 0
        elif found == ";" and depth <= 0 and blocks <= 0:
            sql, parts, depth, blocks = "".join(parts).strip(), [], 0, 0
            if file := re.fullmatch(r"(COPY\b.*\bFROM\b\s*):'(\w+)'(.*)", sql, re.S | re.I):
                path = data.parent / variables.get(file[2], "-").lstrip("/")
                if path.is_file():
                    yield f"{file[1]} STDIN {file[3]}", path.read_bytes()
            elif re.match(r"COPY\b.*\bFROM\s+STDIN\b", sql, re.S | re.I):
                start = text.index("\n", at) + 1
                end = re.compile(r"^\\\.$", re.M).search(text, start)
                yield sql, text[start : end.start()].encode()
                at = end.end()
            elif sql and not re.search(r"(?<![:\w\]]):['\"]?[a-zA-Z]", re.sub(r"'(?:[^']|'')*'", "", sql)):
                yield sql, None
        else:
            depth += (found == "(") - (found == ")")
            if kind == "word" and re.match(r"\s*CREATE\b.*\b(FUNCTION|PROCEDURE)\b", "".join(parts), re.S | re.I):
                blocks += (found.upper() == "ATOMIC") - (found.upper() == "END" and blocks > 0)
            parts.append(found)


class Server:
    """A connection to one database."""

    def __init__(self, target, database):
        self.target = f"{target} dbname={database}"
        self.connect()

    def connect(self):
        self.pq = psycopg.connect(self.target, autocommit=True).pgconn
        for setting in SETTINGS.split(";"):
            self.pq.exec_(setting.encode())

    def run(self, sql, data=None, extended=False):
        """A result; what was left open is closed."""
        if self.pq.status != psycopg.pq.ConnStatus.OK:
            self.connect()
        sql = sql.encode()
        result = self.pq.exec_params(sql, None) if extended else self.pq.exec_(sql)
        if result.status == psycopg.pq.ExecStatus.COPY_IN:
            self.pq.put_copy_data(data or b"")
            self.pq.put_copy_end()
            while more := self.pq.get_result():
                result = more
        if self.pq.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.pq.exec_(b"ROLLBACK")
        return result

    def rows(self, sql):
        result = self.run(sql)
        assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, (sql, result.error_message)
        return [
            tuple((result.get_value(i, j) or b"").decode() for j in range(result.nfields)) for i in range(result.ntuples)
        ]

    def copy_out(self, sql):
        self.pq.send_query(f"COPY ({sql}) TO STDOUT".encode())
        result = self.pq.get_result()
        lines = []
        if result.status == psycopg.pq.ExecStatus.COPY_OUT:
            while (got := self.pq.get_copy_data(0))[0] > 0:
                lines.append(bytes(got[1]))
        while self.pq.get_result():
            pass
        return lines


class Answer:
    """A result in a form to be compared."""

    def __init__(self, result):
        ok = (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK)
        field = lambda code: (result.error_field(code) or b"").decode()
        self.code = "" if result.status in ok else field(psycopg.pq.DiagnosticField.SQLSTATE) or "lost"
        self.told = field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY)
        self.detail = field(psycopg.pq.DiagnosticField.MESSAGE_DETAIL)
        kind = lambda j: (result.fname(j), min(result.ftype(j), FIRST_USER_OID), result.fmod(j))
        self.columns = [kind(j) for j in range(result.nfields)]
        row = lambda i: tuple(result.get_value(i, j) for j in range(result.nfields))
        self.rows = [] if self.code else [row(i) for i in range(result.ntuples)]

    def seen(self, is_ordered):
        if self.code:
            return self.code
        rows = self.rows if is_ordered else sorted(self.rows, key=lambda row: [(it is None, it or b"") for it in row])
        return (self.columns, rows)

    def show(self):
        if self.code:
            return f"{self.code} {self.told}"
        return f"{len(self.rows)} rows {self.columns}\n      " + "\n      ".join(str(it) for it in self.rows[:8])


class Sides:
    def __init__(self, server, proxy):
        self.one = Server(server, "one")
        self.twins = [Server(server, f"twin{it}") for it in range(TWINS)]
        self.shards = [Server(server, f"shard{it}") for it in range(SHARDS)]
        self.proxy = Server(proxy, "regression")
        self.changes, self.sums, self.functions = [], {}, set()

    def everywhere(self, sql):
        first = self.one.run(sql)
        for it in [*self.twins, *reversed(self.shards)]:
            it.run(sql)
        return first

    def clear(self):
        for it in (self.one, *self.twins, *self.shards):
            it.run("RESET ALL")
            it.run(SETTINGS)
            schemas = "nspname !~ '^pg_' AND nspname <> 'information_schema'"
            for (name,) in it.rows(f"SELECT quote_ident(nspname) FROM pg_namespace WHERE {schemas}"):
                it.run(f"DROP SCHEMA {name} CASCADE")
            it.run("CREATE SCHEMA public")
        self.proxy.connect()
        self.sums = {}

    def write(self, sql, data):
        """What is no read: rows change in `one`, definitions everywhere."""
        word = sql.split(None, 1)[0].upper()
        sql = re.sub(r"^(CREATE\s+(?:OR\s+REPLACE\s+)?)(?:LOCAL\s+|GLOBAL\s+)?(?:TEMP|TEMPORARY)\s", r"\1", sql, flags=re.I)
        sql = re.sub(r"\bINTO\s+(?:TEMP|TEMPORARY)\s+(?:TABLE\s+)?", "INTO ", sql, flags=re.I)
        if word in ("SET", "RESET"):
            if not re.match(r"SET\s+(LOCAL|ROLE|SESSION|CONSTRAINTS|TRANSACTION)\b", sql, re.I):
                for it in (self.one, *self.twins, self.proxy):
                    it.run(sql)
            return
        self.changes.append(sql.lower())
        if word in WRITES or word == "WITH":
            self.one.run(sql, data)
            return
        made = re.match(r"CREATE\s+(?:UNLOGGED\s+)?(TABLE|VIEW)\s+([\w.]+)", sql, re.I)
        result = self.everywhere(sql)
        if made and result.status == psycopg.pq.ExecStatus.FATAL_ERROR and b"already exists" in result.error_message:
            # The script made it in a transaction, or dropped it as a temporary one.
            self.everywhere(f"DROP {made[1]} {made[2]} CASCADE")
            self.everywhere(sql)

    def copy(self):
        """Columns that are missing, and rows that have changed."""
        if not self.changes:
            return
        text, self.changes = " ".join(self.changes), []
        tables = """SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid FROM pg_class c
            JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_'
            AND nspname <> 'information_schema'"""
        lacks = """ AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id')
            ORDER BY EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid), c.oid"""
        for name, _ in self.one.rows(tables + lacks):
            self.everywhere(f"ALTER TABLE {name} ADD COLUMN tenant_id int")
        for name, _ in self.one.rows(tables + " ORDER BY c.oid"):
            if int(self.sums.get(name, "0")[0]) > LARGE and name.split(".")[1].strip('"') not in text:
                continue
            row = f"('x' || substr(md5(row_to_json(it)::text), 1, 4))::bit(16)::int % 16"
            self.one.run(f"UPDATE ONLY {name} it SET tenant_id = {row} WHERE tenant_id IS NULL")
            digest = self.one.run(f"SELECT count(*), sum(hashtext(it::text)) FROM ONLY {name} it")
            if digest.status != psycopg.pq.ExecStatus.TUPLES_OK:
                continue
            digest = (digest.get_value(0, 0), digest.get_value(0, 1))
            if self.sums.get(name) != digest:
                self.sums[name] = digest
                self.copy_rows(name)
        functions = "SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE provolatile = 'v'"
        self.functions = {it for (it,) in self.one.rows(functions + " AND nspname !~ '^pg_'")}
        # Whatever is DDL makes the proxy read the schema anew.
        result = self.proxy.run("COMMENT ON SCHEMA public IS 'changed'")
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message.decode()

    def copy_rows(self, name):
        columns = self.one.rows(
            f"SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
        )
        columns = ", ".join(it[0] for it in columns)
        place = f"get_byte(decode(md5(tenant_id::text), 'hex'), 0) / {256 // SHARDS}"
        lines = self.one.copy_out(f"SELECT {place}, {columns} FROM ONLY {name}")
        lines = [line.split(b"\t", 1) for line in lines]
        for number, server in enumerate([*self.shards, *self.twins]):
            own = [it[1] for it in lines if number >= SHARDS or it[0] == str(number).encode()]
            own.sort(key=lambda it: hashlib.md5(it + str(number).encode()).digest())
            server.run(f"DELETE FROM ONLY {name}")
            result = server.run(f"COPY {name} ({columns}) FROM STDIN", b"".join(own))
            if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
                print(f"cannot copy {name}: {result.error_message.decode()}", file=sys.stderr)
        if len(lines) > LARGE:
            self.everywhere(f"ANALYZE {name}")

    def compare(self, sql):
        """`(outcome, text)`: equal, error, undetermined, refused, different."""
        self.copy()
        if any(re.search(rf"\b{re.escape(it)}\s*\(", sql) for it in self.functions):
            # It may write.
            self.changes.append("")
        direct = Answer(self.one.run(sql))
        twins = [Answer(it.run(sql)) for it in self.twins]
        if UNSTEADY.search(sql) or any(it.seen(False) != direct.seen(False) for it in twins):
            return "undetermined", ""
        is_ordered = "order" in sql.lower() and all(it.seen(True) == direct.seen(True) for it in twins)
        for extended in (False, True):
            through = Answer(self.proxy.run(sql, extended=extended))
            if direct.code and through.code in (direct.code, "0A000"):
                continue
            if TIMEOUT in (direct.code, through.code):
                return "slow", f"{direct.code or 'answered'} and {through.code or 'answered'}"
            if through.code == "0A000":
                return "refused", f"{through.told}: {through.detail}"
            if direct.seen(is_ordered) != through.seen(is_ordered):
                protocol = "extended" if extended else "simple"
                plan = Answer(self.proxy.run(f"EXPLAIN (SLUICE) {sql}"))
                lines = "\n      ".join(b" ".join(it or b"" for it in row).decode() for row in plan.rows)
                return "different", f"  one: {direct.show()}\n  {protocol}: {through.show()}\n  plan: {lines or plan.show()}"
        return ("error" if direct.code else "equal"), ""


def is_read(sql):
    word = re.match(r"[\s(]*(\w*)", sql)[1].upper()
    flat = re.sub(r"'(?:[^']|'')*'", "", sql)
    if word == "WITH":
        return not re.search(r"\b(INSERT\s+INTO|UPDATE\s+\w+.*\bSET|DELETE\s+FROM|MERGE\s+INTO)\b", flat, re.I | re.S)
    return word in READS and not re.search(r"\bINTO\b", flat, re.I)


def main():
    suite, out, server, proxy, *files = sys.argv[1:]
    suite, out = pathlib.Path(suite), pathlib.Path(out)
    sides = Sides(server, proxy)
    out.mkdir(parents=True, exist_ok=True)
    different, refused = (out / "different").open("w"), collections.defaultdict(list)
    total = collections.Counter()
    outcomes = ("equal", "error", "undetermined", "slow", "refused", "different")
    print(f"{'file':<24}" + "".join(f"{it:>14}" for it in outcomes))
    for file in files or FILES:
        sides.clear()
        for setup in SETUP:
            for sql, data in statements((suite / "sql" / f"{setup}.sql").read_text(), suite / "data"):
                if sql.split(None, 1)[0].upper() not in SKIPPED and not is_read(sql):
                    sides.write(sql, data)
        counts = collections.Counter()
        for sql, data in statements((suite / "sql" / f"{file}.sql").read_text(), suite / "data"):
            if sql.split(None, 1)[0].upper() in SKIPPED:
                continue
            if not is_read(sql):
                sides.write(sql, data)
                continue
            outcome, told = sides.compare(sql)
            counts[outcome] += 1
            if outcome in ("different", "slow"):
                print(f"{file}, {outcome}: {sql}\n{told}\n", file=different, flush=True)
            if outcome == "refused":
                refused[re.sub(r"\d+", "N", told)].append(f"{file}: {sql}")
        total += counts
        print(f"{file:<24}" + "".join(f"{counts[it]:>14}" for it in outcomes), flush=True)
    print(f"{'all':<24}" + "".join(f"{total[it]:>14}" for it in outcomes))
    ranked = sorted(refused.items(), key=lambda it: -len(it[1]))
    (out / "refused").write_text("".join(f"# {len(sqls)}: {told}\n\n" + "\n\n".join(sqls) + "\n\n" for told, sqls in ranked))
    for told, sqls in ranked:
        print(f"{len(sqls):>6} refused: {told[:150]}")
    return 1 if total["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
