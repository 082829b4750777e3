//! Lists the images of a store under their familiar names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use cas_core::blob::stored_subject;
use cas_core::image::filter::Filters;
use cas_core::image::{Reference, familiar};
use cas_core::{Error, Image, Result};
use serde::Serialize;

use super::{Cas, lookup};

/// The images that [`Cas::listing`] returns.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The images, sorted by stored name.
    pub images: Vec<Listed>,
    /// For each image whose record is damaged, the error `Corrupt` of reading the record. Such an
    /// image is not in `images`, and may or may not pass the filters.
    pub problems: Vec<Error>,
}

/// An image that [`Cas::listing`] returns.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Listed {
    /// The image, with its name in the store.
    pub image: Image,
    /// The name to show: the familiar form, such as `app:1` for `docker.io/library/app:1`. If
    /// spellings of the name refer to different images, this is the name in the store.
    pub shown: String,
    /// When the image was last used under any spelling of its name, exact to a minute. If the
    /// spellings refer to different images, only uses under this spelling count. `None` if the time
    /// is not known. Serialized as whole nanoseconds since 1970.
    #[serde(serialize_with = "cas_core::time::optional::serialize")]
    pub used_at: Option<SystemTime>,
}

impl Cas {
    /// Returns the images that pass the filters, each with the name to show, sorted by stored name.
    /// If all stored spellings of a name refer to the same image, the image is listed once.
    /// Otherwise, each spelling is listed. Images without a name are listed under their digests,
    /// except referrers of content that the store has. A filter may match the stored name or the
    /// name to show. A damaged record of an image does not hide other images.
    ///
    /// # Errors
    /// `InvalidArgument` if a filter does not parse; errors of the store.
    pub async fn listing(&self, filters: &[&str]) -> Result<Listing> {
        let filters = Filters::parse(filters)?;
        let store = self.opened()?;
        let found = store.images.list_sound().await?;
        let mut images = found.named;
        let known: BTreeSet<Reference> = images.iter().map(|image| image.name.clone()).collect();
        for image in found.unnamed {
            if !known.contains(&image.name) && stored_subject(store, &image.target).await?.is_none()
            {
                images.push(image);
            }
        }
        // A read-only store that an earlier release has made does not have times of last uses.
        let uses = self.uses.all().await.unwrap_or_default();
        let mut listed = merge(images, &uses);
        listed.retain(|one| filters.matches(&one.image) || matches_familiar(&filters, one));
        listed.sort_by(|one, other| one.image.name.cmp(&other.image.name));
        Ok(Listing {
            images: listed,
            problems: found.problems,
        })
    }
}

/// Merges the spellings of each name, unless they refer to different images.
fn merge(images: Vec<Image>, uses: &BTreeMap<String, SystemTime>) -> Vec<Listed> {
    let mut by_name: BTreeMap<Reference, Vec<Image>> = BTreeMap::new();
    for image in images {
        by_name
            .entry(lookup::full_name(&image))
            .or_default()
            .push(image);
    }
    let used = |image: &Image| uses.get(image.name.as_str()).copied();
    let mut listed = Vec::new();
    for (full, mut images) in by_name {
        images.sort_by_key(|image| image.name != full);
        let same = |image: &Image| image.target.digest == images[0].target.digest;
        if images.iter().all(same) {
            let used_at = images.iter().filter_map(used).max();
            let image = images.swap_remove(0);
            let shown = familiar(&image.name);
            listed.push(Listed {
                image,
                shown,
                used_at,
            });
            continue;
        }
        listed.extend(images.into_iter().map(|image| Listed {
            shown: image.name.to_string(),
            used_at: used(&image),
            image,
        }));
    }
    listed
}

fn matches_familiar(filters: &Filters, listed: &Listed) -> bool {
    listed.shown.parse().is_ok_and(|name| {
        filters.matches(&Image {
            name,
            ..listed.image.clone()
        })
    })
}
