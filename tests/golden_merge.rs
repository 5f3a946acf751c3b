//! `tests/golden/merge`: the answers of shards, a specification, and what the client gets.
//!
//! ```text
//! columns id int8, name text:binary      types by name; `:binary` values are hexadecimal
//! spec sort 0 desc nulls_first, limit 2  also: hidden n, group 0 1, aggregate 2 sum, distinct,
//!                                        sort h0 bytewise, offset n, bytes n
//! 0: 5 | ∅                               a row of shard 0; ∅ is NULL, "" is empty
//! ```

#![allow(clippy::unwrap_used)] // a test may panic in its helpers, too

#[path = "golden/runner.rs"]
mod runner;

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use pgsluice::error::PgError;
use pgsluice::merge::{
    Aggregate, ColumnAt, ColumnInfo, Group, Limits, Merge, MergeSpec, SortKey, Step,
};
use pgsluice::wire::frame::{put, put_cstr};
use pgsluice::wire::{backend, frame};

const TYPES: &[(&str, u32)] = &[
    ("bool", 16),
    ("bytea", 17),
    ("char", 18),
    ("name", 19),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("text", 25),
    ("oid", 26),
    ("float4", 700),
    ("float8", 701),
    ("bpchar", 1042),
    ("varchar", 1043),
    ("date", 1082),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("interval", 1186),
    ("numeric", 1700),
    ("uuid", 2950),
    ("jsonb", 3802),
    ("mood", 16_412),
];

#[test]
fn merge() {
    runner::run("merge", |input| {
        let mut case = Case::parse(input);
        let mut out = String::new();
        if let Err(error) = case.run(&mut out) {
            writeln!(out, "{error}").unwrap();
        }
        out
    });
}

struct Case {
    columns: Vec<(String, ColumnInfo)>,
    other_columns: Option<Vec<(String, ColumnInfo)>>,
    spec: MergeSpec,
    limit: Option<i64>,
    offset: i64,
    bytes: usize,
    is_assumed: bool,
    rows: Vec<Vec<String>>,
}

impl Case {
    fn parse(input: &str) -> Self {
        let mut case = Self {
            columns: Vec::new(),
            other_columns: None,
            spec: MergeSpec::default(),
            limit: None,
            offset: 0,
            bytes: 1 << 20,
            is_assumed: false,
            rows: Vec::new(),
        };
        for line in input.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("columns", text) => case.columns = columns(text),
                ("others", text) => case.other_columns = Some(columns(text)),
                ("assumed", text) => {
                    case.columns = columns(text);
                    case.is_assumed = true;
                }
                ("spec", text) => text.split(", ").for_each(|step| case.step(step)),
                (shard, row) => {
                    let shard: usize = shard.trim_end_matches(':').parse().unwrap();
                    case.rows.resize_with(case.rows.len().max(shard + 1), Vec::new);
                    if !row.is_empty() {
                        case.rows[shard].push(row.to_owned());
                    }
                }
            }
        }
        case
    }

    fn step(&mut self, step: &str) {
        let words: Vec<_> = step.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let spec = &mut self.spec;
        match words[0] {
            "none" => {}
            "hidden" => spec.hidden = number(1) as usize,
            "distinct" => spec.distinct = true,
            "limit" => self.limit = Some(number(1)),
            "offset" => self.offset = number(1),
            "bytes" => self.bytes = number(1) as usize,
            "group" => {
                let keys = words[1..].iter().map(|word| word.parse().unwrap()).collect();
                spec.group.get_or_insert_with(no_group).keys = keys;
            }
            "aggregate" => {
                let aggregate = (number(1) as usize, aggregate(words[2]));
                spec.group.get_or_insert_with(no_group).aggregates.push(aggregate);
            }
            "sort" => spec.sort.push(sort_key(&words[1..])),
            word => panic!("unknown step {word}"),
        }
    }

    fn run(&mut self, out: &mut String) -> Result<(), PgError> {
        let shards = self.rows.len();
        let limits = Limits { bytes: self.bytes };
        let mut merge = Merge::new(&self.spec, shards, self.limit, self.offset, limits);
        self.describe(&mut merge, out)?;
        let mut waiting: Vec<_> = self.rows.iter().map(|rows| rows.iter()).collect();
        let mut sent = BytesMut::new();
        loop {
            match merge.step(&mut sent)? {
                Step::Need(shard) => match waiting[shard].next() {
                    Some(row) => merge.row(shard, self.frame(row).freeze())?,
                    None => merge.end(shard, b"SELECT 1")?,
                },
                Step::Full => self.show(&mut sent, out),
                Step::Done => break,
            }
        }
        self.show(&mut sent, out);
        Ok(())
    }

    fn describe(&self, merge: &mut Merge, out: &mut String) -> Result<(), PgError> {
        if self.is_assumed {
            let columns: Vec<_> = self.columns.iter().map(|(_, info)| *info).collect();
            return merge.assume(&columns);
        }
        for shard in 0..self.rows.len() {
            let others = self.other_columns.as_ref().filter(|_| shard > 0);
            let frame = description(others.unwrap_or(&self.columns));
            if let Some(frame) = merge.describe(shard, &frame)? {
                let view = backend::RowDescription::read(&frame)?;
                let names = view.columns.iter().map(|c| c.name.escape_ascii().to_string());
                writeln!(out, "({})", names.collect::<Vec<_>>().join(" | ")).unwrap();
            }
        }
        Ok(())
    }

    fn frame(&self, row: &str) -> BytesMut {
        let values: Vec<_> = row.split(" | ").map(str::trim).collect();
        let value = |(text, (_, info)): (&&str, &(String, ColumnInfo))| match (*text, info.format) {
            ("∅", _) => None,
            ("\"\"", _) => Some(Vec::new()),
            (hex, 1) => Some(unhex(hex)),
            (text, _) => Some(text.as_bytes().to_vec()),
        };
        let values: Vec<_> = values.iter().zip(&self.columns).map(value).collect();
        let mut out = BytesMut::new();
        backend::data_row(&mut out, &values);
        out
    }

    fn show(&self, sent: &mut BytesMut, out: &mut String) {
        while let Some(header) = frame::next_frame(sent).unwrap() {
            let frame = sent.split_to(header.len);
            let line = match header.tag {
                b'D' => self.show_row(&frame),
                _ => frame[5..frame.len() - 1].escape_ascii().to_string(),
            };
            writeln!(out, "{line}").unwrap();
        }
    }

    fn show_row(&self, frame: &[u8]) -> String {
        let fields = backend::DataRow::read(frame).unwrap();
        let field = |(field, (_, info)): (
            Result<backend::Field, PgError>,
            &(String, ColumnInfo),
        )| match (field.unwrap(), info.format) {
            (None, _) => "∅".to_owned(),
            (Some(range), _) if range.is_empty() => "\"\"".to_owned(),
            (Some(range), 1) => frame[range].iter().map(|b| format!("{b:02x}")).collect(),
            (Some(range), _) => String::from_utf8_lossy(&frame[range]).into_owned(),
        };
        let fields: Vec<_> = fields.zip(&self.columns).map(field).collect();
        if fields.is_empty() { "()".to_owned() } else { fields.join(" | ") }
    }
}

fn no_group() -> Group {
    Group { keys: Vec::new(), aggregates: Vec::new() }
}

fn aggregate(name: &str) -> Aggregate {
    match name {
        "count" => Aggregate::Count,
        "sum" => Aggregate::Sum,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        "and" => Aggregate::And,
        "or" => Aggregate::Or,
        name => panic!("unknown aggregate {name}"),
    }
}

fn sort_key(words: &[&str]) -> SortKey {
    let column = match words[0].strip_prefix('h') {
        Some(hidden) => ColumnAt::Hidden(hidden.parse().unwrap()),
        None => ColumnAt::Visible(words[0].parse().unwrap()),
    };
    SortKey {
        column,
        descending: words.contains(&"desc"),
        nulls_first: words.contains(&"nulls_first"),
        is_bytewise: words.contains(&"bytewise"),
    }
}

fn columns(text: &str) -> Vec<(String, ColumnInfo)> {
    let column = |column: &str| {
        let (name, type_name) = column.split_once(' ').unwrap();
        let (type_name, format) = match type_name.strip_suffix(":binary") {
            Some(type_name) => (type_name, 1),
            None => (type_name, 0),
        };
        let type_oid = TYPES.iter().find(|(known, _)| *known == type_name).unwrap().1;
        (name.to_owned(), ColumnInfo { type_oid, format })
    };
    text.split(", ").map(column).collect()
}

fn description(columns: &[(String, ColumnInfo)]) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out, b'T', |body| {
        body.put_u16(columns.len() as u16);
        for (name, info) in columns {
            put_cstr(body, name.as_bytes());
            body.put_u32(0);
            body.put_i16(0);
            body.put_u32(info.type_oid);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(info.format);
        }
    });
    out
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}
