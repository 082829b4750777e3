//! Platforms, their common spellings, and which images match them.

mod matcher;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use matcher::{All, Matcher, Only};

use crate::error::{Error, Result, excerpt};
use crate::limit;
use crate::nulls::null_is_default;

/// The feature that an image requires if its layers are EROFS images.
pub const EROFS: &str = "erofs";

/// The operating system and processor that an image is built for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct Platform {
    /// The processor, named as in GOARCH, such as `amd64` or `arm64`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The operating system, named as in GOOS, such as `linux`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// Version of the operating system. Only versions of Windows are compared.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features that the image requires of the operating system, such as `win32k` on Windows, or
    /// [`EROFS`] for layers that are EROFS images.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_features: Vec<String>,
    /// Variant of the processor, such as `v7` or `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform `os/architecture`, [normalized](Platform::normalized).
    pub fn new(os: &str, architecture: &str) -> Self {
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            ..Platform::default()
        }
        .normalized()
    }

    /// Returns the platform that this program runs on.
    pub fn host() -> Self {
        Platform::new(std::env::consts::OS, std::env::consts::ARCH)
    }

    /// Returns the platform in its normal spelling, in which platforms are compared. For example,
    /// `x86_64` becomes `amd64`, and `aarch64` becomes `arm64`. The variant `v8` of `arm64` is left
    /// out. If 32-bit `arm` has no variant, the variant becomes `v7`.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.as_deref().unwrap_or("").to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Platform {
            architecture: architecture.to_owned(),
            os,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
        }
    }

    /// Returns whether neither the operating system nor the processor is stated. Content whose
    /// platform is unstated is not for a particular platform.
    pub fn is_unstated(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

    /// Returns whether the operating system or the processor is `unknown`. Builders give
    /// attestations the platform `unknown/unknown`.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_features.is_empty() {
            write!(f, "(+{})", self.os_features.join("+"))?;
        }
        write!(f, "/{}", self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// Returns the first 20 platforms for a message, each shortened as by [`excerpt`]. If one of all
/// platforms requires the feature [`EROFS`] and no other feature, a hint follows.
pub(crate) fn in_words(platforms: &BTreeSet<String>) -> String {
    const MOST: usize = 20;
    let first = platforms.iter().take(MOST).map(|one| excerpt(one));
    let mut listed = first.collect::<Vec<_>>().join(", ");
    match platforms.len().saturating_sub(MOST) {
        0 => {}
        more => listed += &format!(" and {more} more"),
    }
    if platforms.iter().any(|one| one.contains("(+erofs)")) {
        listed += "; to use a variant with (+erofs), whose layers are EROFS images, create a root \
                   with the snapshotter `erofs://?native=true`";
    }
    listed
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/architecture[/variant]`. Features that the image may require follow the operating
    /// system, as in `linux(+erofs)/amd64`.
    fn from_str(text: &str) -> Result<Self> {
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= limit::PLATFORM_PART
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let mut parts: Vec<&str> = text.split('/').collect();
        let mut features = Vec::new();
        if let Some((os, listed)) = parts[0].split_once("(+")
            && let Some(listed) = listed.strip_suffix(')')
        {
            parts[0] = os;
            features = listed.split('+').collect();
        }
        let words = parts.iter().chain(&features);
        if !(2..=3).contains(&parts.len())
            || features.len() > limit::OS_FEATURES
            || !words.copied().all(|part| word(&part))
        {
            return Err(Error::invalid(
                "expected os/architecture or os/architecture/variant, as in linux/arm64/v8 or \
                 linux(+erofs)/amd64",
            )
            .operation("parse platform")
            .subject(excerpt(text)));
        }
        let mut platform = Platform::new(parts[0], parts[1]);
        platform.os_features = features.into_iter().map(str::to_owned).collect();
        if let Some(variant) = parts.get(2) {
            platform.variant = Some((*variant).to_owned());
        }
        Ok(platform.normalized())
    }
}

/// Selects the platforms of an image for an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    /// The platform of this machine. An image without an index is taken, whatever its platform is.
    /// When an image layout is imported, an entry of `index.json` that has a platform counts as an
    /// entry of an index. For a push, `Host` has another meaning; see
    /// [`PushOptions::platforms`](crate::transfer::PushOptions::platforms).
    #[default]
    Host,
    /// As `Host`, with this platform in place of the platform of this machine.
    Like(Platform),
    /// The best match for one platform, by the rules of [`Only`]. An image without an index must
    /// match this platform, too.
    One(Platform),
    /// Every platform of the image.
    All,
}

impl Platforms {
    /// Returns the platform by which an image is chosen from an index. `None` means all platforms.
    pub fn wanted(&self) -> Option<Platform> {
        match self {
            Platforms::Host => Some(Platform::host()),
            Platforms::Like(platform) | Platforms::One(platform) => Some(platform.clone()),
            Platforms::All => None,
        }
    }

    /// Returns the platform by which an image is chosen, for an operation that needs exactly one.
    ///
    /// # Errors
    /// `InvalidArgument` for [`Platforms::All`].
    pub fn single(&self) -> Result<Platform> {
        self.wanted().ok_or_else(|| {
            Error::invalid(
                "expected one platform, found all; name one platform, or omit the platform to \
                 select that of this machine",
            )
        })
    }

    /// Returns the platform that an image without an index must have. `None` means that the image
    /// may have any platform.
    pub fn required(&self) -> Option<&Platform> {
        match self {
            Platforms::One(platform) => Some(platform),
            _ => None,
        }
    }

    /// Adds `features` to the platform of this machine, if [`Platforms::Host`] is selected. If two
    /// images of an index otherwise match equally well, the image that requires more of these
    /// features is then chosen. Returns any other selection unchanged.
    #[must_use]
    pub fn preferring(self, features: &[&str]) -> Self {
        if self != Platforms::Host || features.is_empty() {
            return self;
        }
        Platforms::Like(Platform {
            os_features: features.iter().map(|&feature| feature.to_owned()).collect(),
            ..Platform::host()
        })
    }

    /// Returns [`Platforms::Host`] in place of [`Platforms::All`], for an operation on one
    /// platform. Returns any other selection unchanged.
    #[must_use]
    pub fn narrowed(self) -> Self {
        match self {
            Platforms::All => Platforms::Host,
            other => other,
        }
    }
}

impl From<Platform> for Platforms {
    fn from(platform: Platform) -> Self {
        Platforms::One(platform)
    }
}

impl From<Option<Platform>> for Platforms {
    fn from(platform: Option<Platform>) -> Self {
        platform.map_or(Platforms::Host, Platforms::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_message_lists_few_platforms_and_no_long_ones() {
        let listed = |names: Vec<String>| in_words(&names.into_iter().collect());
        assert_eq!(listed(vec![]), "");
        assert_eq!(listed(vec!["a/b".into(), "c/d".into()]), "a/b, c/d");
        let long = format!("{}… (1048576 bytes)", "x".repeat(100));
        assert_eq!(listed(vec!["x".repeat(1 << 20)]), long);
        let many = (0..30).map(|n| format!("os/{n:02}"));
        let many = listed(many.collect());
        assert!(many.ends_with("os/18, os/19 and 10 more"), "{many}");
    }

    #[test]
    fn common_spellings_are_equal() {
        for (a, b) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/arm64/v8", "linux/aarch64"),
            ("linux/arm64/v9.0", "linux/aarch64/9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/armel"),
            ("macos/arm64", "darwin/arm64"),
        ] {
            assert_eq!(platform(a), platform(b), "{a} {b}");
        }
    }

    #[test]
    fn features_follow_the_operating_system() {
        let found = platform("linux(+erofs+other)/arm64/v9");
        assert_eq!(found.os_features, [EROFS, "other"]);
        assert_eq!(found.to_string(), "linux(+erofs+other)/arm64/v9");
        assert_eq!(platform("linux/amd64").os_features, [""; 0]);
        for host in [Platforms::Host.preferring(&[]), Platforms::default()] {
            assert_eq!(host, Platforms::Host);
        }
        let like = Platforms::Host.preferring(&[EROFS]);
        assert_eq!(like.wanted().unwrap().os_features, [EROFS]);
        assert_eq!(like.required(), None);
        let one = Platforms::One(found);
        assert_eq!(one.clone().preferring(&[EROFS]), one);
    }

    #[test]
    fn invalid_platforms_are_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/a md",
            "li\nnux/amd64",
            "linux(/amd64",
            "linux(+erofs/amd64",
            "linux(+)/amd64",
            "linux(+erofs)x/amd64",
            "linux/amd64(+erofs)",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        for (length, is_taken) in [
            (limit::PLATFORM_PART, true),
            (limit::PLATFORM_PART + 1, false),
        ] {
            let text = format!("linux/{}", "a".repeat(length));
            assert_eq!(text.parse::<Platform>().is_ok(), is_taken, "{length}");
        }
        let features = |count| format!("linux({})/amd64", "+f".repeat(count));
        let most = platform(&features(limit::OS_FEATURES));
        assert_eq!(most.os_features.len(), limit::OS_FEATURES);
        let more = features(limit::OS_FEATURES + 1).parse::<Platform>();
        assert_eq!(more.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
