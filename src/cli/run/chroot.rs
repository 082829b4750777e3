//! A runtime for machines without runc and crun, and for `--runtime chroot`: runs the bundle's
//! process in a chroot, without isolation.
//!
//! All threads of a process share one root directory, so this tool does not change its own. A child
//! process changes its root directory and its user, and then executes the program.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cas::bundle::{self, Rootfs};
use cas::{Context as _, Error, Result};
use cas_core::error::excerpt;
use clap::Args;
use rustix::fs::{Gid, Uid};
use rustix::thread;

use super::super::message::tell;
use super::super::{Context, subids, unshare};
use super::{devices, is_rootless};

/// Name of the hidden command.
pub(super) const COMMAND: &str = "run-in-chroot";

/// Become the process of a bundle, in a chroot (started by `cas run`)
#[derive(Args)]
pub(crate) struct RunInChroot {
    bundle: PathBuf,
}

impl RunInChroot {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode> {
        let process = bundle::process(&self.bundle)?;
        let rootless = is_rootless();
        if rootless {
            unshare::enter(&subids::of_this_user(), &*context.progress)?;
        }
        // Without privileges, the root file system is opened in the namespace. Outside, this user
        // may have no right to open it, because the image may give it to another user.
        let rootfs = Rootfs::open(&self.bundle.join("rootfs"))?;
        if rootless {
            devices::mount_all(&rootfs).during("mount in", self.bundle.display())?;
        }
        enter(&rootfs, &process).during("enter", self.bundle.display())?;
        let Some((program, arguments)) = process.args.split_first() else {
            let why = "the bundle names no program; add it to process.args of its config.json";
            return Err(Error::invalid(why).subject(self.bundle.display()));
        };
        let variables = process.env.iter().filter_map(|one| one.split_once('='));
        let error = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables)
            .exec();
        tell(format_args!("cas: run \"{}\": {error}", excerpt(program)));
        Ok(ExitCode::from(match error.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        }))
    }
}

/// Changes the root, groups, user and working directory of this process, which cannot regain its
/// privileges afterwards. Makes the working directory if it is absent. Groups and user change only
/// for the calling thread, which then executes the program. If the kernel does not allow setting
/// additional groups, the process keeps those that it has.
fn enter(rootfs: &Rootfs, process: &bundle::Process) -> io::Result<()> {
    let may_set_groups = cas_host::may_set_groups();
    rustix::process::fchdir(rootfs)?;
    rustix::process::chroot(".")?;
    std::fs::create_dir_all(Path::new(&process.cwd))?;
    let user = &process.user;
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    if may_set_groups {
        thread::set_thread_groups(&groups)?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    thread::set_no_new_privs(true)?;
    rustix::process::chdir(&*process.cwd)?;
    Ok(())
}
