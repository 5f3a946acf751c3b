//! Statements of the simple protocol that run as prepared ones: every byte that the client gets is what
//! it gets of one Postgres.
#![allow(clippy::unwrap_used)]

mod support;

use pgsluice::playground::Node;
use pgsluice::wire::frontend;
use support::proxy::{Proxy, ProxySpec};
use support::wire::Wire;

const SCHEMA: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN short AS varchar(3);
CREATE TABLE t (id int PRIMARY KEY, small int2, big int8, n numeric(10,2), r float4, f float8, s text,
  v varchar(5), c char(4), u uuid, at timestamptz, ts timestamp, d date, b bool, j jsonb, m mood,
  iv interval, x bytea, dom short, \"Odd name\" int, made timestamptz DEFAULT now());
CREATE INDEX ON t (s) WHERE s <> 'x1';
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY,
  parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE numbered (id serial PRIMARY KEY, s text, d date DEFAULT CURRENT_DATE);
CREATE TABLE audited (id int PRIMARY KEY, s text);
CREATE TABLE said (what text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO said VALUES (current_query()); RETURN NEW; END';
CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN RAISE WARNING ''committed %'', NEW.id; RETURN NEW; END';
CREATE VIEW seen AS SELECT id, s, 'new' AS kind FROM t;
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
INSERT INTO parts VALUES (1, '2020-05-05'), (2, '2021-05-05');
INSERT INTO t SELECT g, g, g * 1000000000::int8, g + 0.25, g, g * 1.5, 's' || g, 'v' || g, 'c' || g,
  ('00000000-0000-0000-0000-00000000000' || g)::uuid, '2020-01-01 00:00+00'::timestamptz + g * '1 day'::interval,
  '2020-01-01'::timestamp + g * '1 day'::interval, '2020-01-01'::date + g, g % 2 = 0,
  jsonb_build_object('a', g), 'sad', g * '1 hour'::interval, ('x' || g)::bytea, 'd' || g, g,
  '2020-01-01' FROM generate_series(1, 8) g;
INSERT INTO parent VALUES (1), (2);
ANALYZE;
";

struct Sides {
    proxy: Proxy,
    through: Wire,
    direct: Wire,
}

/// One server for the proxy, and the same on another database without it.
fn sides(name: &str, pool: &str) -> Sides {
    let names = [support::database(name), support::database(&format!("{name}_direct"))];
    let port = support::shared().primary_port(0);
    for name in &names {
        Wire::login(port, "app", "app", name).unwrap().run(SCHEMA);
    }
    let mut spec = ProxySpec::over(&[(port, vec![], names[0].clone())]);
    spec.pool = format!("size = 1\n{pool}");
    spec.health = "catalog_refresh = \"0s\"\n".to_owned();
    spec.database = "auto_prepare = true\n".to_owned();
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(1);
    let (through, direct) = (proxy.client(), Wire::login(port, "app", "app", &names[1]).unwrap());
    Sides { proxy, through, direct }
}

/// All frames up to ReadyForQuery. OIDs of tables differ from database to database, and so does the
/// position in the server's source of nothing.
fn frames(wire: &mut Wire, sql: &str) -> Vec<(char, String)> {
    frontend::query(&mut wire.out, sql.as_bytes());
    wire.send().unwrap();
    let mut all = Vec::new();
    loop {
        let (tag, mut frame) = wire.frame().unwrap();
        if tag == b'T' {
            mask_tables(&mut frame);
        }
        all.push((tag as char, String::from_utf8_lossy(&frame[5..]).replace('\0', "|")));
        if tag == b'Z' {
            return all;
        }
    }
}

fn mask_tables(frame: &mut [u8]) {
    let mut at = 7;
    while at < frame.len() {
        at += frame[at..].iter().position(|it| *it == 0).unwrap() + 1;
        frame[at..at + 4].fill(0);
        // Types made by users have OIDs of their own database.
        if frame[at + 6..at + 8] != [0, 0] || frame[at + 8] >= 0x40 {
            frame[at + 6..at + 10].fill(0);
        }
        at += 18;
    }
}

impl Sides {
    fn alike(&mut self, sql: &str) -> Vec<(char, String)> {
        let (direct, through) = (frames(&mut self.direct, sql), frames(&mut self.through, sql));
        assert_eq!(through, direct, "{sql}");
        direct
    }

    /// Statements that the idle server has prepared.
    fn prepared(&self) -> usize {
        self.proxy.show("SERVERS", "prepared")[0].parse().unwrap()
    }
}

/// Statements with a mark for a literal, the literals, and whether they make the server prepare one.
const STATEMENTS: &[(&str, &[&str], bool)] = &[
    ("SELECT * FROM t WHERE id = @", &["1", "2", "007", "99"], true),
    ("SELECT id, v, c, n, 1, 1.5 FROM t WHERE small = @;", &["1", "2", "3"], true),
    ("SELECT id FROM t WHERE @ < big ORDER BY 1", &["5", "3000000000", "-7", "- 7"], true),
    ("SELECT id FROM t WHERE id = @", &["2147483648", "9999999999999999999", "1.0", ".5e1"], true),
    ("SELECT id FROM t WHERE big <> @ ORDER BY id DESC LIMIT 3", &["1", "2"], true),
    ("SELECT id FROM t WHERE n >= @ ORDER BY id", &["3", "3.25", "3.2500", "1e0"], true),
    ("SELECT id FROM t WHERE f = @ OR r = @", &["3", "4.5", "0.1"], true),
    ("SELECT s FROM t WHERE s = @", &["'s1'", "'x1'", "''", "'it''s'", "'é'", "'a\n'\n'b'"], true),
    ("SELECT v FROM t WHERE v = @", &["'v1'", "'v1 '", "'too long a value'"], true),
    ("SELECT c FROM t WHERE c = @ AND NOT c = @", &["'c1'", "'c1 '", "'c1        '"], true),
    (
        "SELECT u FROM t WHERE u = @",
        &["'00000000-0000-0000-0000-000000000001'", "'{00000000000000000000000000000002}'"],
        true,
    ),
    (
        "SELECT id FROM t WHERE at > @ ORDER BY id",
        &["'2020-01-05'", "'2020-01-05 12:00+09'", "'infinity'", "'now'"],
        true,
    ),
    (
        "SELECT id FROM t WHERE ts BETWEEN @ AND '2020-01-06' ORDER BY id",
        &["'2020-01-03'", "'Jan 4 2020'"],
        true,
    ),
    ("SELECT id FROM t WHERE d NOT BETWEEN @ AND @", &["'2020-01-03'", "'epoch'"], true),
    ("SELECT id FROM t WHERE b = @ ORDER BY id", &["'t'", "'off'"], true),
    ("SELECT id FROM t WHERE j = @", &["'{\"a\": 3}'", "'{\"a\":3.0}'"], true),
    ("SELECT x FROM t WHERE x = @", &["'x1'", "''"], true),
    (
        "SELECT id FROM t WHERE id IN (@, 2, 3) AND s NOT IN ('s2', 's9') ORDER BY id",
        &["1", "4"],
        true,
    ),
    ("SELECT \"Odd name\" FROM t WHERE \"Odd name\" = @", &["1", "2"], true),
    ("SELECT count(*), sum(n), max(s) FROM t WHERE id > @ HAVING count(*) > 1", &["1", "7"], true),
    (
        "SELECT a.id, b.s FROM t a LEFT JOIN t AS b ON b.id = a.id + 1 WHERE a.id = @",
        &["1", "8"],
        true,
    ),
    ("SELECT id FROM t WHERE id = @ FOR UPDATE", &["1", "8"], true),
    ("SELECT DISTINCT b FROM t WHERE id > @ GROUP BY b ORDER BY b", &["1", "8"], true),
    ("SELECT id, coalesce(s, v) FROM t WHERE id = @ AND b IS NOT NULL", &["1", "8"], true),
    ("SELECT id FROM parts WHERE at = @", &["'2020-05-05'", "'2021-05-05'", "'2030-01-01'"], true),
    ("TABLE t", &[""], false),
    // Errors: of values, of types, at run time.
    // Known already: of a template that came before.
    (
        "SELECT u FROM t WHERE u = @",
        &["'no uuid'", "'00000000-0000-0000-0000-000000000003'"],
        false,
    ),
    ("SELECT at FROM t WHERE at = @", &["'yesterday-ish'", "'2020-02-30'"], true),
    ("SELECT id FROM t WHERE id = @", &["'x'", "'5'", "'99999999999'"], true),
    ("SELECT 10 / (id - 1) FROM t WHERE id = @", &["1", "2"], true),
    ("SELECT nothing FROM t WHERE id = @", &["1", "2"], false),
    ("SELECT id FROM t WHERE s = @", &["5", "6"], false),
    ("INSERT INTO t (id, v) VALUES (@, 'v')", &["1", "101", "101", "102"], true),
    ("INSERT INTO t (id, v) VALUES (200, @)", &["'longer than five'", "'v1   '"], false),
    ("INSERT INTO t (id, small) VALUES (201, @) RETURNING small", &["70000", "7"], true),
    (
        "INSERT INTO t (id, n) VALUES (202, @) ON CONFLICT (id) DO UPDATE SET n = @ RETURNING n",
        &["1.005", "123456789.5", "77"],
        true,
    ),
    ("INSERT INTO t (id, c, d, j) VALUES (203, @, '2020-01-01', NULL)", &["'abc'", "'abc'"], false),
    ("INSERT INTO t VALUES (@, 1, 2)", &["301", "302", "302"], true),
    ("INSERT INTO child VALUES (@, 1)", &["1", "2"], true),
    ("INSERT INTO child VALUES (10, @)", &["77", "78"], false),
    ("INSERT INTO numbered (s) VALUES (@) RETURNING *", &["'a'", "'b'"], true),
    ("UPDATE t SET n = n + @, s = 'x' WHERE id = 3", &["1", "0.5", "-2"], true),
    ("UPDATE t SET n = @ WHERE id = 3 RETURNING n", &["1", "99999999999", "1.239"], true),
    ("UPDATE t SET dom = 'abc', v = @ WHERE id = 3", &["'a'", "'b'"], false),
    ("UPDATE t SET at = @, made = now() WHERE id = 3", &["'2021-01-01'", "'nonsense'"], true),
    ("UPDATE parent SET id = id WHERE id = @", &["1", "99"], true),
    ("DELETE FROM parent WHERE id = @", &["1", "2"], true),
    ("DELETE FROM t WHERE id = @ RETURNING id, s", &["8", "8"], true),
    // What does not run prepared.
    ("SELECT id FROM t WHERE m = @", &["'sad'", "'glad'"], false),
    ("SELECT id FROM t WHERE iv = @", &["'1 hour'", "'1'"], false),
    ("SELECT id FROM t WHERE dom = @", &["'d1'", "'d22222'"], false),
    ("SELECT id FROM t WHERE s LIKE @ ORDER BY id", &["'s%'", "'x_'"], false),
    ("SELECT id FROM t WHERE s = @", &["E's\\x31'", "'s\\1'"], false),
    ("SELECT id FROM t WHERE at > now() - interval @", &["'1 day'", "'x'"], false),
    ("SELECT id FROM t ORDER BY @", &["1", "2", "'a'"], false),
    ("SELECT id, s FROM t GROUP BY @, 2 ORDER BY 1", &["1", "2"], false),
    ("SELECT id FROM t ORDER BY id LIMIT @", &["1", "0", "-1"], false),
    ("SELECT @", &["1", "'a'", "NULL", "1.0"], false),
    ("SELECT now() = statement_timestamp(), s FROM t WHERE id = @", &["1", "2"], false),
    ("SELECT s FROM seen WHERE id = @", &["1", "2"], false),
    ("SELECT '@'::regclass", &["t", "seen", "missing"], false),
    ("SELECT 'x' FROM t WHERE id = @", &["1", "2"], false),
    ("INSERT INTO audited VALUES (@, 'a')", &["1", "2"], false),
    ("UPDATE audited SET s = 'b' WHERE id = @", &["1", "2"], false),
    ("SELECT what FROM said WHERE what <> @", &["''", "'x'"], true),
    ("SELECT id FROM missing WHERE id = @", &["1", "2"], false),
    ("SELECT id FROM t WHERE id = @; SELECT 2", &["1", "2"], false),
    ("SELECT id FROM t WHERE id = NULL OR id = @", &["1", "2"], false),
    ("SELECT id FROM t WHERE id = @ -- why", &["1", "2"], false),
];

#[test]
fn every_byte_is_as_direct() {
    let mut sides = sides("spliced", "");
    let mut wrong = Vec::new();
    for (template, literals, is_prepared) in STATEMENTS {
        let before = sides.prepared();
        for _ in 0..2 {
            for literal in *literals {
                sides.alike(&template.replace('@', literal));
            }
        }
        let more = sides.prepared() - before;
        if (more > 0) != *is_prepared {
            wrong.push(format!("{template}: {more} prepared"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_transaction_runs_them_as_they_are() {
    let mut sides = sides("spliced_block", "");
    let sql = "SELECT s FROM t WHERE id = 1";
    for sql in ["BEGIN", sql, sql, "SELECT u FROM t WHERE u = 'x'", sql, "ROLLBACK"] {
        sides.alike(sql);
    }
    assert_eq!(sides.prepared(), 0);
    sides.alike("CREATE TEMP TABLE t (id int, s text)");
    sides.alike("INSERT INTO t VALUES (1, 'temporary')");
    assert_eq!(sides.alike(sql)[1].1, "|\u{1}|||\u{9}temporary");
}

#[test]
fn sessions_differ() {
    let mut sides = sides("spliced_sessions", "");
    let sql = "SELECT id, at FROM t WHERE at > '2/1/2020' AND at < '2020-01-08 03:00' ORDER BY id";
    let mut others = (sides.proxy.client(), {
        let port = support::shared().primary_port(0);
        let name = sides.direct.run("SELECT current_database()").first();
        Wire::login(port, "app", "app", &name).unwrap()
    });
    for setting in ["DateStyle = 'ISO, DMY'", "TimeZone = 'Asia/Tokyo'", "TimeZone = 'UTC'"] {
        sides.alike(&format!("SET {setting}"));
        sides.alike(sql);
        assert_eq!(frames(&mut others.0, sql), frames(&mut others.1, sql));
    }
    assert_eq!(sides.prepared(), 1);
    // Another role may not see the same names.
    sides.alike("SET ROLE app");
    sides.alike("SELECT s FROM t WHERE id = 1");
    assert_eq!(sides.prepared(), 1);
}

#[test]
fn the_commit_comes_before_the_tag() {
    let mut sides = sides("spliced_commit", "");
    sides.alike(
        "CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION tell()",
    );
    for (sql, tags) in [
        ("INSERT INTO child VALUES (1, 1) RETURNING id", "TDNCZ"),
        ("INSERT INTO child VALUES (2, 99) RETURNING id", "TDEZ"),
        ("INSERT INTO child VALUES (3, 2)", "NCZ"),
    ] {
        let answer = sides.alike(sql);
        assert_eq!(answer.iter().map(|it| it.0).collect::<String>(), tags, "{sql}");
    }
    assert_eq!(sides.alike("SELECT count(*) FROM child WHERE id > 0")[1].1, "|\u{1}|||\u{1}2");
}

#[test]
fn a_changed_schema_is_seen() {
    let mut sides = sides("spliced_schema", "");
    let sql = "SELECT * FROM numbered WHERE s = 'a'";
    sides.alike("INSERT INTO numbered (s) VALUES ('a')");
    sides.alike(sql);
    sides.alike(sql);
    // Through the proxy.
    sides.alike("ALTER TABLE numbered ADD COLUMN more int DEFAULT 5");
    sides.alike(sql);
    sides.alike("ALTER TABLE numbered ALTER COLUMN s TYPE varchar(10)");
    sides.alike(sql);
    // Past it: the statement no longer fits and goes as it is.
    let name = sides.through.run("SELECT current_database()").first();
    let (sql_direct, node) =
        ("ALTER TABLE numbered ADD COLUMN past int DEFAULT 6", Node::Primary(0));
    support::shared().sql(node, &name, sql_direct).unwrap();
    sides.direct.run(sql_direct);
    sides.alike(sql);
    sides.alike(sql);
    for wire in [&mut sides.through, &mut sides.direct] {
        wire.run("DEALLOCATE ALL");
    }
    sides.alike(sql);
    sides.alike("DROP TABLE numbered");
    sides.alike(sql);
}
