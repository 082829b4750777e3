//! This machine's configuration for registries: mirrors, certificates, blocked names, short names
//! and the policy for images.
//!
//! The configuration is read from files of other tools: containerd's `hosts.toml`, podman's
//! `registries.conf`, `short-name-aliases.conf` and `policy.json`, and the certificates in the
//! directories `certs.d` of docker, podman and containerd. Each file has the same meaning as for
//! its own tool. `docs/HOSTS.md` lists the rules.

mod certificates;
mod duration;
mod endpoint;
mod file;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fixtures_hosts_toml;
#[cfg(test)]
mod fixtures_registries_conf;
#[cfg(test)]
mod fixtures_short_names;
mod hosts_toml;
mod policy;
mod prefix;
mod registries_conf;
mod registry_table;
mod short_names;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use cas_core::image::FullName;
use cas_core::{Error, Result};

pub(crate) use certificates::{read as read_certificates, read_key};
pub use endpoint::Endpoint;
pub(crate) use endpoint::{Access, Scheme, Tls, url};

use crate::bounded::found;
use crate::runtime;
use registries_conf::RegistriesConf;
use short_names::ShortNames;

/// The files of this machine that configure registries: their mirrors and certificates, blocked
/// names, short names, and the policy that accepts or rejects images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hosts {
    /// Directories in which a registry may have a directory with `hosts.toml`. The first
    /// `hosts.toml` that is found for a registry determines its endpoints. If none is found,
    /// `registries.conf` determines them.
    pub directories: Vec<PathBuf>,
    /// Directories whose subdirectories have the certificates for hosts. Only the first
    /// subdirectory that exists for a host is used. No subdirectory is used for a host whose URL or
    /// TLS settings are in `hosts.toml`.
    pub certificates: Vec<PathBuf>,
    /// The file `registries.conf`.
    pub registries_conf: Option<PathBuf>,
    /// Directories of drop-ins: files whose names end with `.conf`, which are read after
    /// `registries.conf`. The files of one directory are read in alphabetical order.
    pub drop_ins: Vec<PathBuf>,
    /// The file `short-name-aliases.conf`, in which podman keeps the aliases that its users have
    /// chosen. These aliases come before the aliases of `registries.conf`.
    pub aliases: Option<PathBuf>,
    /// Files with certificates of authorities that are trusted for every registry, in addition to
    /// the authorities that the system trusts.
    pub authorities: Vec<PathBuf>,
    /// The file `policy.json`. If `None`, [`check_policy`](Self::check_policy) accepts every image.
    pub policy: Option<PathBuf>,
    /// The directory that [`with_directory`](Self::with_directory) has set.
    chosen: Option<PathBuf>,
}

impl Hosts {
    /// Returns the paths at which containerd, docker and podman have their files on this machine.
    pub fn of_system() -> Self {
        let environment = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = environment("HOME").map(PathBuf::from);
        let chosen = environment("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
        let cache = match rustix::process::geteuid().is_root() {
            true => Some(PathBuf::from("/var/cache")),
            false => (environment("XDG_CACHE_HOME").map(PathBuf::from))
                .or_else(|| Some(home.as_ref()?.join(".cache"))),
        };
        let mut hosts = Hosts::of(home.as_deref(), chosen);
        hosts.aliases = cache.map(|cache| cache.join("containers/short-name-aliases.conf"));
        hosts
    }

    /// Returns the places for a user. `chosen` is the `registries.conf` that the environment names.
    fn of(home: Option<&Path>, chosen: Option<PathBuf>) -> Self {
        let own = home.map(|home| home.join(".config/containers"));
        let in_own = |name: &str| own.as_ref().map(|own| own.join(name));
        let system = Path::new("/etc/containers");
        let [containerd, docker] =
            ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        let own_conf = in_own("registries.conf").filter(|conf| found(conf).is_some());
        let system_conf = Some(system.join("registries.conf"));
        let system_conf = system_conf.filter(|conf| found(conf).is_some());
        // If the user's own registries.conf is read, that of the system and the drop-ins of the
        // system are not. The user's own one is not read if the environment names another file.
        let is_system = chosen.is_some() || own_conf.is_none();
        let drop_ins = is_system.then(|| system.join("registries.conf.d"));
        let drop_ins = drop_ins.into_iter().chain(in_own("registries.conf.d"));
        let certificates = in_own("certs.d").into_iter();
        let of_others = [system.join("certs.d"), docker.clone(), containerd.clone()];
        Hosts {
            directories: vec![containerd, docker],
            certificates: certificates.chain(of_others).collect(),
            registries_conf: chosen.or(own_conf).or(system_conf),
            drop_ins: drop_ins.collect(),
            aliases: None,
            authorities: Vec::new(),
            policy: policy::of_system(home),
            chosen: None,
        }
    }

    /// Sets [`directories`](Self::directories) and [`certificates`](Self::certificates) to this
    /// directory alone, which must exist when it is read.
    #[must_use]
    pub fn with_directory(mut self, directory: PathBuf) -> Self {
        self.certificates = vec![directory.clone()];
        self.directories = vec![directory.clone()];
        self.chosen = Some(directory);
        self
    }

    /// Sets [`registries_conf`](Self::registries_conf). The file must exist when it is read. As
    /// with podman, drop-ins are still read.
    #[must_use]
    pub fn with_registries_conf(mut self, file: PathBuf) -> Self {
        self.registries_conf = Some(file);
        self
    }

    /// Adds a file to [`authorities`](Self::authorities).
    #[must_use]
    pub fn with_authority(mut self, file: PathBuf) -> Self {
        self.authorities.push(file);
        self
    }

    /// Sets [`policy`](Self::policy). The file must exist when it is read.
    #[must_use]
    pub fn with_policy(mut self, file: PathBuf) -> Self {
        self.policy = Some(file);
        self
    }

    /// Returns the names that a typed name may mean, in the order in which they are tried. A name
    /// without a host is completed by an alias, or by each of the registries to search. If the
    /// files have neither, a name without a host is a name of Docker Hub.
    ///
    /// # Errors
    /// `InvalidArgument` if `typed` is not a valid name, or if a file does not parse, contradicts
    /// itself, or has a value that is invalid or not supported; `FailedPrecondition` if several
    /// registries would be searched, but `short-name-mode` is `enforcing`; `NotFound` if the file
    /// [`registries_conf`](Self::registries_conf) is absent; `OutOfRange` if a file is larger than
    /// [`limit::HOSTS_FILE`](cas_core::limit::HOSTS_FILE), or if a directory of drop-ins has more
    /// than [`limit::HOSTS_FILES`](cas_core::limit::HOSTS_FILES) entries; errors of the file
    /// system. No file is read if `typed` has a host.
    pub async fn expand(&self, typed: &str) -> Result<Vec<FullName>> {
        // A name with a host is not completed. The files are not read, so they may be unreadable.
        if !short_names::without_host(typed) {
            return Ok(vec![typed.parse()?]);
        }
        let (hosts, typed) = (self.clone(), typed.to_owned());
        runtime::blocking(move || hosts.short_names()?.expand(&typed)).await
    }

    /// Checks that the policy accepts an image of this name.
    ///
    /// # Errors
    /// `Denied` if the policy rejects the image; `Unsupported` if the policy requires a signature,
    /// which this version does not verify; `NotFound` if the file `policy.json` is absent;
    /// `InvalidArgument` if the file does not parse, has an unknown key at the top level or in a
    /// requirement for this image, or has an empty list of requirements; `OutOfRange` if the file
    /// is larger than [`limit::HOSTS_FILE`](cas_core::limit::HOSTS_FILE); errors of the file
    /// system.
    pub async fn check_policy(&self, reference: &FullName) -> Result<()> {
        let (policy, reference) = (self.policy.clone(), reference.clone());
        runtime::blocking(move || match policy {
            Some(path) => policy::check(&path, &reference),
            None => Ok(()),
        })
        .await
    }

    /// Returns the endpoints for a name, in the order in which they are tried. The registry itself
    /// is the last one, unless `server` in its `hosts.toml` is the URL of another host.
    ///
    /// # Errors
    /// `Denied` if `registries.conf` blocks the name; `InvalidArgument` if a file does not parse,
    /// contradicts itself, or has a value that is invalid or not supported (the message has the
    /// path of the file, and the line if the line is known), if a key in a directory of
    /// certificates has no certificate, if the path of [`with_directory`](Self::with_directory) is
    /// not a directory, or if one of the [`authorities`](Self::authorities) is absent or has no
    /// certificates that can be read; `NotFound` if the directory of `with_directory` is absent, or
    /// if the registry has no `hosts.toml` and the file [`registries_conf`](Self::registries_conf)
    /// is absent; `OutOfRange` if a file is larger than
    /// [`limit::HOSTS_FILE`](cas_core::limit::HOSTS_FILE), or if a directory has more than
    /// [`limit::HOSTS_FILES`](cas_core::limit::HOSTS_FILES) entries; errors of the file system.
    pub async fn endpoints(&self, reference: &FullName) -> Result<Vec<Endpoint>> {
        let (hosts, reference) = (self.clone(), reference.clone());
        let find = move || {
            hosts.check_chosen()?;
            hosts.find(&reference)
        };
        runtime::blocking(find).await
    }

    /// Checks the directory and the certificates that the user has named, even if they are not
    /// needed to reach the registry.
    ///
    /// # Errors
    /// `NotFound` if the directory is absent; `InvalidArgument` if it is not a directory; as
    /// [`certificates::read`].
    fn check_chosen(&self) -> Result<()> {
        let is_dir = |path: &Path| found(path).is_some_and(|found| found.is_dir());
        if let Some(chosen) = self.chosen.as_ref().filter(|chosen| !is_dir(chosen)) {
            let error = if found(chosen).is_some() {
                Error::invalid(
                    "expected the directory of hosts.toml and certificates, but this is not a \
                     directory; correct the path",
                )
            } else {
                Error::not_found(
                    "the directory of hosts.toml and certificates does not exist; make it, or \
                     correct the path",
                )
            };
            return Err(error.operation("read").subject(chosen.display()));
        }
        let read = |authority: &PathBuf| certificates::read(authority).map(drop);
        self.authorities.iter().try_for_each(read)
    }

    fn find(&self, reference: &FullName) -> Result<Vec<Endpoint>> {
        let mut found = match hosts_toml::find(&self.directories, reference)? {
            Some(endpoints) => endpoints,
            None => self.registries()?.endpoints(reference)?,
        };
        for endpoint in &mut found {
            let host = endpoint.host();
            if !endpoint.names_its_trust {
                certificates::add(&self.certificates, &host, &mut endpoint.access.tls)?;
            }
            let authorities = &mut endpoint.access.tls.authorities;
            authorities.extend(self.authorities.iter().cloned());
        }
        Ok(found)
    }

    fn registries(&self) -> Result<RegistriesConf> {
        registries_conf::load(self.registries_conf.as_deref(), &self.drop_ins)
    }

    fn short_names(&self) -> Result<ShortNames> {
        let mut names = self.registries()?.short_names;
        if let Some(path) = &self.aliases {
            names.choose(path)?;
        }
        Ok(names)
    }

    /// Returns how a registry itself is reached, without `hosts.toml` and `registries.conf`.
    ///
    /// # Errors
    /// As [`Hosts::check_chosen`] and [`certificates::in_directory`].
    pub(crate) async fn access(&self, host: &str) -> Result<Access> {
        let (hosts, host) = (self.clone(), host.to_owned());
        runtime::blocking(move || {
            hosts.check_chosen()?;
            let mut access = Access::default();
            certificates::add(&hosts.certificates, &host, &mut access.tls)?;
            access.tls.authorities.extend(hosts.authorities);
            Ok(access)
        })
        .await
    }
}
