//! `cas export`: files, standard output, exit codes, and the same bytes from every engine. Also the
//! outputs of `cas disk`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cas::Digest;
use common::layout::layout;
use common::{cas, demo_archive, fails, mounting_snapshotters, ok};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use testkit::archive::Tar;

const NAME: &str = "x.test/demo:1";

/// Returns a root with the demo's image.
fn root(scratch: &Path, store: &str) -> PathBuf {
    let root = scratch.join(format!("root-{store}"));
    ok(cas(&root).args(["--store", store, "init"]));
    ok(cas(&root)
        .args(["import", "--name", NAME])
        .arg(demo_archive(scratch)));
    root
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_engine_gives_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    for format in ["oci", "docker"] {
        let of = |store: &str| {
            let scratch = tempfile::tempdir_in(scratch.path()).unwrap();
            let root = root(scratch.path(), store);
            let file = scratch.path().join("out.tar");
            ok(cas(&root)
                .args(["export", NAME, "--format", format, "-o"])
                .arg(&file));
            fs::read(file).unwrap()
        };
        let fs = of("fs");
        assert_eq!(fs, of("redb"), "{format}");
        assert_eq!(fs, of("by-size://?small=redb&large=fs"), "{format}");
    }
}

#[test]
fn standard_output_has_only_the_archive() {
    let scratch = tempfile::tempdir().unwrap();
    let root = root(scratch.path(), "fs");
    let (file, piped) = (scratch.path().join("a.tar"), scratch.path().join("b.tar"));
    let said = ok(cas(&root).args(["export", NAME, "--json", "-o"]).arg(&file));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["name"], NAME);
    assert_eq!(said["output"], file.to_str().unwrap());
    let listed = ok(cas(&root).args(["images", "--json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(said["target"], listed["target"]);
    let out = Stdio::from(File::create(&piped).unwrap());
    let mut command = cas(&root);
    command
        .args(["export", NAME, "--json", "-o", "-"])
        .stdout(out);
    assert!(command.status().unwrap().success());
    assert_eq!(fs::read(file).unwrap(), fs::read(&piped).unwrap());

    let other = scratch.path().join("other");
    let input = Stdio::from(File::open(piped).unwrap());
    assert_eq!(
        ok(cas(&other).args(["import", "-"]).stdin(input)),
        format!("{NAME}\n")
    );
}

#[test]
fn failures_have_their_codes_and_leave_no_file() {
    let scratch = tempfile::tempdir().unwrap();
    let root = root(scratch.path(), "fs");
    let place = scratch.path().join("place");
    fs::create_dir(&place).unwrap();
    let fails = |arguments: &[&str], code| {
        let mut command = cas(&root);
        command.arg("export").args(arguments);
        let said = fails(command.arg("-o").arg(place.join("out.tar")), code);
        assert_eq!(names(&place), Vec::<String>::new(), "{said}");
        said
    };
    fails(&[], 2);
    fails(&["../x"], 2);
    fails(&[NAME, "--format", "zip"], 2);
    fails(&[NAME, "--all-platforms", "--format", "docker"], 2);
    fails(&[NAME, "--all-platforms", "--platform", "linux/amd64"], 2);
    let said = fails(&[NAME, "absent"], 3);
    assert!(
        said.contains("absent") && said.contains("cas images"),
        "{said}"
    );
    let said = fails(&[NAME, "--platform", "linux/s390x"], 3);
    assert!(said.contains("s390x"), "{said}");

    let inspected = ok(cas(&root).args(["inspect", NAME, "--json"]));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let digest = inspected["manifest"]["layers"][0]["digest"]
        .as_str()
        .unwrap();
    let file = root.join("store/blobs").join(digest.replace(':', "/"));
    let whole = fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 1;
    fs::remove_file(&file).unwrap();
    for damaged in [bytes, whole[1..].to_vec()] {
        fs::write(&file, damaged).unwrap();
        let said = fails(&[NAME], 4);
        assert!(said.contains(digest), "{said}");
    }
    fs::remove_file(&file).unwrap();
    let said = fails(&[NAME], 3);
    assert!(said.contains(digest), "{said}");
    fs::write(&file, whole).unwrap();
    ok(cas(&root)
        .args(["export", NAME, "-o"])
        .arg(place.join("out.tar")));
    assert_eq!(names(&place), ["out.tar"]);
}

/// If the snapshotter keeps tars, an export first makes the layers that the store does not have.
#[test]
fn a_damaged_manifest_of_another_platform_does_not_disturb_an_export() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    let entries = ["amd64", "arm64"].map(|architecture| {
        layout(&source, vec![Tar::new().file(architecture, "")]);
        let index = fs::read(source.join("index.json")).unwrap();
        let mut index: Value = serde_json::from_slice(&index).unwrap();
        let mut entry = index["manifests"][0].take();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    });
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let digest = Digest::sha256(index.as_bytes());
    fs::write(source.join("blobs/sha256").join(digest.hex()), &index).unwrap();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let target = json!({"mediaType": media_type, "digest": digest, "size": index.len()});
    let list = json!({"schemaVersion": 2, "manifests": [target]});
    fs::write(source.join("index.json"), list.to_string()).unwrap();

    let damaged = entries[1]["digest"].as_str().unwrap();
    let mut snapshotters = mounting_snapshotters();
    snapshotters.retain(|snapshotter| *snapshotter != "overlay");
    for snapshotter in snapshotters {
        let root = scratch.path().join(snapshotter);
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        ok(cas(&root).args(["import", "--name", NAME]).arg(&source));
        let blob = root.join("store/blobs").join(damaged.replace(':', "/"));
        let size = fs::read(&blob).unwrap().len();
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, "x".repeat(size)).unwrap();
        let export = |options: &[&str]| {
            let mut export = cas(&root);
            export.args(["export", NAME, "-o"]);
            export.arg(scratch.path().join("out.tar")).args(options);
            export
        };
        for format in ["oci", "docker"] {
            let one = ["--platform", "linux/amd64", "--format", format];
            ok(&mut export(&one));
        }
        fails(&mut export(&["--platform", "linux/s390x"]), 3);
        let said = fails(&mut export(&[]), 4);
        assert!(said.contains(damaged), "{said}");
        assert!(said.contains("`cas fsck --read-data --repair`"), "{said}");
    }
}

/// The name is removed during the export: only the export's lease keeps the blobs.
#[test]
fn a_collection_during_an_export_removes_nothing_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let root = root(scratch.path(), "fs");
    let pipe = scratch.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut export = cas(&root)
        .args(["-q", "export", NAME, "-o"])
        .arg(&pipe)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The archive is larger than a pipe: after its first bytes, the export waits for the reader.
    let mut reader = File::open(&pipe).unwrap();
    let mut archive = vec![0; 512];
    reader.read_exact(&mut archive).unwrap();
    ok(cas(&root).args(["rmi", NAME]));
    ok(cas(&root).arg("gc"));
    reader.read_to_end(&mut archive).unwrap();
    assert!(export.wait().unwrap().success());
    let file = scratch.path().join("out.tar");
    fs::write(&file, archive).unwrap();
    ok(cas(&scratch.path().join("other")).arg("import").arg(&file));
    ok(cas(&root).arg("gc"));
    assert_eq!(ok(cas(&root).args(["blob", "ls", "--json"])), "");
}

#[test]
fn a_disk_is_written_to_what_its_path_leads_to() {
    let scratch = tempfile::tempdir().unwrap();
    let root = root(scratch.path(), "fs");
    let at = |name: &str| scratch.path().join(name);
    let disk = |output: &Path| {
        let mut disk = cas(&root);
        disk.args(["-q", "disk", NAME, "-o"]).arg(output);
        disk
    };
    let (file, link) = (at("file"), at("link"));
    ok(&mut disk(&file));
    let expected = fs::read(&file).unwrap();
    fs::write(&file, "older").unwrap();
    symlink("file", &link).unwrap();
    ok(&mut disk(&link));
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
    assert!(fs::read(&file).unwrap() == expected);

    let (pipe, device) = (at("pipe"), at("device"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut writing = disk(&pipe).spawn().unwrap();
    let mut read = Vec::new();
    let mut reader = File::open(&pipe).unwrap();
    reader.read_to_end(&mut read).unwrap();
    assert!(writing.wait().unwrap().success());
    assert!(read == expected);
    let piped = disk(Path::new("-")).output().unwrap();
    assert!(piped.status.success() && piped.stdout == expected);
    fails(disk(Path::new("-")).args(["--format", "vmdk"]), 2);

    let writable = |output: &Path| {
        let mut disk = disk(&at("other"));
        disk.args(["--writable-size", "16MiB", "--writable"]);
        disk.arg(output);
        disk
    };
    let said = fails(&mut writable(&pipe), 2);
    assert!(said.contains("regular file"), "{said}");
    symlink("other", at("same")).unwrap();
    fs::write(at("other"), "older").unwrap();
    fails(&mut writable(&at("same")), 2);
    assert_eq!(fs::read(at("other")).unwrap(), b"older");
    assert!(pipe.metadata().unwrap().file_type().is_fifo());

    // A copy of /dev/null. Only the superuser can make it, and some file systems do not open it.
    let mode = Mode::from_raw_mode(0o600);
    let made = mknodat(CWD, &device, FileType::CharacterDevice, mode, makedev(1, 3));
    if made.is_ok() && File::options().write(true).open(&device).is_ok() {
        ok(&mut disk(&device));
        fails(&mut writable(&device), 2);
        assert!(device.metadata().unwrap().file_type().is_char_device());
    }
}
