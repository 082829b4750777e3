//! The functions of an OCI layout engine (see `docs/SEEDS.md`): paths and links of blobs, old
//! layouts, read-only stores, and checks of layouts of other programs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use backend_fs::{FsStore, validate};
use cas_core::check::{Problem, Report};
use cas_core::image::Image;
use cas_core::layout::{IMAGE_LAYOUT_VERSION, INDEX, OCI_LAYOUT, REF_NAME, blob_path};
use cas_core::pool::wait;
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, MediaType, limit};
use serde_json::{Value, json};

/// A layout of another program, with one image.
struct Foreign {
    temp: tempfile::TempDir,
    layer: Digest,
    manifest: Descriptor,
}

impl Foreign {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let put = |media_type: MediaType, data: &[u8]| {
            let descriptor = Descriptor::of(media_type, data);
            let path = temp.path().join(blob_path(&descriptor.digest));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
            descriptor
        };
        let layer = put(MediaType::OCI_LAYER, b"layer");
        let config = json!({"os": "linux", "architecture": "amd64",
                            "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
        let config = put(MediaType::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                              "config": config, "layers": [layer]});
        let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().as_bytes());
        let foreign = Foreign {
            layer: layer.digest,
            manifest,
            temp,
        };
        foreign.write(
            OCI_LAYOUT,
            &json!({"imageLayoutVersion": IMAGE_LAYOUT_VERSION}),
        );
        foreign.write_index(&[foreign.entry("app")]);
        foreign
    }

    fn path(&self) -> &Path {
        self.temp.path()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path().join(blob_path(digest))
    }

    fn entry(&self, name: &str) -> Value {
        let mut entry = json!(self.manifest);
        entry["annotations"][REF_NAME] = json!(name);
        entry
    }

    fn write(&self, file: &str, document: &Value) {
        fs::write(self.path().join(file), document.to_string()).unwrap();
    }

    fn write_index(&self, entries: &[Value]) {
        self.write(INDEX, &json!({"schemaVersion": 2, "manifests": entries}));
    }

    /// Lists all files and directories with their times of change.
    fn files(&self) -> Vec<(PathBuf, i64, i64)> {
        let (mut found, mut left) = (Vec::new(), vec![self.path().to_owned()]);
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                left.extend(entries.map(|entry| entry.unwrap().path()));
            }
            found.push((path, metadata.ctime(), metadata.ctime_nsec()));
        }
        found.sort();
        found
    }

    /// Validates the layout, and checks that this changes no file.
    fn validate(&self) -> Report {
        let before = self.files();
        let report = wait(validate(self.path())).unwrap();
        assert_eq!(self.files(), before);
        report
    }

    fn finds(&self, problem: Problem, subject: impl AsRef<str>, detail: &str) {
        let report = self.validate();
        let found = report
            .findings
            .iter()
            .find(|found| found.problem == problem);
        let found = found.unwrap_or_else(|| panic!("{problem}: {report:?}"));
        assert!(found.subject.contains(subject.as_ref()), "{found:?}");
        assert!(found.detail.contains(detail), "{found:?}");
    }
}

#[test]
fn a_layout_is_read_without_writing_to_it() {
    let foreign = Foreign::new();
    let before = foreign.files();
    let store = FsStore::open_read_only(foreign.path()).unwrap().store();
    let names = wait(store.images.list(&[])).unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].target, foreign.manifest);
    assert_eq!(
        wait(store.content.fetch(&foreign.manifest)).unwrap().len() as u64,
        foreign.manifest.size
    );
    let refused = [
        wait(store.content.put("new".into())).err(),
        wait(store.content.remove(&foreign.layer)).err(),
        wait(store.images.delete(&"app".parse().unwrap(), None)).err(),
    ];
    for error in refused {
        assert_eq!(error.unwrap().kind(), ErrorKind::Denied);
    }
    drop(store);
    assert_eq!(foreign.files(), before);
    let empty = tempfile::tempdir().unwrap();
    for path in [empty.path(), Path::new("/absent")] {
        assert!(FsStore::open_read_only(path).is_err(), "{}", path.display());
    }
}

#[test]
fn a_blob_has_a_path_and_can_be_linked() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path().join("store")).unwrap();
    let content = store.content();
    let digest = wait(content.put("bytes".into())).unwrap();
    let path = wait(content.open(&digest))
        .unwrap()
        .unwrap()
        .path()
        .unwrap();
    assert_eq!(path, temp.path().join("store").join(blob_path(&digest)));
    assert_eq!(fs::read(&path).unwrap(), b"bytes");

    let link = temp.path().join("link");
    wait(store.link_blob(&digest, &link)).unwrap();
    assert_eq!(fs::read(&link).unwrap(), b"bytes");
    let again = wait(store.link_blob(&digest, &link)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&link).unwrap(), b"bytes");
    let absent = wait(store.link_blob(&Digest::sha256(b"absent"), temp.path().join("no")));
    assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!temp.path().join("no").exists());
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let far = wait(store.link_blob(&digest, elsewhere.path().join("far"))).unwrap_err();
    assert_eq!(far.kind(), ErrorKind::Unsupported, "{far}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    // The store keeps its directory open, so it works after the directory was renamed.
    let moved = temp.path().join("moved");
    fs::rename(temp.path().join("store"), &moved).unwrap();
    wait(store.link_blob(&digest, temp.path().join("second"))).unwrap();
    assert_eq!(fs::read(temp.path().join("second")).unwrap(), b"bytes");
    fs::rename(&moved, temp.path().join("store")).unwrap();

    assert!(wait(content.remove(&digest)).unwrap());
    assert_eq!(fs::read(&link).unwrap(), b"bytes");
    assert!(!path.exists());
    assert_eq!(wait(content.put("bytes".into())).unwrap(), digest);
}

/// Layouts had a file per name in `refs/` before `index.json` was specified.
#[test]
fn the_names_of_an_old_layout_are_read_and_converted() {
    let foreign = Foreign::new();
    fs::remove_file(foreign.path().join(INDEX)).unwrap();
    fs::create_dir(foreign.path().join("refs")).unwrap();
    for name in ["v1", "v1.2_x-y"] {
        let text = format!("{}\n", json!(foreign.manifest));
        fs::write(foreign.path().join("refs").join(name), text).unwrap();
    }
    let names = |store: &FsStore| -> Vec<String> {
        let images = wait(store.images().list(&[])).unwrap();
        assert!(images.iter().all(|image| image.target == foreign.manifest));
        images.iter().map(|image| image.name.to_string()).collect()
    };
    assert_eq!(foreign.validate().findings, []);
    let read = FsStore::open_read_only(foreign.path()).unwrap();
    assert_eq!(names(&read), ["v1", "v1.2_x-y"]);
    assert!(!foreign.path().join(INDEX).exists());
    drop(read);

    let target = json!(foreign.manifest).to_string();
    for (name, text) in [
        ("bad", "{"),
        ("empty", ""),
        ("a b", &target),
        ("null", "null"),
    ] {
        let bad = foreign.path().join("refs").join(name);
        fs::write(&bad, text).unwrap();
        let error = FsStore::open(foreign.path()).err().unwrap();
        assert!(
            error.to_string().contains(&format!("refs/{name}")),
            "{error}"
        );
        foreign.finds(Problem::StoreDamaged, INDEX, &format!("refs/{name}"));
        fs::remove_file(bad).unwrap();
    }
    assert!(!foreign.path().join(INDEX).exists());

    let long = foreign.path().join("refs/v1");
    let rest = " ".repeat(limit::LAYOUT_FILE as usize - target.len());
    fs::write(&long, format!("{target}{rest} ")).unwrap();
    let error = FsStore::open(foreign.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert!(error.to_string().contains("at most 65536 bytes"), "{error}");
    fs::write(&long, format!("{target}{rest}")).unwrap();

    let store = FsStore::open(foreign.path()).unwrap();
    assert_eq!(names(&store), ["v1", "v1.2_x-y"]);
    assert!(
        foreign.path().join("refs/v1").exists(),
        "old tools still read them"
    );
    wait(store.images().delete(&"v1".parse().unwrap(), None)).unwrap();
    drop(store);
    let index = fs::read_to_string(foreign.path().join(INDEX)).unwrap();
    assert!(
        index.contains("v1.2_x-y") && !index.contains("\"v1\""),
        "{index}"
    );
    assert_eq!(names(&FsStore::open(foreign.path()).unwrap()), ["v1.2_x-y"]);
}

#[test]
fn a_sound_layout_is_found_sound() {
    let foreign = Foreign::new();
    let report = foreign.validate();
    assert_eq!(report.findings, []);
    assert_eq!((report.images, report.blobs), (1, 3));
    let ours = tempfile::tempdir().unwrap();
    let store = FsStore::open(ours.path()).unwrap();
    wait(store.content().put("loose".into())).unwrap();
    assert_eq!(wait(validate(ours.path())).unwrap().findings, []);
}

#[test]
fn what_is_wrong_with_a_layout_is_said_where_it_is() {
    use Problem::{BlobDamaged, BlobMissing, StoreDamaged};
    let damaged = |damage: &dyn Fn(&Foreign)| {
        let foreign = Foreign::new();
        damage(&foreign);
        foreign
    };
    for (text, detail) in [
        ("{", "damaged"),
        (r#"{"imageLayoutVersion":"2.0.0"}"#, "2.0.0"),
    ] {
        let version = damaged(&|layout| fs::write(layout.path().join(OCI_LAYOUT), text).unwrap());
        version.finds(StoreDamaged, OCI_LAYOUT, detail);
    }
    let marked = damaged(&|layout| fs::remove_file(layout.path().join(OCI_LAYOUT)).unwrap());
    marked.finds(StoreDamaged, OCI_LAYOUT, "has no oci-layout");
    for (text, detail) in [
        ("[]", "not an image index"),
        (r#"{"manifests":{}}"#, "`manifests`"),
    ] {
        let index = damaged(&|layout| fs::write(layout.path().join(INDEX), text).unwrap());
        index.finds(StoreDamaged, INDEX, detail);
    }
    let most = limit::DOCUMENT_READ as usize;
    for (size, detail) in [(most + 1, "expected at most"), (most, "not an image index")] {
        let large =
            damaged(&|layout| fs::write(layout.path().join(INDEX), vec![b' '; size]).unwrap());
        large.finds(StoreDamaged, INDEX, detail);
        // The blobs are checked even then.
        fs::write(large.blob(&large.layer), "LAYER").unwrap();
        let found = large.validate().findings;
        assert!(
            found.iter().any(|one| one.problem == BlobDamaged),
            "{found:?}"
        );
    }
    let directory = damaged(&|layout| {
        fs::remove_file(layout.path().join(INDEX)).unwrap();
        fs::create_dir(layout.path().join(INDEX)).unwrap();
    });
    directory.finds(StoreDamaged, INDEX, "found a directory");
    let link = damaged(&|layout| {
        fs::rename(layout.path().join(INDEX), layout.path().join("moved")).unwrap();
        symlink("moved", layout.path().join(INDEX)).unwrap();
    });
    link.finds(StoreDamaged, INDEX, "found a symbolic link");
    let entry = damaged(&|layout| layout.write_index(&[layout.entry("app"), json!({"size": 1})]));
    entry.finds(StoreDamaged, INDEX, "not a descriptor");
    let twice = damaged(&|layout| {
        let mut other = json!(Descriptor::of(MediaType::OCI_MANIFEST, b"other"));
        other["annotations"][REF_NAME] = json!("app");
        layout.write_index(&[layout.entry("app"), other]);
    });
    twice.finds(StoreDamaged, INDEX, "several entries of this name");

    let missing = damaged(&|layout| fs::remove_file(layout.blob(&layout.layer)).unwrap());
    missing.finds(BlobMissing, missing.layer.hex(), "app");
    let flipped = damaged(&|layout| fs::write(layout.blob(&layout.layer), "LAYER").unwrap());
    flipped.finds(BlobDamaged, flipped.layer.hex(), "digest");
    let longer = damaged(&|layout| fs::write(layout.blob(&layout.layer), "layer+").unwrap());
    longer.finds(BlobDamaged, longer.layer.hex(), "");
    let empty = damaged(&|layout| fs::write(layout.blob(&layout.manifest.digest), "").unwrap());
    empty.finds(BlobDamaged, empty.manifest.digest.hex(), "");

    let other = tempfile::tempdir().unwrap();
    let error = wait(validate(other.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(wait(validate(other.path().join("absent"))).is_err());
}

#[test]
fn a_store_of_a_newer_format_is_refused_even_if_its_index_is_damaged() {
    let foreign = Foreign::new();
    drop(FsStore::open(foreign.path()).unwrap());
    foreign.write(".cas/format.json", &json!({"kind": "fs", "version": 99}));
    fs::write(foreign.path().join(INDEX), "[]").unwrap();
    let error = wait(validate(foreign.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
}

/// The label that keeps a referrer is in the record of its subject, and a layout of another program
/// has no records.
#[test]
fn a_referrer_without_a_label_is_no_fault_in_a_layout_of_another_program() {
    let foreign = Foreign::new();
    let referrer = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                          "config": {"mediaType": "a/b", "digest": foreign.layer, "size": 5},
                          "layers": [], "subject": foreign.manifest});
    let referrer = referrer.to_string();
    let path = foreign.blob(&Digest::sha256(referrer.as_bytes()));
    fs::write(path, &referrer).unwrap();
    assert_eq!(foreign.validate().findings, []);
    drop(FsStore::open(foreign.path()).unwrap());
    let found = wait(validate(foreign.path())).unwrap().findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].problem, Problem::ReferrerUnlinked);
}

#[test]
fn a_name_is_put_again_and_deleted_again() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    let put = |text: &[u8]| {
        let target = Descriptor::of(MediaType::OCI_MANIFEST, text);
        let image = Image::new("app".parse().unwrap(), target);
        wait(cas_core::ImageStoreExt::put_new(&*images, image))
    };
    let made = put(b"one").unwrap();
    assert_eq!(put(b"one").unwrap(), made);
    assert_eq!(put(b"two").unwrap_err().kind(), ErrorKind::AlreadyExists);
    let remove = || {
        wait(cas_core::ImageStoreExt::remove(
            &*images,
            &"app".parse().unwrap(),
        ))
    };
    assert!(remove().unwrap());
    assert!(!remove().unwrap());
}

/// When forty processes of `umoci tag` changed one layout concurrently, only three names were kept.
#[test]
fn forty_writers_with_handles_of_their_own_lose_no_name() {
    let temp = tempfile::tempdir().unwrap();
    let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    std::thread::scope(|scope| {
        for number in 0..40 {
            let (path, target) = (temp.path(), target.clone());
            scope.spawn(move || {
                let images = FsStore::open(path).unwrap().images();
                let name = format!("tag-{number}").parse().unwrap();
                wait(images.create(Image::new(name, target))).unwrap();
            });
        }
    });
    let images = FsStore::open(temp.path()).unwrap().images();
    assert_eq!(wait(images.list(&[])).unwrap().len(), 40);
}
