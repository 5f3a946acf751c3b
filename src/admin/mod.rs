//! The admin console: `psql …/pgsluice`. SHOW, RELOAD, PAUSE, RESUME, KILL in the simple protocol.

mod command;
mod fleet;
mod hosts;
mod limits;
mod prepared;
mod show;
mod switchover;

use std::sync::Arc;

use bytes::BytesMut;

use crate::error::{PgError, sqlstate};
use crate::net::Client;
use crate::proxy::{Handle, Proxy, ReloadRequest, Signals};
use crate::wire::pipeline::TxStatus;
use crate::wire::{backend, frontend};

use command::Command;

/// How long the console waits for its client to take an answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What the console reports at the start of a session.
pub fn parameters() -> Vec<(String, String)> {
    let pairs = [
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("server_encoding", "UTF8"),
        ("server_version", concat!("15.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")")),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ];
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Serves the console to its end.
pub async fn serve(proxy: Arc<Proxy>, mut client: Client, handle: Arc<Handle>) {
    let mut skips_to_sync = false;
    handle.signals.attach().await;
    loop {
        if client.flush(PATIENCE).await.is_err() {
            return;
        }
        let message = match client.take_frame() {
            Ok(Some(message)) => message,
            Ok(None) => {
                let fill = std::pin::pin!(client.fill());
                match handle.signals.unless(Signals::KILL | Signals::DRAIN, fill).await {
                    None | Some(Ok(0) | Err(_)) => return,
                    Some(Ok(_)) => continue,
                }
            }
            Err(error) => {
                backend::error_response(&mut client.out, &error.fatal());
                let _ = client.flush(PATIENCE).await;
                return;
            }
        };
        match message {
            (b'X', _) => return,
            (b'Q', frame) => {
                let mut out = BytesMut::new();
                let done = match frontend::view::query(&frame) {
                    Ok(sql) => answer(&proxy, &String::from_utf8_lossy(sql), &mut out).await,
                    Err(error) => Err(error),
                };
                client.out.extend_from_slice(&out);
                if let Err(error) = done {
                    backend::error_response(&mut client.out, &error);
                }
                backend::ready_for_query(&mut client.out, TxStatus::Idle);
            }
            (b'S', _) => {
                skips_to_sync = false;
                backend::ready_for_query(&mut client.out, TxStatus::Idle);
            }
            _ if skips_to_sync => (),
            _ => {
                skips_to_sync = true;
                let error = PgError::refused("the admin console speaks the simple protocol only")
                    .hint("use psql, or a driver's simple query mode");
                backend::error_response(&mut client.out, &error);
            }
        }
    }
}

/// Carries out the commands of one string.
async fn answer(proxy: &Arc<Proxy>, sql: &str, out: &mut BytesMut) -> Result<(), PgError> {
    let mut is_empty = true;
    for text in sql.split(';').map(str::trim).filter(|it| !it.is_empty()) {
        is_empty = false;
        run(proxy, Command::parse(text)?, out).await?;
    }
    if is_empty {
        backend::empty_query_response(out);
    }
    Ok(())
}

async fn run(proxy: &Arc<Proxy>, command: Command, out: &mut BytesMut) -> Result<(), PgError> {
    match command {
        Command::Show(what) => {
            let table = (what.make)(proxy);
            table.write(out);
            backend::command_complete(out, "SHOW");
        }
        Command::Reload { force } => {
            let summary = reload(proxy, force).await?;
            tracing::info!("reloaded by the admin console: {summary}");
            let notice = PgError::new("00000", summary);
            backend::notice_response(out, "NOTICE", &notice);
            backend::command_complete(out, "RELOAD");
        }
        Command::Pause(database) => {
            for it in command::databases(proxy, database.as_deref())? {
                it.state.is_paused.store(true, std::sync::atomic::Ordering::Relaxed);
                it.hosts().flat_map(|host| host.pools()).for_each(|pool| pool.pause());
            }
            backend::command_complete(out, "PAUSE");
        }
        Command::Resume(database) => {
            for it in command::databases(proxy, database.as_deref())? {
                it.state.is_paused.store(false, std::sync::atomic::Ordering::Relaxed);
                it.hosts().flat_map(|host| host.pools()).for_each(|pool| pool.resume());
            }
            backend::command_complete(out, "RESUME");
        }
        Command::PauseShard(name, shard, is_paused) => {
            for it in command::databases(proxy, Some(&name))? {
                command::shard(&it, shard)?.state.set_paused(is_paused);
            }
            backend::command_complete(out, if is_paused { "PAUSE" } else { "RESUME" });
        }
        Command::Switchover(name, shard, to) => {
            for it in command::databases(proxy, Some(&name))? {
                let told = switchover::switch(proxy, &it, shard, to.as_deref()).await?;
                tracing::warn!("SWITCHOVER: {told}");
                backend::notice_response(out, "NOTICE", &PgError::new("00000", told));
            }
            backend::command_complete(out, "SWITCHOVER");
        }
        Command::Kill(pid) => {
            let handle = proxy.clients.get(&pid).map(|it| Arc::clone(&it)).ok_or_else(|| {
                PgError::new(sqlstate::UNDEFINED_OBJECT, format!("there is no client {pid}"))
                    .hint("SHOW CLIENTS lists them")
            })?;
            handle.signals.raise(Signals::KILL);
            handle.cancel().await;
            backend::command_complete(out, "KILL");
        }
    }
    Ok(())
}

async fn reload(proxy: &Proxy, force: bool) -> Result<String, PgError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let gone = || PgError::new(sqlstate::INTERNAL_ERROR, "nobody reads the configuration");
    proxy.reload.send(ReloadRequest { force, done }).await.map_err(|_| gone())?;
    match outcome.await {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(problems)) => Err(PgError::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            "the configuration was not reloaded: nothing has changed",
        )
        .detail(problems)
        .hint("mend the file and RELOAD; RELOAD FORCE overrides what would hide rows")),
        Err(_) => Err(gone()),
    }
}
