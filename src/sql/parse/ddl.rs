//! Schema changes.

use pg_query::protobuf as pb;

use super::expr::{boxed, node_name, type_name};
use super::query::table_name;
use super::tree::{AlterTable, ColumnDef, Constraint, CreateTable, Ddl, DdlKind, Stmt, TableName};
use super::{Node, kind, some, statement, word, words};

pub(super) fn table_names(nodes: &[pb::Node]) -> Vec<TableName> {
    nodes.iter().filter_map(range_var).collect()
}

fn range_var(node: &pb::Node) -> Option<TableName> {
    match kind(node)? {
        Node::RangeVar(it) => Some(table_name(it)),
        _ => None,
    }
}

pub(super) fn is_temporary(it: &pb::RangeVar) -> bool {
    it.relpersistence == "t" || it.schemaname == "pg_temp"
}

fn name_of(it: Option<&pb::RangeVar>) -> TableName {
    it.map_or(TableName { catalog: None, schema: None, name: String::new() }, table_name)
}

/// A schema change, or something unknown.
pub(super) fn ddl(node: &Node) -> Stmt {
    let kind = match node {
        Node::CreateStmt(it) => DdlKind::CreateTable(create_table(it)),
        Node::AlterTableStmt(it) => alter_table(it),
        Node::IndexStmt(it) => index(it),
        Node::RenameStmt(it) => rename(it),
        Node::ViewStmt(it) => DdlKind::CreateView {
            is_temporary: it.view.as_ref().is_some_and(is_temporary),
            view: name_of(it.view.as_ref()),
            query: statement::statement(it.query.as_deref()),
        },
        Node::CreateSeqStmt(it) => DdlKind::CreateSequence {
            is_temporary: it.sequence.as_ref().is_some_and(is_temporary),
            sequence: name_of(it.sequence.as_ref()),
        },
        Node::AlterSeqStmt(it) => {
            DdlKind::AlterSequence { sequence: name_of(it.sequence.as_ref()) }
        }
        Node::DropStmt(it) => DdlKind::Drop {
            tables: it.objects.iter().filter_map(object).collect(),
            concurrently: it.concurrent,
        },
        Node::CreatedbStmt(_) | Node::DropdbStmt(_) => DdlKind::Database,
        Node::AlterSystemStmt(_) => DdlKind::OutsideTransaction,
        Node::CreateTableSpaceStmt(_) | Node::DropTableSpaceStmt(_) => DdlKind::OutsideTransaction,
        Node::CreateSubscriptionStmt(_) | Node::DropSubscriptionStmt(_) => {
            DdlKind::OutsideTransaction
        }
        other if is_ddl(other) => DdlKind::Other,
        other => return Stmt::Unknown(words_of(&node_name(other))),
    };
    Stmt::Ddl(Box::new(Ddl { what: words_of(&node_name(node)), kind, leaves: left_database(node) }))
}

/// The database that DROP, RENAME or a copy wants free of sessions.
fn left_database(node: &Node) -> Option<String> {
    match node {
        Node::DropdbStmt(it) => Some(it.dbname.clone()),
        Node::RenameStmt(it) if it.rename_type() == pb::ObjectType::ObjectDatabase => {
            Some(it.subname.clone())
        }
        Node::CreatedbStmt(it) => it.options.iter().find_map(|option| match kind(option)? {
            Node::DefElem(it) if it.defname == "template" => it.arg.as_deref().and_then(word),
            _ => None,
        }),
        _ => None,
    }
}

/// `AlterRoleStmt` as `ALTER ROLE`.
fn words_of(node: &str) -> String {
    let mut text = String::new();
    for letter in node.trim_end_matches("Stmt").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_uppercase());
    }
    match text.as_str() {
        "CREATE" => "CREATE TABLE".to_owned(),
        "INDEX" => "CREATE INDEX".to_owned(),
        "VIEW" => "CREATE VIEW".to_owned(),
        _ => text,
    }
}

fn is_ddl(node: &Node) -> bool {
    let name = node_name(node);
    let begins = ["Create", "Alter", "Drop", "Grant", "Comment", "SecLabel", "Define", "Rule"];
    let whole = ["CompositeTypeStmt", "ReassignOwnedStmt", "ImportForeignSchemaStmt"];
    name.ends_with("Stmt") && begins.iter().any(|it| name.starts_with(it))
        || whole.contains(&name.as_str())
}

/// The name of a dropped object, if it is a list of names.
fn object(node: &pb::Node) -> Option<TableName> {
    let Node::List(list) = kind(node)? else { return None };
    let mut names = words(&list.items);
    let name = names.pop()?;
    Some(TableName { name, schema: names.pop(), catalog: names.pop() })
}

fn create_table(it: &pb::CreateStmt) -> CreateTable {
    let mut made = CreateTable {
        table: name_of(it.relation.as_ref()),
        is_temporary: it.relation.as_ref().is_some_and(is_temporary),
        columns: Vec::new(),
        constraints: Vec::new(),
        parents: table_names(&it.inh_relations),
        is_partition: it.partbound.is_some(),
    };
    for element in it.table_elts.iter().chain(&it.constraints) {
        match kind(element) {
            Some(Node::ColumnDef(it)) => made.columns.push(column(it)),
            Some(Node::Constraint(it)) => made.constraints.extend(constraint(it)),
            Some(Node::TableLikeClause(it)) => {
                made.parents.extend(it.relation.as_ref().map(table_name));
            }
            _ => (),
        }
    }
    made
}

fn column(it: &pb::ColumnDef) -> ColumnDef {
    let mut made = ColumnDef {
        name: it.colname.clone(),
        ty: it.type_name.as_ref().map(type_name),
        default: boxed(it.raw_default.as_deref()),
        is_identity: !it.identity.is_empty(),
        constraints: Vec::new(),
        if_not_exists: false,
    };
    for node in &it.constraints {
        let Some(Node::Constraint(found)) = kind(node) else { continue };
        match found.contype() {
            pb::ConstrType::ConstrDefault => made.default = boxed(found.raw_expr.as_deref()),
            pb::ConstrType::ConstrIdentity => made.is_identity = true,
            _ => made.constraints.extend(constraint(found).map(|it| at_column(it, &made.name))),
        }
    }
    made
}

/// A constraint written at a column is about that column.
fn at_column(constraint: Constraint, column: &str) -> Constraint {
    let own = vec![column.to_owned()];
    match constraint {
        Constraint::Unique { using_index, .. } => Constraint::Unique { columns: own, using_index },
        Constraint::Foreign { table, referenced, .. } => {
            Constraint::Foreign { columns: own, table, referenced }
        }
        other => other,
    }
}

fn constraint(it: &pb::Constraint) -> Option<Constraint> {
    match it.contype() {
        pb::ConstrType::ConstrPrimary | pb::ConstrType::ConstrUnique => Some(Constraint::Unique {
            columns: words(&it.keys),
            using_index: !it.indexname.is_empty(),
        }),
        pb::ConstrType::ConstrExclusion => {
            Some(Constraint::Exclusion { columns: it.exclusions.iter().map(excluded).collect() })
        }
        pb::ConstrType::ConstrForeign => Some(Constraint::Foreign {
            columns: words(&it.fk_attrs),
            table: name_of(it.pktable.as_ref()),
            referenced: words(&it.pk_attrs),
        }),
        _ => None,
    }
}

/// The column of `column WITH =`; other operators do not keep tenants apart.
fn excluded(node: &pb::Node) -> Option<String> {
    let Node::List(list) = kind(node)? else { return None };
    let [element, operator] = list.items.as_slice() else { return None };
    let Node::IndexElem(element) = kind(element)? else { return None };
    let Node::List(operator) = kind(operator)? else { return None };
    let is_equal = operator.items.last().and_then(word).as_deref() == Some("=");
    if is_equal { some(&element.name) } else { None }
}

fn index(it: &pb::IndexStmt) -> DdlKind {
    let column = |node: &pb::Node| match kind(node) {
        Some(Node::IndexElem(it)) => some(&it.name),
        _ => None,
    };
    DdlKind::CreateIndex {
        table: name_of(it.relation.as_ref()),
        index: some(&it.idxname),
        unique: it.unique,
        concurrently: it.concurrent,
        columns: it.index_params.iter().map(column).collect(),
    }
}

fn rename(it: &pb::RenameStmt) -> DdlKind {
    let Some(table) = it.relation.as_ref().map(table_name) else { return DdlKind::Other };
    match it.rename_type() {
        pb::ObjectType::ObjectColumn => {
            DdlKind::RenameColumn { table, column: it.subname.clone(), to: it.newname.clone() }
        }
        pb::ObjectType::ObjectTable => DdlKind::RenameTable { table, to: it.newname.clone() },
        _ => DdlKind::Other,
    }
}

fn alter_table(it: &pb::AlterTableStmt) -> DdlKind {
    let changes = it.cmds.iter().map(|node| match kind(node) {
        Some(Node::AlterTableCmd(it)) => alteration(it),
        _ => AlterTable::Other,
    });
    let mut concurrently = false;
    for node in &it.cmds {
        if let Some(Node::AlterTableCmd(it)) = kind(node) {
            concurrently |= is_concurrent_detach(it);
        }
    }
    if concurrently {
        return DdlKind::OutsideTransaction;
    }
    DdlKind::AlterTable { table: name_of(it.relation.as_ref()), changes: changes.collect() }
}

fn is_concurrent_detach(it: &pb::AlterTableCmd) -> bool {
    matches!(it.def.as_deref().and_then(kind), Some(Node::PartitionCmd(it)) if it.concurrent)
}

fn alteration(it: &pb::AlterTableCmd) -> AlterTable {
    use pb::AlterTableType as T;
    let def = it.def.as_deref().and_then(kind);
    match (it.subtype(), def) {
        (T::AtAddColumn, Some(Node::ColumnDef(def))) => {
            AlterTable::AddColumn(ColumnDef { if_not_exists: it.missing_ok, ..column(def) })
        }
        (T::AtAddConstraint, Some(Node::Constraint(def))) => {
            constraint(def).map_or(AlterTable::Other, AlterTable::AddConstraint)
        }
        (T::AtDropColumn, _) => AlterTable::DropColumn(it.name.clone()),
        (T::AtAlterColumnType, _) => AlterTable::ColumnType(it.name.clone()),
        (T::AtColumnDefault, _) => {
            AlterTable::Default { column: it.name.clone(), default: boxed(it.def.as_deref()) }
        }
        (T::AtAddIdentity, _) => AlterTable::Identity { column: it.name.clone() },
        (T::AtAttachPartition, Some(Node::PartitionCmd(def))) => {
            AlterTable::Attach(name_of(def.name.as_ref()))
        }
        (T::AtAddInherit, Some(Node::RangeVar(def))) => AlterTable::Attach(table_name(def)),
        _ => AlterTable::Other,
    }
}
