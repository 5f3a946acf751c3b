//! Unique keys without the tenant column, kept over all shards.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::proxy::Proxy;
use support::wire::Wire;

const KEYS: &str = "global_unique = [\"users(email)\", \"orgs(country, slug)\"]\n";

/// A proxy over four shards, and its shards' databases.
fn proxy(name: &str) -> (Proxy, [String; 2]) {
    let (mut spec, names) = support::four_shards(name);
    spec.database.push_str(KEYS);
    (Proxy::start(spec), names)
}

/// With the tables of the keys.
fn users(name: &str) -> (Proxy, [String; 2], Wire) {
    let (proxy, names) = proxy(name);
    let mut client = proxy.client();
    client.run("CREATE TABLE users (tenant_id bigint, id bigint, email text UNIQUE, name text, PRIMARY KEY (tenant_id, id))");
    client.run("CREATE TABLE orgs (tenant_id bigint PRIMARY KEY, country text, slug text, UNIQUE (slug, country))");
    (proxy, names, client)
}

/// Rows of SQL on all shards, past the proxy.
fn on_shards(names: &[String; 2], sql: &str) -> Vec<String> {
    use pgsluice::playground::Node;
    let mut all = Vec::new();
    for it in 0..4 {
        let rows = support::shared().sql(Node::Primary(it / 2), &names[it % 2], sql).unwrap();
        all.extend(rows.into_iter().map(|row| row[0].clone().unwrap_or_default()));
    }
    all.sort();
    all
}

/// The values that shards keep, with their tenants.
fn kept(names: &[String; 2]) -> Vec<String> {
    on_shards(names, "SELECT value || ' of ' || tenant FROM sluice.unique_row")
}

/// Runs what must fail with a duplicate; its DETAIL.
fn duplicate(client: &mut Wire, sql: &str) -> String {
    let answer = client.query(sql);
    assert_eq!(answer.code(), "23505", "{sql}: {answer:?}");
    answer.detail
}

/// Tenants 1 to 16 lie on all four shards.
#[test]
fn values_are_unique_over_tenants() {
    let (_proxy, names, mut client) = users("over_tenants");
    for tenant in 1..=16 {
        client.run(&format!("INSERT INTO users VALUES ({tenant}, 1, 'u{tenant}@x', 'a')"));
    }
    assert_eq!(kept(&names).len(), 16);
    for tenant in 1..=16 {
        let other = tenant % 16 + 1;
        let sql = format!("INSERT INTO users VALUES ({other}, 2, 'u{tenant}@x', 'b')");
        assert_eq!(
            duplicate(&mut client, &sql),
            format!("Key (email)=(u{tenant}@x) already exists.")
        );
    }
    // NULL is like no other value.
    client.run("INSERT INTO users VALUES (1, 3, NULL, 'c'), (2, 3, NULL, 'c'), (3, 3, NULL, 'c')");
    client.run("INSERT INTO orgs VALUES (1, 'de', 'acme'), (2, 'de', 'ac:me'), (3, 'd', 'eacme'), (4, 'fr', 'acme')");
    let detail = duplicate(&mut client, "INSERT INTO orgs VALUES (7, 'de', 'acme')");
    assert_eq!(detail, "Key (slug, country)=(acme, de) already exists.");
    client.run("INSERT INTO orgs VALUES (7, 'de', NULL), (8, 'de', NULL)");
    let rows = client.run("SELECT count(*) FROM users").first();
    assert_eq!((rows.as_str(), kept(&names).len()), ("19", 20));
}

#[test]
fn errors_are_those_of_one_postgres() {
    use pgsluice::wire::backend::ErrorFields;
    use pgsluice::wire::frontend;
    let (_proxy, _names, mut client) = users("errors");
    client.run("INSERT INTO users VALUES (1, 1, 'ä@x', 'a')");
    let mut told = Vec::new();
    // Of tenant 1 the shard itself finds it, of the others the shard that keeps the value.
    for tenant in 1..=8 {
        let sql = format!("INSERT INTO users VALUES ({tenant}, 2, 'ä@x', 'b')");
        frontend::query(&mut client.out, sql.as_bytes());
        client.send().unwrap();
        loop {
            let (tag, frame) = client.frame().unwrap();
            if tag == b'E' {
                let fields = ErrorFields::read(&frame).unwrap();
                let text =
                    |it| String::from_utf8_lossy(fields.field(it).unwrap_or_default()).into_owned();
                told.push(b"SCMDstnW".map(text));
            }
            if tag == b'Z' {
                assert_eq!(frame[5], b'I');
                break;
            }
        }
    }
    assert_eq!(told.len(), 8);
    assert_eq!(
        told[0],
        [
            "ERROR",
            "23505",
            "duplicate key value violates unique constraint \"users_email_key\"",
            "Key (email)=(ä@x) already exists.",
            "public",
            "users",
            "users_email_key",
            ""
        ]
    );
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn every_way_of_writing_counts() {
    let (_proxy, names, mut client) = users("every_way");
    // On a shard each.
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n'), (6, 1, 'b', 'n'), (9, 1, 'c', 'n'), (4, 1, 'd', 'n')");
    assert_eq!(kept(&names), ["a of 1", "b of 6", "c of 9", "d of 4"]);
    // Several rows of one statement, twice the same.
    duplicate(&mut client, "INSERT INTO users VALUES (5, 1, 'e', 'n'), (6, 3, 'e', 'n')");
    duplicate(&mut client, "INSERT INTO users VALUES (5, 1, 'e', 'n'), (6, 3, 'a', 'n')");
    client.run("INSERT INTO users SELECT tenant_id, id + 1, email || '2', name FROM users");
    assert_eq!(kept(&names).len(), 8);
    duplicate(&mut client, "INSERT INTO users SELECT tenant_id + 1, 9, email, name FROM users");
    assert_eq!(
        client.copy("COPY users FROM STDIN", b"7\t1\tg\tn\n8\t1\th\tn\n9\t8\t\\N\tn\n").tags,
        ["COPY 3"]
    );
    let copied = client.copy("COPY users FROM STDIN", b"7\t2\tz\tn\n8\t2\ta\tn\n");
    assert_eq!((copied.code(), copied.status), ("23505", 'I'));
    // The value may go from one row to another, in one statement, too.
    client.run("UPDATE users SET email = 'a3' WHERE tenant_id = 1 AND id = 1");
    client.run("INSERT INTO users VALUES (10, 1, 'a', 'n')");
    client.run("UPDATE users SET email = CASE email WHEN 'b' THEN 'c' ELSE 'b' END WHERE email IN ('b', 'c')");
    assert!(kept(&names).contains(&"b of 9".to_owned()), "{:?}", kept(&names));
    duplicate(&mut client, "UPDATE users SET email = 'same' WHERE id = 1");
    duplicate(&mut client, "UPDATE users SET email = 'd' WHERE tenant_id = 10");
    // Other columns need nobody else.
    client.run("UPDATE users SET name = 'm'");
    client.run("DELETE FROM users WHERE email = 'd'");
    client.run(
        "WITH gone AS (DELETE FROM users WHERE tenant_id = 7 RETURNING email) SELECT * FROM gone",
    );
    client.run("INSERT INTO users VALUES (11, 1, 'd', 'n'), (12, 1, 'g', 'n')");
    let rows = client.run("MERGE INTO users u USING (VALUES (11, 1), (11, 5)) v (t, i) ON u.tenant_id = 11 AND u.id = v.i \
        WHEN MATCHED THEN UPDATE SET email = 'm' WHEN NOT MATCHED THEN INSERT VALUES (11, v.i, 'd', 'n')");
    assert_eq!(rows.tags, ["MERGE 2"]);
    duplicate(&mut client, "INSERT INTO users VALUES (13, 1, 'm', 'n')");
    let mail =
        on_shards(&names, "SELECT email || ' of ' || tenant_id FROM users WHERE email IS NOT NULL");
    assert_eq!(kept(&names), mail);
    client.run("TRUNCATE users");
    assert_eq!(kept(&names), [""; 0]);
    client.run("INSERT INTO users VALUES (13, 1, 'm', 'n')");
    client.run("DROP TABLE users");
    assert_eq!(kept(&names), [""; 0]);
}

#[test]
fn transactions_and_savepoints_take_it_back() {
    let (_proxy, names, mut client) = users("savepoints");
    client.run("BEGIN");
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n')");
    client.run("SAVEPOINT s");
    client.run("INSERT INTO users VALUES (2, 1, 'b', 'n')");
    let failed = client.query("INSERT INTO users VALUES (3, 1, 'a', 'n')");
    assert_eq!((failed.code(), failed.status), ("23505", 'E'));
    assert_eq!(client.query("SELECT 1").code(), "25P02");
    client.run("ROLLBACK TO s");
    client.run("INSERT INTO users VALUES (4, 1, 'b', 'n')");
    client.run("COMMIT");
    assert_eq!(kept(&names), ["a of 1", "b of 4"]);
    client.run("BEGIN");
    client.run("DELETE FROM users");
    client.run("INSERT INTO users VALUES (9, 1, 'a', 'n')");
    client.run("ROLLBACK");
    assert_eq!(kept(&names), ["a of 1", "b of 4"]);
    let several = client.query(
        "INSERT INTO users VALUES (5, 1, 'c', 'n'); INSERT INTO users VALUES (6, 1, 'c', 'n')",
    );
    assert_eq!(several.code(), "23505");
    assert_eq!(kept(&names), ["a of 1", "b of 4"]);
}

#[test]
fn whoever_comes_second_waits() {
    let (proxy, names, mut one) = users("second_waits");
    let mut other = proxy.client();
    for (end, tenant) in [("COMMIT", 1), ("ROLLBACK", 2), ("COMMIT", 3), ("ROLLBACK", 4)] {
        one.run("BEGIN");
        one.run(&format!("INSERT INTO users VALUES ({tenant}, 1, 'x{tenant}', 'n')"));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                other.query(&format!(
                    "INSERT INTO users VALUES ({}, 1, 'x{tenant}', 'n')",
                    tenant + 10
                ))
            });
            std::thread::sleep(Duration::from_millis(150));
            assert!(!second.is_finished(), "it did not wait");
            one.run(end);
            let code = second.join().unwrap().code().to_owned();
            assert_eq!(code, if end == "COMMIT" { "23505" } else { "" });
        });
    }
    assert_eq!(kept(&names), ["x1 of 1", "x2 of 12", "x3 of 3", "x4 of 14"]);
}

#[test]
fn of_many_at_once_one_wins() {
    let (mut spec, names) = support::four_shards("many");
    spec.database.push_str(KEYS);
    let (proxy, second) = (Proxy::start(spec.clone()), Proxy::start(spec));
    proxy.client().run("CREATE TABLE users (tenant_id bigint, id bigint, email text UNIQUE, name text, PRIMARY KEY (tenant_id, id))");
    support::proxy::wait_for("the other proxy knows the table", || {
        second.client().query("DELETE FROM users WHERE tenant_id = 1").error.is_none()
    });
    let won: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|number| {
                let mut client = if number % 2 == 0 { proxy.client() } else { second.client() };
                scope.spawn(move || {
                    let insert = |value: usize| {
                        let sql = format!(
                            "INSERT INTO users VALUES ({}, {value}, 'v{value}', 'n')",
                            number + 1
                        );
                        let code = client.query(&sql).code().to_owned();
                        assert!(code.is_empty() || code == "23505" || code == "40P01", "{code}");
                        usize::from(code.is_empty())
                    };
                    (0..12).map(insert).sum::<usize>()
                })
            })
            .collect();
        all.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!(won, 12);
    let rows = on_shards(&names, "SELECT email || ' of ' || tenant_id FROM users");
    assert_eq!((rows.len(), kept(&names)), (12, rows));
}

#[test]
fn on_conflict_is_right_or_refused() {
    let (_proxy, names, mut client) = users("on_conflict");
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n')");
    for tenant in 1..=8 {
        for target in ["(email) DO NOTHING", "DO NOTHING"] {
            let sql =
                format!("INSERT INTO users VALUES ({tenant}, 5, 'a', 'n') ON CONFLICT {target}");
            assert_eq!(client.run(&sql).tags, ["INSERT 0 0"], "{sql}");
        }
        let sql = format!(
            "INSERT INTO users VALUES ({tenant}, 6, 'n{tenant}', 'n') ON CONFLICT (email) DO NOTHING"
        );
        assert_eq!(client.run(&sql).tags, ["INSERT 0 1"]);
        let sql = format!(
            "INSERT INTO users VALUES ({tenant}, 7, 'a', 'n') ON CONFLICT (email) DO UPDATE SET name = 'u'"
        );
        let answer = client.query(&sql);
        assert!(matches!(answer.code(), "" | "0A000"), "{answer:?}");
        let sql = format!(
            "INSERT INTO users VALUES ({tenant}, 1, 'a', 'n') ON CONFLICT (tenant_id, id) DO NOTHING"
        );
        let expected = if tenant == 1 { "" } else { "23505" };
        assert_eq!(client.query(&sql).code(), expected);
    }
    let sql = "INSERT INTO users VALUES (1, 8, 'a', 'n'), (2, 8, 'a', 'n'), (3, 8, 'a', 'n'), (4, 8, 'a', 'n') ON CONFLICT (email) DO NOTHING";
    assert_eq!(client.query(sql).code(), "0A000");
    let rows = on_shards(&names, "SELECT email || ' of ' || tenant_id FROM users");
    assert_eq!((rows.len(), kept(&names)), (9, rows));
    // Another key of the shard is violated, too: one Postgres would have looked at the named one first.
    let sql = "INSERT INTO users VALUES (4, 6, 'a', 'n') ON CONFLICT (email) DO NOTHING";
    assert!(matches!(client.query(sql).code(), "" | "0A000"));
    // Skipped amid a transaction, and what comes after is watched as before.
    client.run("BEGIN");
    client.run("INSERT INTO users VALUES (5, 20, 'a', 'n') ON CONFLICT DO NOTHING");
    client.run("INSERT INTO users VALUES (5, 21, 'z', 'n')");
    client.run("COMMIT");
    duplicate(&mut client, "INSERT INTO users VALUES (6, 21, 'z', 'n')");
}

#[test]
fn rows_that_move_take_their_values_along() {
    let (_proxy, names, mut client) = users("moved");
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n'), (2, 1, 'b', 'n')");
    for tenant in 3..=10 {
        let sql = format!("UPDATE users SET tenant_id = {tenant} WHERE email = 'a'");
        assert_eq!(client.run(&sql).tags, ["UPDATE 1"]);
        assert_eq!(kept(&names), [format!("a of {tenant}"), "b of 2".to_owned()]);
    }
    duplicate(&mut client, "INSERT INTO users VALUES (1, 9, 'a', 'n')");
    client.run("DELETE FROM users WHERE email = 'a'");
    client.run("INSERT INTO users VALUES (1, 9, 'a', 'n')");
}

#[test]
fn rows_that_others_take_along_free_their_values() {
    let (_proxy, names, mut client) = users("cascade");
    assert_eq!(
        client.query("CREATE TABLE more (tenant_id bigint, mail text UNIQUE)").code(),
        "0A000"
    );
    client.run("ALTER TABLE users ADD FOREIGN KEY (tenant_id) REFERENCES orgs ON DELETE CASCADE");
    client.run("INSERT INTO orgs SELECT it, 'x', it::text FROM generate_series(1, 8) AS it");
    client.run("INSERT INTO users SELECT it, 1, 'u' || it, 'n' FROM generate_series(1, 8) AS it");
    client.run("DELETE FROM orgs WHERE tenant_id < 5");
    let rows = kept(&names);
    assert_eq!(rows.iter().filter(|it| it.starts_with('u')).count(), 4, "{rows:?}");
    client.run("INSERT INTO users VALUES (6, 2, 'u1', 'n')");
}

#[test]
fn rows_that_are_there_when_the_key_is_made_count() {
    let (_proxy, names, mut client) = users("there");
    client.run("ALTER TABLE users DROP CONSTRAINT users_email_key");
    client.run(
        "INSERT INTO users SELECT it, 1, 'u' || it % 8, 'n' FROM generate_series(1, 16) AS it",
    );
    let failed = client.query("CREATE UNIQUE INDEX users_mail ON users (email)");
    assert_eq!(failed.code(), "23505", "{failed:?}");
    assert!(failed.detail.ends_with(") is duplicated."), "{}", failed.detail);
    client.run("UPDATE users SET email = email || 'b' WHERE tenant_id > 8");
    client.run("CREATE UNIQUE INDEX users_mail ON users (email)");
    assert_eq!(kept(&names).len(), 16);
    duplicate(&mut client, "INSERT INTO users VALUES (3, 2, 'u7b', 'n')");
    // In one block with rows; what is rolled back was never there.
    client.run("BEGIN");
    client.run("DROP INDEX users_mail");
    client.run("INSERT INTO users VALUES (20, 1, 'u1', 'n')");
    client.run("DELETE FROM users WHERE tenant_id = 20");
    client.run("ALTER TABLE users ADD CONSTRAINT mail UNIQUE (email)");
    assert_eq!(client.query("INSERT INTO users VALUES (20, 1, 'u1', 'n')").code(), "23505");
    client.run("ROLLBACK");
    let detail = duplicate(&mut client, "INSERT INTO users VALUES (20, 1, 'u1', 'n')");
    assert_eq!((detail.as_str(), kept(&names).len()), ("Key (email)=(u1) already exists.", 16));
    client.run("DROP INDEX users_mail");
    assert_eq!(kept(&names), [""; 0]);
    client.run("INSERT INTO users VALUES (20, 1, 'u1', 'n')");
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let (_proxy, _names, mut client) = users("cannot");
    client.run("ALTER TABLE users DROP CONSTRAINT users_email_key");
    for sql in [
        "CREATE UNIQUE INDEX ON users (email) WHERE name = 'n'",
        "CREATE UNIQUE INDEX ON users (lower(email))",
        "CREATE UNIQUE INDEX CONCURRENTLY ON users (email)",
        "CREATE UNIQUE INDEX ON users (email) NULLS NOT DISTINCT",
        "CREATE UNIQUE INDEX ON users (name)",
        "ALTER TABLE users ADD UNIQUE (email) DEFERRABLE",
        "ALTER TABLE orgs RENAME COLUMN slug TO s",
        "ALTER TABLE orgs RENAME TO o",
        "ALTER TABLE orgs ALTER COLUMN slug TYPE varchar(9)",
        "CREATE TABLE refers (tenant_id bigint, country text, slug text, FOREIGN KEY (country, slug) REFERENCES orgs (country, slug))",
    ] {
        let answer = client.query(sql);
        assert_eq!(answer.code(), "0A000", "{sql}: {answer:?}");
    }
    client.run("ALTER TABLE users ADD UNIQUE (email)");
    client.run("ALTER TABLE users RENAME COLUMN name TO title");
}

#[test]
fn nobody_writes_unwatched() {
    use pgsluice::playground::Node;
    let (_proxy, names, mut client) = users("unwatched");
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n')");
    let past = support::shared().sql(
        Node::Primary(0),
        &names[0],
        "INSERT INTO users VALUES (6, 1, 'b', 'n')",
    );
    assert!(past.unwrap_err().to_string().contains("a key that is unique over all shards"));
    // A function that the proxy does not look into, but whose text names the table.
    client.run("CREATE FUNCTION add_user(t bigint, mail text) RETURNS void LANGUAGE plpgsql AS $$ \
        BEGIN INSERT INTO users VALUES (t, 50, mail, 'f'); EXCEPTION WHEN unique_violation THEN NULL; END $$");
    client.run("SET sluice.tenant = '5'");
    client.run("SELECT add_user(5, 'f')");
    client.run("SELECT add_user(5, 'f')");
    assert_eq!(
        client.query("DO $$ BEGIN INSERT INTO users VALUES (5, 60, 'a', 'n'); END $$").code(),
        "23505"
    );
    client.run("DO $$ BEGIN INSERT INTO users VALUES (5, 60, 'd', 'n'); END $$");
    client.run("RESET sluice.tenant");
    assert_eq!(kept(&names), ["a of 1", "d of 5", "f of 5"]);
    // One that hides it.
    client.run(
        "CREATE FUNCTION hide(t bigint, mail text) RETURNS void LANGUAGE plpgsql AS $$ \
        BEGIN EXECUTE 'INSERT INTO us' || 'ers VALUES ($1, 51, $2)' USING t, mail; END $$",
    );
    client.run("SET sluice.tenant = '5'");
    let hidden = client.query("SELECT hide(5, 'g')");
    assert_eq!(hidden.code(), "55000", "{hidden:?}");
}

#[test]
fn drift_is_found_and_mended() {
    use pgsluice::playground::Node;
    let (proxy, names, mut client) = users("drift");
    client.run("INSERT INTO users VALUES (1, 1, 'a', 'n'), (4, 1, 'b', 'n'), (6, 1, 'c', 'n'), (9, 1, 'd', 'n')");
    let tool = |repair: &[&str]| {
        let file = proxy.file();
        let all = [&["unique", "--config", file.to_str().unwrap()], repair].concat();
        let out =
            std::process::Command::new(env!("CARGO_BIN_EXE_pgsluice")).args(all).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (well, told) = tool(&[]);
    assert!(well && told.contains("public.users(email): kept, of 4 rows"), "{told}");
    // Past the proxy: a trigger is gone, a row has come.
    let past = |shard: usize, sql: &str| {
        support::shared().sql(Node::Primary(shard / 2), &names[shard % 2], sql).unwrap();
    };
    past(0, "SELECT sluice.drop_unique_triggers('public.users(email)')");
    past(0, "INSERT INTO users VALUES (6, 2, 'd', 'n')");
    // Tenant 6 is on that shard.
    let refused = client.query("INSERT INTO users VALUES (6, 3, 'e', 'n')");
    assert_eq!(refused.code(), "55000", "{refused:?}");
    assert!(refused.error.unwrap().1.contains("public.users(email) is not kept"));
    let (well, told) = tool(&["--repair"]);
    assert!(!well && told.contains("two rows have (d)"), "{told}");
    past(0, "UPDATE users SET email = 'e' WHERE id = 2");
    let (well, told) = tool(&["--repair"]);
    assert!(well && told.contains("public.users(email): set up"), "{told}");
    duplicate(&mut client, "INSERT INTO users VALUES (1, 3, 'e', 'n')");
    // What is noted is not what rows have.
    past(0, "DELETE FROM sluice.unique_row");
    past(1, "INSERT INTO sluice.unique_row VALUES ('public.users(email)', 'z', '1')");
    let (well, told) = tool(&[]);
    assert!(
        !well && told.contains("values are not noted for their tenants, 1 values are noted"),
        "{told}"
    );
    assert!(tool(&["--repair"]).0 && tool(&[]).0);
    assert_eq!(kept(&names).len(), 5);
}

#[test]
fn by_the_extended_protocol() {
    use support::wire::Arguments;
    let (_proxy, names, mut client) = users("extended");
    let text = |it: &str| Some(it.as_bytes().to_vec());
    let insert = "INSERT INTO users VALUES ($1, 1, $2, 'n') RETURNING email";
    for tenant in 1..=6 {
        let values = [text(&tenant.to_string()), text(&format!("m{tenant}"))];
        let answer = client.extended(insert, &Arguments { types: &[], values: &values, format: 0 });
        assert_eq!((answer.error.clone(), answer.first()), (None, format!("m{tenant}")));
        let values = [text("20"), text(&format!("m{tenant}"))];
        let answer = client.extended(insert, &Arguments { types: &[], values: &values, format: 0 });
        assert_eq!((answer.code(), answer.status), ("23505", 'I'));
    }
    let update = "UPDATE users SET email = $1 WHERE email = $2";
    let values = [text("other"), text("m3")];
    let answer = client.extended(update, &Arguments { types: &[], values: &values, format: 0 });
    assert_eq!(answer.tags, ["UPDATE 1"]);
    client.run("PREPARE add (bigint, text) AS INSERT INTO users VALUES ($1, 9, $2, 'n')");
    client.run("EXECUTE add(7, 'm3')");
    assert_eq!(client.query("EXECUTE add(8, 'm3')").code(), "23505");
    assert_eq!(
        kept(&names),
        ["m1 of 1", "m2 of 2", "m3 of 7", "m4 of 4", "m5 of 5", "m6 of 6", "other of 3"]
    );
}

#[test]
fn a_value_leads_to_its_tenants_shard() {
    use support::wire::Arguments;
    let (_proxy, _names, mut client) = users("leads");
    for tenant in 1..=12 {
        client.run(&format!("INSERT INTO users VALUES ({tenant}, 1, 'u{tenant}', 'n{tenant}')"));
        client.run(&format!(
            "INSERT INTO orgs VALUES ({tenant}, 'c{}', 's{}')",
            tenant % 3,
            tenant / 3
        ));
    }
    let plan = client.run("EXPLAIN (SLUICE) SELECT name FROM users WHERE email = 'u3'");
    let lines: Vec<String> =
        plan.rows.iter().map(|row| String::from_utf8(row[0].clone().unwrap()).unwrap()).collect();
    assert!(
        lines.concat().contains("Or the shard of the tenant that has public.users(email)"),
        "{lines:?}"
    );
    // One server's plan, not one of each shard.
    let explained = client.run("EXPLAIN SELECT name FROM users WHERE email = 'u3'");
    assert!(!format!("{explained:?}").contains("Shard"), "{explained:?}");
    for tenant in 1..=12 {
        let sql = format!("SELECT name FROM users WHERE email = 'u{tenant}'");
        assert_eq!(client.run(&sql).first(), format!("n{tenant}"));
        let value = [Some(format!("u{tenant}").into_bytes())];
        let arguments = Arguments { types: &[], values: &value, format: 0 };
        let answer = client.extended("SELECT name FROM users WHERE email = $1", &arguments);
        assert_eq!((answer.first(), answer.rows.len()), (format!("n{tenant}"), 1));
        let sql = format!(
            "SELECT u.name FROM orgs o JOIN users u USING (tenant_id) WHERE o.slug = 's{}' AND o.country = 'c{}'",
            tenant / 3,
            tenant % 3
        );
        assert_eq!(client.run(&sql).first(), format!("n{tenant}"));
    }
    let none = client.run("SELECT name FROM users WHERE email = 'nobody'");
    assert_eq!(
        (none.rows.len(), none.columns.len(), none.tags),
        (0, 1, vec!["SELECT 0".to_owned()])
    );
    let null = [None];
    let arguments = Arguments { types: &[], values: &null, format: 0 };
    assert!(client.extended("SELECT name FROM users WHERE email = $1", &arguments).rows.is_empty());
    // Within the client's own transaction, and what only one shard can do.
    client.run("BEGIN");
    client.run("INSERT INTO users VALUES (20, 1, 'new', 'n20')");
    client.run("UPDATE users SET email = 'other' WHERE email = 'u1'");
    assert_eq!(client.run("SELECT name FROM users WHERE email = 'new' FOR UPDATE").first(), "n20");
    assert_eq!(client.run("SELECT name FROM users WHERE email = 'other'").first(), "n1");
    assert!(client.run("SELECT name FROM users WHERE email = 'u1'").rows.is_empty());
    client.run("UPDATE users SET tenant_id = 21 WHERE email = 'u2'");
    assert_eq!(client.run("SELECT tenant_id FROM users WHERE email = 'u2'").first(), "21");
    client.run("ROLLBACK");
    assert_eq!(client.run("SELECT name FROM users WHERE email = 'u1'").first(), "n1");
    let gone = client.run("DELETE FROM users WHERE email = 'u5' RETURNING name");
    assert_eq!((gone.first().as_str(), gone.tags[0].as_str()), ("n5", "DELETE 1"));
    client.run("INSERT INTO users VALUES (6, 9, 'u5', 'again')");
    assert_eq!(client.run("UPDATE users SET name = 'x' WHERE email = 'u5'").tags, ["UPDATE 1"]);
}

#[test]
fn a_killed_proxy_leaves_values_as_rows_are() {
    let (mut proxy, names, mut client) = users("killed");
    for round in 0..2 {
        std::thread::scope(|scope| {
            for number in 0..4 {
                let mut client = proxy.client();
                scope.spawn(move || {
                    for step in 0.. {
                        let tenant = number * 5 + step % 5 + 1;
                        let sql = match step % 3 {
                            0 => format!("INSERT INTO users VALUES ({tenant}, {round}{step}, 'v{number}_{round}_{step}', 'n')"),
                            1 => format!("UPDATE users SET email = email || 'x' WHERE tenant_id = {}", number * 5 + 1),
                            _ => format!("DELETE FROM users WHERE tenant_id = {tenant}"),
                        };
                        if client.query(&sql).code() == "lost" {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(600));
            proxy.kill9();
        });
        proxy.restart();
        let prepared = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'sluice:%' AND database = current_database()";
        support::proxy::wait_within(20, "no prepared transaction", || {
            on_shards(&names, prepared).is_empty()
        });
        client = proxy.client();
        client.run("SELECT 1");
        let rows = on_shards(&names, "SELECT email || ' of ' || tenant_id FROM users");
        assert_eq!(kept(&names), rows, "round {round}");
    }
    client.run("DELETE FROM users");
    assert_eq!(kept(&names), [""; 0]);
}
