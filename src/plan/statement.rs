//! A statement at hand: its text, its plan and where its literals stand.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::cache::{CachedPlan, Verb};
use super::route::{Arguments, Call};
use super::{Access, Action as PlanAction, Combine, Plan, Run, Scope};
use crate::sql::fingerprint::Slot;

/// A statement, its plan, and where its literals stand.
#[derive(Clone, Debug)]
pub struct Statement {
    pub text: Bytes,
    pub plan: Arc<Plan>,
    /// Whether the plan may have been made from another text with other literals.
    pub is_shared: bool,
    cached: Arc<CachedPlan>,
    /// The literals of this text, if it is not the planned one.
    slots: SmallVec<[Slot; 4]>,
}

impl Statement {
    /// A text with a plan that was made for it.
    pub fn exact(text: &Bytes, cached: Arc<CachedPlan>) -> Self {
        let plan = Arc::clone(&cached.plan);
        Self { text: text.clone(), plan, is_shared: false, slots: SmallVec::new(), cached }
    }

    /// A text with these literals and the plan of another of the same template.
    pub fn sharing(text: &Bytes, cached: Arc<CachedPlan>, slots: &[Slot]) -> Self {
        let plan = Arc::clone(&cached.plan);
        Self { text: text.clone(), plan, is_shared: true, slots: slots.into(), cached }
    }

    /// For routing.
    pub fn call<'a>(&'a self, args: Arguments<'a>) -> Call<'a> {
        let planned = &*self.cached.slots;
        let slots = if self.is_shared { &self.slots } else { planned };
        Call { sql: self.sql(), slots, planned, args }
    }

    /// As [`Self::call`], for [`super::route::route`], which looks at the text for literals only.
    pub fn call_for_route<'a>(&'a self, args: Arguments<'a>) -> Call<'a> {
        match self.cached.slots.is_empty() {
            true => Call { sql: "", slots: &[], planned: &[], args },
            false => self.call(args),
        }
    }

    /// The text.
    pub fn sql(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Whether replicas may run it.
    pub fn is_read(&self) -> bool {
        matches!(&self.plan.action, PlanAction::Run(run) if run.access == Access::Read)
    }

    /// What it begins with.
    pub fn verb(&self) -> Verb {
        self.cached.verb
    }

    /// A statement that was refused only since it may need several shards runs on its tenant's.
    pub fn lift(&mut self) {
        let PlanAction::Refuse(error) = &self.plan.action else { return };
        if !self.plan.is_lifted_by_tenant {
            return;
        }
        let combine = Combine::Refuse(error.clone());
        let run = Run {
            access: Access::Write,
            scope: Scope::All,
            combine,
            fallback: None,
            explained: None,
        };
        let plan = Plan { action: PlanAction::Run(run), ..Plan::clone(&self.plan) };
        self.plan = Arc::new(plan);
        self.is_shared = false;
    }
}
