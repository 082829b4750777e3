//! `cas unshare`: runs a program in a user namespace. There, the program may mount, and may give
//! files to the owners that they have in an image.
//!
//! The program replaces this process. An unprivileged process can map only one id into its own new
//! namespace. So if the user has further ids, a child process outside the namespace maps all ids
//! before the program starts. The superuser gets no user namespace.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use cas::bundle::{IdRange, UserIds};
use cas::{Context as _, Error, Progress, Result};
use clap::Args;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

use super::message::tell;
use super::{Context, idmap, subids};

/// Name of the hidden command that maps ids.
const COMMAND: &str = "map-ids";

/// The maps of a user namespace: user ids, and group ids.
const MAPS: [&str; 2] = ["/proc/self/uid_map", "/proc/self/gid_map"];

/// Run a program in a user namespace, where it may mount images and set the owners of files
#[derive(Args)]
#[command(after_help = "Example:
  cas unshare
  cas unshare -- sh -c 'cas mount app:1 mnt && ls mnt && cas umount mnt'

The program gets a user namespace, in which you are the superuser, and a mount namespace. Mounts
that the program makes are not visible elsewhere, and end with the program. To use other ids than
your own, you need ranges of ids in /etc/subuid and /etc/subgid, and the programs newuidmap and
newgidmap (package uidmap). Without these, the namespace has only your own id.
If the superuser runs this command, the program gets only the mount namespace.

Unmount with `cas umount` before you leave. Otherwise, the snapshot and the files written to it stay
until you run `cas umount` in another `cas unshare`.

Files that belong to other ids than your own can be changed and removed only in `cas unshare`, so
run `cas gc` there, too.

Exit codes: that of the program; 126 if the program cannot be executed; 127 if the program is not
found. If cas fails before it starts the program, the exit code is one that `cas --help` lists.")]
pub(crate) struct Unshare {
    /// Program and its arguments [default: $SHELL, otherwise sh]
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

/// Map the ids of a user namespace after reading a byte from standard input (started by `cas
/// unshare`)
#[derive(Args)]
pub(crate) struct MapIds {
    /// Id of the process whose namespace is mapped
    process: u32,
    /// Program that maps user ids
    #[arg(long)]
    user_mapper: PathBuf,
    /// Program that maps group ids
    #[arg(long)]
    group_mapper: PathBuf,
    /// Ranges of user ids
    #[arg(long)]
    users: Vec<IdRange>,
    /// Ranges of group ids
    #[arg(long)]
    groups: Vec<IdRange>,
}

impl Unshare {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode> {
        let root = std::path::absolute(context.root()?)?;
        if rustix::process::geteuid().is_root() {
            private_mounts().during("unshare", "mounts")?;
        } else {
            enter(&subids::of_this_user(), &*context.progress)?;
        }
        let mut command = self.command;
        if command.is_empty() {
            command.push(std::env::var_os("SHELL").unwrap_or_else(|| "sh".into()));
        }
        // The superuser of the namespace would have another default root.
        let error = Command::new(&command[0])
            .args(&command[1..])
            .env("CAS_ROOT", root)
            .exec();
        tell(format_args!("cas: run {:?}: {error}", command[0]));
        Ok(ExitCode::from(match error.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        }))
    }
}

/// Moves this process into a new mount namespace. Later mounts outside the namespace also appear in
/// it. Mounts that this process makes do not appear outside.
fn private_mounts() -> io::Result<()> {
    idmap::unshare(UnshareFlags::NEWNS)?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

/// Enters a new user namespace and a new mount namespace, with these ids. If the further ids cannot
/// be mapped, warns, and maps only the user's own id.
///
/// # Errors
/// `Unsupported` if the namespaces cannot be created; errors of the system.
pub(super) fn enter(ids: &UserIds, progress: &dyn Progress) -> Result<()> {
    let programs = subids::mappers().filter(|_| ids.has_more());
    let mapper = programs.map(|programs| start_mapper(ids, &programs));
    let mapper = mapper.transpose()?;
    let unshared = idmap::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
    unshared.map_err(|error| {
        Error::unsupported(format!(
            "a user namespace cannot be created here ({error}); ask the administrator to allow \
             user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
        ))
        .operation("unshare")
    })?;
    if let Some(mut mapper) = mapper {
        // If the mapper has failed, the maps are empty.
        if let Some(mut ready) = mapper.stdin.take() {
            let _ = ready.write_all(b".");
        }
        mapper.wait().during("wait for", COMMAND)?;
    }
    for (map, ids) in MAPS.into_iter().zip([&ids.users, &ids.groups]) {
        let read = fs::read_to_string(map).during("read", map)?;
        if !read.trim().is_empty() {
            continue;
        }
        if !ids.more.is_empty() {
            progress.warn(&format!(
                "{map} maps only your own id, for the reason above"
            ));
        }
        if map == MAPS[1] {
            // The kernel allows a user to map a group only after this.
            fs::write("/proc/self/setgroups", "deny").during("write", "/proc/self/setgroups")?;
        }
        fs::write(map, format!("0 {} 1", ids.own)).during("write", map)?;
    }
    Ok(())
}

/// Starts the process that maps these ids for this process.
fn start_mapper(ids: &UserIds, [users, groups]: &[PathBuf; 2]) -> Result<Child> {
    let mut mapper = Command::new("/proc/self/exe");
    mapper.arg(COMMAND).arg(std::process::id().to_string());
    mapper.arg("--user-mapper").arg(users);
    mapper.arg("--group-mapper").arg(groups);
    for (option, ids) in [("--users", &ids.users), ("--groups", &ids.groups)] {
        for range in ids.map() {
            mapper.args([option, &range.to_string()]);
        }
    }
    let started = mapper.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    started.during("start", COMMAND)
}

impl MapIds {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut ready = [0];
        // If standard input ends without a byte, the namespace was not made.
        if std::io::stdin().read(&mut ready)? == 0 {
            return Ok(ExitCode::FAILURE);
        }
        let process = self.process.to_string();
        let maps = [
            (self.user_mapper, self.users),
            (self.group_mapper, self.groups),
        ];
        for (program, ranges) in maps {
            let numbers = |range: &IdRange| [range.inside, range.outside, range.count];
            let numbers = ranges.iter().flat_map(numbers);
            let mut mapper = Command::new(&program);
            mapper.arg(&process);
            mapper.args(numbers.map(|number| number.to_string()));
            // A program that fails prints its errors, and leaves the map empty.
            if let Err(error) = mapper.status() {
                tell(format_args!("cas: run {program:?}: {error}"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
