//! One entry of `index.json`.
//!
//! Any program may have written the entry, so members may be missing or have another type. An entry
//! with a valid digest is read as far as possible, because a collection must keep what it lists.

use cas_core::image::Reference;
use cas_core::layout::REF_NAME as NAME;
use cas_core::{Descriptor, Digest, Error, Result};
use serde_json::{Value, json};

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

/// Returns the name of an entry, or `None` if the entry does not have a valid name.
pub(crate) fn name_of(entry: &Value) -> Option<Reference> {
    let name = entry.get("annotations")?.get(NAME)?.as_str()?;
    name.parse().ok()
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
        Err(error) => parse(&readable(entry).ok_or_else(|| not_a_descriptor(&error))?)
            .map_err(|error| not_a_descriptor(&error))?,
        Ok(target) => target,
    };
    target.annotations.remove(NAME);
    Ok(target)
}

/// Returns what is wrong with an entry, or `None` if nothing is. `facts` returns the facts about a
/// blob, if they are known. It is called only if the entry does not state the type of a document.
///
/// # Errors
/// Errors of `facts`.
pub(crate) fn fault(
    entry: &Value,
    facts: impl FnOnce(&Digest) -> Result<Option<Facts>>,
) -> Result<Option<String>> {
    let of = digest_of(entry).map_or(String::new(), |digest| format!(" of {digest}"));
    let mut target = match parse(entry) {
        Err(error) => return Ok(Some(format!("the entry{of} is not a descriptor: {error}"))),
        Ok(target) => target,
    };
    let stated = target.media_type.clone();
    if stated.as_str().is_empty() {
        return Ok(Some(format!("the entry{of} does not state a media type")));
    }
    if !stated.is_document()
        && let Some(facts) = facts(&target.digest)?
    {
        facts.correct(&mut target);
    }
    let found = target.media_type;
    Ok((found != stated).then(|| {
        format!("the entry{of} states the type {stated:.200}, but its content is a {found}")
    }))
}

/// Returns an entry with the size and the type of its content, and without the members that do not
/// parse. Returns `None` for an entry without a valid digest.
pub(crate) fn mended(entry: &Value, facts: &Facts) -> Option<Value> {
    let mut mended = readable(entry)?;
    let mut target = target(entry).ok()?;
    facts.correct(&mut target);
    mended["size"] = json!(target.size);
    mended["mediaType"] = json!(target.media_type);
    Some(mended)
}

/// Returns an entry without the members that do not parse, and with a size. Returns `None` for an
/// entry without a valid digest.
fn readable(entry: &Value) -> Option<Value> {
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
    Some(readable.into())
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
            "mediaType": "a/b", "digest": digest, "size": 7, "urls": ["u"], "other": [1],
            "annotations": {NAME: "app:1", "k": "v"}, "platform": {"os": "linux"},
            "artifactType": "c/d", "data": "eA==",
        });
        let known = |_: &Digest| Ok(Some(facts.clone()));
        assert_eq!(fault(&whole, known).unwrap(), None);
        assert_eq!(mended(&whole, &facts), Some(whole.clone()));
        for member in OPTIONAL {
            for wrong in [json!([[1]]), json!(-1), json!(true)] {
                let mut entry = whole.clone();
                entry[member] = wrong.clone();
                let case = format!("{member} {wrong}");
                assert!(fault(&entry, known).unwrap().is_some(), "{case}");
                assert_eq!(name_of(&entry).is_some(), member != "annotations", "{case}");
                let read = target(&entry).unwrap();
                let size = if member == "size" { 0 } else { 7 };
                assert_eq!((read.digest, read.size), (digest, size), "{case}");
                let mended = mended(&entry, &facts).unwrap();
                assert_eq!(fault(&mended, known).unwrap(), None, "{case}: {mended}");
                assert_eq!(mended["other"], json!([1]), "{case}");
            }
        }
    }
}
