//! SQL in, plan out.

use std::fmt::Write;

use pgsluice::plan::planner::{Session, plan};

use crate::catalog::Schema;

/// The plans of a text, each after its statement if there are several.
pub(crate) fn answer(header: &str, sql: &str) -> String {
    let schema = Schema::read(header);
    let session = Session { param_types: &schema.params, search_path: schema.path.as_deref() };
    let plans = plan(sql, &schema.catalog, schema.sharded, &session);
    let several = plans.len() > 1;
    let mut text = String::new();
    for (range, plan) in plans {
        if several {
            writeln!(text, "{range:?} {}", &sql[range.clone()]).unwrap();
        }
        writeln!(text, "{plan}").unwrap();
    }
    text
}
