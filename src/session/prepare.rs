//! SQL-level PREPARE and EXECUTE: the same statements as those of the extended protocol.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::extended::{Portal, Prepared};
use super::{Role, Session, SqlStatements};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::plan::{Action as PlanAction, Plan, Uses};
use crate::sql::fingerprint::Slot;
use crate::sql::lexer::Lexer;
use crate::sql::literal::literal_value;
use crate::wire::frontend;
use crate::wire::frontend::view::Parse;
use crate::wire::pipeline::Action;

impl Session {
    /// PREPARE: a server judges the statement, the client's name is kept here.
    pub(super) async fn prepare_sql(
        &mut self,
        name: &str,
        types: &[u32],
        text: &Bytes,
    ) -> Result<(), Failure> {
        self.check_name(name.as_bytes())?;
        let mut frame = BytesMut::new();
        frontend::parse(&mut frame, name.as_bytes(), text, types.iter().copied());
        let frame = frame.freeze();
        let prepared = self.prepare(&Parse::read(&frame)?, &frame).await?;
        match &prepared.statement.plan.action {
            PlanAction::Refuse(error) => return Err(error.clone().into()),
            PlanAction::Local(_) => {
                return Err(PgError::refused("PREPARE of this statement").into());
            }
            PlanAction::Run(_) => (),
        }
        self.describe_at_server(&prepared, true).await?;
        if self.members.iter_mut().any(|it| it.server().has_failed()) {
            return Ok(());
        }
        self.put_statement(name.as_bytes(), prepared);
        self.complete("PREPARE");
        Ok(())
    }

    /// EXECUTE with constants as arguments.
    pub(super) async fn execute_sql(&mut self, name: &str, args: &str) -> Result<(), Failure> {
        let known = self.statement_named(name.as_bytes())?;
        let prepared: Arc<Prepared> = self.fresh(known).await?;
        let values = constants(args)?;
        let values: Vec<Option<&[u8]>> =
            values.iter().map(|it| it.as_ref().map(|it| it.as_bytes())).collect();
        let expected = prepared.text.inferred.get().map_or(values.len(), Vec::len);
        if expected != values.len() {
            return Err(PgError::new(
                sqlstate::SYNTAX_ERROR,
                format!("wrong number of parameters for prepared statement \"{name}\""),
            )
            .detail(format!("Expected {expected} parameters but got {}.", values.len()))
            .into());
        }
        let mut bind = BytesMut::new();
        frontend::bind(&mut bind, b"", &values, 0);
        let portal = Portal::unplaced(prepared, bind.freeze());
        let before = self.client.out.len();
        self.describe_portal(&portal).await?;
        if self.client.out.get(before) == Some(&b'n') {
            // The simple protocol knows no NoData.
            self.client.out.truncate(before);
        }
        if self.members.iter_mut().any(|it| it.server().has_failed()) {
            return Ok(());
        }
        self.step_run(&portal, 0, &Bytes::new()).await
    }
}

/// SQL-level statements of a database with one shard: a server has them under the clients' own names,
/// so that EXECUTE goes to it as it is. One of another client's stands in the way only until it is
/// deallocated.
impl Session {
    pub(super) async fn prepare_whole(
        &mut self,
        name: &str,
        types: &[u32],
        inner: &Bytes,
        sql: &str,
    ) -> Result<(), Failure> {
        if !self.server_has_failed() {
            // Before the server has it: what comes after may not fail.
            self.check_name(name.as_bytes())?;
            let limit = self.cluster.config.limits.statement_bytes;
            self.proxy.prepared.check_room(inner.len() + types.len() * 4 + 1024, limit)?;
        }
        self.take_name(name).await?;
        self.relay_home(sql).await?;
        if self.members.iter_mut().any(|it| it.server().has_failed()) {
            return Ok(());
        }
        let text: Arc<str> = sql.into();
        if let Some(at) = self.home_member() {
            self.members[at].lease.server().statements.named.insert(name.to_owned(), text.clone());
        }
        self.keep_statements();
        self.sql_statements.get_or_insert_default().insert(name.to_owned(), text);
        let mut frame = BytesMut::new();
        frontend::parse(&mut frame, name.as_bytes(), inner, types.iter().copied());
        let frame = frame.freeze();
        let prepared = self.prepare(&Parse::read(&frame)?, &frame).await?;
        self.put_statement(name.as_bytes(), prepared);
        Ok(())
    }

    /// Sees to it that the server has the statements that this one names.
    pub(super) async fn name_statements(&mut self, plan: &Plan) -> Result<(), Failure> {
        match &plan.uses {
            Some(Uses::Statement(name)) => self.name_statement(name).await,
            Some(Uses::Statements) => self.name_all().await,
            None => Ok(()),
        }
    }

    /// The server has exactly the client's own statements, as `pg_prepared_statements` shows them.
    async fn name_all(&mut self) -> Result<(), Failure> {
        if self.server_has_failed() {
            return Ok(());
        }
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        let own = self.own_statements();
        let server = self.members[at].lease.server();
        for name in server.statements.take_others(|name, text| own.get(name) == Some(text)) {
            server.run(&deallocate(&name)).await?;
        }
        let in_block = self.tx.is_some();
        for (name, made_of) in own {
            let server = self.members[at].lease.server();
            if server.statements.named.get(&name) == Some(&made_of) {
                continue;
            }
            // One whose tables are gone cannot be made again, which must not fail a block.
            if in_block {
                server.run("SAVEPOINT sluice").await?;
            }
            let named = self.name_statement(&name).await;
            if let Err(Failure::Gone) = named {
                return Err(Failure::Gone);
            }
            if in_block {
                let back = named.map_or("ROLLBACK TO sluice; ", |()| "");
                let end = format!("{back}RELEASE sluice");
                self.members[at].lease.server().run(&end).await?;
            }
        }
        self.members[at].lease.server().begin_request();
        Ok(())
    }

    /// The client's statements by SQL and by Parse, but for the unnamed one, as
    /// [`Statements::named`](crate::server::statements::Statements) notes what each was made of.
    fn own_statements(&self) -> SqlStatements {
        let by_parse = self.statements.iter().filter_map(|(name, prepared)| {
            let name = std::str::from_utf8(name).ok().filter(|it| !it.is_empty())?;
            Some((name.to_owned(), made_of(prepared)))
        });
        let by_sql = self.sql_statements.iter().flat_map(|it| it.iter());
        by_parse.chain(by_sql.map(|(name, sql)| (name.clone(), Arc::clone(sql)))).collect()
    }

    /// The server knows the name as the client does.
    async fn name_statement(&mut self, name: &str) -> Result<(), Failure> {
        if self.server_has_failed() {
            return Ok(());
        }
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        let known = self.statements.get(name.as_bytes()).cloned();
        if let Some(prepared) = &known {
            // What it does is done by this name from now on.
            if let Some(pin) = prepared.statement.plan.pin {
                self.pin_for(pin);
            }
            if !prepared.statement.plan.unsettled.is_empty()
                || !prepared.statement.plan.sets.is_empty()
            {
                let plan = Arc::clone(&prepared.statement.plan);
                let set = plan.sets.iter().map(|it| it.name.clone());
                self.doubt(plan.unsettled.iter().cloned().chain(set));
            }
        }
        let own = self.sql_statements.as_ref().and_then(|it| it.get(name)).cloned();
        let is_by_sql = own.is_some();
        let own = match (own, &known) {
            (Some(sql), _) => Some(sql),
            (None, Some(it)) => Some(made_of(it)),
            (None, None) => None,
        };
        let server = self.members[at].lease.server();
        let theirs = server.statements.named.get(name);
        if theirs == own.as_ref() {
            return Ok(());
        }
        self.take_name(name).await?;
        let Some(own) = own else { return Ok(()) };
        let server = self.members[at].lease.server();
        match (is_by_sql, known) {
            (false, Some(prepared)) => {
                let text = &prepared.text;
                server.push_with(b'P', Action::Skip, |out| {
                    let types = text.types().iter().copied();
                    frontend::parse(out, name.as_bytes(), text.sql(), types);
                });
                server.push_sync();
                server.finish().await?;
            }
            _ => server.run(&own).await?,
        }
        server.statements.named.insert(name.to_owned(), own);
        Ok(())
    }

    /// Another client's statement of that name goes, or one that is too many.
    async fn take_name(&mut self, name: &str) -> Result<(), Failure> {
        if self.server_has_failed() {
            return Ok(());
        }
        let at = self.member(self.database.config.home_shard, Role::Primary).await?;
        let server = self.members[at].lease.server();
        let taken = server.statements.take_name(name);
        for name in taken {
            server.run(&deallocate(&name)).await?;
        }
        Ok(())
    }

    /// Hands a statement to the one server, as it is.
    async fn relay_home(&mut self, sql: &str) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        frontend::query(&mut message, sql.as_bytes());
        self.open_any_writes().await;
        self.relay_to(self.database.config.home_shard, Role::Primary, true, &message).await
    }

    fn home_member(&self) -> Option<usize> {
        let home = self.database.config.home_shard;
        self.members.iter().position(|it| it.shard == home && it.is_primary)
    }
}

/// What a server notes of a statement that Parse made.
fn made_of(prepared: &Prepared) -> Arc<str> {
    prepared.text.id.to_string().into()
}

fn deallocate(name: &str) -> String {
    format!("DEALLOCATE \"{}\"", name.replace('"', "\"\""))
}

/// Arguments as text values: literals, signed numbers, NULL and booleans.
fn constants(args: &str) -> Result<Vec<Option<String>>, PgError> {
    let refused = || {
        PgError::refused("EXECUTE with arguments that are not constants")
            .hint("write plain literals, or bind parameters by the extended protocol")
    };
    let (mut values, mut sign, mut value) = (Vec::new(), "", None);
    for token in Lexer::new(args) {
        let text = token.text(args);
        match (text, &value) {
            (",", Some(_)) => {
                values.extend(value.take());
                sign = "";
            }
            ("-" | "+", None) if sign.is_empty() => sign = if text == "-" { "-" } else { "+" },
            (_, Some(_)) => return Err(refused()),
            (_, None) if token.kind.is_literal() => {
                let slot =
                    Slot { start: token.start as u32, end: token.end as u32, kind: token.kind };
                let is_signed = !sign.is_empty() && !token.kind.is_number();
                let read = literal_value(args, slot).filter(|_| !is_signed).ok_or_else(refused)?;
                value = Some(Some(format!("{}{read}", sign.trim_start_matches('+'))));
            }
            (word, None) if word.eq_ignore_ascii_case("null") => value = Some(None),
            (word, None)
                if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") =>
            {
                value = Some(Some(word.to_ascii_lowercase()));
            }
            _ => return Err(refused()),
        }
    }
    values.extend(value);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_constants_are_arguments() {
        let shown = |args| constants(args).map(|it| format!("{it:?}")).unwrap_or("refused".into());
        assert_eq!(shown(""), "[]");
        assert_eq!(
            shown("1, -2.5, 'it''s', NULL, true"),
            r#"[Some("1"), Some("-2.5"), Some("it's"), None, Some("true")]"#
        );
        assert_eq!(shown("1 + 1"), "refused");
        assert_eq!(shown("now()"), "refused");
    }
}
