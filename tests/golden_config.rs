//! Configurations and what is said about them: `tests/golden/config/NAME.toml` → `NAME.out`.
//! `UPDATE_GOLDEN=1 cargo test --test golden_config` writes the answers anew.

use std::fs;
use std::path::{Path, PathBuf};

use pgsluice::config::keys::{Fallback, KEYS, Key, LISTS};
use pgsluice::config::{Config, ConfigError, parse, show};

/// Parses with an environment of one variable and a disk of a URL and certificates.
fn parse_here(name: &str, text: &str) -> Result<Config, Vec<ConfigError>> {
    let env = |name: &str| (name == "APP_PASSWORD").then(|| "from the environment".to_owned());
    let read_file = |path: &str| match path {
        "/secrets/primary" => Ok("postgres://app:s%2Fecret@10.0.0.1:5432/app\n".to_owned()),
        _ if path.starts_with("/etc/pgsluice/") => Ok(String::new()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    parse(name, text, &env, &read_file)
}

/// The mistakes, or every key that is not its default.
fn answer(name: &str, text: &str) -> String {
    match parse_here(name, text) {
        Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
        Ok(config) => show(&config)
            .into_iter()
            .filter(|(key, value, default)| {
                *value != default.trim_matches(['[', ']']) && key != "listen.threads"
            })
            .filter(|(_, value, _)| !value.is_empty())
            .map(|(key, value, _)| format!("{key} = {value}\n"))
            .collect(),
    }
}

#[test]
fn every_case_has_its_answer() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<PathBuf> = fs::read_dir("tests/golden/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "toml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let found = answer(name, &fs::read_to_string(&case).unwrap());
        let golden = case.with_extension("out");
        if update {
            fs::write(&golden, &found).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The lines of the example with the `# key = value` ones turned on.
fn turned_on(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(code) if is_assignment(code) || code.starts_with('[') => code,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn is_assignment(line: &str) -> bool {
    let name = line.split(" = ").next().unwrap_or_default();
    let word = name.trim_matches('"');
    line.contains(" = ") && word.chars().all(|it| it.is_ascii_alphanumeric() || "_-".contains(it))
}

/// Every `section.key` of the example with the value it is given.
fn assignments(text: &str) -> Vec<(String, String)> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in turned_on(text).lines().filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            found.push((format!("{section}.{name}"), value.to_owned()));
        }
    }
    found
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let text = fs::read_to_string("config/pgsluice.toml").unwrap();
    let written = assignments(&text);
    let prose = text.replace("\n# ", " ");
    for key in KEYS {
        let values: Vec<&str> =
            written.iter().filter(|(path, _)| path == key.path).map(|(_, it)| &**it).collect();
        let is_section = text.contains(&format!("[{}]", key.path));
        assert!(!values.is_empty() || is_section, "{} is not in config/pgsluice.toml", key.path);
        let off = format!("# {} = ", key.name());
        if let Fallback::Value(default) = key.default
            && key.path != "database.shard.id"
            && text.contains(&off)
        {
            assert!(values.contains(&default), "{}: {values:?}, default {default}", key.path);
        }
        assert!(prose.contains(key.doc), "{}: its text is not the code's", key.path);
    }
    for (path, _) in &written {
        let known = Key::find(path).is_some() || path.starts_with("database.tenants.");
        assert!(known, "{path} of config/pgsluice.toml is no key");
    }
    for list in LISTS {
        assert!(text.contains(&format!("[[{list}]]")), "[[{list}]] is missing");
    }
}

#[test]
fn the_examples_parse_as_they_are_and_turned_on() {
    for file in ["config/minimal.toml", "config/pgsluice.toml"] {
        let text = fs::read_to_string(file).unwrap();
        for text in [text.clone(), turned_on(&text)] {
            if let Err(errors) = parse_here(file, &text) {
                panic!("{errors:#?}\n{text}");
            }
        }
    }
}

#[test]
fn the_documentation_tells_every_key() {
    let path = Path::new("docs/CONFIGURATION.md");
    let text = fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once("<!-- keys -->\n").expect("a begin mark");
    let (_, after) = rest.split_once("<!-- end of keys -->").expect("an end mark");
    let now = format!("{before}<!-- keys -->\n{}<!-- end of keys -->{after}", reference());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, &now).unwrap();
    } else {
        assert!(text == now, "{} is out of date; UPDATE_GOLDEN=1 writes it anew", path.display());
    }
}

/// One table per section, from [`KEYS`].
fn reference() -> String {
    let (mut text, mut section) = (String::new(), "");
    for key in KEYS {
        let of = if key.name() == "tenants" { key.path } else { key.section() };
        if of != section {
            section = of;
            let header = if LISTS.contains(&of) { format!("[[{of}]]") } else { format!("[{of}]") };
            text.push_str(&format!("\n### `{header}`\n\n| key | default | |\n|---|---|---|\n"));
        }
        let default = match key.default {
            Fallback::Required => "*required*".to_owned(),
            Fallback::Absent(meaning) => meaning.to_owned(),
            Fallback::Value(value) => format!("`{value}`"),
        };
        let doc = key.doc.replace('|', "\\|");
        text.push_str(&format!("| `{}` | {default} | {doc} |\n", key.name()));
    }
    text.push('\n');
    text
}
