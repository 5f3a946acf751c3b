//! What a folder holds from an earlier run: `playground.state`, and a lock while it is in use.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::{PlaygroundError, Result, at};

/// How far the sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// Never asked for.
    Absent,
    /// Begun; a run that finds this was cut off.
    Begun,
    Loaded,
}

/// The shape of a playground, fixed when its folder is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) shards: usize,
    pub(super) replicas: usize,
    pub(super) sample: Sample,
}

const WORDS: &[(Sample, &str)] =
    &[(Sample::Absent, "absent"), (Sample::Begun, "begun"), (Sample::Loaded, "loaded")];

impl State {
    /// What an earlier run left; none in a folder without one.
    ///
    /// # Errors
    /// The folder holds something else.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(path(dir)) else {
            let mut entries = fs::read_dir(dir).map_err(at("cannot open", dir))?;
            return match entries.any(|it| it.is_ok_and(|it| it.file_name() != "lock")) {
                true => Err(PlaygroundError::NotEmpty(dir.to_owned())),
                false => Ok(None),
            };
        };
        parse(&text).map(Some).ok_or_else(|| PlaygroundError::NotEmpty(dir.to_owned()))
    }

    /// Keeps it for later runs.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let word = WORDS.iter().find(|(sample, _)| *sample == self.sample).map_or("", |it| it.1);
        let text = format!("shards={}\nreplicas={}\nsample={word}\n", self.shards, self.replicas);
        fs::write(path(dir), text).map_err(at("cannot write", &path(dir)))
    }

    /// Such as `4 shards with 1 replica each`.
    pub(super) fn describe(&self) -> String {
        let s = |count| if count == 1 { "" } else { "s" };
        let replicas = match self.replicas {
            0 => "without replicas".to_owned(),
            1 => "with 1 replica each".to_owned(),
            many => format!("with {many} replicas each"),
        };
        format!("{} shard{} {replicas}", self.shards, s(self.shards))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("playground.state")
}

fn parse(text: &str) -> Option<State> {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let sample = WORDS.iter().find(|(_, word)| value("sample") == Some(word))?.0;
    let (shards, replicas) = (value("shards")?.parse().ok()?, value("replicas")?.parse().ok()?);
    Some(State { shards, replicas, sample })
}

/// Held while a playground uses its folder.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// # Errors
    /// Another process has it.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(at("cannot open", &path))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let mut file = locked.map_err(|_| PlaygroundError::InUse {
            dir: dir.to_owned(),
            pid: fs::read_to_string(&path).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0),
        })?;
        file.set_len(0).map_err(at("cannot write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(at("cannot write", &path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let state = State { shards: 3, replicas: 0, sample: Sample::Begun };
        state.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), Some(state));
        assert_eq!(state.describe(), "3 shards without replicas");
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.doc"), "").unwrap();
        assert!(matches!(State::read(dir.path()), Err(PlaygroundError::NotEmpty(_))));
    }

    #[test]
    fn a_folder_is_used_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let second = Lock::take(dir.path()).err().unwrap().to_string();
        assert!(second.contains(&std::process::id().to_string()), "{second}");
        drop(lock);
        Lock::take(dir.path()).unwrap();
    }
}
