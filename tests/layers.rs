//! Keeps the module picture of docs/ARCHITECTURE.md true: a module may use only modules listed to
//! its left, the pure ones know neither tokio nor the clock, and each third-party crate has one home.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Bottom to top, as in docs/ARCHITECTURE.md.
const PURE: &[&str] = &[
    "error", "wire", "auth", "sql", "shard", "catalog", "config", "merge", "plan", "limit",
    "balance",
];
const IO: &[&str] = &[
    "metrics",
    "cache",
    "net",
    "server",
    "pool",
    "proxy",
    "exec",
    "reshard",
    "admin",
    "session",
    "playground",
    "app",
    "main",
];
const IMPURE: &[&str] = &[
    "tokio",
    "Instant::now",
    "SystemTime::now",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "std::process",
    "getrandom",
];

/// Crate, as in a path, and where it may be named: the beginnings of paths below `src/`.
const HOMES: &[(&str, &[&str])] = &[
    ("pg_query", &["sql/parse"]),
    ("serde_json", &["sql/parse", "pool/patroni"]),
    ("pgwire", &["wire/", "auth/"]),
    ("toml", &["config/"]),
    ("prometheus", &["metrics"]),
    ("hyper", &["metrics"]),
    ("hyper_util", &["metrics"]),
    ("http_body_util", &["metrics"]),
    ("tokio_postgres", &["pool/", "exec/two_phase", "playground/", "app"]),
    ("deadpool", &["pool/control"]),
    ("rustls", &["net/tls"]),
    ("rustls_native_certs", &["net/tls"]),
    ("x509_cert", &["net/tls"]),
    ("redis", &["cache/redis"]),
    ("clap", &["main.rs"]),
    ("mimalloc", &["main.rs"]),
    ("tempfile", &["playground/"]),
];

#[test]
fn modules_use_only_modules_to_their_left() {
    let order: Vec<&str> = PURE.iter().chain(IO).copied().collect();
    let mut errors = Vec::new();
    for path in sources(Path::new("src")) {
        let module = module_of(&path);
        if module == "lib" {
            continue;
        }
        let Some(rank) = order.iter().position(|it| *it == module) else {
            errors.push(format!("{}: `{module}` is not in the picture", path.display()));
            continue;
        };
        for (number, line) in code_lines(&path) {
            if line.contains("crate::{") {
                errors.push(format!("{}:{number}: one `use crate::` per module", path.display()));
            }
            let used = line.split("crate::").skip(1).map(first_word);
            for used in used.filter(|it| order.iter().position(|at| at == it) > Some(rank)) {
                errors.push(format!("{}:{number}: {module} uses {used}", path.display()));
            }
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn pure_modules_know_no_io() {
    let mut errors = Vec::new();
    let pure = |path: &PathBuf| PURE.contains(&module_of(path).as_str());
    for path in sources(Path::new("src")).into_iter().filter(pure) {
        for (number, line) in code_lines(&path) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                errors.push(format!("{}:{number}: {word} in a pure module", path.display()));
            }
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn every_crate_has_its_home() {
    let mut errors = Vec::new();
    for path in sources(Path::new("src")) {
        let place = path.strip_prefix("src").unwrap().to_str().unwrap().to_owned();
        for (number, line) in code_lines(&path) {
            for (name, homes) in HOMES.iter().filter(|(name, _)| names_crate(&line, name)) {
                if !homes.iter().any(|home| place.starts_with(home)) {
                    errors.push(format!("{}:{number}: {name} outside {homes:?}", path.display()));
                }
            }
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

/// Whether `name::` stands in the line as the begin of a path (or `use name`).
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == ':')
    }) || line.trim_start().starts_with(&format!("use {name};"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn module_of(path: &Path) -> String {
    let first = path.iter().nth(1).unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn first_word(text: &str) -> &str {
    text.split(|it: char| !it.is_alphanumeric() && it != '_').next().unwrap_or_default()
}

/// The lines of a file with their numbers, without comments and unit tests (which end a file).
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    code.lines().enumerate().map(|(i, line)| (i + 1, without_comment(line))).collect()
}
