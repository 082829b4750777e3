//! Damage to the own files and objects of a `dir:` store.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cas::Digest;

use crate::common::{append, can, cas, fails, ok, text};
use crate::misplaced::Kind;
use crate::scene::{Scene, files, has, overwrite};

/// Returns the object that lists the parts of the largest layer.
fn cell(scene: &Scene) -> PathBuf {
    let blobs = scene.root.join("store/blobs/sha256");
    blobs.join(scene.layer().hex())
}

fn import(scene: &Scene) -> Command {
    let mut import = cas(&scene.root);
    import.args(["import", "--name", "app:1"]);
    import.arg(scene.scratch.path().join("demo.tar"));
    import
}

#[test]
fn a_damaged_list_of_parts_is_replaced_by_an_import() {
    let scene = Scene::new("dir");
    let cell = cell(&scene);
    let whole = fs::read(&cell).unwrap();
    let mut flipped = whole.clone();
    let member = "\"version\":";
    flipped[text(&whole).find(member).unwrap() + member.len()] ^= 1;
    let nonce = &whole[..32];
    let no_pointer = [nonce, b" +\n{}\n", nonce].concat();
    for damaged in [&flipped[..], b"", &whole[1..], &no_pointer, &[0; 9000]] {
        overwrite(&cell, damaged);
        let out = scene.scratch.path().join("out");
        let unpacked = cas(&scene.root)
            .args(["unpack", "app:1"])
            .arg(&out)
            .output();
        let unpacked = unpacked.unwrap();
        // A list that was changed may still be a list, of parts that do not exist.
        assert!(
            matches!(unpacked.status.code(), Some(3 | 4)),
            "{unpacked:?}"
        );
        ok(&mut import(&scene));
        // It removes the parts that the damaged list does not name any more.
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
        overwrite(&cell, damaged);
        scene.heals("blob-damaged", scene.layer().hex());
    }
}

/// The parts of the other blob, which is intact, must stay.
#[test]
fn a_list_of_parts_that_was_replaced_by_that_of_another_blob_costs_only_its_own_blob() {
    let scene = Scene::new("dir");
    let blobs = scene.root.join("store/blobs/sha256");
    let file = scene.scratch.path().join("unused");
    fs::write(&file, "no image lists this blob").unwrap();
    let unused = Digest::sha256(b"no image lists this blob");
    let (layer, config) = (scene.layer(), scene.manifest.config.digest);
    let copy = |over: &Digest| {
        let target = blobs.join(over.hex());
        fs::remove_file(&target).unwrap();
        fs::copy(blobs.join(layer.hex()), target).unwrap();
    };
    let is_sound = || {
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
    };
    copy(&config);
    ok(&mut import(&scene));
    is_sound();
    copy(&config);
    scene.heals("blob-damaged", config.hex());
    is_sound();
    let add = || ok(cas(&scene.root).args(["blob", "add"]).arg(&file));
    add();
    copy(&unused);
    ok(cas(&scene.root).arg("gc"));
    ok(cas(&scene.root).args(["blob", "rm", &unused.to_string()]));
    scene.works();
    add();
    is_sound();
}

#[test]
fn a_truncated_manifest_is_fetched_again() {
    let scene = Scene::new("dir");
    let bytes = scene.bytes(&scene.manifest_digest);
    let mut parts = files(&scene.root.join("store/uploads"));
    parts.retain(|part| fs::read(part).unwrap() == bytes);
    for length in [bytes.len() / 2, 0] {
        overwrite(&parts[0], &bytes[..length]);
        scene.heals("blob-damaged", scene.manifest_digest.hex());
        parts = files(&scene.root.join("store/uploads"));
        parts.retain(|part| fs::read(part).unwrap() == bytes);
    }
}

#[test]
fn a_damaged_or_lost_format_is_made_again() {
    let scene = Scene::new("dir");
    let format = scene.root.join("store/format");
    for damaged in [Some(&b"garbage"[..]), Some(b""), Some(b"{}"), None] {
        match damaged {
            Some(damaged) => overwrite(&format, damaged),
            None => fs::remove_file(&format).unwrap(),
        }
        let said = fails(cas(&scene.root).arg("images"), 4);
        assert!(said.contains("fsck --repair"), "{said}");
        scene.heals("store-damaged", "format");
    }
    // A newer format is not damage.
    let newer = fs::read_to_string(&format).unwrap();
    overwrite(
        &format,
        newer
            .replace("\"version\": 2", "\"version\": 99")
            .as_bytes(),
    );
    let said = fails(cas(&scene.root).args(["fsck", "--repair"]), 1);
    assert!(said.contains("newer"), "{said}");
}

#[test]
fn an_opening_reads_the_format_once() {
    if !can(&["strace"]) {
        return;
    }
    let scene = Scene::new("dir");
    let trace = scene.scratch.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=openat", "-o"]);
    append(strace.arg(&trace), cas(&scene.root).arg("images"));
    ok(&mut strace);
    let trace = fs::read_to_string(trace).unwrap();
    let reads = trace.lines().filter(|line| line.contains("store/format\""));
    assert_eq!(reads.count(), 1, "{trace}");
}

#[test]
fn lost_folders_of_records_cost_no_blob() {
    for folder in ["images", "blobs", "leases", "notes"] {
        let scene = Scene::new("dir");
        fs::remove_dir_all(scene.root.join("store/records").join(folder)).unwrap();
        let said = fails(cas(&scene.root).arg("images"), 4);
        assert!(said.contains("fsck --repair"), "{said}");
        let subject = format!("records/{folder}");
        let (code, found) = scene.fsck(&[]);
        assert_eq!(code, 4, "{found:#?}");
        assert!(has(&found, "database-damaged", &subject), "{found:#?}");
        let (_, repaired) = scene.fsck(&["--repair"]);
        assert!(
            has(&repaired, "database-damaged", &subject),
            "{repaired:#?}"
        );
        if folder == "images" {
            assert!(has(&repaired, "name-missing", ""), "{repaired:#?}");
        }
        ok(cas(&scene.root).arg("gc"));
        ok(cas(&scene.root).args(["tag", &scene.manifest_digest.to_string(), "app:1"]));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{folder}");
        scene.works();
    }
}

/// Only one process can write to the store, so parts that no blob has are of a process that ended.
#[test]
fn parts_of_a_killed_upload_are_found_and_removed() {
    let scene = Scene::new("dir");
    let before = files(&scene.root.join("store/uploads")).len();
    for removal in [&["fsck", "--repair"][..], &["gc"]] {
        let mut add = cas(&scene.root);
        add.args(["blob", "add", "-"]).stdin(Stdio::piped());
        let mut adding = add.stdout(Stdio::null()).spawn().unwrap();
        let mut input = adding.stdin.take().unwrap();
        input.write_all(&vec![7; 9 << 20]).unwrap();
        while files(&scene.root.join("store/uploads")).len() == before {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        adding.kill().unwrap();
        adding.wait().unwrap();
        let (code, found) = scene.fsck(&[]);
        assert_eq!(code, 4, "{found:#?}");
        assert!(has(&found, "job-left", "content"), "{found:#?}");
        ok(cas(&scene.root).args(removal));
        assert_eq!(files(&scene.root.join("store/uploads")).len(), before);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    }
}

/// Returns the first part of a blob.
fn part(scene: &Scene, digest: &Digest) -> PathBuf {
    let cell = fs::read(scene.root.join("store/blobs/sha256").join(digest.hex())).unwrap();
    let cell = String::from_utf8(cell).unwrap();
    let version = cell.split("\"version\":").nth(1).unwrap();
    let version: String = version.chars().take_while(char::is_ascii_digit).collect();
    scene
        .root
        .join(format!("store/uploads/{version:0>20}.00000000"))
}

/// Removes a file or a directory, if there is one.
fn remove(place: &Path) {
    let _ = fs::remove_file(place);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn a_missing_part_is_found_and_its_blob_fetched_again() {
    let scene = Scene::new("dir");
    let config = scene.manifest.config.digest;
    for digest in [scene.manifest_digest, config, scene.layer()] {
        fs::remove_file(part(&scene, &digest)).unwrap();
        if digest == scene.manifest_digest {
            let said = fails(cas(&scene.root).args(["tree", "app:1"]), 4);
            assert!(said.contains("part of the image is damaged"), "{said}");
        }
        scene.heals("blob-damaged", digest.hex());
    }
}

#[test]
fn what_is_in_the_place_of_a_part_or_a_cell_is_found_and_set_aside() {
    let scene = Scene::new("dir");
    let other = scene.scratch.path().join("demo.tar");
    for (number, kind) in Kind::NOT_FILES.into_iter().enumerate() {
        let digests = [scene.manifest_digest, scene.layer()];
        // Each digest once as a part and once as a cell: one by an import, the other by a repair.
        for (turn, digest) in digests.into_iter().enumerate() {
            for is_cell in [true, false] {
                let place = match is_cell {
                    true => scene.root.join("store/blobs/sha256").join(digest.hex()),
                    false => part(&scene, &digest),
                };
                remove(&place);
                kind.make(&place, &other);
                if is_cell == ((number + turn) % 2 == 0) {
                    ok(&mut import(&scene));
                    ok(cas(&scene.root).arg("gc"));
                    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{kind:?}");
                } else {
                    scene.heals("blob-damaged", digest.hex());
                }
            }
        }
    }
    // A directory may have files of somebody else.
    let cell = scene
        .root
        .join("store/blobs/sha256")
        .join(scene.layer().hex());
    let aside = format!("{}.damaged-1", cell.file_name().unwrap().to_str().unwrap());
    assert!(fs::symlink_metadata(scene.root.join("store").join(aside)).is_ok());
}

#[test]
fn what_is_in_the_place_of_a_record_is_named_and_set_aside() {
    let scene = Scene::new("dir");
    let images = scene.root.join("store/records/images");
    let other = scene.scratch.path().join("demo.tar");
    for (number, kind) in Kind::NOT_FILES.into_iter().enumerate() {
        let record = files(&images).pop().unwrap();
        remove(&record);
        kind.make(&record, &other);
        let said = fails(cas(&scene.root).arg("images"), 4);
        let name = record.file_name().unwrap().to_str().unwrap();
        assert!(
            said.contains(name) && said.contains("fsck --repair"),
            "{said}"
        );
        assert!(
            has(&scene.fsck(&[]).1, "database-damaged", name),
            "{kind:?}"
        );
        let (_, repaired) = scene.fsck(&["--repair"]);
        assert!(has(&repaired, "database-damaged", name), "{repaired:#?}");
        // The image has lost its name, and nothing else. Its content is then leased.
        let is_named = has(&repaired, "name-missing", "");
        assert_eq!(is_named, number == 0, "{repaired:#?}");
        ok(cas(&scene.root).arg("gc"));
        ok(cas(&scene.root).args(["tag", &scene.manifest_digest.to_string(), "app:1"]));
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{kind:?}");
    }
    scene.works();
}

#[test]
fn a_directory_in_the_place_of_the_record_of_a_blob_is_found_and_set_aside() {
    let scene = Scene::new("dir");
    let records = scene.root.join("store/records/blobs");
    for digest in [scene.manifest_digest, scene.layer()] {
        for inside in ["", "theirs"] {
            let place = records.join(format!("sha256=3a{}", digest.hex()));
            fs::remove_file(&place).unwrap();
            fs::create_dir_all(place.join(inside)).unwrap();
            scene.heals("database-damaged", digest.hex());
            ok(&mut import(&scene));
            ok(cas(&scene.root).arg("gc"));
            assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{inside}");
        }
    }
    scene.works();
}

#[test]
fn what_is_in_the_place_of_a_file_or_a_folder_is_named_and_set_aside() {
    let scene = Scene::new("dir");
    let other = scene.scratch.path().join("demo.tar");
    let places = [
        "lock",
        "format",
        "blobs",
        "blobs/sha512",
        "uploads",
        "beside",
        "records/notes",
    ];
    for (number, name) in places.into_iter().enumerate() {
        // Two kinds of each place.
        for kind in [number, number + 3].map(|at| Kind::NOT_FILES[at % Kind::NOT_FILES.len()]) {
            let is_file = matches!(name, "lock" | "format");
            if !is_file && matches!(kind, Kind::Directory) {
                continue;
            }
            let place = scene.root.join("store").join(name);
            remove(&place);
            kind.make(&place, &other);
            let said = fails(cas(&scene.root).arg("images"), 4);
            assert!(said.contains(name) && said.contains(", found a"), "{said}");
            assert!(said.contains("fsck --repair"), "{said}");
            let (code, found) = scene.fsck(&[]);
            assert!(
                code == 4 && has(&found, "store-damaged", name),
                "{found:#?}"
            );
            let (_, repaired) = scene.repair_from_source();
            assert!(
                has(&repaired, "store-damaged", name),
                "{name} {kind:?}: {repaired:#?}"
            );
            ok(cas(&scene.root).arg("gc"));
            assert_eq!(
                scene.fsck(&["--read-data"]),
                (0, Vec::new()),
                "{name} {kind:?}"
            );
            scene.works();
        }
    }
}
