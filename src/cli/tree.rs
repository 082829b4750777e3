//! `cas tree`: an image's index, manifests, configurations and layers.

use std::future::Future;
use std::pin::Pin;

use cas::image::familiar;
use cas::{Descriptor, Error, ImageRef, Result, Store, dispatch, limit};
use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::{printable, size};

/// Show an image as a tree, with digests, sizes, media types and missing blobs
#[derive(Args)]
#[command(after_help = "Example:\n  cas tree app:1")]
pub(crate) struct Tree {
    /// Name or digest of the image
    image: String,
}

#[derive(Serialize)]
struct Node {
    descriptor: Descriptor,
    present: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
}

impl Tree {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let image = cas.image(ImageRef::typed(&self.image)).await?;
        let mut budget = limit::DESCRIPTORS;
        let root = grow(cas.store(), image.target, limit::INDEX_DEPTH, &mut budget).await?;
        context.out.item(&root, || {
            let mut lines = vec![familiar(&image.name)];
            draw(&root, false, "", "", &mut lines);
            lines.join("\n")
        })
    }
}

/// Returns the node of `descriptor` with all its children. Indexes may nest `depth` deep, and
/// `budget` bounds the number of nodes, because a small index can list the same child many times.
fn grow<'a>(
    store: &'a Store,
    descriptor: Descriptor,
    depth: usize,
    budget: &'a mut usize,
) -> Pin<Box<dyn Future<Output = Result<Node>> + 'a>> {
    Box::pin(async move {
        let is_index = descriptor.media_type.is_index();
        *budget = match budget.checked_sub(1) {
            Some(left) if !is_index || depth > 0 => left,
            _ => {
                let why = format!(
                    "expected at most {} nested indexes and {} descriptors, found more",
                    limit::INDEX_DEPTH,
                    limit::DESCRIPTORS
                );
                return Err(Error::corrupt(why)
                    .operation("tree")
                    .subject(descriptor.digest));
            }
        };
        let present = store.content.stat(&descriptor.digest).await?.is_some();
        let mut children = Vec::new();
        if present {
            let below = if is_index { depth - 1 } else { depth };
            for child in dispatch::children(&*store.content, &descriptor).await? {
                children.push(grow(store, child, below, budget).await?);
            }
        }
        Ok(Node {
            descriptor,
            present,
            children,
        })
    })
}

/// Draws a node and its children. A `config` is the configuration of a manifest, whatever its type.
fn draw(node: &Node, config: bool, lead: &str, below: &str, lines: &mut Vec<String>) {
    let Descriptor {
        media_type,
        digest,
        platform,
        ..
    } = &node.descriptor;
    let role = match media_type {
        kind if kind.is_index() => "index",
        kind if kind.is_manifest() => "manifest",
        _ if config => "config",
        kind if kind.is_layer() => "layer",
        _ => "blob",
    };
    let platform = platform
        .as_ref()
        .map(|platform| format!(" {platform}"))
        .unwrap_or_default();
    let missing = if node.present { "" } else { "  MISSING" };
    let bytes = size(node.descriptor.size);
    let digest = digest.short();
    let shown = format!("{role}{platform} {digest}  {bytes}  {media_type}{missing}");
    lines.push(format!("{lead}{}", printable(&shown)));
    for (at, child) in node.children.iter().enumerate() {
        let last = at + 1 == node.children.len();
        let (branch, trunk) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        draw(
            child,
            at == 0 && media_type.is_manifest(),
            &format!("{below}{branch}"),
            &format!("{below}{trunk}"),
            lines,
        );
    }
}
