//! `cas pull` and `cas push`: images from and to registries.

use cas::distribution::{Options, RemoteRef};
use cas::platform::Choice;
use cas::{Platform, Result};
use clap::Args;
use serde_json::json;

use super::Context;

/// Pull an image from a registry
#[derive(Args)]
#[command(after_help = "Example:\n  cas pull localhost:5000/app:1\n  \
    cas pull registry.example/team/app:1 --platform linux/arm64 --unpack")]
pub(crate) struct Pull {
    /// HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]; the host is required
    #[arg(value_name = "REF")]
    reference: RemoteRef,
    #[command(flatten)]
    remote: Remote,
    /// Unpack the image into snapshots, too
    #[arg(long)]
    unpack: bool,
}

/// Push an image to a registry
#[derive(Args)]
#[command(after_help = "Example:\n  cas push app:1 localhost:5000/app:1\n  \
    cas push registry.example/team/app:1")]
pub(crate) struct Push {
    /// Name of the image
    image: String,
    /// HOST[:PORT]/REPOSITORY[:TAG] to push to [default: the name of the image]
    #[arg(value_name = "REF")]
    reference: Option<RemoteRef>,
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
    /// Use plain HTTP (automatic for a registry on this machine)
    #[arg(long)]
    plain_http: bool,
}

impl Remote {
    fn choice(&self) -> Choice {
        match &self.platform {
            Some(platform) => Choice::One(platform.clone()),
            None if self.all_platforms => Choice::All,
            None => Choice::Own,
        }
    }

    fn options(&self) -> Options {
        Options {
            plain_http: self.plain_http,
            ..Options::default()
        }
    }
}

impl Pull {
    pub(crate) async fn run(self, context: &mut Context) -> Result<()> {
        let cas = context.cas().await?;
        let (choice, options) = (self.remote.choice(), self.remote.options());
        let progress = &context.progress;
        let reference = &self.reference;
        let (image, snapshot) = if self.unpack {
            let pulled = cas.pull_unpacked(reference, &choice, options, progress);
            pulled.await?
        } else {
            let image = cas.pull(reference, &choice, options, progress).await?;
            (image, None)
        };
        let name = image.name.as_str();
        let made = json!({"name": name, "target": image.target, "snapshot": snapshot});
        context.out.item(&made, || match snapshot {
            Some(snapshot) => format!("{name} snapshot {}", snapshot.short()),
            None => name.to_owned(),
        })
    }
}

impl Push {
    pub(crate) async fn run(self, context: &mut Context) -> Result<()> {
        let cas = context.cas().await?;
        let reference = match self.reference {
            Some(reference) => reference,
            None => self.image.parse()?,
        };
        let (choice, options) = (self.remote.choice(), self.remote.options());
        let progress = &context.progress;
        let pushed = cas.push(&self.image, &reference, &choice, options, progress);
        let target = pushed.await?;
        let name = reference.to_string();
        let made = json!({"image": self.image, "name": name, "target": target});
        context
            .out
            .item(&made, || format!("{} -> {name}", self.image))
    }
}
