//! Makes what differs smaller: fewer and smaller choices, then fewer rows.

use std::time::{Duration, Instant};

use super::choices::Choices;
use super::schema::Schema;
use super::sides::{Sides, Verdict};
use super::statement::{Mode, Statement};

/// How long one difference is shrunk.
const PATIENCE: Duration = Duration::from_secs(25);

/// Smaller choices for which `fails` still holds.
pub fn choices(made: Vec<u32>, mut fails: impl FnMut(&[u32]) -> Option<Vec<u32>>) -> Vec<u32> {
    let end = Instant::now() + PATIENCE;
    let mut best = made;
    loop {
        let before = best.clone();
        for size in [64, 32, 16, 8, 4, 2, 1] {
            let mut at = best.len().saturating_sub(size);
            loop {
                if Instant::now() > end {
                    return best;
                }
                for zeroed in [false, true] {
                    let last = (at + size).min(best.len());
                    let mut tried = best.clone();
                    if zeroed {
                        tried[at..last].fill(0);
                    } else {
                        tried.drain(at..last);
                    }
                    while tried.last() == Some(&0) {
                        tried.pop();
                    }
                    if is_smaller(&tried, &best)
                        && let Some(made) = fails(&tried)
                        && is_smaller(&made, &best)
                    {
                        best = made;
                    }
                }
                if at == 0 {
                    break;
                }
                at = at.min(best.len()).saturating_sub(size);
            }
        }
        if before == best {
            return best;
        }
    }
}

fn is_smaller(a: &[u32], b: &[u32]) -> bool {
    (a.len(), a) < (b.len(), b)
}

/// A schema with fewer rows for which the statement still differs. The servers hold its rows then.
pub fn rows(schema: &Schema, statement: &Statement, mode: Mode, sides: &mut Sides) -> Schema {
    let end = Instant::now() + PATIENCE;
    let mut best = schema.clone();
    let differs = |sides: &mut Sides, schema: &Schema| {
        sides.fill(schema);
        matches!(sides.compare(statement, mode), Verdict::Wrong(_))
    };
    for table in 0..best.tables.len() {
        let mut size = best.tables[table].rows.len();
        while size > 0 {
            let mut at = 0;
            while at < best.tables[table].rows.len() && Instant::now() < end {
                let mut tried = best.clone();
                let last = (at + size).min(tried.tables[table].rows.len());
                tried.tables[table].rows.drain(at..last);
                if differs(sides, &tried) {
                    best = tried;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
    }
    sides.fill(&best);
    best
}

/// The same choices as those that were made, without what was never asked for.
pub fn replay(made: &[u32]) -> Choices {
    Choices::again(made)
}
