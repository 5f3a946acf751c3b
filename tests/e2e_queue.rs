//! Job queues over four shards: FOR UPDATE with LIMIT, and writes around it.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgsluice::wire::frontend;
use support::proxy::Proxy;
use support::wire::{Answer, Arguments, Wire};

/// A proxy over four shards with so many jobs of forty tenants.
fn filled(name: &str, jobs: usize) -> (Proxy, Wire) {
    let (spec, _) = support::four_shards(name);
    let proxy = Proxy::start(spec);
    let mut client = proxy.client();
    client.run("CREATE TABLE jobs (tenant_id bigint, id bigint, priority int, status text DEFAULT 'new', note text, PRIMARY KEY (tenant_id, id))");
    let fill = format!(
        "INSERT INTO jobs (tenant_id, id, priority) SELECT 1 + n % 40, n, n % 3 FROM generate_series(1, {jobs}) n"
    );
    assert_eq!(client.run(&fill).tags, [format!("INSERT 0 {jobs}")]);
    (proxy, client)
}

fn numbers(answer: &Answer) -> Vec<usize> {
    assert_eq!(answer.error, None);
    let number = |row: &Vec<Option<Vec<u8>>>| {
        String::from_utf8(row[0].clone().unwrap()).unwrap().parse().unwrap()
    };
    answer.rows.iter().map(number).collect()
}

/// The jobs that nobody has locked.
fn free(proxy: &Proxy) -> BTreeSet<usize> {
    let mut client = proxy.client();
    client.run("BEGIN");
    let rows = numbers(&client.run("SELECT id FROM jobs FOR UPDATE SKIP LOCKED"));
    client.run("ROLLBACK");
    rows.into_iter().collect()
}

#[test]
fn the_first_rows_are_locked_and_no_others() {
    let (proxy, mut first) = filled("queue_order", 60);
    let order = "SELECT id FROM jobs WHERE status = 'new' ORDER BY priority DESC, id";
    let all = numbers(&first.run(order));
    first.run("BEGIN");
    let rows = first.run(&format!("{order} LIMIT 5 OFFSET 2 FOR UPDATE SKIP LOCKED"));
    assert_eq!(rows.tags, ["SELECT 5"]);
    assert_eq!(rows.columns, [("id".to_owned(), 20)]);
    assert_eq!(numbers(&rows), all[2..7]);
    let mut second = proxy.client();
    second.run("BEGIN");
    // What OFFSET leaves out is locked, too.
    let rows = second.run(&format!("{order} FOR NO KEY UPDATE SKIP LOCKED LIMIT 4"));
    assert_eq!(numbers(&rows), all[7..11]);
    let locked: BTreeSet<usize> = all[..11].iter().copied().collect();
    let expected: BTreeSet<usize> = (1..=60).filter(|it| !locked.contains(it)).collect();
    assert_eq!(free(&proxy), expected);
    let mut third = proxy.client();
    third.run("BEGIN");
    let refused = third.query(&format!("{order} LIMIT 1 FOR SHARE NOWAIT"));
    assert_eq!(refused.code(), "55P03");
    third.run("ROLLBACK");
    let none = third.run("SELECT id FROM jobs WHERE id > 60 LIMIT 3 FOR UPDATE");
    assert_eq!((none.rows.len(), none.tags), (0, vec!["SELECT 0".to_owned()]));
    assert_eq!(third.run(&format!("{order} LIMIT 0 FOR UPDATE")).columns, rows.columns);
    let shares = "SELECT id FROM jobs WHERE id IN (58, 59) ORDER BY id LIMIT 5 FOR SHARE NOWAIT";
    first.run(shares);
    assert_eq!(numbers(&third.run(shares)), [58, 59]);
    // Parameters, in both formats.
    second.run("SAVEPOINT a");
    for format in [0, 1] {
        let number = |it: i64| match format {
            0 => it.to_string().into_bytes(),
            _ => it.to_be_bytes().to_vec(),
        };
        let values = [Some(number(30)), Some(number(3))];
        let arguments = Arguments { types: &[20, 20], values: &values, format };
        let sql = "SELECT id, note, tenant_id FROM jobs WHERE id > $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED";
        let answer = second.extended(sql, &arguments);
        assert_eq!((answer.code(), answer.rows.len()), ("", 3));
        let free: Vec<i64> =
            (31..).filter(|it| !all[..7].contains(&(*it as usize))).take(3).collect();
        let ids: Vec<Vec<u8>> = answer.rows.iter().map(|it| it[0].clone().unwrap()).collect();
        assert_eq!(ids, free.iter().map(|it| number(*it)).collect::<Vec<_>>());
    }
    // Rows that an Execute does not ask for are not locked.
    second.run("ROLLBACK TO a");
    let before = free(&proxy).len();
    frontend::parse(
        &mut second.out,
        b"",
        b"SELECT id FROM jobs WHERE id > 40 ORDER BY id LIMIT 9 FOR UPDATE SKIP LOCKED",
        [],
    );
    frontend::bind(&mut second.out, b"", &[], 0);
    frontend::execute(&mut second.out, b"", 2);
    frontend::sync(&mut second.out);
    let answer = second.answer(b"");
    assert_eq!((answer.rows.len(), answer.tags, answer.error), (2, Vec::new(), None));
    assert_eq!(free(&proxy).len(), before - 2);
    second.run("COMMIT");
    first.run("COMMIT");
    assert_eq!(free(&proxy).len(), 60);
}

/// Runs a statement on a client of its own while another holds locks; the answer once they are given up.
fn waiting(proxy: &Proxy, sql: &'static str) -> std::thread::JoinHandle<Answer> {
    let mut client = proxy.client();
    let thread = std::thread::spawn(move || {
        client.run("BEGIN");
        let answer = client.query(sql);
        client.query("COMMIT");
        answer
    });
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
    let waits_anywhere = || {
        (0..2).any(|node| {
            let node = pgsluice::playground::Node::Primary(node);
            !support::shared().sql(node, "postgres", waits).unwrap().is_empty()
        })
    };
    while !waits_anywhere() && !thread.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
    }
    thread
}

#[test]
fn who_waits_gets_the_rows_that_are_still_meant() {
    let (proxy, mut first) = filled("queue_waits", 20);
    let next = "SELECT id FROM jobs WHERE status = 'new' ORDER BY id LIMIT 2 FOR UPDATE";
    first.run("BEGIN");
    assert_eq!(numbers(&first.run(next)), [1, 2]);
    let second = waiting(&proxy, next);
    first.run("UPDATE jobs SET status = 'done' WHERE id = 1");
    first.run("COMMIT");
    assert_eq!(numbers(&second.join().unwrap()), [2, 3]);
    first.run("BEGIN");
    assert_eq!(numbers(&first.run(next)), [2, 3]);
    let second = waiting(&proxy, next);
    first.run("ROLLBACK");
    assert_eq!(numbers(&second.join().unwrap()), [2, 3]);
    // Who waits for the first row has locked none behind it.
    first.run("BEGIN");
    first.run("SELECT id FROM jobs WHERE id = 2 FOR UPDATE");
    let second = waiting(&proxy, next);
    first.run("SELECT id FROM jobs WHERE id = 3 FOR UPDATE NOWAIT");
    first.run("UPDATE jobs SET status = 'done', priority = 7 WHERE id = 3");
    first.run("COMMIT");
    assert_eq!(numbers(&second.join().unwrap()), [2, 4]);
    assert_eq!(free(&proxy).len(), 20);
}

#[test]
fn writes_take_the_rows_that_a_select_inside_locks() {
    let (proxy, mut client) = filled("queue_writes", 40);
    let mut other = proxy.client();
    other.run("BEGIN");
    other.run("SELECT 1 FROM jobs WHERE id IN (1, 2) FOR UPDATE");
    let taken = client.run(
        "UPDATE jobs SET status = 'a' WHERE id IN (SELECT id FROM jobs WHERE status = 'new' ORDER BY id \
         FOR UPDATE SKIP LOCKED LIMIT 3) RETURNING id, note",
    );
    assert_eq!(taken.tags, ["UPDATE 3"]);
    let sorted = |answer: &Answer| numbers(answer).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(sorted(&taken), [3, 4, 5].into());
    let one = "UPDATE jobs SET status = 'b' WHERE id = (SELECT id FROM jobs WHERE status = 'new' ORDER BY id \
        LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *";
    let taken = client.run(one);
    assert_eq!((taken.tags, taken.columns.len()), (vec!["UPDATE 1".to_owned()], 5));
    let both = "WITH picked AS (SELECT tenant_id, id FROM jobs WHERE status = $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) \
        UPDATE jobs SET note = $3 FROM picked WHERE jobs.tenant_id = picked.tenant_id AND jobs.id = picked.id RETURNING jobs.id";
    for values in [["new", "2", "x'\\y"], ["none", "2", "z"]] {
        let values = values.map(|it| Some(it.as_bytes().to_vec()));
        let arguments = Arguments { types: &[25, 0, 0], values: &values, format: 0 };
        let answer = client.extended(both, &arguments);
        let expected: &[usize] = if values[0].as_deref() == Some(b"new") { &[7, 8] } else { &[] };
        assert_eq!(sorted(&answer), expected.iter().copied().collect());
        assert_eq!(answer.tags, [format!("UPDATE {}", expected.len())]);
    }
    let notes =
        client.run("SELECT string_agg(note, ',' ORDER BY id) FROM jobs WHERE note IS NOT NULL");
    assert_eq!(notes.first(), "x'\\y,x'\\y");
    let gone = "DELETE FROM jobs WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM jobs WHERE status = 'new' \
        ORDER BY id LIMIT 4 FOR UPDATE SKIP LOCKED) RETURNING id";
    assert_eq!(sorted(&client.run(gone)), [7, 8, 9, 10].into());
    let gone = "DELETE FROM jobs USING (SELECT tenant_id t, id i FROM jobs WHERE status = 'a' FOR UPDATE) q \
        WHERE tenant_id = t AND id = i";
    assert_eq!(client.run(gone).tags, ["DELETE 3"]);
    let moved = "WITH gone AS (DELETE FROM jobs WHERE id = ANY (ARRAY(SELECT id FROM jobs WHERE status = 'new' \
        ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED)) RETURNING id) SELECT id FROM gone ORDER BY id";
    assert_eq!(numbers(&client.run(moved)), [11, 12]);
    // In a block nothing is kept of what is rolled back.
    client.run("BEGIN");
    client.run("SAVEPOINT s");
    assert_eq!(client.run(one).tags, ["UPDATE 1"]);
    assert_eq!(free(&proxy).len(), 28);
    client.run("ROLLBACK TO s");
    assert_eq!(free(&proxy).len(), 29);
    client.run("COMMIT");
    client.run("PREPARE next(bigint, text) AS UPDATE jobs SET note = $2 WHERE id IN (SELECT id FROM jobs WHERE id > $1 ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED) RETURNING id");
    assert_eq!(sorted(&client.run("EXECUTE next (30, 'a')")), [31, 32].into());
    assert_eq!(sorted(&client.run("EXECUTE next (38, 'a''b')")), [39, 40].into());
    // Not while it is decided by the row around it.
    let told = client.query(
        "UPDATE jobs SET note = 'q' WHERE id = (SELECT id FROM jobs j WHERE j.priority = jobs.priority LIMIT 1 FOR UPDATE)",
    );
    assert_eq!(told.code(), "0A000");
    other.run("ROLLBACK");
}

/// One worker's way to take jobs: the statements of a round, of which one gives the jobs.
fn take(client: &mut Wire, worker: usize) -> Vec<usize> {
    let select = "SELECT tenant_id, id FROM jobs WHERE status = 'new' ORDER BY priority, id LIMIT 20 FOR UPDATE SKIP LOCKED";
    let sql = match worker % 4 {
        0 => {
            client.run("BEGIN");
            let jobs = numbers(&client.run(
                "SELECT id FROM jobs WHERE status = 'new' ORDER BY priority, id LIMIT 20 FOR UPDATE SKIP LOCKED",
            ));
            for job in &jobs {
                let done = client.run(&format!("UPDATE jobs SET status = 'done' WHERE id = {job}"));
                assert_eq!(done.tags, ["UPDATE 1"]);
            }
            client.run("COMMIT");
            return jobs;
        }
        1 => format!("DELETE FROM jobs WHERE (tenant_id, id) IN ({select}) RETURNING id"),
        2 => format!(
            "UPDATE jobs SET status = 'done' WHERE (tenant_id, id) IN ({select}) RETURNING id"
        ),
        _ => format!(
            "WITH picked AS ({select}) UPDATE jobs SET status = 'done' FROM picked \
             WHERE jobs.tenant_id = picked.tenant_id AND jobs.id = picked.id RETURNING jobs.id"
        ),
    };
    numbers(&client.run(&sql))
}

#[test]
fn eight_workers_drain_a_queue_of_which_each_job_is_taken_once() {
    const JOBS: usize = 2_000;
    const WORKERS: usize = 8;
    let (proxy, mut client) = filled("queue_drained", JOBS);
    let (left, in_vain) = (AtomicUsize::new(JOBS), AtomicUsize::new(0));
    let (proxy, left, in_vain) = (&proxy, &left, &in_vain);
    let work = move |worker: usize| {
        let mut client = proxy.client();
        let mut own = Vec::new();
        loop {
            let jobs = take(&mut client, worker);
            if !jobs.is_empty() {
                left.fetch_sub(jobs.len(), Ordering::SeqCst);
                own.extend(jobs);
                continue;
            }
            // Those that are left are in the hands of others, or others were faster just now.
            if left.load(Ordering::SeqCst) <= 20 * WORKERS {
                return own;
            }
            let before = in_vain.fetch_add(1, Ordering::SeqCst);
            assert!(before < JOBS / 100, "workers get nothing while there are jobs");
        }
    };
    let taken: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|it| scope.spawn(move || work(it))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let mut all: Vec<usize> = taken.concat();
    all.sort_unstable();
    assert_eq!(all, (1..=JOBS).collect::<Vec<_>>());
    assert!(taken.iter().all(|it| !it.is_empty()));
    assert_eq!(client.run("SELECT count(*) FROM jobs WHERE status = 'new'").first(), "0");
}
