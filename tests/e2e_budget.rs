//! Many proxies on one server, whose connections are fewer than their pools would like.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::balance::budget::{Claim, granted, share};
use pgsluice::playground::{Cluster, Node};
use pgsluice::pool::budget::{self, Lost, Wish};
use pgsluice::pool::control::Control;
use support::proxy::{Proxy, ProxySpec, wait_for, wait_within};
use support::random::Random;
use support::wire::Wire;

/// Ends threads, whatever becomes of the test.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server with few connections, and what proxies to it are told.
fn small(max_connections: usize) -> (Cluster, ProxySpec) {
    let mut spec = support::spec(1, 0);
    spec.max_connections = max_connections;
    let cluster = support::start(spec);
    cluster.create_database("shared").unwrap();
    let mut spec = ProxySpec::of(&cluster, "shared");
    spec.pool = "size = 20\nwait_timeout = \"10s\"\n".into();
    (cluster, spec)
}

/// A server for claims, and a connection to it.
fn table() -> (Cluster, Control) {
    let (cluster, spec) = small(20);
    let nothing = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let config = pgsluice::config::parse("toml", &spec.toml(1, 2), &|_| None, &nothing).unwrap();
    (cluster, Control::new(&config.databases[0].shards[0].primary, || ()))
}

/// What SHOW BUDGET says of the only server.
fn told(proxy: &Proxy, what: &str) -> usize {
    proxy.show("BUDGET", what)[0].parse().unwrap_or(0)
}

/// Runs transactions by so many clients of a proxy until `stop`; how many were done, and what went wrong.
fn load(
    port: u16,
    clients: usize,
    stop: &AtomicBool,
    done: &AtomicUsize,
    errors: &parking_lot::Mutex<Vec<String>>,
) {
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let Ok(mut client) = Wire::login(port, "app", "app", "app") else {
                    return errors.lock().push("no login".into());
                };
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.query("SELECT pg_sleep(0.02)");
                    match answer.error {
                        None => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Some(error) => return errors.lock().push(format!("{error:?}")),
                    }
                }
            });
        }
    });
}

/// Server processes that work for clients.
fn backends(cluster: &Cluster) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let rows = cluster.sql(Node::Primary(0), "shared", sql).unwrap();
    rows[0][0].as_deref().unwrap().parse().unwrap()
}

#[test]
fn proxies_share_what_a_server_has() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (cluster, spec) = small(40);
    let mut proxies: Vec<Proxy> = (0..4).map(|_| Proxy::start(spec.clone())).collect();
    let (stop, stop_first) = (AtomicBool::new(false), AtomicBool::new(false));
    let (done, errors) = (AtomicUsize::new(0), parking_lot::Mutex::new(Vec::new()));
    let most = AtomicUsize::new(0);
    let [first, second, third, idle] = &proxies[..] else { unreachable!() };
    let ports = [first.port, second.port, third.port];
    let mut kept = idle.client();
    kept.run("SELECT 1");
    wait_within(20, "that they find each other", || {
        [first, second, third, idle].iter().all(|it| told(it, "proxies") == 4)
    });
    std::thread::scope(|scope| {
        let _ends = [Ends(&stop), Ends(&stop_first)];
        for (at, port) in ports.into_iter().enumerate() {
            let stop = if at == 0 { &stop_first } else { &stop };
            let (done, errors) = (&done, &errors);
            scope.spawn(move || load(port, 20, stop, done, errors));
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(backends(&cluster), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let shares = || [first, second, third, idle].map(|it| told(it, "granted"));
        // Those who need much have the same; who needs little has little.
        wait_within(20, "equal shares", || {
            let [a, b, c, d] = shares();
            let all = [a, b, c];
            d <= 2 && d > 0 && a > 4 && all.iter().max().unwrap() - all.iter().min().unwrap() <= 1
        });
        // Whoever needs no more gives it back.
        stop_first.store(true, Ordering::Relaxed);
        wait_within(20, "what is given back", || {
            let [a, b, c, _] = shares();
            a < 4 && b >= 9 && c >= 9
        });
        assert_eq!(kept.run("SELECT 2").first(), "2");
        stop.store(true, Ordering::Relaxed);
    });
    let errors = errors.into_inner();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(done.into_inner() > 500);
    // Superusers' connections are free, and one for whoever else comes.
    let most = most.into_inner();
    assert!(most < 40 - 3, "{most} connections");
    // A dead proxy's part is free again.
    proxies[1].kill9();
    proxies[2].kill9();
    wait_within(30, "the end of the dead", || told(&proxies[3], "proxies") <= 2);
    // Without clients everything is given back.
    let of_first = |what| told(&proxies[0], what);
    wait_within(30, "a proxy without clients", || of_first("open") == 0);
    let sql = "SELECT count(*) FROM sluice.budget";
    wait_within(30, "no claims but of who has clients", || {
        let rows = cluster.sql(Node::Primary(0), "shared", sql).unwrap();
        rows[0][0].as_deref() != Some("4")
    });
    assert_eq!(proxies[0].client().run("SELECT 3").first(), "3");
    wait_within(20, "the one that woke up", || told(&proxies[0], "proxies") == 2);
    // One that goes down leaves nothing behind.
    proxies[3].signal(Signal::SIGTERM);
    assert!(proxies[3].wait().success());
    let rows = cluster.sql(Node::Primary(0), "shared", sql).unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("1"));
}

/// Runs a statement again and again, until its proxy dies.
fn until_lost(port: u16, sql: &str) {
    let mut client = Wire::login(port, "app", "app", "app").unwrap();
    loop {
        pgsluice::wire::frontend::query(&mut client.out, sql.as_bytes());
        if client.send().is_err() {
            return;
        }
        loop {
            match client.frame() {
                Ok((b'Z', _)) => break,
                Ok(_) => (),
                Err(_) => return,
            }
        }
    }
}

/// Those that need the whole machine run one after the other.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// What a killed proxy had is free as soon as the server has it back, long before its lease ends; and no sooner.
#[test]
fn a_killed_proxy_leaves_room() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (cluster, mut spec) = small(50);
    // One alone is not to fill the server before it hears of another.
    spec.pool = "size = 36\nwait_timeout = \"10s\"\n".into();
    let [stays, mut dies] = [(); 2].map(|()| Proxy::start(spec.clone()));
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let errors = parking_lot::Mutex::new(Vec::new());
    let [port, other] = &[stays.port, dies.port];
    let _kept = [&stays, &dies].map(|it| {
        let mut client = it.client();
        client.run("SELECT 1");
        client
    });
    wait_within(20, "that they find each other", || {
        [&stays, &dies].iter().all(|it| told(it, "proxies") == 2)
    });
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| load(*port, 44, &stop, &done, &errors));
        for _ in 0..20 {
            scope.spawn(|| until_lost(*other, "SELECT pg_sleep(0.02)"));
        }
        let shares = || (told(&stays, "granted"), told(&dies, "granted"));
        wait_within(20, "shares", || shares().0.abs_diff(shares().1) <= 1 && shares().0 > 12);
        // What is foreign is known by now.
        std::thread::sleep(Duration::from_secs(6));
        let before = told(&stays, "open");
        // These run on after their proxy has died.
        for _ in 0..5 {
            scope.spawn(|| until_lost(*other, "SELECT pg_sleep(9)"));
        }
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(9)'";
        let asleep = || cluster.sql(Node::Primary(0), "shared", sql).unwrap()[0][0].clone();
        wait_within(5, "five", || asleep().as_deref() == Some("5"));
        dies.kill9();
        let begun = Instant::now();
        wait_within(6, "room", || told(&stays, "open") > before);
        while asleep().as_deref() == Some("5") {
            let open = told(&stays, "open");
            assert!(open <= 50 - 3 - 5 - 5, "{open}: what sleeps on is not counted");
        }
        wait_within(14, "all", || told(&stays, "open") == 36);
        assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
        // One that dies again and again starves neither the other nor itself.
        for _ in 0..5 {
            dies.restart();
            let begun = Instant::now();
            assert_eq!(dies.client().run("SELECT 1").first(), "1");
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(1500));
            dies.kill9();
        }
        assert!(told(&stays, "open") >= 8, "{}", told(&stays, "open"));
        stop.store(true, Ordering::Relaxed);
    });
    let errors = errors.into_inner();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_full_server_makes_clients_wait() {
    let (cluster, mut spec) = small(12);
    spec.pool = "size = 20\nwait_timeout = \"4s\"\nbudget = \"off\"\n".into();
    // Others have all that is there.
    let mut others: Vec<Wire> = Vec::new();
    while let Ok(it) = Wire::login(cluster.primary_port(0), "app", "app", "shared") {
        others.push(it);
    }
    assert!(others.len() >= 9);
    let proxy = Proxy::start(spec);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut client = Wire::login(proxy.port, "app", "app", "app").unwrap();
            client.run("SELECT 1").first()
        });
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(proxy.show("SHARDS", "up"), ["true"]);
        // Control connections come first or second.
        others.truncate(others.len() - 4);
        assert_eq!(waits.join().unwrap(), "1");
    });
    assert!(began.elapsed() >= Duration::from_millis(1500));
    // More than it takes: they share what is there.
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let errors = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| load(proxy.port, 12, &stop, &done, &errors));
        std::thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
    });
    let errors = errors.into_inner();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(done.into_inner() > 50);
}

#[test]
fn without_rights_all_goes_on_without_it() {
    let (cluster, spec) = small(60);
    let sql = |sql: &str| cluster.sql(Node::Primary(0), "shared", sql).unwrap();
    sql("ALTER DATABASE shared OWNER TO postgres");
    let proxies = [(); 2].map(|()| Proxy::start(spec.clone()));
    let mut clients: Vec<Wire> = proxies.iter().map(Proxy::client).collect();
    clients.iter_mut().for_each(|it| assert_eq!(it.run("SELECT 1").first(), "1"));
    wait_within(10, "the problem", || {
        proxies.iter().all(|it| it.show("BUDGET", "problem")[0].contains("permission denied"))
    });
    clients.iter_mut().for_each(|it| assert_eq!(it.run("SELECT 2").first(), "2"));
    assert_eq!(proxies[0].log().matches("cannot agree").count(), 1);
    assert_eq!(proxies[0].show("BUDGET", "granted"), [""]);
}

/// A proxy without a process: what it holds, and what its clients want.
struct Light {
    wish: Wish,
    wants: usize,
    limit: usize,
    claims: Vec<Claim>,
    turn: u64,
}

impl Light {
    fn new(number: usize, room: usize) -> Self {
        let member = format!("light {number:03}");
        let claim = Claim { member, demand: 0, held: 0, granted: 0 };
        let wish =
            Wish { server: "a server".into(), claim, wanted: 0, room, lost: Lost::default() };
        Self { wish, wants: 0, limit: 0, claims: Vec::new(), turn: 0 }
    }

    async fn renew(&mut self, control: &Control) {
        let Wish { claim, wanted, room, .. } = &mut self.wish;
        claim.demand = self.wants;
        self.claims.retain(|it| it.member != claim.member);
        self.claims.push(claim.clone());
        *wanted = share(*room, &self.claims, &claim.member, self.turn);
        claim.granted = self.limit.min(*wanted);
        claim.held = claim.granted.min(self.wants);
        let wishes = std::slice::from_ref(&self.wish);
        let (seconds, claims) = budget::renew(control, wishes).await.unwrap();
        self.claims = claims.into_iter().map(|(_, it)| it).collect();
        self.turn = seconds / 2;
        let own = self.claims.iter().find(|it| it.member == self.wish.claim.member);
        self.limit = own.unwrap().granted;
        let taken: usize = self.claims.iter().map(Claim::taken).sum();
        assert!(taken <= self.wish.room, "{taken} of {}", self.wish.room);
    }
}

#[test]
fn two_hundred_proxies_stay_below_the_limit() {
    const ROOM: usize = 400;
    let (_cluster, control) = table();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Whoever comes first makes it; the others find it.
        let made = tokio::join!(budget::prepare(&control), budget::prepare(&control));
        made.0.and(made.1).unwrap();
        let mut fleet: Vec<Light> = (0..200).map(|it| Light::new(it, ROOM)).collect();
        for round in 0..3 {
            for (at, light) in fleet.iter_mut().enumerate() {
                light.wants = (at * 7 + round * 3) % 12 * usize::from((at + round) % 3 == 0);
            }
            for _ in 0..3 {
                let mut renewals = Vec::new();
                for part in fleet.chunks_mut(50) {
                    renewals.push(async {
                        for light in part {
                            light.renew(&control).await;
                        }
                    });
                }
                let mut parts = renewals.into_iter();
                let mut next = || parts.next().unwrap();
                tokio::join!(next(), next(), next(), next());
            }
        }
        assert!(fleet.iter().all(|it| it.limit >= 1));
        let busy = fleet.iter().filter(|it| it.wants > 2).map(|it| it.limit).min();
        assert!(busy >= Some(3), "{busy:?}");
        // Those who leave, and those who die, leave room.
        budget::leave(&control, "light 000").await.unwrap();
        control
            .rows("UPDATE sluice.budget SET until = now() WHERE member < 'light 150'")
            .await
            .unwrap();
        let last = fleet.last_mut().unwrap();
        last.wants = 100;
        last.renew(&control).await;
        last.renew(&control).await;
        assert_eq!((last.claims.len(), last.limit >= 100), (50, true), "{}", last.limit);
    });
}

#[test]
fn a_database_that_sleeps_answers_for_no_server() {
    let (cluster, mut spec) = small(60);
    let port = cluster.primary_port(0);
    // Of two databases on one server the first by name answers for it.
    spec.users.push_str(&format!(
        "[[database]]\nname = \"a\"\nidle = \"sleep\"\nidle_after = \"1s\"\n[[database.shard]]\nid = 0\n\
         primary = \"postgres://app:app@127.0.0.1:{port}/app\"\n"
    ));
    let (one, other) = (Proxy::start(spec.clone()), Proxy::start(spec));
    let _clients = [&one, &other].map(|it| {
        let mut client = it.client();
        client.run("SELECT 1");
        client
    });
    for proxy in [&one, &other] {
        wait_for("the sleep", || proxy.show("HOSTS", "state").contains(&"asleep".to_owned()));
        wait_for("both", || told(proxy, "proxies") == 2);
    }
    // It gives back what it has, although the database that would answer sleeps.
    other.signal(Signal::SIGTERM);
    wait_within(8, "the other to be gone", || told(&one, "proxies") != 2);
}

/// Where proxies' own connections are too many, those without work leave; some stay, and look after what is left
/// undone.
#[test]
fn a_crowd_thins_out() {
    let (cluster, spec) = small(40);
    let proxies: Vec<Proxy> = (0..14).map(|_| Proxy::start(spec.clone())).collect();
    let asleep = || {
        let states = proxies.iter().map(|it| it.show("HOSTS", "state"));
        states.filter(|it| it.contains(&"asleep".to_owned())).count()
    };
    // Of 37 connections nine are not yet a crowd, and four of it stay in any case.
    wait_within(60, "that five have left", || asleep() >= 5);
    wait_within(5, "that their connections are closed", || backends(&cluster) <= 11);
    std::thread::sleep(Duration::from_secs(3));
    assert!((5..=10).contains(&asleep()), "{} are asleep", asleep());
    // Each serves whoever comes.
    let mut clients: Vec<Wire> = proxies.iter().map(Proxy::client).collect();
    for client in &mut clients {
        assert_eq!(client.run("SELECT 7").first(), "7");
    }
    assert!(backends(&cluster) <= 37);
    assert_eq!(asleep(), 0);
}

/// What `balance::budget::granted` says is what the table of claims does.
#[test]
fn the_table_grants_what_the_sum_says() {
    let (_cluster, control) = table();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        budget::prepare(&control).await.unwrap();
        let mut random = Random::new(7);
        for round in 0..200 {
            let server = format!("server {round}");
            let mut taken = 0;
            for member in 0..random.below(4) {
                let (held, granted) = (random.below(20), random.below(20));
                taken += held.max(granted);
                let row = format!("'{server}', 'other {member}', 1, {held}, {granted}");
                let sql =
                    format!("INSERT INTO sluice.budget VALUES ({row}, now() + interval '1 hour')");
                control.rows(&sql).await.unwrap();
            }
            let (own, wanted, room) = (random.below(30), random.below(30), random.below(60));
            let held = random.below(30);
            let claim = Claim { member: "own".into(), demand: 1, held, granted: own };
            // What its lease says, unless that has ended.
            let leased = random.below(30);
            let ends =
                if random.below(3) == 0 { "- interval '1 s'" } else { "+ interval '1 hour'" };
            let row = format!("'{server}', 'own', 1, 0, {leased}, now() {ends}");
            control.rows(&format!("INSERT INTO sluice.budget VALUES ({row})")).await.unwrap();
            let leased = if ends.starts_with('+') { leased } else { 0 };
            let own = own.min(held.max(leased));
            let lost = Lost::default();
            let wish = Wish { server, claim, wanted, room, lost };
            let claims = budget::renew(&control, &[wish]).await.unwrap().1;
            let got = claims.iter().find(|it| it.1.member == "own").unwrap().1.granted;
            let expected = granted(room, taken, own, wanted);
            assert_eq!(got, expected, "room {room}, taken {taken}, own {own}, wanted {wanted}");
        }
    });
}
