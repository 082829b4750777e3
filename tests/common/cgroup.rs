//! A limit on the memory of commands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::append;

/// Where systems with the first version of control groups mount the memory controller.
const FIRST: &str = "/sys/fs/cgroup/memory";
const SECOND: &str = "/sys/fs/cgroup";

/// A control group below that of this process.
pub(crate) struct Cgroup {
    directory: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    /// Returns a group whose memory can be limited. If there can be none, prints why and returns
    /// `None`.
    pub(crate) fn new() -> Option<Self> {
        let made = Self::make();
        if let Err(error) = &made {
            eprintln!("SKIPPED: no control group that limits memory can be made: {error}");
        }
        made.ok()
    }

    fn make() -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let find = |mount: &str, controllers: &str| {
            let path = groups.lines().find_map(|line| {
                let (_, line) = line.split_once(':')?;
                let (found, path) = line.split_once(':')?;
                (found == controllers).then_some(path)
            });
            path.map(|path| Path::new(mount).join(path.trim_start_matches('/')))
        };
        let (parent, limit, swap) = match find(FIRST, "memory") {
            Some(parent) => (parent, "memory.limit_in_bytes", "memory.swappiness"),
            None => {
                let parent = find(SECOND, "").ok_or(io::ErrorKind::NotFound)?;
                (parent, "memory.max", "memory.swap.max")
            }
        };
        let directory = parent.join(cas::backend::unique::key("cas-test"));
        fs::create_dir(&directory)?;
        let group = Cgroup { directory, limit };
        group.allow(1 << 30)?;
        fs::write(group.directory.join(swap), "0")?;
        Ok(group)
    }

    fn allow(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.directory.join(self.limit), bytes.to_string())
    }

    /// Returns `command` with at most `mib` MiB of memory.
    pub(crate) fn limited(&self, mib: u64, command: &Command) -> Command {
        self.allow(mib << 20).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\"; exec \"$@\""]);
        shell.arg(self.directory.join("cgroup.procs"));
        append(&mut shell, command);
        shell
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel may still have pages of ended processes to count.
        let _ = fs::remove_dir(&self.directory);
    }
}
