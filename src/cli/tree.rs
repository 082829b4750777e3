//! `cas tree`: an image's index, manifests, configurations and layers.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use cas::error::REPAIR_BYTES;
use cas::image::familiar;
use cas::layer::unpack;
use cas::{
    Descriptor, Digest, Document, Error, ErrorKind, ImageRef, Result, Store, blob, dispatch, limit,
};
use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::{printable, size};

/// Show an image and its referrers as a tree, with digests, sizes and media types, and mark missing
/// and damaged blobs
#[derive(Args)]
#[command(after_help = "Example:\n  cas tree app:1

Indexes, manifests and embedded data are read and hashed. For other blobs, only the size is checked.
At most 8 levels of referrers are shown: referrers, their referrers, and so on.
`cas fsck --read-data` reads all blobs. \"kept as tar\" marks a layer whose blob was removed, and
whose tar the snapshotter keeps (see `cas init --keep-tars`). \"read on demand\" marks a layer of
which only the table of contents was pulled (see `cas pull --lazy`).")]
pub(crate) struct Tree {
    /// Name or digest of the image
    image: String,
}

#[derive(Serialize)]
struct Node {
    descriptor: Descriptor,
    /// Whether the content that the descriptor describes is in the store, or embedded in the
    /// descriptor.
    present: bool,
    /// Whether the snapshotter keeps the layer's tar, and the layer's blob is not in the store.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tar: bool,
    /// Whether the snapshotter has the layer's table of contents and reads the layer on demand, and
    /// the layer's blob is not in the store.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    on_demand: bool,
    /// How the content differs from the descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
    /// The documents that refer to this node as their subject, such as signatures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    referrers: Vec<Node>,
}

/// How deep the tree may grow at a node.
#[derive(Clone, Copy)]
struct Depth {
    /// How many levels of nested indexes are allowed. The node itself counts if it is an index.
    indexes: usize,
    /// How many levels of referrers are allowed below the node: referrers, their referrers, and so
    /// on.
    referrers: usize,
}

impl Tree {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let image = cas.image(ImageRef::typed(&self.image)).await?;
        let mut budget = limit::DESCRIPTORS;
        let depth = Depth {
            indexes: limit::INDEX_DEPTH,
            referrers: limit::REFERRER_DEPTH,
        };
        let root = grow(cas.store(), image.target, depth, &mut budget).await?;
        context.out.item(&root, || {
            let mut lines = vec![familiar(&image.name)];
            draw(&root, Role::Child, "", "", &mut lines);
            lines.join("\n")
        })?;
        match root.damaged() {
            None => Ok(()),
            Some(digest) => Err(Error::corrupt("part of the image is damaged")
                .advice(REPAIR_BYTES)
                .operation("tree")
                .subject(digest)),
        }
    }
}

impl Node {
    /// Returns whether neither the store nor the snapshotter has the content.
    fn is_absent(&self) -> bool {
        !self.present && !self.tar
    }

    /// Returns the digest of the first damaged blob at or below this node.
    fn damaged(&self) -> Option<&Digest> {
        if self.damage.is_some() {
            return Some(&self.descriptor.digest);
        }
        let mut below = self.children.iter().chain(&self.referrers);
        below.find_map(Node::damaged)
    }
}

/// Returns the node of `descriptor` with its children and referrers. Referrers deeper than `depth`
/// are left out, and so is everything below a blob that is missing or damaged. `budget` is the
/// number of nodes that may still be added. The number is bounded because a small index can list
/// the same child many times.
///
/// # Errors
/// `Corrupt` if indexes are nested deeper than `depth`, or if there are more nodes than `budget`;
/// errors of the store.
fn grow<'a>(
    store: &'a Store,
    descriptor: Descriptor,
    depth: Depth,
    budget: &'a mut usize,
) -> Pin<Box<dyn Future<Output = Result<Node>> + 'a>> {
    Box::pin(async move {
        let is_index = descriptor.media_type.is_index();
        *budget = match budget.checked_sub(1) {
            Some(left) if !is_index || depth.indexes > 0 => left,
            _ => {
                let why = format!(
                    "the image or one of its referrers has more than {} levels of nested indexes, \
                     or together they have more than {} descriptors; build the image with fewer \
                     levels and descriptors, or remove referrers",
                    limit::INDEX_DEPTH,
                    limit::DESCRIPTORS
                );
                return Err(Error::corrupt(why)
                    .operation("tree")
                    .subject(descriptor.digest));
            }
        };
        let (present, damage) = examine(store, &descriptor).await?;
        let mut node = Node {
            descriptor,
            present,
            tar: false,
            on_demand: false,
            damage,
            children: Vec::new(),
            referrers: Vec::new(),
        };
        if !present || node.damage.is_some() {
            return Ok(node);
        }
        let below = Depth {
            indexes: depth.indexes - usize::from(is_index),
            ..depth
        };
        match dispatch::children(&*store.content, &node.descriptor).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => node.damage = Some(wrong()),
            // No digest in the index can be verified.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                node.damage = Some(error.without_advice());
            }
            children => {
                let record = store.blobs().load(&node.descriptor.digest).await?;
                for child in children? {
                    let mut child = grow(store, child, below, budget).await?;
                    let is_tar = record
                        .as_ref()
                        .is_some_and(|(record, _)| record.is_tar(&child.descriptor.digest));
                    child.tar = !child.present && is_tar;
                    node.children.push(child);
                }
            }
        }
        mark_on_demand(store, &mut node).await;
        if let Some(referrers) = depth.referrers.checked_sub(1) {
            let depth = Depth {
                indexes: limit::INDEX_DEPTH,
                referrers,
            };
            for referrer in blob::referrers(store, &node.descriptor.digest).await? {
                let grown = grow(store, referrer, depth, budget).await?;
                node.referrers.push(grown);
            }
        }
        Ok(node)
    })
}

/// Marks the layers of a manifest that are read on demand. Marks no layers if the manifest is not
/// the manifest of an image, or if its configuration cannot be read.
async fn mark_on_demand(store: &Store, node: &mut Node) {
    if !node.descriptor.media_type.is_manifest() || !node.children.iter().any(Node::is_absent) {
        return;
    }
    let read = dispatch::document(&*store.content, &node.descriptor).await;
    let Ok(Document::Manifest(manifest)) = read else {
        return;
    };
    let Ok(chain) = unpack::chain_of(store, &manifest).await else {
        return;
    };
    let layers = manifest.layers.iter().zip(chain);
    let on_demand = layers.filter(|(_, in_chain)| in_chain.is_on_demand);
    let on_demand: HashSet<Digest> = on_demand.map(|(layer, _)| layer.digest).collect();
    for child in node.children.iter_mut().filter(|child| child.is_absent()) {
        child.on_demand = on_demand.contains(&child.descriptor.digest);
    }
}

/// Returns whether the content of `descriptor` is in the store or in the descriptor, and what is
/// wrong with the content. Embedded data is hashed. Of a blob in the store, only the size is
/// checked.
async fn examine(store: &Store, descriptor: &Descriptor) -> Result<(bool, Option<String>)> {
    if descriptor.data.is_some() {
        return match dispatch::read(&*store.content, descriptor).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok((true, Some(wrong()))),
            read => read.map(|_| (true, None)),
        };
    }
    let Some(stat) = store.content.stat(&descriptor.digest).await? else {
        return Ok((false, None));
    };
    let (expected, found) = (descriptor.size, stat.size);
    let damage = format!("expected {expected} bytes, found {found}");
    Ok((true, (found != expected).then_some(damage)))
}

fn wrong() -> String {
    "the content does not match its descriptor".to_owned()
}

/// What a node is to its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Child,
    /// A manifest's configuration, which may have any media type.
    Config,
    Referrer,
}

/// Adds the lines of a node, its children and its referrers to `lines`. The line of the node begins
/// with `lead`. All other lines begin with `below`.
fn draw(node: &Node, role: Role, lead: &str, below: &str, lines: &mut Vec<String>) {
    let Descriptor {
        media_type,
        digest,
        platform,
        artifact_type,
        ..
    } = &node.descriptor;
    let name = match media_type {
        _ if role == Role::Referrer => "referrer",
        kind if kind.is_index() => "index",
        kind if kind.is_manifest() => "manifest",
        _ if role == Role::Config => "config",
        kind if kind.is_layer() => "layer",
        _ => "blob",
    };
    let platform = platform
        .as_ref()
        .map(|platform| format!(" {platform}"))
        .unwrap_or_default();
    let state = match (&node.damage, node.present) {
        (Some(damage), _) => format!("  DAMAGED ({damage})"),
        (None, true) if node.descriptor.data.is_some() => "  embedded".to_owned(),
        (None, true) => String::new(),
        (None, false) if node.tar => "  kept as tar".to_owned(),
        (None, false) if node.on_demand => "  read on demand".to_owned(),
        (None, false) => "  MISSING".to_owned(),
    };
    let bytes = size(node.descriptor.size);
    let digest = digest.short();
    let kind = artifact_type.as_deref().filter(|_| role == Role::Referrer);
    let kind = kind.unwrap_or(media_type.as_str());
    let shown = format!("{name}{platform} {digest}  {bytes}  {kind}{state}");
    lines.push(format!("{lead}{}", printable(&shown)));
    let below_it = node.children.iter().chain(&node.referrers);
    let number = node.children.len() + node.referrers.len();
    for (at, child) in below_it.enumerate() {
        let last = at + 1 == number;
        let role = match at {
            _ if at >= node.children.len() => Role::Referrer,
            0 if media_type.is_manifest() => Role::Config,
            _ => Role::Child,
        };
        let (branch, trunk) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        draw(
            child,
            role,
            &format!("{below}{branch}"),
            &format!("{below}{trunk}"),
            lines,
        );
    }
}
