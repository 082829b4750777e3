//! Signatures of cosign: an image is pulled only if it has a signature by the right key.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas::{Descriptor, MediaType};
use serde_json::json;

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use super::settings::configure;
use crate::common::shop::names;
use crate::common::{can, fails, ok};

/// The type of a bundle of sigstore.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(directory);
    ok(command.stderr(Stdio::null()));
}

/// Makes the keys `NAME.pem` and `NAME.pub`.
fn make_key(directory: &Path, name: &str) {
    openssl(
        directory,
        &format!("ecparam -name prime256v1 -genkey -noout -out {name}.pem"),
    );
    openssl(
        directory,
        &format!("ec -in {name}.pem -pubout -out {name}.pub"),
    );
}

/// Returns the signature of some data by the key `key.pem`, in base64.
fn signature_by_key(directory: &Path, data: &[u8]) -> String {
    fs::write(directory.join("data"), data).unwrap();
    openssl(directory, "dgst -sha256 -sign key.pem -out signature data");
    let signature = fs::read(directory.join("signature")).unwrap();
    STANDARD.encode(signature)
}

/// Returns the bundle with the signature of `signed` by the key `key.pem`, as cosign 3 makes it,
/// and the list of referrers that has it.
fn bundle_of(directory: &Path, signed: &Descriptor) -> Vec<(String, Vec<u8>)> {
    let statement = json!({"_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": signed.digest.hex()}, "annotations": {}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {}});
    let statement = statement.to_string();
    let kind = "application/vnd.in-toto+json";
    let data = format!("DSSEv1 28 {kind} {} {statement}", statement.len());
    let signature = signature_by_key(directory, data.as_bytes());
    let bundle = json!({"mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {"payload": STANDARD.encode(&statement), "payloadType": kind,
            "signatures": [{"sig": signature}]}});
    let bundle = bundle.to_string().into_bytes();
    let layer = Descriptor::of(MediaType::from(BUNDLE), &bundle);
    let config = Descriptor::of(MediaType::from("application/vnd.oci.empty.v1+json"), b"{}");
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": BUNDLE, "config": config, "layers": [layer], "subject": signed});
    let manifest = manifest.to_string().into_bytes();
    let mut listed = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
    listed.artifact_type = Some(BUNDLE.to_owned());
    let list = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [listed]});
    let at = |place: &str, last: &dyn std::fmt::Display| format!("/v2/team/app/{place}/{last}");
    vec![
        (
            at("referrers", &signed.digest),
            list.to_string().into_bytes(),
        ),
        (at("manifests", &listed.digest), manifest),
        (at("blobs", &layer.digest), bundle),
    ]
}

/// Returns the image with the signature of `signed` by the key `key.pem`, as cosign makes it.
fn signature_of(directory: &Path, signed: &Descriptor) -> Vec<(String, Vec<u8>)> {
    let image = json!({"docker-manifest-digest": signed.digest});
    let critical = json!({"identity": {"docker-reference": ""}, "image": image,
        "type": "cosign container image signature"});
    let payload = json!({"critical": critical, "optional": null}).to_string();
    let signature = signature_by_key(directory, payload.as_bytes());
    let kind = MediaType::from("application/vnd.dev.cosign.simplesigning.v1+json");
    let mut layer = Descriptor::of(kind, payload.as_bytes());
    let annotation = ("dev.cosignproject.cosign/signature".to_owned(), signature);
    layer.annotations.extend([annotation]);
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": config, "layers": [layer]});
    let manifest = manifest.to_string().into_bytes();
    let tag = signed.digest.to_string().replace(':', "-");
    let digest = Descriptor::of(MediaType::OCI_MANIFEST, &manifest).digest;
    vec![
        (
            format!("/v2/team/app/manifests/{tag}.sig"),
            manifest.clone(),
        ),
        (format!("/v2/team/app/manifests/{digest}"), manifest),
        (
            format!("/v2/team/app/blobs/{}", layer.digest),
            payload.into_bytes(),
        ),
    ]
}

/// Starts a registry of the image, which also has `others` by path.
fn registry(sample: &Sample, others: Vec<(String, Vec<u8>)>) -> Fake {
    let sample = sample.clone();
    Fake::start(move |request: &Request| {
        let other = others.iter().find(|(path, _)| *path == request.path);
        match other {
            Some((path, data)) => {
                let kind = match path.contains("/referrers/") || is_tag_of_list(path) {
                    true => MediaType::OCI_INDEX,
                    false => MediaType::OCI_MANIFEST,
                };
                Answer::new(200)
                    .with("Content-Type", kind.as_str())
                    .body(data)
            }
            None if is_of_signatures(&request.path) => Answer::new(404),
            None => sample.answer(request),
        }
    })
}

/// Returns whether a path leads to the tag that lists referrers.
fn is_tag_of_list(path: &str) -> bool {
    path.contains("/manifests/sha256-") && !path.ends_with(".sig")
}

fn is_of_signatures(path: &str) -> bool {
    path.contains("/referrers/") || path.contains("/manifests/sha256-")
}

/// A registry may have the API for referrers, or the tag that lists them.
#[test]
fn an_image_with_a_bundle_by_the_key_is_pulled() {
    if !can(&["openssl"]) {
        return;
    }
    let (sample, other) = (Sample::new(&[1000]), Sample::new(&[2000]));
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for name in ["key", "other"] {
        make_key(home, name);
    }
    let by_api = bundle_of(home, &sample.root);
    let mut by_tag = by_api.clone();
    let tag = sample.root.digest.to_string().replace(':', "-");
    by_tag[0].0 = format!("/v2/team/app/manifests/{tag}");
    // The bundle of another image is in the list of this one.
    let mut moved = bundle_of(home, &other.root);
    moved[0].0.clone_from(&by_api[0].0);
    let pull = |root: &str, registry: &Fake, key: &str| {
        let mut pull = super::cas(&home.join(root), home);
        pull.args(["pull", &registry.image(), "--cosign-key"]);
        pull.arg(home.join(key));
        pull
    };
    for (root, files) in [("api", &by_api), ("tag", &by_tag)] {
        let registry = registry(&sample, files.clone());
        ok(&mut pull(root, &registry, "key.pub"));
        assert_eq!(names(&home.join(root)).len(), 1);
        let said = fails(&mut pull("wrong", &registry, "other.pub"), 1);
        assert!(said.contains("not signed by the configured key"), "{said}");
    }
    let said = fails(&mut pull("wrong", &registry(&sample, moved), "key.pub"), 1);
    assert!(said.contains("another image"), "{said}");
    assert!(names(&home.join("wrong")).is_empty());
}

/// The mirror lists a bundle by another key only, and the registry lists the right one.
#[test]
fn a_bundle_is_found_although_a_mirror_has_another_one() {
    if !can(&["openssl"]) {
        return;
    }
    let sample = Sample::new(&[1000]);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for name in ["key", "other"] {
        make_key(home, name);
    }
    let right = bundle_of(home, &sample.root);
    fs::rename(home.join("other.pem"), home.join("key.pem")).unwrap();
    let mut mirrored = bundle_of(home, &sample.root);
    mirrored.extend_from_slice(&right[1..]);
    let mirror = registry(&sample, mirrored);
    let registry = registry(&sample, right);
    let conf = home.join("registries.conf");
    let (own, other) = (&registry.host, &mirror.host);
    let text = format!(
        "[[registry]]\nlocation = \"{own}\"\n[[registry.mirror]]\nlocation = \"{other}\"\n"
    );
    fs::write(&conf, text).unwrap();
    let mut pull = super::cas(&home.join("root"), home);
    pull.args(["pull", &registry.image(), "--cosign-key"]);
    pull.arg(home.join("key.pub"));
    ok(pull.arg("--registries-conf").arg(&conf));
    let layer = sample.layers[0].digest.to_string();
    assert_eq!(mirror.count("GET", &layer), 1);
    assert_eq!(registry.count("GET", &layer), 0);
}

#[test]
fn only_an_image_with_a_signature_by_the_key_is_pulled() {
    if !can(&["openssl"]) {
        return;
    }
    let sample = Sample::new(&[1000]);
    let other = Sample::new(&[2000]);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for name in ["key", "other"] {
        make_key(home, name);
    }
    let signed = signature_of(home, &sample.root);
    // The signature of another image is at the tag for signatures of this image.
    let mut moved = signature_of(home, &other.root);
    moved[0].0.clone_from(&signed[0].0);
    let pull = |root: &str, registry: &Fake, key: &str| {
        let mut pull = super::cas(&home.join(root), home);
        pull.args(["pull", &registry.image(), "--cosign-key"]);
        pull.arg(home.join(key));
        pull
    };
    let signed = registry(&sample, signed);
    ok(&mut pull("right", &signed, "key.pub"));
    assert_eq!(names(&home.join("right")).len(), 1);
    // An image of the store may never have been verified.
    let with = |key: &str, policy: &str| {
        let mut pull = pull("right", &signed, key);
        pull.args(["--policy", policy]);
        pull
    };
    ok(&mut with("key.pub", "missing"));
    fails(&mut with("other.pub", "missing"), 1);
    let said = fails(&mut with("key.pub", "never"), 1);
    assert!(said.contains("no registry is asked"), "{said}");
    let layer = sample.layers[0].digest.to_string();
    for (registry, key, why) in [
        (&signed, "other.pub", "not signed by the configured key"),
        (
            &registry(&sample, Vec::new()),
            "key.pub",
            "is absent, and no signature refers to the image",
        ),
        (&registry(&sample, moved), "key.pub", "another image"),
    ] {
        let before = registry.count("GET", &layer);
        let said = fails(&mut pull("wrong", registry, key), 1);
        assert!(
            said.contains(why) && said.contains(&registry.image()),
            "{said}"
        );
        assert_eq!(registry.count("GET", &layer), before);
    }
    fails(&mut pull("wrong", &signed, "absent.pub"), 3);
    fails(&mut pull("wrong", &signed, "key.pem"), 2);
    // `cas.toml` of a root can require a signature for every pull.
    configure(
        &home.join("wrong"),
        "[policy]\ncosign-key = \"../other.pub\"\n",
    );
    let mut any = super::cas(&home.join("wrong"), home);
    fails(any.args(["pull", &signed.image()]), 1);
    assert!(names(&home.join("wrong")).is_empty());
    configure(
        &home.join("wrong"),
        "[policy]\ncosign-key = \"../key.pub\"\n",
    );
    let mut any = super::cas(&home.join("wrong"), home);
    ok(any.args(["pull", &signed.image()]));
}
