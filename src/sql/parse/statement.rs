//! Statements: the dispatch, and commands about sessions and transactions.

use pg_query::protobuf as pb;

use super::expr::{constant, exprs, type_name};
use super::modify::options;
use super::tree::{CreateAs, Explain, Maintain, Modes, Session, Statement, Stmt};
use super::{Node, ddl, expr, kind, modify, query, some};

pub(super) fn statement(node: Option<&pb::Node>) -> Stmt {
    match node.and_then(kind) {
        Some(node) => convert(node),
        None => Stmt::Unknown("an empty statement".to_owned()),
    }
}

fn convert(node: &Node) -> Stmt {
    match node {
        Node::SelectStmt(it) => select(it),
        Node::InsertStmt(it) => modify::insert(it),
        Node::UpdateStmt(it) => modify::update(it),
        Node::DeleteStmt(it) => modify::delete(it),
        Node::MergeStmt(it) => modify::merge(it),
        Node::CopyStmt(it) => modify::copy(it),
        Node::ExplainStmt(it) => explain(it),
        Node::CreateTableAsStmt(it) => create_as(it),
        Node::TruncateStmt(it) => Stmt::Truncate(ddl::table_names(&it.relations)),
        Node::LockStmt(it) => Stmt::Lock(ddl::table_names(&it.relations)),
        Node::VacuumStmt(it) => Stmt::Maintain(vacuum(it)),
        Node::ReindexStmt(it) => maintain("REINDEX", it.relation.as_ref()),
        Node::ClusterStmt(it) => maintain("CLUSTER", it.relation.as_ref()),
        Node::CheckPointStmt(_) => maintain("CHECKPOINT", None),
        Node::RefreshMatViewStmt(it) => {
            let what = match it.concurrent {
                true => "REFRESH MATERIALIZED VIEW CONCURRENTLY",
                false => "REFRESH MATERIALIZED VIEW",
            };
            maintain(what, it.relation.as_ref())
        }
        Node::DoStmt(_) => Stmt::Do,
        Node::CallStmt(it) => call(it),
        Node::NotifyStmt(_) => Stmt::Fixed("NOTIFY"),
        Node::LoadStmt(_) => Stmt::Fixed("LOAD"),
        other => session(other).map_or_else(|| ddl::ddl(other), Stmt::Session),
    }
}

fn select(it: &pb::SelectStmt) -> Stmt {
    let inner = Stmt::Query(Box::new(query::query(it)));
    match leftmost_into(it).and_then(|it| into(it, inner.clone())) {
        Some(into) => Stmt::CreateAs(Box::new(CreateAs { is_select_into: true, ..into })),
        None => inner,
    }
}

/// INTO of the leftmost SELECT of a set operation, where Postgres looks for it.
fn leftmost_into(it: &pb::SelectStmt) -> Option<&pb::IntoClause> {
    let mut select = it;
    while let Some(left) = &select.larg {
        select = left;
    }
    select.into_clause.as_deref()
}

fn into(it: &pb::IntoClause, query: Stmt) -> Option<CreateAs> {
    let rel = it.rel.as_ref()?;
    Some(CreateAs {
        table: query::table_name(rel),
        is_temporary: ddl::is_temporary(rel),
        is_materialized_view: false,
        columns: super::words(&it.col_names),
        with_data: !it.skip_data,
        if_not_exists: false,
        is_select_into: false,
        query,
    })
}

fn create_as(it: &pb::CreateTableAsStmt) -> Stmt {
    let made = it
        .into
        .as_deref()
        .and_then(|into_clause| into(into_clause, statement(it.query.as_deref())));
    match made {
        Some(made) => Stmt::CreateAs(Box::new(CreateAs {
            is_materialized_view: it.objtype() == pb::ObjectType::ObjectMatview,
            if_not_exists: it.if_not_exists,
            ..made
        })),
        None => Stmt::Unknown("CREATE TABLE AS".to_owned()),
    }
}

fn explain(it: &pb::ExplainStmt) -> Stmt {
    let options = options(&it.options);
    let is_on = |name: &str| {
        let given = options.iter().rev().find(|(it, _)| it == name);
        given.is_some_and(|(_, value)| {
            !matches!(value.as_deref(), Some("off" | "false" | "0" | "no"))
        })
    };
    let format = options.iter().rev().find(|(it, _)| it == "format");
    Stmt::Explain(Box::new(Explain {
        is_text: format.is_none_or(|(_, it)| it.as_deref() == Some("text")),
        analyze: is_on("analyze") || is_on("analyse"),
        sluice: is_on("sluice"),
        inner: Statement { range: 0..0, kind: statement(it.query.as_deref()) },
    }))
}

fn vacuum(it: &pb::VacuumStmt) -> Maintain {
    let rel = |node: &pb::Node| match kind(node)? {
        Node::VacuumRelation(it) => it.relation.as_ref().map(query::table_name),
        _ => None,
    };
    Maintain {
        what: if it.is_vacuumcmd { "VACUUM" } else { "ANALYZE" },
        tables: it.rels.iter().filter_map(rel).collect(),
    }
}

fn maintain(what: &'static str, table: Option<&pb::RangeVar>) -> Stmt {
    Stmt::Maintain(Maintain { what, tables: table.map(query::table_name).into_iter().collect() })
}

fn call(it: &pb::CallStmt) -> Stmt {
    match &it.funccall {
        Some(call) => {
            let node = pb::Node { node: Some(Node::FuncCall(call.clone())) };
            Stmt::Call(Box::new(expr::expr(&node)))
        }
        None => Stmt::Unknown("CALL".to_owned()),
    }
}

fn session(node: &Node) -> Option<Session> {
    Some(match node {
        Node::TransactionStmt(it) => transaction(it),
        Node::VariableSetStmt(it) => set(it),
        Node::VariableShowStmt(it) => Session::Show(it.name.to_lowercase()),
        Node::DiscardStmt(it) => Session::Discard(match it.target() {
            pb::DiscardMode::DiscardPlans => "plans",
            pb::DiscardMode::DiscardSequences => "sequences",
            pb::DiscardMode::DiscardTemp => "temp",
            _ => "all",
        }),
        Node::PrepareStmt(it) => Session::Prepare {
            name: it.name.clone(),
            types: it.argtypes.iter().filter_map(type_of).collect(),
            inner: inner(it.query.as_deref()),
        },
        Node::ExecuteStmt(it) => {
            Session::Execute { name: it.name.clone(), args: exprs(&it.params), range: None }
        }
        Node::DeallocateStmt(it) => Session::Deallocate(some(&it.name)),
        Node::DeclareCursorStmt(it) => Session::Declare {
            cursor: it.portalname.clone(),
            // CURSOR_OPT_HOLD of parsenodes.h.
            hold: it.options & 0x20 != 0,
            inner: inner(it.query.as_deref()),
        },
        Node::FetchStmt(it) => Session::Fetch(it.portalname.clone()),
        Node::ClosePortalStmt(it) => Session::Close(some(&it.portalname)),
        Node::ConstraintsSetStmt(_) => Session::SetConstraints,
        Node::ListenStmt(it) => Session::Listen(it.conditionname.clone()),
        Node::UnlistenStmt(it) => Session::Unlisten(some(&it.conditionname)),
        _ => return None,
    })
}

fn inner(node: Option<&pb::Node>) -> Box<Statement> {
    Box::new(Statement { range: 0..0, kind: statement(node) })
}

fn type_of(node: &pb::Node) -> Option<super::tree::TypeName> {
    match kind(node)? {
        Node::TypeName(it) => Some(type_name(it)),
        _ => None,
    }
}

fn transaction(it: &pb::TransactionStmt) -> Session {
    use pb::TransactionStmtKind as K;
    match it.kind() {
        K::TransStmtBegin | K::TransStmtStart => Session::Begin(modes(&it.options)),
        K::TransStmtCommit => Session::Commit { chain: it.chain },
        K::TransStmtRollback => Session::Rollback { chain: it.chain },
        K::TransStmtSavepoint => Session::Savepoint(it.savepoint_name.clone()),
        K::TransStmtRelease => Session::Release(it.savepoint_name.clone()),
        K::TransStmtRollbackTo => Session::RollbackTo(it.savepoint_name.clone()),
        K::TransStmtCommitPrepared => Session::TwoPhase("COMMIT PREPARED"),
        K::TransStmtRollbackPrepared => Session::TwoPhase("ROLLBACK PREPARED"),
        K::TransStmtPrepare | K::Undefined => Session::TwoPhase("PREPARE TRANSACTION"),
    }
}

fn modes(nodes: &[pb::Node]) -> Modes {
    let mut modes = Modes::default();
    for (name, value) in options(nodes) {
        let is_on = value.as_deref().map(|it| it != "0" && it != "off");
        match name.as_str() {
            "transaction_isolation" => modes.isolation = value,
            "transaction_read_only" => modes.read_only = is_on,
            "transaction_deferrable" => modes.deferrable = is_on,
            _ => modes.unknown = true,
        }
    }
    modes
}

fn set(it: &pb::VariableSetStmt) -> Session {
    use pb::VariableSetKind as K;
    let name = it.name.to_lowercase();
    match it.kind() {
        K::VarResetAll => Session::Reset(None),
        K::VarReset => Session::Reset(Some(name)),
        K::VarSetDefault if !it.is_local => Session::Reset(Some(name)),
        K::VarSetMulti if name == "session characteristics" => {
            Session::Set { name, value: None, is_local: false }
        }
        K::VarSetMulti => {
            let mut modes = modes(&it.args);
            modes.unknown |= name != "transaction";
            Session::SetTransaction(modes)
        }
        _ => {
            let value = match it.args.as_slice() {
                [one] => constant(one),
                _ => None,
            };
            Session::Set { name, value, is_local: it.is_local }
        }
    }
}
