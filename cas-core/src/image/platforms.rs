//! The platforms of an image.

use std::mem;
use std::sync::Mutex;

use async_trait::async_trait;

use super::configuration::config_platform;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::dispatch::{self, Handler, Next, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::Platform;
use crate::sync::lock;

/// Returns the platforms of an image, normalized, each once. If the descriptor `image` states a
/// platform, this is the only one. Otherwise, the platform of a manifest is the one that its
/// configuration states. For an index, the platforms that its entries state come first. Entries
/// that state no platform are then read, and their platforms follow. The platform `unknown`, which
/// marks attestations, is left out. An index, manifest or configuration that is missing, damaged or
/// unsupported is skipped, although it may state another platform.
///
/// # Errors
/// If no platform is found, the error for the first index, manifest or configuration that was
/// skipped: `NotFound`, `Corrupt` or `Unsupported`. Also other errors of reading them; errors of
/// [`walk`].
pub async fn platforms(content: &dyn ContentStore, image: &Descriptor) -> Result<Vec<Platform>> {
    let platforms = Platforms {
        content,
        found: Mutex::default(),
        skipped: Mutex::default(),
    };
    let roots = platforms.split_off_named(vec![image.clone()]);
    walk(&platforms, &roots).await?;
    let found = mem::take(&mut *lock(&platforms.found));
    let skipped = lock(&platforms.skipped).take();
    match skipped {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

struct Platforms<'a> {
    content: &'a dyn ContentStore,
    found: Mutex<Vec<Platform>>,
    /// The error for the first index, manifest or configuration that was skipped.
    skipped: Mutex<Option<Error>>,
}

impl Platforms<'_> {
    fn add(&self, platform: &Platform) {
        let platform = platform.normalized();
        let mut found = lock(&self.found);
        let none = platform.is_unknown() || platform.is_unstated();
        if !none && !found.contains(&platform) {
            found.push(platform);
        }
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Next> {
        // Layers are not visited, so a blob that is neither an index nor a manifest is read as a
        // configuration.
        if !descriptor.media_type.is_document() {
            match config_platform(self.content, descriptor).await {
                Ok(platform) => self.add(&platform),
                // The configuration of an artifact, which is not for a platform.
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
            return Ok(Next::NONE);
        }
        let mut children = dispatch::children(self.content, descriptor).await?;
        if descriptor.media_type.is_manifest() {
            children.truncate(1);
        }
        Ok(Next::Children(self.split_off_named(children)))
    }

    /// Adds the platforms that descriptors state. Returns the descriptors that state none. Their
    /// content has to be read.
    fn split_off_named(&self, mut descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
        descriptors.retain(|descriptor| {
            let platform = descriptor.platform.as_ref();
            platform.inspect(|platform| self.add(platform)).is_none()
        });
        descriptors
    }
}

#[async_trait]
impl Handler for Platforms<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        use ErrorKind::{Corrupt, NotFound, Unsupported};
        match self.read(descriptor).await {
            Err(error) if matches!(error.kind(), NotFound | Corrupt | Unsupported) => {
                lock(&self.skipped).get_or_insert(error);
                Ok(Next::NONE)
            }
            outcome => outcome,
        }
    }
}
