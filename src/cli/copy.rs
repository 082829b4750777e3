//! `cas copy`: an image from one store into another.

use cas::image::{FullName, familiar};
use cas::{CopyOptions, ImageRef, Platform, Platforms, Result};
use clap::Args;
use serde_json::json;

use super::place::Place;
use super::{Context, names};

/// Copy an image between stores
#[derive(Args)]
#[command(after_help = "Example:
  cas copy app:1 redb:///srv/app.redb           # into another store, under the same name
  cas copy 's3://bucket/p?endpoint=https://host#app:1' app:2
  cas copy /srv/a#app:1 /srv/b#                 # from root to root

FROM and TO are URL#NAME, DIR#NAME or NAME. URL names a store, and DIR a root. NAME alone means the
store of this root, or the store that --store names. In place of a URL, you may write a scheme or
the name of a table in cas.toml. In TO, NAME may be left out, as in redb#: the image then keeps its
name. If TO is a URL, or begins with a slash or a dot, the # may be left out together with NAME. If
the destination does not exist, it is created. Blobs that the destination already has are not
copied, so a copy that was interrupted continues where it stopped.")]
pub(crate) struct Copy {
    /// Image to copy
    from: String,
    /// Store to copy to, and the name that the image gets there
    to: String,
    /// Copy only this platform, as in linux/arm64
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Copy all platforms that the source has (default)
    #[arg(long)]
    all_platforms: bool,
}

impl Copy {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (from, to) = (Place::parse(&self.from)?, Place::parse(&self.to)?);
        let typed = from.source(&self.from)?;
        let name: Option<FullName> = to.name.as_deref().map(str::parse).transpose()?;
        let source = from.store.open(context, false).await?;
        let image = source.image(ImageRef::typed(typed)).await?;
        let [from_store, to_store] = [&from.store, &to.store].map(|store| store.resolved(context));
        let target = if to_store == from_store {
            source.clone()
        } else {
            to.store.open(context, true).await?
        };
        let mut options = CopyOptions::default()
            .with_platforms(self.platform.map_or(Platforms::All, Platforms::One))
            .with_progress(context.progress.clone());
        if let Some(name) = name.or_else(|| FullName::of(&image.name)) {
            options = options.with_name(name);
        }
        let copied = source.copy_with(&image, &target, options).await?;
        let mut made = json!({"target": copied.target, "from": self.from, "to": self.to});
        names::add(&mut made, &copied.name);
        let name = familiar(&copied.name);
        context.out.item(&made, || {
            format!("{} -> {}", self.from, to.store.with(&name))
        })
    }
}
