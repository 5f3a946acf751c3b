//! Finds the programs of a Postgres installation.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::Account;
use super::error::{PlaygroundError, Result, at};

/// A folder with `initdb` and `postgres`, and the user to run them as.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    pub(super) account: Option<Account>,
}

impl Binaries {
    /// Looks in `PG_BIN`, in `PATH` and in `/usr/lib/postgresql/*/bin`, newest first.
    ///
    /// # Errors
    /// What to install, if there is none; that there is no unprivileged user, for root.
    pub fn find() -> Result<Self> {
        let dir = match env::var_os("PG_BIN").map(PathBuf::from) {
            Some(dir) => in_dir(&dir).ok_or(PlaygroundError::WrongPgBin(dir))?,
            None => in_path().or_else(in_lib).ok_or(PlaygroundError::NoPostgres)?,
        };
        Ok(Self { dir, account: Account::for_servers()? })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs as the unprivileged user, in a process group of its own so that a
    /// Ctrl-C at the terminal is left to us.
    pub(super) fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.dir.join(program));
        command.process_group(0).current_dir("/");
        command.env_remove("PGDATA").env_remove("PGOPTIONS").env("LC_ALL", "C");
        if let Some(account) = &self.account {
            account.assume(&mut command);
        }
        command
    }

    /// What `postgres --version` says.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        run(self.command("postgres").arg("--version")).map(|text| text.trim().to_owned())
    }

    /// Gives a file or folder to the user the servers run as.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .map_err(at("cannot give away", path))
    }
}

/// Runs to the end and returns the output; a failure carries what was printed.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(at("cannot run", Path::new(&program)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(PlaygroundError::Program {
            program,
            output: format!("{}{}", text(&output.stdout), text(&output.stderr)),
        }),
    }
}

/// The folder behind the links, so that programs find their siblings.
fn in_dir(dir: &Path) -> Option<PathBuf> {
    let initdb = dir.join("initdb").canonicalize().ok()?;
    let real = initdb.parent()?;
    [real, dir].into_iter().find(|it| it.join("postgres").is_file()).map(Path::to_owned)
}

fn in_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).find_map(|dir| in_dir(&dir))
}

fn in_lib() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|it| it.ok());
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
    versions.iter().find_map(|version| in_dir(&version.join("bin")))
}
