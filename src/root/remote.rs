//! The tables of `cas.toml` that set how registries are reached, and which images are accepted.
//!
//! ```toml
//! [remote]
//! hosts-dir = "/etc/cas/hosts"
//! ca = ["/etc/cas/ca.pem"]
//! retry-for = 300
//! min-speed = "100KiB"
//! ranges = 4
//!
//! [policy]
//! allow = ["registry.example", "docker.io/library/*"]
//! deny = ["registry.example/team/old:*"]
//! verifiers = "/opt/containerd/image-verifier/bin"
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The table `[remote]` of `cas.toml`: defaults for options of the commands that contact
/// registries, such as `cas pull`. A relative path is relative to the directory of `cas.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct RemoteTable {
    /// The default of `--hosts-dir`: the directory with `hosts.toml` or certificates of registries.
    /// If `hosts_dir` is set, the directories of this machine, such as `/etc/containerd/certs.d`,
    /// are not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts_dir: Option<PathBuf>,
    /// The default of `--registries-conf`: the file `registries.conf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries_conf: Option<PathBuf>,
    /// The default of `--policy-file`: the file `policy.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<PathBuf>,
    /// Files of certificates that are trusted in addition to the authorities of this machine and to
    /// the files of `--ca`. A file contains certificates of authorities, or a registry's own
    /// certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca: Vec<PathBuf>,
    /// The default of `--authfile`: the file of logins that is read first, and into which logins
    /// are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_file: Option<PathBuf>,
    /// The default of `--retry-for`: the number of seconds for which a request that failed for a
    /// temporary reason is repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_for: Option<u64>,
    /// The default of `--min-speed`: the minimum number of bytes that a connection must transfer
    /// per second, as a size such as `1KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_speed: Option<String>,
    /// The default of `--ranges`: the maximum number of ranges of a large layer that are fetched at
    /// the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<u64>,
}

/// The table `[policy]` of `cas.toml`: which images a pull accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct PolicyTable {
    /// Rules for the images that are accepted. A rule is a registry, a pattern of names, as in
    /// `docker.io/library/*`, or a digest. If there are no rules here, all images are accepted,
    /// except the images for which `deny` has a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Rules for images that are not accepted, even if a rule of `allow` accepts them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// The default of `--cosign-key`: the file of a public key. An image is accepted only if this
    /// key verifies a cosign signature of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosign_key: Option<PathBuf>,
    /// A directory of programs that verify images. They have the interface of containerd's image
    /// verifiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verifiers: Option<PathBuf>,
    /// Maximum number of programs that are run for an image, in the order of their names. By
    /// default, 10. If the number is below zero, all programs are run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_verifiers: Option<i64>,
    /// Maximum time for each program in seconds, by default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verifier_timeout: Option<u64>,
}
