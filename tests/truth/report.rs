//! What a run has found.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write as _};

use super::schema::Schema;
use super::sides::Verdict;
use super::statement::{Mode, Statement};
use super::support::wire::Answer;

/// Counts of runs, and the refusals' messages.
#[derive(Default)]
pub struct Report {
    equal: usize,
    errors: usize,
    slow: usize,
    different: usize,
    /// How often, and the shortest statement.
    refused: BTreeMap<String, (usize, String)>,
}

/// A statement that is answered in another way, shrunk.
pub struct Difference<'a> {
    pub seed: u64,
    pub n: u64,
    pub schema: &'a Schema,
    pub statement: &'a Statement,
    pub mode: Mode,
    pub told: &'a str,
    pub plan: &'a Answer,
}

impl Report {
    pub fn count(&mut self, verdict: &Verdict, sql: &str) {
        match verdict {
            Verdict::Equal(is_error) => {
                self.equal += 1;
                self.errors += usize::from(*is_error);
            }
            Verdict::Refused(told) => {
                let (count, shortest) = self.refused.entry(kind(told)).or_default();
                *count += 1;
                if shortest.is_empty() || sql.len() < shortest.len() {
                    sql.clone_into(shortest);
                }
            }
            Verdict::Wrong(_) => self.different += 1,
            Verdict::Slow => self.slow += 1,
        }
    }

    /// Prints what differs and how to repeat it.
    pub fn differs(&self, it: &Difference<'_>) {
        let mut text =
            format!("\n==== different: seed {}, statement {}, {:?}\n", it.seed, it.n, it.mode);
        let mut sql = it.statement.text(it.mode.protocol);
        if let Some(first) = &it.statement.first {
            sql = format!("{};\n{sql}", first.text(it.mode.protocol));
        }
        text.push_str(&it.schema.script(&sql));
        let _ = writeln!(text, "{sql};");
        for (n, param) in it.statement.params.iter().enumerate() {
            let _ = writeln!(text, "-- ${} of type {}: {}", n + 1, param.oid, param.text);
        }
        for row in &it.plan.rows {
            let line = row.first().cloned().flatten().unwrap_or_default();
            let _ = writeln!(text, "-- {}", String::from_utf8_lossy(&line));
        }
        println!("{text}{}\n", it.told);
    }

    pub fn short(&self) -> String {
        let refused: usize = self.refused.values().map(|it| it.0).sum();
        format!(
            "{} equal ({} of them errors), {refused} refused, {} too slow, {} different",
            self.equal, self.errors, self.slow, self.different
        )
    }

    pub fn check(&self) {
        assert!(self.equal > 100, "{}", self.short());
        assert_eq!(self.different, 0, "differences are printed above");
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut refused: Vec<_> = self.refused.iter().collect();
        refused.sort_by_key(|it| std::cmp::Reverse(it.1.0));
        for (told, (count, sql)) in refused.iter().take(30) {
            writeln!(f, "{count:6} refused: {told}\n       e.g. {sql}")?;
        }
        f.write_str(&self.short())
    }
}

/// A message without the names and numbers in it.
fn kind(told: &str) -> String {
    let parts = told.split('"').enumerate();
    let bare: Vec<&str> = parts.map(|(i, it)| if i % 2 == 1 { "…" } else { it }).collect();
    let words = bare.concat();
    let is_number = |it: &str| it.bytes().all(|it| it.is_ascii_digit() || it == b',');
    words.split(' ').map(|it| if is_number(it) { "…" } else { it }).collect::<Vec<_>>().join(" ")
}
