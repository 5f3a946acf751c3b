//! The first data folder, and copies of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::binaries::{Binaries, run};
use super::error::{PlaygroundError, Result, at};

/// Run by `postgres --single`, one statement a line.
const SETUP: &str = "CREATE ROLE app LOGIN PASSWORD 'app';\nCREATE DATABASE app OWNER app;\n";

/// The name of the settings file that every server's postgresql.conf includes.
pub(super) const SETTINGS: &str = "pgsluice.conf";

/// A data folder with the superuser `postgres`, the user `app` (password `app`) and its database,
/// stopped cleanly. Is made under another name first, so that what is there is whole.
pub(super) fn make(binaries: &Binaries, dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(at("cannot create", parent))?;
    let draft = tempfile::Builder::new().prefix(".template-").tempdir_in(parent);
    let draft = draft.map_err(at("cannot create a folder in", parent))?;
    make_draft(binaries, draft.path())?;
    let draft = draft.keep();
    // Another process may have made the same one meanwhile.
    let renamed = fs::rename(&draft, dir);
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    if dir.is_dir() { Ok(()) } else { renamed.map_err(at("cannot create", dir)) }
}

fn make_draft(binaries: &Binaries, draft: &Path) -> Result<()> {
    binaries.own(draft)?;
    // Not every system has C.UTF-8.
    initdb(binaries, draft, "C.UTF-8").or_else(|_| initdb(binaries, draft, "C"))?;
    let conf = draft.join("postgresql.conf");
    let mut file =
        fs::OpenOptions::new().append(true).open(&conf).map_err(at("cannot open", &conf))?;
    writeln!(file, "\ninclude_if_exists = '{SETTINGS}'").map_err(at("cannot write", &conf))?;
    single(binaries, draft)
}

fn initdb(binaries: &Binaries, dir: &Path, ctype: &str) -> Result<()> {
    let mut command = binaries.command("initdb");
    command.arg("--pgdata").arg(dir).args(["--username=postgres", "--auth=trust"]);
    command.args(["--encoding=UTF8", "--locale=C", &format!("--lc-ctype={ctype}")]);
    run(command.args(["--no-sync", "--no-instructions"])).map(drop)
}

fn single(binaries: &Binaries, dir: &Path) -> Result<()> {
    let mut command = binaries.command("postgres");
    command.args(["--single", "-c", "password_encryption=scram-sha-256", "-c", "fsync=off", "-D"]);
    command.arg(dir).arg("postgres");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(at("cannot run postgres on", dir))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(SETUP.as_bytes()).map_err(at("cannot write to postgres on", dir))?;
    }
    let output = child.wait_with_output().map_err(at("cannot run postgres on", dir))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() && !said.contains("ERROR") {
        true => Ok(()),
        false => {
            Err(PlaygroundError::Program { program: "postgres --single".into(), output: said })
        }
    }
}

/// Copies a stopped data folder, owners and modes too.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}

/// Writes a file that the servers may read.
pub(super) fn write(binaries: &Binaries, path: PathBuf, text: &str) -> Result<()> {
    fs::write(&path, text).map_err(at("cannot write", &path))?;
    binaries.own(&path)
}
