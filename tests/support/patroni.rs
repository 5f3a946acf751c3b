//! A real Patroni over a real etcd: members of one shard, each with its Postgres.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgsluice::playground::{Account, Binaries, Login, children_of, memory};
use serde_json::{Value as Json, json};

use super::certificates::{self, Authority};
use super::proxy::{free_ports, wait_for};

/// What pip installs.
const PACKAGES: [&str; 2] = ["patroni[etcd3]>=4,<5", "psycopg[binary]>=3.1,<4"];
/// User and password of the API; the password has what a URL must escape.
const LOGIN: &str = "admin:p@ss";
const LOGIN_IN_URL: &str = "admin:p%40ss";
/// `LOGIN` in base64.
const BASIC: &str = "YWRtaW46cEBzcw==";

/// A Patroni cluster, whose API speaks HTTPS and wants a password. All of it ends when this is dropped.
pub struct Patroni {
    pub members: Vec<Member>,
    pub authority: Authority,
    etcd: Etcd,
    dir: tempfile::TempDir,
}

/// Patroni and its Postgres.
pub struct Member {
    pub name: String,
    /// Of Postgres, and of the API.
    pub port: u16,
    pub api: u16,
    dir: PathBuf,
    patroni: Option<Child>,
    /// Started by us, not by Patroni.
    alone: Option<Child>,
}

impl Patroni {
    /// Starts members; the first of [`Self::members`] leads. They have a database `app` that belongs to
    /// `app`.
    pub fn start(names: &[&str]) -> Self {
        // Patroni's tools wait for the disk.
        let dir = tempfile::tempdir_in(memory()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let authority = Authority::default();
        authority.issue("api", "api", &["localhost", "127.0.0.1"]);
        let etcd = Etcd::start(dir.path());
        let mut patroni = Self { members: Vec::new(), authority, etcd, dir };
        patroni.members = names.iter().map(|it| patroni.member(it)).collect();
        (0..names.len()).for_each(|it| patroni.run(it));
        let are_well = |patroni: &Self| {
            let count = patroni.cluster().iter().filter(|it| is_well(it)).count();
            count == names.len() && patroni.leader().is_some()
        };
        wait_long("Patroni", || are_well(&patroni));
        let leader = patroni.leader().unwrap();
        patroni.members.swap(0, leader);
        let login = Login::superuser("the leader", patroni.members[0].port, "postgres");
        login.run("CREATE ROLE app LOGIN PASSWORD 'app'").unwrap();
        login.run("CREATE DATABASE app OWNER app").unwrap();
        patroni
    }

    fn member(&self, name: &str) -> Member {
        let [port, api] = free_ports();
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let member = Member { name: name.to_owned(), port, api, dir, patroni: None, alone: None };
        // JSON is YAML.
        fs::write(member.dir.join("patroni.yml"), self.settings(&member).to_string()).unwrap();
        give(&member.dir);
        member
    }

    fn settings(&self, member: &Member) -> Json {
        let (here, api) =
            (format!("127.0.0.1:{}", member.port), format!("127.0.0.1:{}", member.api));
        let (user, password) = LOGIN.split_once(':').unwrap();
        json!({
            "scope": "app",
            "name": member.name,
            "restapi": {
                "listen": api, "connect_address": api,
                "certfile": self.authority.file("api.crt"), "keyfile": self.authority.file("api.key"),
                "authentication": { "username": user, "password": password },
            },
            "ctl": { "cacert": self.authority.file("ca.crt") },
            "etcd3": { "host": format!("127.0.0.1:{}", self.etcd.port) },
            "bootstrap": {
                // The shortest that it takes.
                "dcs": {
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 3,
                    "postgresql": { "use_pg_rewind": true },
                },
                "initdb": ["no-sync", "data-checksums", { "encoding": "UTF8" }],
            },
            "postgresql": {
                "listen": here, "connect_address": here,
                "bin_dir": Binaries::find().unwrap().dir(),
                "data_dir": member.dir.join("data"),
                "pgpass": member.dir.join("pgpass"),
                "authentication": {
                    "superuser": { "username": "postgres", "password": "postgres" },
                    "replication": { "username": "replicator", "password": "replicator" },
                },
                "parameters": { "unix_socket_directories": "", "fsync": "off", "shared_buffers": "16MB" },
                "pg_hba": [
                    "host all postgres 127.0.0.1/32 trust",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication all 127.0.0.1/32 scram-sha-256",
                ],
            },
        })
    }

    /// Starts the Patroni of a member, which starts its Postgres.
    pub fn run(&mut self, member: usize) {
        let member = &mut self.members[member];
        let mut command = Command::new(program());
        command.args(["-m", "patroni"]).arg(member.dir.join("patroni.yml"));
        member.patroni = Some(member.spawn(command));
    }

    /// The members' URLs with user and password, as `patroni` takes them.
    pub fn urls(&self) -> Vec<String> {
        let ca = self.authority.file("ca.crt");
        let url =
            |it: &Member| format!("https://{LOGIN_IN_URL}@127.0.0.1:{}?sslrootcert={ca}", it.api);
        self.members.iter().map(url).collect()
    }

    /// What any member says of all, as GET /cluster does.
    pub fn cluster(&self) -> Vec<Json> {
        let answers = self.members.iter().filter_map(|it| self.ask(it, "GET", "/cluster", ""));
        let parsed = answers.filter_map(|it| serde_json::from_str::<Json>(&it.1).ok());
        parsed.filter_map(|it| it["members"].as_array().cloned()).next().unwrap_or_default()
    }

    /// The number of the member that leads.
    pub fn leader(&self) -> Option<usize> {
        let cluster = self.cluster();
        let leader = cluster.iter().find(|it| it["role"] == "leader" && is_well(it))?;
        self.members.iter().position(|it| leader["name"] == it.name.as_str())
    }

    /// From now on another member has all that is acknowledged.
    pub fn make_synchronous(&self) {
        let (status, text) = self
            .ask(&self.members[0], "PATCH", "/config", r#"{"synchronous_mode": true}"#)
            .unwrap();
        assert_eq!(status, 200, "{text}");
        let is_synchronous = |it: &Json| it["role"] == "sync_standby" && is_well(it);
        wait_long("a synchronous replica", || self.cluster().iter().any(is_synchronous));
    }

    /// What `patronictl switchover` does; status and text of the answer.
    pub fn switchover(&self, leader: usize, candidate: usize) -> (u16, String) {
        let (old, new) = (&self.members[leader], &self.members[candidate]);
        let wish = json!({ "leader": old.name, "candidate": new.name }).to_string();
        self.ask(old, "POST", "/switchover", &wish).unwrap()
    }

    /// Lets the lease of a dead leader end now, not after its TTL of 20 seconds.
    pub fn expire_leader(&self) {
        // `/service/app/leader`
        let key = r#"{"key": "L3NlcnZpY2UvYXBwL2xlYWRlcg=="}"#;
        let found: Json = serde_json::from_str(&self.etcd.post("/v3/kv/range", key)).unwrap();
        let lease = found["kvs"][0]["lease"].as_str().unwrap();
        self.etcd.post("/v3/lease/revoke", &format!("{{\"ID\": \"{lease}\"}}"));
    }

    fn ask(&self, member: &Member, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let ca = self.authority.path("ca.crt");
        let mut stream = certificates::connect(member.api, &ca, &[], false).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nAuthorization: Basic {BASIC}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        answer(stream)
    }

    /// What a member's Patroni and Postgres have logged.
    fn log(&self, member: &Member) -> String {
        let text = fs::read_to_string(member.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                eprintln!("{} logged:\n{}", member.name, self.log(member));
            }
        }
        self.members.iter_mut().for_each(Member::kill9);
    }
}

impl Member {
    /// SIGKILL to Patroni, to Postgres and to all its processes, as when the machine is lost.
    pub fn kill9(&mut self) {
        if let Some(mut patroni) = self.patroni.take() {
            let _ = patroni.kill();
            let _ = patroni.wait();
        }
        let Some(postmaster) = self.postmaster() else { return };
        let backends = children_of(postmaster.as_raw().unsigned_abs());
        for pid in [postmaster].into_iter().chain(backends) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if let Some(mut alone) = self.alone.take() {
            let _ = alone.wait();
        }
        wait_long("the end of Postgres", || kill(postmaster, None).is_err());
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Starts its Postgres without Patroni, as what it was before.
    pub fn run_alone(&mut self) {
        let mut command = Command::new(Binaries::find().unwrap().dir().join("postgres"));
        command.arg("-D").arg(self.data());
        let port = self.port.to_string();
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        command.args(["-c", &format!("port={port}"), "-c", "synchronous_standby_names="]);
        self.alone = Some(self.spawn(command));
        wait_long("Postgres", || self.sql("SELECT 1").is_some());
    }

    /// The first value of an answer of its Postgres in the database `app`.
    pub fn sql(&self, sql: &str) -> Option<String> {
        let rows = Login::superuser(&self.name, self.port, "app").run(sql).ok()?;
        Some(rows.first().and_then(|row| row[0].clone()).unwrap_or_default())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }

    fn spawn(&self, mut command: Command) -> Child {
        let path = self.dir.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        give(&path);
        if let Some(account) = Account::for_servers().unwrap() {
            command.uid(account.uid).gid(account.gid);
        }
        command.env("HOME", &self.dir).env("LC_ALL", "C.UTF-8").current_dir(&self.dir);
        command.env_remove("PGDATA").env_remove("PGOPTIONS").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

fn is_well(member: &Json) -> bool {
    matches!(member["state"].as_str(), Some("running" | "streaming"))
}

/// Waits for what may take long on a busy machine.
fn wait_long(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(90);
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gives a file or folder to the user that servers run as.
fn give(path: &Path) {
    if let Some(account) = Account::for_servers().unwrap() {
        chown(path, Some(account.uid), Some(account.gid)).unwrap();
    }
}

fn answer(mut stream: impl Read) -> Option<(u16, String)> {
    let mut bytes = Vec::new();
    // TLS may end without saying so.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// An etcd of one member.
struct Etcd {
    port: u16,
    child: Child,
}

impl Etcd {
    fn start(dir: &Path) -> Self {
        let [port, peer] = free_ports();
        let (client, peer) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let child = Command::new("etcd")
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(dir.join("etcd"))
            // Before version 3.5 it wants to be asked twice there.
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("etcd.log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "etcd (Debian's package etcd-server, which `./dev install` installs): {error}"
                )
            });
        let etcd = Self { port, child };
        wait_for("etcd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        etcd
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let (status, body) = answer(stream).unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that has Patroni, in an environment that is made at first use and kept from run to run.
fn program() -> PathBuf {
    const NAME: &str = "pgsluice-patroni-4";
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = match Account::for_servers().unwrap() {
        Some(account) if !account.can_enter(&target.join(NAME)) => std::env::temp_dir(),
        _ => target.to_owned(),
    };
    let (dir, new) = (target.join(NAME), target.join(format!("{NAME}.{}", std::process::id())));
    if !dir.exists() {
        // The system's own, where there is one: the servers' user may not be able to run another.
        let python = ["/usr/bin/python3", "python3"].into_iter().find(|it| Path::new(it).exists());
        let python =
            Command::new(python.unwrap_or("python3")).args(["-m", "venv"]).arg(&new).output();
        told(
            python,
            "python3 -m venv (Debian's package python3-venv, which `./dev install` installs)",
        );
        let pip = Command::new(new.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES)
            .output();
        told(pip, &format!("pip install {} (from PyPI)", PACKAGES.join(" ")));
        // Whoever is first; the others' is as good.
        if fs::rename(&new, &dir).is_err() {
            let _ = fs::remove_dir_all(&new);
        }
    }
    dir.join("bin/python")
}

fn told(output: std::io::Result<std::process::Output>, what: &str) {
    let problem = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => {
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        }
        Err(error) => error.to_string(),
    };
    panic!("the tests of Patroni need {what}: {problem}");
}
