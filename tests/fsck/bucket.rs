//! Damage to the objects of a bucket, made by requests to the service.

use cas::Digest;
use testkit::s3;

use crate::scene::{Scene, has};

/// A scene whose store is below a prefix of a bucket.
struct Bucket {
    scene: Scene,
    host: &'static str,
    prefix: &'static str,
}

impl Bucket {
    /// Returns a scene. Prints the reason and returns `None` if there is no service.
    fn new(prefix: &'static str) -> Option<Self> {
        let host = s3::service()?;
        let url = format!("s3://{}/{prefix}?endpoint=http://{host}", s3::BUCKET);
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
}

fn cell(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn record(digest: &Digest) -> String {
    format!("records/blobs/sha256=3a{}", digest.hex())
}

#[test]
fn damaged_objects_are_found_and_fetched_again() {
    let Some(bucket) = Bucket::new("fsck") else {
        return;
    };
    let scene = &bucket.scene;
    let (layer, document) = (scene.layer(), scene.manifest_digest);
    for digest in [layer, document] {
        bucket.put(
            &bucket.part(&digest),
            &"x".repeat(scene.bytes(&digest).len()),
        );
        scene.heals("blob-damaged", digest.hex());
    }
    bucket.put(&bucket.part(&layer), "short");
    scene.heals("blob-damaged", layer.hex());
    bucket.delete(&bucket.part(&layer));
    scene.heals("blob-damaged", layer.hex());
    bucket.delete(&cell(&layer));
    scene.heals("blob-missing", layer.hex());
    bucket.put(&cell(&document), "garbage");
    scene.heals("blob-damaged", document.hex());
    bucket.delete(&record(&layer));
    scene.heals("record-missing", layer.hex());
    bucket.put(&record(&document), "garbage");
    scene.heals("record-damaged", document.hex());
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
