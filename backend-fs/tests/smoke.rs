//! The main path: an image is stored, found by another handle, and removed.

use backend_fs::FsStore;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::image::Image;
use cas_core::records::Batch;
use cas_core::{ContentExt, Descriptor, ErrorKind, MediaType, pool::wait};

#[test]
fn an_image_is_stored_and_found_by_another_handle() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("store");
    let manifest = br#"{"schemaVersion":2}"#;
    let target = Descriptor::of(MediaType::OCI_MANIFEST, manifest);
    let name = "x.io/a:1".parse().unwrap();
    let store = FsStore::open(&path).unwrap().store();
    let other = FsStore::open(&path).unwrap().store();
    wait(async {
        store.content.put(manifest[..].into()).await.unwrap();
        store.describe(&target, Vec::new()).await.unwrap();
        let image = Image::new("x.io/a:1".parse().unwrap(), target.clone());
        let image = store.images.create(image).await.unwrap();
        assert_eq!(other.images.get(&name).await.unwrap(), Some(image.clone()));
        let again = other.images.create(image).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert_eq!(&other.content.fetch(&target).await.unwrap()[..], manifest);
        assert_eq!(other.content.list(None, 9).await.unwrap().len(), 1);
        let (record, _) = other.blobs().load(&target.digest).await.unwrap().unwrap();
        assert_eq!(record.size, target.size);
        other.images.delete(&name, Some(&target)).await.unwrap();
        assert!(store.images.get(&name).await.unwrap().is_none());
        assert!(store.content.remove(&target.digest).await.unwrap());
        assert!(other.content.stat(&target.digest).await.unwrap().is_none());
    });
}

#[test]
fn every_durability_publishes_and_groups_share_their_syncs() {
    let temp = tempfile::tempdir().unwrap();
    let store = FsStore::open(temp.path()).unwrap();
    let content = store.content();
    let one = async |number: u32, durability: Durability| {
        let key = number.to_string();
        let mut writer = Writer::begin(&*content, &key, Expected::ANY).await.unwrap();
        writer.write(key.into_bytes().into()).await.unwrap();
        let done = writer.commit(&Batch::new(), durability).await.unwrap();
        assert!(content.stat(&done.digest).await.unwrap().is_some());
    };
    wait(async {
        tokio::join!(
            one(1, Durability::Batched),
            one(2, Durability::Batched),
            one(3, Durability::Full),
            one(4, Durability::Relaxed),
            one(5, Durability::Batched),
        );
        assert!(content.ingests().await.unwrap().is_empty());
        content.flush().await.unwrap();
    });
    assert_eq!(
        std::fs::read_dir(temp.path().join(".cas/unsynced"))
            .unwrap()
            .count(),
        0
    );
}

/// A collection removes it even if it removes nothing else.
#[test]
fn the_marker_of_a_killed_process_is_removed_after_a_sync() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let other = FsStore::open(temp.path()).unwrap().content();
    let markers = temp.path().join(".cas/unsynced");
    let count = || std::fs::read_dir(&markers).unwrap().count();
    wait(async {
        let mut writer = Writer::begin(&*other, "blob", Expected::ANY).await.unwrap();
        writer.write("blob".into()).await.unwrap();
        let batch = Batch::new();
        writer.commit(&batch, Durability::Relaxed).await.unwrap();
        assert_eq!(count(), 1);
        std::fs::write(markers.join("of-a-killed-process"), "").unwrap();
        for (remove, left) in [(false, 2), (true, 1)] {
            let now = std::time::SystemTime::now();
            content.leftovers(now, remove).await.unwrap();
            assert_eq!(count(), left, "the running process keeps its marker");
        }
    });
}
