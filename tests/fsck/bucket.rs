//! Damage to the objects of a bucket, made by requests to the service.

use std::io::Write as _;
use std::process::Stdio;

use cas::Digest;
use testkit::s3;

use crate::common::{can, cas, fails, ok};
use crate::scene::{Scene, has};
use crate::together::{leave_mount, spoil_snapshots};

/// A scene whose store is below a prefix of a bucket.
struct Bucket {
    scene: Scene,
    host: &'static str,
    prefix: &'static str,
}

impl Bucket {
    /// Returns a scene. Prints the reason and returns `None` without a service.
    fn new(prefix: &'static str) -> Option<Self> {
        Self::with(prefix, "")
    }

    /// Returns a scene with more options in the URL of its store.
    fn with(prefix: &'static str, options: &str) -> Option<Self> {
        let host = s3::service()?;
        let bucket = s3::BUCKET;
        let url = format!("s3://{bucket}/{prefix}?endpoint=http://{host}{options}");
        let scene = Scene::new(url.leak());
        Some(Bucket {
            scene,
            host,
            prefix,
        })
    }

    fn path(&self, object: &str) -> String {
        format!("/{}/{}/{object}", s3::BUCKET, self.prefix)
    }

    fn delete(&self, object: &str) {
        let response = s3::ask(self.host, "DELETE", &self.path(object));
        assert!(response.starts_with("HTTP/1.1 204"), "{response}");
    }

    fn put(&self, object: &str, body: &str) {
        let response = s3::send(self.host, "PUT", &self.path(object), body);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }

    fn get(&self, object: &str) -> String {
        let response = s3::ask(self.host, "GET", &self.path(object));
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        response
    }

    /// Returns the name of the object with the bytes of a blob, which has one part.
    fn part(&self, digest: &Digest) -> String {
        let cell = self.get(&cell(digest));
        let version = cell.split("\"version\":").nth(1).unwrap();
        let version: String = version.chars().take_while(char::is_ascii_digit).collect();
        format!("uploads/{version:0>20}.00000000")
    }

    /// Returns the number of parts of blobs and of ingests.
    fn parts(&self) -> usize {
        let list = format!(
            "/{}?list-type=2&prefix={}/uploads/",
            s3::BUCKET,
            self.prefix
        );
        let response = s3::ask(self.host, "GET", &list);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        response.matches("<Key>").count()
    }
}

fn cell(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn record(digest: &Digest) -> String {
    format!("records/blobs/sha256=3a{}", digest.hex())
}

/// Checks that all of these problems are found and repaired at once.
fn heals_all(scene: &Scene, damage: &[(&str, String)]) {
    let (code, found) = scene.fsck(&["--read-data"]);
    assert_eq!(code, 4, "{found:#?}");
    for (problem, subject) in damage {
        assert!(
            has(&found, problem, subject),
            "{problem} {subject}: {found:#?}"
        );
    }
    let (code, repaired) = scene.repair_from_source();
    assert_eq!(code, 0, "{repaired:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
}

#[test]
fn damaged_objects_are_found_and_fetched_again() {
    let Some(bucket) = Bucket::new("fsck") else {
        return;
    };
    let scene = &bucket.scene;
    let layers: Vec<Digest> = scene.manifest.layers.iter().map(|one| one.digest).collect();
    let (document, config) = (scene.manifest_digest, scene.manifest.config.digest);
    let other = |digest: &Digest| "x".repeat(scene.bytes(digest).len());
    for digest in [layers[0], config] {
        bucket.put(&bucket.part(&digest), &other(&digest));
    }
    bucket.delete(&record(&layers[0]));
    bucket.delete(&cell(&layers[1]));
    bucket.delete(&bucket.part(&layers[2]));
    heals_all(
        scene,
        &[
            ("blob-damaged", layers[0].hex()),
            ("record-missing", layers[0].hex()),
            ("blob-missing", layers[1].hex()),
            ("blob-damaged", layers[2].hex()),
            ("blob-damaged", config.hex()),
        ],
    );
    // Truncated objects.
    let text = String::from_utf8(scene.bytes(&document)).unwrap();
    bucket.put(&bucket.part(&document), &text[..text.len() / 2]);
    bucket.put(&bucket.part(&layers[0]), "x");
    bucket.put(&bucket.part(&layers[1]), "");
    heals_all(
        scene,
        &[
            ("blob-damaged", document.hex()),
            ("blob-damaged", layers[0].hex()),
            ("blob-damaged", layers[1].hex()),
        ],
    );
    // Until these are repaired, the rest cannot be checked.
    bucket.put(&cell(&document), "garbage");
    bucket.put(&record(&layers[2]), "garbage");
    // The cell of another blob. The other blob, which is intact, must stay.
    let response = bucket.get(&cell(&layers[0]));
    let (_, copied) = response.split_once("\r\n\r\n").unwrap();
    bucket.put(&cell(&layers[1]), copied);
    heals_all(
        scene,
        &[
            ("blob-damaged", document.hex()),
            ("blob-damaged", layers[1].hex()),
            ("record-damaged", layers[2].hex()),
        ],
    );
    scene.works();
}

/// The snapshots and the mounts are in the root, but a repair unpacks layers of the bucket again.
#[test]
fn damage_in_the_root_is_healed_together_with_a_flipped_manifest_in_the_bucket() {
    if !can(&["umount"]) {
        return;
    }
    let Some(bucket) = Bucket::new("fsck-together") else {
        return;
    };
    let scene = &bucket.scene;
    leave_mount(scene);
    spoil_snapshots(scene);
    let document = scene.manifest_digest;
    let mut flipped = scene.bytes(&document);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let flipped = String::from_utf8(flipped).unwrap();
    bucket.put(&bucket.part(&document), &flipped);
    heals_all(
        scene,
        &[
            ("blob-damaged", document.hex()),
            ("snapshot-missing", "native".to_owned()),
            ("snapshot-damaged", "native".to_owned()),
            ("mount-left", "mnt".to_owned()),
        ],
    );
    scene.works();
}

/// An ingest in a bucket ends with its process, which leaves the parts that it has sent. Another
/// process may still send parts that are less than a day old. Only with the option `single=true`,
/// no other process can use the bucket, so a check can report these parts at once.
#[test]
fn parts_of_a_killed_ingest_are_found_and_removed() {
    let Some(bucket) = Bucket::with("fsck-ingest", "&single=true") else {
        return;
    };
    let scene = &bucket.scene;
    let before = bucket.parts();
    let mut add = cas(&scene.root);
    add.args(["blob", "add", "-"]).stdin(Stdio::piped());
    let mut adding = add.stdout(Stdio::null()).spawn().unwrap();
    let mut input = adding.stdin.take().unwrap();
    input.write_all(&vec![7; 9 << 20]).unwrap();
    while bucket.parts() == before {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    adding.kill().unwrap();
    adding.wait().unwrap();
    scene.heals("job-left", "content");
    assert_eq!(bucket.parts(), before);
}

/// The service of a store for one process is not probed, so its format is written in another way.
#[test]
fn a_damaged_or_lost_format_is_made_again() {
    for (prefix, options) in [("fsck-format", ""), ("fsck-format-alone", "&single=true")] {
        let Some(bucket) = Bucket::with(prefix, options) else {
            return;
        };
        let scene = &bucket.scene;
        let format = || {
            let response = bucket.get("format");
            response.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let made = format();
        for damaged in [Some("garbage"), Some(""), Some("{}"), None] {
            match damaged {
                Some(damaged) => bucket.put("format", damaged),
                None => bucket.delete("format"),
            }
            let said = fails(cas(&scene.root).arg("images"), 4);
            assert!(said.contains("fsck --repair"), "{said}");
            scene.heals("store-damaged", "format");
            assert_eq!(format(), made, "{options} after {damaged:?}");
            assert!(ok(cas(&scene.root).arg("images")).contains("app:1"));
        }
        let newer = made.replace("\"version\": 2", "\"version\": 99");
        bucket.put("format", &newer);
        let said = fails(cas(&scene.root).args(["fsck", "--repair"]), 1);
        assert!(said.contains("newer"), "{said}");
        assert_eq!(format(), newer, "a newer format is not damage");
    }
}

#[test]
fn damaged_objects_without_a_source_are_set_aside() {
    let Some(bucket) = Bucket::new("fsck-aside") else {
        return;
    };
    let scene = &bucket.scene;
    let layer = scene.layer();
    bucket.put(&bucket.part(&layer), &"x".repeat(scene.bytes(&layer).len()));
    let (code, found) = scene.fsck(&["--read-data", "--repair"]);
    assert_eq!(code, 4);
    assert!(has(&found, "blob-damaged", layer.hex()), "{found:#?}");
    let (code, found) = scene.fsck(&["--read-data", "--repair"]);
    assert_eq!(code, 4);
    assert!(has(&found, "quarantined", layer.hex()), "{found:#?}");
    assert!(has(&found, "blob-missing", layer.hex()), "{found:#?}");
}
