//! SQL-level PREPARE and EXECUTE: the same statements as those of the extended protocol.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::extended::{Portal, Prepared};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::plan::Action as PlanAction;
use crate::sql::fingerprint::Slot;
use crate::sql::lexer::Lexer;
use crate::sql::literal::literal_value;
use crate::wire::frontend;
use crate::wire::frontend::view::Parse;

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
        self.statements.insert(Bytes::copy_from_slice(name.as_bytes()), prepared);
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
