//! How an image is pulled and pushed.

use std::path::PathBuf;
use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::transfer::{self, PullLimits};
use cas_distribution::{Host, Hosts, Timeouts, Verifier};
#[cfg(feature = "on-demand")]
use cas_layer::unpack::LayerTables;

use super::ParallelPull;

/// When a pull asks the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Only if the store lacks the image, or a part of its content for the pulled platforms.
    /// Otherwise the registry is not asked for the image, even if the tag now refers to another
    /// image in the registry. A required signature is always fetched from the registry.
    Missing,
    /// Always. Only missing content is fetched.
    #[default]
    Always,
    /// Never: the store must have the whole image, and no signature may be required.
    Never,
}

/// Options of [`Cas::pull_with`](super::Cas::pull_with).
#[derive(Clone)]
#[non_exhaustive]
pub struct PullOptions {
    /// The platforms to pull, if the image has several. By default, the platform of this machine.
    pub platforms: Platforms,
    /// When the registry is asked.
    pub policy: Policy,
    /// Whether the image is unpacked while it arrives, into the same snapshots that
    /// [`Cas::snapshot`](super::Cas::snapshot) makes. If all platforms are pulled, only the
    /// platform of this machine is unpacked, after the pull. If the root keeps layers only as tars,
    /// the image is always unpacked, unless it is an artifact, which is stored as in other roots.
    pub unpack: bool,
    /// Whether layers with a table of contents are read on demand instead of fetched: eStargz
    /// layers, zstd:chunked layers, and layers with a SOCI zTOC. The other layers are fetched and
    /// unpacked. This option needs the snapshotter `erofs`. With another snapshotter, the pull
    /// warns and ignores this option. If all platforms are pulled, all layers are fetched. See
    /// [`OnDemand`](crate::OnDemand).
    #[cfg(feature = "on-demand")]
    pub on_demand: bool,
    /// The source of the tables of contents of layers that are read on demand. By default,
    /// [`RegistryTables`](crate::RegistryTables).
    #[cfg(feature = "on-demand")]
    pub tables: Option<Arc<dyn LayerTables>>,
    /// Whether to pull the referrers of each pulled manifest and index, such as signatures and
    /// SBOMs, and the referrers of these referrers. If the policy does not ask the registry for the
    /// image, no referrers are pulled.
    pub referrers: bool,
    /// Whether the registry is reached over http, unless `hosts.toml` or `registries.conf` sets the
    /// scheme. By default, the registry is reached over https, or over http if `cas.toml` sets
    /// `plain-http` for the registry, or if the registry is on this machine and does not require
    /// TLS. The option does not apply to mirrors.
    pub plain_http: bool,
    /// Hosts of token services that may receive the login for the registry, in addition to the
    /// registry's own host, its subdomains, and the hosts that `cas.toml` names.
    pub token_hosts: Vec<Host>,
    /// The files that name mirrors, certificates and the policy. By default the files that
    /// [`Cas::hosts`](super::Cas::hosts) returns.
    pub hosts: Option<Hosts>,
    /// The file of logins that is read first. By default, the file that `cas.toml` names, or else
    /// the file that `$REGISTRY_AUTH_FILE` names, or else podman's `containers/auth.json` in
    /// `$XDG_RUNTIME_DIR`.
    pub auth_file: Option<PathBuf>,
    /// Whether redirects and token services of the registry may lead to this machine and to private
    /// networks. By default, they may lead to this machine only if the registry is on this machine,
    /// and to private networks only if the registry is on this machine or in a private network (see
    /// `docs/ADDRESSES.md`). The setting `private-addresses` of the registry in `cas.toml` has the
    /// same effect as this option.
    pub private_addresses: bool,
    /// How long to wait for the registry, and for how long to repeat failed requests. By default,
    /// the times in `cas.toml`.
    pub timeouts: Option<Timeouts>,
    /// Limits on concurrent requests and on blobs that are fetched concurrently, and the ranges in
    /// which a large layer is fetched: their size, and how many are fetched concurrently. By
    /// default, the limits in `cas.toml`.
    pub limits: Option<PullLimits>,
    /// How images are fetched and unpacked in parallel. By default, the settings of `cas.toml`
    /// decide, with limits that all pulls of one [`Cas`](super::Cas) share. In a parallel pull,
    /// only the ranges of `limits` are used ([`PullLimits::range`] and [`PullLimits::per_layer`]).
    /// If the size of chunks is set ([`PullModes::chunk`](crate::PullModes::chunk)), `limits` has
    /// no effect.
    pub parallel: Option<ParallelPull>,
    /// The file of the public key that must verify a cosign signature of the image. By default, the
    /// file that `cas.toml` names. A key requires the Cargo feature `cosign`.
    pub cosign_key: Option<PathBuf>,
    /// Verifiers that accept or reject the image. They run after the name is resolved, and before
    /// the content is fetched. If the store has the image and the policy does not ask the registry
    /// for it, they run on the stored image. The verifiers that `cas.toml` names run first.
    pub verifiers: Vec<Arc<dyn Verifier>>,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions {
            platforms: Platforms::default(),
            policy: Policy::default(),
            unpack: false,
            #[cfg(feature = "on-demand")]
            on_demand: false,
            #[cfg(feature = "on-demand")]
            tables: None,
            referrers: false,
            plain_http: false,
            token_hosts: Vec::new(),
            hosts: None,
            auth_file: None,
            private_addresses: false,
            timeouts: None,
            limits: None,
            parallel: None,
            cosign_key: None,
            verifiers: Vec::new(),
            progress: Arc::new(Silent),
        }
    }
}

impl PullOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`policy`](Self::policy).
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets [`unpack`](Self::unpack).
    #[must_use]
    pub fn with_unpack(mut self, unpack: bool) -> Self {
        self.unpack = unpack;
        self
    }

    /// Sets [`on_demand`](Self::on_demand).
    #[cfg(feature = "on-demand")]
    #[must_use]
    pub fn with_on_demand(mut self, on_demand: bool) -> Self {
        self.on_demand = on_demand;
        self
    }

    /// Sets [`tables`](Self::tables).
    #[cfg(feature = "on-demand")]
    #[must_use]
    pub fn with_tables(mut self, tables: impl Into<Option<Arc<dyn LayerTables>>>) -> Self {
        self.tables = tables.into();
        self
    }

    /// Sets [`referrers`](Self::referrers).
    #[must_use]
    pub fn with_referrers(mut self, referrers: bool) -> Self {
        self.referrers = referrers;
        self
    }

    /// Sets [`plain_http`](Self::plain_http).
    #[must_use]
    pub fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Sets [`token_hosts`](Self::token_hosts).
    #[must_use]
    pub fn with_token_hosts(mut self, token_hosts: Vec<Host>) -> Self {
        self.token_hosts = token_hosts;
        self
    }

    /// Sets [`hosts`](Self::hosts).
    #[must_use]
    pub fn with_hosts(mut self, hosts: impl Into<Option<Hosts>>) -> Self {
        self.hosts = hosts.into();
        self
    }

    /// Sets [`auth_file`](Self::auth_file).
    #[must_use]
    pub fn with_auth_file(mut self, auth_file: impl Into<Option<PathBuf>>) -> Self {
        self.auth_file = auth_file.into();
        self
    }

    /// Sets [`private_addresses`](Self::private_addresses).
    #[must_use]
    pub fn with_private_addresses(mut self, private_addresses: bool) -> Self {
        self.private_addresses = private_addresses;
        self
    }

    /// Sets [`timeouts`](Self::timeouts).
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: impl Into<Option<Timeouts>>) -> Self {
        self.timeouts = timeouts.into();
        self
    }

    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn with_limits(mut self, limits: impl Into<Option<PullLimits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets [`parallel`](Self::parallel).
    #[must_use]
    pub fn with_parallel(mut self, parallel: impl Into<Option<ParallelPull>>) -> Self {
        self.parallel = parallel.into();
        self
    }

    /// Sets [`cosign_key`](Self::cosign_key).
    #[must_use]
    pub fn with_cosign_key(mut self, cosign_key: impl Into<Option<PathBuf>>) -> Self {
        self.cosign_key = cosign_key.into();
        self
    }

    /// Adds a verifier to [`verifiers`](Self::verifiers).
    #[must_use]
    pub fn with_verifier(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifiers.push(verifier);
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

/// Options of [`Cas::push_with`](super::Cas::push_with).
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// The platforms to push. By default all platforms of the image, or the platform of this
    /// machine if the store does not have all platforms.
    pub platforms: Platforms,
    /// Whether to push the referrers of the image that are in the store, and the referrers of these
    /// referrers.
    pub referrers: bool,
    /// Whether the registry is reached over http; see [`PullOptions::plain_http`].
    pub plain_http: bool,
    /// Hosts of token services; see [`PullOptions::token_hosts`].
    pub token_hosts: Vec<Host>,
    /// The files that name certificates and the hosts to push to; see [`PullOptions::hosts`].
    pub hosts: Option<Hosts>,
    /// The file of logins that is read first; see [`PullOptions::auth_file`].
    pub auth_file: Option<PathBuf>,
    /// Whether the registry may refer to private addresses; see
    /// [`PullOptions::private_addresses`].
    pub private_addresses: bool,
    /// How long to wait for the registry, and for how long to repeat failed requests; see
    /// [`PullOptions::timeouts`].
    pub timeouts: Option<Timeouts>,
    /// Maximum number of blobs that are pushed concurrently, from 1 to
    /// [`transfer::PushOptions::MAX_BLOBS`]. By default, 3.
    pub blobs: usize,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions {
            platforms: Platforms::default(),
            referrers: false,
            plain_http: false,
            token_hosts: Vec::new(),
            hosts: None,
            auth_file: None,
            private_addresses: false,
            timeouts: None,
            blobs: transfer::PushOptions::default().blobs,
            progress: Arc::new(Silent),
        }
    }
}

impl PushOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`referrers`](Self::referrers).
    #[must_use]
    pub fn with_referrers(mut self, referrers: bool) -> Self {
        self.referrers = referrers;
        self
    }

    /// Sets [`plain_http`](Self::plain_http).
    #[must_use]
    pub fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Sets [`token_hosts`](Self::token_hosts).
    #[must_use]
    pub fn with_token_hosts(mut self, token_hosts: Vec<Host>) -> Self {
        self.token_hosts = token_hosts;
        self
    }

    /// Sets [`hosts`](Self::hosts).
    #[must_use]
    pub fn with_hosts(mut self, hosts: impl Into<Option<Hosts>>) -> Self {
        self.hosts = hosts.into();
        self
    }

    /// Sets [`auth_file`](Self::auth_file).
    #[must_use]
    pub fn with_auth_file(mut self, auth_file: impl Into<Option<PathBuf>>) -> Self {
        self.auth_file = auth_file.into();
        self
    }

    /// Sets [`private_addresses`](Self::private_addresses).
    #[must_use]
    pub fn with_private_addresses(mut self, private_addresses: bool) -> Self {
        self.private_addresses = private_addresses;
        self
    }

    /// Sets [`timeouts`](Self::timeouts).
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: impl Into<Option<Timeouts>>) -> Self {
        self.timeouts = timeouts.into();
        self
    }

    /// Sets [`blobs`](Self::blobs).
    #[must_use]
    pub fn with_blobs(mut self, blobs: usize) -> Self {
        self.blobs = blobs;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}
