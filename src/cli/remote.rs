//! `cas pull` and `cas push`: images from and to registries.

use std::path::PathBuf;

use cas::image::{FullName, Reference, familiar};
use cas::{Error, ImageRef, Platform, Platforms, PullOptions, PushOptions, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Context, names};

/// Pull an image from a registry
#[derive(Args)]
#[command(after_help = "Example:\n  cas pull localhost:5000/app:1\n  \
    cas pull registry.example/team/app:1 --platform linux/arm64 --unpack")]
pub(crate) struct Pull {
    /// [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], as docker reads it: without a host, docker.io
    #[arg(value_name = "REF")]
    reference: FullName,
    #[command(flatten)]
    remote: Remote,
    /// Unpack the image into snapshots, too
    #[arg(long)]
    unpack: bool,
    /// When to ask the registry
    #[arg(long, value_enum, default_value_t = Policy::Always)]
    policy: Policy,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// Only if the image or part of its content is not in the store
    Missing,
    /// Always; content that the store has is not fetched again
    Always,
    /// Never; the image must be in the store
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
    /// Transfer only this platform [default: this machine's for pull, all for push]
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Transfer all platforms of the image
    #[arg(long)]
    all_platforms: bool,
    /// Use plain HTTP (automatic for a registry on this machine that does not require TLS)
    #[arg(long)]
    plain_http: bool,
    /// Look for the login in this file first, as podman does [default: $REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
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
        let options = PullOptions::default()
            .with_platforms(self.remote.platforms())
            .with_policy(self.policy.into())
            .with_unpack(self.unpack)
            .with_plain_http(self.remote.plain_http)
            .with_auth_file(self.remote.authfile)
            .with_progress(context.progress.clone());
        let pulled = cas.pull_with(self.reference, options).await?;
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

impl Push {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let image = cas.image(ImageRef::typed(&self.image)).await?;
        let reference = match self.reference {
            Some(reference) => reference,
            None => FullName::of(&image.name).ok_or_else(|| unaddressed(&image.name))?,
        };
        let options = PushOptions::default()
            .with_platforms(self.remote.platforms())
            .with_plain_http(self.remote.plain_http)
            .with_auth_file(self.remote.authfile)
            .with_progress(context.progress.clone());
        let target = cas.push_with(&image, &reference, options).await?;
        let mut made = json!({"image": self.image, "target": target});
        names::add(&mut made, &reference.name());
        context.out.item(&made, || {
            format!("{} -> {}", self.image, reference.familiar())
        })
    }
}

/// Returns the error for an image whose name does not say where to push it.
fn unaddressed(name: &Reference) -> Error {
    let why = "the name of the image is not one of a registry; give one: cas push IMAGE REF";
    Error::invalid(why).operation("push").subject(name)
}
