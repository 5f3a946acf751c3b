//! Config → proxy → tasks: start, reload, drain.

mod budget;
mod certificate;
pub mod check;
mod doze;
mod names;
mod reload;
pub mod sequences;
mod sweep;
mod tasks;
pub mod unique;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::{Config, LogFormat};
use crate::net::Thread;
use crate::net::listener::{self, Listener, Worker};
use crate::net::tls::TlsError;
use crate::net::unix::UnixDoor;
use crate::proxy::Proxy;

/// Why the proxy could not start or had to stop; the text is for the user.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Mistakes in the configuration, a line each.
    #[error("{0}")]
    Config(String),
    #[error("cannot listen on {key} = {address}: {source}; is another process using it?")]
    Listen { key: &'static str, address: String, source: std::io::Error },
    #[error("{file}: {error}")]
    Tls { file: String, error: TlsError },
    #[error("cannot start: {0}")]
    Start(String),
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Every mistake at once, with file, line and key.
pub fn load(path: &Path) -> Result<Config, AppError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| AppError::Config(format!("{name}: cannot be read: {error}")))?;
    parse(&name, &text)
}

/// As [`load`], of a text already read.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, text: &str) -> Result<Config, AppError> {
    let env = |key: &str| std::env::var(key).ok();
    let read = |path: &str| std::fs::read_to_string(path);
    crate::config::parse(name, text, &env, &read).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        AppError::Config(lines.join("\n"))
    })
}

/// Logs to stderr as the configuration says; `RUST_LOG` overrides its level. Only the first call has
/// an effect.
pub fn init_log(config: &Config) {
    // The control plane's notices ("already exists, skipping") are nobody's concern.
    let quiet = || format!("tokio_postgres=warn,{}", config.log.level);
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| quiet());
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let done = match config.log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if done.is_err() {
        tracing::debug!("logging was set up before");
    }
}

/// Runs the proxy until SIGTERM or Ctrl-C, then drains it. `ready` is called once clients are taken.
/// With `force`, reloads do not ask whether a new map hides rows.
///
/// # Errors
/// If the configuration is wrong or an address cannot be listened on.
pub fn run(
    path: &Path,
    force: bool,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), AppError> {
    let config = Arc::new(load(path)?);
    init_log(&config);
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AppError::Start(error.to_string()))?;
    control.block_on(serve(path.to_owned(), force, config, ready))
}

async fn serve(
    path: PathBuf,
    force: bool,
    config: Arc<Config>,
    ready: impl FnOnce(),
) -> Result<(), AppError> {
    let mut listeners = vec![Listener::Tcp(bind("listen.address", config.listen.address).await?)];
    listeners.extend(unix(&config)?.map(Listener::Unix));
    let http = match config.listen.http {
        Some(address) => Some(bind("listen.http", address).await?),
        None => None,
    };
    let mut signals = tasks::Signals::new().map_err(|error| AppError::Start(error.to_string()))?;
    let (reloads, requests) = mpsc::channel(8);
    let proxy = Proxy::new(Arc::clone(&config), reloads)
        .map_err(|error| AppError::Start(error.to_string()))?;
    let acceptor = certificate::load(&config)
        .map_err(|error| AppError::Tls { file: path.display().to_string(), error })?;
    proxy.tls.store(acceptor);
    if let Some(http) = http {
        let pages = Arc::clone(&proxy);
        tokio::spawn(crate::metrics::http::serve(http, move |path| tasks::page(&pages, path)));
    }
    if let Some(fleet) = &proxy.fleet {
        fleet.start().map_err(|error| AppError::Start(error.to_string()))?;
    }
    tasks::supervise(&proxy);
    tokio::spawn(reload::watch(Arc::clone(&proxy), path, force, requests));
    tasks::first_look(&proxy).await;
    budget::first_look(&proxy).await;
    let workers = workers(&proxy, config.listen.threads)?;
    let accept = |it| tokio::spawn(listener::accept(it, Arc::clone(&workers)));
    let accepting: Vec<_> = listeners.into_iter().map(accept).collect();
    tracing::info!(address = %config.listen.address, "pgsluice is ready for clients");
    ready();
    signals.until_end(&proxy).await;
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(workers);
    drain(&proxy).await;
    budget::farewell(&proxy).await;
    if let Some(fleet) = &proxy.fleet {
        fleet.leave().await;
    }
    Ok(())
}

async fn bind(key: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, AppError> {
    let failed = |source| AppError::Listen { key, address: address.to_string(), source };
    TcpListener::bind(address).await.map_err(failed)
}

fn unix(config: &Config) -> Result<Option<UnixDoor>, AppError> {
    let listen = &config.listen;
    let Some(folder) = &listen.unix_socket_dir else { return Ok(None) };
    let door = UnixDoor::bind(folder, listen.address.port(), listen.unix_socket_mode);
    door.map(Some).map_err(|source| AppError::Listen {
        key: "listen.unix_socket_dir",
        address: folder.clone(),
        source,
    })
}

fn workers(proxy: &Arc<Proxy>, count: usize) -> Result<Arc<[Worker]>, AppError> {
    let start = |number: usize| {
        let proxy = Arc::clone(proxy);
        let thread = Arc::new(Thread::new(number, proxy.plan_seed));
        Worker::start(Arc::clone(&thread), move |stream, place| {
            crate::session::serve(Arc::clone(&proxy), stream, Arc::clone(&thread), place)
        })
    };
    (0..count.max(1))
        .map(start)
        .collect::<Result<_, _>>()
        .map_err(|error| AppError::Start(error.to_string()))
}

/// Lets running transactions end within the grace period; idle clients are told to go at once.
async fn drain(proxy: &Proxy) {
    let grace = proxy.cluster.load().config.listen.shutdown_grace;
    let deadline = Instant::now() + grace;
    tracing::info!(clients = proxy.clients.len(), ?grace, "draining");
    proxy.drain();
    while !proxy.clients.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left = proxy.clients.len();
    match left {
        0 => tracing::info!("drained"),
        _ => tracing::warn!(clients = left, "the grace period is over: sessions are cut off"),
    }
}
