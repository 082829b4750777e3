//! Which platforms match a wanted platform, and which of two matches is better.

use std::cmp::{Ordering, Reverse};

use super::Platform;

/// Decides which platforms match, and which of two matches is better.
pub trait Matcher: Send + Sync {
    /// Returns whether an image for `platform` matches.
    fn matches(&self, platform: &Platform) -> bool;

    /// Returns `Less` if `a` is the better match, `Greater` if `b` is, and `Equal` if both match
    /// equally well or not at all.
    fn compare(&self, a: &Platform, b: &Platform) -> Ordering;
}

/// Matches every platform equally well.
#[derive(Clone, Copy, Debug, Default)]
pub struct All;

impl Matcher for All {
    fn matches(&self, _: &Platform) -> bool {
        true
    }

    fn compare(&self, _: &Platform, _: &Platform) -> Ordering {
        Ordering::Equal
    }
}

/// Matches the images that run on one platform.
///
/// An image for exactly this platform is the best match. Next best are images for older variants
/// of the processor, newest first. Then come images for a 32-bit processor: 386 if the platform is
/// amd64, and arm if the platform is arm64. If the platform and the image both state a version of
/// Windows, the builds in these versions, such as 10.0.17763, must be equal. The platform must have
/// every feature that the image requires. Of two images that otherwise match equally well, the
/// image that requires more features is better.
///
/// These are the rules of containerd, with one exception. On a Windows host of a later build than
/// 20348 (Server 2022), containerd also accepts images of older builds, back to the last long-term
/// release before the build of the host.
#[derive(Clone, Debug)]
pub struct Only {
    wanted: Vec<Platform>,
}

impl Only {
    /// Returns the matcher for `platform`.
    pub fn new(platform: &Platform) -> Self {
        let exact = platform.normalized();
        let other = |architecture: &str, variant: String| {
            let found = Platform {
                architecture: architecture.to_owned(),
                variant: Some(variant).filter(|variant| !variant.is_empty()),
                ..exact.clone()
            };
            found.normalized()
        };
        let variant = exact.variant.as_deref().unwrap_or("");
        let mut wanted = vec![exact.clone()];
        match exact.architecture.as_str() {
            "amd64" => {
                let older = older_versions(variant, 1);
                wanted.extend(older.map(|variant| other("amd64", variant)));
                wanted.push(other("386", String::new()));
            }
            "arm" => {
                let older = older_versions(variant, 5);
                wanted.extend(older.map(|variant| other("arm", variant)));
            }
            "arm64" => {
                let older = older_arm64(variant).into_iter();
                wanted.extend(older.map(|variant| other("arm64", variant)));
                wanted.extend(arm_on_arm64(variant).map(|variant| other("arm", variant)));
            }
            _ => {}
        }
        Only { wanted }
    }

    fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = platform.normalized();
        self.wanted.iter().position(|wanted| {
            wanted.os == platform.os
                && wanted.architecture == platform.architecture
                && wanted.variant == platform.variant
                && runs_version(wanted, &platform)
                && has_features(wanted, &platform)
        })
    }
}

impl Matcher for Only {
    fn matches(&self, platform: &Platform) -> bool {
        self.rank(platform).is_some()
    }

    fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        let rank = |platform: &Platform| match self.rank(platform) {
            Some(rank) => (rank, Reverse(platform.os_features.len())),
            None => (usize::MAX, Reverse(0)),
        };
        rank(a).cmp(&rank(b))
    }
}

/// Returns the variants that are older than `variant`, down to `oldest`: for `v3` and 1, `v2` and
/// `v1`.
fn older_versions(variant: &str, oldest: u8) -> impl Iterator<Item = String> {
    let version = variant.trim_start_matches('v').parse().unwrap_or(0);
    (oldest..version).rev().map(|version| format!("v{version}"))
}

/// Returns the variants of arm64 that run on `variant`, newest first. v9.0 is based on v8.5, so
/// v9.x runs what v8.(x + 5) runs.
fn older_arm64(variant: &str) -> Vec<String> {
    let (major, minor) = match variant {
        "" => ("v8", 0),
        _ => variant
            .split_once('.')
            .map_or((variant, 0), |(major, minor)| {
                (major, minor.parse().unwrap_or(0u8).min(9))
            }),
    };
    let minors = |major: u8, end: u8| (0..end).rev().map(move |minor| format!("v{major}.{minor}"));
    match major {
        "v9" => minors(9, minor).chain(minors(8, minor + 6)).collect(),
        "v8" => minors(8, minor).collect(),
        _ => Vec::new(),
    }
}

/// Returns the variants of arm that run on a `variant` of arm64, newest first.
fn arm_on_arm64(variant: &str) -> impl Iterator<Item = String> {
    let newest = match variant {
        "" => "v8",
        _ if variant.starts_with("v8.") || variant.starts_with("v9.") => "v8",
        other => other,
    };
    std::iter::once(newest.to_owned()).chain(older_versions(newest, 5))
}

/// Returns whether the Windows version of `wanted` runs images for the version of `platform`. If
/// both state a version, their builds, such as 10.0.17763, must be equal. Versions of other systems
/// are not compared.
fn runs_version(wanted: &Platform, platform: &Platform) -> bool {
    let build = |version: &str| {
        version
            .split('.')
            .take(3)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    match (&wanted.os_version, &platform.os_version) {
        (Some(wanted_version), Some(found)) if wanted.os == "windows" => {
            build(wanted_version) == build(found)
        }
        _ => true,
    }
}

/// Returns whether `wanted` has every feature that `platform` requires.
fn has_features(wanted: &Platform, platform: &Platform) -> bool {
    let features = &wanted.os_features;
    platform
        .os_features
        .iter()
        .all(|feature| features.contains(feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// The expected matches are those of containerd's tests of its matcher.
    #[test]
    fn platforms_match_as_in_containerd() {
        let arms = "arm arm/v5 arm/v6 arm/v7 arm/v8";
        for (wanted, matching, others) in [
            ("amd64", "amd64 386".to_owned(), "amd64/v2 arm/v7 arm64"),
            (
                "amd64/v2",
                "amd64 amd64/v1 amd64/v2 386".to_owned(),
                "amd64/v3 amd64/v4 arm64",
            ),
            ("386", "386".to_owned(), "amd64 arm/v7 arm64"),
            ("arm/v8", arms.to_owned(), "amd64 arm/v4 arm64"),
            (
                "arm/v7",
                "arm arm/v5 arm/v6 arm/v7".to_owned(),
                "amd64 arm/v4 arm/v8 arm64",
            ),
            (
                "arm/v6",
                "arm/v5 arm/v6".to_owned(),
                "arm arm/v4 arm/v7 arm/v8 arm64",
            ),
            (
                "arm/v5",
                "arm/v5".to_owned(),
                "arm arm/v4 arm/v6 arm/v7 arm/v8 arm64",
            ),
            (
                "arm/v4",
                "arm/v4".to_owned(),
                "arm arm/v5 arm/v6 arm/v7 arm/v8 arm64",
            ),
            (
                "arm64/v9",
                format!(
                    "{arms} arm64 arm64/v8 arm64/v8.1 arm64/v8.2 arm64/v8.3 arm64/v8.4 arm64/v8.5 \
                     arm64/v9 arm64/v9.0"
                ),
                "amd64 arm/v4 arm64/v8.6 arm64/v9.1",
            ),
            (
                "arm64/v9.1",
                format!("{arms} arm64 arm64/v8.6 arm64/v9"),
                "arm64/v8.7 arm64/v9.2",
            ),
            (
                "arm64/v8.1",
                format!("{arms} arm64 arm64/v8 arm64/v8.1"),
                "amd64 arm/v4 arm/v9 arm64/v8.2 arm64/v9",
            ),
            (
                "arm64",
                format!("{arms} arm64 arm64/v8"),
                "amd64 arm/v4 arm/v9 arm64/v8.1 arm64/v9",
            ),
            ("riscv64", "riscv64".to_owned(), "amd64 386 arm64"),
        ] {
            let only = Only::new(&platform(&format!("linux/{wanted}")));
            for (texts, expected) in [(matching.as_str(), true), (others, false)] {
                for text in texts.split(' ') {
                    let found = only.matches(&platform(&format!("linux/{text}")));
                    assert_eq!(found, expected, "{wanted} {text}");
                    assert!(
                        !only.matches(&platform(&format!("windows/{text}"))),
                        "{wanted} {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_better_match_is_the_newer_and_wider_one() {
        for (wanted, best_first) in [
            ("linux/amd64/v3", "amd64/v3 amd64/v2 amd64 386"),
            (
                "linux/arm64/v9.1",
                "arm64/v9.1 arm64/v9 arm64/v8.6 arm64 arm/v8 arm/v7 arm/v5",
            ),
            ("linux/arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5 amd64"),
            ("linux/arm/v7", "arm/v7 arm/v6 arm/v5"),
        ] {
            let only = Only::new(&platform(wanted));
            let texts: Vec<_> = best_first.split(' ').collect();
            for pair in texts.windows(2) {
                let [a, b] = [pair[0], pair[1]].map(|text| platform(&format!("linux/{text}")));
                assert_eq!(only.compare(&a, &b), Ordering::Less, "{wanted}: {a} {b}");
            }
        }
    }

    #[test]
    fn versions_and_features_count() {
        let with = |os: &str, version: Option<&str>, features: &[&str]| Platform {
            os_version: version.map(str::to_owned),
            os_features: features
                .iter()
                .map(|feature| (*feature).to_owned())
                .collect(),
            ..Platform::new(os, "amd64")
        };
        let server = with("windows", Some("10.0.17763.1"), &["win32k"]);
        for (found, expected) in [
            (with("windows", Some("10.0.17763.2"), &[]), true),
            (with("windows", None, &["win32k"]), true),
            (with("windows", Some("10.0.20348.1"), &[]), false),
            (with("windows", None, &["other"]), false),
        ] {
            assert_eq!(Only::new(&server).matches(&found), expected, "{found:?}");
        }
        let linux = Only::new(&with("linux", Some("6.1"), &[]));
        assert!(linux.matches(&with("linux", Some("5.4"), &[])));
        let any = Only::new(&with("windows", None, &[]));
        assert!(any.matches(&with("windows", Some("10.0.17763"), &[])));
        let (tars, images) = (with("linux", None, &[]), with("linux", None, &["erofs"]));
        let both = Only::new(&images);
        assert!(both.matches(&tars) && both.matches(&images));
        assert_eq!(both.compare(&images, &tars), Ordering::Less);
        assert_eq!(
            both.compare(&with("linux", None, &["other"]), &tars),
            Ordering::Greater
        );
        assert!(!Only::new(&tars).matches(&images));
    }
}
