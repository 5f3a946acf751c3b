//! Every key of the TOML: the one table behind unknown-key checks, defaults, SHOW CONFIG and the
//! documentation.

/// What a key's value is. Reading a value checks it against its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `"ip:port"`
    Address,
    /// `"5s"`, `"500ms"`, `"2m"`, `"1h"`; `zero`: whether `"0s"` is allowed.
    Duration {
        zero: bool,
    },
    /// An integer within bounds.
    Count {
        min: u64,
        max: u64,
    },
    /// An integer or `"64KiB"`, `"256MiB"`, within bounds.
    Bytes {
        min: u64,
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    Text,
    TextList,
    Bool,
    /// Permissions of a file in octal, as `"0770"`.
    Mode,
    /// A password, a verifier, `"env:NAME"` or `"file:PATH"`; masked when shown.
    Secret,
    /// `"postgres://user:password@host:port/database?sslmode=require"`, `"env:NAME"` or `"file:PATH"`.
    Url,
    UrlList,
    /// `[first, last]`, both within 0 to 255.
    Range,
    /// A table of tenant = shard id.
    Tenants,
    /// A table of common name = list of users.
    UserMap,
}

/// What holds when a key is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It must be written.
    Required,
    /// Nothing holds; the text says what that means.
    Absent(&'static str),
    /// This value, as TOML.
    Value(&'static str),
}

/// One key of the TOML.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name with dots between, such as `database.shard.range`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Fallback,
    /// One sentence or two for the documentation.
    pub doc: &'static str,
}

/// Sections that may stand several times, as `[[user]]`.
pub const LISTS: &[&str] = &["user", "rule", "database", "database.shard"];

const fn key(path: &'static str, kind: Kind, default: Fallback, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

const fn count(min: u64) -> Kind {
    Kind::Count { min, max: 1_000_000 }
}

const WAIT: Kind = Kind::Duration { zero: false };
const WAIT_OR_ZERO: Kind = Kind::Duration { zero: true };
const SERVER_AUTH: Kind = Kind::Choice(&["url", "pass-through"]);
const METHOD: Kind =
    Kind::Choice(&["scram-sha-256", "md5", "password", "certificate", "trust", "reject"]);
const MODE: Kind = Kind::Choice(&["transaction", "session"]);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

use Fallback::{Absent, Required, Value};

/// Every key, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("listen.address", Kind::Address, Value(r#""127.0.0.1:6432""#),
        "Where clients connect. \"0.0.0.0:6432\" lets in other machines. A change needs a restart."),
    key("listen.http", Kind::Address, Absent("not served"),
        "Where /metrics, /live and /ready are served, such as \"127.0.0.1:9432\". A change needs a restart."),
    key("listen.tls", Kind::Choice(&["off", "allow", "require"]), Absent("\"allow\" with a tls_certificate, else \"off\""),
        "Whether clients may (\"allow\") or must (\"require\") use TLS; those of the Unix socket never do."),
    key("listen.tls_certificate", Kind::Text, Absent("no TLS"),
        "File with the proxy's certificate in PEM, followed by those between it and its CA. Read again when it changes."),
    key("listen.tls_key", Kind::Text, Absent("in the file of tls_certificate"),
        "File with the certificate's private key in PEM, not encrypted."),
    key("listen.tls_client_ca", Kind::Text, Absent("clients are not asked for certificates"),
        "File with the CAs in PEM that sign clients' certificates. A certificate that a client shows must be of one of them."),
    key("listen.unix_socket_dir", Kind::Text, Absent("no Unix socket"),
        "Folder of a Unix socket for clients, .s.PGSQL.PORT with the port of listen.address. A change needs a restart."),
    key("listen.unix_socket_mode", Kind::Mode, Value(r#""0777""#),
        "Permissions of the Unix socket, in octal. A change needs a restart."),
    key("listen.region", Kind::Text, Absent("all hosts are as near"),
        "Where this proxy is, as hosts name theirs. Reads go to replicas of the same region, or of none; to those of another while none of these is up."),
    key("listen.shutdown_grace", WAIT_OR_ZERO, Value(r#""30s""#),
        "How long running transactions may go on after SIGTERM."),
    key("listen.threads", Kind::Count { min: 1, max: 1024 }, Absent("half the number of cores"),
        "Threads that serve clients; one carries some ten thousand transactions per second. Servers seldom move between them. A change needs a restart."),

    key("pool.mode", MODE, Value(r#""transaction""#),
        "\"transaction\": a client holds a server only while a transaction runs. \"session\": until it disconnects."),
    key("pool.pin", Kind::Choice(&["allow", "refuse"]), Value(r#""allow""#),
        "What becomes of a statement that ties its session to a server in transaction mode (temporary table, session lock, …): \"allow\" keeps the server until DISCARD ALL, \"refuse\" is error 0A000."),
    key("pool.size", count(1), Value("20"),
        "Server connections per user, database and host."),
    key("pool.host_size", count(1), Absent("no limit"),
        "Server connections to one server (host and port) over all users and databases. When it is full, the server idle for longest, whosesoever it is, is closed for a user who has none; else whoever waits is served in turn."),
    key("pool.budget", Kind::Choice(&["auto", "off"]), Value(r#""auto""#),
        "\"auto\": proxies that find each other on a server share its max_connections, by what each needs. They agree by the table sluice.budget on the home shard, which a proxy that is alone does not make."),
    key("pool.budget_reserve", count(0), Value("5"),
        "Connections of a server that proxies which share it leave to others, beside superuser_reserved_connections."),
    key("pool.wait_timeout", WAIT, Value(r#""5s""#),
        "How long a client waits for a free server before it gets error 53300."),
    key("pool.connect_timeout", WAIT, Value(r#""5s""#),
        "How long connecting and logging in to a server may take."),
    key("pool.dns_ttl", WAIT_OR_ZERO, Value(r#""15s""#),
        "How often names of servers are looked up, each second while such a server is down. A connection to an address that a name has twice not had any more is closed as soon as nobody uses it. \"0s\": never."),
    key("pool.idle_timeout", WAIT_OR_ZERO, Value(r#""10m""#),
        "Idle servers are closed after this; \"0s\": never."),
    key("pool.max_lifetime", WAIT_OR_ZERO, Value(r#""1h""#),
        "Servers are closed when idle at about this age, each up to a fifth earlier so that not all are at once; \"0s\": never."),
    key("pool.check_after", WAIT_OR_ZERO, Value(r#""30s""#),
        "A server idle for longer than this is checked before it is used."),
    key("pool.prepared_statements", count(0), Value("500"),
        "Prepared statements kept per server connection."),
    key("pool.reuse_unnamed", Kind::Bool, Value("true"),
        "An unnamed statement of the extended protocol that came before, from whichever client, stays prepared on servers under a name of the proxy's; servers need not parse it again. false: each Parse is handed on."),
    key("pool.plan_cache_mode", Kind::Choice(&["auto", "force_custom_plan", "force_generic_plan"]), Absent("as the server has it"),
        "Postgres' plan_cache_mode of new server connections. \"force_custom_plan\" plans each execution of a prepared statement for its values, where tenants differ much; a client's own SET goes before it."),

    key("limits.clients", count(1), Value("10000"),
        "Client connections; one more gets error 53300."),
    key("limits.pinned", count(1), Absent("no limit"),
        "Sessions of one database that may be tied to a server at a time in transaction mode; one more gets error 53400."),
    key("limits.clients_per_user", count(1), Absent("as limits.clients"),
        "Client connections of one user; one more gets error 53300."),
    key("limits.clients_per_database", count(1), Absent("as limits.clients"),
        "Client connections to one database; one more gets error 53300."),
    key("limits.clients_per_address", count(1), Absent("as limits.clients"),
        "Client connections from one IP address; one more gets error 53300, before it may log in."),
    key("limits.login_timeout", WAIT, Value(r#""15s""#),
        "How long a client may take to log in."),
    key("limits.query_timeout", WAIT_OR_ZERO, Value(r#""0s""#),
        "A statement that takes longer, waiting for a server included, is cancelled with error 57014; \"0s\": never."),
    key("limits.transaction_timeout", WAIT_OR_ZERO, Value(r#""0s""#),
        "A session whose transaction takes longer ends with error 25P04; \"0s\": never."),
    key("limits.idle_transaction_timeout", WAIT_OR_ZERO, Value(r#""0s""#),
        "A session that sends nothing for so long while its transaction is open ends with error 25P03; \"0s\": never."),
    key("limits.client_idle_timeout", WAIT_OR_ZERO, Value(r#""0s""#),
        "A session that sends nothing for so long outside of a transaction ends with error 57P05, also if it LISTENs; \"0s\": never."),
    key("limits.write_timeout", WAIT_OR_ZERO, Value(r#""5m""#),
        "A client that takes nothing for so long of what it is sent is disconnected, and what runs for it is cancelled; \"0s\": never."),
    key("limits.login_delay", WAIT_OR_ZERO, Value(r#""5s""#),
        "The longest time for which the answer to a failed login is held back. It begins with 100ms and doubles with each failure of the same address; \"0s\": never."),
    key("limits.message_bytes", Kind::Bytes { min: 16 * KIB, max: GIB }, Value(r#""256MiB""#),
        "The longest message a client may send."),
    key("limits.query_bytes", Kind::Bytes { min: KIB, max: GIB }, Absent("as limits.message_bytes"),
        "The longest statement text; a longer one gets error 54000."),
    key("limits.client_statements", count(1), Value("10000"),
        "Named prepared statements of one client; one more gets error 53400."),
    key("limits.statement_bytes", Kind::Bytes { min: 64 * KIB, max: 64 * GIB }, Value(r#""256MiB""#),
        "Memory for the prepared statements of all clients, each text counted once; a Parse that needs more gets error 53400."),
    key("limits.buffer_bytes", Kind::Bytes { min: 4 * KIB, max: GIB }, Value(r#""64KiB""#),
        "What may lie in memory for one client that reads slowly, before its server has to wait."),
    key("limits.plans", count(1), Value("5000"),
        "Plans kept in the plan cache, per database."),
    key("limits.plan_bytes", Kind::Bytes { min: KIB * KIB, max: 64 * GIB }, Value(r#""64MiB""#),
        "Memory the plan cache may use, per database; above it those that were not used for long are dropped."),
    key("limits.merge_bytes", Kind::Bytes { min: 64 * KIB, max: 64 * GIB }, Value(r#""64MiB""#),
        "Memory one statement may use to sort, group or deduplicate rows of several shards; above it the statement fails with 53400."),
    key("limits.gather_max_rows", Kind::Count { min: 1, max: 1_000_000_000 }, Value("5000000"),
        "Rows that shards may ship for one statement that one server has to compute; above it the statement fails with 53400."),
    key("limits.gather_max_bytes", Kind::Bytes { min: 64 * KIB, max: GIB }, Value(r#""256MiB""#),
        "Memory those rows may use, per statement; above it the statement fails with 53400."),
    key("limits.resume_bytes", Kind::Bytes { min: KIB, max: GIB }, Value(r#""1MiB""#),
        "Bytes of statements kept of each open transaction of databases with resume_transactions; one that has sent more is not repeated."),
    key("limits.notifications", Kind::Count { min: 1, max: 1_000_000 }, Value("1000"),
        "Notifications kept for a client that LISTENs until it takes them; beyond it the client is told that some were missed."),

    key("health.interval", WAIT, Value(r#""1s""#),
        "How often each server is checked."),
    key("health.timeout", WAIT, Value(r#""2s""#),
        "A check that takes longer has failed."),
    key("health.catalog_refresh", WAIT_OR_ZERO, Value(r#""10s""#),
        "How often the schema is loaded again; \"0s\": only after DDL and on unknown names."),
    key("health.failure_threshold", count(1), Value("5"),
        "After so many failures in a row (it cannot be reached, a connection is lost) a server is left alone for reset_timeout."),
    key("health.failure_rate", Kind::Count { min: 0, max: 100 }, Value("50"),
        "Or after this percentage of failures among at least 20 requests within ten seconds; 0: none."),
    key("health.reset_timeout", WAIT, Value(r#""30s""#),
        "How long such a server is left alone. Then one request at a time tries it, until one is answered."),
    key("health.slow_start", WAIT_OR_ZERO, Value(r#""30s""#),
        "For so long a replica that has come back gets a growing share of the reads; \"0s\": all at once."),
    key("health.outlier_factor", Kind::Count { min: 0, max: 1000 }, Value("5"),
        "A replica that takes so many times as long as the others of its shard, or fails so much more often, rests: for reset_timeout, then for longer each time. Never more than half of them; 0: none."),
    key("health.primary_fallback", Kind::Count { min: 0, max: 100 }, Value("50"),
        "While no replica of a shard can be used, reads may use this percentage of pool.size at its primary. Those beyond wait for pool.wait_timeout and get error 57P03."),

    key("redis.url", Kind::Secret, Absent("proxies do not know of each other's writes"),
        "A Redis (6 or newer) through which proxies tell each other what is written: \"redis://user:password@host:6379\", \"rediss://…\" with TLS, \"redis+unix:///path\", \"env:NAME\" or \"file:PATH\". [redis] takes effect at the next start."),
    key("redis.prefix", Kind::Text, Value(r#""sluice""#),
        "Names begin with it in Redis. Proxies of one fleet have the same, and the same names of databases."),
    key("redis.fence", WAIT, Value(r#""20ms""#),
        "How long the first write of a tenant after a pause waits at most, so that all proxies know of it before anybody sees it; small fleets confirm it earlier. The fleet's proxies must answer faster than that. All proxies must agree."),
    key("redis.distrust", WAIT_OR_ZERO, Value(r#""1m""#),
        "How long reads use primaries after another proxy fell silent without a goodbye: it may have been cut off from Redis and write on. It ends when that proxy is heard again; \"0s\": it is taken for dead."),

    key("log.format", Kind::Choice(&["text", "json"]), Value(r#""text""#),
        "\"text\" or \"json\"."),
    key("log.level", Kind::Text, Value(r#""info""#),
        "\"error\", \"warn\", \"info\", \"debug\", \"trace\", or a filter such as \"pgsluice=debug,info\"."),

    key("user.name", Kind::Text, Required,
        "The name clients log in with."),
    key("user.password", Kind::Secret, Absent("allowed only with \"trust\" or \"certificate\""),
        "The password, a SCRAM-SHA-256$… or md5… verifier as in pg_authid, \"env:NAME\" for an environment variable or \"file:PATH\" for a file."),
    key("user.auth", Kind::Choice(&["scram-sha-256", "md5", "password", "trust"]), Value(r#""scram-sha-256""#),
        "How the user proves who it is, where there is no [[rule]]. For an md5… verifier the default is \"md5\". \"password\" only over TLS, a Unix socket or from this machine."),
    key("user.admin", Kind::Bool, Value("false"),
        "May use the admin console (database pgsluice). If no user has it, every user may."),
    key("user.clients", count(1), Absent("as limits.clients_per_user"),
        "limits.clients_per_user for this user."),
    key("user.replication", Kind::Bool, Value("false"),
        "May open replication connections (replication=true or database), which are handed to the home shard's primary."),
    key("user.server_user", Kind::Text, Absent("as in the shard's URL"),
        "Logs in to servers as this user, in place of the one in the shard's URL."),
    key("user.server_password", Kind::Secret, Absent("as in the shard's URL"),
        "The password for server_user; also \"env:NAME\" or \"file:PATH\"."),
    key("user.server_auth", SERVER_AUTH, Value(r#""url""#),
        "\"url\": logs in to servers as the shard's URL or server_user says. \"pass-through\": under its own name, with what it proved to the proxy; its verifier must be the servers'."),

    key("rule.users", Kind::TextList, Value("[]"),
        "Users it is for; [] or \"all\": everybody."),
    key("rule.databases", Kind::TextList, Value("[]"),
        "Databases it is for, as clients name them; [] or \"all\": every one. The admin console is \"pgsluice\"."),
    key("rule.networks", Kind::TextList, Value("[]"),
        "Where clients come from: \"10.0.0.0/8\", \"fd00::/8\", \"unix\"; [] or \"all\": anywhere."),
    key("rule.tls", Kind::Bool, Value("false"),
        "Is only for connections over TLS."),
    key("rule.method", METHOD, Required,
        "\"scram-sha-256\", \"md5\", \"password\" (in clear), \"certificate\" (a verified client certificate whose common name is the user's), \"trust\" (nothing is asked) or \"reject\"."),
    key("rule.map", Kind::UserMap, Absent("the common name is the user's"),
        "For \"certificate\": users that a common name may log in as, too."),
    key("rule.allow_cleartext", Kind::Bool, Value("false"),
        "Lets \"password\" ask for passwords in clear also where others on the network can read them."),

    key("database.name", Kind::Text, Required,
        "What clients name in DATABASE_URL."),
    key("database.tenant_column", Kind::Text, Absent("no table is sharded"),
        "Tables with this column are sharded by it."),
    key("database.home_shard", Kind::Count { min: 0, max: 127 }, Absent("the only shard"),
        "The shard of all tables that are neither sharded nor reference tables. Needed with several shards."),
    key("database.reference_tables", Kind::TextList, Value("[]"),
        "Tables with the same rows on every shard, as \"plans\" or \"billing.plans\"."),
    key("database.consistency", Kind::Choice(&["causal", "strict", "time"]), Value(r#""causal""#),
        "What reads of replicas see. \"causal\": all that was written for their tenant or, where there is none, on their connection. \"strict\": also what others wrote where there is no tenant. \"time\": see pin_after_write."),
    key("database.pin_after_write", WAIT_OR_ZERO, Value(r#""5s""#),
        "With consistency = \"time\": for this long after a write its client, and whoever reads its tenants, is served by the primary."),
    key("database.causal_wait", WAIT_OR_ZERO, Value(r#""20ms""#),
        "How long a read waits for a replica that has not yet seen what was written and is about to, where the primary is busy; else, and then, the primary serves it."),
    key("database.max_replica_lag", WAIT_OR_ZERO, Value(r#""30s""#),
        "Replicas further behind than this serve nothing until they have caught up; \"0s\": all do."),
    key("database.failover_wait", WAIT_OR_ZERO, Value(r#""10s""#),
        "How long statements that need a shard's primary wait for one while it has none; after that, error 57P03. Replicas serve reads meanwhile."),
    key("database.resume_transactions", Kind::Bool, Value("false"),
        "Transactions cut off by a lost server are repeated on the shard's primary, the new one after a failover, and go on unseen if all that the client was told comes out the same; else they fail with 08006 as without this. For clients that use BEGIN, in transaction mode."),
    key("database.trusted_functions", Kind::TextList, Value("[]"),
        "Functions declared to touch only rows of the statement's tenant."),
    key("database.cross_shard_snapshot", Kind::Choice(&["none", "barrier"]), Value(r#""none""#),
        "\"barrier\": a read over several shards outside of a transaction, and a REPEATABLE READ transaction, sees each commit over several shards on all of them or on none. Reads then use primaries and hold one server of each shard; commits over several shards wait for the moment in which the snapshots are taken. All proxies must agree."),
    key("database.allow_local_keys", Kind::Bool, Value("false"),
        "Lets DDL create unique and foreign keys on sharded tables that each shard can keep only for itself, and rows take numbers from sequences that two shards may give."),
    key("database.trust_generated_keys", Kind::Bool, Value("false"),
        "Your promise that ids of sharded tables come only from their sequence, identity or uuid: DDL may then make them keys without the tenant column, and refer to them by foreign keys, which find rows of the same shard."),
    key("database.global_unique", Kind::TextList, Value("[]"),
        "Unique keys of sharded tables that do not hold the tenant column and are kept over all shards, as \"users(email)\" or \"crm.orgs(country, slug)\"."),
    key("database.sequence_stride", Kind::Count { min: 2, max: 1 << 20 }, Absent("32, or the power of two above the highest shard id"),
        "Of how many numbers of a sequence that a sharded table uses each shard gives one; ids of shards must be below it. A change holds for sequences made or set up later."),
    key("database.idle", Kind::Choice(&["awake", "sleep"]), Value(r#""awake""#),
        "\"sleep\": after idle_after without work of clients the proxy leaves the database's servers alone, without connections, until the next statement, so that they can be suspended."),
    key("database.idle_after", WAIT, Value(r#""5m""#),
        "For idle = \"sleep\"."),
    key("database.auto_prepare", Kind::Bool, Value("false"),
        "Statements of the simple protocol outside of a transaction that differ only in values of columns run as prepared ones, with these values as parameters, where that is sure to be the same; servers need not parse and plan them again."),
    key("database.pool_mode", MODE, Absent("as pool.mode"),
        "pool.mode for this database."),
    key("database.pool_size", count(1), Absent("as pool.size"),
        "pool.size for this database."),
    key("database.auth_query", Kind::Text, Absent("only [[user]]s may log in"),
        "SQL that finds users who are no [[user]]: $1 is the name; it gives name and password (a verifier as in pg_authid). Runs on the home shard's primary as the URL's user. With pg_shadow: \"SELECT usename, passwd FROM pg_shadow WHERE usename = $1\"."),
    key("database.auth_cache", WAIT_OR_ZERO, Value(r#""10s""#),
        "How long an answer of auth_query is kept, also that there is no such user."),
    key("database.server_auth", SERVER_AUTH, Value(r#""url""#),
        "user.server_auth for the users of auth_query."),

    key("database.clients", count(1), Absent("as limits.clients_per_database"),
        "limits.clients_per_database for this database."),
    key("database.query_timeout", WAIT_OR_ZERO, Absent("as limits.query_timeout"),
        "limits.query_timeout for this database."),
    key("database.transaction_timeout", WAIT_OR_ZERO, Absent("as limits.transaction_timeout"),
        "limits.transaction_timeout for this database."),
    key("database.idle_transaction_timeout", WAIT_OR_ZERO, Absent("as limits.idle_transaction_timeout"),
        "limits.idle_transaction_timeout for this database."),
    key("database.client_idle_timeout", WAIT_OR_ZERO, Absent("as limits.client_idle_timeout"),
        "limits.client_idle_timeout for this database."),

    key("database.shard.id", Kind::Count { min: 0, max: 127 }, Value("0"),
        "The shard's number."),
    key("database.shard.range", Kind::Range, Absent("everything with one shard, else nothing"),
        "First and last of the buckets the shard owns. A tenant's bucket is the first byte of md5(tenant_id), 0 to 255; every bucket belongs to exactly one shard."),
    key("database.shard.primary", Kind::Url, Required,
        "The server that takes writes: \"postgres://user:password@host:port/database\", \"env:NAME\" or \"file:PATH\". Parameters as libpq's: sslmode, sslrootcert, sslcert, sslkey, host, port. Or { url = \"…\", weight = 2, region = \"eu\" }: weight (1 to 1000, default 1) is the share of reads while it is a replica, region is as listen.region."),
    key("database.shard.replicas", Kind::UrlList, Value("[]"),
        "Servers that replicate the primary and take reads, written as primary is."),
    key("database.shard.patroni", Kind::UrlList, Value("[]"),
        "URLs of Patroni's REST API, such as [\"http://10.0.0.1:8008\", \"https://user:password@10.0.0.2:8008?sslrootcert=/etc/ca.crt\"], \"env:NAME\" or \"file:PATH\". Whom it does not call the leader is no primary; while none of them answers, servers decide."),
    key("database.shard.patroni_members", Kind::Bool, Value("true"),
        "Whether members that Patroni lists and that are not written here join the shard, with user, password, database and TLS of its primary."),

    key("database.tenants", Kind::Tenants, Absent("none"),
        "Exceptions to the ranges: tenant = shard id."),
];

/// Keys that bound something at run time, in the order of SHOW LIMITS: each has a counter of how
/// often it was reached.
pub const LIMITS: &[&str] = &[
    "limits.clients",
    "limits.clients_per_user",
    "limits.clients_per_database",
    "limits.clients_per_address",
    "limits.pinned",
    "pool.size",
    "pool.host_size",
    "pool.budget",
    "pool.wait_timeout",
    "pool.connect_timeout",
    "pool.idle_timeout",
    "pool.max_lifetime",
    "limits.login_timeout",
    "limits.query_timeout",
    "limits.transaction_timeout",
    "limits.idle_transaction_timeout",
    "limits.client_idle_timeout",
    "limits.write_timeout",
    "limits.message_bytes",
    "limits.query_bytes",
    "limits.client_statements",
    "limits.statement_bytes",
    "limits.buffer_bytes",
    "limits.plans",
    "limits.plan_bytes",
    "limits.merge_bytes",
    "limits.gather_max_rows",
    "limits.gather_max_bytes",
    "limits.resume_bytes",
];

impl Key {
    /// The key of this path.
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The section the key stands in, such as `database.shard`.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The key's own name, such as `range`.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }
}

/// The names that may stand directly in a section (`""`: at the top), keys and sections.
pub fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| match section {
            "" => Some(key.path),
            _ => key.path.strip_prefix(section)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_name_their_keys_and_sections() {
        assert_eq!(
            names_in(""),
            ["listen", "pool", "limits", "health", "redis", "log", "user", "rule", "database"]
        );
        assert_eq!(
            names_in("database.shard"),
            ["id", "range", "primary", "replicas", "patroni", "patroni_members"]
        );
        assert!(names_in("database").contains(&"shard"));
        assert!(names_in("database").contains(&"tenants"));
    }

    #[test]
    fn limits_are_keys() {
        for limit in LIMITS {
            assert!(Key::find(limit).is_some(), "{limit}");
        }
        let limits = KEYS.iter().filter(|key| key.section() == "limits");
        // Those have metrics of their own.
        let counted = |key: &&Key| ["login_delay", "notifications"].contains(&key.name());
        for key in limits.filter(|key| !counted(key)) {
            assert!(LIMITS.contains(&key.path), "{} has no counter", key.path);
        }
    }

    #[test]
    fn paths_are_unique() {
        for key in KEYS {
            assert_eq!(KEYS.iter().filter(|it| it.path == key.path).count(), 1, "{}", key.path);
        }
    }
}
