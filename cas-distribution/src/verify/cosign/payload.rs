//! The older form of a signature. A layer has the payload, which names the digest of the signed
//! image, and an annotation of the layer has the signature of the payload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas_core::{Descriptor, Digest};
use serde::Deserialize;

use super::{CosignKey, other_image};

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

/// Checks a payload and the signature in its descriptor. The error says why it is not right.
pub(super) fn check(
    key: &CosignKey,
    layer: &Descriptor,
    payload: &[u8],
    digest: &Digest,
) -> Result<(), String> {
    let signature = layer.annotations.get(SIGNATURE).map(String::as_str);
    let signature = STANDARD.decode(signature.unwrap_or_default());
    if !signature.is_ok_and(|text| key.has_signed(payload, &text)) {
        return Err("no signature is by this key".to_owned());
    }
    let payload: Option<Payload> = serde_json::from_slice(payload).ok();
    let claims = payload.map(|payload| payload.critical);
    match claims.filter(|claims| claims.kind == KIND) {
        Some(claims) if claims.image.digest == digest.to_string() => Ok(()),
        Some(claims) => Err(other_image(&claims.image.digest)),
        None => Err("what is signed is not an image".to_owned()),
    }
}
