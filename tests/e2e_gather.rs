//! Statements over several shards that one server, or one moment, decides.
#![allow(clippy::unwrap_used)]

mod support;

use pgsluice::wire::frontend;
use support::proxy::Proxy;
use support::wire::{Answer, Arguments, Wire};

/// A proxy over four shards with a table whose rows are dated, under these lines of `[limits]`.
fn filled(name: &str, limits: &str) -> (Proxy, Wire) {
    let (mut spec, _) = support::four_shards(name);
    spec.limits.push_str(limits);
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE t (tenant_id bigint, id int, at timestamptz DEFAULT now(), day date DEFAULT CURRENT_DATE, note text, PRIMARY KEY (tenant_id, id))");
    (proxy, client)
}

#[test]
fn rows_of_one_statement_have_one_time() {
    let (_proxy, mut client) = filled("one_time", "");
    let rows: Vec<String> = (1..=40).map(|it| format!("({it}, 1, 'it''s')")).collect();
    let insert = format!("INSERT INTO t (tenant_id, id, note) VALUES {}", rows.join(", "));
    assert_eq!(client.run(&insert).tags, ["INSERT 0 40"]);
    let times = "SELECT count(DISTINCT at) || ' ' || count(day) || ' ' || count(*) FROM t WHERE at <= now() AND id = ";
    assert_eq!(client.run(&format!("{times}1")).first(), "1 40 40");
    let lines: String = (1..=40).map(|it| format!("{it}\t2\ta\\tb\n")).collect();
    let copied = client.copy("COPY t (tenant_id, id, note) FROM STDIN", lines.as_bytes());
    assert_eq!(copied.tags, ["COPY 40"]);
    assert_eq!(client.run(&format!("{times}2")).first(), "1 40 40");
    let lines: String = (1..=40).map(|it| format!("{it},3,\"a,b\"\r\n")).collect();
    let copy = "COPY t (tenant_id, id, note) FROM STDIN (FORMAT csv, HEADER)";
    let copied = client.copy(copy, format!("tenant_id,id,note\r\n{lines}").as_bytes());
    assert_eq!((copied.error, copied.tags), (None, vec!["COPY 40".to_owned()]));
    assert_eq!(client.run(&format!("{times}3")).first(), "1 40 40");
    let notes = client.run("SELECT count(*) FROM t WHERE note IN ('it''s', E'a\\tb', 'a,b')");
    assert_eq!(notes.first(), "120");
    client.run("UPDATE t SET at = now()");
    assert_eq!(client.run("SELECT count(DISTINCT at) FROM t").first(), "1");
}

#[test]
fn what_is_too_much_is_told_and_harms_nobody() {
    let more = "gather_max_rows = 50\ngather_max_bytes = \"64KiB\"\n";
    let (_proxy, mut client) = filled("too_much", more);
    let rows: Vec<String> = (1..=40).map(|it| format!("({it}, 1, repeat('x', 900))")).collect();
    client.run(&format!("INSERT INTO t (tenant_id, id, note) VALUES {}", rows.join(", ")));
    assert_eq!(client.run("SELECT count(DISTINCT note) FROM t").first(), "1");
    let copied = "INSERT INTO t SELECT tenant_id, 2, at, day, repeat('y', 900) FROM t";
    assert_eq!(client.run(copied).tags, ["INSERT 0 40"]);
    assert_eq!(client.query("SELECT count(DISTINCT id) FROM t").code(), "53400");
    assert_eq!(client.query("SELECT count(DISTINCT note) FROM t WHERE id = 2").code(), "");
    client.run("UPDATE t SET note = repeat(note, 3)");
    assert_eq!(client.query("SELECT count(DISTINCT note) FROM t WHERE id = 2").code(), "53400");
    client.run("BEGIN");
    assert_eq!(client.query("SELECT count(DISTINCT id) FROM t").code(), "53400");
    assert_eq!(client.query("SELECT 1").code(), "25P02");
    client.run("ROLLBACK");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "80");
}

#[test]
fn statements_see_the_writes_of_their_transaction() {
    let (proxy, mut client) = filled("own_writes", "");
    client.run("BEGIN");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 1), (3, 1), (4, 7)");
    assert_eq!(client.run("SELECT avg(id)::text FROM t").first(), "2.5000000000000000");
    let none = proxy.client().run("SELECT count(DISTINCT id) FROM t").first();
    assert_eq!(none, "0");
    client.run("UPDATE t SET note = 'most' WHERE id = (SELECT max(id) FROM t)");
    client.run("COMMIT");
    let most = "SELECT string_agg(tenant_id::text, ',' ORDER BY tenant_id) FROM t WHERE note = $1";
    let values = [Some(b"most".to_vec())];
    let arguments = Arguments { types: &[25], values: &values, format: 0 };
    assert_eq!(client.extended(most, &arguments).first(), "4");
}

#[test]
fn large_statements_leave_settings_as_they_were() {
    let (_proxy, mut client) = filled("large", "");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 1), (3, 1)");
    client.run("INSERT INTO t SELECT tenant_id, n, at, day, repeat(n::text, 100) FROM t, generate_series(2, 6000) n");
    let settings = "SELECT current_setting('work_mem') || current_setting('enable_mergejoin') \
        || current_setting('enable_nestloop') || current_setting('jit')";
    let before = client.run(settings).first();
    for block in ["", "BEGIN"] {
        client.run(block);
        assert_eq!(client.run("SELECT count(DISTINCT note) FROM t").first(), "5999");
        assert_eq!(client.run(settings).first(), before);
        let joined = "SELECT count(DISTINCT (t.id, t.note, t.day, t.tenant_id)) FROM t JOIN t o ON o.id = t.id \
            AND o.note = t.note AND o.day IS NOT DISTINCT FROM t.day AND o.tenant_id + 0 = t.tenant_id + 0";
        assert_eq!(client.run(joined).first(), "17997");
        assert_eq!(client.run(settings).first(), before);
    }
    let update = "UPDATE t SET day = NULL WHERE note = (SELECT max(note) FROM t)";
    assert_eq!(client.run(update).tags, ["UPDATE 3"]);
    assert_eq!(client.run(settings).first(), before);
    client.run("COMMIT");
}

/// Parse, Bind, Execute of so many rows, Sync.
fn limited(client: &mut Wire, sql: &str, rows: i32) -> (Answer, Vec<String>) {
    frontend::parse(&mut client.out, b"", sql.as_bytes(), []);
    frontend::bind(&mut client.out, b"", &[], 0);
    frontend::execute(&mut client.out, b"", rows);
    frontend::sync(&mut client.out);
    let answer = client.answer(b"");
    let firsts = answer.rows.iter().map(text_of).collect();
    (answer, firsts)
}

#[test]
fn execute_gives_as_many_rows_as_it_asks_for() {
    let (_proxy, mut client) = filled("limited", "");
    let rows: Vec<String> = (1..=30).map(|it| format!("({it}, {})", it % 3)).collect();
    client.run(&format!("INSERT INTO t (tenant_id, id) VALUES {}", rows.join(", ")));
    for (sql, rows, expected) in [
        ("SELECT tenant_id FROM t ORDER BY 1", 1, &["1"][..]),
        ("SELECT tenant_id FROM t ORDER BY 1 DESC OFFSET 2", 3, &["28", "27", "26"]),
        ("SELECT tenant_id FROM t ORDER BY 1 LIMIT 2", 5, &["1", "2"]),
        ("SELECT DISTINCT id FROM t ORDER BY 1", 2, &["0", "1"]),
        ("SELECT id, count(*) FROM t GROUP BY 1 ORDER BY 1", 2, &["0", "1"]),
        ("SELECT count(*) FROM t", 1, &["30"]),
        ("SELECT round(avg(id), 1) FROM t", 1, &["1.0"]),
        ("SELECT a.tenant_id FROM t a JOIN t b ON b.tenant_id = a.id ORDER BY 1", 2, &["1", "2"]),
    ] {
        let (answer, firsts) = limited(&mut client, sql, rows);
        assert_eq!(
            (answer.error, firsts.iter().map(String::as_str).collect()),
            (None, expected.to_vec()),
            "{sql}"
        );
        // A portal that may have more ends without CommandComplete.
        assert_eq!(answer.tags.len(), usize::from(firsts.len() < rows as usize), "{sql}");
    }
    client.run("BEGIN");
    let (_, first) = limited(&mut client, "SELECT tenant_id FROM t ORDER BY 1", 1);
    assert_eq!(first, ["1"]);
    frontend::execute(&mut client.out, b"", 0);
    frontend::sync(&mut client.out);
    assert_eq!(client.answer(b"").code(), "0A000");
    client.run("ROLLBACK");
    assert_eq!(client.run("SELECT count(*) FROM t").first(), "30");
}

#[test]
fn settings_made_by_set_config_reach_every_shard() {
    let (_proxy, mut client) = filled("set_config", "");
    let told = |client: &mut Wire| -> Vec<String> {
        let sql = "SELECT DISTINCT current_setting('app.tenant', true) FROM t WHERE tenant_id = ";
        (1..=8).map(|it| client.run(&format!("{sql}{it}")).first()).collect()
    };
    let rows: Vec<String> = (1..=8).map(|it| format!("({it}, 1)")).collect();
    client.run(&format!("INSERT INTO t (tenant_id, id) VALUES {}", rows.join(", ")));
    client.run("BEGIN");
    client.run("UPDATE t SET id = 2 WHERE tenant_id IN (1, 2, 3)");
    let values = [Some(b"a'b".to_vec())];
    let arguments = Arguments { types: &[25], values: &values, format: 0 };
    let answer = client.extended("SELECT set_config('app.tenant', $1, true) AS x, 7", &arguments);
    assert_eq!((answer.first(), answer.rows[0][1].as_deref()), ("a'b".to_owned(), Some(&b"7"[..])));
    assert_eq!(told(&mut client), ["a'b"; 8]);
    client.run("COMMIT");
    assert_eq!(told(&mut client), [""; 8]);
    let answer = client.extended("SELECT set_config('app.tenant', $1, false)", &arguments);
    assert_eq!(answer.first(), "a'b");
    assert_eq!(told(&mut client), ["a'b"; 8]);
    client.run("SELECT set_config('app.tenant', 'c', false); SELECT 1");
    assert_eq!(told(&mut client), ["c"; 8]);
}

/// Two blocks that wait for each other over two shards: the answers of the second updates.
fn in_a_circle(mut a: Wire, mut b: Wire) -> [Answer; 2] {
    a.run("BEGIN");
    b.run("BEGIN");
    // Tenants of different shards.
    a.run("UPDATE t SET note = 'a' WHERE tenant_id = 1");
    b.run("UPDATE t SET note = 'b' WHERE tenant_id = 6");
    let waits = std::thread::spawn(move || {
        let answer = a.query("UPDATE t SET note = 'a' WHERE tenant_id = 6");
        a.query(if answer.error.is_none() { "COMMIT" } else { "ROLLBACK" });
        answer
    });
    let answer = b.query("UPDATE t SET note = 'b' WHERE tenant_id = 1");
    b.query(if answer.error.is_none() { "COMMIT" } else { "ROLLBACK" });
    [waits.join().unwrap(), answer]
}

#[test]
fn a_deadlock_over_two_shards_ends_one_of_the_transactions() {
    let (mut spec, _) = support::four_shards("deadlock");
    spec.limits.push_str("query_timeout = \"60s\"\n");
    let (one, other) = (Proxy::start(spec.clone()), Proxy::start(spec));
    let mut client = one.client();
    client.run("CREATE TABLE t (tenant_id bigint PRIMARY KEY, note text)");
    client.run("INSERT INTO t VALUES (1), (6)");
    // What another proxy wrote, a replica may show late.
    client.run("SET sluice.role = 'primary'");
    for (first, second) in [(&one, &one), (&one, &other)] {
        let answers = in_a_circle(first.client(), second.client());
        let codes = answers.each_ref().map(Answer::code);
        assert!(matches!(codes, ["40P01", ""] | ["", "40P01"]), "{codes:?}");
        assert!(answers.iter().any(|it| it.detail.contains("on shards")));
        let notes = client.run("SELECT count(DISTINCT note) FROM t WHERE note IS NOT NULL");
        assert_eq!(notes.first(), "1");
    }
}

#[test]
fn explain_shows_every_shard() {
    let (_proxy, mut client) = filled("explain", "");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 2), (3, 3), (6, 4)");
    for (sql, top) in [
        ("SELECT id FROM t ORDER BY id LIMIT 1", "Merge: "),
        ("SELECT count(DISTINCT id) FROM t WHERE at <= now()", "Home shard over "),
        ("UPDATE t SET note = 'explained' WHERE id > 0", "Each shard over its own rows"),
    ] {
        for how in ["EXPLAIN", "EXPLAIN (ANALYZE, COSTS off)"] {
            let answer = client.run(&format!("{how} {sql}"));
            let lines: Vec<String> = answer.rows.iter().map(text_of).collect();
            assert_eq!(
                (answer.tags[0].as_str(), answer.columns[0].0.as_str()),
                ("EXPLAIN", "QUERY PLAN")
            );
            assert!(lines[0].starts_with(top), "{lines:?}");
            for shard in 0..4 {
                assert!(lines.contains(&format!("  ->  Shard {shard}")), "{lines:?}");
            }
            let ran = lines.iter().any(|it| it.contains("actual"));
            assert_eq!(ran, how.contains("ANALYZE"), "{lines:?}");
        }
    }
    let values = [Some(b"2".to_vec())];
    let arguments = Arguments { types: &[], values: &values, format: 0 };
    let answer =
        client.extended("EXPLAIN SELECT sum(DISTINCT id) FROM t WHERE id > $1", &arguments);
    assert_eq!((answer.error, answer.tags), (None, vec!["EXPLAIN".to_owned()]));
    let notes = client.run("SELECT count(*) FROM t WHERE note = 'explained'");
    assert_eq!(notes.first(), "4");
    let json = client.query("EXPLAIN (FORMAT json) SELECT count(*) FROM t");
    assert_eq!(json.code(), "0A000");
}

/// The first value of a row.
fn text_of(row: impl AsRef<[Option<Vec<u8>>]>) -> String {
    String::from_utf8_lossy(row.as_ref()[0].as_deref().unwrap_or_default()).into_owned()
}

#[test]
fn binary_copies_are_one_stream() {
    let (_proxy, mut client) = filled("binary", "");
    client.run("CREATE TABLE other (LIKE t INCLUDING ALL)");
    for rows in [0, 1, 40] {
        client.run("DELETE FROM t");
        client.run("DELETE FROM other");
        client.run(&format!("INSERT INTO t SELECT n, n, now(), NULL, repeat('x', n) FROM generate_series(1, {rows}) n"));
        let out = client.query("COPY t TO STDOUT (FORMAT binary)");
        assert_eq!((out.error, out.tags), (None, vec![format!("COPY {rows}")]));
        assert!(out.copied.starts_with(b"PGCOPY\n\xff\r\n\0") && out.copied.ends_with(b"\xff\xff"));
        let back = client.copy("COPY other FROM STDIN (FORMAT binary)", &out.copied);
        assert_eq!((back.error, back.tags), (None, vec![format!("COPY {rows}")]));
        let same = "SELECT count(*) FROM t JOIN other o USING (tenant_id, id) WHERE o.note = t.note AND o.at = t.at";
        assert_eq!(client.run(same).first(), rows.to_string());
    }
}

#[test]
fn rows_that_would_not_move_alike_stay() {
    let (_proxy, mut client) = filled("stay", "");
    client.run("INSERT INTO t (tenant_id, id) VALUES (1, 1), (2, 1), (6, 1)");
    let update = "UPDATE t SET tenant_id = tenant_id + 10, note = 'moved'";
    for (made, undone, why) in [
        (
            "CREATE TABLE child (tenant_id bigint, t_id int, FOREIGN KEY (tenant_id, t_id) REFERENCES t ON DELETE CASCADE)",
            "DROP TABLE child",
            "a foreign key of child",
        ),
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
            "row-level security",
        ),
    ] {
        client.run(made);
        let refused = client.query(update);
        assert_eq!(refused.code(), "0A000", "{made}");
        assert!(refused.detail.contains(why), "{}", refused.detail);
        client.run(undone);
    }
    assert_eq!(client.run("SELECT count(*) FROM t WHERE note IS NULL").first(), "3");
    assert_eq!(client.run(update).tags, ["UPDATE 3"]);
    // Two statements in one string are one transaction: the error undoes the move.
    let both = client.query("UPDATE t SET tenant_id = tenant_id + 100; SELECT 1 / 0");
    assert_eq!(both.code(), "22012");
    assert_eq!(client.run("SELECT max(tenant_id) FROM t WHERE note = 'moved'").first(), "16");
}

#[test]
fn cursors_are_fetched_from_by_either_protocol_and_outlive_their_transactions() {
    let (proxy, mut client) = filled("cursors", "gather_max_rows = 100\n");
    let rows: Vec<String> = (1..=30).map(|it| format!("({it}, {})", it % 3)).collect();
    client.run(&format!("INSERT INTO t (tenant_id, id) VALUES {}", rows.join(", ")));
    let plain = |format| Arguments { types: &[], values: &[], format };
    let number = |format: i16, it: i64| match format {
        0 => it.to_string().into_bytes(),
        _ => it.to_be_bytes().to_vec(),
    };
    client.run("BEGIN");
    let declare =
        "DECLARE c SCROLL CURSOR FOR SELECT tenant_id, avg(id) FROM t GROUP BY 1 ORDER BY 1 DESC";
    assert_eq!(client.extended(declare, &plain(0)).tags, ["DECLARE CURSOR"]);
    for (format, fetch, expected) in [
        (0, "FETCH 2 FROM c", &[30, 29][..]),
        (1, "FETCH 2 FROM c", &[28, 27]),
        (1, "FETCH PRIOR FROM c", &[28]),
        (0, "FETCH ABSOLUTE -1 FROM c", &[1]),
    ] {
        let answer = client.extended(fetch, &plain(format));
        let seen: Vec<_> = answer.rows.iter().map(|it| it[0].clone().unwrap()).collect();
        let expected: Vec<_> = expected.iter().map(|it| number(format, *it)).collect();
        assert_eq!((answer.error, seen), (None, expected), "{fetch}");
        assert_eq!(answer.columns[0], ("tenant_id".to_owned(), 20));
    }
    assert_eq!(client.extended("MOVE FIRST IN c", &plain(0)).tags, ["MOVE 1"]);
    assert_eq!(client.run("FETCH c").first(), "29");
    assert_eq!(client.extended("CLOSE c", &plain(0)).tags, ["CLOSE CURSOR"]);
    assert_eq!(client.extended("FETCH c", &plain(0)).code(), "34000");
    client.run("ROLLBACK");
    // Cursors on other servers than the home shard's stay when one of its own is closed.
    let held = "DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT tenant_id FROM t ORDER BY 1";
    assert_eq!(client.extended(held, &plain(1)).tags, ["DECLARE CURSOR"]);
    for tenant in 1..=8 {
        client.run(&format!(
            "DECLARE h{tenant} CURSOR WITH HOLD FOR SELECT tenant_id FROM t WHERE tenant_id = {tenant}"
        ));
    }
    assert_eq!(client.query("DECLARE h1 CURSOR WITH HOLD FOR SELECT 1 FROM t").code(), "42P03");
    client.run("UPDATE t SET tenant_id = tenant_id + 100");
    assert_eq!(client.run("FETCH ABSOLUTE 30 FROM h").first(), "30");
    assert_eq!(
        client.extended("FETCH PRIOR FROM h", &plain(1)).first().into_bytes(),
        number(1, 29)
    );
    client.run("CLOSE h");
    for tenant in 1..=8 {
        assert_eq!(client.run(&format!("FETCH h{tenant}")).first(), tenant.to_string());
    }
    client.run("CLOSE ALL");
    assert_eq!(client.query("FETCH h1").code(), "34000");
    // Rows that cannot be computed fail the whole block, wherever it has written.
    for tenant in 1..=8 {
        client.run("BEGIN");
        client.run(&format!("INSERT INTO t (tenant_id, id) VALUES ({tenant}, 999)"));
        client.run("DECLARE f CURSOR WITH HOLD FOR SELECT 1 / (id - 1) FROM t ORDER BY tenant_id");
        assert_eq!(client.query("COMMIT").code(), "22012");
        assert_eq!(client.query("FETCH f").code(), "34000");
    }
    assert_eq!(client.run("SELECT count(*) FROM t WHERE id = 999").first(), "0");
    assert!(proxy.show("CLIENTS", "pinned").iter().all(String::is_empty));
    // What is too much is told at once, and costs the others nothing.
    client
        .run("INSERT INTO t SELECT tenant_id, n, at, day, note FROM t, generate_series(10, 20) n");
    client.run("BEGIN");
    assert_eq!(client.query("DECLARE c SCROLL CURSOR FOR SELECT id FROM t").code(), "53400");
    client.run("ROLLBACK");
    drop(client);
    let mut other = proxy.client();
    assert_eq!(other.query("FETCH h1").code(), "34000");
}

#[test]
fn what_is_shipped_in_two_steps_is_of_one_snapshot() {
    let (proxy, mut client) = filled("two_steps", "");
    client.run("CREATE TABLE k (tenant_id bigint PRIMARY KEY, note text)");
    client.run("INSERT INTO k VALUES (1, 'a')");
    client.run("INSERT INTO t (tenant_id, id, note) SELECT 1, n, 'a' FROM generate_series(1, 5) n");
    let counted = "SELECT count(DISTINCT id) FROM t WHERE note IN (SELECT note FROM k)";
    let plan = client.run(&format!("EXPLAIN (SLUICE) {counted}")).rows.len();
    assert!(plan > 2);
    let mut writer = proxy.client();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let writes = std::thread::spawn(move || {
        for note in ["b", "a"].into_iter().cycle() {
            if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            let change = |table| format!("UPDATE {table} SET note = '{note}' WHERE tenant_id = 1");
            writer.run(&format!("BEGIN; {}; {}; COMMIT", change("k"), change("t")));
        }
    });
    let counts: Vec<String> = (0..300).map(|_| client.run(counted).first()).collect();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writes.join().unwrap();
    assert!(counts.iter().all(|it| it == "5"), "{counts:?}");
    // Inside of a block each statement has a snapshot of its own: all is shipped at once.
    client.run("BEGIN");
    assert_eq!(client.run(counted).first(), "5");
    client.run("COMMIT");
    // Nor does what a pipeline goes on with see the snapshot.
    for flushes in [false, true] {
        for sql in [counted, "SHOW transaction_isolation", "SELECT 1"] {
            frontend::parse(&mut client.out, b"", sql.as_bytes(), []);
            frontend::bind(&mut client.out, b"", &[], 0);
            frontend::execute(&mut client.out, b"", 0);
            if flushes {
                frontend::flush(&mut client.out);
            }
        }
        frontend::sync(&mut client.out);
        let answer = client.answer(b"");
        let firsts: Vec<String> = answer.rows.iter().map(text_of).collect();
        assert_eq!(firsts, ["5", "read committed", "1"], "{flushes}");
    }
    let level =
        counted.replace("(DISTINCT id)", "(DISTINCT id), current_setting('transaction_isolation')");
    let answer = client.run(&level);
    assert_eq!(answer.rows[0][1].as_deref(), Some(&b"read committed"[..]));
}

#[test]
fn create_table_as_fills_the_table_that_it_makes() {
    let (_proxy, mut client) = filled("create_as", "");
    client.run("INSERT INTO t (tenant_id, id) SELECT n, n FROM generate_series(1, 20) n");
    client.run("CREATE SCHEMA later; SET search_path = public, later");
    // Of the names that it could be, it is none.
    client.run("CREATE TABLE later.own (x int); CREATE TEMP TABLE own (a bigint, b int)");
    let made = "CREATE TABLE IF NOT EXISTS own AS SELECT tenant_id, id FROM t";
    assert_eq!(client.run(made).tags, ["SELECT 20"]);
    assert_eq!(client.run(made).tags, ["CREATE TABLE AS"]);
    let counts = ["public.own", "pg_temp.own", "later.own"]
        .map(|it| client.run(&format!("SELECT count(*) FROM {it}")).first());
    assert_eq!(counts, ["20", "0", "0"]);
    client.run("SET search_path = nowhere");
    let none = client.query("CREATE TABLE own AS SELECT tenant_id, id FROM public.t");
    assert_eq!(none.code(), "3F000");
}
