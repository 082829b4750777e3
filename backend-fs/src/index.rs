//! The document of `index.json`, in memory. A change of one entry keeps all other entries, and the
//! fields that other programs added to the document.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use cas_core::document::check_json;
use cas_core::image::Reference;
use cas_core::layout::REF_NAME as NAME;
use cas_core::{Descriptor, Digest, DigestPrefix, Error, ErrorKind, MediaType, Result, limit};
use serde_json::{Map, Value, json};

use crate::entry::{
    digest_of, fault, mended, name_of, name_or_digest, name_without_target, target,
};
use crate::facts::Facts;

/// What to do about a damaged file. No repair works on the layout of another program.
pub(crate) const REPAIR: &str =
    "restore the file or, in a store of cas, let `cas fsck --repair` make it again";

/// A name with its target.
pub(crate) type Named = (Reference, Descriptor);

/// The document. Entries are parsed only when they are used.
pub(crate) struct Index {
    document: Map<String, Value>,
    /// The positions of the entries of each name, computed at the first lookup.
    positions: OnceLock<HashMap<Reference, Vec<usize>>>,
    /// The digests of the entries and their positions, sorted at the first lookup.
    digests: OnceLock<Vec<(Digest, usize)>>,
}

impl Index {
    /// Returns a document without entries.
    pub(crate) fn empty() -> Self {
        let mut document = Map::new();
        document.insert("schemaVersion".to_owned(), json!(2));
        document.insert("mediaType".to_owned(), json!(MediaType::OCI_INDEX));
        document.insert("manifests".to_owned(), json!([]));
        Self::of(document)
    }

    /// Parses the document.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        check_json(data)?;
        let document: Map<String, Value> = serde_json::from_slice(data).map_err(|error| {
            Error::corrupt(format!("not an image index: {error}"))
                .advice(REPAIR)
                .source(error)
        })?;
        match document.get("manifests") {
            Some(Value::Array(_) | Value::Null) => Ok(Self::of(document)),
            Some(_) => Err(
                Error::corrupt("not an image index: `manifests` is not an array").advice(REPAIR),
            ),
            // An image index without this member may be one in which its name was damaged.
            None => {
                Err(Error::corrupt("not an image index: `manifests` is missing").advice(REPAIR))
            }
        }
    }

    fn of(document: Map<String, Value>) -> Self {
        Index {
            document,
            positions: OnceLock::new(),
            digests: OnceLock::new(),
        }
    }

    /// Returns a copy that can be changed.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.document.clone())
    }

    /// Returns the document as JSON.
    ///
    /// # Errors
    /// `Full` if it exceeds [`limit::DOCUMENT_WRITE`].
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let data = serde_json::to_vec(&self.document).map_err(|error| {
            Error::internal("cannot encode index.json; please report it").source(error)
        })?;
        if data.len() as u64 > limit::DOCUMENT_WRITE {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "the file would have {} bytes; at most {} are allowed; remove images",
                    data.len(),
                    limit::DOCUMENT_WRITE
                ),
            ));
        }
        Ok(data)
    }

    /// Returns the target of a name, or `None` if the name does not have an entry.
    ///
    /// # Errors
    /// `FailedPrecondition` if [`Self::targets`] returns several targets; `Corrupt` if one of the
    /// entries of the name does not have a valid digest.
    pub(crate) fn get(&self, name: &Reference) -> Result<Option<Descriptor>> {
        let mut targets = self.targets(name)?;
        match &targets[..] {
            [first, second, ..] => Err(Error::precondition(format!(
                "index.json has several entries of this name, for {} and for {}; delete the name, \
                 which removes all its entries, and create the name again",
                first.digest, second.digest,
            ))),
            _ => Ok(targets.pop()),
        }
    }

    /// Returns all targets of a name. An entry without a name has its digest as its name. Several
    /// entries with the same digest count as one. Only other programs write several entries of a
    /// name.
    ///
    /// # Errors
    /// `Corrupt` if one of the entries does not have a valid digest.
    pub(crate) fn targets(&self, name: &Reference) -> Result<Vec<Descriptor>> {
        let entries = self.entries();
        let positions = self.positions.get_or_init(|| self.find_positions());
        let positions = positions.get(name).into_iter().flatten();
        let mut targets: Vec<Descriptor> = positions
            .map(|position| target(&entries[*position]))
            .collect::<Result<_>>()?;
        let mut known = BTreeSet::new();
        targets.retain(|one| known.insert(one.digest));
        Ok(targets)
    }

    /// Returns all names with their targets, in the order of the names. Skips entries without a
    /// valid name or digest, and those whose name states another digest.
    pub(crate) fn list(&self) -> Vec<Named> {
        let entries = self.entries().iter();
        let mut list: Vec<_> = entries
            .filter_map(|entry| Some((name_of(entry)?, target(entry).ok()?)))
            .collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// Returns the targets of the entries that [`Self::list`] skips. An entry whose digest does not
    /// parse is left out, because the store cannot have its content.
    pub(crate) fn unnamed(&self) -> Vec<Descriptor> {
        let entries = self.entries().iter();
        let unnamed = entries.filter(|entry| name_of(entry).is_none());
        unnamed.filter_map(|entry| target(entry).ok()).collect()
    }

    /// Returns the names of the entries that do not have a valid digest, or that have another
    /// digest than the name states.
    pub(crate) fn without_target(&self) -> impl Iterator<Item = Reference> {
        self.entries().iter().filter_map(name_without_target)
    }

    /// Returns whether the document has the member `manifests`.
    pub(crate) fn has_list(&self) -> bool {
        self.document.contains_key("manifests")
    }

    /// Returns the same as [`Self::list`] and [`Self::unnamed`], but only for entries whose digests
    /// begin with `prefix`.
    pub(crate) fn find(&self, prefix: &DigestPrefix) -> (Vec<Named>, Vec<Descriptor>) {
        let (entries, mut named, mut unnamed) = (self.entries(), Vec::new(), Vec::new());
        let digests = self.digests.get_or_init(|| self.sort_digests());
        for first in prefix.first() {
            let from = digests.partition_point(|(digest, _)| *digest < first);
            let matches = |(digest, _): &&(Digest, usize)| {
                digest.algorithm() == first.algorithm() && prefix.matches(digest)
            };
            for (_, position) in digests[from..].iter().take_while(matches) {
                let entry = &entries[*position];
                match (name_of(entry), target(entry)) {
                    (Some(name), Ok(target)) => named.push((name, target)),
                    (_, target) => unnamed.extend(target.ok()),
                }
            }
        }
        named.sort_by(|(one, _), (next, _)| one.cmp(next));
        (named, unnamed)
    }

    /// Returns what is wrong with each entry that is not a descriptor with a media type, or that
    /// does not state what its content is. `facts` returns the facts about the blob of a target, if
    /// they are known.
    pub(crate) fn faults(
        &self,
        facts: impl Fn(&Descriptor) -> Result<Option<Facts>>,
    ) -> Vec<String> {
        let entries = self.entries().iter();
        entries.filter_map(|entry| fault(entry, &facts)).collect()
    }

    /// Corrects the entries with a fault whose content is in the store. Returns the faults that
    /// [`Self::faults`] returned before, and for each whether it was corrected.
    pub(crate) fn mend(
        &mut self,
        facts: impl Fn(&Descriptor) -> Result<Option<Facts>>,
    ) -> Vec<(String, bool)> {
        self.forget();
        let mut faults = Vec::new();
        let manifests = self.document.get_mut("manifests");
        for entry in manifests
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(fault) = fault(entry, &facts) {
                let found = target(entry).and_then(|target| facts(&target));
                let found = found.ok().flatten();
                let mended = found.and_then(|found| mended(entry, &found));
                faults.push((fault, mended.is_some()));
                if let Some(mended) = mended {
                    *entry = mended;
                }
            }
        }
        faults
    }

    /// Returns an error for each entry that is not a descriptor with a media type or embeds other
    /// data, and for each name with several targets.
    pub(crate) fn wrong(&self) -> Vec<Error> {
        let faults = self.faults(|_| Ok(None)).into_iter();
        let error = |why| Error::corrupt(format!("{why}; correct or remove the entry"));
        let mut wrong: Vec<Error> = faults.map(error).collect();
        wrong.extend(self.several().into_iter().map(|(_, error)| error));
        wrong
    }

    /// Returns each name with several targets, and the error of [`Self::get`].
    pub(crate) fn several(&self) -> Vec<(Reference, Error)> {
        let names: BTreeSet<Reference> = self.list().into_iter().map(|(name, _)| name).collect();
        let error = |name: Reference| Some((name.clone(), self.get(&name).err()?));
        names.into_iter().filter_map(error).collect()
    }

    /// Makes `target` the only target of `name`.
    pub(crate) fn set(&mut self, name: &Reference, target: &Descriptor) -> Result<()> {
        self.remove(name);
        self.push(name, target)
    }

    /// Adds an entry for a name that has none.
    pub(crate) fn push(&mut self, name: &Reference, target: &Descriptor) -> Result<()> {
        let mut entry = serde_json::to_value(target).map_err(|error| {
            Error::internal("cannot encode an entry of index.json; please report it").source(error)
        })?;
        entry["annotations"][NAME] = json!(name.as_str());
        self.forget();
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

    /// Removes the entries of a name. An entry without a name has its digest as its name.
    pub(crate) fn remove(&mut self, name: &Reference) {
        self.remove_all(&HashSet::from([name]));
    }

    /// Removes all entries of these names.
    pub(crate) fn remove_all(&mut self, names: &HashSet<&Reference>) {
        self.forget();
        if let Some(Value::Array(list)) = self.document.get_mut("manifests") {
            list.retain(|entry| name_or_digest(entry).is_none_or(|name| !names.contains(&name)));
        }
    }

    /// Drops the results that lookups computed. Every change of entries calls this first.
    fn forget(&mut self) {
        self.positions.take();
        self.digests.take();
    }

    fn entries(&self) -> &[Value] {
        let manifests = self.document.get("manifests").and_then(Value::as_array);
        manifests.map_or(&[], Vec::as_slice)
    }

    fn find_positions(&self) -> HashMap<Reference, Vec<usize>> {
        let mut positions: HashMap<Reference, Vec<usize>> = HashMap::new();
        for (position, entry) in self.entries().iter().enumerate() {
            if let Some(name) = name_or_digest(entry) {
                positions.entry(name).or_default().push(position);
            }
        }
        positions
    }

    fn sort_digests(&self) -> Vec<(Digest, usize)> {
        let entries = self.entries().iter().enumerate();
        let mut digests: Vec<_> = entries
            .filter_map(|(position, entry)| Some((digest_of(entry)?, position)))
            .collect();
        digests.sort_unstable();
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::Blobs;
    use crate::facts::KnownFacts;
    use cas_core::MediaType;

    const FOREIGN: &str = r#"{"schemaVersion":2,"x":{"y":1},"annotations":{"a":"b"},"manifests":[
        {"mediaType":"a/b","digest":"sha256:zz","size":1,"q":7},
        {"mediaType":"a/b","size":1,"digest":
         "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "annotations":{"org.opencontainers.image.ref.name":"twice"}},
        {"mediaType":"a/b","size":2,"digest":
         "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
         "annotations":{"org.opencontainers.image.ref.name":"twice"}}]}"#;

    #[test]
    fn changes_keep_what_others_wrote_and_a_name_with_two_targets_is_an_error() {
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

    /// Another entry has their digest as its name. This name counts as none, because the entry has
    /// another digest.
    #[test]
    fn entries_without_a_name_count_once_wherever_they_stand() {
        let digest = cas_core::Digest::sha256(b"1").to_string();
        let other = cas_core::Digest::sha256(b"2").to_string();
        let unnamed = json!({"mediaType": "a/b", "digest": digest, "size": 1});
        let annotations = json!({ NAME: digest });
        let named =
            json!({"mediaType": "a/b", "digest": other, "size": 1, "annotations": annotations});
        for entries in [
            json!([unnamed, unnamed, named]),
            json!([unnamed, named, unnamed]),
            json!([named, unnamed, unnamed]),
        ] {
            let index = Index::parse(json!({"manifests": entries}).to_string().as_bytes()).unwrap();
            let found = index.targets(&digest.parse().unwrap()).unwrap();
            let found: Vec<String> = found.iter().map(|one| one.digest.to_string()).collect();
            assert_eq!(found, std::slice::from_ref(&digest));
        }
    }

    #[test]
    fn an_index_of_as_many_bytes_as_are_allowed_is_written_and_no_larger_one() {
        let sized = |size: u64| {
            let head = json!({"manifests": [], "x": ""}).to_string().len();
            let x = "x".repeat(size as usize - head);
            let text = json!({"manifests": [], "x": x}).to_string();
            Index::parse(text.as_bytes()).unwrap().encode()
        };
        let data = sized(limit::DOCUMENT_WRITE).unwrap();
        assert_eq!(data.len() as u64, limit::DOCUMENT_WRITE);
        let error = sized(limit::DOCUMENT_WRITE + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(error.to_string().contains("4194304"), "{error}");
    }

    #[test]
    fn entries_without_a_usable_name_are_found() {
        let digest = |number: u8| cas_core::Digest::sha256(&[number]).to_string();
        let named = |number: u8, name: Value| {
            let annotations = json!({ NAME: name });
            let digest = digest(number);
            json!({"mediaType": "a/b", "digest": digest, "size": 1, "annotations": annotations})
        };
        let entries = json!([
            named(0, json!("app:1")),
            {"mediaType": "a/b", "digest": digest(1), "size": 1},
            {"mediaType": "a/b", "digest": digest(2), "size": 1, "annotations": {"other": "x"}},
            {"mediaType": "a/b", "digest": digest(3), "size": 1, "annotations": null},
            named(4, json!("Not A Name")),
            named(5, json!("")),
            {"mediaType": "a/b", "digest": "blake3:00", "size": 1},
            "not an entry",
        ]);
        let text = |entries: &Value| json!({"manifests": entries}).to_string();
        let index = Index::parse(text(&entries).as_bytes()).unwrap();
        let unnamed = index.unnamed();
        let found: Vec<String> = unnamed.iter().map(|one| one.digest.to_string()).collect();
        assert_eq!(found, (1..6).map(digest).collect::<Vec<_>>());
        assert_eq!(index.list().len(), 1);
        for number in 0..6 {
            let prefix = digest(number)[..19].parse().unwrap();
            let (names, unnamed) = index.find(&prefix);
            let found: Vec<String> = names.iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(found, ["app:1"; 1][usize::from(number > 0)..]);
            let targets = names.iter().map(|(_, target)| target).chain(&unnamed);
            let targets: Vec<String> = targets.map(|one| one.digest.to_string()).collect();
            assert_eq!(targets, [digest(number)]);
        }
        let none = index.find(&"sha512:ab".parse().unwrap());
        assert_eq!((none.0.len(), none.1.len()), (0, 0));
        let mut index = index;
        for number in 1..6 {
            let name: Reference = digest(number).parse().unwrap();
            assert!(index.get(&name).unwrap().is_some(), "{name}");
            index.remove(&name);
            assert_eq!(index.get(&name).unwrap(), None);
        }
        assert_eq!(index.unnamed(), []);
        assert_eq!(index.list().len(), 1);

        // An entry with other faults is read as far as possible.
        let without_size = json!({"digest": digest(1), "annotations": {NAME: "app:1"}});
        for (other, is_named) in [
            (json!({"digest": digest(1)}), false),
            (named(1, json!(7)), false),
            (without_size, true),
        ] {
            let index = Index::parse(text(&json!([other])).as_bytes()).unwrap();
            let (named, unnamed) = (index.list(), index.unnamed());
            assert_eq!(
                (named.len(), unnamed.len()),
                (usize::from(is_named), usize::from(!is_named))
            );
            let targets = named.into_iter().map(|(_, target)| target).chain(unnamed);
            let found: Vec<String> = targets.map(|target| target.digest.to_string()).collect();
            assert_eq!(found, [digest(1)]);
        }
    }

    #[test]
    fn a_name_that_states_another_digest_counts_as_none() {
        let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
        let other = Digest::sha256(b"other");
        for wrong in [format!("x.io/a:1@{other}"), other.to_string()] {
            let wrong: Reference = wrong.parse().unwrap();
            let mut index = Index::empty();
            index.push(&wrong, &target).unwrap();
            assert_eq!(index.get(&wrong).unwrap(), None, "{wrong}");
            assert_eq!(index.list(), [], "{wrong}");
            assert_eq!(index.unnamed(), std::slice::from_ref(&target), "{wrong}");
            // Perhaps a bit of the digest was changed, and a record still states the right one.
            assert_eq!(index.without_target().collect::<Vec<_>>(), [wrong]);
            let faults = index.faults(|_| Ok(None));
            assert!(faults[0].contains("states another digest"), "{faults:?}");
            index.remove(&target.digest.into());
            assert_eq!(index.unnamed(), []);
        }
    }

    #[test]
    fn an_entry_whose_content_cannot_be_read_does_not_keep_others_from_being_corrected() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(cas_host::Dir::open(temp.path()).unwrap());
        std::fs::create_dir(temp.path().join("sha256")).unwrap();
        let [unreadable, wrong] = ["1", "2"].map(|data| {
            let target = Descriptor::of(MediaType::OCI_LAYER, data.as_bytes());
            let file = temp.path().join("sha256").join(target.digest.hex());
            std::fs::write(file, data).unwrap();
            target
        });
        let mut entries = json!([unreadable, wrong]);
        entries[1]["size"] = json!(7);
        let text = json!({ "manifests": entries }).to_string();
        let mut index = Index::parse(text.as_bytes()).unwrap();
        let known = KnownFacts::default();
        let facts = |target: &Descriptor| match *target == unreadable {
            true => Err(std::io::Error::from_raw_os_error(5).into()),
            false => known.of_sound(&blobs, target),
        };
        let faults = index.faults(facts);
        assert!(faults[0].contains("os error 5"), "{faults:?}");
        let mended: Vec<bool> = index
            .mend(facts)
            .into_iter()
            .map(|(_, done)| done)
            .collect();
        assert_eq!((faults.len(), mended), (2, vec![false, true]));
        assert_eq!(index.unnamed(), [unreadable.clone(), wrong]);
    }
}
