//! Imports that are refused, and leave the store unchanged.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use cas_core::error::ErrorKind;
use cas_core::{Descriptor, MediaType};
use cas_layer::import::{ImportOptions, Source};

use super::{for_platform, import, state_of, store};
use crate::common::source::{Files, OWN, blob_path, gzip, header, in_file, in_stream, noise};

/// Makes a valid layout invalid.
type Change = fn(&mut Files, Descriptor);

/// Imports the source into a store whose image shares a layer with it, and expects `kind`.
async fn refused(what: &str, kind: ErrorKind, source: Source, options: &ImportOptions) {
    let store = store();
    let mut other = Files::layout();
    let image = other.image(99, "amd64");
    other.entries(&[(Some("latest"), &image), (Some("other"), &image)]);
    import(&store, in_stream(&other.tar()), &ImportOptions::default())
        .await
        .unwrap();
    let before = state_of(&store).await;
    let error = import(&store, source, options).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert_eq!(before, state_of(&store).await, "{what}");
}

fn good() -> (Files, Descriptor) {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    files.entries(&[(Some("latest"), &image)]);
    (files, image)
}

fn own_layer() -> String {
    blob_path(&Descriptor::of(MediaType::OCI_LAYER, &noise(1, OWN)).digest)
}

fn relist(files: &mut Files, entries: &[(Option<&str>, &Descriptor)]) {
    files.remove("index.json");
    files.entries(entries);
}

#[tokio::test]
async fn damage_in_a_layout_is_refused_from_every_kind_of_source() {
    let changes: [(&str, ErrorKind, Change); 13] = [
        ("flipped bit", ErrorKind::Corrupt, |files, _| {
            files.file(&own_layer())[9] ^= 1
        }),
        ("longer blob", ErrorKind::Corrupt, |files, _| {
            files.file(&own_layer()).push(0)
        }),
        ("shorter blob", ErrorKind::Corrupt, |files, _| {
            files.file(&own_layer()).pop();
        }),
        ("swapped manifest", ErrorKind::Corrupt, |files, image| {
            *files.file(&blob_path(&image.digest)) = noise(5, image.size as usize);
        }),
        ("layer missing", ErrorKind::NotFound, |files, _| {
            files.remove(&own_layer())
        }),
        ("manifest missing", ErrorKind::NotFound, |files, image| {
            files.remove(&blob_path(&image.digest));
        }),
        (
            "manifest described as an index",
            ErrorKind::Corrupt,
            |files, image| {
                let image = Descriptor {
                    media_type: MediaType::OCI_INDEX,
                    ..image
                };
                relist(files, &[(Some("latest"), &image)]);
            },
        ),
        (
            "wrong size in the index",
            ErrorKind::Corrupt,
            |files, image| {
                let image = Descriptor {
                    size: image.size + 1,
                    ..image
                };
                relist(files, &[(Some("latest"), &image)]);
            },
        ),
        ("one name for two", ErrorKind::Corrupt, |files, image| {
            let second = files.image(2, "amd64");
            relist(
                files,
                &[(Some("latest"), &image), (Some("latest"), &second)],
            );
        }),
        (
            "two types for one digest",
            ErrorKind::Corrupt,
            |files, image| {
                let layer = Descriptor {
                    media_type: MediaType::OCI_LAYER,
                    ..image.clone()
                };
                let odd = files.index(vec![layer, image]);
                relist(files, &[(Some("latest"), &odd)]);
            },
        ),
        ("no image", ErrorKind::InvalidArgument, |files, _| {
            relist(files, &[])
        }),
        ("wild name", ErrorKind::InvalidArgument, |files, image| {
            relist(files, &[(Some("../x"), &image)]);
        }),
        ("newer layout", ErrorKind::Unsupported, |files, _| {
            *files.file("oci-layout") = br#"{"imageLayoutVersion":"1.1.0"}"#.to_vec();
        }),
    ];
    for (what, kind, change) in changes {
        let (mut files, image) = good();
        change(&mut files, image);
        let scratch = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        files.write(directory.path());
        let options = ImportOptions::default();
        refused(
            what,
            kind,
            Source::Path(directory.path().to_owned()),
            &options,
        )
        .await;
        refused(what, kind, in_file(scratch.path(), &files.tar()), &options).await;
        refused(what, kind, in_stream(&files.tar()), &options).await;
        refused(what, kind, in_stream(&gzip(&files.tar())), &options).await;
    }
}

#[tokio::test]
async fn an_archive_cut_anywhere_is_refused() {
    let (files, _) = good();
    let tar = files.tar();
    let scratch = tempfile::tempdir().unwrap();
    let packed = gzip(&tar);
    for (part, of) in [(1, 4), (2, 4), (3, 4), (99, 100)] {
        let cut = &tar[..tar.len() * part / of];
        let options = ImportOptions::default();
        let kind = match cut.len() % 512 {
            _ if cut.len() + 4096 > tar.len() => ErrorKind::InvalidArgument,
            _ => ErrorKind::Corrupt,
        };
        refused("cut file", kind, in_file(scratch.path(), cut), &options).await;
        refused("cut stream", kind, in_stream(cut), &options).await;
        let cut = &packed[..packed.len() * part / of];
        refused("cut gzip", ErrorKind::Corrupt, in_stream(cut), &options).await;
    }
}

#[tokio::test]
async fn a_source_that_is_not_an_image_is_not_recognised() {
    let mut other = Files::default();
    other.add("readme", b"a tar of something else");
    let empty = Files::default();
    let scratch = tempfile::tempdir().unwrap();
    for data in [noise(3, 100_000), other.tar(), empty.tar(), Vec::new()] {
        for source in [in_file(scratch.path(), &data), in_stream(&data)] {
            refused(
                "no image",
                ErrorKind::InvalidArgument,
                source,
                &ImportOptions::default(),
            )
            .await;
        }
    }
    let directory = Source::Path(scratch.path().to_owned());
    refused(
        "directory",
        ErrorKind::InvalidArgument,
        directory,
        &ImportOptions::default(),
    )
    .await;
    let absent = Source::Path(scratch.path().join("absent"));
    refused(
        "absent",
        ErrorKind::NotFound,
        absent,
        &ImportOptions::default(),
    )
    .await;
}

#[tokio::test]
async fn an_archive_with_a_path_twice_is_refused() {
    let (mut files, _) = good();
    files.add(&own_layer(), b"another");
    let scratch = tempfile::tempdir().unwrap();
    for source in [
        in_file(scratch.path(), &files.tar()),
        in_stream(&files.tar()),
    ] {
        refused(
            "member twice",
            ErrorKind::Corrupt,
            source,
            &ImportOptions::default(),
        )
        .await;
    }
}

#[tokio::test]
async fn an_index_of_four_gibibytes_is_not_read() {
    const SIZE: u64 = 4 << 30;
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("layout");
    std::fs::create_dir(&directory).unwrap();
    File::create(directory.join("index.json"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let options = ImportOptions::default();
    refused(
        "directory",
        ErrorKind::OutOfRange,
        Source::Path(directory),
        &options,
    )
    .await;

    let head = header("index.json", SIZE).as_bytes().to_vec();
    let path = scratch.path().join("holes.tar");
    let mut archive = File::create(&path).unwrap();
    archive.write_all(&head).unwrap();
    archive.seek(SeekFrom::Current(SIZE as i64)).unwrap();
    archive.write_all(&[0; 1024]).unwrap();
    refused("file", ErrorKind::OutOfRange, Source::Path(path), &options).await;

    let endless = std::io::Cursor::new(head).chain(std::io::repeat(b' '));
    refused(
        "stream",
        ErrorKind::OutOfRange,
        Source::Stream(Box::new(endless)),
        &options,
    )
    .await;
}

#[tokio::test]
async fn nested_indexes_are_limited() {
    let (mut files, image) = good();
    let mut nested = image;
    for _ in 0..30 {
        nested = files.index(vec![nested.clone(), nested]);
    }
    relist(&mut files, &[(Some("bomb"), &nested)]);
    refused(
        "bomb",
        ErrorKind::OutOfRange,
        in_stream(&files.tar()),
        &ImportOptions::default(),
    )
    .await;
}

#[tokio::test]
async fn nothing_for_the_platform_is_not_found() {
    let (files, _) = good();
    let options = for_platform("linux/riscv64");
    refused(
        "platform",
        ErrorKind::NotFound,
        in_stream(&files.tar()),
        &options,
    )
    .await;
}

/// A blob that has the type of a manifest, an index or the empty document must be one, even if a
/// manifest lists it as a layer.
#[tokio::test]
async fn a_layer_that_is_described_as_a_document_is_damage() {
    let mut members = Files::default();
    members.add("file", b"text");
    let tar = members.tar();
    let document = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;
    let cases: [(MediaType, &[u8]); 8] = [
        (MediaType::OCI_INDEX, &gzip(&tar)),
        (MediaType::OCI_INDEX, &tar),
        (MediaType::OCI_MANIFEST, &gzip(&tar)),
        (MediaType::DOCKER_MANIFEST_LIST, &gzip(&tar)),
        (MediaType::DOCKER_MANIFEST, &gzip(&tar)),
        (MediaType::OCI_INDEX, document),
        (MediaType::OCI_EMPTY, &gzip(&tar)),
        (MediaType::OCI_EMPTY, b"{ }"),
    ];
    for (kind, data) in cases {
        for as_config in [false, true] {
            let mut files = Files::layout();
            let described = files.blob(kind.clone(), data);
            let config = files.blob(MediaType::OCI_CONFIG, b"{}");
            let image = if as_config {
                files.manifest(described, Vec::new())
            } else {
                files.manifest(config, vec![described])
            };
            files.entries(&[(Some("latest"), &image)]);
            let source = in_stream(&files.tar());
            let what = format!("{kind}, {} bytes, {as_config}", data.len());
            refused(&what, ErrorKind::Corrupt, source, &ImportOptions::default()).await;
        }
    }
}

#[tokio::test]
async fn a_malformed_document_is_named_by_its_digest_in_a_short_message() {
    let long = "n".repeat(1 << 20);
    let manifests = [
        r#"{"schemaVersion":2"#.to_owned(),
        r#"{"schemaVersion":2}"#.to_owned(),
        format!(r#"{{"schemaVersion":"{long}"}}"#),
        format!(r#"{{"schemaVersion":2,"mediaType":"{long}"}}"#),
        format!(r#"{{"schemaVersion":2,"config":{{"digest":"{long}"}}}}"#),
        format!(r#"{{"schemaVersion":2,"config":"\u001b]0;{long}"}}"#),
    ];
    for (data, index) in manifests
        .iter()
        .flat_map(|data| [(data, false), (data, true)])
    {
        let mut files = Files::layout();
        let mut target = files.blob(MediaType::OCI_MANIFEST, data.as_bytes());
        let digest = target.digest.to_string();
        if index {
            target = files.index(vec![target]);
        }
        files.entries(&[(Some("latest"), &target)]);
        let source = in_stream(&files.tar());
        let error = import(&store(), source, &ImportOptions::default()).await;
        let error = error.unwrap_err();
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{said}");
        assert!(said.contains(&digest) && said.len() < 600, "{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}
