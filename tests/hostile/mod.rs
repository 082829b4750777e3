//! Hostile layers, applied to a plain tree and to snapshots of both kinds: each has the expected
//! outcome, which is the same in all three places, and nothing outside is touched.

mod cage;
mod cases;
mod confined;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use cas::backend::{RecordImages, Snapshotter};
use cas::layer::unpack::{Entrance, Target, to_directory, to_snapshots};
use cas::progress::{Progress, Silent};
use cas::snapshot::SnapshotKind;
use cas::{ContentExt, Descriptor, Digest, ErrorKind, Labels, Manifest, MediaType};
use cas::{Result, Store};
use cas_core::testing::memory::MemoryStore;
use serde_json::json;
use snapshot_native::NativeSnapshotter;
use snapshot_overlay::OverlaySnapshotter;

use cage::Cage;
use cases::{Case, Outcome};

fn store() -> Store {
    let memory = Arc::new(MemoryStore::new());
    Store {
        content: memory.clone(),
        images: Arc::new(RecordImages::new(memory.clone())),
        records: memory,
    }
}

/// Stores the layers and the configuration of a case. Returns its manifest.
async fn image(store: &Store, case: &Case) -> Manifest {
    let mut layers = Vec::new();
    for blob in &case.layers {
        layers.push(Descriptor::of(case.media_type.clone(), blob));
        store.content.put(blob.clone().into()).await.unwrap();
    }
    let diff_ids: Vec<String> = match &case.diff_id {
        Some(diff_id) => vec![diff_id.to_string()],
        None => layers.iter().map(|one| one.digest.to_string()).collect(),
    };
    let config = json!({ "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = config.to_string().into_bytes();
    let descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config);
    store.content.put(config.into()).await.unwrap();
    Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config: descriptor,
        layers,
        subject: None,
        annotations: None,
    }
}

/// Returns the outcome of unpacking: success, or the kind of the error.
fn outcome<T>(unpacked: &Result<T>) -> Outcome {
    match unpacked {
        Ok(_) => Outcome::Harmless,
        Err(error) => Outcome::Refused(error.kind()),
    }
}

#[tokio::test]
async fn hostile_layers_do_the_same_everywhere_and_nothing_outside() {
    if !crate::common::can(&[]) {
        return;
    }
    let mut wrong = Vec::new();
    for make in cases::ALL.into_iter().flatten() {
        let cage = Cage::new();
        let case = make(&cage);
        let store = store();
        let manifest = image(&store, &case).await;
        let progress: Arc<dyn Progress> = Arc::new(Silent);

        let plain = cage.path("plain/snapshots/0/fs");
        let unpacked = to_directory(&store, &manifest, &plain, Entrance::AsImage, &progress).await;
        cage.assert_untouched(case.name);
        let mut check = |what: &str, found: Outcome, said: String| {
            if found != case.outcome {
                let name = case.name;
                wrong.push(format!(
                    "{name}, {what}: {found:?}, not {:?}: {said}",
                    case.outcome
                ));
            }
        };
        let made = unpacked.is_ok();
        check("plain", outcome(&unpacked), format!("{:?}", unpacked.err()));
        assert_eq!(plain.exists(), made, "{}", case.name);

        let records = Arc::new(MemoryStore::new());
        let native = NativeSnapshotter::open(cage.path("native"), records.clone()).unwrap();
        let overlay = OverlaySnapshotter::open(cage.path("overlay"), records).unwrap();
        let snapshotters: [Arc<dyn Snapshotter>; 2] = [Arc::new(native), Arc::new(overlay)];
        for snapshotter in &snapshotters {
            let name = snapshotter.name();
            let target = Target {
                snapshotter,
                locks: &cage.path("locks"),
                only_tars: false,
                tables: None,
                confine: true,
            };
            let unpacked = to_snapshots(&store, target, &manifest, &progress).await;
            cage.assert_untouched(case.name);
            check(
                name,
                outcome(&unpacked),
                format!("{:?}", unpacked.as_ref().err()),
            );
            match unpacked {
                Ok(top) => same_tree(&case, &**snapshotter, &top.unwrap(), &plain).await,
                Err(_) => nothing_under_way(&case, &**snapshotter).await,
            }
            cage.assert_untouched(case.name);
            remove_all(&**snapshotter, &cage.path(name).join("snapshots")).await;
        }
        if plain.exists() {
            fs::remove_dir_all(&plain).unwrap();
        }
        cage.assert_untouched(case.name);
        cage.assert_no_mount();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks that the snapshot `top` shows the tree that was unpacked.
async fn same_tree(case: &Case, snapshotter: &dyn Snapshotter, top: &Digest, plain: &Path) {
    let top = top.to_string();
    let mounts = snapshotter.view("look", Some(&top), Labels::new()).await;
    let root = cas_host::mount::open(&mounts.unwrap()).unwrap();
    let shown = format!("/proc/self/fd/{}", root.as_raw_fd());
    let found = crate::common::tree::differences(plain, Path::new(&shown));
    drop(root);
    snapshotter.remove("look").await.unwrap();
    assert!(
        found.is_empty(),
        "{} {}: {found:#?}",
        case.name,
        snapshotter.name()
    );
}

/// Checks that a refused layer has left no snapshot, and that the snapshots below it are complete.
async fn nothing_under_way(case: &Case, snapshotter: &dyn Snapshotter) {
    let all = snapshotter.walk(None, 100).await.unwrap();
    let committed = all.iter().all(|info| info.kind == SnapshotKind::Committed);
    assert!(
        committed && all.len() < case.layers.len(),
        "{} {all:?}",
        case.name
    );
}

/// Removes all snapshots, the topmost first, and checks that their directories are gone.
async fn remove_all(snapshotter: &dyn Snapshotter, directory: &Path) {
    loop {
        let all = snapshotter.walk(None, 100).await.unwrap();
        if all.is_empty() {
            break;
        }
        for info in all {
            match snapshotter.remove(&info.key).await {
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {}
                removed => removed.unwrap(),
            }
        }
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
}
