//! Which shard owns a bucket or a tenant.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;

use super::Key;

/// A shard's id as written in the TOML, 0 to 127.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

impl ShardId {
    /// Ids are below this, so that a set of shards fits a machine word pair.
    pub const LIMIT: u8 = 128;
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of shards, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u128);

impl ShardSet {
    /// The set of one shard.
    pub fn one(shard: ShardId) -> Self {
        Self(1 << shard.0)
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard.0;
    }

    /// The shards of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the shard is in the set.
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 >> shard.0 & 1 == 1
    }

    /// The number of shards.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards, by rising id.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..ShardId::LIMIT).filter(move |bit| self.0 >> bit & 1 == 1).map(ShardId)
    }

    /// The only shard, if there is exactly one.
    pub fn single(self) -> Option<ShardId> {
        (self.len() == 1).then(|| ShardId(self.0.trailing_zeros() as u8))
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        shards.into_iter().fold(Self::default(), |set, shard| set.union(Self::one(shard)))
    }
}

impl fmt::Display for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, shard) in self.iter().enumerate() {
            write!(f, "{}{shard}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Why ranges are no map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    #[error("buckets {first}-{last} belong to no shard")]
    Gap { first: u8, last: u8 },
    #[error("bucket {bucket} belongs to shard {one} and to shard {other}")]
    Overlap { bucket: u8, one: ShardId, other: ShardId },
}

/// Which shard owns a tenant: its bucket decides, unless the tenant has an override. Every bucket
/// has exactly one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    buckets: Box<[ShardId; 256]>,
    overrides: BTreeMap<Box<str>, ShardId>,
    all: ShardSet,
}

impl Map {
    /// A map from bucket ranges and exceptions by canonical tenant key.
    ///
    /// # Errors
    /// Every gap and every first overlapping bucket.
    pub fn new(
        ranges: &[(RangeInclusive<u8>, ShardId)],
        overrides: BTreeMap<Box<str>, ShardId>,
    ) -> Result<Self, Vec<MapError>> {
        let (mut owners, mut errors) = ([None; 256], Vec::new());
        for (range, shard) in ranges {
            let mut told = false;
            for bucket in range.clone() {
                match owners[usize::from(bucket)] {
                    Some(one) if !told => {
                        errors.push(MapError::Overlap { bucket, one, other: *shard });
                        told = true;
                    }
                    Some(_) => (),
                    None => owners[usize::from(bucket)] = Some(*shard),
                }
            }
        }
        errors.extend(gaps(&owners));
        if !errors.is_empty() {
            return Err(errors);
        }
        let buckets = Box::new(owners.map(|owner| owner.expect("gaps were reported")));
        let all = buckets.iter().chain(overrides.values()).copied().collect();
        Ok(Self { buckets, overrides, all })
    }

    /// A map that gives everything to one shard.
    pub fn single(shard: ShardId) -> Self {
        Self {
            buckets: Box::new([shard; 256]),
            overrides: BTreeMap::new(),
            all: ShardSet::one(shard),
        }
    }

    /// The shard that holds this tenant's rows.
    pub fn owner(&self, key: &Key) -> ShardId {
        match self.overrides.get(key.as_str()) {
            Some(shard) => *shard,
            None => self.bucket_owner(key.bucket()),
        }
    }

    /// The shard that owns a bucket, tenant overrides aside.
    pub fn bucket_owner(&self, bucket: u8) -> ShardId {
        self.buckets[usize::from(bucket)]
    }

    /// The exceptions, by canonical tenant key.
    pub fn overrides(&self) -> &BTreeMap<Box<str>, ShardId> {
        &self.overrides
    }

    /// Every shard that owns a bucket or a tenant.
    pub fn shards(&self) -> ShardSet {
        self.all
    }
}

fn gaps(owners: &[Option<ShardId>; 256]) -> Vec<MapError> {
    let mut gaps: Vec<(u8, u8)> = Vec::new();
    for bucket in (0..=255_u8).filter(|it| owners[usize::from(*it)].is_none()) {
        match gaps.last_mut() {
            Some((_, last)) if *last + 1 == bucket => *last = bucket,
            _ => gaps.push((bucket, bucket)),
        }
    }
    gaps.into_iter().map(|(first, last)| MapError::Gap { first, last }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::KeyType;

    #[test]
    fn every_gap_and_overlap_is_told() {
        let ranges = [(0..=99, ShardId(0)), (90..=110, ShardId(1)), (120..=200, ShardId(2))];
        let errors = Map::new(&ranges, BTreeMap::new()).unwrap_err();
        assert_eq!(
            errors,
            [
                MapError::Overlap { bucket: 90, one: ShardId(0), other: ShardId(1) },
                MapError::Gap { first: 111, last: 119 },
                MapError::Gap { first: 201, last: 255 },
            ]
        );
    }

    #[test]
    fn overrides_win() {
        let ranges = [(0..=127, ShardId(0)), (128..=255, ShardId(1))];
        let map = Map::new(&ranges, BTreeMap::from([("acme".into(), ShardId(5))])).unwrap();
        let owner = |key| map.owner(&Key::from_text(KeyType::Text, key).unwrap());
        assert_eq!(owner("acme"), ShardId(5));
        assert_eq!(owner("1"), ShardId(1)); // md5('1') begins with c4
        assert_eq!(map.shards().to_string(), "0, 1, 5");
    }
}
