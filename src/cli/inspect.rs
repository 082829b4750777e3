//! `cas inspect`: shows an image, a blob or a snapshot by its name or digest.

use cas::image::{self, Resolved};
use cas::platform::Only;
use cas::{Cas, Error, ErrorKind, Image, ImageRef, Platform, QueryOptions, Result, dispatch};
use clap::Args;
use serde_json::{Value, json};

use super::images::describe;
use super::output::beginning;
use super::resource::is_prefix;
use super::{Context, blob, snapshot};

/// Show an image, a manifest, an index, a configuration, a layer, another blob or a snapshot
#[derive(Args)]
#[command(after_help = "Example:
  cas inspect app:1 --platform linux/arm64
  cas inspect sha256:2c26b46b68ff

An image is shown with its platforms, its manifest, its configuration, and its referrers, such as
signatures. If the store lacks the manifest of the image for this machine, or the configuration of
this manifest, and --platform is not given, the index is shown instead. A digest, or the first
digits of one, is looked up among images, then blobs, then snapshots.")]
pub(crate) struct Inspect {
    /// Name, digest, first digits of a digest, or key of a snapshot
    what: String,
    /// Show the manifest of an image for this platform, as in linux/arm64 [default: this machine's,
    /// or the image's own if the image is not an index]
    #[arg(long)]
    platform: Option<Platform>,
}

impl Inspect {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let shown = match cas.image(ImageRef::typed(&self.what)).await {
            Ok(image) => self.image(context, &cas, &image).await?,
            Err(error) if is_unknown(&error) => match self.other(&cas).await {
                // If nothing else is found, and the text is not a valid name or stands for several
                // images, the error about images is more helpful.
                Err(other) if is_unknown(&other) && error.kind() != ErrorKind::NotFound => {
                    return Err(error);
                }
                other => other?,
            },
            Err(error) => return Err(error),
        };
        context.out.document(&shown)
    }

    async fn image(&self, context: &Context, cas: &Cas, image: &Image) -> Result<Value> {
        let content = &*cas.store().content;
        let platforms = image::platforms(content, &image.target).await?;
        let resolved = match self.resolve(cas, image).await {
            Err(error) if self.may_show_index(&error, image) => {
                context.progress.warn(&error.to_string());
                None
            }
            resolved => Some(resolved?),
        };
        let mut shown = describe(image, None);
        shown["platforms"] = platforms.iter().map(ToString::to_string).collect();
        let store = cas.store();
        let mut referrers = cas::blob::referrers(store, &image.target.digest).await?;
        let Some((found, config)) = resolved else {
            let index = dispatch::read(content, &image.target).await?;
            shown["descriptor"] = json!(image.target);
            shown["referrers"] = json!(referrers);
            shown["index"] = serde_json::from_slice(&index).unwrap_or(Value::Null);
            return Ok(shown);
        };
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let size = image::size(content, &image.target, &Only::new(&platform)).await?;
        if found.descriptor.digest != image.target.digest {
            referrers.extend(cas::blob::referrers(store, &found.descriptor.digest).await?);
        }
        shown["size"] = json!(size);
        shown["referrers"] = json!(referrers);
        shown["descriptor"] = json!(found.descriptor);
        shown["manifest"] = json!(found.manifest);
        shown["config"] = config;
        Ok(shown)
    }

    /// Returns the manifest to show, and its configuration. A configuration that is not JSON is
    /// returned as `null`.
    async fn resolve(&self, cas: &Cas, image: &Image) -> Result<(Resolved, Value)> {
        let options = QueryOptions::default().with_platforms(self.platform.clone());
        let found = cas.manifest_with(image, options).await?;
        let config = dispatch::read(&*cas.store().content, &found.manifest.config).await?;
        let config = serde_json::from_slice(&config).unwrap_or(Value::Null);
        Ok((found, config))
    }

    /// Returns whether the index is shown instead of a manifest. This is the case if `image` is an
    /// index, the user did not give `--platform`, and `error` says that the image has no manifest
    /// for this machine, or that the store lacks this manifest or its configuration.
    fn may_show_index(&self, error: &Error, image: &Image) -> bool {
        let is_index = image.target.media_type.is_index();
        is_index && self.platform.is_none() && error.kind() == ErrorKind::NotFound
    }

    /// Returns the blob or the snapshot that `self.what` names, as JSON.
    ///
    /// # Errors
    /// `NotFound` if `self.what` names no blob and no snapshot; `InvalidArgument` if the digests of
    /// several blobs begin with `self.what`; errors of [`blob::describe`], of the store and of the
    /// snapshotter.
    async fn other(&self, cas: &Cas) -> Result<Value> {
        let (kind, rest) = self.what.split_once('/').unwrap_or(("", &self.what));
        let digest = if kind == "content" { rest } else { &self.what };
        let failed = match blob::find(cas.store(), digest).await {
            Err(error) if is_unknown(&error) => error,
            found => return blob::describe(cas.store(), &found?).await,
        };
        let is_ambiguous = failed.kind() == ErrorKind::InvalidArgument && is_prefix(digest);
        // A root without a snapshotter has no snapshots.
        if let Ok(snapshotter) = cas.snapshotter() {
            let named = format!("snapshots/{}/", snapshotter.name());
            let key = self.what.strip_prefix(&*named).unwrap_or(&self.what);
            // If several blobs have digests that begin with these digits, the digits may still be
            // the whole key of a snapshot. They are not looked up as the first digits of a key.
            if !is_ambiguous || snapshotter.stat(key).await?.is_some() {
                match snapshot::describe(&**snapshotter, key).await {
                    Err(error) if is_unknown(&error) => {}
                    found => return found,
                }
            }
        }
        if is_ambiguous {
            return Err(failed);
        }
        Err(Error::not_found(
            "no image, blob or snapshot has this name or digest; `cas images`, `cas blob ls` and \
             `cas snapshot ls` list them all",
        )
        .operation("inspect")
        .subject(beginning(&self.what)))
    }
}

/// Returns whether the kind of `error` is `NotFound` or `InvalidArgument`: the user's text names
/// nothing, is not a valid name, or stands for several resources.
fn is_unknown(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::InvalidArgument
    )
}
