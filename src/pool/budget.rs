//! How proxies find each other on a server and share its connections: what the server says of itself, and the
//! table of claims, which lies on a database's home shard.

use super::control::{Control, ControlError};
use crate::balance::budget::{Claim, Seats, is_crowd, may_leave};
use crate::sql::name::quoted_text;

/// The table of claims. What it holds is worth nothing once the server has gone down.
const TABLE: &str = "sluice.budget";

/// A proxy that has not been heard of for so long is dead, and its places are free.
const LEASE_SECONDS: u32 = 15;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The same for whoever asks this server, until it is started anew.
    pub server: String,
    pub seats: Seats,
    /// Whether other proxies look after this database on it, too.
    pub has_others: bool,
    /// The proxies whose control connections it has, this one among them.
    pub present: Vec<String>,
    /// Those of them that look after this database.
    pub fellows: Vec<String>,
}

impl Look {
    /// Whether the proxies' own connections take much of what there is.
    pub fn is_crowded(&self) -> bool {
        is_crowd(self.present.len(), self.seats.usable)
    }

    /// Whether there are others enough to look after this database while `proxy` has no clients. All see the same
    /// list, so that they do not leave together.
    pub fn may_leave(&self, proxy: &str) -> bool {
        let before = self.fellows.iter().filter(|it| it.as_str() < proxy).count();
        self.is_crowded() && may_leave(before, self.seats.usable)
    }
}

/// Asks a server. The connection goes by the name of this proxy from now on, so that others see it.
///
/// # Errors
/// If the server does not answer.
pub async fn look(control: &Control, proxy: &str) -> Result<Look, ControlError> {
    let name = format!("{MARK}{proxy}");
    // The server reserves some of its connections, for superusers and, of late, for others.
    let sql = format!(
        "SELECT pg_catalog.set_config('application_name', {name}, false); \
         SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text || ' ' || \
             pg_catalog.current_setting('port'), \
         pg_catalog.current_setting('max_connections')::int8 \
             - pg_catalog.current_setting('superuser_reserved_connections')::int8 \
             - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int8, \
         count(*) FILTER (WHERE datid <> 0 AND usesysid <> 0 \
             AND coalesce(backend_type, 'client backend') = 'client backend'), \
         count(*) FILTER (WHERE pg_catalog.starts_with(application_name, {MARK_TEXT}) \
             AND application_name <> {name} AND datid = {own}), \
         string_agg(DISTINCT pg_catalog.substr(application_name, {first}), ' ') \
             FILTER (WHERE pg_catalog.starts_with(application_name, {MARK_TEXT})), \
         string_agg(DISTINCT pg_catalog.substr(application_name, {first}), ' ') \
             FILTER (WHERE pg_catalog.starts_with(application_name, {MARK_TEXT}) AND datid = {own}) \
         FROM pg_catalog.pg_stat_get_activity(NULL)",
        name = quoted_text(&name),
        first = MARK.len() + 1,
        MARK_TEXT = quoted_text(MARK),
        own = "(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
    );
    let rows = control.rows(&sql).await?;
    let cell = |at: usize| rows.first().and_then(|row| row.get(at)?.as_deref());
    let number = |at: usize| cell(at).and_then(|it| it.parse::<i64>().ok());
    let count = |at: usize| number(at).and_then(|it| usize::try_from(it.max(0)).ok());
    let (Some(server), Some(usable), Some(taken), Some(others)) =
        (cell(0), count(1), count(2), count(3))
    else {
        return Err(ControlError("a server does not say how many connections it has".into()));
    };
    let seats = Seats { usable, taken };
    let names = |at: usize| cell(at).unwrap_or_default().split(' ').map(str::to_owned).collect();
    let (present, fellows) = (names(4), names(5));
    Ok(Look { server: server.to_owned(), seats, has_others: others > 0, present, fellows })
}

/// How control connections of proxies are called that look for each other.
const MARK: &str = "pgsluice control ";

/// What a proxy claims of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub server: String,
    /// What is held now, and what must not be taken away by others; `granted` is what has been given before.
    pub claim: Claim,
    /// What it would have by its own sum.
    pub wanted: usize,
    pub room: usize,
    pub lost: Lost,
}

/// Proxies that have claims of a server and no connection to it that tells that they live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub members: Vec<String>,
    /// Connections of theirs that the server may have still.
    pub left: usize,
    /// Whoever has renewed its claim within so many seconds lives all the same.
    pub grace_seconds: usize,
}

/// Makes the table.
///
/// # Errors
/// If the user may not.
pub async fn prepare(control: &Control) -> Result<(), ControlError> {
    let sql = format!(
        "CREATE UNLOGGED TABLE IF NOT EXISTS {TABLE} (server text NOT NULL, member text NOT NULL, \
         demand int4 NOT NULL, held int4 NOT NULL, granted int4 NOT NULL, until timestamptz NOT NULL, \
         PRIMARY KEY (server, member)) WITH (fillfactor = 50)"
    );
    control.make(TABLE, &sql).await
}

/// Writes claims down, forgets the dead, and gives all claims on these servers with the seconds of the table's
/// clock. One string is one transaction, and the lock ends with it.
///
/// # Errors
/// If the table cannot be written: nothing was changed, or nobody knows.
pub async fn renew(
    control: &Control,
    wishes: &[Wish],
) -> Result<(u64, Vec<(String, Claim)>), ControlError> {
    let rows = control.rows(&renewal(wishes)).await?;
    let mut seconds = 0;
    let mut claims = Vec::new();
    for row in rows {
        let cell = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let count = |at: usize| cell(at).parse().unwrap_or(0);
        let claim = Claim {
            member: cell(1).to_owned(),
            demand: count(2),
            held: count(3),
            granted: count(4),
        };
        seconds = cell(5).parse().unwrap_or(0);
        claims.push((cell(0).to_owned(), claim));
    }
    Ok((seconds, claims))
}

/// Lost proxies claim no more than what they have left open; what they had is free before their leases end.
fn bury(wish: &Wish) -> String {
    let Lost { members, left, grace_seconds } = &wish.lost;
    if members.is_empty() {
        return String::new();
    }
    let members: Vec<String> = members.iter().map(|it| quoted_text(it)).collect();
    let server = quoted_text(&wish.server);
    let whom = format!(
        "server = {server} AND member IN ({}) AND until < pg_catalog.clock_timestamp() \
         + interval '{LEASE_SECONDS} seconds' - interval '{grace_seconds} seconds'",
        members.join(", ")
    );
    format!(
        "WITH lost AS (SELECT member, greatest(held, granted) AS had, \
             sum(greatest(held, granted)) OVER (ORDER BY until DESC, member) AS upto FROM {TABLE} WHERE {whom}) \
         UPDATE {TABLE} AS b SET demand = 0, granted = 0, \
             held = greatest(0, least(lost.had, {left} - (lost.upto - lost.had))) \
         FROM lost WHERE b.server = {server} AND b.member = lost.member; \
         DELETE FROM {TABLE} WHERE held + granted = 0 AND {whom};"
    )
}

fn renewal(wishes: &[Wish]) -> String {
    let row = |it: &Wish| {
        let Claim { member, demand, held, granted } = &it.claim;
        format!(
            "({}, {}, {demand}, {held}, {granted}, {}, {})",
            quoted_text(&it.server),
            quoted_text(member),
            it.wanted,
            it.room
        )
    };
    let rows: Vec<String> = wishes.iter().map(row).collect();
    let servers: Vec<String> = wishes.iter().map(|it| quoted_text(&it.server)).collect();
    // As `balance::budget::granted`, by the claims of this moment. Whose lease has ended meanwhile keeps what it
    // holds: others may have the rest.
    format!(
        "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('{TABLE}')); \
         DELETE FROM {TABLE} WHERE until < pg_catalog.clock_timestamp(); \
         {} \
         INSERT INTO {TABLE} AS b (server, member, demand, held, granted, until) \
         SELECT w.server, w.member, w.demand, w.held, CASE WHEN w.wanted <= l.granted THEN w.wanted \
             ELSE greatest(l.granted, least(w.wanted, w.room - t.taken)) END, \
             pg_catalog.clock_timestamp() + interval '{LEASE_SECONDS} seconds' \
         FROM (VALUES {}) AS w (server, member, demand, held, granted, wanted, room), \
         LATERAL (SELECT coalesce(sum(greatest(o.held, o.granted)), 0) AS taken FROM {TABLE} o \
             WHERE o.server = w.server AND o.member <> w.member) AS t, \
         LATERAL (SELECT least(w.granted, greatest(w.held, coalesce((SELECT o.granted FROM {TABLE} o \
             WHERE o.server = w.server AND o.member = w.member), 0))) AS granted) AS l \
         ON CONFLICT (server, member) DO UPDATE SET demand = excluded.demand, held = excluded.held, \
             granted = excluded.granted, until = excluded.until; \
         SELECT server, member, demand, held, granted, \
             extract(epoch FROM pg_catalog.clock_timestamp())::int8 \
         FROM {TABLE} WHERE server IN ({})",
        wishes.iter().map(bury).collect::<String>(),
        rows.join(", "),
        servers.join(", ")
    )
}

/// Gives everything back.
///
/// # Errors
/// If the table cannot be written: others wait until the claims are old.
pub async fn leave(control: &Control, member: &str) -> Result<(), ControlError> {
    let sql = format!("DELETE FROM {TABLE} WHERE member = {}", quoted_text(member));
    control.rows(&sql).await.map(drop)
}

/// How proxies share a server, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Proxies that share it, with this one.
    pub proxies: usize,
    /// Pooled connections that it has room for.
    pub room: usize,
    /// Its connections that no proxy has pooled.
    pub foreign: usize,
    /// Connections that this proxy has claimed.
    pub demand: usize,
    /// Why it is not shared.
    pub problem: String,
}

impl Told {
    /// The numbers by name, where the proxy has been granted so many.
    pub fn numbers(&self, granted: Option<usize>) -> [(&'static str, usize); 5] {
        [
            ("proxies", self.proxies),
            ("room", self.room),
            ("foreign", self.foreign),
            ("demand", self.demand),
            ("granted", granted.unwrap_or_default()),
        ]
    }
}
