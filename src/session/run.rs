//! Statements of the simple protocol, and what both protocols share: which shards, which role.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;

use super::causal::{Marks, marks_of, staleness, token_of};
use super::transaction::SchemaOfBlock;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::{Failure, relay};
use crate::plan::cache::Verb;
use crate::plan::route::{self, Arguments, Call, Target};
use crate::plan::{Access, Action as PlanAction, Combine, Run, Statement};
use crate::pool::writes::Mark;
use crate::server::Setting;
use crate::shard::{Key, ShardId, ShardSet};
use crate::sql::comment;
use crate::wire::frontend;
use crate::wire::pipeline::Action;

/// The OIDs of `setval`.
const SETVAL: [u32; 2] = [1576, 1765];

/// Where one execution of a statement goes.
#[derive(Clone, Debug)]
pub(super) struct Routed {
    pub(super) shards: ShardSet,
    pub(super) role: Role,
    /// Of whom rows are read or written.
    pub(super) marks: Marks,
}

impl Session {
    /// Handles a Query message up to its ReadyForQuery.
    pub(super) async fn query(&mut self, frame: Bytes) -> Result<(), Failure> {
        self.statements.remove(&b""[..]);
        self.tape_query(&frame);
        let mut done = self.simple(&frame).await;
        while self.resumes(&done).await? {
            done = self.simple(&frame).await;
        }
        self.settle(done)?;
        self.end_implicit().await?;
        if self.listening.is_some() {
            self.hear().await;
        }
        self.ready();
        Ok(())
    }

    /// Ends a block of the proxy's own: committed, or rolled back if anything failed.
    pub(super) async fn end_implicit(&mut self) -> Result<(), Failure> {
        match &self.tx {
            Some(tx) if !tx.is_explicit && tx.has_failed => self.rollback().await,
            Some(tx) if !tx.is_explicit => {
                let done = self.commit().await.map(drop);
                self.settle(done)?;
            }
            _ => (),
        }
        Ok(())
    }

    async fn simple(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let sql = frontend::view::query(frame)?;
        self.check_text(sql)?;
        let sql = frame.slice_ref(sql);
        let restore = self.directives(&sql)?;
        let done = self.statements_of(&sql, frame).await;
        if let Some(routing) = restore {
            self.routing = routing;
        }
        done
    }

    /// Applies a leading comment's directives; gives what is to be restored after the statement.
    pub(super) fn directives(&mut self, sql: &Bytes) -> Result<Option<super::Routing>, PgError> {
        let may_be_comment = |it: &u8| matches!(it, b'/' | b'-') || it.is_ascii_whitespace();
        if !sql.first().is_some_and(may_be_comment) {
            return Ok(None);
        }
        let Ok(text) = std::str::from_utf8(sql) else { return Ok(None) };
        let said = comment::directives(text)?;
        if said == comment::Directives::default() {
            return Ok(None);
        }
        let max_staleness = said.max_staleness.as_deref().map(staleness).transpose()?;
        let token = said.token.as_deref().map(token_of).transpose()?;
        let before = self.routing.clone();
        if let Some(tenant) = said.tenant {
            self.routing.tenant = Some(tenant.into_owned());
        }
        if let Some(role) = said.role {
            self.routing.role = Some(Role::held(role == comment::Role::Primary));
        }
        if let Some(limit) = max_staleness {
            self.routing.max_staleness = limit;
        }
        if let Some(token) = token {
            self.routing.token = token;
        }
        Ok(Some(before))
    }

    async fn statements_of(&mut self, sql: &Bytes, frame: &Bytes) -> Result<(), Failure> {
        let statements = self.analyse(sql, &[]).await?;
        let [statement] = statements.as_slice() else {
            return self.several(statements, frame).await;
        };
        self.execute(statement, Some(frame)).await
    }

    /// Several statements in one string are one implicit transaction. If one server runs them all it
    /// gets the string as it is.
    async fn several(
        &mut self,
        statements: SmallVec<[Statement; 1]>,
        frame: &Bytes,
    ) -> Result<(), Failure> {
        let may_go_whole = !self.database.is_sharded() && !self.listens_at_commit();
        if may_go_whole && statements.iter().all(|it| goes_whole(&it.plan)) {
            return self.whole(&statements, frame).await;
        }
        if let Some((shard, role)) = self.one_place(&statements) {
            self.check_not_failed()?;
            let writes = statements.iter().any(|it| !it.is_read());
            self.announce().await;
            return self.relay_to(shard, role, writes, frame).await;
        }
        for (at, statement) in statements.iter().enumerate() {
            // What came before may have changed the schema, the search_path or the tenant.
            let planned = if at == 0 { None } else { self.plan_again(statement).await? };
            let statement = planned.as_ref().unwrap_or(statement);
            let opens = matches!(
                statement.plan.action,
                PlanAction::Local(crate::plan::Local::Begin { .. })
            );
            if self.tx.is_none() && !opens {
                self.begin_implicit();
            }
            self.execute(statement, None).await?;
            if self.members.iter_mut().any(|it| it.server().has_failed()) {
                self.fail_transaction();
                return Ok(());
            }
        }
        Ok(())
    }

    /// The one server that may run all statements, if there is one and none is the proxy's own.
    fn one_place(&mut self, statements: &[Statement]) -> Option<(ShardId, Role)> {
        let mut place: Option<(ShardId, Role)> = None;
        for statement in statements {
            let PlanAction::Run(run) = &statement.plan.action else { return None };
            let plan = &statement.plan;
            let is_special = plan.pin.is_some() || plan.changes_schema || plan.unique.is_some();
            if is_special || !plan.sets.is_empty() {
                return None;
            }
            let routed = self.route(statement, run, &Arguments::None).ok()??;
            let shard = routed.shards.single()?;
            let role = match place {
                Some((other, _)) if other != shard => return None,
                Some((_, role)) => role.join(routed.role),
                None => routed.role,
            };
            place = Some((shard, role));
            if run.access == Access::Write {
                self.begin_writes(&routed);
            }
        }
        place
    }

    /// Carries one statement out and gives its answer, without ReadyForQuery.
    pub(super) async fn execute(
        &mut self,
        statement: &Statement,
        frame: Option<&Bytes>,
    ) -> Result<(), Failure> {
        self.database.state.metrics.queries.inc();
        match &statement.plan.action {
            PlanAction::Local(local) => Box::pin(self.local(local, statement)).await,
            PlanAction::Refuse(error) => {
                self.check_not_failed()?;
                Err(error.clone().into())
            }
            PlanAction::Run(run) => {
                self.check_not_failed()?;
                self.check_lock(statement)?;
                self.check_pin(&statement.plan)?;
                if statement.plan.uses.is_some() {
                    self.name_statements(&statement.plan).await?;
                }
                self.run(statement, run, frame).await
            }
        }
    }

    /// LOCK TABLE lasts to the end of a block, so it needs one.
    pub(super) fn check_lock(&self, statement: &Statement) -> Result<(), PgError> {
        if self.tx.is_some() || statement.verb() != Verb::Lock {
            return Ok(());
        }
        Err(PgError::new(
            sqlstate::NO_ACTIVE_SQL_TRANSACTION,
            "LOCK TABLE can only be used in transaction blocks",
        ))
    }

    async fn run(
        &mut self,
        statement: &Statement,
        run: &Run,
        frame: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let Some(routed) = self.route(statement, run, &Arguments::None)? else {
            // The shared plan does not fit this text: plan the text itself.
            let exact = self.analyse_exactly(&statement.text, &[])?;
            let PlanAction::Run(run) = &exact.plan.action else {
                return Box::pin(self.execute(&exact, frame)).await;
            };
            let Some(routed) = self.route(&exact, run, &Arguments::None)? else {
                return Err(unreadable_key().into());
            };
            return self.run_at(&exact, run, &routed, frame).await;
        };
        self.run_at(statement, run, &routed, frame).await
    }

    async fn run_at(
        &mut self,
        statement: &Statement,
        run: &Run,
        routed: &Routed,
        frame: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let found = match &statement.plan.lookup {
            None => None,
            Some(_) => Box::pin(self.look_up(statement, run, Arguments::None, routed)).await?,
        };
        let routed = found.as_ref().unwrap_or(routed);
        if run.access == Access::Write {
            self.open_writes(routed).await;
        }
        let done = match routed.shards.single() {
            Some(shard)
                if !self.database.is_sharded()
                    || !matches!(run.combine, Combine::OneByOne)
                        && statement.plan.unique.is_none() =>
            {
                let writes = run.access == Access::Write;
                match frame {
                    Some(frame) => self.relay_to(shard, routed.role, writes, frame).await,
                    None => {
                        let mut message = bytes::BytesMut::new();
                        frontend::query(&mut message, &statement.text);
                        self.relay_to(shard, routed.role, writes, &message).await
                    }
                }
            }
            _ => Box::pin(self.fan_out(statement, run, routed, None)).await,
        };
        self.after(statement).await;
        done.and(self.after_set_config(statement, None).await)
    }

    /// What a statement leaves behind: a pin, a setting, a changed schema.
    pub(super) async fn after(&mut self, statement: &Statement) {
        let failed = self.members.iter_mut().any(|it| it.server().has_failed());
        if let Some(pin) = statement.plan.pin
            && (!failed || outlives_error(pin))
        {
            self.pin_for(pin);
        }
        if failed {
            return;
        }
        // A function that this block has replaced is not what the catalog says of it.
        let writes =
            matches!(&statement.plan.action, PlanAction::Run(run) if run.access == Access::Write);
        if self.reload_at_commit && writes && !self.database.is_sharded() {
            self.pin_for("a function made in the same block");
        }
        if self.may_unpin(statement.sql()) {
            self.doubt(std::iter::empty());
        }
        if !statement.plan.unsettled.is_empty() {
            self.doubt(statement.plan.unsettled.iter().cloned());
        }
        if statement.plan.alters {
            self.altered();
        }
        if statement.plan.changes_schema {
            self.schema_changed().await;
        }
    }

    /// Statements parsed before need not fit what they name any more; inside a block that is so for
    /// its own session now, and for all others at its end.
    pub(super) fn altered(&mut self) {
        self.database.state.altered.fetch_add(1, Ordering::AcqRel);
        if self.tx.is_some() {
            self.schema_of_block = SchemaOfBlock::Changed;
        }
    }

    /// A block has ended: what it altered is everybody's now.
    pub(super) fn end_of_alteration(&mut self) {
        if !matches!(self.schema_of_block, SchemaOfBlock::Unchanged) {
            self.schema_of_block = SchemaOfBlock::Unchanged;
            self.database.state.altered.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Sends a message to one server and hands its answer on.
    pub(super) async fn relay_to(
        &mut self,
        shard: ShardId,
        role: Role,
        writes: bool,
        message: &[u8],
    ) -> Result<(), Failure> {
        let (told, place) = (self.told_so_far(), (shard, role));
        let done = self.relay_once(place, writes, message).await;
        match self.repeats(told) {
            true => self.relay_once(place, writes, message).await,
            false => done,
        }
    }

    async fn relay_once(
        &mut self,
        place: (ShardId, Role),
        writes: bool,
        message: &[u8],
    ) -> Result<(), Failure> {
        if writes {
            self.check_second_write(place.0)?;
        }
        let is_new = !self.is_tied(place.0);
        let mut done = self.send_query(place, writes, message).await;
        if is_new && self.forget_lost(&done) {
            done = self.send_query(place, writes, message).await;
        }
        if writes && self.tx.is_none() {
            self.note_written();
        }
        done.map_err(|it| self.told_of_loss(it, writes))
    }

    async fn send_query(
        &mut self,
        (shard, role): (ShardId, Role),
        writes: bool,
        message: &[u8],
    ) -> Result<(), Failure> {
        let may_repeat = self.may_repeat(writes);
        let at = self.member(shard, role).await?;
        if may_repeat {
            self.watch_loss(at, true);
        }
        let member = &mut self.members[at];
        member.wrote |= writes;
        let server = member.lease.server();
        server.statements.unnamed = None;
        server.push(b'Q', message, Action::Forward);
        relay::relay(server, &mut self.client).await
    }

    /// The FunctionCall message: large objects of the home shard.
    pub(super) async fn function_call(&mut self, frame: &Bytes) -> Result<(), Failure> {
        self.check_not_failed()?;
        let function = frame.get(5..9).and_then(|it| it.try_into().ok()).map(u32::from_be_bytes);
        if self.database.is_sharded() && function.is_some_and(|it| SETVAL.contains(&it)) {
            return Err(PgError::refused("setval in a FunctionCall message is not supported")
                .detail("Each shard's sequence is set to a number of its own.")
                .hint("SELECT setval('name', number).")
                .into());
        }
        let home = self.database.config.home_shard;
        let at = self.member(home, Role::Primary).await?;
        self.members[at].wrote = true;
        self.open_any_writes().await;
        let server = self.members[at].lease.server();
        server.push(b'F', frame, Action::Forward);
        let done = relay::relay(server, &mut self.client).await;
        done.map_err(|it| self.told_of_loss(it, true))
    }

    /// Which shards, which kind of host. `None`: the plan is shared and does not fit this text.
    ///
    /// # Errors
    /// If an argument cannot be a key.
    pub(super) fn route(
        &self,
        statement: &Statement,
        run: &Run,
        arguments: &Arguments<'_>,
    ) -> Result<Option<Routed>, PgError> {
        let call = statement.call(*arguments);
        self.route_call(run, &call, statement.verb(), statement.is_shared)
    }

    /// As [`Self::route`], of a statement taken apart.
    pub(super) fn route_call(
        &self,
        run: &Run,
        call: &Call<'_>,
        verb: Verb,
        is_shared: bool,
    ) -> Result<Option<Routed>, PgError> {
        let (map, home) = (self.database.map(), self.database.config.home_shard);
        let routed = route::route(run, map, home, call)?;
        if routed.has_null && verb == Verb::Insert {
            return Err(PgError::new(
                sqlstate::NOT_NULL_VIOLATION,
                "the tenant column of a sharded table cannot be NULL",
            )
            .hint("give the tenant's key"));
        }
        let shards = match routed.target {
            Target::Replan => return Ok(None),
            Target::Any => ShardSet::one(self.any_shard()),
            Target::Home | Target::NoRows => ShardSet::one(home),
            // What every shard has is changed on all, also on those that own no tenant (yet).
            Target::Shards(_) if is_of_all(&run.combine) => {
                self.database.shards.keys().copied().collect()
            }
            Target::Shards(shards) => shards,
        };
        self.check_encoding(run, &routed.keys)?;
        let shards = self.tenant_shard(run, shards, &routed.keys)?;
        if shards.len() > 1 && is_shared {
            return Ok(None);
        }
        let mut marks = marks_of(routed.keys.iter().map(Some));
        if marks.is_empty() && !matches!(run.scope, crate::plan::Scope::All) {
            marks.push(Mark::UNTENANTED);
        }
        let role = self.role(run, shards, &marks, verb);
        Ok(Some(Routed { shards, role, marks }))
    }

    /// Keys are hashed as the client wrote them, and stored as the server converts them: beyond ASCII
    /// that is the same only in UTF8.
    pub(super) fn check_encoding(&self, run: &Run, keys: &[Key]) -> Result<(), PgError> {
        let splits = matches!(
            run.combine,
            Combine::Split(_) | Combine::Scatter(_) | Combine::Move(_) | Combine::CopyFrom(_)
        );
        if !splits && keys.iter().all(|key| key.as_str().is_ascii()) {
            return Ok(());
        }
        let Some(Setting::Value(encoding) | Setting::Statement(encoding)) =
            self.settings.get("client_encoding")
        else {
            return Ok(());
        };
        let name: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
        let is_utf8 = ["utf8", "unicode"].contains(&name.to_ascii_lowercase().as_str());
        if is_utf8 {
            return Ok(());
        }
        Err(PgError::refused(format!("tenant keys under client_encoding {encoding}"))
            .detail("beyond ASCII the server stores another text than the client has sent")
            .hint("SET client_encoding TO 'UTF8'"))
    }

    /// The shard that answers what every shard answers alike: one that takes part already.
    pub(super) fn any_shard(&self) -> ShardId {
        let held = self.members.iter().find(|it| it.in_tx);
        held.map_or(self.database.config.home_shard, |it| it.shard)
    }

    /// A session that has named its tenant stays on that shard, except for what belongs to all.
    fn tenant_shard(&self, run: &Run, shards: ShardSet, keys: &[Key]) -> Result<ShardSet, PgError> {
        let Some(tenant) = self.routing.tenant.as_ref() else { return Ok(shards) };
        let is_keyless_read_or_write = matches!(run.scope, crate::plan::Scope::All)
            && matches!(
                run.combine,
                Combine::Merge(_)
                    | Combine::Sum
                    | Combine::Scatter(_)
                    | Combine::Move(_)
                    | Combine::Lock(_)
                    | Combine::Pick(_)
                    | Combine::Refuse(_)
            );
        let owner = self.owner_of(tenant)?;
        if let (
            crate::plan::Scope::All,
            Combine::Gather(gather) | Combine::CopyGather { gather, .. },
        ) = (&run.scope, &run.combine)
        {
            let home = self.database.config.home_shard;
            let own = ShardSet::one(owner);
            let reads_home = gather.needs_home && gather.runs == crate::plan::gather::Runs::Read;
            return Ok(if reads_home { own.union(ShardSet::one(home)) } else { own });
        }
        if is_keyless_read_or_write {
            return Ok(ShardSet::one(owner));
        }
        if !keys.is_empty() && shards != ShardSet::one(owner) {
            return Err(PgError::refused(format!(
                "the statement names a tenant of shard {shards}, the session's tenant {tenant:?} is on shard {owner}"
            ))
            .hint("RESET sluice.tenant, or name the session's own tenant"));
        }
        Ok(shards)
    }

    /// The shard of a tenant named by text.
    pub(super) fn owner_of(&self, tenant: &str) -> Result<ShardId, PgError> {
        let mut kinds = self.key_types();
        if kinds.is_empty() {
            kinds.push(crate::shard::KeyType::Text);
        }
        // Tables may have keys of several types: one that the tenant's name reads as counts.
        let read: Vec<_> = kinds.iter().map(|it| Key::from_text(*it, tenant)).collect();
        let mut keys = read.iter().flatten();
        let invalid = |why: String| {
            PgError::new(sqlstate::INVALID_PARAMETER_VALUE, format!("sluice.tenant: {why}"))
        };
        let Some(key) = keys.next() else {
            let why = read.iter().find_map(|it| it.as_ref().err());
            return Err(invalid(why.map_or_else(String::new, ToString::to_string)));
        };
        if keys.any(|it| it.bucket() != key.bucket()) {
            return Err(invalid(format!(
                "{tenant:?} means one tenant as text and another as a number or uuid"
            ))
            .hint("write it as SELECT tenant::text prints it"));
        }
        Ok(self.database.map().owner(key))
    }
}

/// Whether a failed statement may have left it on the server all the same.
fn outlives_error(pin: &str) -> bool {
    !pin.starts_with("temporary") && pin != "WITH HOLD cursor"
}

/// Whether shards without tenants take part, too.
fn is_of_all(combine: &Combine) -> bool {
    use Combine as C;
    matches!(combine, C::Same | C::Filled(_) | C::OneByOne | C::Place(_))
}

/// Whether a statement amid others needs nothing of the proxy.
fn goes_whole(plan: &crate::plan::Plan) -> bool {
    use crate::plan::Local as L;
    match &plan.action {
        PlanAction::Run(_) => true,
        PlanAction::Refuse(_) => false,
        PlanAction::Local(local) => !matches!(
            local,
            L::SetSluice { .. }
                | L::ShowSluice(_)
                | L::Explain(_)
                | L::Prepare { .. }
                | L::Deallocate(_)
                | L::DiscardAll
                | L::Listen(_)
                | L::Unlisten(_)
                | L::ListeningChannels
        ),
    }
}

/// A key that the planner took for one does not read as one.
pub(super) fn unreadable_key() -> PgError {
    PgError::refused("the tenant key of this statement cannot be read")
        .hint("write it as a plain literal of the column's type, or pass it as a parameter")
}
