//! Deadlocks over several shards: each server sees its own waits only, so that a circle over two of them
//! would last for ever. Transactions that reach a second shard carry a mark, a shared advisory lock that
//! tells which backends of the shards belong together, also those of other proxies.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{PgError, sqlstate};
use crate::pool::cluster::{Database, Shard};
use crate::pool::control::ControlError;
use crate::shard::ShardId;

/// The first key of marks among advisory locks; the mark itself is the second one.
const CLASS: i32 = 0x736c_7569;

/// What marks a transaction on a server.
pub fn mark_sql(mark: i32) -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock_shared({CLASS}, {mark})")
}

/// Who waits, and whom for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A transaction with this mark.
    Marked(i32),
    /// A backend without one.
    Backend(ShardId, i32),
}

/// A wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub shard: ShardId,
    pub of: Party,
    pub on: Party,
}

/// All waits for locks on the primaries of a database.
///
/// # Errors
/// If a shard cannot be asked.
pub async fn waits(database: &Database) -> Result<Vec<Wait>, ControlError> {
    let mut found = Vec::new();
    for shard in database.shards.values() {
        found.extend(waits_on(shard).await?);
    }
    Ok(found)
}

async fn waits_on(shard: &Shard) -> Result<Vec<Wait>, ControlError> {
    let sql = format!(
        "WITH waits AS (SELECT DISTINCT pid, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) AS by \
           FROM pg_catalog.pg_locks WHERE NOT granted AND pid IS NOT NULL), \
         marks AS (SELECT pid, min(objid::int8::bit(32)::int4) AS mark FROM pg_catalog.pg_locks \
           WHERE locktype = 'advisory' AND classid = {CLASS} AND objsubid = 2 AND granted \
           AND pid IS NOT NULL GROUP BY pid) \
         SELECT w.pid, a.mark, w.by, b.mark FROM waits w \
           LEFT JOIN marks a ON a.pid = w.pid LEFT JOIN marks b ON b.pid = w.by WHERE w.by <> 0"
    );
    let rows = shard.primary.control.rows(&sql).await?;
    let number = |cell: &Option<String>| cell.as_ref().and_then(|it| it.parse::<i32>().ok());
    let party = |pid: &Option<String>, mark: &Option<String>| match number(mark) {
        Some(mark) => Some(Party::Marked(mark)),
        None => number(pid).map(|pid| Party::Backend(shard.id, pid)),
    };
    let wait = |row: &Vec<Option<String>>| {
        let [pid, mark, by, by_mark] = row.as_slice() else { return None };
        Some(Wait { shard: shard.id, of: party(pid, mark)?, on: party(by, by_mark)? })
    };
    Ok(rows.iter().filter_map(wait).collect())
}

/// The transactions to end so that no circle over several shards is left: of each circle the one with the
/// largest mark, whichever proxy looks. With them the shards of the circle.
pub fn victims(waits: &[Wait]) -> BTreeMap<i32, BTreeSet<ShardId>> {
    let marked: BTreeSet<i32> = waits.iter().filter_map(|it| mark(it.of)).collect();
    let reached: BTreeMap<i32, BTreeSet<Party>> =
        marked.iter().map(|it| (*it, reach(waits, Party::Marked(*it)))).collect();
    let mut found = BTreeMap::new();
    for (own, parties) in &reached {
        if !parties.contains(&Party::Marked(*own)) {
            continue;
        }
        // Those it reaches and that reach it.
        let is_in = |it: &Party| {
            parties.contains(it)
                && match it {
                    Party::Marked(mark) => {
                        reached.get(mark).is_some_and(|it| it.contains(&Party::Marked(*own)))
                    }
                    Party::Backend(..) => reach(waits, *it).contains(&Party::Marked(*own)),
                }
        };
        let circle: Vec<&Wait> = waits.iter().filter(|it| is_in(&it.of) && is_in(&it.on)).collect();
        let shards: BTreeSet<ShardId> = circle.iter().map(|it| it.shard).collect();
        let largest = circle.iter().filter_map(|it| mark(it.of)).max();
        if shards.len() > 1 && largest == Some(*own) {
            found.insert(*own, shards);
        }
    }
    found
}

fn mark(party: Party) -> Option<i32> {
    match party {
        Party::Marked(mark) => Some(mark),
        Party::Backend(..) => None,
    }
}

/// All that a party waits for, directly or not.
fn reach(waits: &[Wait], from: Party) -> BTreeSet<Party> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(party) = next.pop() {
        for wait in waits.iter().filter(|it| it.of == party) {
            if found.insert(wait.on) {
                next.push(wait.on);
            }
        }
    }
    found
}

/// What the client of the ended transaction gets.
pub fn error(shards: &BTreeSet<ShardId>) -> PgError {
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    PgError::new(sqlstate::DEADLOCK_DETECTED, "deadlock detected")
        .detail(format!(
            "transactions wait for each other's locks on shards {}",
            shards.join(" and ")
        ))
        .hint("ROLLBACK and run the transaction again; take locks of several tenants in one order")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Party = Party::Marked(1);
    const B: Party = Party::Marked(2);
    const C: Party = Party::Marked(3);

    fn wait(shard: u8, of: Party, on: Party) -> Wait {
        Wait { shard: ShardId(shard), of, on }
    }

    fn marks(waits: &[Wait]) -> Vec<i32> {
        victims(waits).into_keys().collect()
    }

    #[test]
    fn one_transaction_of_each_circle_over_shards_is_ended() {
        assert_eq!(marks(&[wait(0, A, B), wait(1, B, A)]), [2]);
        assert_eq!(marks(&[wait(0, A, B), wait(1, B, C), wait(2, C, A)]), [3]);
        let stranger = Party::Backend(ShardId(1), 77);
        assert_eq!(marks(&[wait(0, A, B), wait(1, B, stranger), wait(1, stranger, A)]), [2]);
    }

    #[test]
    fn queues_and_circles_of_one_server_are_left_alone() {
        assert!(marks(&[wait(0, A, B), wait(1, C, A)]).is_empty());
        // The server finds this one itself.
        assert!(marks(&[wait(0, A, B), wait(0, B, A)]).is_empty());
        // C only waits for those in the circle.
        assert_eq!(marks(&[wait(0, A, B), wait(1, B, A), wait(1, C, A)]), [2]);
    }
}
