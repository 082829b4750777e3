//! Repositories with signatures of cosign in both forms.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cas_core::transfer::{Pieces, ReferrerPages};
use cas_core::{Algorithm, MediaType};
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::key::tests::{KEY, Signer};
use super::payload::{KIND, SIGNATURE};
use super::*;

/// Signatures by the key: of the right payload, of a payload for another image, of a payload of
/// another type, and of an empty object. `openssl dgst -sha256 -sign` has made the signatures.
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

/// How many referrers a page has.
const PAGE: usize = 16;

fn payload(image: &str, kind: &str) -> String {
    let image = json!({"docker-manifest-digest": image});
    let identity = json!({"docker-reference": "x.test/app"});
    let critical = json!({"identity": identity, "image": image, "type": kind});
    json!({"critical": critical, "optional": null}).to_string()
}

fn good_payload() -> String {
    payload(&Digest::sha256(b"x").to_string(), KIND)
}

/// A repository with signatures, or without any.
#[derive(Clone, Default)]
struct Signed {
    /// The signed image, if it is not [`target`].
    image: Option<Descriptor>,
    root: Option<Descriptor>,
    referrers: Vec<Descriptor>,
    content: BTreeMap<Digest, Vec<u8>>,
    /// How many pages of referrers were read.
    pages: Arc<AtomicUsize>,
}

impl Signed {
    /// Returns a repository with signatures in the older form.
    fn new(signatures: &[(&str, &str)]) -> Self {
        let mut made = Signed::default();
        let layers = signatures.iter().map(|(payload, signature)| {
            let mut layer = made.put(payload::TYPE, payload.as_bytes());
            let signature = (SIGNATURE.to_owned(), (*signature).to_owned());
            layer.annotations.extend([signature]);
            layer
        });
        let layers = layers.collect::<Vec<_>>();
        made.root = Some(made.manifest(&layers, None));
        made
    }

    fn image(&self) -> Descriptor {
        self.image.clone().unwrap_or_else(target)
    }

    fn put(&mut self, media_type: &str, data: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(MediaType::from(media_type), data);
        self.content.insert(descriptor.digest, data.to_vec());
        descriptor
    }

    fn manifest(&mut self, layers: &[Descriptor], subject: Option<&Descriptor>) -> Descriptor {
        let config = self.put("application/vnd.oci.empty.v1+json", b"{}");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers,
            "subject": subject});
        self.put(
            MediaType::OCI_MANIFEST.as_str(),
            manifest.to_string().as_bytes(),
        )
    }

    /// Adds a referrer of the type `listed` with one layer.
    fn refer(mut self, listed: &str, layer: (&str, &[u8]), subject: &Descriptor) -> Self {
        let layer = self.put(layer.0, layer.1);
        let mut referrer = self.manifest(&[layer], Some(subject));
        referrer.artifact_type = Some(listed.to_owned());
        self.referrers.push(referrer);
        self
    }
}

#[async_trait]
impl Connect for Signed {
    async fn connect(&self, name: &FullName) -> Result<Arc<dyn Repository>> {
        let tag = match &self.image {
            None => format!("sha256-{}.sig", Digest::sha256(b"x").hex()),
            Some(_) => "1".to_owned(),
        };
        assert_eq!(name.to_string(), format!("x.test/team/app:{tag}"));
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Fetcher for Signed {
    async fn resolve(&self) -> Result<Descriptor> {
        self.root.clone().ok_or_else(|| Error::not_found("no tag"))
    }

    async fn fetch(&self, descriptor: &Descriptor, _: Range<u64>) -> Result<Pieces> {
        let data = Bytes::from(self.content[&descriptor.digest].clone());
        Ok(stream::iter([Ok(data)]).boxed())
    }
}

#[async_trait]
impl Referrers for Signed {
    async fn referrers(&self, subject: &Descriptor, kind: Option<&str>) -> Result<ReferrerPages> {
        assert_eq!((subject, kind), (&self.image(), None));
        let pages: Vec<_> = self.referrers.chunks(PAGE).map(<[_]>::to_vec).collect();
        let read = Arc::clone(&self.pages);
        let count = move |_: &_| {
            read.fetch_add(1, Ordering::Relaxed);
        };
        Ok(stream::iter(pages.into_iter().map(Ok))
            .inspect(count)
            .boxed())
    }
}

fn target() -> Descriptor {
    Descriptor::of(MediaType::OCI_MANIFEST, b"x")
}

async fn verified_by(key: CosignKey, repository: Signed) -> Result<()> {
    let name = "x.test/team/app:1".parse().unwrap();
    let image = repository.image();
    let cosign = Cosign::new(key, Arc::new(repository));
    cosign.verify(&name, &image).await.map(|_| ())
}

async fn verified(repository: Signed) -> Result<()> {
    verified_by(CosignKey::parse(KEY).unwrap(), repository).await
}

async fn rejected(repository: Signed, why: &str) {
    let error = verified(repository).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[tokio::test]
async fn one_right_signature_is_enough() {
    let good = good_payload();
    for signatures in [
        &[(good.as_str(), GOOD)][..],
        &[(&good, OTHER_KEY), (&good, GOOD)],
        &[("{}", EMPTY), ("nothing", ""), (&good, GOOD)],
    ] {
        verified(Signed::new(signatures)).await.unwrap();
    }
}

#[tokio::test]
async fn a_signature_that_is_not_right_says_why() {
    let good = good_payload();
    let zeros = Digest::sha256(b"x")
        .to_string()
        .replace("2d711642b726b044", &"0".repeat(16));
    let other_image = payload(&zeros, KIND);
    let other_type = payload(&Digest::sha256(b"x").to_string(), "another");
    for (payload, signature, why) in [
        (good.as_str(), OTHER_KEY, "not signed by the configured key"),
        (&good, "", "not signed by the configured key"),
        (&good, "AAAA", "not signed by the configured key"),
        (&good, "not base64", "not signed by the configured key"),
        // Another payload under the right signature.
        (&other_image, GOOD, "not signed by the configured key"),
        (&other_image, OTHER_IMAGE, "is for sha256:0000000000000000"),
        (&other_type, OTHER_TYPE, "a signed payload has the type"),
        ("{}", EMPTY, "a signed payload does not parse"),
    ] {
        rejected(Signed::new(&[(payload, signature)]), why).await;
    }
    rejected(Signed::new(&[]), "it has no signatures").await;
    rejected(
        Signed::default(),
        "is absent, and no signature refers to the image",
    )
    .await;
}

#[tokio::test]
async fn content_with_other_bytes_is_damage() {
    let good = good_payload();
    let mut repository = Signed::new(&[(&good, GOOD)]);
    let digest = Digest::sha256(good.as_bytes());
    repository.content.insert(digest, b"other".to_vec());
    let error = verified(repository).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn no_more_signatures_are_checked_than_the_bound() {
    let good = good_payload();
    for (before, is_found) in [(limit::SIGNATURES - 1, true), (limit::SIGNATURES, false)] {
        let mut signatures = vec![(good.as_str(), OTHER_KEY); before];
        signatures.push((&good, GOOD));
        let repository = Signed::new(&signatures);
        match is_found {
            true => verified(repository).await.unwrap(),
            false => rejected(repository, "at most 64 signatures").await,
        }
    }
}

/// The referrers that are read first have no signature that is checked.
#[tokio::test]
async fn a_signature_that_is_not_checked_is_not_called_absent() {
    let good = good_payload();
    let signer = Signer::new();
    let wrong = bundle::tests::signed(&signer, &target().digest);
    let repository = Signed::new(&[(good.as_str(), OTHER_KEY); limit::SIGNATURES]);
    let repository = repository.refer(bundle::TYPE, (bundle::TYPE, &wrong), &target());
    rejected(repository, "at most 64 signatures").await;
}

#[tokio::test]
async fn a_signature_may_be_in_a_referrer_of_either_form() {
    let (signer, other) = (Signer::new(), Signer::new());
    let good = bundle::tests::signed(&signer, &target().digest);
    let wrong = bundle::tests::signed(&other, &target().digest);
    let (empty, sbom) = ("application/vnd.oci.empty.v1+json", "application/spdx+json");
    let with =
        |kind: &str, data: &[u8]| Signed::default().refer(kind, (bundle::TYPE, data), &target());
    for repository in [
        with(bundle::TYPE, &good),
        // The artifact type of a bundle in the lists of referrers that cosign 2 writes.
        with(empty, &good),
        with(bundle::TYPE, &wrong).refer(bundle::TYPE, (bundle::TYPE, &good), &target()),
        with(sbom, b"{}").refer(bundle::TYPE, (bundle::TYPE, &good), &target()),
        // A right bundle beside a wrong signature in the older form.
        Signed::new(&[(&good_payload(), OTHER_KEY)]).refer(
            bundle::TYPE,
            (bundle::TYPE, &good),
            &target(),
        ),
    ] {
        verified_by(signer.public(), repository).await.unwrap();
    }
    let payloads = "application/vnd.dev.cosign.artifact.sig.v1+json";
    let mut older = Signed::new(&[(&good_payload(), GOOD)]);
    let mut referrer = older.root.take().unwrap();
    referrer.artifact_type = Some(payloads.to_owned());
    older.referrers.push(referrer);
    verified(older).await.unwrap();
}

/// The tag with signatures in the older form would be longer than tags may be.
#[tokio::test]
async fn the_signatures_of_an_image_with_a_sha_512_digest_are_in_referrers() {
    let signer = Signer::new();
    let digest = Digest::of(Algorithm::Sha512, b"x");
    let image = Descriptor::new(MediaType::OCI_MANIFEST, digest, 1);
    let unsigned = Signed {
        image: Some(image.clone()),
        ..Signed::default()
    };
    rejected(unsigned.clone(), "no signature refers to the image").await;
    let bundle = bundle::tests::signed(&signer, &digest);
    let signed = unsigned.refer(bundle::TYPE, (bundle::TYPE, &bundle), &image);
    verified_by(signer.public(), signed).await.unwrap();
}

/// Returns a repository with one referrer.
fn refer(listed: &str, layer: (&str, &[u8]), subject: &Descriptor) -> Signed {
    Signed::default().refer(listed, layer, subject)
}

#[tokio::test]
async fn a_referrer_that_is_not_right_says_why() {
    let signer = Signer::new();
    let good = bundle::tests::signed(&signer, &target().digest);
    let of_other = bundle::tests::signed(&signer, &Digest::sha256(b"y"));
    let other = Descriptor::of(MediaType::OCI_MANIFEST, b"y");
    let older = "application/vnd.dev.sigstore.bundle+json;version=0.2";
    for (repository, why) in [
        (
            refer(bundle::TYPE, (bundle::TYPE, &of_other[..]), &target()),
            "another image",
        ),
        (
            refer(bundle::TYPE, (bundle::TYPE, &good[..]), &other),
            "it refers to another image",
        ),
        (
            refer(older, (older, &good[..]), &target()),
            "its bundle is of the type application/vnd.dev.sigstore.bundle+json;version=0.2",
        ),
        (
            refer(
                "application/spdx+json",
                (bundle::TYPE, &good[..]),
                &target(),
            ),
            "no signature refers to the image",
        ),
        (
            refer(bundle::TYPE, ("text/plain", &good[..]), &target()),
            "it has no signatures",
        ),
    ] {
        let error = verified_by(signer.public(), repository).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let mut damaged = refer(bundle::TYPE, (bundle::TYPE, &good[..]), &target());
    let blob = Digest::sha256(&good);
    damaged.content.insert(blob, b"other".to_vec());
    let error = verified_by(signer.public(), damaged).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn no_more_referrers_are_read_than_the_bound() {
    let (signer, other) = (Signer::new(), Signer::new());
    let good = bundle::tests::signed(&signer, &target().digest);
    for (before, is_found) in [(limit::SIGNATURES - 1, true), (limit::SIGNATURES, false)] {
        let mut repository = Signed::default();
        for _ in 0..before {
            let wrong = bundle::tests::signed(&other, &target().digest);
            repository = repository.refer(bundle::TYPE, (bundle::TYPE, &wrong), &target());
        }
        repository = repository.refer(bundle::TYPE, (bundle::TYPE, &good), &target());
        let found = verified_by(signer.public(), repository).await;
        assert_eq!(found.is_ok(), is_found);
        if let Err(error) = found {
            let said = error.to_string();
            assert!(said.contains("at most 64 referrers"), "{said}");
        }
    }
}

#[tokio::test]
async fn pages_after_the_bound_are_not_requested() {
    let (signer, other) = (Signer::new(), Signer::new());
    let mut repository = Signed::default();
    for _ in 0..limit::SIGNATURES * 3 {
        let wrong = bundle::tests::signed(&other, &target().digest);
        repository = repository.refer(bundle::TYPE, (bundle::TYPE, &wrong), &target());
    }
    let pages = Arc::clone(&repository.pages);
    let error = verified_by(signer.public(), repository).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(pages.load(Ordering::Relaxed), limit::SIGNATURES / PAGE + 1);
}

#[tokio::test]
async fn a_referrer_that_is_listed_again_does_not_count_again() {
    let (signer, other) = (Signer::new(), Signer::new());
    let good = bundle::tests::signed(&signer, &target().digest);
    let wrong = bundle::tests::signed(&other, &target().digest);
    let mut repository = refer(bundle::TYPE, (bundle::TYPE, &wrong), &target());
    let listed = repository.referrers.clone();
    for _ in 0..limit::SIGNATURES {
        repository.referrers.extend(listed.clone());
    }
    let repository = repository.refer(bundle::TYPE, (bundle::TYPE, &good), &target());
    verified_by(signer.public(), repository).await.unwrap();
}

#[tokio::test]
async fn a_referrer_that_is_too_large_does_not_hide_the_next_one() {
    let signer = Signer::new();
    let good = bundle::tests::signed(&signer, &target().digest);
    let mut repository = refer(bundle::TYPE, (bundle::TYPE, &good), &target());
    let mut large = Descriptor::of(MediaType::OCI_MANIFEST, b"large");
    large.size = limit::DOCUMENT_READ + 1;
    large.artifact_type = Some(bundle::TYPE.to_owned());
    repository.referrers.insert(0, large.clone());
    verified_by(signer.public(), repository).await.unwrap();
    let alone = Signed {
        referrers: vec![large],
        ..Signed::default()
    };
    let error = verified_by(signer.public(), alone).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}
