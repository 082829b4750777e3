//! Choosing among the manifests that an image offers.

use std::collections::{BTreeSet, HashSet};

use super::platforms::choose;
use crate::descriptor::Descriptor;
use crate::platform::{Matcher, Only, Platform, in_words};

/// Chooses manifests by platform: the manifests for one platform, or all manifests. A chooser for
/// one platform also collects the platforms that the image offers, for an error message.
#[derive(Debug, Default)]
pub struct Chooser {
    only: Option<Only>,
    offered: HashSet<Platform>,
}

impl Chooser {
    /// Returns a chooser for `platform`, or for all platforms if `platform` is `None`.
    pub fn new(platform: Option<&Platform>) -> Self {
        Chooser {
            only: platform.map(Only::new),
            offered: HashSet::new(),
        }
    }

    /// Returns whether every platform is chosen.
    pub fn takes_all(&self) -> bool {
        self.only.is_none()
    }

    /// Returns the entries of an index that match the platform of the chooser best, and the entries
    /// without a platform. If every platform is chosen, returns all entries.
    pub fn choose(&self, listed: &[Descriptor]) -> Vec<Descriptor> {
        match &self.only {
            Some(only) => choose(listed, only),
            None => listed.to_vec(),
        }
    }

    /// Adds the platform of `listed` to the platforms that the image offers. Does nothing if every
    /// platform is chosen, if `listed` has no platform, or if a part of its platform is `unknown`,
    /// as in the descriptors of attestations.
    pub fn offer(&mut self, listed: &Descriptor) {
        if let (Some(_), Some(platform)) = (&self.only, &listed.platform) {
            self.remember(platform);
        }
    }

    /// Adds a platform to the offered platforms, unless a part of it is `unknown`.
    fn remember(&mut self, platform: &Platform) {
        if !platform.is_unknown() {
            self.offered.insert(platform.normalized());
        }
    }

    /// Returns whether an image for `platform` is chosen. An image without a platform is always
    /// chosen. Also adds the platform to the offered platforms, unless a part of it is `unknown` or
    /// every platform is chosen.
    pub fn matches(&mut self, platform: Option<&Platform>) -> bool {
        let (Some(only), Some(platform)) = (&self.only, platform) else {
            return true;
        };
        let matches = only.matches(platform);
        self.remember(platform);
        matches
    }

    /// Returns the last clause of the error for a platform that was not found. The clause lists at
    /// most 20 of the other platforms that were offered, as in `it has: linux/arm64`, or states
    /// that there are none.
    pub fn others(&self) -> String {
        let found = |platform: &&Platform| {
            let only = self.only.as_ref();
            only.is_none_or(|only| !only.matches(platform))
        };
        let others = self.offered.iter().filter(found);
        let others: BTreeSet<String> = others.map(ToString::to_string).collect();
        match others.len() {
            0 => "it has nothing for any other platform either".to_owned(),
            _ => format!("it has: {}", in_words(&others)),
        }
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
        assert_eq!(
            chooser.others(),
            "it has nothing for any other platform either"
        );
        for _ in 0..2 {
            listed.iter().for_each(|entry| chooser.offer(entry));
            assert!(!chooser.matches(Some(&"linux/s390x".parse().unwrap())));
        }
        for unknown in ["unknown/unknown", "linux/unknown", "unknown/amd64"] {
            let platform: Platform = unknown.parse().unwrap();
            chooser.offer(&listed[0].clone().with_platform(platform.clone()));
            assert!(!chooser.matches(Some(&platform)), "{unknown}");
        }
        assert!(chooser.matches(None));
        // The platform of the chooser itself is not named: the error is that nothing was found for
        // it.
        assert_eq!(chooser.others(), "it has: linux/arm64, linux/s390x");
        let all = Chooser::new(None);
        assert_eq!(all.choose(&listed), listed);
        assert!(all.takes_all());
    }
}
