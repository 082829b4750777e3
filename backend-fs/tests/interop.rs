//! skopeo and umoci can read the files of this store, and this store can read their files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use backend_fs::FsStore;
use cas_core::content::Durability;
use cas_core::image::Image;
use cas_core::{Descriptor, Digest, Labels, MediaType, Store, pool::wait};
use support::installed;

/// Stores an image of one layer under `name`. Returns its manifest.
fn make_image(store: &Store, name: &str) -> Descriptor {
    wait(async {
        let put = async |kind: MediaType, data: Vec<u8>| {
            let descriptor = Descriptor::of(kind, &data);
            let stored = store.put(&descriptor, data.into(), Durability::Full);
            stored.await.unwrap();
            descriptor
        };
        // Two zero blocks are an empty tar archive.
        let layer = put(MediaType::OCI_LAYER, vec![0; 1024]).await;
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        let config = put(MediaType::OCI_CONFIG, config.to_string().into_bytes()).await;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": config, "layers": [layer],
        });
        let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
        let image = Image::new(name.parse().unwrap(), manifest.clone());
        store.images.create(image).await.unwrap();
        manifest
    })
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    output
}

fn oci(path: &Path, name: &str) -> String {
    format!("oci:{}:{name}", path.display())
}

#[test]
fn skopeo_copies_out_and_in_with_equal_digests() {
    if !installed("skopeo") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
    let store = FsStore::open(&ours).unwrap().store();
    let manifest = make_image(&store, "latest");
    let copy = |from: &str, to: &str| {
        let flags = ["--insecure-policy", "copy", "-q", "--preserve-digests"];
        run("skopeo", &[&flags[..], &[from, to]].concat());
    };
    copy(&oci(&ours, "latest"), &oci(&theirs, "out"));
    let raw = run("skopeo", &["inspect", "--raw", &oci(&theirs, "out")]).stdout;
    assert_eq!(Digest::sha256(&raw), manifest.digest);
    copy(&oci(&theirs, "out"), &oci(&ours, "in"));
    let seen = wait(store.images.get(&"in".parse().unwrap()))
        .unwrap()
        .unwrap();
    assert!(seen.target.same_content(&manifest));
    assert_eq!(wait(store.images.list(&[])).unwrap().len(), 2);
    // A layout that skopeo wrote can be opened as a store.
    let adopted = FsStore::open(&theirs).unwrap().store();
    let image = wait(adopted.images.get(&"out".parse().unwrap()))
        .unwrap()
        .unwrap();
    assert!(wait(adopted.present(&image.target)).unwrap());
}

#[test]
fn umoci_lists_our_names_and_a_tag_by_umoci_inherits_no_labels() {
    if !installed("umoci") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("ours");
    let store = FsStore::open(&path).unwrap().store();
    let first = make_image(&store, "first");
    let mut labelled = Image::new("moved".parse().unwrap(), first.clone());
    labelled.labels = Labels::from([("kept".into(), "no".into())]);
    wait(store.images.create(labelled)).unwrap();
    let listed = run("umoci", &["ls", "--layout", path.to_str().unwrap()]).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert_eq!(
        listed.split_whitespace().collect::<Vec<_>>(),
        ["first", "moved"]
    );
    run("umoci", &["gc", "--layout", path.to_str().unwrap()]);
    assert!(wait(store.present(&first)).unwrap());
    // umoci makes another image under a name that has labels.
    let image = oci(&path, "first");
    let image = image.strip_prefix("oci:").unwrap();
    run(
        "umoci",
        &[
            "config", "--image", image, "--author", "x", "--tag", "moved",
        ],
    );
    let moved = wait(store.images.get(&"moved".parse().unwrap()))
        .unwrap()
        .unwrap();
    assert_ne!(moved.target.digest, first.digest);
    assert!(moved.labels.is_empty());
}
