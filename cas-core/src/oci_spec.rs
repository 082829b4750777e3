//! Conversions between the types of this crate and the types of the crate `oci-spec`, for programs
//! that use both crates.
//!
//! The types of both crates read and write the JSON of the OCI image specification. A conversion
//! writes a value of one crate as JSON, and reads this JSON as a value of the other crate.

use oci_spec::image as theirs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptor::Descriptor;
use crate::document::{Index, Manifest};
use crate::error::{Error, Result};
use crate::platform::Platform;

fn through_json<A: Serialize, B: DeserializeOwned>(from: &A, what: &str) -> Result<B> {
    serde_json::to_value(from)
        .and_then(serde_json::from_value)
        .map_err(|error| {
            Error::invalid(format!(
                "the value does not convert to {what}: {error}; correct the value"
            ))
            .source(error)
        })
}

macro_rules! convert {
    ($($ours:ident, $theirs:ident, $what:literal;)*) => {$(
        impl TryFrom<&theirs::$theirs> for $ours {
            type Error = Error;

            fn try_from(theirs: &theirs::$theirs) -> Result<Self> {
                through_json(theirs, $what)
            }
        }

        impl TryFrom<&$ours> for theirs::$theirs {
            type Error = Error;

            fn try_from(ours: &$ours) -> Result<Self> {
                through_json(ours, $what)
            }
        }
    )*};
}

convert! {
    Descriptor, Descriptor, "a descriptor";
    Index, ImageIndex, "an image index";
    Manifest, ImageManifest, "an image manifest";
    Platform, Platform, "a platform";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type::MediaType;

    #[test]
    fn a_descriptor_and_its_platform_survive_a_round_trip() {
        let mut ours = Descriptor::of(MediaType::OCI_MANIFEST, b"{}")
            .with_platform("linux/arm/v6".parse().unwrap());
        ours.annotations.insert("a".into(), "b".into());
        let converted = theirs::Descriptor::try_from(&ours).unwrap();
        assert_eq!(Descriptor::try_from(&converted).unwrap(), ours);
        let platform = ours.platform.unwrap();
        let converted = theirs::Platform::try_from(&platform).unwrap();
        assert_eq!(Platform::try_from(&converted).unwrap(), platform);
    }
}
