//! `cas pull` and `cas push`: images from and to registries.

use std::path::PathBuf;

use cas::image::{FullName, Reference, familiar};
use cas::transfer::PullLimits;
use cas::{
    Cas, Context as _, Error, ErrorKind, ImageRef, ParallelPull, Platform, Platforms, PullMode,
    PullModes, PullOptions, PushOptions, Result, StoredImage,
};
use clap::{Args, ValueEnum, value_parser};
use serde_json::json;

use super::connection::Connection;
use super::{Context, names};

/// Pull an image from a registry
#[derive(Args)]
#[command(after_help = "Example:\n  cas pull localhost:5000/app:1\n  \
    cas pull registry.example/team/app:1 --platform linux/arm64 --unpack")]
pub(crate) struct Pull {
    /// [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]; a name without a host is replaced by its alias in
    /// registries.conf; if it has no alias, the registries in unqualified-search-registries of this
    /// file are tried; if the file lists none, docker.io is tried
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    remote: Remote,
    /// Pull only an image that this policy.json accepts; if the file requires a signature for the
    /// image, the pull fails, because cas cannot verify signatures as this file prescribes
    /// [default: the file in cas.toml, or podman's]
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    /// Accept only an image with a signature of cosign that this public key verifies [default: the
    /// key in cas.toml]
    #[arg(long, value_name = "FILE")]
    cosign_key: Option<PathBuf>,
    /// Unpack the image into snapshots, too; with --all-platforms, only for this machine's platform
    #[arg(long)]
    unpack: bool,
    /// For each layer that has a table of contents (eStargz, zstd:chunked or SOCI), pull only the
    /// table. The files of these layers are fetched when programs read them, and all other data of
    /// these layers in the background. Layers without a table are fetched and unpacked as part of
    /// the pull. Needs the snapshotter erofs
    #[cfg(feature = "on-demand")]
    #[arg(long, conflicts_with_all = ["all_platforms", "discard_unpacked_layers"])]
    lazy: bool,
    /// Also pull everything that refers to the image, such as signatures. With --policy missing or
    /// --policy never, cas prints a warning and pulls no referrers if the store has the whole image
    #[arg(long)]
    referrers: bool,
    /// When to ask the registry
    #[arg(long, value_enum, default_value_t = Policy::Always)]
    policy: Policy,
    /// Fetch each layer of more than 4 MiB in ranges of 4 MiB, up to N ranges at once. Up to N + 1
    /// ranges of the layer are in memory. If N is 1, fetch each layer with one request [default:
    /// the number in cas.toml, or 1]
    #[arg(long, value_name = "N",
        value_parser = value_parser!(u64).range(1..=PullLimits::MAX_RANGES as u64))]
    ranges: Option<u64>,
    #[command(flatten)]
    parallel: Parallel,
}

#[derive(Args)]
struct Parallel {
    /// Pull layers in parallel, and with --unpack also unpack them in parallel. The settings are
    /// in [pull_modes.parallel_pull_unpack] of cas.toml. After an interrupted pull, the next pull
    /// uses the layers that are already unpacked
    #[arg(long)]
    parallel: bool,
    /// Read [pull_modes.parallel_pull_unpack] from this file instead of cas.toml, for example from
    /// the configuration of the SOCI snapshotter
    #[arg(long, value_name = "FILE")]
    pull_modes: Option<PathBuf>,
    /// Do not store the layers that a parallel pull unpacks; the image then cannot be exported,
    /// copied, or pushed to another repository (needs --unpack and a parallel pull)
    #[arg(long, requires = "unpack")]
    discard_unpacked_layers: bool,
}

impl Parallel {
    /// Returns the parallel pull that these options describe. Returns `None` if none of them was
    /// given: `cas.toml` then decides whether the pull is parallel.
    fn options(&self, cas: &Cas, context: &Context) -> Result<Option<ParallelPull>> {
        let (mut modes, warnings) = match &self.pull_modes {
            Some(file) => {
                let read = std::fs::read_to_string(file).map_err(Error::from);
                let parsed = read.and_then(|text| PullModes::from_soci(&text));
                parsed.during("read", file.display())?
            }
            None if !self.parallel && !self.discard_unpacked_layers => return Ok(None),
            None => cas.pull_modes()?,
        };
        for warning in warnings {
            context.progress.warn(&warning);
        }
        if self.parallel {
            modes.mode = PullMode::Parallel;
        }
        if self.discard_unpacked_layers && modes.mode == PullMode::Off {
            return Err(Error::invalid(
                "--discard-unpacked-layers needs a parallel pull; add --parallel, or set `enable = \
                 true` in [pull_modes.parallel_pull_unpack] of cas.toml, or of the file that \
                 --pull-modes names",
            ));
        }
        modes.discard_unpacked_layers |= self.discard_unpacked_layers;
        ParallelPull::new(&modes).map(Some)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// Only if the image or part of its content is not in the store, or to fetch a required
    /// signature
    Missing,
    /// Always; content that the store has is not fetched again
    Always,
    /// Never; the pull fails if the store does not have the whole image, or if a signature is
    /// required
    Never,
}

impl From<Policy> for cas::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Missing => cas::Policy::Missing,
            Policy::Always => cas::Policy::Always,
            Policy::Never => cas::Policy::Never,
        }
    }
}

/// Push an image to a registry
#[derive(Args)]
#[command(after_help = "Example:\n  cas push app:1 localhost:5000/app:1\n  \
    cas push registry.example/team/app:1")]
pub(crate) struct Push {
    /// Also push everything in the store that refers to the image, such as signatures
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    upload: Upload,
}

/// What is pushed, and where to.
#[derive(Args)]
pub(super) struct Upload {
    /// Name or digest of the image
    image: String,
    /// HOST[:PORT]/REPOSITORY[:TAG] to push to [default: the name of the image]
    #[arg(value_name = "REF")]
    reference: Option<FullName>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args)]
struct Remote {
    /// Transfer only this platform, as in linux/arm64 [default for pull: this machine's; for push:
    /// all, or only this machine's if the store does not have all]
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Transfer all platforms of the image
    #[arg(long)]
    all_platforms: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Remote {
    fn platforms(&self) -> Platforms {
        if self.all_platforms {
            return Platforms::All;
        }
        self.platform.clone().into()
    }
}

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let settings = cas.remote_settings();
        let mut hosts = self.remote.connection.hosts(settings.hosts());
        if let Some(file) = self.policy_file {
            hosts = hosts.with_policy(file);
        }
        let names = hosts.expand(&self.reference).await?;
        let options = PullOptions::default();
        #[cfg(feature = "on-demand")]
        let options = options.with_on_demand(self.lazy);
        let options = options
            .with_platforms(self.remote.platforms())
            .with_policy(self.policy.into())
            .with_unpack(self.unpack)
            .with_referrers(self.referrers)
            .with_plain_http(self.remote.connection.plain_http)
            .with_private_addresses(self.remote.connection.private_addresses)
            .with_timeouts(self.remote.connection.timeouts(&settings)?)
            .with_hosts(hosts)
            .with_cosign_key(self.cosign_key)
            .with_auth_file(self.remote.connection.authfile)
            .with_limits(self.ranges.map(limits))
            .with_parallel(self.parallel.options(&cas, context)?)
            .with_progress(context.progress.clone());
        let pulled = pull_first(&cas, names, &options).await?;
        let (image, snapshot) = (pulled.image, pulled.snapshot);
        let name = familiar(&image.name);
        let mut made = json!({"target": image.target, "snapshot": snapshot});
        names::add(&mut made, &image.name);
        context.out.item(&made, || match snapshot {
            Some(snapshot) => format!("{name} snapshot {}", snapshot.short()),
            None => name,
        })
    }
}

/// Returns the limits of a pull that fetches at most `ranges` ranges of a layer at once.
fn limits(ranges: u64) -> PullLimits {
    PullLimits::default().with_per_layer(ranges as usize)
}

/// Pulls the first of these names that can be pulled. If the pull of a name fails with `Denied`,
/// `NotFound` or `Unavailable`, warns and tries the next name. After any other error, tries no more
/// names.
///
/// # Errors
/// The error of the pull that was tried last.
pub(super) async fn pull_first(
    cas: &Cas,
    names: Vec<FullName>,
    options: &PullOptions,
) -> Result<StoredImage> {
    let mut names = names.into_iter().peekable();
    while let Some(name) = names.next() {
        match cas.pull_with(&name, options.clone()).await {
            Err(error) if names.peek().is_some() && may_be_elsewhere(&error) => {
                options
                    .progress
                    .warn(&format!("{error}; trying the next registry"));
            }
            pulled => return pulled,
        }
    }
    Err(Error::internal(
        "found no registry for the name; please report it",
    ))
}

/// Returns whether the next registry is tried after this error.
fn may_be_elsewhere(error: &Error) -> bool {
    use ErrorKind::{Denied, NotFound, Unavailable};
    matches!(error.kind(), Denied | NotFound | Unavailable)
}

impl Push {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        self.upload.run(self.referrers, context).await
    }
}

impl Upload {
    /// Pushes the image. If `referrers` is set, also pushes everything in the store that refers to
    /// the image.
    pub(super) async fn run(self, referrers: bool, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let settings = cas.remote_settings();
        let image = cas.image(ImageRef::typed(&self.image)).await?;
        let reference = match self.reference {
            Some(reference) => reference,
            None => FullName::of(&image.name).ok_or_else(|| unaddressed(&image.name))?,
        };
        let options = PushOptions::default()
            .with_platforms(self.remote.platforms())
            .with_referrers(referrers)
            .with_plain_http(self.remote.connection.plain_http)
            .with_private_addresses(self.remote.connection.private_addresses)
            .with_timeouts(self.remote.connection.timeouts(&settings)?)
            .with_hosts(self.remote.connection.hosts(settings.hosts()))
            .with_auth_file(self.remote.connection.authfile)
            .with_progress(context.progress.clone());
        let target = cas.push_with(&image, &reference, options).await?;
        let mut made = json!({"image": self.image, "target": target});
        names::add(&mut made, &reference.name());
        context.out.item(&made, || {
            format!("{} -> {}", self.image, reference.familiar())
        })
    }
}

/// Returns the error for an image whose name cannot be a name in a registry.
fn unaddressed(name: &Reference) -> Error {
    let why = "the name of the image cannot be a name in a registry; also give the name to push \
               to, as in `cas push IMAGE REF`";
    Error::invalid(why).operation("push").subject(name)
}
