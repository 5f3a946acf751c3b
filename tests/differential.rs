//! The same SQL on one Postgres and through the proxy over four shards. Each statement of
//! `tests/differential/*.sql` is answered alike or refused; `tests/differential/refused` lists what
//! is refused, and `UPDATE_GOLDEN=1` writes it anew. `tests/differential/tpch` holds TPC-H's queries, of which
//! none is refused.
//!
//! A file holds blocks with a blank line between them. Lines with `--!` say how a block runs:
//!
//! ```text
//! --! ordered              the order of rows counts
//! --! params int8 5|text x a run with parameters, in text and in binary; `null` is NULL
//! --! data 1\tx            a line of COPY … FROM STDIN
//! --! then SELECT …        what must be alike afterwards
//! --! bare                 not inside a transaction
//! --! block                only inside a transaction
//! --! simple               by the simple protocol only
//! --! text                 not in binary: the values hold OIDs of types that users made
//! --! same                 one outcome is enough: tags and codes, not rows
//! ```
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pgsluice::playground::{Login, Node};
use support::proxy::Proxy;
use support::wire::{Answer, Arguments, Wire};

/// Types above this are made by users: their OIDs differ from server to server.
const FIRST_USER_OID: u32 = 16_384;

#[derive(Default)]
struct Case {
    sql: String,
    is_ordered: bool,
    types: Vec<u32>,
    text: Vec<Option<Vec<u8>>>,
    binary: Vec<Option<Vec<u8>>>,
    has_params: bool,
    data: String,
    then: Vec<String>,
    is_bare: bool,
    is_simple: bool,
    is_same: bool,
    is_text: bool,
    is_block: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Text,
    Binary,
}

impl Case {
    fn read(block: &str) -> Option<Self> {
        let mut case = Self::default();
        for line in block.lines() {
            match line.strip_prefix("--! ") {
                Some(directive) => case.direct(directive),
                None if line.starts_with("-- ") => (),
                None => writeln!(case.sql, "{line}").unwrap(),
            }
        }
        case.sql = case.sql.trim_end().trim_end_matches(';').to_owned();
        (!case.sql.is_empty() || !case.then.is_empty()).then_some(case)
    }

    fn direct(&mut self, directive: &str) {
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        match word {
            "ordered" => self.is_ordered = true,
            "text" => self.is_text = true,
            "block" => self.is_block = true,
            "bare" => self.is_bare = true,
            "simple" => self.is_simple = true,
            "same" => self.is_same = true,
            "then" => self.then.push(rest.to_owned()),
            "data" => writeln!(self.data, "{}", rest.replace("\\t", "\t")).unwrap(),
            "params" => rest.split('|').for_each(|it| self.param(it)),
            _ => panic!("unknown directive {directive}"),
        }
    }

    fn param(&mut self, text: &str) {
        self.has_params = true;
        let (kind, value) = text.split_once(' ').unwrap();
        let (oid, binary) = binary(kind, value);
        self.types.push(oid);
        let is_null = value == "null";
        self.text.push((!is_null).then(|| value.as_bytes().to_vec()));
        self.binary.push((!is_null).then_some(binary));
    }

    fn protocols(&self) -> &'static [Protocol] {
        match (self.has_params, self.is_simple || !self.data.is_empty()) {
            (true, _) => &[Protocol::Text, Protocol::Binary],
            (_, true) => &[Protocol::Simple],
            _ if self.is_text => &[Protocol::Simple, Protocol::Text],
            _ => &[Protocol::Simple, Protocol::Text, Protocol::Binary],
        }
    }

    fn run(&self, wire: &mut Wire, protocol: Protocol) -> Answer {
        let (format, values) = match protocol {
            Protocol::Simple => return wire.copy(&self.sql, self.data.as_bytes()),
            Protocol::Text => (0, &self.text),
            Protocol::Binary => (1, &self.binary),
        };
        wire.extended(&self.sql, &Arguments { types: &self.types, values, format })
    }
}

/// A type's OID and a value in its binary format.
fn binary(kind: &str, text: &str) -> (u32, Vec<u8>) {
    let number = || text.parse::<i64>().unwrap_or_default();
    match kind {
        "int8" => (20, number().to_be_bytes().to_vec()),
        "int4" => (23, (number() as i32).to_be_bytes().to_vec()),
        "int2" => (21, (number() as i16).to_be_bytes().to_vec()),
        "text" => (25, text.as_bytes().to_vec()),
        // Of a type that users made: the server infers it.
        "enum" => (0, text.as_bytes().to_vec()),
        "bool" => (16, vec![u8::from(text == "t")]),
        // Whole numbers below ten thousand: one digit of base 10000.
        "numeric" => {
            let header = [1_u16, 0, 0, 0, number() as u16];
            (1700, header.iter().flat_map(|it| it.to_be_bytes()).collect())
        }
        "uuid" => {
            let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte =
                |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            (2950, digits.chunks(2).map(byte).collect())
        }
        "int8[]" => {
            let inner = text.trim_matches(['{', '}']);
            let items: Vec<i64> = inner.split(',').filter_map(|it| it.parse().ok()).collect();
            let header = [1, 0, 20, items.len() as i32, 1];
            let mut bytes: Vec<u8> = header.iter().flat_map(|it: &i32| it.to_be_bytes()).collect();
            for item in items {
                bytes.extend(8_i32.to_be_bytes());
                bytes.extend(item.to_be_bytes());
            }
            (1016, bytes)
        }
        _ => panic!("no parameters of type {kind}"),
    }
}

/// What both sides are compared by.
fn comparable(case: &Case, answer: &Answer) -> String {
    let mut rows = answer.rows.clone();
    if !case.is_ordered {
        rows.sort();
    }
    if answer.error.is_some() {
        // What came before an error is not part of the answer.
        return format!("error {:?} status {}", answer.code(), answer.status);
    }
    let oid = |oid: u32| if oid < FIRST_USER_OID { oid } else { 0 };
    let columns: Vec<_> = answer.columns.iter().map(|(name, it)| (name, oid(*it))).collect();
    let mut copied: Vec<&[u8]> = answer.copied.split(|it| *it == b'\n').collect();
    copied.sort_unstable();
    let field = |field: &Option<Vec<u8>>| match field {
        Some(bytes) => String::from_utf8(bytes.clone()).unwrap_or_else(|_| format!("{bytes:?}")),
        None => "NULL".to_owned(),
    };
    let rows: Vec<String> =
        rows.iter().map(|row| row.iter().map(field).collect::<Vec<_>>().join("|")).collect();
    let seen = if case.is_same { Vec::new() } else { rows };
    let copied: Vec<_> = copied.iter().map(|it| String::from_utf8_lossy(it)).collect();
    format!(
        "columns {columns:?}\ntags {:?} status {}\n{}\n{}",
        answer.tags,
        answer.status,
        seen.join("\n"),
        copied.join("\n"),
    )
}

enum Verdict {
    Equal,
    Refused(String),
    Wrong(String),
}

struct Sides {
    one: Wire,
    proxy: Wire,
}

impl Sides {
    /// The proxy first: what it refuses must not change the other side either.
    fn compare(&mut self, case: &Case, protocol: Protocol, in_tx: bool) -> Verdict {
        if in_tx {
            self.proxy.run("BEGIN");
        }
        let through = case.run(&mut self.proxy, protocol);
        if through.code() == "0A000" {
            let one = self.alone_then_rollback(case, protocol);
            let told = through.error.map_or(String::new(), |it| it.1);
            if in_tx {
                self.proxy.run("ROLLBACK");
            }
            let is_equal = one.code() == "0A000";
            return if is_equal { Verdict::Equal } else { Verdict::Refused(told) };
        }
        if in_tx {
            self.one.run("BEGIN");
        }
        let direct = case.run(&mut self.one, protocol);
        let mut seen = [comparable(case, &direct), comparable(case, &through)];
        for then in &case.then {
            if through.error.is_some() && in_tx {
                break;
            }
            for (seen, wire) in seen.iter_mut().zip([&mut self.one, &mut self.proxy]) {
                let after = wire.query(then);
                write!(seen, "\nthen {}", comparable(&Case::default(), &after)).unwrap();
            }
        }
        if in_tx {
            self.proxy.query("ROLLBACK");
            self.one.query("ROLLBACK");
        }
        let [direct, proxy] = seen;
        if direct == proxy {
            return Verdict::Equal;
        }
        let told = through.error.map_or(String::new(), |it| format!(" ({})", it.1));
        Verdict::Wrong(format!("one Postgres:\n{direct}\nproxy{told}:\n{proxy}\n"))
    }

    /// Whether one Postgres refuses it too; whatever it does is undone.
    fn alone_then_rollback(&mut self, case: &Case, protocol: Protocol) -> Answer {
        self.one.run("BEGIN");
        let answer = case.run(&mut self.one, protocol);
        self.one.query("ROLLBACK");
        answer
    }
}

/// Tables with rows, and statements over them.
struct Suite {
    /// Below `tests/`; it holds `schema.sql` and the statements.
    folder: &'static str,
    sharded: &'static [&'static str],
    /// Tables of the home shard alone.
    home: &'static [&'static str],
}

const OURS: Suite = Suite {
    folder: "differential",
    sharded: &["items", "orders", "notes", "devices"],
    home: &["settings"],
};

const TPCH: Suite = Suite {
    folder: "differential/tpch",
    sharded: &["supplier", "part", "partsupp", "customer", "orders", "lineitem"],
    home: &[],
};

fn folder(suite: &Suite) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(suite.folder)
}

fn cases(suite: &Suite) -> Vec<(String, Case)> {
    let mut found = Vec::new();
    let mut paths: Vec<_> =
        std::fs::read_dir(folder(suite)).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|it| it.extension().is_some_and(|it| it == "sql")) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "schema" {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        found.extend(text.split("\n\n").filter_map(Case::read).map(|it| (name.clone(), it)));
    }
    found
}

/// The same rows everywhere, then each shard loses those that are not its own.
fn fill(suite: &Suite, names: &[String; 2], single: &str) {
    let schema = std::fs::read_to_string(folder(suite).join("schema.sql")).unwrap();
    let run = |port: u16, database: &str, sql: &str| {
        let app = Login { user: "app".into(), ..Login::superuser("shard", port, database) };
        Login { password: Some("app".into()), ..app }.run(sql).unwrap()
    };
    run(support::shared().primary_port(0), single, &schema);
    for shard in 0..4 {
        let (port, name) = (support::shared().primary_port(shard / 2), &names[shard % 2]);
        // OIDs of the types that the schema makes differ between shards.
        for number in 0..shard {
            run(port, name, &format!("CREATE TYPE other_{number} AS ENUM ('x')"));
        }
        run(port, name, &schema);
        let bucket = "get_byte(decode(md5(tenant_id::text), 'hex'), 0)";
        for table in suite.sharded {
            run(port, name, &format!("DELETE FROM {table} WHERE {bucket} / 64 <> {shard}"));
        }
        for table in suite.home.iter().filter(|_| shard > 0) {
            run(port, name, &format!("DELETE FROM {table}"));
        }
    }
}

#[test]
fn answers_are_those_of_one_postgres_or_refused() {
    let single = support::database("single");
    let (spec, names) = support::four_shards("diff");
    fill(&OURS, &names, &single);
    support::shared().wait_for_replicas().unwrap();
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(7);
    let port = support::shared().primary_port(0);
    let login = || Wire::login(port, "app", "app", &single).unwrap();
    let mut sides = Sides { one: login(), proxy: proxy.client() };
    let (mut refused, mut wrong, mut equal) =
        (BTreeMap::<String, Vec<String>>::new(), Vec::new(), 0);
    let cases = cases(&OURS);
    for (file, case) in &cases {
        let mut seen: Vec<(String, String)> = Vec::new();
        // What stays is done last.
        for in_tx in [true, false] {
            if if in_tx { case.is_bare } else { case.is_block } {
                continue;
            }
            for protocol in case.protocols() {
                let mode = format!("{protocol:?}{}", if in_tx { " in a transaction" } else { "" });
                match sides.compare(case, *protocol, in_tx) {
                    Verdict::Equal => equal += 1,
                    Verdict::Refused(told) => seen.push((mode, told)),
                    Verdict::Wrong(what) => {
                        wrong.push(format!("{file}, {mode}: {}\n{what}", case.sql));
                        sides = Sides { one: login(), proxy: proxy.client() };
                    }
                }
            }
        }
        let modes = case.protocols().len() * if case.is_bare || case.is_block { 1 } else { 2 };
        if let Some((_, told)) = seen.first() {
            let which: Vec<&str> = seen.iter().map(|it| it.0.as_str()).collect();
            let which = if seen.len() == modes { String::new() } else { which.join(", ") + ": " };
            let entry = format!("{}\n    {which}{told}", case.sql);
            refused.entry(file.clone()).or_default().push(entry);
        }
    }
    let count: usize = refused.values().map(Vec::len).sum();
    println!(
        "{} statements, {equal} runs equal, {count} refused, {} wrong",
        cases.len(),
        wrong.len()
    );
    assert!(cases.len() >= 150);
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n"));
    golden(&refused);
    whole(&names, &single);
}

/// The second time a plan is known, and from then on the statement runs as a prepared one.
#[test]
fn statements_that_run_prepared_are_answered_alike() {
    let single = support::database("single_prepared");
    let (mut spec, names) = support::four_shards("diff_prepared");
    spec.database.push_str("auto_prepare = true\n");
    fill(&OURS, &names, &single);
    support::shared().wait_for_replicas().unwrap();
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(7);
    let port = support::shared().primary_port(0);
    let login = || Wire::login(port, "app", "app", &single).unwrap();
    let mut sides = Sides { one: login(), proxy: proxy.client() };
    let mut wrong = Vec::new();
    let is_plain = |sql: &str| {
        let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        ["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&word.as_str())
    };
    for (file, case) in cases(&OURS).iter().filter(|(_, it)| !it.is_block && is_plain(&it.sql)) {
        if !case.protocols().contains(&Protocol::Simple) {
            continue;
        }
        for _ in 0..2 {
            if let Verdict::Wrong(what) = sides.compare(case, Protocol::Simple, false) {
                wrong.push(format!("{file}: {}\n{what}", case.sql));
                sides = Sides { one: login(), proxy: proxy.client() };
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n"));
    let prepared = proxy.show("SERVERS", "prepared");
    let count: usize = prepared.iter().map(|it| it.parse::<usize>().unwrap()).sum();
    assert!(count > 20, "{count} prepared");
    whole(&names, &single);
}

/// TPC-H's queries, over all tenants and within each: none is refused.
#[test]
fn tpch_is_answered_as_by_one_postgres() {
    let single = support::database("single_tpch");
    let (mut spec, names) = support::four_shards("tpch");
    spec.database = spec.database.replace("\"plans\", \"countries\"", "\"nation\", \"region\"");
    fill(&TPCH, &names, &single);
    for name in names.iter().chain([&single]) {
        // Compiling a statement takes longer than running it here.
        let sql = format!("ALTER DATABASE {name} SET jit = off");
        support::shared().sql_everywhere("postgres", &sql).unwrap();
    }
    support::shared().wait_for_replicas().unwrap();
    let proxy = Proxy::start(spec);
    proxy.wait_for_tables(8);
    let port = support::shared().primary_port(0);
    let one = Wire::login(port, "app", "app", &single).unwrap();
    let mut sides = Sides { one, proxy: proxy.client() };
    let mut failed = Vec::new();
    let cases = cases(&TPCH);
    for (_, case) in &cases {
        let rows = sides.one.run(&case.sql).rows;
        assert!(rows.iter().flatten().any(Option::is_some), "no rows: {}", case.sql);
        for (protocol, in_tx) in [(Protocol::Simple, true), (Protocol::Binary, false)] {
            match sides.compare(case, protocol, in_tx) {
                Verdict::Equal => (),
                Verdict::Refused(told) | Verdict::Wrong(told) => {
                    failed.push(format!("{protocol:?}: {}\n{told}", case.sql));
                }
            }
        }
    }
    assert!(cases.len() >= 44);
    assert!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n"));
}

fn golden(refused: &BTreeMap<String, Vec<String>>) {
    let mut text = String::new();
    for (file, entries) in refused {
        writeln!(text, "# {file}\n\n{}\n", entries.join("\n\n")).unwrap();
    }
    let path = folder(&OURS).join("refused");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    let (old, new): (Vec<&str>, Vec<&str>) =
        (expected.split("\n\n").collect(), text.split("\n\n").collect());
    let gone: Vec<_> = old.iter().filter(|it| !new.contains(it)).copied().collect();
    let more: Vec<_> = new.iter().filter(|it| !old.contains(it)).copied().collect();
    assert!(
        gone.is_empty() && more.is_empty(),
        "no longer refused so:\n{}\n\nnewly refused:\n{}",
        gone.join("\n\n"),
        more.join("\n\n")
    );
}

/// After all writes the shards together hold what the one server holds, each row in its place.
fn whole(names: &[String; 2], single: &str) {
    let read =
        |node, database: &str, sql: &str| support::shared().sql(node, database, sql).unwrap();
    for table in OURS.sharded {
        let sql = format!("SELECT row_to_json(it)::text FROM {table} it");
        let mut one = read(Node::Primary(0), single, &sql);
        let mut shards = Vec::new();
        for shard in 0..4 {
            let place = format!(
                "{sql} WHERE get_byte(decode(md5(tenant_id::text), 'hex'), 0) / 64 = {shard}"
            );
            let (node, name) = (Node::Primary(shard / 2), &names[shard % 2]);
            let rows = read(node, name, &sql);
            assert_eq!(rows.len(), read(node, name, &place).len(), "{table} of shard {shard}");
            shards.extend(rows);
        }
        one.sort();
        shards.sort();
        assert_eq!(one, shards, "{table}");
    }
}
