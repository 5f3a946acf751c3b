//! The configurations inside compose.yml and k8s/ are right, and fit what they are used with.
#![allow(clippy::unwrap_used)]

use std::fs;

use pgsluice::config::{Config, parse};

/// Parses with every variable and file there; those of shards hold URLs.
fn check(name: &str, text: &str) -> Config {
    let url = |name: &str| format!("postgres://app:app@{}:5432/app", name.replace('/', "-"));
    let env = |name: &str| Some(if name.contains("PASS") { "app".to_owned() } else { url(name) });
    let read_file = |path: &str| Ok(url(path.trim_start_matches('/')) + "\n");
    parse(name, text, &env, &read_file).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The text below `pgsluice.toml: |`.
fn toml_in(yaml: &str) -> String {
    let (_, rest) = yaml.split_once("  pgsluice.toml: |\n").unwrap();
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn compose() {
    let config = check("docker/compose.toml", &fs::read_to_string("docker/compose.toml").unwrap());
    assert!(config.listen.address.ip().is_unspecified());
    assert_eq!(config.databases[0].shards.len(), 2);
    let compose = fs::read_to_string("compose.yml").unwrap();
    for shard in ["SHARD0:", "SHARD1:", "APP_PASSWORD:"] {
        assert!(compose.contains(shard), "{shard}");
    }
}

#[test]
fn kubernetes() {
    for (file, open) in [("k8s/sidecar.yaml", false), ("k8s/gateway.yaml", true)] {
        let yaml = fs::read_to_string(file).unwrap();
        let config = check(file, &toml_in(&yaml));
        assert_eq!(config.listen.address.ip().is_unspecified(), open, "{file}");
        let http = config.listen.http.unwrap();
        assert!(http.ip().is_unspecified(), "{file}: probes come from outside the pod");
        assert!(yaml.contains(&format!("containerPort: {}", http.port())), "{file}");
        assert!(config.listen.shutdown_grace.as_secs() < 50, "{file}: terminated before");
        for path in ["/live", "/ready"] {
            assert!(yaml.contains(&format!("path: {path}\n")), "{file}: {path}");
        }
    }
}
