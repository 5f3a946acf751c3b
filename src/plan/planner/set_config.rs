//! Settings that a query changes by `set_config`, and what functions may change.

use std::ops::Range;

use super::Planner;
use super::walk::Analyzer;
use crate::error::PgError;
use crate::plan::{Access, Plan, Scope, SetConfig, SetValue};
use crate::sql::parse::tree::{Body, Expr, Kind, Literal, Query, Target, TypeName};

impl Planner<'_> {
    /// `SELECT set_config(…)` as the whole statement; any other use is refused.
    pub(super) fn set_config(&self, plan: Plan, found: &Analyzer<'_>, query: &Query) -> Plan {
        if found.facts.set_configs == 0 {
            return plan;
        }
        let sets = set_configs(query).filter(|it| it.len() == found.facts.set_configs);
        match sets.filter(|it| self.sharded || is_settled(query, it)) {
            Some(sets) => {
                let mut plan = Plan::run(Access::Write, Scope::Home);
                plan.is_shareable = false;
                plan.sets = sets;
                plan
            }
            // On one shard what ends with the transaction does not matter, the rest is asked for.
            None if !self.sharded => unsettled(plan, &found.facts.set_for_session),
            None => Plan::forbidden(
                PgError::refused("set_config of computed values or amid tables is not supported")
                    .detail("The session must know the setting to repeat it on other servers.")
                    .hint("Write SELECT set_config('name', 'value', false), the value a literal or a parameter, or SET name = value."),
            ),
        }
    }

    /// Whether the text of a DO may change its session, as far as words tell.
    pub(super) fn may_change_session(&self, range: &Range<usize>) -> bool {
        const WORDS: [&str; 10] = [
            "set", "execute", "temp", "advisory", "listen", "load", "prepare", "discard", "hold",
            "shared",
        ];
        let text = self.sql.get(range.clone()).unwrap_or_default().to_lowercase();
        let functions = &self.catalog.suspects.functions;
        WORDS.iter().any(|it| text.contains(it)) || functions.iter().any(|it| text.contains(it))
    }
}

/// The plan of a statement that makes these settings, `None` where the name is not a literal.
fn unsettled(mut plan: Plan, names: &[Option<String>]) -> Plan {
    match names.iter().cloned().collect::<Option<Vec<String>>>() {
        Some(names) => {
            plan.is_shareable &= names.is_empty();
            plan.unsettled = names;
        }
        None => plan.pin = Some("set_config of a computed name"),
    }
    plan
}

/// The calls of set_config in a SELECT without tables, if the session can repeat each of them.
fn set_configs(query: &Query) -> Option<Vec<SetConfig>> {
    let Query { with: None, body: Body::Select(select), order, limit: None, offset: None, .. } =
        query
    else {
        return None;
    };
    let is_plain = select.from.is_empty()
        && select.filter.is_none()
        && select.group.is_empty()
        && select.having.is_none()
        && order.is_empty();
    let call = |it: &Target| match &it.expr.kind {
        Kind::Call(call) if call.name == "set_config" => Some(set_config(&call.args)),
        _ => None,
    };
    let calls = select.targets.iter().filter_map(call);
    if is_plain { calls.collect() } else { None }
}

/// Name, value and `is_local` of a call.
fn set_config(args: &[Expr]) -> Option<SetConfig> {
    let [name, value, is_local] = args else { return None };
    let Kind::Literal(Literal::Text(name)) = &name.kind else { return None };
    let Kind::Literal(Literal::Bool(is_local)) = is_local.kind else { return None };
    let value = match &value.kind {
        Kind::Cast(inner, ty) if is_text(ty) => inner,
        _ => value,
    };
    let value = match &value.kind {
        Kind::Literal(Literal::Text(it)) => SetValue::Literal(Some(it.clone())),
        Kind::Literal(Literal::Null) => SetValue::Literal(None),
        Kind::Param(n) => SetValue::Param(*n),
        _ => return None,
    };
    Some(SetConfig { name: name.to_lowercase(), value, is_local })
}

fn is_text(ty: &TypeName) -> bool {
    matches!(ty.name.as_str(), "text" | "varchar") && !ty.has_modifier && !ty.is_array
}

/// Whether one call with a value that is told is all that the SELECT does.
fn is_settled(query: &Query, sets: &[SetConfig]) -> bool {
    let is_alone = matches!(&query.body, Body::Select(it) if it.targets.len() == 1);
    matches!(sets, [SetConfig { value: SetValue::Literal(_), .. }] if is_alone)
}
