//! Verifies the newer form of cosign's signatures, the sigstore bundle. The bundle of an image has
//! an envelope. The payload of the envelope is an in-toto statement, which names the digest of the
//! signed image. The signatures of the envelope cover the payload and the type of the payload, as
//! the specification of these envelopes (DSSE) requires.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas_core::Digest;
use cas_core::error::excerpt;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CosignKey, other_image, unparsed};

/// The media type of a bundle.
pub(super) const TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// How the media types of bundles of all versions begin.
pub(super) const ALL: &str = "application/vnd.dev.sigstore.bundle";
/// The type of the payload of the envelope.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// The type of the statement.
const STATEMENT_VERSION: &str = "https://in-toto.io/Statement/v1";
/// The predicate of a statement that signs an image. Other predicates state something else about
/// the image, such as how it was built.
const SIGNS: &str = "https://sigstore.dev/cosign/sign/v1";

/// A bundle. The other members do not count.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    version: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate: String,
}

#[derive(Deserialize)]
struct Subject {
    /// Digests of the subject by algorithm.
    digest: BTreeMap<String, String>,
}

/// Checks a bundle. The error is the reason why the bundle is not valid.
pub(super) fn check(key: &CosignKey, data: &[u8], digest: &Digest) -> Result<(), String> {
    let parsed = serde_json::from_slice(data);
    let bundle: Bundle = parsed.map_err(|error| unparsed("the bundle", &error))?;
    if bundle.verification_material.public_key.is_none() {
        return Err(
            "the bundle is signed by a certificate, but only signatures by a public key are \
             verified"
                .to_owned(),
        );
    }
    let Some(envelope) = bundle.dsse_envelope else {
        return Err(
            "the bundle signs a file, and has no envelope with a statement about an image"
                .to_owned(),
        );
    };
    let kind = envelope.payload_type.as_str();
    if kind != STATEMENT {
        let kind = excerpt(kind);
        return Err(format!(
            "the payload has the type \"{kind}\", expected {STATEMENT:?}"
        ));
    }
    let statement = STANDARD.decode(&envelope.payload);
    let statement = statement.map_err(|_| "the statement is not in base64".to_owned())?;
    let signed = signed_bytes(kind, &statement);
    let is_by_key = |one: &Signature| {
        let signature = STANDARD.decode(&one.sig);
        signature.is_ok_and(|signature| key.has_signed(&signed, &signature))
    };
    if !envelope.signatures.iter().any(is_by_key) {
        return Err("an envelope is not signed by the configured key".to_owned());
    }
    let parsed = serde_json::from_slice(&statement);
    let statement: Statement = parsed.map_err(|error| unparsed("the statement", &error))?;
    let found = (statement.version.as_str(), statement.predicate.as_str());
    if found != (STATEMENT_VERSION, SIGNS) {
        let (version, predicate) = (excerpt(found.0), excerpt(found.1));
        return Err(format!(
            "a statement of the type \"{version}\" and the predicate \"{predicate}\" does not sign \
             an image; expected the type {STATEMENT_VERSION:?} and the predicate {SIGNS:?}"
        ));
    }
    let (algorithm, digits) = (digest.algorithm().name(), digest.hex());
    let named = |subject: &Subject| subject.digest.get(algorithm).cloned();
    let named: Vec<String> = statement.subject.iter().filter_map(named).collect();
    if named.contains(&digits) {
        return Ok(());
    }
    Err(match named.first() {
        Some(other) => other_image(&format!("{algorithm}:{other}")),
        None => format!("the statement names no {algorithm} digest of an image"),
    })
}

/// Returns the bytes of an envelope that are signed.
fn signed_bytes(kind: &str, data: &[u8]) -> Vec<u8> {
    let (length, size) = (kind.len(), data.len());
    let mut bytes = format!("DSSEv1 {length} {kind} {size} ").into_bytes();
    bytes.extend_from_slice(data);
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::key::tests::Signer;
    use super::*;

    /// Returns the statement of cosign that signs an image.
    fn statement(digest: &Digest) -> Value {
        let algorithm = digest.algorithm().name();
        json!({"_type": STATEMENT_VERSION, "predicateType": SIGNS, "predicate": {},
            "subject": [{"annotations": {}, "digest": {algorithm: digest.hex()}}]})
    }

    /// Returns a bundle with a statement that `signer` has signed.
    fn bundle_of(signer: &Signer, statement: &str) -> Value {
        let signature = signer.sign(&signed_bytes(STATEMENT, statement.as_bytes()));
        let envelope = json!({
            "payload": STANDARD.encode(statement),
            "payloadType": STATEMENT,
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        });
        json!({"mediaType": TYPE, "dsseEnvelope": envelope,
            "verificationMaterial": {"publicKey": {"hint": "aGludA=="}, "tlogEntries": []}})
    }

    /// Returns the bundle by which `signer` signs an image.
    pub(in super::super) fn signed(signer: &Signer, digest: &Digest) -> Vec<u8> {
        let statement = statement(digest).to_string();
        bundle_of(signer, &statement).to_string().into_bytes()
    }

    #[test]
    fn what_is_signed_is_the_type_and_the_statement_with_their_lengths() {
        let signed = signed_bytes("http://example.com/HelloWorld", b"hello world");
        let expected = "DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(signed, expected.as_bytes());
    }

    #[test]
    fn a_statement_by_the_key_that_names_the_image_is_right() {
        let (signer, other) = (Signer::new(), Signer::new());
        let (key, digest) = (signer.public(), Digest::sha256(b"x"));
        check(&key, &signed(&signer, &digest), &digest).unwrap();
        // One of several subjects, and one of several signatures.
        let mut several = statement(&digest);
        let another = json!({"digest": {"sha512": "00", "sha256": "11"}});
        several["subject"]
            .as_array_mut()
            .unwrap()
            .insert(0, another);
        let mut bundle = bundle_of(&signer, &several.to_string());
        let wrong = bundle_of(&other, &several.to_string());
        let wrong = wrong["dsseEnvelope"]["signatures"][0].clone();
        let signatures = &mut bundle["dsseEnvelope"]["signatures"];
        signatures.as_array_mut().unwrap().insert(0, wrong);
        check(&key, bundle.to_string().as_bytes(), &digest).unwrap();
    }

    #[test]
    fn a_bundle_that_is_not_right_says_why() {
        let (signer, other) = (Signer::new(), Signer::new());
        let (key, digest) = (signer.public(), Digest::sha256(b"x"));
        let good = bundle_of(&signer, &statement(&digest).to_string());
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut bundle = good.clone();
            change(&mut bundle);
            bundle
        };
        let stating = |change: &dyn Fn(&mut Value)| {
            let mut statement = statement(&digest);
            change(&mut statement);
            bundle_of(&signer, &statement.to_string())
        };
        let swapped = statement(&Digest::sha256(b"y")).to_string();
        for (bundle, why) in [
            (
                bundle_of(&other, &statement(&digest).to_string()),
                "an envelope is not signed by the configured key",
            ),
            (
                changed(&|one| one["dsseEnvelope"]["payload"] = STANDARD.encode(&swapped).into()),
                "an envelope is not signed by the configured key",
            ),
            (
                changed(&|one| one["dsseEnvelope"]["signatures"] = json!([])),
                "an envelope is not signed by the configured key",
            ),
            (
                changed(&|one| one["dsseEnvelope"]["signatures"][0]["sig"] = "!".into()),
                "an envelope is not signed by the configured key",
            ),
            (
                changed(&|one| one["dsseEnvelope"]["payload"] = "!".into()),
                "not in base64",
            ),
            (
                changed(&|one| one["dsseEnvelope"]["payloadType"] = "text/plain".into()),
                "the payload has the type \"text/plain\"",
            ),
            (
                changed(&|one| {
                    one["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}});
                }),
                "by a certificate, but only signatures by a public key",
            ),
            (
                changed(&|one| {
                    one.as_object_mut().unwrap().remove("dsseEnvelope");
                    one["messageSignature"] = json!({"signature": ""});
                }),
                "the bundle signs a file",
            ),
            (json!({}), "the bundle does not parse: missing field"),
            (
                bundle_of(&signer, "no statement"),
                "the statement does not parse",
            ),
            (
                stating(&|one| one["predicateType"] = "https://slsa.dev/provenance/v1".into()),
                "the predicate \"https://slsa.dev/provenance/v1\" does not sign an image",
            ),
            (
                stating(&|one| one["_type"] = "https://in-toto.io/Statement/v2".into()),
                "does not sign an image",
            ),
            (
                stating(&|one| one["subject"][0]["digest"]["sha256"] = "0123".into()),
                "is for sha256:0123, another image",
            ),
            (
                stating(&|one| one["subject"] = json!([])),
                "the statement names no sha256 digest",
            ),
            (
                stating(&|one| one["subject"][0]["digest"] = json!({"sha512": digest.hex()})),
                "the statement names no sha256 digest",
            ),
        ] {
            let said = check(&key, bundle.to_string().as_bytes(), &digest).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
