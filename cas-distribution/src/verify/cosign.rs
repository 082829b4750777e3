//! Signatures of cosign, by a public key.
//!
//! A signature of an image is a layer of the image `sha256-<digits>.sig` in the same repository.
//! Its content, the payload, names the digest of the signed image, and an annotation of the layer
//! has the signature of the payload.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas_core::image::FullName;
use cas_core::transfer::Fetcher;
use cas_core::{Context, Descriptor, Digest, Error, ErrorKind, Manifest, MediaType, Result, limit};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

use super::Verifier;
use crate::content::whole;
use crate::{bounded, runtime};

/// What the PEM form of a public key begins and ends with.
const PEM: [&str; 2] = ["-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"];
/// How the DER form of every key of the curve P-256 begins. The point follows.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length in bytes of an uncompressed point.
const POINT: usize = 65;
/// The annotation with the signature of a payload, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The media type of a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The type of a payload that signs an image.
const TYPE: &str = "cosign container image signature";

/// A public key of cosign: ECDSA on the curve P-256, with SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignKey(Vec<u8>);

impl CosignKey {
    /// Reads a key from a file in PEM form, such as `cosign.pub`.
    ///
    /// # Errors
    /// `NotFound` if the file is absent; `OutOfRange` if it has more than [`limit::HOSTS_FILE`]
    /// bytes; as [`CosignKey::parse`]; errors of the file system.
    pub async fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        runtime::blocking(move || {
            let read = || {
                let data = bounded::read(&path, "the file of the key", limit::HOSTS_FILE)?;
                let absent = || Error::not_found("the key is absent; check the path");
                Self::parse(&String::from_utf8_lossy(&data.ok_or_else(absent)?))
            };
            read().during("read", path.display())
        })
        .await
    }

    /// Parses a key in PEM form.
    ///
    /// # Errors
    /// `InvalidArgument` if the text is not a public key in PEM form; `Unsupported` for a key of
    /// another kind.
    pub fn parse(pem: &str) -> Result<Self> {
        let inner = pem.trim().strip_prefix(PEM[0]);
        let inner = inner.and_then(|rest| rest.strip_suffix(PEM[1]));
        let inner: Option<String> = inner.map(|text| text.split_whitespace().collect());
        let der = inner.and_then(|text| STANDARD.decode(text).ok());
        let der = der.ok_or_else(|| {
            Error::invalid(
                "expected one public key in PEM form, as in cosign.pub; write it with `cosign \
                 public-key`",
            )
        })?;
        match der.strip_prefix(&P256[..]) {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(CosignKey(point.to_vec())),
            _ => Err(Error::unsupported(
                "expected a key of the curve P-256, found another one; make one with `cosign \
                 generate-key-pair`",
            )),
        }
    }

    /// Returns whether `signature` is this key's signature of `payload`.
    fn has_signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0);
        key.verify(payload, signature).is_ok()
    }
}

/// Finds the repository for a name.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Returns the repository for a name, from which its content can be fetched.
    ///
    /// # Errors
    /// As [`Client::at`](crate::Client::at).
    async fn connect(&self, name: &FullName) -> Result<Arc<dyn Fetcher>>;
}

/// Accepts images that have a signature of cosign by one key. The digest in the signature must be
/// that of the image. The name in the signature does not count, as with `cosign verify`, so that an
/// image may be copied to another name.
#[derive(Clone)]
pub struct Cosign {
    key: CosignKey,
    registries: Arc<dyn Connect>,
}

impl Cosign {
    /// Returns a verifier for this key, which fetches signatures from these registries.
    pub fn new(key: CosignKey, registries: Arc<dyn Connect>) -> Self {
        Cosign { key, registries }
    }

    /// Checks the signatures of an image until one is right. If none is right, returns an error
    /// that says why the last one is not.
    async fn check(&self, name: &FullName, target: &Descriptor) -> Result<()> {
        let signatures = signatures_of(name, &target.digest)?;
        let fetcher = self.registries.connect(&signatures).await?;
        let manifest = match fetcher.resolve().await {
            Ok(found) => whole(&*fetcher, &found, limit::DOCUMENT_READ).await?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(rejected(format!(
                    "{signatures} is absent, so the image is not signed"
                )));
            }
            Err(error) => return Err(error),
        };
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| {
            rejected(format!(
                "{signatures} is not a manifest of signatures: {error}"
            ))
        })?;
        let is_payload = |layer: &&Descriptor| layer.media_type == MediaType::from(PAYLOAD);
        let layers = manifest.layers.iter().filter(is_payload);
        let (mut why, mut failed) = ("it has no signatures".to_owned(), None);
        for layer in layers.take(limit::SIGNATURES) {
            match self.check_one(&*fetcher, layer, &target.digest).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Denied => why = error.to_string(),
                // Another signature may be right.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| rejected(format!("{signatures}: {why}"))))
    }

    async fn check_one(
        &self,
        fetcher: &dyn Fetcher,
        layer: &Descriptor,
        digest: &Digest,
    ) -> Result<()> {
        if layer.size > limit::ANSWER {
            return Err(denied(format!(
                "a payload has {} bytes; at most {} are read",
                layer.size,
                limit::ANSWER
            )));
        }
        let signature = layer.annotations.get(SIGNATURE).map(String::as_str);
        let signature = STANDARD.decode(signature.unwrap_or_default());
        let payload = whole(fetcher, layer, limit::ANSWER).await?;
        let is_signed = signature.is_ok_and(|text| self.key.has_signed(&payload, &text));
        if !is_signed {
            return Err(denied("no signature is by this key".to_owned()));
        }
        let payload: Option<Payload> = serde_json::from_slice(&payload).ok();
        let claims = payload.map(|payload| payload.critical);
        let claims = claims.filter(|claims| claims.kind == TYPE);
        match claims {
            Some(claims) if claims.image.digest == digest.to_string() => Ok(()),
            Some(claims) => Err(denied(format!(
                "the signature is for {:.100}, another image",
                claims.image.digest.escape_debug().to_string()
            ))),
            None => Err(denied("what is signed is not an image".to_owned())),
        }
    }
}

#[async_trait]
impl Verifier for Cosign {
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>> {
        self.check(name, target).await.map(|()| Vec::new())
    }
}

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

/// Returns the name of the image whose layers are the signatures of an image.
fn signatures_of(name: &FullName, digest: &Digest) -> Result<FullName> {
    let (host, repository) = (name.host(), name.repository());
    let tag = digest.to_string().replace(':', "-");
    format!("{host}/{repository}:{tag}.sig").parse()
}

fn rejected(why: String) -> Error {
    let advice = "sign the image with `cosign sign`, or pull another one";
    denied(format!("{why}; {advice}"))
}

fn denied(why: String) -> Error {
    Error::new(ErrorKind::Denied, why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;

    use bytes::Bytes;
    use cas_core::transfer::Pieces;
    use futures_util::{StreamExt, stream};
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAELiDTdJrMq300ht7tId/bDJgMBoiH\n\
        kuKHcc6HQW44w9B9rRiTp8mAXiu8ZIcpIVwrMuyewKSe9GT+v7xWk6h4Rg==\n\
        -----END PUBLIC KEY-----\n";
    /// A key of the curve P-384.
    const LARGER: &str = "-----BEGIN PUBLIC KEY-----\n\
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE3g92WS9CD8hRBMHGY1XtibkWRC9IP+xu\n\
        ZZ/KyzYxoYZS85GXLCXfHymvp6Heq2PKHJCBUhx3vZfGhqYYbp1I7vjBjoTPclDK\n\
        kQtOj8OlXI5rGx0oYxlWmpN8UpZoRvw2\n-----END PUBLIC KEY-----\n";
    /// Signatures by the key: of the right payload, of one for another image, of another type, and
    /// of an empty object. `openssl dgst -sha256 -sign` has made them.
    const GOOD: &str = "MEUCIE8GaeE6+mNwsZiDWtr7yzRiwnrofu83OC2HFUK/IBn0AiEAo25zKrIyxBwbmhZfWE7H\
        hT/o/pJvOcy8CfxhZFpFsCE=";
    const OTHER_IMAGE: &str = "MEUCIQDl5nKcZ9aAoELPS4wKLMr3IET9F0Gqb/OUPElaZkwrQAIgAgB0e/wd\
        Izrr3MKz15+KrwdOSgnva41+f094nhY60Mk=";
    const OTHER_TYPE: &str = "MEYCIQCkHdez+QdykPT2aFv6ChwW5ZR+dpCxHSOkGFyWPyRtRwIhAJ7u9B5P\
        nnijNf/J+mKp51BG+ZnTXcM8em626P6i3YzD";
    const EMPTY: &str = "MEYCIQCKxdzsp8AICMxjrNGH5mv0bp4e3JMDfXbVo8U4VOvXjgIhAOI4TReB\
        PDFrghbtcdABtsBcgxrd666XdVzthgnCYJaK";
    /// The signature of the right payload by another key.
    const OTHER_KEY: &str = "MEQCIArXUFvAcMb1TaY+no6gYq9ytJigQdxtQxrrt96SZdzAAiAM+1/2m7jH\
        NTK+8AR2ZzI28WS6t4jXO5pBu3wyXOPyQw==";

    fn payload(image: &str, kind: &str) -> String {
        let image = json!({"docker-manifest-digest": image});
        let identity = json!({"docker-reference": "x.test/app"});
        let critical = json!({"identity": identity, "image": image, "type": kind});
        json!({"critical": critical, "optional": null}).to_string()
    }

    fn good() -> String {
        payload(&Digest::sha256(b"x").to_string(), TYPE)
    }

    /// A repository with signatures, or without any.
    #[derive(Clone, Default)]
    struct Repository {
        root: Option<Descriptor>,
        content: BTreeMap<Digest, Vec<u8>>,
    }

    impl Repository {
        fn new(signatures: &[(&str, &str)]) -> Self {
            let mut made = Repository::default();
            let mut put = |media_type: &str, data: &[u8]| {
                let descriptor = Descriptor::of(MediaType::from(media_type), data);
                made.content.insert(descriptor.digest, data.to_vec());
                descriptor
            };
            let mut layers = Vec::new();
            for (payload, signature) in signatures {
                let mut layer = put(PAYLOAD, payload.as_bytes());
                let signature = (SIGNATURE.to_owned(), (*signature).to_owned());
                layer.annotations.extend([signature]);
                layers.push(layer);
            }
            let config = put("application/vnd.oci.image.config.v1+json", b"{}");
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
            let manifest = manifest.to_string();
            let root = put(
                "application/vnd.oci.image.manifest.v1+json",
                manifest.as_bytes(),
            );
            made.root = Some(root);
            made
        }
    }

    #[async_trait]
    impl Connect for Repository {
        async fn connect(&self, name: &FullName) -> Result<Arc<dyn Fetcher>> {
            let tag = format!("sha256-{}.sig", Digest::sha256(b"x").hex());
            assert_eq!(name.to_string(), format!("x.test/team/app:{tag}"));
            Ok(Arc::new(self.clone()))
        }
    }

    #[async_trait]
    impl Fetcher for Repository {
        async fn resolve(&self) -> Result<Descriptor> {
            self.root.clone().ok_or_else(|| Error::not_found("no tag"))
        }

        async fn fetch(&self, descriptor: &Descriptor, _: Range<u64>) -> Result<Pieces> {
            let data = Bytes::from(self.content[&descriptor.digest].clone());
            Ok(stream::iter([Ok(data)]).boxed())
        }
    }

    async fn verified(repository: Repository) -> Result<()> {
        let key = CosignKey::parse(KEY).unwrap();
        let target = Descriptor::of(MediaType::OCI_MANIFEST, b"x");
        let name = "x.test/team/app:1".parse().unwrap();
        let cosign = Cosign::new(key, Arc::new(repository));
        cosign.verify(&name, &target).await.map(|_| ())
    }

    async fn rejected(repository: Repository, why: &str) {
        let error = verified(repository).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }

    #[tokio::test]
    async fn one_right_signature_is_enough() {
        let good = good();
        for signatures in [
            &[(good.as_str(), GOOD)][..],
            &[(&good, OTHER_KEY), (&good, GOOD)],
            &[("{}", EMPTY), ("nothing", ""), (&good, GOOD)],
        ] {
            verified(Repository::new(signatures)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_signature_that_is_not_right_says_why() {
        let good = good();
        let zeros = Digest::sha256(b"x")
            .to_string()
            .replace("2d711642b726b044", &"0".repeat(16));
        let other_image = payload(&zeros, TYPE);
        let other_type = payload(&Digest::sha256(b"x").to_string(), "another");
        for (payload, signature, why) in [
            (good.as_str(), OTHER_KEY, "no signature is by this key"),
            (&good, "", "no signature is by this key"),
            (&good, "AAAA", "no signature is by this key"),
            (&good, "not base64", "no signature is by this key"),
            // Another payload under the right signature.
            (&other_image, GOOD, "no signature is by this key"),
            (&other_image, OTHER_IMAGE, "is for sha256:0000000000000000"),
            (&other_type, OTHER_TYPE, "what is signed is not an image"),
            ("{}", EMPTY, "what is signed is not an image"),
        ] {
            rejected(Repository::new(&[(payload, signature)]), why).await;
        }
        rejected(Repository::new(&[]), "it has no signatures").await;
        rejected(
            Repository::default(),
            "is absent, so the image is not signed",
        )
        .await;
    }

    #[tokio::test]
    async fn content_with_other_bytes_is_damage() {
        let good = good();
        let mut repository = Repository::new(&[(&good, GOOD)]);
        let digest = Digest::sha256(good.as_bytes());
        repository.content.insert(digest, b"other".to_vec());
        let error = verified(repository).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn no_more_signatures_are_checked_than_the_bound() {
        let good = good();
        for (before, is_found) in [(limit::SIGNATURES - 1, true), (limit::SIGNATURES, false)] {
            let mut signatures = vec![(good.as_str(), OTHER_KEY); before];
            signatures.push((&good, GOOD));
            let found = verified(Repository::new(&signatures)).await;
            assert_eq!(found.is_ok(), is_found);
        }
    }

    #[test]
    fn only_a_key_of_the_right_kind_is_read() {
        let trimmed = CosignKey::parse(KEY.trim()).unwrap();
        assert_eq!(CosignKey::parse(KEY).unwrap(), trimmed);
        for (text, kind) in [
            ("", ErrorKind::InvalidArgument),
            ("secret", ErrorKind::InvalidArgument),
            (PEM[0], ErrorKind::InvalidArgument),
            (
                &KEY.replace("PUBLIC", "PRIVATE"),
                ErrorKind::InvalidArgument,
            ),
            (&KEY.replace("MFkw", "M!kw"), ErrorKind::InvalidArgument),
            (&format!("{KEY}{KEY}"), ErrorKind::InvalidArgument),
            (LARGER, ErrorKind::Unsupported),
        ] {
            let error = CosignKey::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
