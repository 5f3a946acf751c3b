//! The SQL that a scripted server understands.

use super::shard::Row;

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Commit,
    Rollback,
    Prepare(String),
    /// Of a prepared transaction; whether it is committed.
    End(String, bool),
    Insert(Row),
    /// A tenant's items, and whether a replica tells them.
    Read(u32),
    /// `true`: unless there is one.
    Decide {
        gid: String,
        committed: bool,
        yields: bool,
    },
    Decision(String),
    Prepared,
    /// What the control plane asks of a server's role and log.
    Position {
        with_role: bool,
    },
    /// Which server it is.
    Identity,
    Columns,
    Settings,
    Functions,
    /// SELECT of one row with one column: that something is there.
    True,
    /// Anything else has no rows; the command tag.
    Other(&'static str),
}

/// The statements of a string.
pub fn parse_all(sql: &str) -> Vec<Statement> {
    sql.split(';').map(str::trim).filter(|it| !it.is_empty()).map(parse).collect()
}

/// One statement; parameters are in their places already.
pub fn parse(sql: &str) -> Statement {
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let begins = |it: &str| sql.starts_with(it);
    let quoted = || sql.split('\'').nth(1).unwrap_or_default().to_owned();
    let numbers = |from: &str| -> Vec<u64> {
        let rest = sql.split_once(from).map_or("", |it| it.1);
        let parts = rest.split(|it: char| !it.is_ascii_digit()).filter(|it| !it.is_empty());
        parts.filter_map(|it| it.parse().ok()).collect()
    };
    match () {
        () if begins("BEGIN") => Statement::Begin,
        () if begins("COMMIT PREPARED") => Statement::End(quoted(), true),
        () if begins("ROLLBACK PREPARED") => Statement::End(quoted(), false),
        () if begins("PREPARE TRANSACTION") => Statement::Prepare(quoted()),
        () if begins("COMMIT") => Statement::Commit,
        () if begins("ROLLBACK") => Statement::Rollback,
        () if begins("INSERT INTO log") => match numbers("VALUES")[..] {
            [tenant, n] => Statement::Insert(Row { tenant: tenant as u32, n }),
            _ => Statement::Other("INSERT 0 0"),
        },
        () if begins("SELECT n, pg_is_in_recovery() FROM log") => {
            Statement::Read(numbers("tenant_id =").first().map_or(0, |it| *it as u32))
        }
        () if begins("INSERT INTO sluice.decision") => Statement::Decide {
            gid: quoted(),
            committed: sql.contains(", true)"),
            yields: sql.contains("ON CONFLICT"),
        },
        () if begins("SELECT committed FROM sluice.decision") => Statement::Decision(quoted()),
        () if begins("SELECT gid FROM pg") => Statement::Prepared,
        () if sql.contains("pg_current_wal_insert_lsn()") => {
            Statement::Position { with_role: begins("SELECT pg_catalog.pg_is_in_recovery()") }
        }
        () if sql.contains("pg_control_system()") => Statement::Identity,
        () if sql.contains("c.relhasrules") => Statement::Columns,
        () if sql.contains("current_setting('server_version_num')") => Statement::Settings,
        () if sql.contains("p.provolatile") && sql.contains("p.proisstrict") => {
            Statement::Functions
        }
        () if sql.contains("IS NOT NULL") && begins("SELECT to_regclass") => Statement::True,
        () if begins("SELECT") || begins("WITH") => Statement::Other("SELECT 0"),
        () if begins("SET") => Statement::Other("SET"),
        () if begins("DISCARD") => Statement::Other("DISCARD ALL"),
        () => Statement::Other("OK"),
    }
}

/// Puts parameters in the places of `$1` and so on.
pub fn filled(sql: &str, parameters: &[String]) -> String {
    let mut sql = sql.to_owned();
    for (at, value) in parameters.iter().enumerate().rev() {
        sql = sql.replace(&format!("${}", at + 1), value);
    }
    sql
}
