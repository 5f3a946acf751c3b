//! Golden files: blocks of input lines, a line `---`, output lines; blank lines between blocks.
//! `UPDATE_GOLDEN=1` writes what came out instead of comparing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Runs `case` on the input of every block of every file in `tests/golden/<folder>`. Lines that
/// begin with `#` are comments, kept in the file and not passed on.
pub(crate) fn run(folder: &str, case: impl Fn(&str) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no golden files in {}", folder.display());
    let failed: Vec<_> = paths.iter().filter_map(|path| run_file(path, &case)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn run_file(path: &Path, case: impl Fn(&str) -> String) -> Option<String> {
    let (text, mut out) = (fs::read_to_string(path).unwrap(), String::new());
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        run_block(block.trim_matches('\n'), &case, &mut out);
    }
    let out = format!("{}\n", out.trim_end());
    if out == text {
        return None;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, out).unwrap();
        return None;
    }
    Some(format!("{} differs:\n{}", path.display(), differences(&text, &out)))
}

fn run_block(block: &str, case: impl Fn(&str) -> String, out: &mut String) {
    let input = block.split("\n---").next().unwrap_or_default();
    let lines: Vec<_> = input.lines().filter(|line| !line.starts_with('#')).collect();
    writeln!(out, "{input}").unwrap();
    if !lines.is_empty() {
        writeln!(out, "---\n{}", case(&lines.join("\n")).trim_end()).unwrap();
    }
    out.push('\n');
}

fn differences(expected: &str, got: &str) -> String {
    let mut out = String::new();
    let blocks = expected.split("\n\n").zip(got.split("\n\n"));
    for (expected, got) in blocks.filter(|(expected, got)| expected.trim() != got.trim()) {
        writeln!(out, "expected:\n{expected}\ngot:\n{got}\n").unwrap();
    }
    out
}
