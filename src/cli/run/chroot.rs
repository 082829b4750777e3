//! A runtime for machines without one: the bundle's process in a chroot, and nothing around it.
//!
//! It is a process of its own, which becomes the program: there is no other way to change root
//! and user for that program alone.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cas::bundle::{self, Rootfs};
use cas::{Context, Result};
use clap::Args;
use rustix::fs::{Gid, Uid};
use rustix::thread;

/// Its name among the commands of the tool.
pub(super) const COMMAND: &str = "run-in-chroot";

/// Become the process of a bundle, in a chroot
#[derive(Args)]
pub(crate) struct RunInChroot {
    bundle: PathBuf,
}

impl RunInChroot {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let process = bundle::process(&self.bundle)?;
        let rootfs = Rootfs::open(&self.bundle.join("rootfs"))?;
        enter(&rootfs, &process).during("enter", self.bundle.display())?;
        let (program, arguments) = process.args.split_first().unwrap_or((&process.cwd, &[]));
        let variables = process.env.iter().filter_map(|one| one.split_once('='));
        let error = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables)
            .exec();
        eprintln!("cas: run {program:?}: {error}");
        Ok(ExitCode::from(match error.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        }))
    }
}

/// Changes root, directory and user of this process, in the order that leaves no way back.
fn enter(rootfs: &Rootfs, process: &bundle::Process) -> io::Result<()> {
    rustix::process::fchdir(rootfs)?;
    rustix::process::chroot(".")?;
    std::fs::create_dir_all(Path::new(&process.cwd))?;
    let user = &process.user;
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    thread::set_no_new_privs(true)?;
    rustix::process::chdir(&*process.cwd)?;
    Ok(())
}
