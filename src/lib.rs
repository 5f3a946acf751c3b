//! A sharding-aware Postgres proxy: one `DATABASE_URL` over many Postgres servers.
//!
//! A statement behaves exactly as on one Postgres that holds all rows, or it is refused by name before
//! anything ran.
//!
//! # Modules
//!
//! A folder is a stage; a module uses only those before it here (`tests/layers.rs`).
//!
//! What decides, without IO, clock or globals:
//! * [`error`]: what a client is told. [`wire`]: frames, messages, the replies a server owes.
//!   [`auth`]: who is there, both sides.
//! * [`sql`]: lexer, fingerprint, parser, COPY rows. [`shard`]: tenant key → bucket → shard.
//!   [`catalog`]: the schema. [`config`]: the TOML.
//! * [`merge`]: answers of several shards → one. [`plan`]: statement → [`plan::Plan`], the cache, and
//!   where one execution goes. [`balance`]: which host.
//!
//! What does IO:
//! * [`cache`]: what other proxies write, through Redis.
//! * [`metrics`], [`net`] (clients' sockets, threads), [`server`] (one server connection), [`pool`]
//!   (pools, the snapshot of the cluster, health), [`proxy`] (the only shared object).
//! * [`exec`]: relay, merge, COPY, two-phase commit. [`admin`]: the console. [`session`]: one client.
//! * [`playground`]: Postgres clusters on this machine. [`app`]: start, reload, drain, check.
//!
//! # The life of a query
//!
//! 1. [`net::listener`] gives a client to a thread, where it stays; [`session`] logs it in.
//! 2. Frames up to a Query, Sync or Flush become a request. Outside a transaction it gets the newest
//!    [`pool::cluster::Cluster`]; a reload never changes the map under a running one.
//! 3. [`sql::fingerprint`] reads the text once, leaving literals out; [`plan::cache`] has the plan, or
//!    [`plan::planner`] makes it from the parsed text and the catalog.
//! 4. [`plan::route`] finds this execution's tenant keys in its literals or parameters: the shards. The
//!    session chooses primary or replica.
//! 5. A [`pool::Lease`] per shard; the server first gets the session's settings, BEGIN and the prepared
//!    statements it lacks. Its `Pipeline` ([`wire::pipeline`]) knows which replies the client gets.
//! 6. One shard: [`exec`] relays bytes in chunks. Several: it feeds a [`merge::Merge`] from the shard
//!    whose row is needed next. Writes on several shards commit in two phases ([`exec::two_phase`]).
//! 7. Leases drop: clean servers go back to their pools, others are cleaned or closed first.
//!
//! `docs/ARCHITECTURE.md` says more.

pub mod admin;
pub mod app;
pub mod auth;
pub mod balance;
pub mod cache;
pub mod catalog;
pub mod config;
pub mod error;
pub mod exec;
pub mod merge;
pub mod metrics;
pub mod net;
pub mod plan;
pub mod playground;
pub mod pool;
pub mod proxy;
pub mod server;
pub mod session;
pub mod shard;
pub mod sql;
pub mod wire;
