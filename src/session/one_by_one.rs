//! What cannot run in a transaction: one shard after the other, the home shard first. If it fails amid
//! them, the same statement again goes on where it failed.

use std::time::{Duration, Instant};

use super::fan_out::pick;
use super::run::Routed;
use super::{Role, Session};
use crate::error::{PgError, sqlstate};
use crate::exec::Failure;
use crate::exec::broadcast::{self, Answers, Describe};
use crate::plan::{Access, Indexes, Statement};
use crate::server::Server;
use crate::shard::{ShardId, ShardSet};
use crate::sql::name::{quoted, quoted_text};
use crate::wire::backend;

/// Of what takes longer the client is told after each shard.
const LONG: Duration = Duration::from_secs(1);

/// How long a client may take nothing of what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// An index as a shard has it.
struct Found {
    /// As SQL writes its name.
    name: String,
    is_valid: bool,
    /// As `pg_get_indexdef` prints it.
    definition: String,
}

/// What is to be done on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Run,
    /// It was done when the statement ran before.
    Skip,
    /// An index that a failed build has left is in the way.
    Replace,
}

impl Session {
    /// Runs the statement and tells the client its tag.
    pub(super) async fn one_by_one(
        &mut self,
        statement: &Statement,
        routed: &Routed,
    ) -> Result<(), Failure> {
        if self.tx.is_some() {
            return Err(PgError::new(
                sqlstate::ACTIVE_SQL_TRANSACTION,
                "this statement cannot run inside a transaction block",
            )
            .hint("it runs shard by shard; send it outside of BEGIN and alone in its string")
            .into());
        }
        let home = self.database.config.home_shard;
        let mut shards: Vec<ShardId> = routed.shards.iter().collect();
        shards.sort_by_key(|it| *it != home);
        let indexes = statement.plan.indexes.as_deref();
        let steps = self.steps(&shards, indexes).await?;
        let (begun, count, mut tag) = (Instant::now(), shards.len(), String::new());
        let mut done = Vec::new();
        for (shard, step) in shards.into_iter().zip(steps) {
            if step == Step::Replace {
                self.drop_invalid(shard, indexes).await?;
            }
            if step != Step::Skip {
                match self.run_alone(statement, routed, shard).await {
                    Ok(one) => tag = one,
                    Err(failure) => {
                        return Err(partly(self.told_of_loss(failure, true), shard, &done));
                    }
                }
            }
            done.push(shard);
            let told = format!("shard {shard} is done, {} of {count}", done.len());
            let words = first_words(&statement.text);
            tracing::info!(database = self.database.config.name, "{words}: {told}");
            if begun.elapsed() > LONG || step != Step::Run {
                self.tell_progress(&told).await?;
            }
        }
        self.check_alike(&done, indexes).await?;
        if statement.plan.changes_schema && !self.database.config.global_unique.is_empty() {
            self.begin_implicit();
            self.keep_unique().await?;
            self.commit().await?;
        }
        self.complete(&tag);
        Ok(())
    }

    async fn run_alone(
        &mut self,
        statement: &Statement,
        routed: &Routed,
        shard: ShardId,
    ) -> Result<String, Failure> {
        let one = Routed { shards: ShardSet::one(shard), ..routed.clone() };
        let at = self.send_all(&statement.text, &one, Access::Write, None, (0, 0)).await?;
        let mut members = pick(&mut self.members, &at);
        broadcast::collect(&mut members, &mut self.client, Answers::Sum, Describe::Forward).await
    }

    /// What each shard needs. Where all have it already, it runs as it is, and fails as on one Postgres.
    async fn steps(
        &mut self,
        shards: &[ShardId],
        indexes: Option<&Indexes>,
    ) -> Result<Vec<Step>, Failure> {
        let mut steps = vec![Step::Run; shards.len()];
        let Some(indexes) = indexes else { return Ok(steps) };
        for (shard, step) in shards.iter().zip(&mut steps) {
            let found = self.index(*shard, indexes).await?;
            *step = match (indexes, found) {
                (Indexes::Made { .. }, None) | (Indexes::Dropped { .. }, Some(_)) => Step::Run,
                (Indexes::Made { .. }, Some(found)) if !found.is_valid => Step::Replace,
                _ => Step::Skip,
            };
        }
        if steps.iter().all(|it| *it == Step::Skip) {
            steps.fill(Step::Run);
        }
        Ok(steps)
    }

    async fn index(&mut self, shard: ShardId, indexes: &Indexes) -> Result<Option<Found>, Failure> {
        let at = self.member(shard, Role::Primary).await?;
        find(self.members[at].lease.server(), indexes).await
    }

    async fn drop_invalid(
        &mut self,
        shard: ShardId,
        indexes: Option<&Indexes>,
    ) -> Result<(), Failure> {
        let Some(indexes) = indexes else { return Ok(()) };
        if let Some(found) = self.index(shard, indexes).await? {
            let at = self.member(shard, Role::Primary).await?;
            let sql = format!("DROP INDEX CONCURRENTLY {}", found.name);
            self.members[at].lease.server().run(&sql).await?;
        }
        Ok(())
    }

    /// Whether all shards have the same valid index in the end, or none.
    async fn check_alike(
        &mut self,
        shards: &[ShardId],
        indexes: Option<&Indexes>,
    ) -> Result<(), Failure> {
        let Some(indexes) = indexes else { return Ok(()) };
        let mut first: Option<Option<String>> = None;
        for shard in shards {
            let found = self.index(*shard, indexes).await?;
            let found = found.map(|it| if it.is_valid { it.definition } else { String::new() });
            let ours = first.get_or_insert_with(|| found.clone());
            if *ours != found || found.as_deref() == Some("") {
                let shown = |it: &Option<String>| match it.as_deref() {
                    None => "none".to_owned(),
                    Some("") => "an invalid one".to_owned(),
                    Some(it) => it.to_owned(),
                };
                return Err(PgError::new(
                    sqlstate::INTERNAL_ERROR,
                    format!("shard {shard} has not the same index as the home shard"),
                )
                .detail(format!("home shard: {}; shard {shard}: {}", shown(ours), shown(&found)))
                .hint("DROP INDEX CONCURRENTLY IF EXISTS it, and send the statement again.")
                .into());
            }
        }
        Ok(())
    }

    /// Tells the client how far it is, now.
    async fn tell_progress(&mut self, text: &str) -> Result<(), Failure> {
        let notice = PgError::new("00000", text);
        backend::notice_response(&mut self.client.out, "NOTICE", &notice);
        self.client.flush(PATIENCE).await.map_err(|_| Failure::Gone)
    }
}

async fn find(server: &mut Server, indexes: &Indexes) -> Result<Option<Found>, Failure> {
    let which = match indexes {
        Indexes::Made { index, table } => format!(
            "c.relname = {} AND c.relnamespace = (SELECT relnamespace FROM pg_catalog.pg_class \
             WHERE oid = pg_catalog.to_regclass({}))",
            quoted_text(index),
            quoted_text(table)
        ),
        Indexes::Dropped { index } => {
            format!("c.oid = pg_catalog.to_regclass({})", quoted_text(index))
        }
    };
    let sql = format!(
        "SELECT n.nspname, c.relname, i.indisvalid, pg_catalog.pg_get_indexdef(c.oid) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE {which}"
    );
    let Some(row) = server.rows(&sql).await?.pop() else { return Ok(None) };
    let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    Ok(Some(Found {
        name: format!("{}.{}", quoted(&text(0)), quoted(&text(1))),
        is_valid: text(2) == "t",
        definition: text(3),
    }))
}

/// The first words of a statement, for the log.
fn first_words(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql);
    text.split_whitespace().take(5).collect::<Vec<_>>().join(" ")
}

/// An error that says on which shards the statement has happened already.
fn partly(failure: Failure, shard: ShardId, done: &[ShardId]) -> Failure {
    let Failure::Server(frame) = failure else { return failure };
    if done.is_empty() {
        return Failure::Server(frame);
    }
    let done: Vec<String> = done.iter().map(ToString::to_string).collect();
    let error = crate::server::error_of(&frame);
    let detail = format!(
        "it failed on shard {shard} and is done on shard {}. {}",
        done.join(", "),
        error.detail.as_deref().unwrap_or_default()
    );
    let hint = "mend the cause and send it again: it goes on with what is left";
    Failure::Error(error.detail(detail).hint(hint))
}
