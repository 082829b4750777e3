//! Registries: a real one, and a fake one that misbehaves.

mod exchange;
mod failed;
pub(crate) mod fake;
mod heals;
mod hostile;
mod login;
mod ranges;
mod resume;
pub(crate) mod sample;
mod signals;
mod trust;

use std::path::Path;
use std::process::Command;

/// Returns a command of the tool on a root. Its only credentials are those in `home`.
fn cas(root: &Path, home: &Path) -> Command {
    let mut command = crate::common::cas(root);
    command.env("DOCKER_CONFIG", home);
    command
}
