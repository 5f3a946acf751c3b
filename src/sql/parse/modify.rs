//! INSERT, UPDATE, DELETE, MERGE, COPY.

use pg_query::protobuf as pb;

use super::expr::{boxed, constant, expr, exprs};
use super::query::{alias, from, of_node, table_name, targets, with};
use super::tree::{
    Assign, Conflict, ConflictTarget, Copy, CopySource, Delete, Insert, MergeInto, Stmt, TableName,
    Target, Update, When, WhenAction,
};
use super::{Node, kind, some, statement, words};

fn returning(it: Option<&pb::ReturningClause>) -> Vec<Target> {
    it.map(|it| targets(&it.exprs)).unwrap_or_default()
}

fn name_of(it: Option<&pb::RangeVar>) -> TableName {
    it.map_or(TableName { catalog: None, schema: None, name: String::new() }, table_name)
}

fn alias_of(it: Option<&pb::RangeVar>) -> Option<super::tree::Alias> {
    it.and_then(|it| alias(it.alias.as_ref()))
}

/// The columns of a target list; `None` if one is subscripted or a field.
fn columns(nodes: &[pb::Node]) -> Option<Vec<String>> {
    let column = |node: &pb::Node| match kind(node)? {
        Node::ResTarget(it) if it.indirection.is_empty() => Some(it.name.clone()),
        _ => None,
    };
    nodes.iter().map(column).collect()
}

pub(super) fn insert(it: &pb::InsertStmt) -> Stmt {
    let Some(columns) = columns(&it.cols) else {
        return Stmt::Unknown("INSERT into a part of a column".to_owned());
    };
    Stmt::Insert(Box::new(Insert {
        with: it.with_clause.as_ref().map(with),
        table: name_of(it.relation.as_ref()),
        alias: alias_of(it.relation.as_ref()),
        columns,
        source: it.select_stmt.as_deref().and_then(of_node),
        overriding: it.r#override == pb::OverridingKind::OverridingSystemValue as i32
            || it.r#override == pb::OverridingKind::OverridingUserValue as i32,
        conflict: it.on_conflict_clause.as_deref().map(conflict),
        returning: returning(it.returning_clause.as_ref()),
    }))
}

fn conflict(it: &pb::OnConflictClause) -> Conflict {
    let mut others = Vec::new();
    let target = match it.infer.as_deref() {
        None => ConflictTarget::None,
        Some(infer) if !infer.conname.is_empty() => {
            ConflictTarget::Constraint(infer.conname.clone())
        }
        Some(infer) => {
            others.extend(boxed(infer.where_clause.as_deref()));
            let mut columns = Vec::new();
            for node in &infer.index_elems {
                let Some(Node::IndexElem(element)) = kind(node) else { continue };
                others.extend(boxed(element.expr.as_deref()));
                columns.push(some(&element.name));
            }
            ConflictTarget::Columns(columns)
        }
    };
    let updates = it.action == pb::OnConflictAction::OnconflictUpdate as i32;
    Conflict {
        target,
        set: updates.then(|| assigns(&it.target_list)),
        filter: boxed(it.where_clause.as_deref()),
        others,
    }
}

fn assigns(nodes: &[pb::Node]) -> Vec<Assign> {
    let assign = |node: &pb::Node| match kind(node)? {
        Node::ResTarget(it) => {
            Some(Assign { column: it.name.clone(), expr: boxed(it.val.as_deref())? })
        }
        _ => None,
    };
    nodes.iter().filter_map(assign).collect()
}

pub(super) fn update(it: &pb::UpdateStmt) -> Stmt {
    Stmt::Update(Box::new(Update {
        with: it.with_clause.as_ref().map(with),
        table: name_of(it.relation.as_ref()),
        alias: alias_of(it.relation.as_ref()),
        set: assigns(&it.target_list),
        from: it.from_clause.iter().map(from).collect(),
        filter: boxed(it.where_clause.as_deref()),
        returning: returning(it.returning_clause.as_ref()),
    }))
}

pub(super) fn delete(it: &pb::DeleteStmt) -> Stmt {
    Stmt::Delete(Box::new(Delete {
        with: it.with_clause.as_ref().map(with),
        table: name_of(it.relation.as_ref()),
        alias: alias_of(it.relation.as_ref()),
        using: it.using_clause.iter().map(from).collect(),
        filter: boxed(it.where_clause.as_deref()),
        returning: returning(it.returning_clause.as_ref()),
    }))
}

pub(super) fn merge(it: &pb::MergeStmt) -> Stmt {
    let whens = it.merge_when_clauses.iter().map(when).collect::<Option<Vec<_>>>();
    let (Some(source), Some(on), Some(whens)) = (&it.source_relation, &it.join_condition, whens)
    else {
        return Stmt::Unknown("MERGE".to_owned());
    };
    Stmt::Merge(Box::new(MergeInto {
        with: it.with_clause.as_ref().map(with),
        table: name_of(it.relation.as_ref()),
        alias: alias_of(it.relation.as_ref()),
        source: from(source),
        on: expr(on),
        whens,
        returning: returning(it.returning_clause.as_ref()),
    }))
}

fn when(node: &pb::Node) -> Option<When> {
    let Node::MergeWhenClause(it) = kind(node)? else { return None };
    let action = match pb::CmdType::try_from(it.command_type) {
        Ok(pb::CmdType::CmdUpdate) => WhenAction::Update(assigns(&it.target_list)),
        Ok(pb::CmdType::CmdDelete) => WhenAction::Delete,
        Ok(pb::CmdType::CmdInsert) => {
            WhenAction::Insert { columns: columns(&it.target_list)?, values: exprs(&it.values) }
        }
        _ => WhenAction::Nothing,
    };
    let by_source = it.match_kind == pb::MergeMatchKind::MergeWhenNotMatchedBySource as i32;
    Some(When { condition: boxed(it.condition.as_deref()), action, by_source })
}

pub(super) fn copy(it: &pb::CopyStmt) -> Stmt {
    let source = match (&it.relation, &it.query) {
        (Some(table), _) => CopySource::Table(table_name(table)),
        (None, Some(query)) => CopySource::Query(statement::statement(Some(query))),
        (None, None) => return Stmt::Unknown("COPY".to_owned()),
    };
    Stmt::Copy(Box::new(Copy {
        source,
        columns: words(&it.attlist),
        is_from: it.is_from,
        is_server_side: it.is_program || !it.filename.is_empty(),
        options: options(&it.options),
        filter: boxed(it.where_clause.as_deref()),
    }))
}

/// Options by name; lists and stars have no value.
pub(super) fn options(nodes: &[pb::Node]) -> Vec<(String, Option<String>)> {
    let option = |node: &pb::Node| match kind(node)? {
        Node::DefElem(it) => {
            Some((it.defname.to_lowercase(), it.arg.as_deref().and_then(constant)))
        }
        _ => None,
    };
    nodes.iter().filter_map(option).collect()
}
