//! One entry of `index.json`.
//!
//! Any program may have written the entry, so members may be missing or have the wrong type. An
//! entry with a valid digest is read as far as possible, because a collection must keep the content
//! of the entry.

use cas_core::dispatch::embedded;
use cas_core::image::Reference;
use cas_core::layout::REF_NAME as NAME;
use cas_core::{Descriptor, Digest, Error, Result};
use serde_json::{Map, Value, json};

use crate::facts::Facts;

/// The members of a descriptor that may be left out.
const OPTIONAL: [&str; 7] = [
    "mediaType",
    "size",
    "urls",
    "annotations",
    "platform",
    "artifactType",
    "data",
];

/// Returns the name of an entry, or `None` if the entry does not have a valid name, or if the name
/// states another digest than the entry.
pub(crate) fn name_of(entry: &Value) -> Option<Reference> {
    stated_name(entry).filter(|name| allows(name, entry))
}

/// Returns the name of an entry that cannot lead to its target: the entry does not have a valid
/// digest, or has another digest than the name states.
pub(crate) fn name_without_target(entry: &Value) -> Option<Reference> {
    let leads = |name: &Reference| digest_of(entry).is_some_and(|digest| name.allows(&digest));
    stated_name(entry).filter(|name| !leads(name))
}

fn stated_name(entry: &Value) -> Option<Reference> {
    let name = entry.get("annotations")?.get(NAME)?.as_str()?;
    name.parse().ok()
}

/// Returns false if a name states another digest than the entry.
fn allows(name: &Reference, entry: &Value) -> bool {
    digest_of(entry).is_none_or(|digest| name.allows(&digest))
}

/// Returns the name of an entry, or its digest if it does not have a valid name.
pub(crate) fn name_or_digest(entry: &Value) -> Option<Reference> {
    name_of(entry).or_else(|| Some(digest_of(entry)?.into()))
}

/// Returns the digest of an entry, or `None` if it does not have a valid digest.
pub(crate) fn digest_of(entry: &Value) -> Option<Digest> {
    entry.get("digest")?.as_str()?.parse().ok()
}

/// Returns the descriptor of an entry, without the annotation of the name. Members that do not
/// parse are left out. The size is 0 if it is left out.
///
/// # Errors
/// `Corrupt` if the entry does not have a valid digest.
pub(crate) fn target(entry: &Value) -> Result<Descriptor> {
    let mut target = match parse(entry) {
        Err(error) => {
            let readable = readable(entry).ok_or_else(|| not_a_descriptor(&error))?;
            parse(&readable.into()).map_err(|error| not_a_descriptor(&error))?
        }
        Ok(target) => target,
    };
    target.annotations.remove(NAME);
    Ok(target)
}

/// Returns what is wrong with an entry, or `None` if nothing is. `facts` returns the facts about
/// the blob of a target, if they are known. An error of `facts` is a fault of the entry, so that it
/// does not end the examination of the other entries.
pub(crate) fn fault(
    entry: &Value,
    facts: impl FnOnce(&Descriptor) -> Result<Option<Facts>>,
) -> Option<String> {
    let of = digest_of(entry).map_or(String::new(), |digest| format!(" of {digest}"));
    let stated = match parse(entry) {
        Err(error) => return Some(format!("the entry{of} is not a descriptor: {error}")),
        Ok(stated) => stated,
    };
    if stated.media_type.as_str().is_empty() {
        return Some(format!("the entry{of} does not state a media type"));
    }
    if let Some(name) = name_without_target(entry) {
        return Some(format!(
            "the entry{of} has the name {name}, which states another digest, so the entry counts \
             as one without a name"
        ));
    }
    let mut found = stated.clone();
    match facts(&stated) {
        Err(error) => {
            return Some(format!(
                "the content of the entry{of} cannot be read: {error}"
            ));
        }
        Ok(None) => {}
        Ok(Some(facts)) => facts.correct(&mut found),
    }
    let fault = if found.media_type != stated.media_type {
        let (stated, found) = (stated.media_type, found.media_type);
        format!("states the type {stated:.200}, but its content has the type {found}")
    } else if found.size != stated.size {
        let (stated, found) = (stated.size, found.size);
        format!("states a size of {stated} bytes, but its content has {found}")
    } else if embeds_other(&found) {
        "embeds data that does not match the stated size and digest".to_owned()
    } else {
        return None;
    };
    Some(format!("the entry{of} {fault}"))
}

/// Returns whether the data that is embedded in a descriptor is not its content.
fn embeds_other(target: &Descriptor) -> bool {
    let data = target.data.as_ref();
    data.is_some_and(|text| embedded(text, target).is_err())
}

/// Returns an entry with the size and the type of its content, and without the members that do not
/// parse or embed other data, and without a name that states another digest. Returns `None` for an
/// entry without a valid digest.
pub(crate) fn mended(entry: &Value, facts: &Facts) -> Option<Value> {
    let mut mended = readable(entry)?;
    if name_without_target(entry).is_some()
        && let Some(Value::Object(annotations)) = mended.get_mut("annotations")
    {
        annotations.remove(NAME);
    }
    let mut target = target(entry).ok()?;
    facts.correct(&mut target);
    if embeds_other(&target) {
        mended.remove("data");
    }
    mended.insert("size".to_owned(), json!(target.size));
    mended.insert("mediaType".to_owned(), json!(target.media_type));
    Some(mended.into())
}

/// Returns an entry without the members that do not parse, and with a size. Returns `None` for an
/// entry without a valid digest.
fn readable(entry: &Value) -> Option<Map<String, Value>> {
    let digest = digest_of(entry)?;
    let mut readable = entry.as_object()?.clone();
    if let Some(Value::Object(annotations)) = readable.get_mut("annotations") {
        annotations.retain(|_, text| text.is_string() || text.is_null());
    }
    for member in OPTIONAL {
        if let Some(value) = readable.get(member) {
            let mut alone = json!({"digest": digest, "size": 0});
            alone[member] = value.clone();
            if parse(&alone).is_err() {
                readable.remove(member);
            }
        }
    }
    readable.entry("size").or_insert(json!(0));
    Some(readable)
}

fn parse(entry: &Value) -> serde_json::Result<Descriptor> {
    serde_json::from_value(entry.clone())
}

fn not_a_descriptor(error: &serde_json::Error) -> Error {
    Error::corrupt(format!(
        "an entry of index.json is not a descriptor: {error}; correct or remove the entry"
    ))
}

#[cfg(test)]
mod tests {
    use cas_core::{MediaType, limit};

    use super::*;
    use crate::blobs::Blobs;
    use crate::facts::KnownFacts;

    #[test]
    fn an_entry_is_read_as_far_as_possible_and_mended() {
        let temp = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(b"x");
        std::fs::create_dir(temp.path().join("sha256")).unwrap();
        std::fs::write(temp.path().join("sha256").join(digest.hex()), "x").unwrap();
        let blobs = Blobs::new(cas_host::Dir::open(temp.path()).unwrap());
        let facts = KnownFacts::default().of(&blobs, &digest).unwrap().unwrap();
        let whole = json!({
            "mediaType": "a/b", "digest": digest, "size": 1, "urls": ["u"], "other": [1],
            "annotations": {NAME: "app:1", "k": "v"}, "platform": {"os": "linux"},
            "artifactType": "c/d", "data": "eA==",
        });
        let known = |_: &Descriptor| Ok(Some(facts.clone()));
        assert_eq!(fault(&whole, known), None);
        assert_eq!(mended(&whole, &facts), Some(whole.clone()));
        for member in OPTIONAL {
            for wrong in [json!([[1]]), json!(-1), json!(true)] {
                let mut entry = whole.clone();
                entry[member] = wrong.clone();
                let case = format!("{member} {wrong}");
                assert!(fault(&entry, known).is_some(), "{case}");
                assert_eq!(name_of(&entry).is_some(), member != "annotations", "{case}");
                let read = target(&entry).unwrap();
                let size = if member == "size" { 0 } else { 1 };
                assert_eq!((read.digest, read.size), (digest, size), "{case}");
                let mended = mended(&entry, &facts).unwrap();
                assert_eq!(fault(&mended, known), None, "{case}: {mended}");
                assert_eq!(mended["other"], json!([1]), "{case}");
            }
        }
        let mut misnamed = whole.clone();
        misnamed["annotations"][NAME] = json!(format!("app@{}", Digest::sha256(b"other")));
        assert_eq!(name_of(&misnamed), None);
        let found = fault(&misnamed, known).unwrap();
        assert!(found.contains("states another digest"), "{found}");
        let mended = mended(&misnamed, &facts).unwrap();
        assert_eq!(mended["annotations"], json!({"k": "v"}));
        assert_eq!(fault(&mended, known), None);
    }

    /// A damaged blob, here one without its first byte, does not correct an entry.
    #[test]
    fn an_entry_of_sound_content_states_its_size_and_kind_and_embeds_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("sha256");
        std::fs::create_dir(&dir).unwrap();
        let blobs = Blobs::new(cas_host::Dir::open(temp.path()).unwrap());
        let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
        let large = "x".repeat(limit::DOCUMENT_READ as usize + 1);
        let (oci, docker) = (MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST_LIST);
        for (data, media_type, other) in [
            (&manifest, &oci, &docker),
            (&index, &docker, &oci),
            (&large, &MediaType::OCI_LAYER, &MediaType::OCI_LAYER),
        ] {
            let whole = Descriptor::of(media_type.clone(), data.as_bytes());
            let file = dir.join(whole.digest.hex());
            std::fs::write(&file, data).unwrap();
            let whole = json!(whole);
            let check = |entry: &Value| {
                let (known, mut found) = (KnownFacts::default(), None);
                let facts = |target: &Descriptor| {
                    found = known.of_sound(&blobs, target)?;
                    Ok(found.clone())
                };
                let is_faulty = fault(entry, facts).is_some();
                (is_faulty, found.and_then(|facts| mended(entry, &facts)))
            };
            assert_eq!(check(&whole), (false, Some(whole.clone())));
            let wrong = [
                ("size", json!(7)),
                ("data", json!("e30=")),
                ("mediaType", json!(other)),
            ];
            for (member, value) in wrong {
                let mut entry = whole.clone();
                entry[member] = value;
                if entry == whole {
                    continue;
                }
                let (is_faulty, mended) = check(&entry);
                assert!(is_faulty, "{entry}");
                let mended = mended.unwrap();
                assert!(!check(&mended).0, "{mended}");
                let is_index = |entry: &Value| target(entry).unwrap().media_type.is_index();
                assert_eq!(is_index(&mended), is_index(&whole), "{mended}");
                assert_eq!(mended["size"], whole["size"]);
            }
            std::fs::write(&file, &data[1..]).unwrap();
            assert_eq!(check(&whole), (false, None));
        }
    }
}
