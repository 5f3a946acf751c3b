//! A statement around a SELECT … FOR UPDATE that does not depend on it, as queues have it:
//! `UPDATE … WHERE id IN (SELECT id … FOR UPDATE SKIP LOCKED LIMIT 5)`. The SELECT runs first, on all shards; its rows
//! stand in its place then.

use std::ops::Range;

use super::locked::locks;
use super::types::output_name;
use super::{Plan, Planner, lacks_answer};
use crate::plan::locked::{Pick, rows_sql};
use crate::plan::scatter::Carried;
use crate::plan::{Access, Action, Combine, Run, Scope};
use crate::sql::name::quoted;
use crate::sql::parse::parse;
use crate::sql::parse::tokens::{Token, TokenKind, tokens};
use crate::sql::parse::tree::{Body, Kind, Query, Stmt};

impl Planner<'_> {
    /// The plan of a statement with one such SELECT in it, if it has one.
    pub(super) fn picked(&self, range: &Range<usize>) -> Option<Plan> {
        let tokens = tokens(self.sql, range);
        let mut found = selects(self.sql, &tokens);
        let inner = found.pop()?;
        if !found.is_empty() {
            return Some(Plan::refused(locks("There are several of them in the statement.")));
        }
        let part = |range: Range<usize>| self.sql.get(range).map(str::to_owned);
        let pick = Pick {
            before: part(range.start..inner.start)?,
            select: part(inner.clone())?,
            after: part(inner.end..range.end)?,
        };
        let planner = Planner { sql: &pick.select, ..*self };
        let statements = parse(&pick.select).ok()?;
        let [statement] = statements.as_slice() else { return None };
        let Stmt::Query(query) = &statement.kind else { return None };
        let plan = planner.statement(statement);
        match &plan.action {
            Action::Run(run) if may_pick(run) => (),
            Action::Refuse(_) => return Some(plan),
            _ => return Some(Plan::refused(locks("Its rows cannot be chosen apart."))),
        }
        let columns = match planner.columns_of(query, &statement.range) {
            Ok(columns) => columns,
            Err(detail) => return Some(Plan::refused(locks(&detail))),
        };
        // Whether the rest of the statement can run over rows that are known.
        let text = format!("{}{}{}", pick.before, rows_sql(&columns, &[]), pick.after);
        let rest = parse(&text).ok()?;
        let [rest] = rest.as_slice() else { return None };
        let around = Planner { sql: &text, ..*self }.statement(rest);
        let is_answered = matches!(&around.action, Action::Run(run)
            if !(matches!(run.combine, Combine::Refuse(_)) && run.scope == Scope::All));
        match &around.action {
            Action::Refuse(_) => return Some(around),
            _ if !is_answered || lacks_answer(&around) => return None,
            _ => (),
        }
        Some(Plan::combined(Access::Write, Scope::All, Combine::Pick(Box::new(pick))))
    }

    /// The names and types of a SELECT's columns, or why it cannot run apart from the statement around it.
    fn columns_of(
        &self,
        query: &Query,
        range: &Range<usize>,
    ) -> Result<Vec<(String, String)>, String> {
        let mut analyzer = self.analyzer(range);
        let outcome = analyzer.query(query);
        let Body::Select(select) = &query.body else {
            return Err("It is no plain SELECT.".to_owned());
        };
        // ORDER BY may name a column of the answer.
        let is_output = |names: &[String]| {
            let output = |it: &crate::sql::parse::tree::Target| {
                it.alias.clone().unwrap_or_else(|| output_name(&it.expr))
            };
            matches!(names, [name] if select.targets.iter().any(|it| output(it) == *name))
        };
        if let Some(names) = analyzer.unresolved.iter().find(|it| !is_output(it)) {
            return Err(format!(
                "It names {}, which is of the statement around it.",
                names.join(".")
            ));
        }
        let is_star = select.targets.iter().any(|it| matches!(it.expr.kind, Kind::Star(_)));
        if outcome.complete || !is_star {
            let ty = |oid: Option<u32>| oid.and_then(Carried::scalar).unwrap_or("text");
            let column = |it: &super::block::OutCol| {
                (quoted(&it.name), ty(it.ty.map(|it| it.oid)).to_owned())
            };
            return Ok(outcome.cols.iter().map(column).collect());
        }
        Err("Its columns are not known.".to_owned())
    }
}

/// Whether the rows of such a SELECT can be had.
fn may_pick(run: &Run) -> bool {
    match &run.combine {
        Combine::Lock(_) => true,
        // Without LIMIT all are locked.
        Combine::Merge(spec) => spec.group.is_none() && !spec.distinct,
        _ => match &run.scope {
            Scope::Keys { keys, with_home } => !with_home && super::is_one(keys),
            Scope::Home => true,
            Scope::Any | Scope::All => false,
        },
    }
}

/// The bytes of all SELECTs in parentheses that lock rows themselves, where they run once and for all.
fn selects(sql: &str, tokens: &[Token]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (open, token) in tokens.iter().enumerate() {
        let starts = tokens.get(open + 1).is_some_and(|it| it.is("select") || it.is("with"));
        if token.kind != TokenKind::Open || !starts {
            continue;
        }
        let is_end = |it: &Token| it.kind == TokenKind::Close && it.depth == token.depth;
        let Some(len) = tokens[open + 1..].iter().position(is_end) else { continue };
        let inside = &tokens[open + 1..open + 1 + len];
        let locks = inside.windows(2).any(|it| {
            let is_lock = ["update", "share", "no", "key"].iter().any(|word| it[1].is(word));
            it[0].depth == token.depth + 1 && it[0].is("for") && is_lock
        });
        if locks {
            let place = is_once(sql, tokens, open, open + 1 + len);
            let end = tokens[open + 1 + len].range.start;
            match place {
                true => found.push(token.range.end..end),
                // Two of them are one too many.
                false => found.extend([0..0, 0..0]),
            }
        }
    }
    found
}

/// Whether what stands in these parentheses is computed once and in any case.
fn is_once(sql: &str, tokens: &[Token], open: usize, close: usize) -> bool {
    let before = |back: usize| open.checked_sub(back).and_then(|it| tokens.get(it));
    let text = |it: Option<&Token>| it.and_then(|it| sql.get(it.range.clone())).unwrap_or_default();
    let Some(last) = before(1) else { return false };
    let is_with = last.is("materialized") || last.is("as");
    if is_with {
        let mut back = 2;
        while before(back).is_some_and(|it| it.is("not") || it.is("materialized") || it.is("as")) {
            back += 1;
        }
        if before(back).is_some_and(|it| it.kind == TokenKind::Close) {
            while before(back).is_some_and(|it| it.kind != TokenKind::Open) {
                back += 1;
            }
            back += 1;
        }
        // Nobody computes what nobody reads.
        let name = text(before(back));
        return tokens[close..].iter().any(|it| text(Some(it)).eq_ignore_ascii_case(name));
    }
    ["in", "from", "using", "join", "any", "some", "exists", "array"].iter().any(|it| last.is(it))
        || text(Some(last)) == "="
        || text(Some(last)) == "," && tokens[open].depth == 0
}
