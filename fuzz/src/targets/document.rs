//! JSON of images: documents, configurations, descriptors and the file `oci-layout`.

use cas_core::document::check_json;
use cas_core::image::ImageConfig;
use cas_core::layout::{ImageLayout, parse_ref};
use cas_core::{Descriptor, Document, MediaType, document_type};

use super::{accepted, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "manifest",
        run: |input| document(&MediaType::OCI_MANIFEST, input),
        seeds: || texts(&[MANIFEST, ARTIFACT]),
        longest: 4096,
    },
    Target {
        name: "index",
        run: |input| document(&MediaType::OCI_INDEX, input),
        seeds: || texts(&[INDEX]),
        longest: 4096,
    },
    Target {
        name: "docker-manifest",
        run: |input| document(&MediaType::DOCKER_MANIFEST, input),
        seeds: || texts(&[DOCKER]),
        longest: 4096,
    },
    Target {
        name: "document-type",
        run: unknown_document,
        seeds: || texts(&[MANIFEST, INDEX, DOCKER]),
        longest: 4096,
    },
    Target {
        name: "image-config",
        run: config,
        seeds: || texts(&[CONFIG]),
        longest: 4096,
    },
    Target {
        name: "oci-layout",
        run: |input| accepted(ImageLayout::parse(input)),
        seeds: || texts(&[r#"{"imageLayoutVersion":"1.0.0"}"#]),
        longest: 1024,
    },
    Target {
        name: "descriptor",
        run: descriptor,
        seeds: || texts(&[DESCRIPTOR]),
        longest: 2048,
    },
];

const DESCRIPTOR: &str = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"urls":["https://host.test/a"],"annotations":{"a":"b"},"platform":{"architecture":"arm64","os":"linux","os.version":"1","os.features":["f"],"variant":"v8"},"artifactType":"application/x","data":"eA=="}"#;
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e","size":9,"annotations":{"k":"v"}}],"annotations":{"org.opencontainers.image.created":"2020"}}"#;
const ARTIFACT: &str = r#"{"schemaVersion":2,"artifactType":"application/x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="},"layers":[],"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5}}"#;
const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5,"platform":{"architecture":"amd64","os":"linux"}},{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":6,"platform":{"architecture":"unknown","os":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}"#;
const DOCKER: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":9}]}"#;
const CONFIG: &str = r#"{"created":"2020-01-01T00:00:00Z","architecture":"amd64","os":"linux","os.version":"1","os.features":["a"],"config":{"Env":["A=b"],"Labels":{"k":"v"}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x"},{"empty_layer":true}]}"#;

/// Parses a document. Checks that the document and the descriptors that it lists are read back as
/// they were written.
fn document(media_type: &MediaType, input: &[u8]) -> bool {
    let result = Document::parse(media_type, input);
    if let Ok(document) = &result {
        for child in document.children().chain(document.subject()) {
            rewritten(child);
        }
        let listed = document.listed_as_referrer(&Descriptor::of(media_type.clone(), input));
        rewritten(&listed);
        let written = match document {
            Document::Manifest(manifest) => serde_json::to_vec(manifest),
            Document::Index(index) => serde_json::to_vec(index),
        };
        let written = written.unwrap_or_else(|error| panic!("cannot write: {error}"));
        let again = Document::parse(media_type, &written);
        assert!(
            again.as_ref().is_ok_and(|again| again == document),
            "{again:?}"
        );
    }
    accepted(result)
}

/// Finds out the type of a document, and parses the document as one of this type.
fn unknown_document(input: &[u8]) -> bool {
    match document_type(input) {
        Some(media_type) => document(&media_type, input),
        None => false,
    }
}

fn config(input: &[u8]) -> bool {
    for known in [MediaType::OCI_CONFIG, MediaType::DOCKER_CONFIG] {
        accepted(ImageConfig::recognise(&known, input));
    }
    accepted(ImageConfig::parse(input))
}

/// Checks that a descriptor is read back as it was written.
fn rewritten(descriptor: &Descriptor) {
    let written = serde_json::to_vec(descriptor);
    let written = written.unwrap_or_else(|error| panic!("cannot write: {error}"));
    let again: Descriptor = serde_json::from_slice(&written)
        .unwrap_or_else(|error| panic!("cannot read what was written: {error}"));
    assert_eq!(again, *descriptor);
}

fn descriptor(input: &[u8]) -> bool {
    accepted(check_json(input));
    let result = parse_ref(input);
    if let Ok(descriptor) = &result {
        rewritten(descriptor);
    }
    accepted(result)
}
