//! Archives whose members begin with a slash or `./`, as members, as targets of links, and in the
//! archive's own listing. `/` is the root of the archive.

use serde_json::json;
use testkit::archive::Header;

use crate::common::ok;
use crate::scene::{Files, Place, config, hello, host, with_linked_layer};

/// Returns an archive of docker with these spellings of its members and of its listing.
fn docker(member: &str, listed: &str) -> Files {
    let layer = hello();
    let mut files = Files::default();
    files.add(
        &format!("{member}a/config.json"),
        config(&host(), &[&layer]).to_string(),
    );
    files.add(&format!("{member}a/layer.tar"), &layer);
    let entry = json!({"Config": format!("{listed}a/config.json"), "RepoTags": ["app:1"],
        "Layers": [format!("{listed}a/layer.tar")]});
    files.add(
        &format!("{member}manifest.json"),
        json!([entry]).to_string(),
    );
    files
}

fn layout(member: &str) -> Files {
    let mut files = Files::layout();
    let image = files.image(&host(), &hello());
    files.lists(&image);
    for (path, _) in &mut files.0 {
        *path = format!("{member}{path}");
    }
    files
}

const SPELLINGS: [&str; 6] = ["", "/", "./", "//", "/./", ".//"];

#[test]
fn archives_of_docker_with_any_spelling_are_imported() {
    for member in SPELLINGS {
        let place = Place::new();
        for listed in SPELLINGS {
            let archive = place.file("archive.tar", docker(member, listed).tar());
            place.import(&archive, "app:1");
            assert_eq!(place.unpack("app:1").0, ["hello"], "{member} {listed}");
        }
    }
}

#[test]
fn archives_of_layouts_with_any_spelling_are_imported() {
    let place = Place::new();
    for member in SPELLINGS {
        let archive = place.file("archive.tar", layout(member).tar());
        place.import(&archive, "app:1");
        let piped = std::fs::File::open(&archive).unwrap();
        let mut import = place.cas();
        ok(import.args(["import", "-", "--name", "app:2"]).stdin(piped));
        assert_eq!(place.unpack("app:2").0, ["hello"], "{member}");
    }
}

/// A directory with the files of an archive has the same listing.
#[test]
fn a_listing_with_slashes_is_read_in_a_directory() {
    let place = Place::new();
    for (case, listed) in [("plain", ""), ("rooted", "/"), ("here", "./")] {
        let source = docker("", listed).write(&place.path(case));
        place.import(&source, "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{case}");
    }
}

#[test]
fn links_start_at_the_root_of_the_archive() {
    let place = Place::new();
    for (flag, target) in [
        (b'2', "/x/layer.tar"),
        (b'2', "../../x/layer.tar"),
        (b'2', "/./x//layer.tar"),
        (b'1', "/x/layer.tar"),
        (b'1', "./x/layer.tar"),
        (b'1', "x/layer.tar"),
    ] {
        let link = |blob: &str| Header::new(flag, blob).link(target);
        let tar = with_linked_layer("/x/layer.tar", link);
        place.import(&place.file("archive.tar", &tar), "app:1");
        assert_eq!(place.unpack("app:1").0, ["hello"], "{target}");
    }
}

/// Two members with one name are refused, because readers differ in which one they use.
#[test]
fn two_spellings_of_one_member_are_refused() {
    let place = Place::new();
    for other in ["/index.json", "./index.json"] {
        let mut files = layout("");
        files.add(other, "{}");
        let archive = place.file("archive.tar", files.tar());
        let said = place.import_fails(&archive, "app:1", 4);
        assert!(
            said.contains("index.json") && said.contains("twice"),
            "{said}"
        );
    }
}

#[test]
fn what_leaves_the_archive_is_not_there() {
    let place = Place::new();
    for listed in ["../", "/../", "/a/../../"] {
        let archive = place.file("archive.tar", docker("", listed).tar());
        let said = place.import_fails(&archive, "app:1", 3);
        assert!(said.contains("does not contain it"), "{said}");
    }
}
