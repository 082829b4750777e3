//! Choosing among the manifests that an image offers.

use std::collections::BTreeSet;

use super::platforms::choose;
use crate::descriptor::Descriptor;
use crate::platform::{Matcher, Only, Platform};

/// Chooses the manifests for one platform and remembers which platforms were offered, or chooses
/// all manifests.
#[derive(Debug, Default)]
pub struct Chooser {
    only: Option<Only>,
    offered: BTreeSet<String>,
}

impl Chooser {
    /// Returns a chooser for `platform`, or for all platforms if there is none.
    pub fn new(platform: Option<&Platform>) -> Self {
        Chooser {
            only: platform.map(Only::new),
            offered: BTreeSet::new(),
        }
    }

    /// Returns whether every platform is chosen.
    pub fn takes_all(&self) -> bool {
        self.only.is_none()
    }

    /// Returns the best matches among the entries of an index, and the entries without a platform.
    pub fn choose(&mut self, listed: &[Descriptor]) -> Vec<Descriptor> {
        let Some(only) = &self.only else {
            return listed.to_vec();
        };
        let platforms = listed.iter().filter_map(|entry| entry.platform.as_ref());
        let known = platforms.filter(|platform| !platform.is_unknown());
        self.offered
            .extend(known.map(|platform| platform.normalized().to_string()));
        choose(listed, only)
    }

    /// Returns whether an image for `platform` is chosen. An image without a platform always is.
    pub fn matches(&mut self, platform: Option<&Platform>) -> bool {
        let (Some(only), Some(platform)) = (&self.only, platform) else {
            return true;
        };
        self.offered.insert(platform.normalized().to_string());
        only.matches(platform)
    }

    /// Returns the platforms that were offered, separated by commas. A chooser for all platforms
    /// does not remember them.
    pub fn offered(&self) -> String {
        let offered: Vec<&str> = self.offered.iter().map(String::as_str).collect();
        offered.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type::MediaType;

    #[test]
    fn chooses_and_remembers() {
        let entry = |platform: &str| {
            let entry = Descriptor::of(MediaType::OCI_MANIFEST, platform.as_bytes());
            entry.with_platform(platform.parse().unwrap())
        };
        let listed = ["linux/arm64", "linux/amd64", "unknown/unknown"].map(entry);
        let wanted = "linux/amd64".parse().unwrap();
        let mut chooser = Chooser::new(Some(&wanted));
        assert_eq!(chooser.choose(&listed), listed[1..2]);
        assert!(!chooser.matches(Some(&"linux/s390x".parse().unwrap())));
        assert!(chooser.matches(None));
        assert_eq!(chooser.offered(), "linux/amd64, linux/arm64, linux/s390x");
        let mut all = Chooser::new(None);
        assert_eq!(all.choose(&listed), listed);
        assert!(all.takes_all() && all.offered().is_empty());
    }
}
