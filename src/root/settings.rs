//! The settings in `cas.toml` that clients of registries need.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cas_core::image::FullName;
use cas_core::transfer::PullLimits;
use cas_core::{Error, Result, parse_size};
use cas_distribution::{Host, Hosts, Mirrors, Options, Rules, Timeouts, Verifier, VerifierDir};

use super::engines::Engines;
use super::{file, registries};

/// The settings of registries in the `cas.toml` of a root.
#[derive(Clone, Debug, Default)]
pub struct RemoteSettings {
    /// The directory of the root.
    root: PathBuf,
    engines: Engines,
}

impl RemoteSettings {
    /// Reads the settings of the root `root`. Returns empty settings if the root does not exist.
    ///
    /// # Errors
    /// `Corrupt` if `cas.toml` does not parse; `FailedPrecondition` if this version does not read
    /// the format of `cas.toml`; `InvalidArgument` if `speed` in its table `[lazy]` is wrong;
    /// errors of the file system.
    pub fn read(root: impl AsRef<Path>) -> Result<Self> {
        let path = root.as_ref();
        match file::read(path)? {
            Some(text) => Ok(Self::of(path, file::parse(&text, path)?)),
            None => Ok(Self::default()),
        }
    }

    pub(super) fn of(root: &Path, engines: Engines) -> Self {
        let root = root.to_owned();
        RemoteSettings { root, engines }
    }

    /// Returns the hosts of token services that `cas.toml` allows to receive the login for
    /// `registry`, which is `HOST[:PORT]`.
    ///
    /// # Errors
    /// `InvalidArgument` if the name of any table in `[registries]`, or a value of `token-hosts` in
    /// any of these tables, is not a host.
    pub fn token_hosts(&self, registry: &str) -> Result<Vec<Host>> {
        registries::token_hosts(&self.engines.registries, registry, &self.file())
    }

    /// Returns whether `cas.toml` states that the registry at `registry`, which is `HOST[:PORT]`,
    /// is reached over http.
    pub fn plain_http(&self, registry: &str) -> bool {
        let table = registries::of_host(&self.engines.registries, registry);
        table.is_some_and(|table| table.plain_http)
    }

    /// Returns whether `cas.toml` states that the registry at `registry`, which is `HOST[:PORT]`,
    /// may refer to addresses on this machine and in private networks.
    pub fn private_addresses(&self, registry: &str) -> bool {
        let table = registries::of_host(&self.engines.registries, registry);
        table.is_some_and(|table| table.private_addresses)
    }

    /// Returns the files that state the mirrors of registries, the trusted certificates and the
    /// policy for images. For each file that the table `[remote]` does not name, returns the file
    /// that [`Hosts::of_system`] names.
    pub fn hosts(&self) -> Hosts {
        let remote = &self.engines.remote;
        let mut hosts = Hosts::of_system();
        if let Some(directory) = &remote.hosts_dir {
            hosts = hosts.with_directory(self.root.join(directory));
        }
        if let Some(file) = &remote.registries_conf {
            hosts = hosts.with_registries_conf(self.root.join(file));
        }
        if let Some(file) = &remote.policy_file {
            hosts = hosts.with_policy(self.root.join(file));
        }
        let authorities = remote.ca.iter().map(|file| self.root.join(file));
        authorities.fold(hosts, Hosts::with_authority)
    }

    /// Returns the file of logins that is read first, and into which logins are written, if the
    /// table `[remote]` names one.
    pub fn auth_file(&self) -> Option<PathBuf> {
        let file = self.engines.remote.auth_file.as_ref();
        file.map(|file| self.root.join(file))
    }

    /// Returns the timeouts and the minimum speed of a client: the defaults, except the values that
    /// `retry-for` and `min-speed` of the table `[remote]` set.
    ///
    /// # Errors
    /// `InvalidArgument` if `min-speed` is not a size such as `1KiB`.
    pub fn timeouts(&self) -> Result<Timeouts> {
        let remote = &self.engines.remote;
        let mut timeouts = Timeouts::default();
        if let Some(seconds) = remote.retry_for {
            timeouts = timeouts.with_repeat(Duration::from_secs(seconds));
        }
        if let Some(size) = &remote.min_speed {
            let speed = parse_size(size).map_err(self.at("min-speed", "remote"))?;
            timeouts = timeouts.with_min_speed(speed);
        }
        Ok(timeouts)
    }

    /// Returns the limits of a pull: the defaults, except that `ranges` of the table `[remote]`
    /// sets how many ranges of a layer are fetched at the same time.
    ///
    /// # Errors
    /// `InvalidArgument` for a number of ranges that is not from 1 to [`PullLimits::MAX_RANGES`].
    pub fn limits(&self) -> Result<PullLimits> {
        let limits = PullLimits::default();
        let Some(ranges) = self.engines.remote.ranges else {
            return Ok(limits);
        };
        let allowed = 1..=PullLimits::MAX_RANGES;
        let known = usize::try_from(ranges).ok();
        match known.filter(|ranges| allowed.contains(ranges)) {
            Some(ranges) => Ok(limits.with_per_layer(ranges)),
            None => {
                let most = PullLimits::MAX_RANGES;
                let error = Error::invalid(format!(
                    "expected a number of ranges from 1 to {most}, found {ranges}; correct it"
                ));
                Err(self.at("ranges", "remote")(error))
            }
        }
    }

    /// Returns the file of the public key that must verify a signature of each image, if the table
    /// `[policy]` names one.
    pub fn cosign_key(&self) -> Option<PathBuf> {
        let file = self.engines.policy.cosign_key.as_ref();
        file.map(|file| self.root.join(file))
    }

    /// Returns a client for the registry of `reference` and for the mirrors that the files of
    /// `hosts` name. For each of these hosts, the client uses `options` and the host's settings in
    /// `cas.toml`. The values of `plain_http`, `private_addresses` and `token_hosts` in `options`
    /// apply only to the registry, not to the mirrors. If `options` does not name a file of logins,
    /// the client reads the file that `cas.toml` names.
    ///
    /// # Errors
    /// As [`Hosts::endpoints`] and [`RemoteSettings::token_hosts`].
    pub async fn connect(
        &self,
        reference: &FullName,
        mut options: Options,
        hosts: &Hosts,
    ) -> Result<Mirrors> {
        options.auth_file = options.auth_file.or_else(|| self.auth_file());
        let mut endpoints = Vec::new();
        for endpoint in hosts.endpoints(reference).await? {
            let (host, mut options) = (endpoint.host(), options.clone());
            if host != reference.host() {
                // The caller allows these options for the registry, not for its mirrors.
                options.plain_http = false;
                options.private_addresses = false;
                options.token_hosts.clear();
            }
            options.token_hosts.extend(self.token_hosts(&host)?);
            options.plain_http |= self.plain_http(&host);
            options.private_addresses |= self.private_addresses(&host);
            endpoints.push((endpoint, options));
        }
        Ok(Mirrors::new(endpoints))
    }

    /// Returns the verifiers of the table `[policy]`: its rules, then its programs. The check of
    /// signatures is not among them: see [`RemoteSettings::cosign_key`].
    ///
    /// # Errors
    /// `InvalidArgument` for a rule that does not parse.
    pub fn verifiers(&self) -> Result<Vec<Arc<dyn Verifier>>> {
        let policy = &self.engines.policy;
        let mut rules = Rules::new(format!("[policy] of {}", self.file().display()));
        for rule in &policy.allow {
            rules = rules.allow(rule).map_err(self.at("allow", "policy"))?;
        }
        for rule in &policy.deny {
            rules = rules.deny(rule).map_err(self.at("deny", "policy"))?;
        }
        let mut verifiers: Vec<Arc<dyn Verifier>> = vec![Arc::new(rules)];
        if let Some(directory) = &policy.verifiers {
            let mut programs = VerifierDir::new(self.root.join(directory));
            if let Some(max) = policy.max_verifiers {
                programs = programs.with_max(usize::try_from(max).ok());
            }
            if let Some(seconds) = policy.verifier_timeout {
                programs = programs.with_time(Duration::from_secs(seconds));
            }
            verifiers.push(Arc::new(programs));
        }
        Ok(verifiers)
    }

    /// Returns a function that adds `key` and `table` to an error about their value.
    fn at(&self, key: &str, table: &str) -> impl FnOnce(Error) -> Error + use<> {
        let subject = format!("{key} in [{table}] of {}", self.file().display());
        move |error| error.operation("read").within(subject)
    }

    fn file(&self) -> PathBuf {
        self.root.join(file::NAME)
    }
}
