//! The parts of a DO block of PL/pgSQL.

use pg_query::protobuf as pb;
use serde_json::Value as Json;

use super::{Node, kind};

/// What a block does somewhere, in whatever order and however often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Runs this SQL.
    Sql(String),
    /// Computes an expression: a condition, a default, an argument.
    Expr(String),
    /// Something that is not looked into; by its words.
    Opaque(String),
}

/// The parts of the DO statement that the text is. `None` if the parser cannot read it, or it is of
/// another language.
pub fn parts(sql: &str) -> Option<Vec<Part>> {
    if !is_plpgsql(sql) {
        return None;
    }
    let tree = pg_query::parse_plpgsql(sql).ok()?;
    let [function] = tree.as_array()?.as_slice() else { return None };
    let function = function.get("PLpgSQL_function")?;
    let mut found = Parts(Vec::new());
    found.each(function.get("datums"));
    found.node(function.get("action")?);
    Some(found.0)
}

fn is_plpgsql(sql: &str) -> bool {
    let Ok(tree) = pg_query::parse(sql, 0) else { return false };
    let [statement] = tree.protobuf.stmts.as_slice() else { return false };
    let Some(Node::DoStmt(it)) = statement.stmt.as_deref().and_then(kind) else { return false };
    it.args.iter().all(|arg| match kind(arg) {
        Some(Node::DefElem(it)) if it.defname == "language" => {
            it.arg.as_deref().and_then(super::word).is_some_and(|it| it == "plpgsql")
        }
        _ => true,
    })
}

/// What was found so far.
struct Parts(Vec<Part>);

impl Parts {
    fn each(&mut self, nodes: Option<&Json>) {
        nodes.and_then(Json::as_array).into_iter().flatten().for_each(|it| self.node(it));
    }

    /// A node is an object of one member, which is named after the node's kind.
    fn node(&mut self, node: &Json) {
        for (name, it) in node.as_object().into_iter().flatten() {
            self.known(name, it);
        }
    }

    fn known(&mut self, name: &str, it: &Json) {
        match name {
            "PLpgSQL_row" | "PLpgSQL_rec" | "PLpgSQL_recfield" => (),
            "PLpgSQL_var" if it.get("cursor_explicit_expr").is_none() => {
                self.expr(it.get("default_val"));
            }
            "PLpgSQL_stmt_block" => self.block(it),
            "PLpgSQL_stmt_if" => {
                self.expr(it.get("cond"));
                self.each(it.get("then_body"));
                self.each(it.get("elsif_list"));
                self.each(it.get("else_body"));
            }
            "PLpgSQL_if_elsif" => {
                self.expr(it.get("cond"));
                self.each(it.get("stmts"));
            }
            "PLpgSQL_exception" => self.each(it.get("action")),
            "PLpgSQL_stmt_raise" if it.get("options").is_none() => self.each(it.get("params")),
            "PLpgSQL_expr" => self.push_text(it, Part::Expr),
            "PLpgSQL_stmt_return" if it.get("expr").is_none() => (),
            "PLpgSQL_stmt_assign" => self.assignment(it),
            "PLpgSQL_stmt_perform" => self.sql(it.get("expr")),
            "PLpgSQL_stmt_execsql" => self.sql(it.get("sqlstmt")),
            "PLpgSQL_stmt_dynexecute" => self.dynamic(it),
            other => self.opaque(other),
        }
    }

    fn block(&mut self, it: &Json) {
        self.each(it.get("body"));
        let handlers = it.get("exceptions").and_then(|it| it.get("PLpgSQL_exception_block"));
        self.each(handlers.and_then(|it| it.get("exc_list")));
    }

    /// `name := expression`; what is assigned to a part of a variable is not looked into.
    fn assignment(&mut self, it: &Json) {
        let text = it.get("expr").and_then(query_of).unwrap_or_default();
        let sides = text.split_once(":=").or_else(|| text.split_once('='));
        let is_plain = |it: &str| it.trim().chars().all(|it| it.is_alphanumeric() || it == '_');
        match sides {
            Some((variable, value)) if is_plain(variable) => {
                self.0.push(Part::Expr(value.to_owned()));
            }
            _ => self.opaque("PLpgSQL_stmt_assign"),
        }
    }

    /// EXECUTE of a text that is written there.
    fn dynamic(&mut self, it: &Json) {
        let takes_more = it.get("params").is_some() || it.get("into").is_some();
        let text = it.get("query").and_then(query_of).and_then(literal);
        match text.filter(|_| !takes_more) {
            Some(text) => self.0.push(Part::Sql(text)),
            None => self.opaque("EXECUTE of a computed text"),
        }
    }

    fn expr(&mut self, it: Option<&Json>) {
        it.into_iter().for_each(|it| self.node(it));
    }

    fn sql(&mut self, it: Option<&Json>) {
        let text = it.and_then(query_of).unwrap_or_default().to_owned();
        self.0.push(Part::Sql(text));
    }

    fn push_text(&mut self, it: &Json, part: fn(String) -> Part) {
        let text = it.get("query").and_then(Json::as_str).unwrap_or_default();
        self.0.push(part(text.to_owned()));
    }

    fn opaque(&mut self, name: &str) {
        let words = match name.trim_start_matches("PLpgSQL_").trim_start_matches("stmt_") {
            "loop" | "while" | "fori" | "fors" | "forc" | "dynfors" | "foreach_a" => "a loop",
            "commit" | "rollback" => "COMMIT or ROLLBACK",
            "open" | "fetch" | "close" | "var" => "a cursor",
            other => other,
        };
        self.0.push(Part::Opaque(words.to_owned()));
    }
}

/// The text of `{"PLpgSQL_expr": {"query": …}}`.
fn query_of(it: &Json) -> Option<&str> {
    it.get("PLpgSQL_expr")?.get("query")?.as_str()
}

/// The value of an expression that is a string literal and nothing else.
fn literal(expr: &str) -> Option<String> {
    let tree = pg_query::parse(&format!("SELECT {expr}"), 0).ok()?;
    let [statement] = tree.protobuf.stmts.as_slice() else { return None };
    let Node::SelectStmt(select) = statement.stmt.as_deref().and_then(kind)? else { return None };
    let [target] = select.target_list.as_slice() else { return None };
    let Node::ResTarget(target) = kind(target)? else { return None };
    let is_bare = select.from_clause.is_empty() && select.where_clause.is_none();
    match kind(target.val.as_deref()?)? {
        Node::AConst(pb::AConst { val: Some(pb::a_const::Val::Sval(it)), .. }) if is_bare => {
            Some(it.sval.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str) -> Part {
        Part::Sql(text.to_owned())
    }

    fn expr(text: &str) -> Part {
        Part::Expr(text.to_owned())
    }

    #[test]
    fn every_branch_is_a_part() {
        let found = parts(
            "DO $$ DECLARE n int := 3; BEGIN \
             IF n > 1 THEN CREATE TABLE a (); ELSIF f(n) THEN PERFORM 1; ELSE EXECUTE 'DROP TABLE a'; END IF; \
             n := n + 1; RAISE NOTICE '%', n; \
             EXCEPTION WHEN OTHERS THEN DROP TYPE t; END $$",
        );
        let all = [
            expr("3"),
            expr("n > 1"),
            sql("CREATE TABLE a ()"),
            expr("f(n)"),
            sql("SELECT 1"),
            sql("DROP TABLE a"),
            expr(" n + 1"),
            expr("n"),
            sql("DROP TYPE t"),
        ];
        assert_eq!(found.unwrap_or_default(), all);
    }

    #[test]
    fn what_is_computed_is_opaque() {
        let opaque = |text: &str| vec![Part::Opaque(text.to_owned())];
        for (body, word) in [
            ("EXECUTE format('DROP TABLE %I', x)", "EXECUTE of a computed text"),
            ("EXECUTE 'SELECT ' || '1'", "EXECUTE of a computed text"),
            ("COMMIT", "COMMIT or ROLLBACK"),
            ("LOOP NULL; END LOOP", "a loop"),
        ] {
            let found = parts(&format!("DO $$ BEGIN {body}; END $$"));
            assert_eq!(found.unwrap_or_default(), opaque(word), "{body}");
        }
        assert_eq!(parts("DO LANGUAGE plperl 'x'"), None);
        assert_eq!(parts("DO 'BEGIN'"), None);
    }
}
