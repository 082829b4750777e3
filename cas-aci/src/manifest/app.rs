//! How an image is run.

use cas_core::error::excerpt;
use cas_core::nulls::null_is_default;
use cas_core::{Error, Result};
use serde::{Deserialize, Deserializer};

use super::identifier::check_name;
use super::{Label, check_count, check_path};

/// The section `app` of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct App {
    /// The program and its arguments.
    #[serde(default, deserialize_with = "null_is_default")]
    pub exec: Vec<String>,
    /// The user: a name, an id, or the path of a file. A path means the owner of the file.
    pub user: String,
    /// The group: a name, an id, or the path of a file. A path means the group of the file.
    pub group: String,
    /// Further group ids.
    #[serde(
        rename = "supplementaryGIDs",
        default,
        deserialize_with = "null_is_default"
    )]
    pub supplementary_gids: Vec<u32>,
    /// Programs that run before and after the main program.
    #[serde(default, deserialize_with = "null_is_default")]
    pub event_handlers: Vec<EventHandler>,
    /// The directory that the program starts in. If this is empty, the program starts in `/`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub working_directory: String,
    /// Environment variables.
    #[serde(default, deserialize_with = "null_is_default")]
    pub environment: Vec<Label>,
    /// The paths where volumes are mounted.
    #[serde(default, deserialize_with = "null_is_default")]
    pub mount_points: Vec<MountPoint>,
    /// Ports that the program listens on.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<Port>,
}

/// A program that runs before or after the main program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct EventHandler {
    /// `pre-start` or `post-stop`. Other names are accepted, too.
    pub name: String,
    /// The program and its arguments.
    #[serde(default, deserialize_with = "null_is_default")]
    pub exec: Vec<String>,
}

/// A path where a volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct MountPoint {
    /// The name of the mount point.
    pub name: String,
    /// The absolute path in the image.
    pub path: String,
    /// Whether the program only reads the volume.
    #[serde(default, deserialize_with = "null_is_default")]
    pub read_only: bool,
}

/// A port, or several consecutive ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(expecting = "an object")]
#[non_exhaustive]
pub struct Port {
    /// The name of the port.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The number of the first port, at least 1.
    pub port: u16,
    /// The number of ports. If the manifest does not state a number, or states 0, this is 1.
    #[serde(default = "one", deserialize_with = "one_if_zero")]
    pub count: u16,
}

fn one() -> u16 {
    1
}

fn one_if_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let count = Option::<u16>::deserialize(deserializer)?;
    Ok(count.unwrap_or_default().max(1))
}

impl App {
    pub(super) fn check(&self) -> Result<()> {
        check_count("arguments", self.exec.len())?;
        check_count("variables", self.environment.len())?;
        check_count("mount points", self.mount_points.len())?;
        check_count("ports", self.ports.len())?;
        check_count("event handlers", self.event_handlers.len())?;
        for handler in &self.event_handlers {
            check_count("arguments of an event handler", handler.exec.len())?;
        }
        check_count("groups", self.supplementary_gids.len())?;
        if self.user.is_empty() || self.group.is_empty() {
            return Err(Error::invalid(
                "expected a user and a group for the app, found an empty user or group",
            ));
        }
        if !self.working_directory.is_empty() {
            check_path(&self.working_directory)?;
        }
        for variable in &self.environment {
            if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
                let name = excerpt(&variable.name);
                return Err(Error::invalid(format!(
                    "expected a variable name that is not empty and has no = or NUL, found \"{name}\""
                )));
            }
        }
        for point in &self.mount_points {
            check_name(&point.name)?;
            check_path(&point.path)?;
        }
        for port in &self.ports {
            port.check()?;
        }
        Ok(())
    }
}

impl Port {
    fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let last = u32::from(self.port) + u32::from(self.count) - 1;
        if self.port == 0 || last > u32::from(u16::MAX) {
            return Err(Error::invalid(format!(
                "expected ports from 1 to 65535, found {} to {last}",
                self.port
            )));
        }
        if self.protocol != "tcp" && self.protocol != "udp" {
            let found = excerpt(&self.protocol);
            return Err(Error::invalid(format!(
                "expected tcp or udp as the protocol of a port, found \"{found}\""
            )));
        }
        Ok(())
    }
}
