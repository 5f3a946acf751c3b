//! `pgsluice playground`: servers, configuration, proxy, sample.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::{self, Config};

use super::binaries::Binaries;
use super::cluster::Cluster;
use super::error::{PlaygroundError, Result, at};
use super::file::{self, Front};
use super::spec::ClusterSpec;
use super::sql::Login;
use super::state::{Lock, Sample, State};
use super::{hints, load, ports};

/// Called once, when the proxy listens. Returns at once.
pub type Ready = Box<dyn FnOnce() + Send>;

/// The command's arguments.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Kept and used again; none: a temporary folder.
    pub dir: Option<PathBuf>,
    /// Of the proxy; none: 6432 or what the folder's TOML says.
    pub port: Option<u16>,
    /// None: 4 or what the folder holds.
    pub shards: Option<usize>,
    /// None: 1 or what the folder holds.
    pub replicas: Option<usize>,
    /// Without the sample.
    pub empty: bool,
}

/// Starts everything and runs until the proxy ends. `run_proxy` runs the proxy with a configuration
/// file, calls its second argument once it listens, and returns after SIGINT or SIGTERM.
///
/// # Errors
/// Everything that keeps the playground from running, and what keeps the sample from being loaded.
pub fn run<E: std::fmt::Display>(
    options: &Options,
    run_proxy: impl FnOnce(&Path, Ready) -> std::result::Result<(), E>,
) -> Result<()> {
    let site = Site::open(options)?;
    let cluster = Arc::new(site.start()?);
    let (file, listen) = site.configure(&cluster, options.port)?;
    let failure = Arc::new(Mutex::new(None));
    let ready = ready(&site, options, cluster.clone(), file.clone(), listen, failure.clone());
    let ended = run_proxy(&file, ready).map_err(|it| PlaygroundError::Proxy(it.to_string()));
    say("Stopping the servers …");
    drop(cluster);
    failure.lock().take().map_or(ended, Err)
}

/// A playground's folder, in use.
struct Site {
    spec: ClusterSpec,
    state: State,
    /// None for a temporary folder.
    _lock: Option<Lock>,
}

impl Site {
    fn open(options: &Options) -> Result<Self> {
        // Before a large folder is made for nothing.
        if let Some(port) = options.port.filter(|port| !ports::is_free(*port)) {
            return Err(PlaygroundError::PortInUse(port));
        }
        let (shards, replicas) = (options.shards.unwrap_or(4), options.replicas.unwrap_or(1));
        let new = State { shards, replicas, sample: Sample::Absent };
        let Some(dir) = &options.dir else {
            let spec = ClusterSpec::temporary_on_disk(shards, replicas)?;
            return Ok(Self { spec, state: new, _lock: None });
        };
        fs::create_dir_all(dir).map_err(at("cannot create", dir))?;
        let dir = dir.canonicalize().map_err(at("cannot open", dir))?;
        let had = State::read(&dir)?;
        let lock = Lock::take(&dir)?;
        let state = had.unwrap_or(new);
        let differs = |wanted: Option<usize>, there| wanted.is_some_and(|it| it != there);
        if differs(options.shards, state.shards) || differs(options.replicas, state.replicas) {
            let wanted = State { sample: state.sample, ..new }.describe();
            return Err(PlaygroundError::Mismatch { dir, there: state.describe(), wanted });
        }
        state.write(&dir)?;
        let spec =
            ClusterSpec { shards: state.shards, replicas: state.replicas, ..ClusterSpec::new(dir) };
        Ok(Self { spec, state, _lock: Some(lock) })
    }

    fn start(&self) -> Result<Cluster> {
        let version = Binaries::find()?.version()?;
        let version = version.trim_start_matches("postgres ").replace(['(', ')'], "");
        say(&format!("Starting {}: {version} …", self.state.describe()));
        let begin = Instant::now();
        let cluster = Cluster::start(self.spec.clone())?;
        let dir = cluster.spec().dir.display();
        say(&format!("… in {dir} after {:.1} s", begin.elapsed().as_secs_f32()));
        Ok(cluster)
    }

    /// Writes the TOML or brings its ports up to date; returns it and where the proxy listens.
    fn configure(&self, cluster: &Cluster, port: Option<u16>) -> Result<(PathBuf, SocketAddr)> {
        let path = cluster.spec().dir.join("pgsluice.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => {
                let text = file::with_ports(&text, cluster.moved());
                let had = read(&path, &text)?.listen.address.port();
                port.map_or(text.clone(), |port| file::with_ports(&text, &[(had, port)]))
            }
            Err(_) => self.new_file(cluster, port)?,
        };
        let listen = read(&path, &text)?.listen.address;
        if !ports::is_free(listen.port()) {
            return Err(PlaygroundError::PortInUse(listen.port()));
        }
        fs::write(&path, text).map_err(at("cannot write", &path))?;
        Ok((path, listen))
    }

    fn new_file(&self, cluster: &Cluster, port: Option<u16>) -> Result<String> {
        let here = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let front = Front {
            listen: here(port.unwrap_or(6432)),
            http: Some(here(ports::free(9432, 1)?[0])),
            database: "app",
            tenant_column: Some("tenant_id"),
            reference_tables: &["plans", "countries"],
        };
        Ok(file::toml(cluster, &front))
    }
}

/// Parses, and says what is wrong with an edited file.
fn read(path: &Path, text: &str) -> Result<Config> {
    let env = |name: &str| std::env::var(name).ok();
    let read_file = |path: &str| fs::read_to_string(path);
    config::parse(&path.to_string_lossy(), text, &env, &read_file).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        PlaygroundError::Proxy(lines.join("\n"))
    })
}

/// What happens once the proxy listens, on a thread of its own as the proxy has to go on.
fn ready(
    site: &Site,
    options: &Options,
    cluster: Arc<Cluster>,
    file: PathBuf,
    listen: SocketAddr,
    failure: Arc<Mutex<Option<PlaygroundError>>>,
) -> Ready {
    let (mut state, empty) = (site.state, options.empty);
    let work = move || {
        let port = listen.port();
        let loaded = sample(&mut state, &cluster, port, empty);
        match loaded {
            Ok(()) => {
                say(&hints::hints(&cluster, port, &file, state.sample == Sample::Loaded));
                let mut stdout = std::io::stdout().lock();
                // Whoever closed our output does not want to read it.
                let _ = writeln!(stdout, "DATABASE_URL={}", hints::url(port, "app"));
                let _ = stdout.flush();
            }
            Err(error) => {
                *failure.lock() = Some(error);
                // The proxy drains and `run` returns.
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGTERM);
            }
        }
    };
    Box::new(move || drop(std::thread::spawn(work)))
}

/// Loads the sample unless it is there or not wanted.
fn sample(state: &mut State, cluster: &Cluster, port: u16, empty: bool) -> Result<()> {
    let dir = &cluster.spec().dir;
    let login = Login {
        name: "the proxy".to_owned(),
        port,
        user: "app".to_owned(),
        password: Some("app".to_owned()),
        database: "app".to_owned(),
    };
    match state.sample {
        Sample::Loaded => return Ok(()),
        _ if empty => return Ok(()),
        Sample::Begun => load::unload(&login)?,
        Sample::Absent => (),
    }
    say("Loading the sample through the proxy (--empty leaves it out) …");
    state.sample = Sample::Begun;
    state.write(dir)?;
    load::load(&login, &|step| say(&format!("  {step}")))?;
    state.sample = Sample::Loaded;
    state.write(dir)
}

/// Progress goes to stderr, so that stdout can be read by programs.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
