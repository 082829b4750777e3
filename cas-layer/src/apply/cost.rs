//! The work that the members of one layer cause, and its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cas_core::{Error, Result, limit};

use super::path::depth;

/// Counts the members of one layer, and bounds the work that they cause. The work is the number of
/// directories that no member describes, and the number of names that are looked up.
#[derive(Debug)]
pub struct Cost {
    entries: u64,
    /// Number of directories that were made without a member of their own.
    implied: u64,
    image: ImageCost,
    /// Number of names that were looked up to find parents.
    pub(super) lookups: u64,
    /// Number of names that may be looked up for the members so far.
    allowed_lookups: u64,
}

/// Counts the members of all layers of one image, and the directories that are made without a
/// member of their own. Clones share the counts, so layers can be applied in parallel.
#[derive(Clone, Debug, Default)]
pub struct ImageCost(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    entries: AtomicU64,
    implied: AtomicU64,
}

impl ImageCost {
    /// Returns the numbers of members and of implied directories after adding to them.
    pub(super) fn add(&self, entries: u64, implied: u64) -> (u64, u64) {
        let add = |count: &AtomicU64, more| count.fetch_add(more, Ordering::Relaxed) + more;
        (add(&self.0.entries, entries), add(&self.0.implied, implied))
    }
}

impl Cost {
    /// Returns the cost of a layer of the image whose cost is `image`. No members of the layer are
    /// counted yet.
    pub fn of_layer(image: ImageCost) -> Self {
        Cost {
            entries: 0,
            implied: 0,
            image,
            lookups: 0,
            allowed_lookups: limit::LOOKUPS,
        }
    }

    /// Returns the cost of the next layer of the same image. No members of the next layer are
    /// counted yet.
    #[must_use]
    pub fn next_layer(&self) -> Self {
        Self::of_layer(self.image.clone())
    }

    /// Counts a member.
    pub fn count_entry(&mut self) {
        self.entries += 1;
        self.image.add(1, 0);
    }

    /// Returns the number of members.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Allows further lookups for a member or a link target at `path`:
    /// [`limit::LOOKUPS_BY_ENTRY`], and [`limit::LOOKUPS_BY_NAME`] for each name in the path.
    pub fn allow_lookups(&mut self, path: &[u8]) {
        let names = limit::LOOKUPS_BY_NAME * depth(path) as u64;
        self.allowed_lookups += limit::LOOKUPS_BY_ENTRY + names;
    }

    /// Counts names that are about to be looked up.
    ///
    /// # Errors
    /// `OutOfRange` if more names are looked up than [`limit::LOOKUPS`] and the calls of
    /// [`Cost::allow_lookups`] allow together.
    pub fn count_lookups(&mut self, names: usize) -> Result<()> {
        self.lookups += names as u64;
        let allowed = self.allowed_lookups;
        if self.lookups <= allowed {
            return Ok(());
        }
        Err(Error::out_of_range(format!(
            "finding the parents of the layer's members takes more than the {allowed} lookups \
             allowed; build the image with fewer links"
        )))
    }

    /// Counts directories that are about to be made without a member of their own.
    ///
    /// # Errors
    /// `OutOfRange` if the members of the image so far imply more directories than [`limit`] allows
    /// for this number of members, or if the members and the implied directories of the layer are
    /// more than [`limit::ENTRIES`].
    pub fn count_implied(&mut self, directories: usize) -> Result<()> {
        let directories = directories as u64;
        self.implied += directories;
        let (entries, implied) = self.image.add(0, directories);
        let allowed = limit::IMPLIED.saturating_add(limit::IMPLIED_BY_ENTRY * entries);
        let of_layer = limit::ENTRIES.saturating_sub(self.entries);
        let (entries, implied, allowed) = match self.implied <= of_layer {
            true => (entries, implied, allowed),
            false => (self.entries, self.implied, of_layer),
        };
        if implied <= allowed {
            return Ok(());
        }
        Err(Error::out_of_range(format!(
            "the first {entries} members imply {implied} directories that no member describes; at \
             most {allowed} are allowed; build the image with members for its directories"
        )))
    }
}

/// Checks the number of symbolic links that one path leads through.
///
/// # Errors
/// `Corrupt` for more than [`limit::LINKS`].
pub fn check_links(links: usize) -> Result<()> {
    let most = limit::LINKS;
    if links <= most {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the path of a parent directory leads through more than {most} symbolic links; build the \
         image with fewer links"
    )))
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;
    use cas_core::limit::{LOOKUPS, LOOKUPS_BY_ENTRY, LOOKUPS_BY_NAME};

    use super::*;

    #[test]
    fn each_member_and_each_name_of_its_path_allow_more_lookups() {
        for (paths, allowed) in [
            (&[][..], LOOKUPS),
            (&[""], LOOKUPS + LOOKUPS_BY_ENTRY),
            (&["a"], LOOKUPS + LOOKUPS_BY_ENTRY + LOOKUPS_BY_NAME),
            (
                &["a", "b/c/d"],
                LOOKUPS + 2 * LOOKUPS_BY_ENTRY + 4 * LOOKUPS_BY_NAME,
            ),
        ] {
            let mut cost = Cost::of_layer(ImageCost::default());
            for path in paths {
                cost.allow_lookups(path.as_bytes());
            }
            cost.count_lookups(allowed as usize).unwrap();
            let error = cost.count_lookups(1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
            let said = format!("more than the {allowed} lookups");
            assert!(error.to_string().contains(&said), "{error}");
            // The bound holds for each layer.
            let mut next = cost.next_layer();
            next.count_lookups(LOOKUPS as usize).unwrap();
            assert!(next.count_lookups(1).is_err());
        }
    }
}
