//! `index.json`: the names. Whatever others wrote in it survives our changes.

use std::collections::HashMap;
use std::sync::OnceLock;

use cas_core::document::check_json;
use cas_core::image::Reference;
use cas_core::{Descriptor, Error, ErrorKind, Result, limit};
use serde_json::{Map, Value, json};

/// The annotation of an entry that is its name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The document, parsed no further than needed.
pub(crate) struct Index {
    document: Map<String, Value>,
    /// The places of the entries of each name, once one was looked for.
    places: OnceLock<HashMap<String, Vec<usize>>>,
}

impl Index {
    /// Parses it.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        check_json(data)?;
        let document: Map<String, Value> = serde_json::from_slice(data)
            .map_err(|error| Error::corrupt(format!("is no index: {error}")).source(error))?;
        match document.get("manifests") {
            Some(Value::Array(_) | Value::Null) | None => Ok(Self::of(document)),
            Some(_) => Err(Error::corrupt("is no index: its manifests are no list")),
        }
    }

    fn of(document: Map<String, Value>) -> Self {
        Index {
            document,
            places: OnceLock::new(),
        }
    }

    /// Another, to be changed.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.document.clone())
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let data = serde_json::to_vec(&self.document)
            .map_err(|error| Error::internal("the index does not serialise").source(error))?;
        match data.len() as u64 > limit::DOCUMENT_WRITE {
            false => Ok(data),
            true => Err(Error::new(
                ErrorKind::Full,
                format!(
                    "would have {} bytes, at most {}; remove images that are not needed",
                    data.len(),
                    limit::DOCUMENT_WRITE
                ),
            )),
        }
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// `FailedPrecondition` when several entries have the name; `Corrupt` when its entry is none.
    pub(crate) fn get(&self, name: &Reference) -> Result<Option<Descriptor>> {
        let mut targets = self.targets(name)?;
        match &targets[..] {
            [first, second, ..] => Err(Error::precondition(format!(
                "index.json has this name twice, for {} and for {}; delete the name, which takes \
                 both away, and make it again",
                first.digest, second.digest,
            ))),
            _ => Ok(targets.pop()),
        }
    }

    /// All that a name stands for; several only where another program wrote them.
    ///
    /// # Errors
    /// `Corrupt` when one of its entries is no descriptor.
    pub(crate) fn targets(&self, name: &Reference) -> Result<Vec<Descriptor>> {
        let (entries, places) = (self.entries(), self.places.get_or_init(|| self.places()));
        let places = places.get(name.as_str()).into_iter().flatten();
        places.map(|place| target(&entries[*place])).collect()
    }

    /// All names and what they stand for, in the order of the names; entries without a name, or
    /// that are no descriptors, are passed over.
    pub(crate) fn list(&self) -> Vec<(Reference, Descriptor)> {
        let mut list: Vec<_> = self
            .entries()
            .iter()
            .filter_map(|entry| {
                Some((
                    name_of(entry)?.parse::<Reference>().ok()?,
                    target(entry).ok()?,
                ))
            })
            .collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// Makes `name` stand for `target` and nothing else.
    pub(crate) fn set(&mut self, name: &Reference, target: &Descriptor) -> Result<()> {
        let mut entry = serde_json::to_value(target)
            .map_err(|error| Error::internal("a descriptor does not serialise").source(error))?;
        entry["annotations"][NAME] = json!(name.as_str());
        self.remove(name);
        let manifests = self
            .document
            .entry("manifests")
            .or_insert_with(|| json!([]));
        match manifests {
            Value::Array(list) => list.push(entry),
            other => *other = json!([entry]),
        }
        Ok(())
    }

    /// Removes the entries of a name.
    pub(crate) fn remove(&mut self, name: &Reference) {
        self.places.take();
        if let Some(Value::Array(list)) = self.document.get_mut("manifests") {
            list.retain(|entry| !is_named(entry, name));
        }
    }

    fn entries(&self) -> &[Value] {
        let manifests = self.document.get("manifests").and_then(Value::as_array);
        manifests.map_or(&[], Vec::as_slice)
    }

    fn places(&self) -> HashMap<String, Vec<usize>> {
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, entry) in self.entries().iter().enumerate() {
            if let Some(name) = name_of(entry) {
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
        places
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(NAME)?.as_str()
}

fn is_named(entry: &Value, name: &Reference) -> bool {
    name_of(entry) == Some(name.as_str())
}

/// The descriptor of an entry, without the name.
fn target(entry: &Value) -> Result<Descriptor> {
    let mut target: Descriptor = serde_json::from_value(entry.clone())
        .map_err(|error| Error::corrupt(format!("its entry is no descriptor: {error}")))?;
    target.annotations.remove(NAME);
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cas_core::MediaType;

    const FOREIGN: &str = r#"{"schemaVersion":2,"x":{"y":1},"annotations":{"a":"b"},"manifests":[
        {"mediaType":"a/b","digest":"sha256:zz","size":1,"q":7},
        {"mediaType":"a/b","size":1,"digest":
         "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "annotations":{"org.opencontainers.image.ref.name":"twice"}},
        {"mediaType":"a/b","size":2,"digest":
         "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "annotations":{"org.opencontainers.image.ref.name":"twice"}}]}"#;

    #[test]
    fn what_others_wrote_survives_and_duplicates_are_told() {
        let mut index = Index::parse(FOREIGN.as_bytes()).unwrap();
        let name: Reference = "x.io/a:1".parse().unwrap();
        let mut target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
        target.annotations.insert("k".into(), "v".into());
        index.set(&name, &target).unwrap();
        assert_eq!(index.get(&name).unwrap(), Some(target));
        assert_eq!(index.list().len(), 3);
        let twice = index.get(&"twice".parse().unwrap()).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::FailedPrecondition);
        index.remove(&name);
        let back: Value = serde_json::from_slice(&index.encode().unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(FOREIGN).unwrap());
    }
}
