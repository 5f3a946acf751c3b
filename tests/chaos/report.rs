//! What a run has shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::history::{self, Anomaly, Op, Outcome, Tenant, What};
use super::plan::PROXIES;
use super::site::{ACCOUNTS, CENTS, Promotion, Site};
use super::workload::Workload;

/// The numbers of a run, and what is wrong.
pub struct Report {
    seed: u64,
    lasted: Duration,
    outcomes: BTreeMap<&'static str, usize>,
    on_replicas: u64,
    errors: BTreeMap<String, (usize, BTreeSet<String>)>,
    anomalies: Vec<String>,
    kinds: BTreeMap<&'static str, usize>,
    money: i64,
    orphans: Duration,
    failovers: Vec<Failover>,
    panicked: bool,
}

/// How long after a kill a promotion is at work.
const FAILOVER: Duration = Duration::from_millis(900);

/// A promotion, and how long nothing could be written to its shard.
struct Failover {
    shard: usize,
    promotion: Duration,
    without_writes: Duration,
}

impl Report {
    /// Of a site that was healed.
    pub fn of(site: &Site, workload: Workload, promotions: &[Promotion], seed: u64) -> Self {
        let lasted = workload.begun.elapsed();
        let orphans = site.wait_for_orphans();
        let lists = site.lists();
        let ops = workload.ops.into_inner().unwrap();
        let found = history::check(&ops, &lists);
        let mut kinds = BTreeMap::from([("lost write", 0), ("stale read", 0)]);
        found.iter().for_each(|it| *kinds.entry(it.kind()).or_default() += 1);
        let shard_of = site.shards_of(&lists);
        let failover = |it: &Promotion| {
            let killed = it.killed.duration_since(workload.begun);
            Failover {
                shard: it.shard,
                promotion: it.took,
                without_writes: without_writes(&ops, killed, |tenant| {
                    shard_of.get(&tenant) == Some(&it.shard)
                }),
            }
        };
        let mut outcomes = BTreeMap::new();
        ops.iter().for_each(|it| *outcomes.entry(name_of(it)).or_default() += 1);
        Self {
            seed,
            lasted,
            outcomes,
            on_replicas: workload.on_replicas.load(Ordering::Relaxed),
            errors: workload.errors.into_inner().unwrap(),
            anomalies: found.iter().take(20).map(|it| told(it, &ops)).collect(),
            kinds,
            money: site.money(),
            orphans,
            failovers: promotions.iter().map(failover).collect(),
            panicked: (0..PROXIES).any(|it| site.log(it).contains("panicked")),
        }
    }

    /// Panics if anything is wrong.
    pub fn check(&self) {
        assert!(self.anomalies.is_empty(), "seed {}: {:#?}", self.seed, self.anomalies);
        assert_eq!(self.money, CENTS * i64::from(ACCOUNTS), "money was lost or made");
        assert!(!self.panicked, "a proxy has panicked");
        assert!(self.outcomes.get("appends done").is_some_and(|it| *it > 100), "{self}");
    }
}

fn name_of(op: &Op) -> &'static str {
    match (&op.what, op.outcome) {
        (What::Append(_), Outcome::Done) => "appends done",
        (What::Append(_), Outcome::Failed) => "appends failed",
        (What::Append(_), Outcome::Unknown) => "appends in doubt",
        (What::Read { token: Some(_), .. }, _) => "reads with a token",
        (What::Read { .. }, _) => "reads",
        (What::Sum { .. }, _) => "sums",
    }
}

/// The longest time after the kill in which no write of the shard was acknowledged.
fn without_writes(ops: &[Op], killed: Duration, is_of: impl Fn(Tenant) -> bool) -> Duration {
    let is_written = |op: &&Op| match &op.what {
        What::Append(writes) => op.outcome == Outcome::Done && writes.iter().any(|it| is_of(it.0)),
        _ => false,
    };
    let from = killed.as_micros() as u64;
    let mut ends: Vec<u64> = ops.iter().filter(is_written).map(|it| it.ended).collect();
    ends.sort_unstable();
    let around = |pair: &&[u64]| pair[1] > from && pair[0] < from + FAILOVER.as_micros() as u64;
    let gaps = ends.windows(2).filter(around).map(|pair| pair[1] - pair[0].max(from));
    gaps.max().map_or(Duration::MAX, Duration::from_micros)
}

fn told(it: &Anomaly, ops: &[Op]) -> String {
    let (Anomaly::Stale { op, .. }
    | Anomaly::BackInTime { op, .. }
    | Anomaly::NoPrefix { op, .. }
    | Anomaly::Sum { op, .. }) = it
    else {
        let item = match it {
            Anomaly::Lost { item, .. }
            | Anomaly::Duplicate { item, .. }
            | Anomaly::Aborted { item, .. }
            | Anomaly::Torn { item }
            | Anomaly::Disorder { item, .. } => *item,
            _ => return it.to_string(),
        };
        let of =
            |it: &&Op| matches!(&it.what, What::Append(all) if all.iter().any(|it| it.1 == item));
        return format!("{it}: {:?}", ops.iter().find(of));
    };
    format!("{it}: {:?}", ops[*op])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.outcomes.values().sum();
        writeln!(
            f,
            "seed {}: {total} operations in {:.0} s",
            self.seed,
            self.lasted.as_secs_f64()
        )?;
        for (name, count) in &self.outcomes {
            writeln!(f, "  {count:8}  {name}")?;
        }
        writeln!(f, "  {:8}  reads were served by replicas", self.on_replicas)?;
        for (code, (count, texts)) in &self.errors {
            writeln!(f, "{count:>10}  errors {code}")?;
            texts
                .iter()
                .filter(|it| !it.is_empty())
                .try_for_each(|it| writeln!(f, "            {it}"))?;
        }
        for it in &self.failovers {
            let Failover { shard, promotion, without_writes } = it;
            writeln!(
                f,
                "shard {shard}: promoted after {promotion:.2?}, no writes for {without_writes:.2?}"
            )?;
        }
        writeln!(f, "nothing was left prepared {:.1?} after the last fault", self.orphans)?;
        for (kind, count) in &self.kinds {
            writeln!(f, "  {count:8}  {kind}")?;
        }
        self.anomalies.iter().try_for_each(|it| writeln!(f, "{it}"))?;
        writeln!(f, "money: {} of {}", self.money, CENTS * i64::from(ACCOUNTS))?;
        Ok(())
    }
}
