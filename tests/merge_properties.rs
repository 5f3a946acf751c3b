//! Random rows through a [`Merge`] and through the plainest code that does the same.
//! `SEED=… cargo test` repeats a run.

#![allow(clippy::unwrap_used)] // a test may panic in its helpers, too

#[path = "support/random.rs"]
mod random;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::BytesMut;
use pgsluice::merge::{
    Aggregate, ColumnAt, ColumnInfo, Group, Limits, Merge, MergeSpec, SortKey, Step,
};
use pgsluice::wire::{backend, frame};
use random::Random;

type Value = Option<i64>;
type Row = Vec<Value>;

struct Case {
    spec: MergeSpec,
    width: usize,
    formats: Vec<i16>,
    /// By shard.
    rows: Vec<Vec<Row>>,
    limit: Option<i64>,
    offset: i64,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let hidden = random.below(3);
        let width = 1 + random.below(3) + hidden;
        let mut spec = MergeSpec { hidden, ..MergeSpec::default() };
        if random.chance(3) {
            spec.group = Some(group(random, width));
        }
        spec.distinct = random.chance(4);
        // Hidden sort keys of DISTINCT are not SQL.
        let sortable = if spec.distinct { width - hidden } else { width };
        if random.chance(2) {
            spec.sort = (0..1 + random.below(2))
                .map(|_| sort_key(random, sortable, width - hidden))
                .collect();
        }
        let mut rows: Vec<Vec<Row>> = (0..1 + random.below(5))
            .map(|_| (0..random.below(12)).map(|_| row(random, width)).collect())
            .collect();
        match &spec.group {
            Some(group) if group.keys.is_empty() => rows.iter_mut().for_each(|rows| {
                rows.resize_with(1, || row(random, width));
            }),
            Some(_) => {}
            None if !spec.distinct => {
                rows.iter_mut().for_each(|rows| rows.sort_by(|a, b| compare(&spec, width, a, b)));
            }
            None => {}
        }
        Self {
            spec,
            width,
            formats: (0..width).map(|_| random.below(2) as i16).collect(),
            rows,
            limit: random.chance(2).then(|| random.below(20) as i64),
            offset: if random.chance(2) { random.below(8) as i64 } else { 0 },
        }
    }

    /// Through the merge, shards in a random order, at times against what `step` asks for.
    fn merged(&self, random: &mut Random) -> (Vec<Row>, String) {
        let limits = Limits { bytes: 1 << 20 };
        let mut merge = Merge::new(&self.spec, self.rows.len(), self.limit, self.offset, limits);
        let info = |&format: &i16| ColumnInfo { type_oid: 20, format };
        merge.assume(&self.formats.iter().map(info).collect::<Vec<_>>()).unwrap();
        let mut waiting: Vec<_> = self.rows.iter().map(|rows| rows.iter()).collect();
        let mut is_ended = vec![false; self.rows.len()];
        let mut out = BytesMut::new();
        while let Step::Need(needed) = merge.step(&mut out).unwrap() {
            let other = random.below(self.rows.len());
            let shard = if random.chance(2) && !is_ended[other] { other } else { needed };
            match waiting[shard].next() {
                Some(row) => merge.row(shard, self.frame(row).freeze()).unwrap(),
                None => {
                    merge.end(shard, b"SELECT 0").unwrap();
                    is_ended[shard] = true;
                }
            }
        }
        self.read(out)
    }

    fn frame(&self, row: &Row) -> BytesMut {
        let bytes = |(value, format): (&Value, &i16)| {
            value.map(|value| match format {
                1 => value.to_be_bytes().to_vec(),
                _ => value.to_string().into_bytes(),
            })
        };
        let values: Vec<_> = row.iter().zip(&self.formats).map(bytes).collect();
        let mut out = BytesMut::new();
        backend::data_row(&mut out, &values);
        out
    }

    fn read(&self, mut out: BytesMut) -> (Vec<Row>, String) {
        let (mut rows, mut tag) = (Vec::new(), String::new());
        while let Some(header) = frame::next_frame(&out).unwrap() {
            let frame = out.split_to(header.len);
            if header.tag == b'C' {
                tag = String::from_utf8(frame[5..frame.len() - 1].to_vec()).unwrap();
                continue;
            }
            let value = |(field, format): (backend::Field, &i16)| {
                let bytes = &frame[field?];
                Some(match format {
                    1 => i64::from_be_bytes(bytes.try_into().unwrap()),
                    _ => std::str::from_utf8(bytes).unwrap().parse().unwrap(),
                })
            };
            let fields = backend::DataRow::read(&frame).unwrap().map(Result::unwrap);
            rows.push(fields.zip(&self.formats).map(value).collect());
        }
        (rows, tag)
    }

    /// The plainest code that does the same.
    fn expected(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.rows.iter().flatten().cloned().collect();
        if let Some(group) = &self.spec.group {
            rows = regroup(group, &rows);
        }
        let visible = self.width - self.spec.hidden;
        if self.spec.distinct {
            let mut seen = Vec::new();
            rows.retain(|row| {
                let is_new = !seen.contains(&row[..visible].to_vec());
                seen.push(row[..visible].to_vec());
                is_new
            });
        }
        rows.sort_by(|a, b| compare(&self.spec, self.width, a, b));
        let limit = self.limit.map_or(usize::MAX, |limit| limit as usize);
        let rows = rows.into_iter().skip(self.offset as usize).take(limit);
        rows.map(|row| row[..visible].to_vec()).collect()
    }

    /// Whether the rows' order follows from the specification and the shards' numbers alone.
    fn is_ordered(&self) -> bool {
        self.spec.group.is_none() && !self.spec.distinct
    }
}

fn group(random: &mut Random, width: usize) -> Group {
    let keys = random.below(width + 1);
    let all = [Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max];
    Group {
        keys: (0..keys).collect(),
        aggregates: (keys..width).map(|at| (at, all[random.below(all.len())])).collect(),
    }
}

fn sort_key(random: &mut Random, width: usize, visible: usize) -> SortKey {
    let at = random.below(width);
    SortKey {
        column: if at < visible { ColumnAt::Visible(at) } else { ColumnAt::Hidden(at - visible) },
        descending: random.chance(2),
        nulls_first: random.chance(2),
        is_bytewise: false,
    }
}

fn row(random: &mut Random, width: usize) -> Row {
    let value = |random: &mut Random| (!random.chance(6)).then(|| random.below(7) as i64 - 3);
    (0..width).map(|_| value(random)).collect()
}

fn compare(spec: &MergeSpec, width: usize, a: &Row, b: &Row) -> Ordering {
    spec.sort.iter().fold(Ordering::Equal, |order, key| {
        let at = match key.column {
            ColumnAt::Visible(at) => at,
            ColumnAt::Hidden(at) => width - spec.hidden + at,
        };
        order.then_with(|| match (a[at], b[at]) {
            (Some(a), Some(b)) if key.descending => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) if key.nulls_first => a.is_some().cmp(&b.is_some()),
            (a, b) => a.is_none().cmp(&b.is_none()),
        })
    })
}

fn regroup(group: &Group, rows: &[Row]) -> Vec<Row> {
    let mut groups: BTreeMap<Row, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(group.keys.iter().map(|&at| row[at]).collect()).or_default().push(row);
    }
    let whole = |(key, rows): (Row, Vec<&Row>)| {
        let values = |at: usize| rows.iter().filter_map(move |row| row[at]);
        let aggregate = |&(at, of): &(usize, Aggregate)| match of {
            Aggregate::Count => Some(values(at).sum()),
            Aggregate::Sum => values(at).reduce(|a, b| a + b),
            Aggregate::Min => values(at).min(),
            Aggregate::Max => values(at).max(),
            Aggregate::And | Aggregate::Or => unreachable!("not generated"),
        };
        key.into_iter().chain(group.aggregates.iter().map(aggregate)).collect()
    };
    groups.into_iter().map(whole).collect()
}

#[test]
fn merges_as_the_plainest_code_does() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5_432);
    println!("SEED={seed}");
    let mut random = Random::new(seed);
    for number in 0..20_000 {
        let case = Case::random(&mut random);
        let (rows, tag) = case.merged(&mut random);
        let expected = case.expected();
        let shown = format!("case {number}: {:?} {:?}", case.spec, case.rows);
        assert_eq!(tag, format!("SELECT {}", expected.len()), "{shown}");
        if case.is_ordered() {
            assert_eq!(rows, expected, "{shown}");
        } else if case.limit.is_none() && case.offset == 0 {
            let (mut a, mut b) = (rows, expected);
            a.sort();
            b.sort();
            assert_eq!(a, b, "{shown}");
        }
    }
}
