//! Golden files: input and the expected text of what is made of it. `UPDATE_GOLDEN=1 cargo test
//! --test golden` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "golden/catalog.rs"]
mod catalog;
#[path = "golden/planner.rs"]
mod planner;
#[path = "golden/refusals.rs"]
mod refusals;
#[path = "golden/sections.rs"]
mod runner;

#[test]
fn plan() {
    runner::run("plan", planner::answer);
}

#[test]
fn refused() {
    runner::run("refused", planner::answer);
}

/// The list of what is refused is made of the golden refusals.
#[test]
fn refusals_are_documented() {
    refusals::check();
}
