//! Ends the servers when this process ends without having done so, be it by SIGKILL: a shell waits
//! for the end of a pipe that only we hold open.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::error::{Result, at};

/// `$1` is a folder to remove (or empty), the others are data folders. A postmaster's working
/// directory is its data folder, which tells a process that got the number of a dead one. The
/// second round catches a server that was just being started.
const SCRIPT: &str = r#"
trap '' INT HUP TERM
cat >/dev/null
remove=$1; shift
for signal in QUIT QUIT KILL; do
  found=
  for dir in "$@"; do
    pid=$(head -n 1 "$dir/postmaster.pid" 2>/dev/null) || continue
    if [ -d /proc/self ] && [ "$(readlink "/proc/$pid/cwd")" != "$dir" ]; then continue; fi
    kill -$signal "$pid" 2>/dev/null && found=1
  done
  [ -z "$found" ] || sleep 1
done
[ -z "$remove" ] || rm -rf "$remove"
"#;

/// Dropped when all servers were stopped; then it only removes the temporary folder.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    /// Never written to; its end is the signal.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Watches over the servers of these data folders.
    pub(super) fn start(remove: Option<&Path>, data: &[PathBuf]) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "pgsluice-watchdog"]).arg(remove.unwrap_or(Path::new("")));
        command.args(data).process_group(0).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().map_err(at("cannot run", Path::new("/bin/sh")))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}
