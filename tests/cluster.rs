//! The servers that the playground and all other tests stand on.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgsluice::playground::{Cluster, ClusterSpec, Login, Node, Stop};

fn one(cluster: &Cluster, node: Node, database: &str, sql: &str) -> String {
    cluster.sql(node, database, sql).unwrap()[0][0].clone().unwrap_or_default()
}

#[test]
fn a_shared_cluster_replicates() {
    let name = support::database("replicates");
    let cluster = support::shared();
    cluster.sql_everywhere(&name, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    cluster.wait_for_replicas().unwrap();
    for shard in 0..2 {
        let replica = Node::Replica(shard, 0);
        assert_eq!(one(cluster, replica, &name, "SELECT count(*) FROM t"), "1");
        assert_eq!(one(cluster, replica, &name, "SELECT pg_is_in_recovery()"), "t");
        assert_eq!(one(cluster, Node::Primary(shard), &name, "SHOW lc_collate"), "C");
    }
}

#[test]
fn app_needs_its_password() {
    let port = support::shared().primary_port(0);
    let password = |it: &str| Some(it.to_owned());
    let superuser = Login::superuser("primary", port, "app");
    let app = Login { user: "app".into(), password: password("app"), ..superuser };
    app.run("CREATE TABLE mine (a int)").unwrap();
    let wrong = Login { password: password("wrong"), ..app };
    assert!(wrong.run("SELECT 1").unwrap_err().to_string().contains("password"));
}

#[test]
fn a_warm_start_is_quick() {
    drop(support::own(1, 0));
    let begin = Instant::now();
    let cluster = support::own(2, 1);
    let took = begin.elapsed();
    println!("2 shards with a replica each started in {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop(cluster);
}

#[test]
fn servers_stop_die_and_come_back() {
    let cluster = support::own(1, 1);
    let (primary, replica) = (Node::Primary(0), Node::Replica(0, 0));
    cluster.sql(primary, "app", "CREATE TABLE t (a int)").unwrap();
    cluster.server(replica).kill9();
    assert!(cluster.sql(replica, "app", "SELECT 1").is_err());
    cluster.server(primary).stop(Stop::Fast);
    assert!(!cluster.server(primary).is_running());
    cluster.server(primary).start().unwrap();
    cluster.server(primary).kill9();
    cluster.server(primary).start().unwrap();
    cluster.server(replica).start().unwrap();
    cluster.sql(primary, "app", "INSERT INTO t VALUES (1)").unwrap();
    cluster.wait_for_replicas().unwrap();
    assert_eq!(one(&cluster, replica, "app", "SELECT count(*) FROM t"), "1");
}

#[test]
fn a_kept_folder_is_started_again() {
    let spec = support::spec(2, 1);
    let dir = spec.dir.clone();
    let cluster = support::start(ClusterSpec { temporary: false, ..spec.clone() });
    cluster.sql(Node::Primary(1), "app", "CREATE TABLE kept (a int)").unwrap();
    let port = cluster.primary_port(1);
    drop(cluster);
    let cluster = support::start(spec);
    assert_eq!(cluster.primary_port(1), port);
    assert_eq!(one(&cluster, Node::Primary(1), "app", "SELECT to_regclass('kept')"), "kept");
    cluster.wait_for_replicas().unwrap();
    drop(cluster);
    assert!(!dir.exists(), "a temporary folder was left");
}

/// Run by the test below as a process of its own: starts a cluster, says where, and hangs.
#[test]
fn starts_a_cluster_and_hangs() {
    let Ok(say) = std::env::var("SAY") else { return }; // not as the child of the next test
    let cluster = support::own(1, 1);
    let pids: Vec<String> = cluster.all().map(|it| it.pid().unwrap().to_string()).collect();
    std::fs::write(say, pids.join("\n") + "\n").unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn servers_end_when_their_test_is_killed() {
    let say = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("say{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starts_a_cluster_and_hangs"])
        .env("SAY", &say)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let said = wait_for(|| std::fs::read_to_string(&say).ok().filter(|it| it.ends_with('\n')));
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(&say).unwrap();
    let alive = |pid: &str| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), None).is_ok()
    };
    wait_for(|| said.lines().all(|pid| !alive(pid)).then_some(()));
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}
