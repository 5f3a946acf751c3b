//! What clients did and were told, and what in it cannot be on one Postgres: without IO or clocks.
//!
//! Each tenant has a list, and each item is appended once. Lists are written under a lock of their row, so
//! all reads of one are beginnings of its last state, and that state orders all transactions (the idea is
//! Elle's, of Jepsen).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

pub type Tenant = u32;
pub type Item = u64;

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    pub proxy: usize,
    /// Before it was sent and after it was answered, in microseconds.
    pub begun: u64,
    pub ended: u64,
    pub what: What,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum What {
    /// One transaction that appends to these lists.
    Append(Vec<(Tenant, Item)>),
    /// A list as it was read; `token`: an item of a write whose token was carried to it.
    Read { tenant: Tenant, items: Vec<Item>, token: Option<Item> },
    /// The sum of rows that transfers within the tenant leave as it is, and what it has to be.
    Sum { tenant: Tenant, sum: i64, expected: i64 },
}

/// What a client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It did not happen.
    Failed,
    /// The answer was lost.
    Unknown,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A write that was acknowledged is not there in the end.
    Lost {
        tenant: Tenant,
        item: Item,
    },
    /// A read through the same proxy, or with the write's token, did not see an acknowledged write.
    Stale {
        tenant: Tenant,
        item: Item,
        op: usize,
    },
    /// A read through the same proxy did not see what an earlier one saw, of what came through that proxy.
    BackInTime {
        tenant: Tenant,
        item: Item,
        op: usize,
    },
    /// What was read is no beginning of the list.
    NoPrefix {
        tenant: Tenant,
        op: usize,
    },
    Duplicate {
        tenant: Tenant,
        item: Item,
    },
    /// An item is there whose append has failed.
    Aborted {
        tenant: Tenant,
        item: Item,
    },
    /// An item is there that nobody appended.
    Invented {
        tenant: Tenant,
        item: Item,
    },
    /// A transaction happened on one list and not on another.
    Torn {
        item: Item,
    },
    /// An item stands before one that was acknowledged before it was appended.
    Disorder {
        tenant: Tenant,
        item: Item,
    },
    /// Two lists order two transactions in two ways.
    Cycle {
        item: Item,
    },
    Sum {
        tenant: Tenant,
        sum: i64,
        op: usize,
    },
}

impl Anomaly {
    /// What kind it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost write",
            Self::Stale { .. } => "stale read",
            Self::BackInTime { .. } => "read back in time",
            Self::NoPrefix { .. } => "read of another order",
            Self::Duplicate { .. } => "write done twice",
            Self::Aborted { .. } => "aborted write seen",
            Self::Invented { .. } => "invented item",
            Self::Torn { .. } => "half transaction",
            Self::Disorder { .. } => "write before an earlier one",
            Self::Cycle { .. } => "circle of transactions",
            Self::Sum { .. } => "wrong sum",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:?}", self.kind())
    }
}

/// The last state of every list.
pub type Lists = BTreeMap<Tenant, Vec<Item>>;

/// Everything that is wrong.
pub fn check(ops: &[Op], lists: &Lists) -> Vec<Anomaly> {
    let appends = Appends::of(ops);
    let (mut reads, mut found) = (BTreeMap::<Tenant, Vec<Read<'_>>>::new(), Vec::new());
    for (at, op) in ops.iter().enumerate().filter(|(_, op)| op.outcome == Outcome::Done) {
        match &op.what {
            What::Read { tenant, items, token } => {
                let token = *token;
                reads.entry(*tenant).or_default().push(Read { at, op, items, token });
            }
            What::Sum { tenant, sum, expected } if sum != expected => {
                found.push(Anomaly::Sum { tenant: *tenant, sum: *sum, op: at });
            }
            What::Sum { .. } | What::Append(_) => (),
        }
    }
    let tenants: BTreeSet<Tenant> = lists.keys().chain(reads.keys()).copied().collect();
    for tenant in tenants {
        let items = lists.get(&tenant).map_or(&[][..], |it| it);
        let list = List::new(tenant, items, &appends);
        list.check_items(&mut found);
        list.check_order(&mut found);
        list.check_reads(reads.get(&tenant).map_or(&[][..], |it| it), &mut found);
    }
    appends.check_whole(lists, &mut found);
    check_circles(lists, &appends, &mut found);
    found.sort();
    found.dedup();
    found
}

/// A read that was answered; `at`: which operation.
struct Read<'a> {
    at: usize,
    op: &'a Op,
    items: &'a [Item],
    token: Option<Item>,
}

/// Who appended an item, and the transaction's first item, which names it.
struct Append<'a> {
    op: &'a Op,
    transaction: Item,
}

struct Appends<'a> {
    by_item: HashMap<(Tenant, Item), Append<'a>>,
    transactions: Vec<(&'a Op, &'a [(Tenant, Item)])>,
}

impl<'a> Appends<'a> {
    fn of(ops: &'a [Op]) -> Self {
        let writes = |op: &'a Op| match &op.what {
            What::Append(writes) => Some((op, &writes[..])),
            _ => None,
        };
        let transactions: Vec<_> = ops.iter().filter_map(writes).collect();
        let mut by_item = HashMap::new();
        for (op, writes) in &transactions {
            let transaction = writes[0].1;
            by_item.extend(writes.iter().map(|it| (*it, Append { op, transaction })));
        }
        Self { by_item, transactions }
    }

    /// Transactions are there as a whole or not at all, and those acknowledged are there.
    fn check_whole(&self, lists: &Lists, found: &mut Vec<Anomaly>) {
        let there: HashSet<(Tenant, Item)> =
            lists.iter().flat_map(|(it, items)| items.iter().map(|item| (*it, *item))).collect();
        for (op, writes) in &self.transactions {
            let count = writes.iter().filter(|it| there.contains(it)).count();
            if count != 0 && count != writes.len() {
                found.push(Anomaly::Torn { item: writes[0].1 });
            }
            if op.outcome == Outcome::Done {
                let gone = writes.iter().filter(|it| !there.contains(it));
                found.extend(gone.map(|it| Anomaly::Lost { tenant: it.0, item: it.1 }));
            }
        }
    }
}

/// One list, with who appended what.
struct List<'a> {
    tenant: Tenant,
    items: &'a [Item],
    place: HashMap<Item, usize>,
    appends: &'a Appends<'a>,
}

impl<'a> List<'a> {
    fn new(tenant: Tenant, items: &'a [Item], appends: &'a Appends<'a>) -> Self {
        let place = items.iter().enumerate().map(|(at, item)| (*item, at)).collect();
        Self { tenant, items, place, appends }
    }

    fn append(&self, item: Item) -> Option<&Append<'a>> {
        self.appends.by_item.get(&(self.tenant, item))
    }

    fn check_items(&self, found: &mut Vec<Anomaly>) {
        let tenant = self.tenant;
        for (at, item) in self.items.iter().copied().enumerate() {
            if self.place[&item] != at {
                found.push(Anomaly::Duplicate { tenant, item });
            }
            self.check_item(item, found);
        }
    }

    fn check_item(&self, item: Item, found: &mut Vec<Anomaly>) {
        let tenant = self.tenant;
        match self.append(item) {
            None => found.push(Anomaly::Invented { tenant, item }),
            Some(it) if it.op.outcome == Outcome::Failed => {
                found.push(Anomaly::Aborted { tenant, item });
            }
            Some(_) => (),
        }
    }

    /// What was acknowledged before another append began stands before it.
    fn check_order(&self, found: &mut Vec<Anomaly>) {
        let mut first_end = u64::MAX;
        for item in self.items.iter().copied().rev() {
            let Some(it) = self.append(item) else { continue };
            if it.op.begun > first_end {
                found.push(Anomaly::Disorder { tenant: self.tenant, item });
            }
            if it.op.outcome == Outcome::Done {
                first_end = first_end.min(it.op.ended);
            }
        }
    }

    fn check_reads(&self, reads: &[Read<'_>], found: &mut Vec<Anomaly>) {
        let (tenant, written, seen) = (self.tenant, self.written(), self.seen(reads));
        for Read { at, op, items, token } in reads {
            if !self.items.starts_with(items) {
                found.push(Anomaly::NoPrefix { tenant, op: *at });
                items.iter().for_each(|it| self.check_item(*it, found));
                let mut once = HashSet::new();
                let twice = items.iter().filter(|it| !once.insert(**it));
                found.extend(twice.map(|it| Anomaly::Duplicate { tenant, item: *it }));
                continue;
            }
            let misses = |place: Option<usize>| place.filter(|it| *it >= items.len());
            let token = token.and_then(|it| self.place.get(&it).copied());
            let of_proxy = |known: &BTreeMap<usize, Marks>| {
                known.get(&op.proxy).and_then(|it| it.before(op.begun))
            };
            if let Some(place) = misses(of_proxy(&written)).or(misses(token)) {
                found.push(Anomaly::Stale { tenant, item: self.items[place], op: *at });
            } else if let Some(place) = misses(of_proxy(&seen)) {
                found.push(Anomaly::BackInTime { tenant, item: self.items[place], op: *at });
            }
        }
    }

    /// By proxy: how far the list was acknowledged to have got, and when.
    fn written(&self) -> BTreeMap<usize, Marks> {
        let mut known: BTreeMap<usize, Marks> = BTreeMap::new();
        for (place, item) in self.items.iter().enumerate() {
            if let Some(it) = self.append(*item).filter(|it| it.op.outcome == Outcome::Done) {
                known.entry(it.op.proxy).or_default().0.push((it.op.ended, place));
            }
        }
        known.values_mut().for_each(Marks::settle);
        known
    }

    /// By proxy: the last item of that proxy's own that was read through it, and when.
    fn seen(&self, reads: &[Read<'_>]) -> BTreeMap<usize, Marks> {
        let mut seen: BTreeMap<usize, Marks> = BTreeMap::new();
        for Read { op, items, .. } in reads.iter().filter(|it| self.items.starts_with(it.items)) {
            let is_own = |item: &Item| self.append(*item).is_some_and(|it| it.op.proxy == op.proxy);
            if let Some(place) = items.iter().rposition(is_own) {
                seen.entry(op.proxy).or_default().0.push((op.ended, place));
            }
        }
        seen.values_mut().for_each(Marks::settle);
        seen
    }
}

/// Moments, and the place in the list that is known from then on.
#[derive(Default)]
struct Marks(Vec<(u64, usize)>);

impl Marks {
    fn settle(&mut self) {
        self.0.sort_unstable();
        let mut last = 0;
        for (_, place) in &mut self.0 {
            last = last.max(*place);
            *place = last;
        }
    }

    fn before(&self, moment: u64) -> Option<usize> {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map(|it| self.0[it].1)
    }
}

/// Each list says which transaction came before which: together there must be an order.
fn check_circles(lists: &Lists, appends: &Appends<'_>, found: &mut Vec<Anomaly>) {
    let mut after: HashMap<Item, Vec<Item>> = HashMap::new();
    let mut incoming: BTreeMap<Item, usize> = BTreeMap::new();
    for (tenant, items) in lists {
        let of = |item: &Item| appends.by_item.get(&(*tenant, *item)).map(|it| it.transaction);
        let order: Vec<Item> = items.iter().filter_map(of).collect();
        order.iter().for_each(|it| *incoming.entry(*it).or_default() += 0);
        for pair in order.windows(2).filter(|it| it[0] != it[1]) {
            after.entry(pair[0]).or_default().push(pair[1]);
            *incoming.entry(pair[1]).or_default() += 1;
        }
    }
    let mut free: Vec<Item> =
        incoming.iter().filter(|(_, count)| **count == 0).map(|(it, _)| *it).collect();
    while let Some(next) = free.pop() {
        incoming.remove(&next);
        for it in after.remove(&next).unwrap_or_default() {
            let Some(count) = incoming.get_mut(&it) else { continue };
            *count -= 1;
            if *count == 0 {
                free.push(it);
            }
        }
    }
    found.extend(incoming.keys().next().map(|it| Anomaly::Cycle { item: *it }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Done, Failed, Unknown};

    fn append(proxy: usize, at: (u64, u64), outcome: Outcome, writes: &[(Tenant, Item)]) -> Op {
        Op { proxy, begun: at.0, ended: at.1, what: What::Append(writes.to_vec()), outcome }
    }

    fn read(proxy: usize, at: (u64, u64), tenant: Tenant, items: &[Item]) -> Op {
        let what = What::Read { tenant, items: items.to_vec(), token: None };
        Op { proxy, begun: at.0, ended: at.1, what, outcome: Done }
    }

    fn kinds(ops: &[Op], lists: &[(Tenant, &[Item])]) -> Vec<&'static str> {
        let lists = lists.iter().map(|(tenant, items)| (*tenant, items.to_vec())).collect();
        check(ops, &lists).iter().map(Anomaly::kind).collect()
    }

    #[test]
    fn a_sound_history() {
        let ops = [
            append(0, (0, 10), Done, &[(1, 1)]),
            append(1, (5, 20), Unknown, &[(1, 2), (2, 2)]),
            append(1, (5, 20), Unknown, &[(1, 9)]),
            append(0, (21, 30), Done, &[(1, 3), (2, 3)]),
            append(0, (21, 22), Failed, &[(1, 8)]),
            read(0, (11, 12), 1, &[1]),
            read(0, (12, 40), 1, &[1, 2, 3]),
            // Through another proxy reads may be older, also than an earlier read.
            read(1, (31, 32), 1, &[1, 2]),
            read(1, (33, 34), 1, &[1, 2]),
            read(1, (35, 36), 2, &[2]),
        ];
        assert!(kinds(&ops, &[(1, &[1, 2, 3]), (2, &[2, 3])]).is_empty());
    }

    #[test]
    fn lost_updates() {
        let ops = [append(0, (0, 1), Done, &[(1, 1)]), append(0, (2, 3), Done, &[(1, 2)])];
        assert_eq!(kinds(&ops, &[(1, &[2])]), ["lost write"]);
    }

    #[test]
    fn stale_reads() {
        let mut ops = vec![append(0, (0, 10), Done, &[(1, 1)]), read(0, (11, 12), 1, &[])];
        assert_eq!(kinds(&ops, &[(1, &[1])]), ["stale read"]);
        ops[1] = read(0, (9, 12), 1, &[]);
        assert!(kinds(&ops, &[(1, &[1])]).is_empty(), "at the same time");
        ops[1] = read(1, (11, 12), 1, &[]);
        assert!(kinds(&ops, &[(1, &[1])]).is_empty(), "through the other proxy");
        let What::Read { token, .. } = &mut ops[1].what else { unreachable!() };
        *token = Some(1);
        assert_eq!(kinds(&ops, &[(1, &[1])]), ["stale read"], "with its token");
    }

    #[test]
    fn reads_back_in_time() {
        let ops = [
            append(0, (0, 90), Unknown, &[(1, 1)]),
            read(0, (10, 20), 1, &[1]),
            read(0, (21, 30), 1, &[]),
        ];
        assert_eq!(kinds(&ops, &[(1, &[1])]), ["read back in time"]);
    }

    #[test]
    fn aborted_and_invented_items() {
        let ops = [append(0, (0, 1), Failed, &[(1, 1)]), append(0, (2, 3), Done, &[(1, 2)])];
        assert_eq!(kinds(&ops, &[(1, &[1, 2, 7])]), ["aborted write seen", "invented item"]);
        // Seen once, gone later.
        let ops = [append(0, (0, 1), Failed, &[(1, 1)]), read(0, (2, 3), 1, &[1])];
        assert_eq!(kinds(&ops, &[(1, &[])]), ["read of another order", "aborted write seen"]);
    }

    #[test]
    fn other_orders_and_duplicates() {
        let ops = [
            append(0, (0, 9), Done, &[(1, 1)]),
            append(0, (0, 9), Done, &[(1, 2)]),
            read(0, (10, 11), 1, &[2, 1]),
        ];
        assert_eq!(kinds(&ops, &[(1, &[1, 2])]), ["read of another order"]);
        assert_eq!(kinds(&ops[..2], &[(1, &[1, 2, 1])])[0], "write done twice");
        let early = [append(0, (0, 1), Done, &[(1, 1)]), append(0, (2, 3), Done, &[(1, 2)])];
        assert_eq!(kinds(&early, &[(1, &[2, 1])]), ["write before an earlier one"]);
    }

    #[test]
    fn torn_and_circular_transactions() {
        let ops = [
            append(0, (0, 9), Unknown, &[(1, 1), (2, 1)]),
            append(0, (0, 9), Done, &[(1, 2), (2, 2)]),
        ];
        assert_eq!(kinds(&ops, &[(1, &[1, 2]), (2, &[2])]), ["half transaction"]);
        assert_eq!(kinds(&ops, &[(1, &[1, 2]), (2, &[2, 1])]), ["circle of transactions"]);
    }

    #[test]
    fn wrong_sums() {
        let what = What::Sum { tenant: 1, sum: 93, expected: 100 };
        let ops = [Op { proxy: 0, begun: 0, ended: 1, what, outcome: Done }];
        assert_eq!(kinds(&ops, &[]), ["wrong sum"]);
    }
}
