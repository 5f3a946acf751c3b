//! The table of refusals in docs/SHARDING.md, made of the files in tests/golden/refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- refusals: made by `UPDATE_GOLDEN=1 cargo test --test golden` -->\n";
const END: &str = "<!-- end of refusals -->\n";

pub(crate) fn check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/SHARDING.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the mark is there");
    let (_, after) = rest.split_once(END).expect("the end is there");
    let now = format!("{before}{BEGIN}{}{END}{after}", table(&root.join("tests/golden/refused")));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, now).unwrap();
    } else {
        assert!(text == now, "{} is out of date; UPDATE_GOLDEN=1 writes it anew", path.display());
    }
}

fn table(folder: &Path) -> String {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for section in text.split("\n> ").skip(1) {
            let Some((statement, answer)) = section.split_once("\n---\n") else { continue };
            let Some(refusal) = answer.strip_prefix("Refuse ERROR 0A000: ") else { continue };
            let mut lines = refusal.lines();
            let message = general(lines.next().unwrap_or_default(), statement);
            let detail = lines.find_map(|it| it.strip_prefix("DETAIL: ")).unwrap_or_default();
            let row = (general(detail, statement), statement.replace('\n', " "));
            let kept = found.entry(message).or_insert_with(|| row.clone());
            // The shortest example says it best, and the same one whatever order files come in.
            if (row.1.len(), &row.1) < (kept.1.len(), &kept.1) {
                *kept = row;
            }
        }
    }
    let mut table = "\n| refused | why | for example |\n|---|---|---|\n".to_owned();
    for (message, (detail, statement)) in found {
        let cells = [message, detail, format!("`{statement}`")].map(|it| it.replace('|', "\\|"));
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table.push('\n');
    table
}

/// A text without the names that the statement brings.
fn general(text: &str, statement: &str) -> String {
    let is_part = |it: char| it.is_alphanumeric() || it == '_';
    // Words of the message that the statement happens to have, too.
    let own =
        ["a", "binary", "standard_conforming_strings", "client_encoding", "set_config", "off"];
    let named: Vec<&str> =
        statement.split(|it| !is_part(it)).filter(|it| !own.contains(it)).collect();
    let word = |it: &str| {
        let bare = it.trim_matches(|it| !is_part(it));
        let is_name =
            !bare.is_empty() && named.contains(&bare) && !bare.chars().all(char::is_uppercase);
        if is_name { it.replace(bare, "…") } else { it.to_owned() }
    };
    let words: Vec<String> = text.split(' ').map(word).collect();
    words.join(" ")
}
