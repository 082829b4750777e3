//! podman and buildah, with a storage of their own.

use std::path::Path;
use std::process::Command;

/// Returns a command of podman whose storage is in `directory`.
pub(crate) fn podman(directory: &Path) -> Command {
    let mut command = with_storage("podman", directory);
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
    command
}

/// Returns a command of buildah whose storage is in `directory`.
pub(crate) fn buildah(directory: &Path) -> Command {
    with_storage("buildah", directory)
}

fn with_storage(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--storage-driver", "vfs", "--root"]);
    command.arg(directory.join(program)).arg("--runroot");
    command.arg(directory.join(format!("{program}-run")));
    command
}
