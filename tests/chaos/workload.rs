//! Clients that append to lists, read them elsewhere, and move money; everything they are told is noted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::history::{Item, Op, Outcome, Tenant, What};
use super::plan::PROXIES;
use super::random::Random;
use super::site::{ACCOUNTS, POT, items_of};

/// Lists in use at a moment; others follow, so that lists stay short.
const LISTS: u64 = 24;
const GENERATION: Duration = Duration::from_secs(4);
/// How long a client waits for an answer before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of so many errors of a kind the texts are kept, if they differ.
const TEXTS: usize = 8;

/// What all clients share.
pub struct Workload {
    ports: Vec<u16>,
    pub begun: Instant,
    pub is_over: AtomicBool,
    pub ops: Mutex<Vec<Op>>,
    /// Errors by SQLSTATE.
    /// By code: how many, and the texts of some.
    pub errors: Mutex<BTreeMap<String, (usize, BTreeSet<String>)>>,
    /// Reads that replicas served.
    pub on_replicas: AtomicU64,
    next: AtomicU64,
}

/// Why an operation has no answer.
#[derive(Debug)]
enum Trouble {
    Postgres(tokio_postgres::Error),
    /// Given up: no answer in time, or the client was killed.
    Left,
    /// An answer that cannot be.
    Wrong(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl Trouble {
    fn code(&self) -> String {
        match self {
            Self::Postgres(it) => it.code().map_or("lost".to_owned(), |it| it.code().to_owned()),
            Self::Left => "left".to_owned(),
            Self::Wrong(what) => what.clone(),
        }
    }

    /// What it says, with what differs from case to case.
    fn text(&self) -> String {
        match self {
            Self::Postgres(it) => it.as_db_error().map_or_else(
                || it.to_string(),
                |it| {
                    [Some(it.message()), it.detail()]
                        .into_iter()
                        .flatten()
                        .collect::<Vec<_>>()
                        .join(": ")
                },
            ),
            Self::Left | Self::Wrong(_) => String::new(),
        }
    }

    /// What is known of a write by it.
    fn outcome(&self) -> Outcome {
        let code = self.code();
        let is_open = ["lost", "left", "57P01", "57P02", "XX000", "40003"].contains(&&*code);
        if is_open || code.starts_with("08") { Outcome::Unknown } else { Outcome::Failed }
    }
}

type Answer<T> = Result<T, Trouble>;

impl Workload {
    pub fn new(ports: Vec<u16>) -> Self {
        Self {
            ports,
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            ops: Mutex::default(),
            errors: Mutex::default(),
            on_replicas: AtomicU64::new(0),
            next: AtomicU64::new(1),
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Runs clients until it is over.
    pub fn run(&self, clients: usize, seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let work = |it| self.work(it % PROXIES, Random(seed ^ (it as u64) << 32));
            let mut all: Vec<_> = (0..clients).map(|it| Box::pin(work(it))).collect();
            std::future::poll_fn(|cx| {
                all.retain_mut(|it| it.as_mut().poll(cx).is_pending());
                if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        });
    }

    async fn work(&self, proxy: usize, mut random: Random) {
        let mut connections: Option<Connections> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(random.below(12))).await;
            if random.once_in(50) {
                connections = None;
            }
            let Some(open) = &mut connections else {
                match within(PATIENCE, Connections::open(&self.ports, proxy)).await {
                    Ok(it) => connections = Some(it),
                    Err(error) => {
                        self.note(&error, "connect ");
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                }
                continue;
            };
            // Now and then a client is killed in the middle.
            let patience = match random.once_in(60) {
                true => Duration::from_micros(random.below(4_000)),
                false => PATIENCE,
            };
            if !self.step(open, proxy, patience, &mut random).await {
                connections = None;
            }
        }
    }

    /// One operation; whether the connections can be used again.
    async fn step(
        &self,
        open: &Connections,
        proxy: usize,
        patience: Duration,
        random: &mut Random,
    ) -> bool {
        match random.below(10) {
            0..=3 => {
                let (tenant, item) = (self.tenant(random), self.next_item());
                let append = append(&open.one, tenant, item, random.once_in(2));
                let writes = What::Append(vec![(tenant, item)]);
                let done = self.record(proxy, writes, within(patience, append)).await;
                if done && random.once_in(4) {
                    return self.carry_token(open, proxy, (tenant, item)).await;
                }
                done && self.read(&open.two, proxy, tenant, None).await
            }
            4..=6 => self.read(&open.two, proxy, self.tenant(random), None).await,
            7 => {
                let mut tenants = [self.tenant(random), self.tenant(random)];
                tenants.sort_unstable();
                if tenants[0] == tenants[1] {
                    return true;
                }
                let (item, mut sent) = (self.next_item(), false);
                let writes = What::Append(tenants.map(|it| (it, item)).into());
                let begun = self.now();
                let done = within(patience, append_both(&open.one, tenants, item, &mut sent)).await;
                // Before COMMIT was sent nothing can have happened.
                self.finish(proxy, begun, writes, done, !sent)
            }
            8 => {
                let (from, to) = (1 + random.below(u64::from(ACCOUNTS)), 1 + random.below(16));
                let done = within(patience, transfer(&open.one, from, to)).await;
                done.inspect_err(|it| self.note(it, "")).is_ok()
            }
            _ => self.pots(open, proxy, patience, 1 + random.below(u64::from(ACCOUNTS))).await,
        }
    }

    fn next_item(&self) -> Item {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn tenant(&self, random: &mut Random) -> Tenant {
        let generation = self.begun.elapsed().as_millis() / GENERATION.as_millis();
        (1_000 + generation as u64 * LISTS + random.below(LISTS)) as Tenant
    }

    fn note(&self, error: &Trouble, what: &str) {
        let mut errors = self.errors.lock().unwrap();
        let (count, texts) = errors.entry(format!("{what}{}", error.code())).or_default();
        *count += 1;
        if texts.len() < TEXTS {
            texts.insert(error.text());
        }
    }

    async fn record(
        &self,
        proxy: usize,
        what: What,
        work: impl Future<Output = Answer<()>>,
    ) -> bool {
        let begun = self.now();
        let done = work.await;
        self.finish(proxy, begun, what, done, false)
    }

    fn finish(
        &self,
        proxy: usize,
        begun: u64,
        what: What,
        done: Answer<()>,
        is_unsent: bool,
    ) -> bool {
        let outcome = match &done {
            Ok(()) => Outcome::Done,
            Err(_) if is_unsent => Outcome::Failed,
            Err(error) => error.outcome(),
        };
        let _ = done.as_ref().inspect_err(|it| self.note(it, ""));
        let op = Op { proxy, begun, ended: self.now(), what, outcome };
        self.ops.lock().unwrap().push(op);
        done.is_ok()
    }

    async fn read(
        &self,
        client: &Client,
        proxy: usize,
        tenant: Tenant,
        token: Option<Item>,
    ) -> bool {
        let begun = self.now();
        match within(PATIENCE, read(client, tenant)).await {
            Ok((items, is_replica)) => {
                self.on_replicas.fetch_add(u64::from(is_replica), Ordering::Relaxed);
                self.finish(proxy, begun, What::Read { tenant, items, token }, Ok(()), false)
            }
            Err(error) => {
                self.note(&error, "");
                false
            }
        }
    }

    /// Reads through another proxy with the token of what was just written.
    async fn carry_token(
        &self,
        open: &Connections,
        proxy: usize,
        (tenant, item): (Tenant, Item),
    ) -> bool {
        let carried = within(PATIENCE, async {
            let token = text_of(&open.one, "SHOW sluice.token").await?;
            let set = format!("SET sluice.token = '{token}'");
            Ok(open.elsewhere.simple_query(&set).await.map(drop)?)
        });
        match carried.await {
            Ok(()) => {
                let other = (proxy + 1) % PROXIES;
                self.read(&open.elsewhere, other, tenant, Some(item)).await
            }
            Err(error) => {
                self.note(&error, "token ");
                false
            }
        }
    }

    async fn pots(
        &self,
        open: &Connections,
        proxy: usize,
        patience: Duration,
        tenant: u64,
    ) -> bool {
        if let Err(error) = within(patience, pour(&open.one, tenant)).await {
            self.note(&error, "");
            return false;
        }
        let begun = self.now();
        let sql = format!("SELECT sum(cents) FROM pots WHERE tenant_id = {tenant}");
        match within(PATIENCE, text_of(&open.two, &sql)).await {
            Ok(sum) => {
                let sum = sum.parse().unwrap_or(-1);
                let what = What::Sum { tenant: tenant as Tenant, sum, expected: POT };
                self.finish(proxy, begun, what, Ok(()), false)
            }
            Err(error) => {
                self.note(&error, "");
                false
            }
        }
    }
}

/// A client's connections: two to its own proxy, one to another.
struct Connections {
    one: Client,
    two: Client,
    elsewhere: Client,
}

impl Connections {
    async fn open(ports: &[u16], proxy: usize) -> Answer<Self> {
        let other = ports[(proxy + 1) % ports.len()];
        let own = ports[proxy];
        let (one, two) = (connect(own).await?, connect(own).await?);
        // Another proxy that is down does not keep it from its own.
        let elsewhere = match connect(other).await {
            Ok(it) => it,
            Err(_) => connect(own).await?,
        };
        Ok(Self { one, two, elsewhere })
    }
}

async fn connect(port: u16) -> Answer<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("app").password("app").dbname("app");
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Answer<T>>) -> Answer<T> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Trouble::Left))
}

fn upsert(tenant: Tenant, item: Item) -> String {
    format!(
        "INSERT INTO lists (tenant_id, items) VALUES ({tenant}, '{item} ') \
         ON CONFLICT (tenant_id) DO UPDATE SET items = lists.items || excluded.items"
    )
}

async fn append(client: &Client, tenant: Tenant, item: Item, is_extended: bool) -> Answer<()> {
    if !is_extended {
        return count_one(&client.simple_query(&upsert(tenant, item)).await?);
    }
    let sql = "INSERT INTO lists (tenant_id, items) VALUES ($1, $2) \
               ON CONFLICT (tenant_id) DO UPDATE SET items = lists.items || excluded.items";
    let count = client.execute(sql, &[&i64::from(tenant), &format!("{item} ")]).await?;
    if count == 1 { Ok(()) } else { Err(Trouble::Wrong(format!("{count} rows appended"))) }
}

fn count_one(messages: &[SimpleQueryMessage]) -> Answer<()> {
    match messages {
        [SimpleQueryMessage::CommandComplete(1)] => Ok(()),
        other => Err(Trouble::Wrong(format!("answered by {other:?}"))),
    }
}

/// `sent`: COMMIT was.
async fn append_both(
    client: &Client,
    tenants: [Tenant; 2],
    item: Item,
    sent: &mut bool,
) -> Answer<()> {
    client.simple_query("BEGIN").await?;
    for tenant in tenants {
        count_one(&client.simple_query(&upsert(tenant, item)).await?)?;
    }
    *sent = true;
    client.simple_query("COMMIT").await?;
    Ok(())
}

async fn read(client: &Client, tenant: Tenant) -> Answer<(Vec<Item>, bool)> {
    let sql = format!("SELECT items, pg_is_in_recovery() FROM lists WHERE tenant_id = {tenant}");
    let messages = client.simple_query(&sql).await?;
    let row = messages.iter().find_map(|it| match it {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?, row.get(1) == Some("t"))),
        _ => None,
    });
    Ok(row.map_or((Vec::new(), false), |(items, is_replica)| (items_of(items), is_replica)))
}

async fn text_of(client: &Client, sql: &str) -> Answer<String> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|it| match it {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.ok_or_else(|| Trouble::Wrong(format!("no row for {sql}")))
}

async fn transfer(client: &Client, from: u64, to: u64) -> Answer<()> {
    let (low, high) = (from.min(to), from.max(to));
    client.simple_query("BEGIN").await?;
    for (tenant, cents) in [(low, -7), (high, 7)] {
        let sql = format!("UPDATE accounts SET cents = cents + {cents} WHERE tenant_id = {tenant}");
        count_one(&client.simple_query(&sql).await?)?;
    }
    client.simple_query("COMMIT").await?;
    Ok(())
}

/// From one of a tenant's pots to the other.
async fn pour(client: &Client, tenant: u64) -> Answer<()> {
    client.simple_query("BEGIN").await?;
    for (id, cents) in [(0, -1), (1, 1)] {
        let sql = format!(
            "UPDATE pots SET cents = cents + {cents} WHERE tenant_id = {tenant} AND id = {id}"
        );
        count_one(&client.simple_query(&sql).await?)?;
    }
    client.simple_query("COMMIT").await?;
    Ok(())
}
