//! Writers of tar that give a size to a member without content: a link, a directory, a device, a
//! pipe. Nothing follows such a header, in a layer or in an archive of an image.

use std::fs;

use testkit::archive::{Header, Tar};

use crate::scene::{Files, Place, hello, host, with_linked_layer};

/// Returns a header with a size, and a name for it.
fn sized() -> Vec<(&'static str, Header)> {
    let header = |flag| Header::new(flag, "x").link("hello").device(1, 3);
    vec![
        ("symlink", header(b'2').size(5)),
        ("symlink-block", header(b'2').size(512)),
        ("hardlink", header(b'1').size(6)),
        ("directory", header(b'5').size(4096)),
        ("old-directory", Header::new(0, "x/").size(4096)),
        ("character", header(b'3').size(1)),
        ("block", header(b'4').size(1 << 30)),
        ("pipe", header(b'6').size(7)),
        ("beyond-any-limit", header(b'5').size(0o777_7777_7777)),
    ]
}

#[test]
fn layers_with_sizes_of_what_has_no_content_are_unpacked() {
    let place = Place::new();
    for (case, header) in sized() {
        for record in [false, true] {
            let tar = Tar::new().file("hello", "hello\n");
            let tar = if record {
                tar.pax(&[("size", b"9")])
            } else {
                tar
            };
            let layer = tar
                .member(header.clone(), "")
                .file("after", "after\n")
                .end();
            let mut files = Files::layout();
            let image = files.image(&host(), &layer);
            files.lists(&image);
            let case = format!("{case}-{record}");
            place.import(&files.write(&place.path(&case)), "app:1");
            assert_eq!(place.unpack("app:1").0, ["after", "hello", "x"], "{case}");
        }
    }
}

#[test]
fn archives_with_sizes_of_what_has_no_content_are_imported() {
    let place = Place::new();
    let mut files = Files::layout();
    let image = files.image(&host(), &hello());
    files.lists(&image);
    for (case, header) in sized() {
        let tar = Tar::new().member(header, "").raw(files.tar());
        let path = place.file("archive.tar", &tar.0);
        place.import(&path, "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
        // The same through a pipe, where nothing can be skipped by seeking.
        let piped = fs::File::open(&path).unwrap();
        let mut import = place.cas();
        import.args(["import", "-", "--name", "app:2"]).stdin(piped);
        crate::common::ok(&mut import);
    }
}

/// A link in an archive leads to its target, whatever its size.
#[test]
fn blobs_that_are_links_with_a_size_are_found() {
    let place = Place::new();
    for (case, flag) in [("symlink", b'2'), ("hardlink", b'1')] {
        let target = if flag == b'2' {
            "../../layer.tar"
        } else {
            "layer.tar"
        };
        let link = |blob: &str| {
            Header::new(flag, blob)
                .link(target)
                .size(target.len() as u64)
        };
        let tar = with_linked_layer("layer.tar", link);
        place.import(&place.file("archive.tar", &tar), "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
    }
}

/// For all readers, a size in a record counts more than the one in the header, which is too small
/// for large files.
#[test]
fn sizes_in_records_of_files_count() {
    let place = Place::new();
    for (case, declared) in [
        ("none", 0),
        ("smaller", 2),
        ("larger", 600),
        ("most", 0o777_7777_7777),
    ] {
        let layer = Tar::new()
            .pax(&[("size", b"6")])
            .member(Header::new(b'0', "hello").size(declared), "hello\n")
            .file("after", "")
            .end();
        let mut files = Files::layout();
        let image = files.image(&host(), &layer);
        files.lists(&image);
        place.import(&files.write(&place.path(case)), "app:1");
        let (names, said) = place.unpack("app:1");
        assert_eq!(names, ["after", "hello"], "{case}");
        assert_eq!(
            said.contains("give two sizes"),
            [2, 600].contains(&declared),
            "{case}: {said}"
        );
    }
}

/// If bytes follow nevertheless, some readers would take them for members, and others for content.
#[test]
fn content_of_what_has_none_is_refused() {
    let place = Place::new();
    for (case, header) in sized() {
        let tar = Tar::new().member(header, [b'x'; 512]).end();
        let mut files = Files::layout();
        let image = files.image(&host(), &tar);
        files.lists(&image);
        place.import(&files.write(&place.path(case)), "app:1");
        place.unpack_fails("app:1", 4);
    }
}
