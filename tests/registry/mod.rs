//! Registries: a real one, and a fake one that misbehaves.

mod exchange;
mod failed;
pub(crate) mod fake;
mod heals;
mod helpers;
mod hostile;
mod hub;
mod log_in;
mod login;
mod logins;
mod ranges;
mod resume;
pub(crate) mod sample;
mod signals;
mod tokens;
mod trust;

use std::path::Path;
use std::process::Command;

/// Returns a command of the tool on a root. Its only credentials are those in `home`, which is also
/// the directory of docker's configuration.
fn cas(root: &Path, home: &Path) -> Command {
    let mut command = crate::common::cas(root);
    command.envs([
        ("HOME", home),
        ("DOCKER_CONFIG", home),
        ("XDG_RUNTIME_DIR", home),
        ("XDG_CONFIG_HOME", home),
    ]);
    command.env_remove("REGISTRY_AUTH_FILE");
    command
}
