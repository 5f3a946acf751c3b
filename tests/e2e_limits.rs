//! Each limit with its own error, its counter and what it leaves intact.
#![allow(clippy::unwrap_used)]

mod support;

use support::proxy::{Proxy, ProxySpec, wait_for};
use support::wire::Wire;

/// One shard, without replicas, in a database of its own; and the database's name.
fn one_shard(name: &str) -> (ProxySpec, String) {
    let name = support::database(name);
    let port = support::shared().primary_port(0);
    (ProxySpec::over(&[(port, Vec::new(), name.clone())]), name)
}

/// A column of SHOW LIMITS for one key.
fn shown(proxy: &Proxy, key: &str, column: &str) -> String {
    let keys = proxy.show("LIMITS", "limit");
    let at = keys.iter().position(|it| it == key).unwrap();
    proxy.show("LIMITS", column)[at].clone()
}

fn reached(proxy: &Proxy, key: &str) -> u64 {
    let count = shown(proxy, key, "reached").parse().unwrap();
    let line = format!("sluice_limit_reached_total{{limit=\"{key}\"}} {count}");
    assert!(proxy.page("/metrics").1.contains(&line), "{line}");
    count
}

#[test]
fn clients_are_counted_by_user_database_and_address() {
    let (mut spec, _) = one_shard("seats");
    spec.limits = "clients = 4\nclients_per_user = 3\n".into();
    spec.users = "clients = 2\n[[user]]\nname = \"other\"\npassword = \"other\"\n\
                  server_user = \"app\"\nserver_password = \"app\"\n"
        .into();
    let proxy = Proxy::start(spec);
    let login = |user: &str| Wire::login(proxy.port, user, user, "app");
    let (one, two) = (login("app").unwrap(), login("app").unwrap());
    let refused = login("app").err().unwrap();
    assert_eq!(refused.0, "53300");
    assert!(refused.1.contains("user \"app\""), "{refused:?}");
    let others = (login("other").unwrap(), login("other").unwrap());
    let refused = login("other").err().unwrap();
    assert_eq!(refused, ("53300".into(), "too many clients already".into()));
    // The console has seats of its own.
    wait_for("the counter", || reached(&proxy, "limits.clients") == 1);
    assert_eq!(reached(&proxy, "limits.clients_per_user"), 1);
    assert_eq!(shown(&proxy, "limits.clients", "used"), "5");
    drop(one);
    wait_for("a seat", || login("app").is_ok());
    drop((two, others));
    wait_for("all seats but the console's", || shown(&proxy, "limits.clients", "used") == "1");
}

#[test]
fn clients_of_a_database_and_of_an_address_are_bounded() {
    let (mut spec, _) = one_shard("addresses");
    spec.limits = "clients_per_address = 3\nclients_per_database = 5\n".into();
    let proxy = Proxy::start(spec);
    let from =
        |address: &str| Wire::login_from(address.parse().unwrap(), proxy.port, "app", "app", "app");
    let near: Vec<Wire> = (0..3).map(|_| from("127.0.0.2").unwrap()).collect();
    let refused = from("127.0.0.2").err().unwrap();
    assert_eq!(refused.0, "53300");
    assert!(refused.1.contains("127.0.0.2"), "{refused:?}");
    let far: Vec<Wire> = (0..2).map(|_| from("127.0.0.3").unwrap()).collect();
    let refused = from("127.0.0.3").err().unwrap();
    assert!(refused.1.contains("database \"app\""), "{refused:?}");
    assert_eq!(reached(&proxy, "limits.clients_per_address"), 1);
    assert_eq!(reached(&proxy, "limits.clients_per_database"), 1);
    drop((near, far));
    wait_for("a seat", || from("127.0.0.2").is_ok());
}
