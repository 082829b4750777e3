//! The options of the commands that contact a registry.

use std::path::PathBuf;
use std::time::Duration;

use cas::distribution::{Hosts, Mirrors, Options, Timeouts};
use cas::image::FullName;
use cas::{RemoteSettings, Result};
use clap::Args;

use super::Context;

#[derive(Args)]
pub(crate) struct Connection {
    /// Use plain HTTP, unless hosts.toml or registries.conf sets the scheme [default: HTTPS, or
    /// plain HTTP if cas.toml sets plain-http, or if the registry is on this machine and does not
    /// require TLS]
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Look for the login in this file before any other file [default: the file in cas.toml, or
    /// $REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Allow the registry to refer to addresses on this machine and in private networks (in
    /// redirects, token services and upload locations), even if the registry itself is elsewhere
    #[arg(long)]
    pub(crate) private_addresses: bool,
    /// Repeat a request that failed for a temporary reason, for up to this time; with 0s, requests
    /// are not repeated [default: the time in cas.toml, or 60s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_for: Option<Duration>,
    /// Replace a connection that transfers fewer bytes per second than this [default: the speed in
    /// cas.toml, or 1KiB]
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size)]
    min_speed: Option<u64>,
    /// Read mirrors and blocked names from this file [default: the file in cas.toml,
    /// $CONTAINERS_REGISTRIES_CONF, or podman's]
    #[arg(long, value_name = "FILE")]
    registries_conf: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
}

/// Which certificates of registries are trusted.
#[derive(Args)]
pub(crate) struct Trust {
    /// Read hosts.toml and certificates only from DIR: for each registry from DIR/HOST[:PORT]; if
    /// this subdirectory is absent, read hosts.toml from DIR/_default
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// Also trust each certificate in this PEM file, whether of an authority or of a registry
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
}

impl Trust {
    /// Returns `hosts` after the options of this command are applied: `--hosts-dir` replaces the
    /// directories of `hosts`, and each `--ca` adds a file. `hosts` names the files that the root
    /// uses.
    pub(crate) fn hosts(&self, mut hosts: Hosts) -> Hosts {
        if let Some(directory) = &self.hosts_dir {
            hosts = hosts.with_directory(directory.clone());
        }
        (self.ca.iter()).fold(hosts, |hosts, file| hosts.with_authority(file.clone()))
    }
}

impl Connection {
    /// Returns a client for the repository of `to`. Reads the settings of the root, but opens no
    /// store.
    pub(crate) async fn connect(&self, context: &Context, to: &FullName) -> Result<Mirrors> {
        let settings = RemoteSettings::read(context.root()?)?;
        let options = Options {
            plain_http: self.plain_http,
            auth_file: self.authfile.clone(),
            private_addresses: self.private_addresses,
            timeouts: self.timeouts(&settings)?,
            ..Options::default()
        };
        let hosts = self.hosts(settings.hosts());
        settings.connect(to, options, &hosts).await
    }

    /// Returns how long failed requests are repeated, and how slow a connection may be.
    ///
    /// # Errors
    /// As [`RemoteSettings::timeouts`].
    pub(crate) fn timeouts(&self, settings: &RemoteSettings) -> Result<Timeouts> {
        let mut timeouts = settings.timeouts()?;
        if let Some(time) = self.retry_for {
            timeouts = timeouts.with_repeat(time);
        }
        if let Some(speed) = self.min_speed {
            timeouts = timeouts.with_min_speed(speed);
        }
        Ok(timeouts)
    }

    /// Returns `hosts` after the options of this command are applied: `--hosts-dir` replaces the
    /// directories of `hosts`, `--registries-conf` replaces the file `registries.conf`, and each
    /// `--ca` adds a file. `hosts` names the files that the root uses.
    pub(crate) fn hosts(&self, hosts: Hosts) -> Hosts {
        let hosts = self.trust.hosts(hosts);
        match &self.registries_conf {
            Some(file) => hosts.with_registries_conf(file.clone()),
            None => hosts,
        }
    }
}
