//! Names in `index.json`, including names in entries that other programs wrote.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::time::{Duration, SystemTime};

use backend_fs::FsStore;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::gc::{GcOptions, collect};
use cas_core::image::{Image, Reference};
use cas_core::lease::UNLEASED_TTL;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{Descriptor, Digest, ErrorKind, Labels, MediaType, Store, pool::wait};
use serde_json::{Value, json};

fn entry(target: &Descriptor, name: &str) -> Value {
    let mut entry = serde_json::to_value(target).unwrap();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name, "theirs": "kept"});
    entry["unknown"] = json!([1]);
    entry
}

#[test]
fn changes_keep_entries_of_other_programs() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    let other = Descriptor::of(MediaType::OCI_MANIFEST, b"{ }");
    let nameless = json!({"mediaType": "a/b", "digest": target.digest, "size": 2, "x": 1});
    let foreign = json!({
        "schemaVersion": 2, "annotations": {"a": "b"}, "top": true,
        "manifests": [nameless, entry(&target, "twice"), entry(&other, "twice"), entry(&target, "a")],
    });
    let path = temp.path().join("index.json");
    fs::write(&path, foreign.to_string()).unwrap();
    let name = |text: &str| text.parse::<Reference>().unwrap();
    let twice = wait(images.get(&name("twice"))).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::FailedPrecondition);
    for digest in [target.digest, other.digest] {
        assert!(twice.to_string().contains(&digest.to_string()), "{twice}");
    }
    assert_eq!(wait(images.list(&[])).unwrap().len(), 3);
    assert_eq!(wait(images.list(&["name==a"])).unwrap().len(), 1);
    wait(images.create(Image::new(name("ours"), target.clone()))).unwrap();
    wait(images.delete(&name("ours"), Some(&target))).unwrap();
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(after, foreign);
    // A name with two entries can only be deleted without a target.
    let ambiguous = wait(images.delete(&name("twice"), Some(&target))).unwrap_err();
    assert_eq!(ambiguous.kind(), ErrorKind::NotFound);
    wait(images.delete(&name("twice"), None)).unwrap();
    assert_eq!(wait(images.get(&name("twice"))).unwrap(), None);
    assert_eq!(wait(images.list(&[])).unwrap().len(), 1);
}

#[test]
fn labels_stay_with_a_name_that_moves_and_end_with_a_deleted_name() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    let first = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    let second = Descriptor::of(MediaType::OCI_MANIFEST, b"{ }");
    let mut image = Image::new("name".parse().unwrap(), first.clone());
    image.labels = Labels::from([("k".into(), "v".into())]);
    let made = wait(images.create(image.clone())).unwrap();
    image.target = second.clone();
    let moved = wait(images.update(image.clone(), &["target"])).unwrap();
    assert_eq!((&moved.target, &moved.labels), (&second, &made.labels));
    assert_eq!(moved.created_at, made.created_at);
    assert_eq!(wait(images.get(&image.name)).unwrap(), Some(moved));
    let stale = wait(images.delete(&image.name, Some(&first))).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::NotFound);
    wait(images.delete(&image.name, None)).unwrap();
    // The record of the name is deleted, too.
    image.labels.clear();
    let again = wait(images.create(image)).unwrap();
    assert!(again.labels.is_empty());
}

/// Stores a document that lists `children`, and returns its entry in `index.json`.
fn document(store: &Store, kind: MediaType, mut document: Value) -> Value {
    document["schemaVersion"] = json!(2);
    document["mediaType"] = json!(kind);
    let data = document.to_string().into_bytes();
    let descriptor = Descriptor::of(kind, &data);
    wait(store.put(&descriptor, data.into(), Durability::Full)).unwrap();
    json!(descriptor)
}

/// Stores a manifest with a layer and a configuration of its own.
fn manifest(store: &Store, text: &str, subject: Option<&Value>) -> Value {
    let [config, layer] = [MediaType::OCI_CONFIG, MediaType::OCI_LAYER].map(|kind| {
        let data = format!(r#"{{"{text}":"{kind}"}}"#).into_bytes();
        let descriptor = Descriptor::of(kind, &data);
        wait(store.put(&descriptor, data.into(), Durability::Full)).unwrap();
        descriptor
    });
    let mut manifest = json!({"config": config, "layers": [layer]});
    if let Some(subject) = subject {
        manifest["subject"] = subject.clone();
    }
    document(store, MediaType::OCI_MANIFEST, manifest)
}

#[test]
fn a_collection_keeps_what_entries_list_that_have_no_name_or_one_that_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path()).unwrap().store();
    let bare = manifest(&store, "bare", None);
    let nested = document(
        &store,
        MediaType::OCI_INDEX,
        json!({"manifests": [manifest(&store, "nested", None)]}),
    );
    let referrer = manifest(&store, "referrer", Some(&bare));
    let alone = Descriptor::of(MediaType::OCI_LAYER, b"alone");
    wait(store.put(&alone, b"alone".to_vec().into(), Durability::Full)).unwrap();
    let layer = json!(alone);
    let with = |entry: Value, annotations: Value| {
        let mut entry = entry;
        entry["annotations"] = annotations;
        entry
    };
    let name = "org.opencontainers.image.ref.name";
    let entries = [
        bare,
        with(nested, Value::Null),
        with(referrer, json!({"other": "x"})),
        with(manifest(&store, "empty", None), json!({name: ""})),
        with(
            manifest(&store, "refused", None),
            json!({name: "Not A Name"}),
        ),
        with(
            manifest(&store, "long", None),
            json!({name: "n".repeat(5000)}),
        ),
        with(
            manifest(&store, "control", None),
            json!({"io.containerd.image.name": "\u{1b}]0;x"}),
        ),
        layer.clone(),
        layer,
    ];
    let file = temp.path().join("index.json");
    let write = |entries: &[Value]| {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(&file, index.to_string()).unwrap();
    };
    let count = || wait(store.content.list(None, 100)).unwrap().len();
    let later = SystemTime::now() + Duration::from_hours(48);
    let options = GcOptions::default().with_now(later);
    let collected = || wait(collect(&store, &[], &options)).unwrap().blobs.len();
    write(&entries);
    assert_eq!((count(), collected(), count()), (23, 0, 23));
    assert!(wait(store.images.list(&[])).unwrap().is_empty());

    // Other names can be created and deleted.
    let target = serde_json::from_value(entries[0].clone()).unwrap();
    let image = Image::new("app:1".parse().unwrap(), target);
    let image = wait(store.images.create(image)).unwrap();
    wait(store.images.delete(&image.name, None)).unwrap();
    assert_eq!((collected(), count()), (0, 23));

    write(&entries[..2]);
    assert_eq!((collected(), count()), (16, 7));
    write(&[]);
    assert_eq!((collected(), count()), (7, 0));
}

/// A process was killed after it wrote the record of a name or `index.json`, but not both.
#[test]
fn a_collection_removes_records_without_a_name() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path()).unwrap().store();
    let manifest = |text: &str| serde_json::from_value(manifest(&store, text, None)).unwrap();
    let (kept, other): (Descriptor, Descriptor) = (manifest("kept"), manifest("other"));
    let image = Image::new("app:1".parse().unwrap(), kept.clone());
    wait(store.images.create(image.clone())).unwrap();
    let keys = || -> Vec<String> {
        let records = wait(store.records.scan(Table::Images, "", None, 100)).unwrap();
        records.into_iter().map(|record| record.key).collect()
    };
    let before = keys();
    let mut batch = Batch::new();
    let value = Bytes::from(serde_json::to_vec(&image).unwrap());
    for (name, digest) in [
        ("app:1", other.digest),
        ("app:2", kept.digest),
        ("a:1", other.digest),
        ("z:1", Digest::sha256(b"absent")),
    ] {
        batch.put(
            Table::Images,
            format!("{name} {digest}"),
            Expect::Absent,
            value.clone(),
        );
    }
    // A key that does not parse is kept.
    batch.put(Table::Images, "odd", Expect::Absent, value.clone());
    wait(store.records.commit(&batch)).unwrap();
    fs::write(temp.path().join(".cas/index.new"), "half").unwrap();
    let dry = GcOptions::default().with_dry_run(true);
    wait(collect(&store, &[], &dry)).unwrap();
    assert_eq!(keys().len(), before.len() + 5, "a dry run changes nothing");
    wait(collect(&store, &[], &GcOptions::default())).unwrap();
    assert_eq!(keys(), [&before[..], &["odd".to_owned()]].concat());
    assert!(!temp.path().join(".cas/index.new").exists());
    assert_eq!(
        wait(store.images.get(&image.name)).unwrap().unwrap().target,
        kept
    );
}

#[test]
fn a_record_with_a_changed_bit_is_not_read() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path()).unwrap().store();
    let target = serde_json::from_value(manifest(&store, "app", None)).unwrap();
    let mut image = Image::new("app:1".parse().unwrap(), target);
    // With another time, a collection would remove the name.
    let expires = ("containerd.io/gc.expire", "2999-01-01T00:00:00Z");
    image.labels = Labels::from([expires].map(|(key, value)| (key.into(), value.into())));
    let made = wait(store.images.create(image)).unwrap();
    let found = wait(store.records.scan(Table::Images, "", None, 2)).unwrap();
    let [record] = &found[..] else {
        panic!("{found:?}");
    };
    for at in (0..record.value.len()).step_by(3) {
        let mut value = record.value.to_vec();
        value[at] ^= 1;
        let mut batch = Batch::new();
        batch.put(Table::Images, &*record.key, Expect::Any, value.into());
        wait(store.records.commit(&batch)).unwrap();
        match wait(store.images.get(&made.name)) {
            // Without its name, the checksum is a member that is not read.
            Ok(found) => assert_eq!(found, Some(made.clone()), "{at}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}: {error}");
                let collected = wait(collect(&store, &[], &GcOptions::default()));
                assert_eq!(collected.unwrap_err().kind(), ErrorKind::Corrupt, "{at}");
            }
        }
    }
}

/// Returns the position of a byte of `index.json` whose lowest bit changes.
type Place = fn(&str) -> usize;

/// The changed bit makes the digest of the entry another digest or no digest, or removes the digest
/// or the list of entries.
const PLACES: [Place; 3] = [
    |text| {
        let digest = text.find("sha256:").unwrap() + "sha256:".len();
        let digit = text[digest..].find(|one: char| one.is_ascii_digit());
        digest + digit.unwrap()
    },
    |text| text.find("sha256:").unwrap(),
    |text| text.find("digest").unwrap(),
];

#[test]
fn a_collection_keeps_content_whose_entry_has_a_changed_bit() {
    for place in PLACES {
        let temp = tempfile::tempdir().unwrap();
        let store = FsStore::open(temp.path()).unwrap().store();
        let target = serde_json::from_value(manifest(&store, "kept", None)).unwrap();
        manifest(&store, "garbage", None);
        let mut image = Image::new("app:1".parse().unwrap(), target);
        image.labels = Labels::from([("k".into(), "v".into())]);
        let made = wait(store.images.create(image)).unwrap();
        let file = temp.path().join("index.json");
        let good = fs::read_to_string(&file).unwrap();
        let mut changed = good.clone().into_bytes();
        changed[place(&good)] ^= 1;
        fs::write(&file, &changed).unwrap();
        let later = SystemTime::now() + Duration::from_hours(48);
        let options = GcOptions::default().with_now(later);
        for garbage in [3, 0] {
            let removed = wait(collect(&store, &[], &options)).unwrap();
            let changed = String::from_utf8_lossy(&changed);
            assert_eq!(removed.blobs.len(), garbage, "{changed}");
        }
        fs::write(&file, &good).unwrap();
        assert_eq!(wait(store.images.get(&made.name)).unwrap(), Some(made));
        assert_eq!(wait(store.content.list(None, 10)).unwrap().len(), 3);
    }
}

/// A process was killed after it wrote the key file or the file of the bytes, but not both.
#[test]
fn key_files_without_bytes_are_removed_after_a_day() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path()).unwrap().store();
    let ingests = temp.path().join(".cas/ingest");
    let names = || fs::read_dir(&ingests).unwrap().count();
    let mut kept = wait(store.content.begin("kept")).unwrap();
    wait(kept.append(Bytes::from_static(b"x"))).unwrap();
    drop(kept);
    let running = wait(store.content.begin("running")).unwrap();
    let digest = Digest::sha256(b"of digest").to_string();
    drop(wait(store.content.begin(&digest)).unwrap());
    let bytes = |key: &str| ingests.join(Digest::sha256(key.as_bytes()).hex());
    fs::remove_file(bytes("running")).unwrap();
    for (number, content) in ["", "boot", "boot\nkey"].into_iter().enumerate() {
        fs::write(bytes(&number.to_string()).with_extension("key"), content).unwrap();
    }
    let now = SystemTime::now();
    let [yesterday, later] = [now - UNLEASED_TTL, now + UNLEASED_TTL];
    let leftovers = |before, remove| wait(store.content.leftovers(before, remove)).unwrap();
    assert_eq!(leftovers(yesterday, true), [0; 0], "too young");
    for remove in [false, true] {
        let mut found = leftovers(later, remove);
        found.sort_unstable();
        assert_eq!(found, [0, 4, 8]);
    }
    assert_eq!(leftovers(later, true), [0; 0]);
    assert_eq!(
        names(),
        4,
        "two files of one, one of the running and one of the digest"
    );
    drop(running);
    assert_eq!(leftovers(later, true).len(), 1);
    assert_eq!(wait(store.content.begin("kept")).unwrap().offset(), 1);
}
