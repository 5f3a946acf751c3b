//! The same statement on one Postgres and through the proxy.

use std::fmt::Write as _;

use super::schema::{Schema, Table, TableKind};
use super::statement::{Mode, Statement};
use super::support::proxy::Proxy;
use super::support::wire::{Answer, Wire};

/// Types above this are made by users: their OIDs differ from server to server.
const FIRST_USER_OID: u32 = 16_384;

#[derive(Clone, Debug)]
pub enum Verdict {
    /// Both gave the same; `true` if it was an error.
    Equal(bool),
    Refused(String),
    Wrong(String),
    /// It took too long on either side.
    Slow,
}

/// Both sides, and the servers behind the proxy.
pub struct Sides {
    pub one: Wire,
    pub proxy: Wire,
    pub shards: Vec<Wire>,
    login_one: Box<dyn Fn() -> Wire>,
}

impl Sides {
    pub fn new(login_one: Box<dyn Fn() -> Wire>, shards: Vec<Wire>, proxy: &Proxy) -> Self {
        Self { one: bounded(login_one()), proxy: bounded(proxy.client()), shards, login_one }
    }

    /// New sessions, after a difference that may have left them anywhere.
    pub fn renew(&mut self, proxy: &Proxy) {
        self.one = bounded((self.login_one)());
        self.proxy = bounded(proxy.client());
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        for wire in self.shards.iter_mut().rev().chain([&mut self.one]) {
            script(wire, "DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public");
        }
    }

    /// Makes the tables. Views that Postgres refuses are left out. The home shard gets all of it last and
    /// in one transaction, so that the proxy sees all or nothing.
    pub fn create(&mut self, schema: &mut Schema) {
        self.one.run(&schema.ddl(|it| it.kind != TableKind::View));
        let one = &mut self.one;
        let mut is_possible =
            |it: &Table| it.kind != TableKind::View || one.query(&it.ddl()).error.is_none();
        schema.tables.retain(|it| is_possible(it));
        let all = schema.ddl(|_| true);
        self.shards.iter_mut().rev().for_each(|it| drop(it.run(&all)));
    }

    /// The rows of all tables anew, each where it belongs.
    pub fn fill(&mut self, schema: &Schema) {
        let names: Vec<&str> = schema.base().map(|it| it.name.as_str()).collect();
        let truncate = format!("TRUNCATE {};\n", names.join(", "));
        let (mut one, count) = (truncate.clone(), self.shards.len());
        for shard in 0..count {
            let mut text = truncate.clone();
            for table in schema.base() {
                let Some(insert) = table.insert() else { continue };
                if shard == 0 {
                    one.push_str(&insert);
                }
                if table.kind != TableKind::Home || shard == 0 {
                    text.push_str(&insert);
                }
                if table.kind == TableKind::Sharded {
                    let bucket = "get_byte(decode(md5(tenant_id::text), 'hex'), 0)";
                    let name = &table.name;
                    let _ = writeln!(
                        text,
                        "DELETE FROM {name} WHERE {bucket} * {count} / 256 <> {shard};"
                    );
                }
            }
            script(&mut self.shards[shard], &text);
        }
        script(&mut self.one, &one);
    }

    /// The proxy first: what it refuses must not change the other side either.
    pub fn compare(&mut self, statement: &Statement, mode: Mode) -> Verdict {
        if mode.in_tx {
            self.proxy.run("BEGIN");
        }
        let mut before = [String::new(), String::new()];
        if let Some(first) = statement.first.as_ref().filter(|_| mode.in_tx) {
            let through = first.run(&mut self.proxy, mode.protocol);
            if through.code() == "0A000" {
                self.proxy.query("ROLLBACK");
                let told = through.error.map_or(String::new(), |it| it.1);
                return Verdict::Refused(format!("{told}: {}", through.detail));
            }
            self.one.run("BEGIN");
            let direct = first.run(&mut self.one, mode.protocol);
            before = [comparable(first, &direct), comparable(first, &through)];
        } else if mode.in_tx {
            self.one.run("BEGIN");
        }
        let through = statement.run(&mut self.proxy, mode.protocol);
        if through.code() == "0A000" && !mode.in_tx {
            self.one.run("BEGIN");
        }
        let direct = statement.run(&mut self.one, mode.protocol);
        let mut seen = [comparable(statement, &direct), comparable(statement, &through)];
        for (seen, before) in seen.iter_mut().zip(before) {
            seen.insert_str(0, &before);
        }
        if through.code() == "0A000" {
            self.one.query("ROLLBACK");
            if mode.in_tx {
                self.proxy.query("ROLLBACK");
            }
            let told = through.error.map_or(String::new(), |it| it.1);
            let told = format!("{told}: {}", through.detail);
            return match direct.code() {
                "" => Verdict::Refused(told),
                _ => Verdict::Equal(true),
            };
        }
        let is_compared = direct.error.is_none() && through.error.is_none();
        for table in statement.changes.iter().filter(|_| is_compared || !mode.in_tx) {
            for (seen, wire) in seen.iter_mut().zip([&mut self.one, &mut self.proxy]) {
                let after = wire.query(&format!("SELECT * FROM {table}"));
                let rows = comparable(&Statement::default(), &after);
                let _ = write!(seen, "\nthen {table}: {rows}");
            }
        }
        if mode.in_tx {
            self.one.query("ROLLBACK");
            self.proxy.query("ROLLBACK");
        }
        if [direct.code(), through.code()].contains(&"57014") {
            return Verdict::Slow;
        }
        let [direct_seen, proxy_seen] = seen;
        if direct_seen == proxy_seen {
            return Verdict::Equal(direct.error.is_some());
        }
        let told =
            |it: &Answer| it.error.as_ref().map_or(String::new(), |it| format!(" ({})", it.1));
        let (one, other) = (told(&direct), told(&through));
        Verdict::Wrong(format!("one Postgres{one}:\n{direct_seen}\nproxy{other}:\n{proxy_seen}"))
    }
}

/// Statements in one transaction, again after a deadlock with those who read the schema.
fn script(wire: &mut Wire, sql: &str) {
    let answer = loop {
        let answer = wire.query(sql);
        if answer.code() != "40P01" {
            break answer;
        }
    };
    assert_eq!(answer.error, None, "{sql}");
}

fn bounded(mut wire: Wire) -> Wire {
    wire.run("SET statement_timeout = '4s'");
    wire.run("SET timezone = 'Europe/Berlin'");
    wire
}

/// What both sides are compared by.
fn comparable(statement: &Statement, answer: &Answer) -> String {
    if answer.error.is_some() {
        return format!("error {:?} status {}", answer.code(), answer.status);
    }
    let mut rows = answer.rows.clone();
    for (i, (_, ty)) in answer.columns.iter().enumerate() {
        let is_made = *ty >= FIRST_USER_OID && answer.forms.get(i).is_some_and(|it| it.1 == 1);
        // An array's bytes name the type of its elements.
        let element = |row: &mut Vec<Option<Vec<u8>>>| {
            if let Some(oid) = row[i].as_mut().and_then(|it| it.get_mut(8..12)) {
                oid.fill(0);
            }
        };
        rows.iter_mut().filter(|_| is_made).for_each(element);
    }
    if !statement.is_ordered {
        rows.sort();
    }
    let oid = |oid: u32| if oid < FIRST_USER_OID { oid } else { 0 };
    let columns: Vec<_> = answer.columns.iter().map(|(name, it)| (name, oid(*it))).collect();
    let field = |field: &Option<Vec<u8>>| match field {
        Some(bytes) => String::from_utf8(bytes.clone()).unwrap_or_else(|_| format!("{bytes:?}")),
        None => "NULL".to_owned(),
    };
    let rows: Vec<String> =
        rows.iter().map(|row| row.iter().map(field).collect::<Vec<_>>().join("|")).collect();
    format!(
        "columns {columns:?}\nmodifiers and formats {:?}\ntags {:?} status {}\n{}",
        answer.forms,
        answer.tags,
        answer.status,
        rows.join("\n")
    )
}
