//! Golden files whose folder has a header per file: plans and refusals.
//!
//! ```text
//! header lines
//!
//! # a remark
//! > input
//! > more input
//! ---
//! output
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// An input and what was expected of it.
#[derive(Default)]
struct Case {
    /// Remarks and empty lines before it.
    before: String,
    input: String,
    output: String,
}

/// Runs all files of `tests/golden/<folder>`: `answer` gets a file's header and an input.
pub(crate) fn run(folder: &str, answer: impl Fn(&str, &str) -> String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    let mut failures = String::new();
    for path in paths {
        let old = fs::read_to_string(&path).unwrap();
        let new = rewrite(&old, &answer, &path, &mut failures);
        if env::var_os("UPDATE_GOLDEN").is_some() && old != new {
            fs::write(&path, new).unwrap();
        }
    }
    if env::var_os("UPDATE_GOLDEN").is_none() {
        assert!(failures.is_empty(), "{failures}");
    }
}

fn rewrite(
    old: &str,
    answer: impl Fn(&str, &str) -> String,
    path: &Path,
    failures: &mut String,
) -> String {
    let (header, cases) = read(old);
    let mut new = header.clone();
    for case in cases {
        let output = answer(&header, &case.input);
        if output.trim_end() != case.output.trim_end() {
            writeln!(
                failures,
                "{}\n{}\n--- expected\n{}\n--- found\n{output}\n",
                path.display(),
                case.input,
                case.output.trim_end(),
            )
            .unwrap();
        }
        new.push_str(&case.before);
        for line in case.input.lines() {
            writeln!(new, "> {line}").unwrap();
        }
        writeln!(new, "---\n{}\n", output.trim_end()).unwrap();
    }
    format!("{}\n", new.trim_end())
}

/// The header, and the cases.
fn read(text: &str) -> (String, Vec<Case>) {
    let (mut header, mut cases) = (String::new(), Vec::<Case>::new());
    let (mut before, mut in_output) = (String::new(), false);
    for line in text.lines() {
        if let Some(input) = line.strip_prefix("> ").or_else(|| (line == ">").then_some("")) {
            if in_output || cases.is_empty() || !before.is_empty() {
                cases.push(Case { before: std::mem::take(&mut before), ..Case::default() });
                in_output = false;
            }
            let case = cases.last_mut().unwrap();
            if !case.input.is_empty() {
                case.input.push('\n');
            }
            case.input.push_str(input);
        } else if line == "---" && !in_output {
            in_output = true;
        } else if line.starts_with('#') || (line.is_empty() && !cases.is_empty()) {
            if !line.is_empty() {
                writeln!(before, "{line}").unwrap();
            }
        } else if let Some(case) = cases.last_mut() {
            writeln!(case.output, "{line}").unwrap();
        } else {
            writeln!(header, "{line}").unwrap();
        }
    }
    (header, cases)
}
