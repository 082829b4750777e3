//! `cas images`, `tag` and `rmi`.

use cas::gc::GcOptions;
use cas::image::{self, FullName, familiar};
use cas::platform::All;
use cas::{ErrorKind, Image, ImageRef, Listed, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::gc::when;
use super::output::{ago, size};
use super::{Context, exit, names};

/// List images
#[derive(Args)]
#[command(after_help = "Examples:\n  cas images --json | jq -r .name\n  \
    cas images --sort used --reverse

If the record of an image is damaged, the other images are listed, and the exit code is 4.")]
pub(crate) struct Images {
    /// Show only images that match a filter, as in name~=debian; repeat the option to show images
    /// that match any of several filters
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Sort by this field; the smallest or oldest values come first
    #[arg(long, value_name = "FIELD", default_value = "name")]
    sort: Field,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
}

/// What images are sorted by.
#[derive(Clone, Copy, ValueEnum)]
enum Field {
    /// The name
    Name,
    /// The size; incomplete and damaged images, and content that is not an image, come first
    Size,
    /// When the name was created
    Created,
    /// When the image was last used; images without a known use come first
    Used,
}

impl Images {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).collect();
        let found = cas.listing(&filters).await?;
        let mut rows = Vec::new();
        for listed in found.images {
            let image = &listed.image;
            let size = match image::size(&*cas.store().content, &image.target, &All).await {
                Ok(size) => Some(size),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                    None
                }
                // Other programs may give a name to any content.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::OutOfRange) =>
                {
                    let warning = format!("{} has no known size: {error}", listed.shown);
                    context.progress.warn(&warning);
                    None
                }
                Err(error) => return Err(error),
            };
            rows.push((listed, size));
        }
        match self.sort {
            Field::Name => {}
            Field::Size => rows.sort_by_key(|(_, size)| *size),
            Field::Created => rows.sort_by_key(|(listed, _)| listed.image.created_at),
            Field::Used => rows.sort_by_key(|(listed, _)| listed.used_at),
        }
        if self.reverse {
            rows.reverse();
        }
        show(context, &rows)?;
        exit::damaged(found.problems)
    }
}

/// Prints images with their sizes in bytes, if these are known.
fn show(context: &Context, rows: &[(Listed, Option<u64>)]) -> Result<()> {
    if context.out.is_json() {
        return rows.iter().try_for_each(|(listed, size)| {
            let mut shown = describe(&listed.image, *size);
            shown["usedAt"] = json!(listed.used_at.map(when));
            context.out.item(&shown, String::new)
        });
    }
    let columns = ["NAME", "TARGET", "SIZE", "CREATED", "LAST USED"];
    context.out.list(&columns, rows, |(listed, bytes)| {
        vec![
            listed.shown.clone(),
            listed.image.target.digest.short(),
            bytes.map_or_else(|| without_size(&listed.image).into(), size),
            ago(listed.image.created_at),
            listed.used_at.map_or_else(|| "never".into(), ago),
        ]
    })
}

/// Returns the text that is shown in place of a size if the size of `image` is not known.
fn without_size(image: &Image) -> &'static str {
    match image.target.media_type.is_document() {
        true => "incomplete",
        false => "not an image",
    }
}

/// Returns an image and its size in bytes, as JSON. `None` for the size becomes null.
pub(crate) fn describe(image: &Image, size: Option<u64>) -> Value {
    let mut shown = json!({
        "target": image.target,
        "labels": image.labels,
        "size": size,
        "createdAt": when(image.created_at),
        "updatedAt": when(image.updated_at),
    });
    names::add(&mut shown, &image.name);
    shown
}

/// Give an image an additional name
#[derive(Args)]
#[command(after_help = "Example:\n  cas tag app:1 app:latest")]
pub(crate) struct Tag {
    /// Name or digest of the image
    from: String,
    /// New name; if it already refers to another image, it is moved to this image
    to: FullName,
}

impl Tag {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let image = cas.tag(ImageRef::typed(&self.from), &self.to).await?;
        if let Some(warning) = cas.store().images.name_warning(&image.name) {
            context.progress.warn(&warning);
        }
        context.out.item(&describe(&image, None), || {
            format!(
                "{} -> {}",
                familiar(&image.name),
                image.target.digest.short()
            )
        })
    }
}

/// Remove names of images; their content stays until `cas gc`
#[derive(Args)]
#[command(after_help = "Example:\n  cas rmi app:1 app:latest")]
pub(crate) struct Rmi {
    /// Names or digests of images
    #[arg(required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        for name in &self.images {
            let image = cas.image(ImageRef::typed(name)).await;
            cas.remove(ImageRef::typed(name)).await?;
            let stored = image.map_or_else(|_| name.clone(), |image| image.name.to_string());
            let shown = stored
                .parse()
                .map_or(stored.clone(), |name| familiar(&name));
            let mut removed = json!({"removed": stored});
            if shown != stored {
                removed["familiar"] = json!(shown);
            }
            context.out.item(&removed, || format!("removed {shown}"))?;
        }
        let free = cas.gc_with(GcOptions::default().with_dry_run(true)).await?;
        let shown = json!({"wouldFree": {"blobs": free.blobs.len(), "bytes": free.bytes(),
            "snapshots": free.snapshots.len()}});
        context.out.item(&shown, || {
            format!("`cas gc` would free {}", super::gc::summary(&free))
        })
    }
}
