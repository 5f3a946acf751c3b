//! Loads the sample through the proxy, as an application would.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Client;

use super::error::Result;
use super::seed;
use super::sql::{Login, blocking};

/// One statement after another; no comments in it.
const SCHEMA: &str = include_str!("schema.sql");

/// In the order in which they can be dropped.
pub(super) const TABLES: &[&str] =
    &["events", "orders", "projects", "tenants", "settings", "countries", "plans"];

/// Rows of one INSERT.
const BATCH: usize = 500;

/// Makes the tables and fills them; `progress` hears of every step.
pub(super) fn load(login: &Login, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
    blocking(async {
        let client = login.connect().await?;
        for statement in SCHEMA.split(';').map(str::trim).filter(|it| !it.is_empty()) {
            execute(login, &client, statement).await?;
        }
        progress("tables made");
        for table in seed::tables() {
            for rows in table.rows.chunks(BATCH) {
                let rows = rows.join("), (");
                let sql = format!("INSERT INTO {} ({}) VALUES ({rows})", table.name, table.columns);
                execute(login, &client, &sql).await?;
            }
            progress(&format!("{:6} rows  {}", table.rows.len(), table.name));
        }
        let events = copy_events(login, &client).await?;
        progress(&format!("{events:6} rows  events (by COPY)"));
        Ok(())
    })
}

/// Drops what an earlier load left that was cut off.
pub(super) fn unload(login: &Login) -> Result<()> {
    let drop = |table| login.run(&format!("DROP TABLE IF EXISTS {table}")).map(drop);
    TABLES.iter().try_for_each(drop)
}

async fn execute(login: &Login, client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|it| login.failed(sql, &it))
}

async fn copy_events(login: &Login, client: &Client) -> Result<u64> {
    let sql = "COPY events (tenant_id, id, kind, payload, created_at) FROM STDIN";
    let failed = |it: tokio_postgres::Error| login.failed(sql, &it);
    let mut sink = pin!(client.copy_in(sql).await.map_err(failed)?);
    for lines in seed::events().chunks(BATCH) {
        sink.send(Bytes::from(lines.concat())).await.map_err(failed)?;
    }
    sink.finish().await.map_err(failed)
}
