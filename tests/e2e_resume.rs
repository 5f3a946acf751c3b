//! `resume_transactions`: blocks whose server is lost at any moment go on where the client was told nothing
//! that would now be otherwise, and fail where it was; none is committed twice.
#![allow(clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use pgsluice::playground::Node;
use pgsluice::wire::frontend::{self, Target};
use support::proxy::{Proxy, ProxySpec, wait_for};
use support::relay::{At, Fate, Relay, Side, Trap};
use support::wire::{Answer, Arguments, Wire};

/// A tenant of each shard.
const TENANTS: [u32; 2] = [1, 6];

/// A proxy whose way to each shard is a relay.
struct Site {
    database: String,
    proxy: Proxy,
    shards: Vec<Relay>,
}

impl Site {
    fn new(name: &str, shards: usize) -> Self {
        Self::with(name, shards, "")
    }

    fn with(name: &str, shards: usize, limits: &str) -> Self {
        let database = support::database(name);
        let relay = |it| Relay::start(support::shared().primary_port(it));
        let shards: Vec<Relay> = (0..shards).map(relay).collect();
        let place = |it: &Relay| (it.port, Vec::new(), database.clone());
        let spec = ProxySpec::over(&shards.iter().map(place).collect::<Vec<_>>());
        let proxy = Proxy::start(ProxySpec {
            database: format!(
                "{}resume_transactions = true\nfailover_wait = \"5s\"\n",
                spec.database
            ),
            limits: limits.to_owned(),
            parameters: "?sslmode=disable".to_owned(),
            ..spec
        });
        let mut client = proxy.client();
        client.run("CREATE TABLE t (tenant_id bigint, k int, n int)");
        let site = Self { database, proxy, shards };
        site.client();
        site
    }

    fn client(&self) -> Wire {
        let client = self.proxy.client();
        client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    /// A value on a shard's server, not by the proxy.
    fn value(&self, shard: usize, sql: &str) -> String {
        let rows = support::shared().sql(Node::Primary(shard), &self.database, sql).unwrap();
        rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
    }

    /// Rows that are there, by tenant.
    fn rows(&self, k: usize) -> Vec<String> {
        let sql = format!(
            "SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM t WHERE k = {k}"
        );
        (0..self.shards.len()).map(|it| self.value(it, &sql)).collect()
    }

    /// Ends every connection to the servers that a transaction uses.
    fn cut(&self) {
        self.shards.iter().for_each(Relay::cut);
    }

    /// How often transactions went on, and could not.
    fn resumes(&self) -> [f64; 2] {
        let (_, page) = self.proxy.page("/metrics");
        ["resumed", "failed"].map(|outcome| {
            let start = format!("sluice_resumes_total{{database=\"app\",outcome=\"{outcome}\"}} ");
            let found = page.lines().find_map(|it| it.strip_prefix(&start));
            found.unwrap().parse().unwrap()
        })
    }
}

/// What a client says in a block, in full; `k` marks its rows.
type Conversation = fn(&mut Wire, usize) -> Vec<Answer>;

fn simple(client: &mut Wire, k: usize) -> Vec<Answer> {
    let [one, two] = TENANTS;
    let said = [
        "BEGIN".to_owned(),
        format!("INSERT INTO t VALUES ({one}, {k}, 1)"),
        format!("SELECT n FROM t WHERE tenant_id = {one} AND k = {k}"),
        format!("INSERT INTO t VALUES ({two}, {k}, 2) RETURNING n"),
        format!("UPDATE t SET n = n + 10 WHERE tenant_id = {one} AND k = {k}"),
        "COMMIT".to_owned(),
    ];
    said.iter().map(|it| client.query(it)).collect()
}

/// Settings, savepoints, errors, a prepared statement.
fn with_state(client: &mut Wire, k: usize) -> Vec<Answer> {
    let [one, _] = TENANTS;
    let said = [
        "BEGIN".to_owned(),
        "SET LOCAL TimeZone = 'Asia/Tokyo'".to_owned(),
        format!("PREPARE p{k} AS SELECT count(*) FROM t WHERE tenant_id = {one} AND k = $1"),
        format!("INSERT INTO t VALUES ({one}, {k}, 1)"),
        "SAVEPOINT s".to_owned(),
        format!("INSERT INTO t VALUES ({one}, {k}, 1 / 0)"),
        "ROLLBACK TO s".to_owned(),
        "SHOW TimeZone".to_owned(),
        format!("EXECUTE p{k}({k})"),
        "COMMIT".to_owned(),
        // It outlives the block.
        format!("DEALLOCATE p{k}"),
    ];
    said.iter().map(|it| client.query(it)).collect()
}

/// BEGIN in one batch with the first statement, named statements and portals, rows in parts.
fn extended(client: &mut Wire, k: usize) -> Vec<Answer> {
    let tenant = TENANTS[0].to_string().into_bytes();
    let (k, name) = (k.to_string().into_bytes(), format!("insert{k}").into_bytes());
    let begin = |client: &mut Wire| {
        frontend::parse(&mut client.out, b"", b"BEGIN", []);
        frontend::bind(&mut client.out, b"", &[], 0);
        frontend::execute(&mut client.out, b"", 0);
    };
    begin(client);
    frontend::parse(
        &mut client.out,
        &name,
        b"INSERT INTO t VALUES ($1, $2, 1) RETURNING n",
        [20, 23],
    );
    frontend::describe(&mut client.out, Target::Statement, &name);
    frontend::sync(&mut client.out);
    let mut answers = vec![client.answer(b"")];
    for _ in 0..2 {
        let values = [Some(&tenant[..]), Some(&k[..])];
        frontend::bind(&mut client.out, &name, &values, 0);
        frontend::execute(&mut client.out, b"", 0);
        frontend::sync(&mut client.out);
        answers.push(client.answer(b""));
    }
    let values = [Some(tenant), Some(k)];
    let arguments = Arguments { types: &[20, 23], values: &values, format: 0 };
    let sql = "SELECT n FROM t WHERE tenant_id = $1 AND k = $2";
    answers.push(client.extended(sql, &arguments));
    frontend::close(&mut client.out, Target::Statement, &name);
    frontend::sync(&mut client.out);
    answers.push(client.answer(b""));
    answers.push(client.extended("COMMIT", &Arguments::default()));
    answers
}

/// A copy amid others, and requests sent ahead of their answers.
fn copy_and_pipeline(client: &mut Wire, k: usize) -> Vec<Answer> {
    let [one, _] = TENANTS;
    let mut answers = vec![client.query("BEGIN")];
    let data = format!("{one}\t{k}\t1\n{one}\t{k}\t2\n");
    answers.push(client.copy("COPY t FROM STDIN", data.as_bytes()));
    let count = format!("SELECT count(*) FROM t WHERE tenant_id = {one} AND k = {k}");
    let update = format!("UPDATE t SET n = n * 10 WHERE tenant_id = {one} AND k = {k}");
    for sql in [&count, &update, &count, "COMMIT"] {
        frontend::query(&mut client.out, sql.as_bytes());
    }
    answers.extend((0..4).map(|_| client.answer(b"")));
    answers
}

/// Cuts the conversation before every message of either side, on every relay.
fn cut_everywhere(name: &str, shards: usize, say: Conversation) {
    let site = Site::new(name, shards);
    let (mut client, mut k) = (site.client(), 0);
    let (whole, left) = (say(&mut client, 0), site.rows(0));
    assert!(left.iter().any(|it| !it.is_empty()), "{whole:?}");
    let mut doubts = Vec::new();
    for (at, relay) in site.shards.iter().enumerate() {
        for of in [Side::Client, Side::Server] {
            for message in 0.. {
                let then = if message % 2 == 0 { Fate::Close } else { Fate::Reset };
                relay.trap(Trap { of, at: At::Message(message), then });
                k += 1;
                let answers = say(&mut client, k);
                let is_over = !relay.has_sprung();
                relay.disarm();
                let what = format!("shard {at}, {of:?} {then:?} before {message}, k = {k}");
                if answers.iter().any(|it| it.code() == "08007") {
                    doubts.push((k, what));
                    client = site.client();
                } else {
                    assert_eq!(plain(&answers), plain(&whole), "{what}");
                    assert_eq!(site.rows(k), left, "{what}");
                }
                if is_over {
                    break;
                }
            }
        }
    }
    let [resumed, failed] = site.resumes();
    println!(
        "{name}: {k} conversations, {resumed} resumed, {failed} not, {} in doubt",
        doubts.len()
    );
    assert!(resumed >= 8.0 && failed == 0.0, "{resumed} resumed, {failed} not");
    // Those amid the answer to COMMIT.
    assert!(doubts.len() <= 4 * site.shards.len(), "{doubts:?}");
    for (k, what) in doubts {
        wait_for(&format!("{what}: all or nothing"), || {
            let there = site.rows(k);
            there == left || there.iter().all(String::is_empty)
        });
    }
}

/// Without what tells attempts apart.
fn plain(answers: &[Answer]) -> Vec<String> {
    let text = |it: &Answer| {
        let error = it.error.as_ref().map(|it| &it.0);
        format!("{:?} {:?} {:?} {error:?} {}", it.columns, it.rows, it.tags, it.status)
    };
    answers.iter().map(text).collect()
}

#[test]
fn a_block_goes_on_wherever_its_server_is_lost() {
    cut_everywhere("resume_one", 1, simple);
}

#[test]
fn a_block_over_shards_goes_on() {
    cut_everywhere("resume_two", 2, simple);
}

#[test]
fn what_a_block_has_set_and_prepared_is_there_again() {
    cut_everywhere("resume_state", 1, with_state);
    cut_everywhere("resume_states", 2, with_state);
}

#[test]
fn batches_are_repeated() {
    cut_everywhere("resume_batch", 1, extended);
    cut_everywhere("resume_batches", 2, extended);
}

#[test]
fn copies_and_pipelines_are_repeated() {
    cut_everywhere("resume_copy", 1, copy_and_pipeline);
}

/// A block that has said this, is cut off, and says this.
fn cut_between(site: &Site, before: &[&str], after: &[&str]) -> Vec<Answer> {
    let mut client = site.client();
    for sql in before {
        client.run(sql);
    }
    site.cut();
    // The proxy is to hear of it before it sends something.
    thread::sleep(Duration::from_millis(200));
    after.iter().map(|it| client.query(it)).collect()
}

#[test]
fn a_block_whose_answers_would_be_others_fails() {
    let site = Site::new("resume_differs", 1);
    site.client().run("INSERT INTO t VALUES (1, 0, 0)");
    let after = ["UPDATE t SET n = 7", "SELECT 1", "COMMIT", "SELECT n FROM t"];
    for read in ["SELECT clock_timestamp()", "SELECT pg_backend_pid()", "SELECT n FROM t"] {
        let mut client = site.client();
        client.run("BEGIN");
        client.run(read);
        site.client().run("UPDATE t SET n = n + 1");
        site.cut();
        thread::sleep(Duration::from_millis(50));
        let n = site.value(0, "SELECT n FROM t");
        let answers: Vec<Answer> = after.iter().map(|it| client.query(it)).collect();
        let codes: Vec<&str> = answers.iter().map(Answer::code).collect();
        assert_eq!(codes, ["08006", "25P02", "", ""], "{read}");
        assert_eq!((answers[2].tags[0].as_str(), answers[3].first()), ("ROLLBACK", n));
    }
    // COMMIT itself finds the server lost.
    let read = ["BEGIN", "SELECT clock_timestamp()", "INSERT INTO t VALUES (1, 8, 8)"];
    let answers = cut_between(&site, &read, &["COMMIT", "SELECT count(*) FROM t WHERE k = 8"]);
    assert_eq!((answers[0].code(), answers[1].first()), ("08006", "0".to_owned()));
    assert_eq!(site.resumes(), [0.0, 4.0]);
    // What nobody saw may be otherwise.
    let unseen = ["BEGIN", "INSERT INTO t SELECT 1, 9, extract(second FROM clock_timestamp())"];
    let answers = cut_between(&site, &unseen, &["SELECT count(*) FROM t WHERE k = 9", "COMMIT"]);
    assert_eq!((answers[0].first(), answers[1].code()), ("1".to_owned(), ""));
    assert_eq!(site.resumes(), [1.0, 4.0]);
}

/// Runs a long query in a block, cut off in the middle of its answer.
fn cut_inside(site: &Site, sql: &str) -> (Answer, Wire) {
    let mut client = site.client();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1, 5, 5)");
    site.shards[0].trap(Trap { of: Side::Server, at: At::Byte(300_000), then: Fate::Close });
    let answer = client.query(sql);
    assert!(site.shards[0].has_sprung());
    (answer, client)
}

#[test]
fn an_answer_goes_on_in_the_middle_or_ends_there() {
    let site = Site::new("resume_inside", 1);
    let sql = "SELECT n, repeat('x', n % 100) FROM generate_series(1, 20000) n";
    let whole = site.client().run(sql);
    let (answer, mut client) = cut_inside(&site, sql);
    assert_eq!((answer.rows == whole.rows, answer.code()), (true, ""));
    client.run("COMMIT");
    assert_eq!(site.rows(5), ["5"]);
    for sql in [
        "SELECT clock_timestamp(), n FROM generate_series(1, 20000) n",
        // Shorter than what the client has had.
        "SELECT n FROM generate_series(1, CASE count_me() WHEN 1 THEN 50000 ELSE 10 END) n",
    ] {
        site.client().run("CREATE SEQUENCE IF NOT EXISTS counter; CREATE OR REPLACE FUNCTION count_me() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''counter'')'");
        let (answer, _) = cut_inside(&site, sql);
        assert_eq!(answer.code(), "lost", "{sql}: {:?}", answer.rows.len());
    }
    assert_eq!(site.rows(5), ["5"]);
    site.client().run("SELECT 1");
}

#[test]
fn nothing_is_told_in_the_middle_of_a_row() {
    let site = Site::new("resume_row", 1);
    let one = "SELECT repeat('x', 3000000)";
    let moment = "SELECT clock_timestamp(), repeat('x', 3000000)";
    for (before, sql) in [(None, one), (Some("BEGIN"), moment)] {
        let mut lost = 0;
        for _ in 0..20 {
            let mut client = site.client();
            before.iter().for_each(|it| drop(client.run(it)));
            site.shards[0].trap(Trap {
                of: Side::Server,
                at: At::Byte(900_000),
                then: Fate::Close,
            });
            let begun = Instant::now();
            let answer = client.query(sql);
            assert!(site.shards[0].has_sprung());
            match (answer.code(), answer.rows.len()) {
                ("lost", 0) => lost += 1,
                // Cut off before the client was told anything: it runs again.
                ("", 1) => {
                    assert_eq!(answer.rows[0].last().unwrap().as_ref().unwrap().len(), 3_000_000);
                }
                other => panic!("{before:?}: {other:?}"),
            }
            // It has not waited for the rest.
            assert!(begun.elapsed() < Duration::from_secs(15), "{before:?}");
            site.shards[0].disarm();
            if lost == 2 {
                break;
            }
        }
        assert_eq!(lost, 2, "{before:?}");
    }
}

#[test]
fn a_block_that_is_too_long_or_keeps_a_server_fails() {
    let site = Site::with("resume_long", 1, "resume_bytes = \"1KiB\"\n");
    let long = format!("SELECT length('{}')", "x".repeat(900));
    let answers = cut_between(&site, &["BEGIN", &long], &["SELECT 1", "ROLLBACK"]);
    assert_eq!(answers[0].code(), "");
    let answers = cut_between(&site, &["BEGIN", &long, &long], &["SELECT 1", "ROLLBACK"]);
    assert_eq!(answers[0].code(), "08006");
    assert_eq!(
        site.proxy.show("LIMITS", "limit").iter().filter(|it| *it == "limits.resume_bytes").count(),
        1
    );
    // Also within one request.
    let mut client = site.client();
    client.run("BEGIN");
    let data = "1\t1\t1\n".repeat(1000);
    assert_eq!(client.copy("COPY t FROM STDIN", data.as_bytes()).error, None);
    site.cut();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(client.query("SELECT 1").code(), "08006");
    let answers = cut_between(&site, &["BEGIN", "CREATE TEMP TABLE x (a int)"], &["SELECT 1"]);
    assert!(!answers[0].code().is_empty(), "{answers:?}");
}

#[test]
fn a_commit_that_was_sent_is_not_repeated() {
    let site = Site::new("resume_commit", 1);
    site.client().run(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER w AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let mut client = site.client();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1, 1, 1)");
    let waits = thread::spawn(move || client.query("COMMIT"));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active' AND datname = current_database()";
    wait_for("the COMMIT", || site.value(0, waiting) == "1");
    site.cut();
    let answer = waits.join().unwrap();
    assert_eq!(answer.code(), "08007");
    wait_for("its end", || site.value(0, waiting) == "0");
    thread::sleep(Duration::from_millis(100));
    assert!(["0", "1"].contains(&site.value(0, "SELECT count(*) FROM t").as_str()));
    assert_eq!(site.resumes(), [0.0, 0.0]);
}

#[test]
fn a_block_waits_for_the_new_primary() {
    let cluster = support::own(1, 1);
    let spec = ProxySpec::of(&cluster, "app");
    let proxy = Proxy::start(ProxySpec {
        database: "resume_transactions = true\nfailover_wait = \"10s\"\n".to_owned(),
        ..spec
    });
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a bigint)");
    cluster.wait_for_replicas().unwrap();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1) RETURNING a");
    cluster.server(Node::Primary(0)).kill9();
    let goes_on = thread::spawn(move || {
        client.run("INSERT INTO t VALUES (2)");
        client.run("COMMIT")
    });
    thread::sleep(Duration::from_millis(700));
    assert!(!goes_on.is_finished());
    let promoted = cluster.sql(Node::Replica(0, 0), "app", "SELECT pg_promote()").unwrap();
    assert_eq!(promoted[0][0].as_deref(), Some("t"));
    goes_on.join().unwrap();
    assert_eq!(proxy.client().run("SELECT array_agg(a ORDER BY a) FROM t").first(), "{1,2}");
}

/// Ends the server's process that sleeps.
fn terminate(site: &Site) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE wait_event = 'PgSleep' AND datname = current_database()";
    let shards = 0..site.shards.len();
    wait_for("the process", || shards.clone().any(|it| site.value(it, sql) != "0"));
}

#[test]
fn what_one_request_commits_and_goes_on_from_is_not_said_again() {
    for shards in [1, 2] {
        let site = Site::new("went_on", shards);
        let tenant = TENANTS[1];
        let slow = format!("INSERT INTO t SELECT {tenant}, 1, 2 FROM pg_sleep(20)");
        let first = format!("INSERT INTO t VALUES ({tenant}, 1, 1)");
        // A string, and a pipeline with one Sync.
        for is_string in [true, false] {
            let mut client = site.client();
            client.run("BEGIN");
            client.run(&first);
            let answer = thread::scope(|scope| {
                let asked = scope.spawn(|| {
                    if is_string {
                        return client.query(&format!("COMMIT; {slow}"));
                    }
                    for sql in ["COMMIT", &slow] {
                        frontend::parse(&mut client.out, b"", sql.as_bytes(), []);
                        frontend::bind(&mut client.out, b"", &[], 0);
                        frontend::execute(&mut client.out, b"", 0);
                    }
                    frontend::sync(&mut client.out);
                    client.answer(b"")
                });
                terminate(&site);
                asked.join().unwrap()
            });
            assert!(["08006", "08007"].contains(&answer.code()), "{answer:?}");
            let count = format!("SELECT count(*) FROM t WHERE tenant_id = {tenant}");
            assert_eq!(site.value(0, &count), "1", "{shards} shards, {is_string}: {answer:?}");
            client.query("ROLLBACK");
            client.run("DELETE FROM t");
        }
    }
}
