//! Golden files of the lexer, the fingerprint, literals and comment directives.
//!
//! A file begins with a comment `# show <what>`. Each case is lines `> input`, a line `---`, and the
//! output up to an empty line. `UPDATE_GOLDEN=1` writes the files anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pgsluice::sql::comment::directives;
use pgsluice::sql::fingerprint::{Fingerprint, readable};
use pgsluice::sql::lexer::Lexer;
use pgsluice::sql::literal::literal_value;

#[test]
fn golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lexer");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|it| it.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let expected = std::fs::read_to_string(&file).unwrap();
        let actual = run(&expected);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, actual).unwrap();
        } else {
            assert_eq!(actual, expected, "{}; UPDATE_GOLDEN=1 rewrites it", file.display());
        }
    }
}

fn run(file: &str) -> String {
    let first = file.lines().next().unwrap_or_default();
    let show = match first {
        "# show tokens" => tokens,
        "# show fingerprint" => fingerprint,
        "# show literals" => literals,
        "# show directives" => directive,
        other => panic!("unknown {other:?}"),
    };
    let mut text = format!("{first}\n");
    for input in inputs(file) {
        text.push('\n');
        for line in input.split('\n') {
            text.push_str(format!("> {line}").trim_end());
            text.push('\n');
        }
        text.push_str("---\n");
        text.push_str(&show(&input));
    }
    text
}

/// Runs of lines that begin with `>`.
fn inputs(file: &str) -> Vec<String> {
    let mut inputs: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in file.lines() {
        let Some(part) = line.strip_prefix('>') else {
            is_open = false;
            continue;
        };
        let part = part.strip_prefix(' ').unwrap_or(part);
        match inputs.last_mut().filter(|_| is_open) {
            Some(input) => input.extend(["\n", part]),
            None => inputs.push(part.into()),
        }
        is_open = true;
    }
    inputs
}

/// Control characters and backslashes escaped, quotes not.
fn escaped(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn tokens(sql: &str) -> String {
    Lexer::new(sql).fold(String::new(), |mut text, token| {
        let _ = writeln!(text, "{:?} {}", token.kind, escaped(token.text(sql)));
        text
    })
}

fn fingerprint(sql: &str) -> String {
    let mut fingerprint = Fingerprint::new(0);
    fingerprint.read(sql);
    let mut text = format!("leading word: {}\n", fingerprint.leading_word(sql));
    let key = escaped(&readable(fingerprint.key(sql)));
    let _ = writeln!(text, "{}: {key}", if fingerprint.is_whole() { "text" } else { "template" });
    for slot in fingerprint.slots() {
        let _ = writeln!(text, "slot {:?} {:?}", slot.kind, &sql[slot.range()]);
    }
    if fingerprint.has_semicolon_inside() {
        text.push_str("semicolon inside\n");
    }
    if !fingerprint.is_terminated() {
        text.push_str("not terminated\n");
    }
    text
}

fn literals(sql: &str) -> String {
    let mut fingerprint = Fingerprint::new(0);
    fingerprint.read(sql);
    fingerprint.slots().iter().fold(String::new(), |mut text, slot| {
        let _ = match literal_value(sql, *slot) {
            Some(value) => writeln!(text, "{:?} {}", slot.kind, escaped(&value)),
            None => writeln!(text, "{:?} (none)", slot.kind),
        };
        text
    })
}

fn directive(sql: &str) -> String {
    match directives(sql) {
        Ok(found) => format!("tenant {:?}, role {:?}\n", found.tenant, found.role),
        Err(error) => format!("{error}\n"),
    }
}
