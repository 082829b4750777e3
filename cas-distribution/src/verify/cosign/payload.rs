//! Verifies the older form of a signature. A layer has the payload, which names the digest of the
//! signed image. An annotation of the layer has the signature of the payload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas_core::error::excerpt;
use cas_core::{Descriptor, Digest};
use serde::Deserialize;

use super::{CosignKey, other_image, unparsed};

/// The media type of a payload.
pub(super) const TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// How the type of an artifact with payloads begins.
pub(super) const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.";
/// The annotation with the signature of a payload, in base64.
pub(super) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The type of a payload that signs an image.
pub(super) const KIND: &str = "cosign container image signature";

/// What a payload contains. The other members do not count.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Signed,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Checks a payload and the signature in the annotation of its layer. The error is the reason why
/// they are not valid.
pub(super) fn check(
    key: &CosignKey,
    layer: &Descriptor,
    payload: &[u8],
    digest: &Digest,
) -> Result<(), String> {
    let signature = layer.annotations.get(SIGNATURE).map(String::as_str);
    let signature = STANDARD.decode(signature.unwrap_or_default());
    if !signature.is_ok_and(|text| key.has_signed(payload, &text)) {
        return Err("a payload is not signed by the configured key".to_owned());
    }
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|error| unparsed("a signed payload", &error))?;
    let claims = payload.critical;
    if claims.kind != KIND {
        let kind = excerpt(&claims.kind);
        return Err(format!(
            "a signed payload has the type \"{kind}\"; expected {KIND:?}"
        ));
    }
    if claims.image.digest != digest.to_string() {
        return Err(other_image(&claims.image.digest));
    }
    Ok(())
}
