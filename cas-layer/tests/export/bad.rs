//! Exports that fail: they leave no file and no lease.

use std::io::{Error as IoError, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cas_core::content::{ContentExt, Durability};
use cas_core::error::ErrorKind;
use cas_core::lease::LeaseGuard;
use cas_core::progress::Event;
use cas_core::testing::memory::MemoryStore;
use cas_core::{Descriptor, Digest, Image, MediaType, Platform, Store, limit};
use cas_layer::export::{ExportOptions, Target, export};
use serde_json::json;
use tokio::sync::Notify;

use super::flawed::{Flaw, Flawed};
use super::{
    Sink, bytes_of, docker, for_platform, images, members, memory, source, store_of, take,
};
use crate::common::source::{Files, OWN, noise};

/// Checks that an export fails with `kind`, leaves the existing file and its directory unchanged,
/// and ends its lease. Returns the message.
async fn refused(store: &Store, options: &ExportOptions, kind: ErrorKind) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.tar");
    std::fs::write(&file, "before").unwrap();
    let all = images(store, false).await;
    let error = export(store, &all, Target::Path(file.clone()), options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(store.leases().list().await.unwrap().len(), 0);
    error.to_string()
}

fn own_layer() -> Digest {
    Descriptor::of(MediaType::OCI_LAYER, &noise(1, OWN)).digest
}

#[tokio::test]
async fn damaged_blobs_are_detected() {
    for flaw in [Flaw::Flipped, Flaw::Cut] {
        let memory = Arc::new(MemoryStore::new());
        let good = store_of(memory.clone(), memory.clone());
        take(&good, &source(), None).await;
        bytes_of(&good, &ExportOptions::default()).await.unwrap();
        let flawed = Arc::new(Flawed(memory.clone(), own_layer(), flaw));
        let bad = store_of(flawed, memory);
        for options in [
            ExportOptions::default(),
            docker(),
            for_platform("linux/amd64"),
        ] {
            let said = refused(&bad, &options, ErrorKind::Corrupt).await;
            assert!(said.contains(&own_layer().to_string()), "{said}");
        }
    }
}

#[tokio::test]
async fn a_damaged_manifest_of_another_platform_does_not_disturb_an_export() {
    for is_stated in [true, false] {
        let mut files = Files::layout();
        let entries = [(1, "amd64"), (2, "arm64")].map(|(seed, architecture)| {
            let platform = Platform::new("linux", architecture);
            let image = files.image(seed, architecture);
            match is_stated {
                true => image.with_platform(platform),
                false => image,
            }
        });
        let index = files.index(entries.to_vec());
        files.entries(&[(Some("multi"), &index)]);
        let memory = Arc::new(MemoryStore::new());
        let good = store_of(memory.clone(), memory.clone());
        take(&good, &files.tar(), None).await;
        let damaged = entries[1].digest;
        let flawed = Arc::new(Flawed(memory.clone(), damaged, Flaw::Flipped));
        let bad = store_of(flawed, memory);

        let amd64 = for_platform("linux/amd64");
        let expected = bytes_of(&good, &amd64).await.unwrap();
        assert!(bytes_of(&bad, &amd64).await.unwrap() == expected);
        for options in [ExportOptions::default(), for_platform("linux/arm64")] {
            let said = refused(&bad, &options, ErrorKind::Corrupt).await;
            assert!(said.contains(&damaged.to_string()), "{said}");
            assert!(said.contains("`cas fsck --read-data --repair`"), "{said}");
        }
        // Without a stated platform, the damaged manifest may be for any platform.
        let kind = match is_stated {
            true => ErrorKind::NotFound,
            false => ErrorKind::Corrupt,
        };
        refused(&bad, &for_platform("linux/s390x"), kind).await;
    }
}

#[tokio::test]
async fn the_error_names_a_lost_blob() {
    let store = memory();
    take(&store, &source(), None).await;
    store.content.remove(&own_layer()).await.unwrap();
    for options in [
        ExportOptions::default(),
        docker(),
        for_platform("linux/amd64"),
    ] {
        let said = refused(&store, &options, ErrorKind::NotFound).await;
        assert!(said.contains(&own_layer().to_string()), "{said}");
        assert!(said.contains("import"), "{said}");
    }
}

#[tokio::test]
async fn a_lost_manifest_of_an_index_is_not_mistaken_for_a_platform_that_was_never_stored() {
    let store = memory();
    let imported = take(&store, &source(), None).await;
    let multi = imported
        .iter()
        .find(|image| image.target.media_type.is_index());
    let target = &multi.unwrap().target;
    let children = cas_core::dispatch::children(&*store.content, target).await;
    let lost = children.unwrap()[1].digest;
    store.content.remove(&lost).await.unwrap();
    let said = refused(&store, &ExportOptions::default(), ErrorKind::NotFound).await;
    assert!(said.contains(&lost.to_string()), "{said}");
}

#[tokio::test]
async fn platforms_that_an_image_does_not_have_are_refused() {
    let store = memory();
    take(&store, &source(), None).await;
    let said = refused(&store, &for_platform("linux/s390x"), ErrorKind::NotFound).await;
    assert!(said.contains("other") && said.contains("s390x"), "{said}");
}

#[tokio::test]
async fn docker_archives_contain_images_only() {
    let mut files = Files::layout();
    let layer = files.blob("text/plain".into(), b"words");
    let config = files.blob(MediaType::OCI_EMPTY, b"{}");
    let artifact = files.manifest(config, vec![layer]);
    files.entries(&[(Some("artifact"), &artifact)]);
    let store = memory();
    take(&store, &files.tar(), None).await;
    bytes_of(&store, &ExportOptions::default()).await.unwrap();
    refused(&store, &docker(), ErrorKind::Unsupported).await;

    let mut files = Files::layout();
    let layer = files.blob("text/plain".into(), b"words");
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    });
    let config = files.blob(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    let odd = files.manifest(config, vec![layer]);
    files.entries(&[(Some("odd"), &odd)]);
    let store = memory();
    take(&store, &files.tar(), None).await;
    let said = refused(&store, &docker(), ErrorKind::Unsupported).await;
    assert!(said.contains("text/plain"), "{said}");
}

/// Accepts some bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(data.len())
            .ok_or_else(|| IoError::from(std::io::ErrorKind::StorageFull))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_full_target_is_an_error() {
    let store = memory();
    take(&store, &source(), None).await;
    let whole = bytes_of(&store, &ExportOptions::default())
        .await
        .unwrap()
        .len();
    for room in [0, 600, 5_000, whole - 1] {
        let target = Target::Stream(Box::new(Full(room)));
        let all = images(&store, false).await;
        let failed = export(&store, &all, target, &ExportOptions::default()).await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Full, "{room}");
    }
    let target = Target::Stream(Box::new(Full(whole)));
    let all = images(&store, false).await;
    export(&store, &all, target, &ExportOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dropped_export_leaves_no_file() {
    let store = memory();
    take(&store, &source(), None).await;
    let all = images(&store, false).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let count = move || std::fs::read_dir(&path).unwrap().count();
    let begun = Arc::new(Notify::new());
    let (signal, files) = (Arc::clone(&begun), count.clone());
    let options = ExportOptions::default().with_progress(Arc::new(move |_: Event<'_>| {
        assert_eq!(files(), 1, "the temporary file");
        signal.notify_one();
    }));
    let target = Target::Path(directory.path().join("out.tar"));
    tokio::select! {
        biased;
        () = begun.notified() => {}
        _ = export(&store, &all, target, &options) => panic!("it was done before its first blob"),
    }
    for _ in 0..6_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if count() == 0 && store.leases().list().await.unwrap().is_empty() {
            return;
        }
    }
    panic!("a file or a lease stayed");
}

#[tokio::test]
async fn an_export_removes_what_killed_exports_left_and_spares_running_ones() {
    let store = memory();
    take(&store, &source(), None).await;
    let all = images(&store, false).await;
    let directory = tempfile::tempdir().unwrap();
    let below = |name: &str| directory.path().join(name);
    let running = std::fs::File::create(below(".cas-export-running")).unwrap();
    running.lock().unwrap();
    for name in [".cas-export-left", ".cas-export", "cas-export-own"] {
        std::fs::write(below(name), "text").unwrap();
    }
    std::fs::create_dir(below(".cas-export-directory")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), below(".cas-export-link")).unwrap();
    let target = Target::Path(below("out.tar"));
    export(&store, &all, target, &ExportOptions::default())
        .await
        .unwrap();
    let entries = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let kept = [
        ".cas-export",
        ".cas-export-directory",
        ".cas-export-link",
        ".cas-export-running",
        "cas-export-own",
        "out.tar",
    ];
    assert_eq!(names, kept);
}

#[tokio::test]
async fn a_target_that_is_not_a_file_is_an_error() {
    let store = memory();
    take(&store, &source(), None).await;
    let all = images(&store, false).await;
    let directory = tempfile::tempdir().unwrap();
    let below = |path: &str| directory.path().join(path);
    let cases = [
        (directory.path().to_owned(), ErrorKind::InvalidArgument),
        (below("absent/out.tar"), ErrorKind::NotFound),
        (Path::new("..").to_owned(), ErrorKind::InvalidArgument),
    ];
    for (path, kind) in cases {
        let target = Target::Path(path.clone());
        let failed = export(&store, &all, target, &ExportOptions::default()).await;
        assert_eq!(failed.unwrap_err().kind(), kind, "{}", path.display());
    }
    let nothing = Target::Path(below("out.tar"));
    let failed = export(&store, &[], nothing, &ExportOptions::default()).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// An import would refuse an index with more entries.
#[tokio::test]
async fn no_more_images_are_exported_than_can_be_imported() {
    for (count, is_taken) in [(limit::DESCRIPTORS, true), (limit::DESCRIPTORS + 1, false)] {
        let store = memory();
        let imported = take(&store, &source(), None).await;
        let target = &imported[0].target;
        let named = |number: usize| {
            let name = format!("x.test/many:{number}").parse().unwrap();
            Image::new(name, target.clone())
        };
        let many: Vec<Image> = (0..count).map(named).collect();
        let sink = Sink::default();
        let out = Target::Stream(Box::new(sink.clone()));
        let exported = export(&store, &many, out, &ExportOptions::default()).await;
        if is_taken {
            exported.unwrap();
            let archive = sink.0.lock().unwrap().clone();
            assert_eq!(take(&memory(), &archive, None).await.len(), count);
        } else {
            let error = exported.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
            assert!(
                error.to_string().contains(&limit::DESCRIPTORS.to_string()),
                "{error}"
            );
        }
    }
}

/// The referrers of all exported images count together.
#[tokio::test]
async fn no_more_referrers_are_exported_than_are_allowed() {
    let store = memory();
    let put = async |media_type: MediaType, data: String| {
        let descriptor = Descriptor::of(media_type, data.as_bytes());
        let stored = store.put(&descriptor, data.into(), Durability::Full);
        stored.await.unwrap();
        descriptor
    };
    let empty = put(MediaType::OCI_EMPTY, "{}".to_owned()).await;
    let manifest = async |number: usize, subject: Option<&Descriptor>| {
        let document = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": empty,
            "layers": [], "subject": subject, "annotations": {"number": number.to_string()},
        });
        put(MediaType::OCI_MANIFEST, document.to_string()).await
    };
    let images = [manifest(1, None).await, manifest(2, None).await];
    for (name, target) in ["one", "two"].into_iter().zip(&images) {
        let image = Image::new(name.parse().unwrap(), target.clone());
        store.images.create(image).await.unwrap();
    }
    let refer = async |subject: &Descriptor, numbers: Range<usize>| {
        let mut referrers = Vec::new();
        for number in numbers {
            referrers.push(manifest(number, Some(subject)).await.digest);
        }
        let guard = LeaseGuard::begin(&store, "test").await.unwrap();
        guard.record_referrers(subject, &referrers).await.unwrap();
        guard.finish().await.unwrap();
    };
    let options = ExportOptions::default().with_referrers(true);
    refer(&images[0], 0..600).await;
    refer(&images[1], 600..limit::REFERRERS).await;
    let mut exported = members(&bytes_of(&store, &options).await.unwrap());
    exported.retain(|(path, _)| path.starts_with("blobs/"));
    assert_eq!(exported.len(), 1 + images.len() + limit::REFERRERS);

    let more = limit::REFERRERS..limit::REFERRERS + 1;
    refer(&images[1], more).await;
    let error = bytes_of(&store, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    let said = "more than 1024 referrers";
    assert!(error.to_string().contains(said), "{error}");
}
