//! Registries: the one of the field, and one of ours that behaves badly.

mod docker;
mod exchange;
mod fake;
mod hostile;
mod login;
mod ranges;
mod resume;
mod sample;
mod trust;

use std::path::Path;
use std::process::Command;

/// The tool on a root, with credentials of nobody but in `home`.
fn cas(root: &Path, home: &Path) -> Command {
    let mut command = crate::common::cas(root);
    command.env("DOCKER_CONFIG", home);
    command
}
