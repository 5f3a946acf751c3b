//! The proxy's binary over servers of a cluster.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgsluice::playground::Cluster;

use super::wire::{Answer, Wire};

/// One shard of the database `app` that clients see.
#[derive(Clone, Debug)]
pub struct ShardSpec {
    pub range: Option<(u8, u8)>,
    pub primary: (u16, String),
    pub replicas: Vec<(u16, String)>,
}

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct ProxySpec {
    pub shards: Vec<ShardSpec>,
    /// Lines of `[listen]`, `[pool]`, `[limits]`, `[health]`, `[database]`.
    pub listen: String,
    pub pool: String,
    pub limits: String,
    pub health: String,
    pub database: String,
    /// Lines of `app`'s `[[user]]`, and further sections.
    pub users: String,
    /// What stands behind the `?` of the servers' URLs.
    pub parameters: String,
    /// The host in them.
    pub host: String,
    /// What is said of each shard's replicas, such as `weight = 2`, by position.
    pub replicas_said: Vec<String>,
    /// URLs of Patroni's REST API.
    pub patroni: Vec<String>,
    /// Further lines of each `[[database.shard]]`.
    pub shard: String,
    /// Of its process.
    pub environment: Vec<(String, String)>,
    /// What the process sees as /etc/hosts, if not the machine's; Linux only.
    pub hosts: Option<PathBuf>,
}

impl ProxySpec {
    /// Shards by `tenant_id` over databases: `(primary, replicas, database)`.
    pub fn over(places: &[(u16, Vec<u16>, String)]) -> Self {
        let count = places.len();
        let shard = |(number, (primary, replicas, name)): (usize, &(u16, Vec<u16>, String))| {
            let (first, next) = (number * 256 / count, (number + 1) * 256 / count);
            ShardSpec {
                range: (count > 1).then_some((first as u8, (next - 1) as u8)),
                primary: (*primary, name.clone()),
                replicas: replicas.iter().map(|port| (*port, name.clone())).collect(),
            }
        };
        let database = match count {
            1 => String::new(),
            _ => "tenant_column = \"tenant_id\"\nhome_shard = 0\n\
                  reference_tables = [\"plans\", \"countries\"]\n"
                .to_owned(),
        };
        Self {
            shards: places.iter().enumerate().map(shard).collect(),
            listen: "shutdown_grace = \"5s\"\n".to_owned(),
            pool: "size = 20\n".to_owned(),
            limits: String::new(),
            health: "interval = \"200ms\"\ncatalog_refresh = \"500ms\"\n".to_owned(),
            database,
            users: String::new(),
            parameters: String::new(),
            host: "127.0.0.1".to_owned(),
            replicas_said: Vec::new(),
            patroni: Vec::new(),
            shard: String::new(),
            environment: Vec::new(),
            hosts: None,
        }
    }

    /// One shard per primary of a cluster, with its replicas.
    pub fn of(cluster: &Cluster, database: &str) -> Self {
        let place = |shard| {
            let replicas = (0..cluster.spec().replicas).map(|it| cluster.replica_port(shard, it));
            (cluster.primary_port(shard), replicas.collect(), database.to_owned())
        };
        Self::over(&(0..cluster.spec().shards).map(place).collect::<Vec<_>>())
    }

    /// The text of the file.
    pub fn toml(&self, port: u16, http: u16) -> String {
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\nhttp = \"127.0.0.1:{http}\"\n{}\
             [pool]\n{}[limits]\n{}[health]\n{}\
             [[user]]\nname = \"app\"\npassword = \"app\"\nadmin = true\n{}\
             [[database]]\nname = \"app\"\n{}",
            self.listen, self.pool, self.limits, self.health, self.users, self.database
        );
        if !self.database.contains("failover_wait") {
            text.push_str("failover_wait = \"1s\"\n");
        }
        let url = |(port, name): &(u16, String)| {
            format!("postgres://app:app@{}:{port}/{name}{}", self.host, self.parameters)
        };
        for (id, shard) in self.shards.iter().enumerate() {
            text.push_str(&format!("[[database.shard]]\nid = {id}\n"));
            if let Some((first, last)) = shard.range {
                text.push_str(&format!("range = [{first}, {last}]\n"));
            }
            let replica = |(at, place): (usize, &(u16, String))| {
                let said = self.replicas_said.get(at).filter(|it| !it.is_empty());
                let said = said.map(|it| format!(", {it}")).unwrap_or_default();
                format!("{{ url = {:?}{said} }}", url(place))
            };
            let replicas: Vec<String> = match self.replicas_said.is_empty() {
                true => shard.replicas.iter().map(|it| format!("{:?}", url(it))).collect(),
                false => shard.replicas.iter().enumerate().map(replica).collect(),
            };
            text.push_str(&format!("primary = {:?}\n", url(&shard.primary)));
            text.push_str(&format!("replicas = [{}]\n", replicas.join(", ")));
            if !self.patroni.is_empty() {
                text.push_str(&format!("patroni = {:?}\n", self.patroni));
            }
            text.push_str(&self.shard);
        }
        text
    }
}

/// A running proxy. It is killed when this is dropped.
pub struct Proxy {
    pub port: u16,
    pub http: u16,
    pub spec: ProxySpec,
    pub dir: tempfile::TempDir,
    child: Child,
}

impl Proxy {
    /// Starts it and waits until it is ready for clients.
    pub fn start(spec: ProxySpec) -> Self {
        let [port, http] = free_ports();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pgsluice.toml"), spec.toml(port, http)).unwrap();
        let child = launch(dir.path(), &spec);
        let mut proxy = Self { port, http, spec, dir, child };
        proxy.wait_ready();
        proxy
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.log().contains("is ready for clients") {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its configuration.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("pgsluice.toml")
    }

    /// Writes the configuration anew; it is read at the next look, at SIGHUP or at RELOAD.
    pub fn rewrite(&self, spec: &ProxySpec) {
        let new = self.dir.path().join("new.toml");
        fs::write(&new, spec.toml(self.port, self.http)).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    /// Starts it again after its end.
    pub fn restart(&mut self) {
        self.child = launch(self.dir.path(), &self.spec);
        self.wait_ready();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// A client.
    pub fn client(&self) -> Wire {
        Wire::login(self.port, "app", "app", "app").unwrap()
    }

    /// One command of the admin console.
    pub fn admin(&self, command: &str) -> Answer {
        Wire::login(self.port, "app", "app", "pgsluice").unwrap().query(command)
    }

    /// Rows of a SHOW as text, for each the wanted column.
    pub fn show(&self, what: &str, column: &str) -> Vec<String> {
        let answer = self.admin(&format!("SHOW {what}"));
        let at = answer.columns.iter().position(|it| it.0 == column).unwrap();
        let text = |row: &Vec<Option<Vec<u8>>>| row[at].clone().unwrap_or_default();
        answer.rows.iter().map(|row| String::from_utf8(text(row)).unwrap()).collect()
    }

    /// What psql prints (stdout, stderr) for these arguments.
    pub fn psql(&self, arguments: &[&str], input: &str) -> (String, String) {
        let (ok, out, err) = self.command("psql", &[&["-X"], arguments].concat(), input);
        let _ = ok;
        (out, err)
    }

    /// Runs a client program with this proxy as its server.
    pub fn command(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> (bool, String, String) {
        let mut child = Command::new(program)
            .args(arguments)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "app")
            .env("PGPASSWORD", "app")
            .env("PGDATABASE", "app")
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (done.status.success(), text(&done.stdout), text(&done.stderr))
    }

    /// Status line and body of an HTTP page.
    pub fn page(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Resident memory in KiB; with `peak` the highest it ever was.
    pub fn memory_kib(&self, peak: bool) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let key = if peak { "VmHWM:" } else { "VmRSS:" };
        let line = status.lines().find(|it| it.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until the schema holds what was just made on the shards behind the proxy's back.
    pub fn wait_for_tables(&self, count: usize) {
        wait_for("the schema", || {
            self.show("DATABASES", "tables")[0].parse::<usize>().unwrap() >= count
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the proxy logged:\n{}", self.log());
        }
    }
}

fn launch(dir: &Path, spec: &ProxySpec) -> Child {
    let log = fs::File::create(dir.join("log")).unwrap();
    let binary = env!("CARGO_BIN_EXE_pgsluice");
    let mut command = match &spec.hosts {
        None => Command::new(binary),
        Some(hosts) => {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(hosts).arg(binary);
            command
        }
    };
    command
        .args(["run", "--config"])
        .arg(dir.join("pgsluice.toml"))
        .env_remove("RUST_LOG")
        .envs(spec.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Different ports that are free now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|it| it.local_addr().unwrap().port())
}

/// Waits until something holds, 20 seconds at most.
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_within(20, what, holds);
}

/// Waits until something holds, so many seconds at most.
pub fn wait_within(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < deadline, "waited {seconds} s in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
