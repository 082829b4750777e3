//! The tool on a terminal and in scripts: results, exit codes, and an unchanged store after errors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{at_terminal, cas, demo_archive, fails, ok, small_archive};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// Returns everything that a failed command must not change.
fn state(root: &Path) -> (String, String, String) {
    let list = |what: &[&str]| ok(cas(root).args(what).arg("--json"));
    (
        list(&["images"]),
        list(&["blob", "ls"]),
        list(&["snapshot", "ls"]),
    )
}

#[test]
fn main_job_from_import_to_removal() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    assert_eq!(
        ok(cas(&root).args(["import", "--name", "app:1"]).arg(&archive)),
        "app:1\n"
    );
    ok(cas(&root).args(["tag", "app:1", "app:2"]));
    let images = lines(&ok(cas(&root).args(["images", "--json"])));
    let names = |form: &str| -> Vec<String> {
        let names = images.iter().map(|image| image[form].as_str().unwrap());
        names.map(str::to_owned).collect()
    };
    let full = ["docker.io/library/app:1", "docker.io/library/app:2"];
    assert_eq!(names("name"), full);
    assert_eq!(names("familiar"), ["app:1", "app:2"]);
    let tree = ok(cas(&root).args(["tree", "app:1"]));
    assert_eq!(
        tree.lines().filter(|line| line.contains("layer")).count(),
        3,
        "{tree}"
    );
    assert!(!tree.contains("MISSING"), "{tree}");
    let inspected: Value =
        serde_json::from_str(&ok(cas(&root).args(["inspect", "app:2", "--json"]))).unwrap();
    assert_eq!(inspected["config"]["config"]["Cmd"][0], "/app/run");
    ok(cas(&root)
        .args(["unpack", "app:1"])
        .arg(scratch.path().join("tree")));
    assert!(scratch.path().join("tree/app/run").exists());
    ok(cas(&root).args(["rmi", "app:1"]));
    assert_eq!(lines(&ok(cas(&root).args(["images", "--json"]))).len(), 1);
    fails(cas(&root).args(["rmi", "app:1"]), 3);
}

#[test]
fn import_with_unpack_makes_a_chain_of_snapshots() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    for _ in 0..2 {
        ok(cas(&root)
            .args(["import", "--unpack", "--name", "app"])
            .arg(&archive));
        let snapshots = lines(&ok(cas(&root).args(["snapshot", "ls", "--json"])));
        assert_eq!(snapshots.len(), 3);
        assert!(
            snapshots
                .iter()
                .all(|one| one["info"]["kind"] == "committed")
        );
    }
}

#[test]
fn standard_input_is_a_source() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = fs::File::open(demo_archive(scratch.path())).unwrap();
    ok(cas(&root)
        .args(["import", "-", "--name", "piped"])
        .stdin(Stdio::from(archive)));
    ok(cas(&root)
        .args(["unpack", "piped"])
        .arg(scratch.path().join("tree")));
}

/// As skopeo and podman name sources.
#[test]
fn a_source_with_a_transport_is_refused_with_advice() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    for (source, advice) in [
        ("docker://registry.example/app:1", "use `cas pull`"),
        ("oci-archive:/app.tar", "without oci-archive: and"),
        (
            "docker-archive:app.tar:app:1",
            "without docker-archive: and",
        ),
        ("oci:layout:app", "without oci: and"),
        ("dir:/directory", "without dir: and"),
    ] {
        let said = fails(cas(&root).args(["import", source]), 2);
        assert!(said.contains(source) && said.contains(advice), "{said}");
    }
    // A file may have such a name.
    let path = scratch.path().join("oci:app.tar");
    fs::copy(demo_archive(scratch.path()), &path).unwrap();
    let mut import = cas(&root);
    ok(import
        .current_dir(scratch.path())
        .args(["import", "oci:app.tar", "--name", "app"]));
}

#[test]
fn forty_tags_at_once_lose_no_name() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .arg(demo_archive(scratch.path())));
    let mut running: Vec<_> = (0..40)
        .map(|n| {
            cas(&root)
                .args(["-q", "tag", "app", &format!("t{n}")])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    assert!(
        running
            .iter_mut()
            .all(|child| child.wait().unwrap().success())
    );
    assert_eq!(lines(&ok(cas(&root).args(["images", "--json"]))).len(), 41);
}

#[test]
fn blobs_are_added_found_by_prefix_and_written_out() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let file = scratch.path().join("file");
    fs::write(&file, "abc").unwrap();
    let digest = ok(cas(&root).args(["blob", "add"]).arg(&file));
    assert!(digest.starts_with("sha256:ba7816bf"), "{digest}");
    assert_eq!(ok(cas(&root).args(["blob", "cat", "ba7816"])), "abc");
    let info: Value = serde_json::from_str(&ok(cas(&root).args([
        "blob",
        "info",
        "sha256:ba78",
        "--json",
    ])))
    .unwrap();
    assert_eq!(
        (info["size"].as_u64(), info["digest"].as_str()),
        (Some(3), Some(digest.trim()))
    );
    fails(cas(&root).args(["blob", "cat", "ff00"]), 3);
    fs::write(&file, "abd").unwrap();
    let before = state(&root);
    fails(
        cas(&root)
            .args(["blob", "add", "--digest", digest.trim()])
            .arg(&file),
        4,
    );
    assert_eq!(state(&root), before);
}

#[test]
fn wrong_usage_has_its_own_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fails(cas(&root).arg("nonsense"), 2);
    let said = fails(cas(&root).args(["--store", "gcs", "images"]), 2);
    assert!(said.contains("compiled in: fs"), "{said}");
    let said = fails(cas(&root).args(["--snapshotter", "zfs", "images"]), 2);
    assert!(said.contains("compiled in: overlay, native"), "{said}");
    fails(cas(&root).args(["--store", "nowhere:///x", "images"]), 2);
    fails(cas(&root).args(["tag", "a", "../b"]), 2);
    fails(cas(&root).args(["images", "--filter", "name=="]), 2);
    fails(
        cas(&root).args(["blob", "add", "--digest", "sha256:../../x", "/dev/null"]),
        2,
    );
    fails(
        cas(&root)
            .args(["unpack", "absent"])
            .arg(scratch.path().join("x")),
        3,
    );
    fails(
        cas(&root)
            .arg("import")
            .arg(scratch.path().join("absent.tar")),
        3,
    );
}

/// The engines of a root are final, so a root with such an option could never be opened.
#[test]
fn options_that_an_engine_does_not_support_make_no_root() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    for (kind, engine, expected) in [
        ("--store", "fs://?x=1", "unknown option \"x\""),
        #[cfg(feature = "redb")]
        ("--store", "redb://?cache=much", "not a size"),
        ("--snapshotter", "overlay://?x=1", "unknown option \"x\""),
        ("--snapshotter", "native://?x=1", "unknown option \"x\""),
        #[cfg(feature = "erofs")]
        ("--snapshotter", "erofs://?x=1", "unknown option \"x\""),
        #[cfg(feature = "erofs")]
        ("--snapshotter", "erofs://?mount=lop", "`file` or `loop`"),
        #[cfg(feature = "erofs")]
        ("--snapshotter", "erofs://?native=yes", "`true` or `false`"),
        #[cfg(feature = "erofs")]
        ("--snapshotter", "erofs://?layers=rel", "absolute paths"),
    ] {
        let said = fails(cas(&root).args([kind, engine, "init"]), 2);
        assert!(said.contains(expected), "{engine}: {said}");
        assert!(!root.exists(), "{engine}");
    }
}

#[test]
fn an_error_that_nobody_reads_has_its_exit_code() {
    let scratch = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut inspect = cas(&scratch.path().join("root"));
    inspect.args(["inspect", "absent"]).stderr(writer);
    assert_eq!(inspect.status().unwrap().code(), Some(3));
}

/// The bars of progress, and warnings above them, need a terminal that can move its cursor.
#[test]
fn a_terminal_without_bars_shows_warnings() {
    let scratch = tempfile::tempdir().unwrap();
    let mut import = Command::new(env!("CARGO_BIN_EXE_cas"));
    import.args(["import", "--name", "a__b:1", "--root"]);
    import.arg(scratch.path().join("root"));
    import.arg(small_archive(scratch.path()));
    for terminal in ["dumb", "xterm"] {
        let Some(mut script) = at_terminal(import.env("TERM", terminal)) else {
            return;
        };
        let shown = ok(&mut script);
        assert!(
            shown.contains("cas: warning: the OCI"),
            "{terminal}: {shown}"
        );
    }
}

#[test]
fn a_root_of_another_kind_is_refused_and_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let foreign = scratch.path().join("home");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter"), "dear").unwrap();
    let said = fails(cas(&foreign).arg("images"), 2);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    let newer = scratch.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("cas.toml"), "format = 99\nengine = 'x'\n").unwrap();
    let said = fails(cas(&newer).arg("images"), 1);
    assert!(said.contains("99"), "{said}");
}

#[test]
fn a_wrong_option_in_cas_toml_is_an_error_that_names_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let file = root.join("cas.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"native\"", "\"native://?x=1\"")).unwrap();
    let said = fails(cas(&root).arg("images"), 2);
    let expected = format!("{}: unknown option \"x\"", file.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn damaged_archives_leave_the_store_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = fs::read(demo_archive(scratch.path())).unwrap();
    ok(cas(&root).args(["blob", "add", "/dev/null"]));
    let before = state(&root);
    let damaged = scratch.path().join("damaged.tar");
    let refused = |bytes: &[u8]| {
        fs::File::create(&damaged)
            .unwrap()
            .write_all(bytes)
            .unwrap();
        let said = fails(cas(&root).args(["import", "--name", "x"]).arg(&damaged), 4);
        assert_eq!(state(&root), before, "{said}");
    };
    refused(&archive[..archive.len() / 2]);
    for at in [2000, archive.len() / 4, archive.len() / 2] {
        let mut flipped = archive.clone();
        flipped[at] ^= 1;
        refused(&flipped);
    }
    fs::write(&damaged, "this is not an archive").unwrap();
    fails(cas(&root).args(["import", "--name", "x"]).arg(&damaged), 2);
    assert_eq!(state(&root), before);
}

#[test]
fn a_destination_with_content_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .arg(demo_archive(scratch.path())));
    let full = scratch.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "x").unwrap();
    fails(cas(&root).args(["unpack", "app"]).arg(&full), 2);
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
}

#[test]
fn damage_in_the_store_is_found_on_the_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .arg(demo_archive(scratch.path())));
    let inspected: Value =
        serde_json::from_str(&ok(cas(&root).args(["inspect", "app", "--json"]))).unwrap();
    let digest = inspected["manifest"]["layers"][0]["digest"]
        .as_str()
        .unwrap();
    let file = root.join("store/blobs").join(digest.replace(':', "/"));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let out = scratch.path().join("out");
    let said = fails(cas(&root).args(["unpack", "app"]).arg(&out), 4);
    assert!(
        said.contains(&digest[..20]) || said.contains("gzip"),
        "{said}"
    );
    assert!(!out.exists() || fs::read_dir(&out).unwrap().count() == 0);
    fails(cas(&root).args(["blob", "cat", digest]), 4);
}

#[test]
fn importing_again_repairs_a_blob_that_was_cut_short() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    let blobs = root.join("store/blobs/sha256");
    let sizes = || -> BTreeMap<_, _> {
        let entries = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|one| (one.file_name(), one.metadata().unwrap().len()))
            .collect()
    };
    let before = sizes();
    for name in before.keys() {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(blobs.join(name))
            .unwrap();
        file.set_len(1).unwrap();
    }
    ok(cas(&root).args(["import", "--name", "app"]).arg(&archive));
    assert_eq!(sizes(), before);
    ok(cas(&root)
        .args(["unpack", "app"])
        .arg(scratch.path().join("tree")));
}

#[test]
fn scripts_and_man_pages_are_made_for_every_command() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    assert!(ok(cas(&root).args(["completions", "bash"])).contains("_cas"));
    let pages = scratch.path().join("man/man1");
    let made: Value =
        serde_json::from_str(&ok(cas(&root).args(["man", "--json"]).arg(&pages))).unwrap();
    let found = fs::read_dir(&pages).unwrap().count();
    assert_eq!(made["pages"], found);
    for (page, text) in [("cas.1", "cas import"), ("cas-blob-rm.1", "--force")] {
        let page = fs::read_to_string(pages.join(page)).unwrap();
        assert!(
            page.starts_with(".") && page.replace('\\', "").contains(text),
            "{page}"
        );
    }
    for hidden in ["cas-run-in-chroot.1", "cas-help.1"] {
        assert!(!pages.join(hidden).exists(), "{hidden}");
    }
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    let said = fails(cas(&root).arg("man").arg(&file), 2);
    assert!(said.contains("not a directory"), "{said}");
}

#[test]
fn snapshots_are_prepared_committed_shown_and_removed_by_hand() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| ok(cas(scratch.path()).arg("snapshot").args(arguments));
    let refused =
        |arguments: &[&str], code| fails(cas(scratch.path()).arg("snapshot").args(arguments), code);
    let made: serde_json::Value =
        serde_json::from_str(&run(&["prepare", "work", "--json"])).unwrap();
    assert_eq!(made["type"], "bind");
    let source = std::path::Path::new(made["source"].as_str().unwrap());
    std::fs::write(source.join("file"), "text").unwrap();
    run(&["commit", "sha256:2c26b46b68ff", "work"]);
    run(&["view", "look", "--parent", "2c26"]);
    assert!(run(&["mounts", "look"]).contains("ro"));
    assert_eq!(
        run(&["tree"]),
        "sha256:2c26b46b68ff (committed)\n  look (view)\n"
    );
    assert!(run(&["info", "look"]).contains("parent   sha256:2c26b46b68ff"));
    assert!(run(&["usage", "look"]).starts_with("0 B"));
    refused(&["rm", "2c26"], 5);
    refused(&["info", "2c"], 3);
    refused(&["mounts", "2c26"], 1);
    refused(&["prepare", "look"], 5);
    refused(&["commit", "other", "absent"], 3);
    let df = ok(cas(scratch.path()).args(["df", "--json"]));
    let snapshots: serde_json::Value = serde_json::from_str(df.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&snapshots["kind"], &snapshots["count"]),
        (&"snapshots".into(), &2.into())
    );
    assert!(snapshots["bytes"].as_u64().unwrap() >= 4096, "{snapshots}");
    run(&["rm", "look"]);
    run(&["rm", "2c26"]);
    assert_eq!(run(&["tree"]), "");
}
