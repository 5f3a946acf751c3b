//! Sequences that give each number once over all shards: each shard counts in steps of so many, from
//! a first number of its own.
//!
//! ```text
//! as the user wrote it: START 1 INCREMENT 1, with sequence_stride = 32
//! shard 0               START 1 INCREMENT 32      1, 33, 65, …
//! shard 1               START 2 INCREMENT 32      2, 34, 66, …
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::shard::ShardId;

/// A schema and a name.
pub type Name = (String, String);

/// What each shard says of the numbers it gives.
pub type Counters = BTreeMap<ShardId, Counting>;

/// What a shard says of the numbers it gives.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    pub sequences: HashMap<Name, Counter>,
    /// Whether it has `sluice.unique_id()` as made for it.
    pub makes_ids: bool,
    /// The keys over shards for which it has all that keeps them.
    pub keys: BTreeSet<String>,
}

/// A sequence as one shard has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
    /// Where it stands; `None` if that is not known.
    pub place: Option<Place>,
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub last: i64,
    /// Whether `last` was given; otherwise it is the next.
    pub is_called: bool,
}

/// The numbers that all shards give together: `first`, `first + step`, …; each shard steps over
/// `stride` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Series {
    pub first: i64,
    pub step: i64,
    pub stride: i64,
}

/// Why a sequence cannot be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unshared {
    /// Some shard does not have it, or was not asked.
    Missing(ShardId),
    /// Shards have it with other increments.
    Unlike,
    /// It begins again when it is used up.
    Cycles,
    /// The numbers between its bounds do not suffice.
    Narrow,
}

impl Series {
    /// The series of which every shard's sequence is a part, and keeps to it. `None`: two shards may
    /// give one number, or it is not known.
    pub fn of(counters: &BTreeMap<ShardId, Counter>) -> Option<Self> {
        let series = Self::written(counters)?;
        let keeps = |(shard, it): (&ShardId, &Counter)| {
            let next = it.place.map(|it| i128::from(it.last));
            let start = i128::from(series.start(*shard));
            !it.cycle && next.is_some_and(|it| (it - start) % series.increment() == 0)
        };
        counters.iter().all(keeps).then_some(series)
    }

    /// The series that increments and starts alone tell.
    pub fn written(counters: &BTreeMap<ShardId, Counter>) -> Option<Self> {
        let mut all = counters.iter().map(|(shard, it)| (i128::from(shard.0), it));
        let ((low, a), (high, b)) = (all.next()?, all.next_back()?);
        let rise = i128::from(b.start) - i128::from(a.start);
        let step = rise / (high - low);
        if step == 0 || rise % (high - low) != 0 || i128::from(a.increment) % step != 0 {
            return None;
        }
        let series = Self {
            first: i64::try_from(i128::from(a.start) - step * low).ok()?,
            step: i64::try_from(step).ok()?,
            stride: i64::try_from(i128::from(a.increment) / step).ok()?,
        };
        let is_part = |(shard, it): (&ShardId, &Counter)| {
            it.increment == a.increment
                && i128::from(it.start) == i128::from(series.start(*shard))
                && i64::from(shard.0) < series.stride
        };
        counters.iter().all(is_part).then_some(series)
    }

    /// The series that most shards are a part of, where others are not: a shard was added, or changed.
    pub fn guessed(counters: &BTreeMap<ShardId, Counter>) -> Option<Self> {
        let pairs = counters.iter().enumerate().flat_map(|(i, a)| {
            counters.iter().skip(i + 1).map(move |b| [a, b].map(|(shard, it)| (*shard, *it)))
        });
        let of_pair = |pair: [(ShardId, Counter); 2]| Self::written(&BTreeMap::from(pair));
        let parts = |series: &Self| {
            let is_part = |(shard, it): &(&ShardId, &Counter)| {
                i128::from(it.increment) == series.increment() && it.start == series.start(**shard)
            };
            counters.iter().filter(is_part).count()
        };
        pairs.filter_map(of_pair).max_by_key(parts)
    }

    /// What the user means by sequences that are to be shared, in which `known` was the series before
    /// a change: its own start and increment, and the proxy's stride.
    ///
    /// # Errors
    /// What stands against sharing it.
    pub fn meant(
        counters: &BTreeMap<ShardId, Counter>,
        known: Option<Self>,
        stride: i64,
    ) -> Result<Self, Unshared> {
        if counters.values().any(|it| it.cycle) {
            return Err(Unshared::Cycles);
        }
        if let Some(series) = Self::written(counters).filter(|it| it.goes_on(known)) {
            return Ok(series);
        }
        let mut all = counters.values();
        let Some(one) = all.next() else { return Err(Unshared::Unlike) };
        if all.any(|it| it.increment != one.increment) {
            return Err(Unshared::Unlike);
        }
        let is_one_start = counters.values().all(|it| it.start == one.start);
        let first = match known {
            _ if is_one_start => one.start,
            Some(known) => known.first,
            None => return Err(Unshared::Unlike),
        };
        let step = match known {
            Some(known) if known.checked_increment() == Some(one.increment) => known.step,
            _ => one.increment,
        };
        Ok(Self { first, step, stride })
    }

    /// Whether it is not an increment of the user's that makes it differ from what it was.
    pub fn goes_on(&self, known: Option<Self>) -> bool {
        known.is_none_or(|it| it.stride == self.stride)
    }

    fn checked_increment(&self) -> Option<i64> {
        self.step.checked_mul(self.stride)
    }

    /// The increment of every shard.
    pub fn increment(&self) -> i128 {
        i128::from(self.step) * i128::from(self.stride)
    }

    /// The first number of a shard; beyond what a sequence can hold in a hopeless series.
    pub fn start(&self, shard: ShardId) -> i64 {
        let start = i128::from(self.first) + i128::from(self.step) * i128::from(shard.0);
        start.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Whether a shard can count so between the bounds of its sequence.
    ///
    /// # Errors
    /// [`Unshared::Narrow`].
    pub fn check(&self, shard: ShardId, counter: &Counter) -> Result<(), Unshared> {
        let start = i128::from(self.first) + i128::from(self.step) * i128::from(shard.0);
        let (min, max) = (i128::from(counter.min), i128::from(counter.max));
        let fits = self.checked_increment().is_some_and(|it| i128::from(it).abs() <= max - min);
        match fits && (min..=max).contains(&start) {
            true => Ok(()),
            false => Err(Unshared::Narrow),
        }
    }

    /// The shard's first number that is not before `bound`, where `bound` may be far outside of what
    /// a sequence holds.
    pub fn from(&self, shard: ShardId, bound: i128) -> i128 {
        let (start, increment) = (i128::from(self.start(shard)), self.increment());
        let steps = (bound - start).div_euclid(increment);
        let found = start + steps * increment;
        let is_before = if increment > 0 { found < bound } else { found > bound };
        if is_before { found + increment } else { found }
    }

    /// The first number that no shard has given yet; `None` if none has given any and all stand at
    /// their start.
    pub fn unused<'a>(&self, counters: impl IntoIterator<Item = &'a Counter>) -> Option<i128> {
        let sign = i128::from(self.step.signum());
        let next = |it: &Counter| {
            let place = it.place?;
            match place.is_called {
                true => Some(i128::from(place.last) + sign),
                false => (place.last != it.start).then_some(i128::from(place.last)),
            }
        };
        counters.into_iter().filter_map(next).max_by_key(|it| it * sign)
    }
}

/// What a sequence is set to, so that its next number is `next`; one beyond its bounds is none, as
/// `nextval` will tell. `None`: the bounds leave no room for that.
pub fn place_before(next: i128, series: &Series, counter: &Counter) -> Option<Place> {
    let bounds = i128::from(counter.min)..=i128::from(counter.max);
    let last = next - series.increment();
    match (bounds.contains(&next), bounds.contains(&last)) {
        (true, _) => Some(Place { last: next as i64, is_called: false }),
        (false, true) => Some(Place { last: last as i64, is_called: true }),
        (false, false) => None,
    }
}

/// The sequences that are shared by exactly these shards.
pub fn shared(
    counters: &Counters,
    shards: impl Iterator<Item = ShardId> + Clone,
) -> HashMap<Name, Series> {
    let mut found = HashMap::new();
    let Some(one) = shards.clone().next().and_then(|it| counters.get(&it)) else { return found };
    for name in one.sequences.keys() {
        let of = |shard: ShardId| Some((shard, *counters.get(&shard)?.sequences.get(name)?));
        let all: Option<BTreeMap<ShardId, Counter>> = shards.clone().map(of).collect();
        if let Some(series) = all.as_ref().and_then(Series::of) {
            found.insert(name.clone(), series);
        }
    }
    found
}

#[cfg(test)]
mod tests;
