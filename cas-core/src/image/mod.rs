//! Images: names for content, and questions that an image answers.

mod check;
mod config;
mod diff_id;
pub mod fieldpath;
pub mod filter;
mod questions;
mod records;
mod reference;
mod resolve;

use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use check::{Check, check, size};
pub use config::{ImageConfig, config_platform, image_config, layers, rootfs};
pub use diff_id::{UNCOMPRESSED, diff_id};
pub use records::RecordImages;
pub use reference::Reference;
pub use resolve::{Resolved, config, manifest, manifest_for, platforms};

use crate::descriptor::Descriptor;
use crate::error::Result;
use crate::labels::Labels;

/// A name, what it stands for, and labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The name.
    pub name: Reference,
    /// Labels of this record; nothing is inherited from the image itself.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The root: a manifest or an index.
    pub target: Descriptor,
    /// When the name was made.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When it was changed last.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

impl Image {
    /// A name for `target`, made now.
    pub fn new(name: Reference, target: Descriptor) -> Self {
        let now = SystemTime::now();
        Image {
            name,
            labels: Labels::new(),
            target,
            created_at: now,
            updated_at: now,
        }
    }
}

/// A store of images.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// The image of this name, or nothing.
    async fn get(&self, name: &Reference) -> Result<Option<Image>>;

    /// All images in the order of their names that any of the filters matches; without filters
    /// all. The grammar of filters is containerd's.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse.
    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>>;

    /// Makes a name; its times are set by the store.
    ///
    /// # Errors
    /// `AlreadyExists`.
    async fn create(&self, image: Image) -> Result<Image>;

    /// Replaces an image, or only what the field paths name: `target`, `labels`, `labels.<key>`,
    /// `annotations`, `annotations.<key>` (of the target). The name and `created_at` stay; a
    /// label without a value is removed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for another path.
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image>;

    /// Removes a name; with `target` only while it stands for that.
    ///
    /// # Errors
    /// `NotFound` when there is no such name, or it stands for something else.
    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()>;
}
