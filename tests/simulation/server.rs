//! A scripted Postgres: real enough for the proxy to start on and to work with, and under our control to
//! the byte. It counts what it runs, lets its replicas lag, and fails when it is told to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgsluice::wire::frame;
use pgsluice::wire::pipeline::TxStatus;
use pgsluice::wire::{backend, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::random::Random;
use super::shard::{Shard, Work};
use super::statement::{Statement, filled, parse, parse_all};

/// One server.
pub struct Host {
    shard: Arc<Mutex<Shard>>,
    pub port: u16,
    is_replica: bool,
    /// Tells one shard's servers from another's.
    system: u64,
    /// How late a replica is, and what it has replayed already.
    pub lag_ms: AtomicU64,
    replayed: AtomicUsize,
    /// Whether it says that it has replayed what it has not.
    pub lies: AtomicBool,
    random: Mutex<Random>,
    /// Whether connections fail by chance.
    pub is_frail: AtomicBool,
    /// Connections of an earlier number end.
    crashes: watch::Sender<usize>,
    pub is_down: AtomicBool,
    connections: AtomicU64,
}

/// What happens to a message by chance.
enum Fate {
    Well,
    Late(Duration),
    /// The connection ends before it is looked at.
    Unread,
    /// It ends after so many bytes of the answer.
    Cut(usize),
}

impl Host {
    /// Listens in the current runtime.
    pub fn start(shard: &Arc<Mutex<Shard>>, is_replica: bool, seed: u64) -> Arc<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = Arc::new(Self {
            shard: Arc::clone(shard),
            port: listener.local_addr().unwrap().port(),
            is_replica,
            system: Arc::as_ptr(shard).addr() as u64,
            lag_ms: AtomicU64::new(0),
            replayed: AtomicUsize::new(0),
            lies: AtomicBool::new(false),
            random: Mutex::new(Random(seed)),
            is_frail: AtomicBool::new(false),
            crashes: watch::Sender::new(0),
            is_down: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        });
        tokio::spawn(accept(TcpListener::from_std(listener).unwrap(), Arc::clone(&host)));
        host
    }

    /// Every connection ends, and with it what was not committed or prepared; new ones are refused until
    /// it is up again.
    pub fn crash(&self) {
        self.is_down.store(true, Ordering::SeqCst);
        self.crashes.send_modify(|it| *it += 1);
    }

    pub fn shard(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock().unwrap()
    }

    /// How many rows can be read here.
    fn visible(&self, shard: &Shard) -> usize {
        if !self.is_replica {
            return shard.log.len();
        }
        let late = Duration::from_millis(self.lag_ms.load(Ordering::SeqCst));
        let until = Instant::now().checked_sub(late).map_or(0, |it| shard.before(it));
        self.replayed.fetch_max(until, Ordering::SeqCst).max(until)
    }

    fn fate(&self, is_control: bool) -> Fate {
        if !self.is_frail.load(Ordering::SeqCst) {
            return Fate::Well;
        }
        let mut random = self.random.lock().unwrap();
        match random.below(if is_control { 2_000 } else { 120 }) {
            0 => Fate::Unread,
            1 => Fate::Cut(random.below(60) as usize),
            2..=12 => Fate::Late(Duration::from_millis(random.below(30))),
            _ => Fate::Well,
        }
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>) {
    while let Ok((stream, _)) = listener.accept().await {
        if host.is_down.load(Ordering::SeqCst) {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let mut crashes = host.crashes.subscribe();
            let before = *crashes.borrow_and_update();
            let mut connection = Connection::new(stream, Arc::clone(&host));
            tokio::select! {
                _ = connection.live() => (),
                _ = crashes.wait_for(|it| *it != before) => (),
            }
            connection.end();
        });
    }
}

/// A statement's result: columns, rows, tag.
struct Answer {
    columns: &'static [&'static str],
    rows: Vec<Vec<Option<String>>>,
    tag: String,
}

/// SQLSTATE and message.
type Refusal = (&'static str, String);

struct Connection {
    stream: TcpStream,
    host: Arc<Host>,
    number: u64,
    is_control: bool,
    input: BytesMut,
    out: BytesMut,
    work: Option<Work>,
    /// The client's BEGIN, not a statement of its own.
    is_block: bool,
    has_failed: bool,
    skips: bool,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
}

/// The connection is over.
struct Over;

impl Connection {
    fn new(stream: TcpStream, host: Arc<Host>) -> Self {
        let number = host.connections.fetch_add(1, Ordering::SeqCst) + 1;
        Self {
            stream,
            host,
            number,
            is_control: false,
            input: BytesMut::new(),
            out: BytesMut::new(),
            work: None,
            is_block: false,
            has_failed: false,
            skips: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    /// What was not committed is gone.
    fn end(&mut self) {
        self.work = None;
        let number = self.number;
        self.host.shard().claimed.retain(|_, it| *it != number);
    }

    async fn live(&mut self) -> Result<(), Over> {
        self.log_in().await?;
        loop {
            let Some((tag, message)) = self.message().await? else { return Err(Over) };
            let fate = self.host.fate(self.is_control);
            match fate {
                Fate::Unread => return Err(Over),
                Fate::Late(by) => tokio::time::sleep(by).await,
                Fate::Well | Fate::Cut(_) => (),
            }
            self.attend(tag, &message).await?;
            let mut answer = self.out.split();
            if let Fate::Cut(at) = fate {
                answer.truncate(at);
            }
            self.stream.write_all(&answer).await.map_err(|_| Over)?;
            if matches!(fate, Fate::Cut(_)) {
                return Err(Over);
            }
        }
    }

    async fn log_in(&mut self) -> Result<(), Over> {
        loop {
            let length = self.stream.read_u32().await.map_err(|_| Over)? as usize;
            let mut packet = vec![0; length.clamp(8, 10_000) - 4];
            self.stream.read_exact(&mut packet).await.map_err(|_| Over)?;
            match packet[..4] {
                [4, 210, 22, 47 | 48] => self.stream.write_u8(b'N').await.map_err(|_| Over)?,
                [4, 210, ..] => return Err(Over),
                _ => {
                    let name = b"pgsluice control";
                    self.is_control = packet.windows(name.len()).any(|it| it == name);
                    break;
                }
            }
        }
        backend::authentication_ok(&mut self.out);
        for (name, value) in [
            ("server_version", "15.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            backend::parameter_status(&mut self.out, name.as_bytes(), value.as_bytes());
        }
        let key = self.number.to_be_bytes();
        backend::backend_key_data(&mut self.out, self.number as i32, &key[4..]).unwrap();
        backend::ready_for_query(&mut self.out, TxStatus::Idle);
        let hello = self.out.split();
        self.stream.write_all(&hello).await.map_err(|_| Over)
    }

    async fn message(&mut self) -> Result<Option<(u8, BytesMut)>, Over> {
        loop {
            let next = frame::next_frame(&self.input).map_err(|_| Over)?;
            if let Some(next) = next.filter(|it| self.input.len() >= it.len) {
                return Ok(Some((next.tag, self.input.split_to(next.len))));
            }
            if self.stream.read_buf(&mut self.input).await.map_err(|_| Over)? == 0 {
                return Ok(None);
            }
        }
    }

    async fn attend(&mut self, tag: u8, message: &[u8]) -> Result<(), Over> {
        if self.skips && tag != b'S' {
            return Ok(());
        }
        match tag {
            b'Q' => self.query(message).await,
            b'P' => {
                let parse = frontend::Parse::read(message).map_err(|_| Over)?;
                let sql = String::from_utf8_lossy(parse.sql).into_owned();
                self.statements.insert(parse.name.to_vec(), sql);
                backend::parse_complete(&mut self.out);
            }
            b'B' => self.bind(message)?,
            b'D' => self.describe(message)?,
            b'E' => {
                let execute = frontend::Execute::read(message).map_err(|_| Over)?;
                let sql = self.portals.get(execute.portal).cloned().unwrap_or_default();
                let done = self.run(parse(&sql)).await;
                self.skips |= self.tell(done, false);
            }
            b'C' => backend::close_complete(&mut self.out),
            b'S' => {
                self.skips = false;
                self.end_implicit();
                self.ready();
            }
            b'X' => return Err(Over),
            _ => (),
        }
        Ok(())
    }

    async fn query(&mut self, message: &[u8]) {
        let sql = frontend::view::query(message).unwrap_or_default();
        for statement in parse_all(&String::from_utf8_lossy(sql)) {
            let done = self.run(statement).await;
            if self.tell(done, true) {
                break;
            }
        }
        self.end_implicit();
        self.ready();
    }

    fn bind(&mut self, message: &[u8]) -> Result<(), Over> {
        let bind = frontend::Bind::read(message).map_err(|_| Over)?;
        let value = |it: &Option<std::ops::Range<usize>>| {
            it.clone().map_or_else(|| "NULL".to_owned(), |it| text_of(&message[it]))
        };
        let values: Vec<String> = bind.values.iter().map(value).collect();
        let sql = self.statements.get(bind.statement).cloned().unwrap_or_default();
        self.portals.insert(bind.portal.to_vec(), filled(&sql, &values));
        backend::bind_complete(&mut self.out);
        Ok(())
    }

    fn describe(&mut self, message: &[u8]) -> Result<(), Over> {
        let subject = frontend::Subject::read(message).map_err(|_| Over)?;
        let is_statement = subject.target == frontend::Target::Statement;
        let known = if is_statement { &self.statements } else { &self.portals };
        let sql = known.get(subject.name).cloned().unwrap_or_default();
        if is_statement {
            let count = sql.matches('$').count();
            backend::parameter_description(&mut self.out, &vec![20; count]);
        }
        match parse(&sql) {
            Statement::Read(_) => {
                backend::row_description(&mut self.out, &["n", "pg_is_in_recovery"]);
            }
            _ => backend::no_data(&mut self.out),
        }
        Ok(())
    }

    /// Whether it was an error.
    fn tell(&mut self, done: Result<Answer, Refusal>, with_columns: bool) -> bool {
        match done {
            Ok(answer) => {
                if with_columns && answer.tag.starts_with("SELECT") {
                    backend::row_description(&mut self.out, answer.columns);
                }
                answer.rows.iter().for_each(|it| backend::data_row(&mut self.out, it));
                backend::command_complete(&mut self.out, &answer.tag);
                false
            }
            Err((code, text)) => {
                self.has_failed = true;
                let fields: [(u8, &[u8]); 4] = [
                    (b'S', b"ERROR"),
                    (b'V', b"ERROR"),
                    (b'C', code.as_bytes()),
                    (b'M', text.as_bytes()),
                ];
                backend::error_fields(&mut self.out, fields);
                true
            }
        }
    }

    fn ready(&mut self) {
        let status = match (self.is_block, self.has_failed) {
            (false, _) => TxStatus::Idle,
            (true, false) => TxStatus::Open,
            (true, true) => TxStatus::Failed,
        };
        backend::ready_for_query(&mut self.out, status);
    }

    /// Statements outside of a block are committed at the end of their string or batch.
    fn end_implicit(&mut self) {
        if !self.is_block {
            let failed = std::mem::take(&mut self.has_failed);
            self.finish(!failed);
        }
    }

    fn finish(&mut self, commits: bool) -> bool {
        let work = self.work.take().filter(|_| commits).unwrap_or_default();
        let number = self.number;
        let mut shard = self.host.shard();
        let done = shard.commit(&work).is_ok();
        shard.claimed.retain(|_, it| *it != number);
        done
    }

    async fn run(&mut self, statement: Statement) -> Result<Answer, Refusal> {
        let ends =
            matches!(statement, Statement::Commit | Statement::Rollback | Statement::Prepare(_));
        if self.is_block && self.has_failed && !ends {
            return Err(("25P02", "current transaction is aborted".to_owned()));
        }
        match statement {
            Statement::Begin => {
                (self.is_block, self.has_failed) = (true, false);
                Ok(done("BEGIN"))
            }
            Statement::Commit | Statement::Rollback => {
                let commits = statement == Statement::Commit && !self.has_failed;
                (self.is_block, self.has_failed) = (false, false);
                match self.finish(commits) {
                    true => Ok(done(if commits { "COMMIT" } else { "ROLLBACK" })),
                    false => Err(("23505", "duplicate key".to_owned())),
                }
            }
            Statement::Prepare(gid) => {
                let failed = std::mem::take(&mut self.has_failed);
                self.is_block = false;
                let work = self.work.take().unwrap_or_default();
                if failed {
                    return Ok(done("ROLLBACK"));
                }
                self.host.shard().prepared.insert(gid, work);
                Ok(done("PREPARE TRANSACTION"))
            }
            Statement::End(gid, commits) => self.end_prepared(&gid, commits),
            Statement::Decide { gid, committed, yields } => {
                self.decide(gid, committed, yields).await
            }
            Statement::Insert(row) => {
                if self.host.is_replica {
                    return Err((
                        "25006",
                        "cannot execute INSERT in a read-only transaction".into(),
                    ));
                }
                *self.host.shard().inserted.entry(row.n).or_default() += 1;
                self.work.get_or_insert_default().rows.push(row);
                Ok(done("INSERT 0 1"))
            }
            read => Ok(self.look(read)),
        }
    }

    fn end_prepared(&self, gid: &str, commits: bool) -> Result<Answer, Refusal> {
        let mut shard = self.host.shard();
        let Some(work) = shard.prepared.remove(gid) else {
            let text = format!("prepared transaction with identifier \"{gid}\" does not exist");
            return Err(("42704", text));
        };
        if commits {
            shard.commit(&work).map_err(|()| ("23505", "duplicate key".to_owned()))?;
        }
        Ok(done(if commits { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" }))
    }

    /// Waits, as for the lock of a row, while an open transaction has made the same decision.
    async fn decide(
        &mut self,
        gid: String,
        committed: bool,
        yields: bool,
    ) -> Result<Answer, Refusal> {
        loop {
            match self.claim(&gid) {
                Claim::Made if yields => return Ok(done("INSERT 0 0")),
                Claim::Made => return Err(("23505", "duplicate key value".to_owned())),
                Claim::Mine => break,
                Claim::Others => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        self.work.get_or_insert_default().decision = Some((gid, committed));
        Ok(done("INSERT 0 1"))
    }

    fn claim(&self, gid: &str) -> Claim {
        let mut shard = self.host.shard();
        if shard.decisions.contains_key(gid) {
            return Claim::Made;
        }
        match *shard.claimed.entry(gid.to_owned()).or_insert(self.number) {
            number if number == self.number => Claim::Mine,
            _ => Claim::Others,
        }
    }

    fn look(&self, statement: Statement) -> Answer {
        let shard = self.host.shard();
        let yes = |it: bool| Some(if it { "t" } else { "f" }.to_owned());
        let row = |cells: &[&str]| cells.iter().map(|it| Some((*it).to_owned())).collect();
        let lies = self.host.lies.load(Ordering::SeqCst);
        let lsn = || {
            let told = if lies { shard.log.len() } else { self.host.visible(&shard) };
            Some(Shard::lsn(told))
        };
        let own = || self.work.as_ref().and_then(|it| it.decision.clone());
        match statement {
            Statement::Read(tenant) => {
                let mut items = shard.items(tenant, self.host.visible(&shard));
                let pending = self.work.iter().flat_map(|it| &it.rows);
                items.extend(pending.filter(|it| it.tenant == tenant).map(|it| it.n));
                let cells = |n: &u64| vec![Some(n.to_string()), yes(self.host.is_replica)];
                rows(&["n", "pg_is_in_recovery"], items.iter().map(cells).collect())
            }
            Statement::Decision(gid) => {
                let found = shard.decisions.get(&gid).copied();
                let found = found.or(own().filter(|it| it.0 == gid).map(|it| it.1));
                rows(&["committed"], found.map(|it| vec![yes(it)]).into_iter().collect())
            }
            Statement::Prepared => {
                rows(&["gid"], shard.prepared.keys().map(|it| vec![Some(it.clone())]).collect())
            }
            Statement::Position { with_role: true } => {
                rows(&["is_replica", "lsn"], vec![vec![yes(self.host.is_replica), lsn()]])
            }
            Statement::Position { with_role: false } => rows(&["lsn"], vec![vec![lsn()]]),
            Statement::Identity => {
                let timeline = || Some("1".to_owned());
                let (system, follows) =
                    (self.host.system.to_string(), timeline().filter(|_| self.host.is_replica));
                let cells = vec![yes(self.host.is_replica), Some(system), timeline(), follows];
                rows(&["is_replica", "system", "timeline", "follows"], vec![cells])
            }
            Statement::Settings => rows(
                &["a", "b", "c", "d"],
                vec![row(&["150000", "pg_catalog\x1fpublic", "C", "UTF8"])],
            ),
            Statement::True => rows(&["there"], vec![vec![yes(true)]]),
            Statement::Functions => {
                let one = row(&["pg_catalog", "pg_is_in_recovery", "f", "s", "t", "t"]);
                rows(&["a", "b", "c", "d", "e", "f"], vec![one])
            }
            Statement::Columns => rows(&["relation"; 21], vec![column("tenant_id"), column("n")]),
            Statement::Other(tag) => Answer { columns: &[], rows: Vec::new(), tag: tag.to_owned() },
            _ => done("OK"),
        }
    }
}

/// Whether a transaction may make a decision.
enum Claim {
    Mine,
    /// An open transaction is about to.
    Others,
    /// It stands.
    Made,
}

/// A column of `log`, as the proxy's catalog wants to know it.
fn column(name: &str) -> Vec<Option<String>> {
    let text = |it: &str| Some(it.to_owned());
    let head = ["public", "log", "r", "f", name, "20", "", "", "t", "", ""].map(text);
    let tail = [None, None, text("b"), text("0"), text(""), text("-1"), text("")];
    let types = [text("bigint"), text("bigint"), None];
    head.into_iter().chain(tail).chain(types).collect()
}

fn done(tag: &str) -> Answer {
    Answer { columns: &[], rows: Vec::new(), tag: tag.to_owned() }
}

fn rows(columns: &'static [&'static str], rows: Vec<Vec<Option<String>>>) -> Answer {
    Answer { columns, tag: format!("SELECT {}", rows.len()), rows }
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
