//! Postgres servers refuse to run as root; then they run as an unprivileged user.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::error::{PlaygroundError, Result};

/// The user the servers run as, when we are root.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// None: we are an ordinary user, and so are the servers.
    ///
    /// # Errors
    /// We are root and there is neither `postgres` nor `nobody`.
    pub fn for_servers() -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok()?);
        let user = user.ok_or(PlaygroundError::NoAccount)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Lets a command run as this user.
    pub(super) fn assume(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
        command.env_remove("HOME").env("USER", &self.name);
    }

    /// Whether every folder above lets this user through.
    pub fn can_enter(&self, dir: &Path) -> bool {
        dir.ancestors().skip(1).all(|dir| {
            dir.metadata().is_ok_and(|it| {
                let mode = it.mode();
                mode & 0o001 != 0
                    || (it.uid() == self.uid && mode & 0o100 != 0)
                    || (it.gid() == self.gid && mode & 0o010 != 0)
            })
        })
    }
}
