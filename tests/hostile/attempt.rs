//! One image, imported and unpacked in every place.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use cas::backend::Snapshotter;
use cas::layer::import::{ImportOptions, Source, import, import_unpacked};
use cas::layer::unpack::{Entrance, Target, to_directory};
use cas::progress::{Progress, Silent};
use cas::snapshot::SnapshotKind;
use cas::{Digest, Error, ErrorKind, Image, Labels, Manifest, Result, Store, image};
use cas_core::testing::memory::MemoryStore;
use snapshot_erofs::ErofsSnapshotter;
use snapshot_native::NativeSnapshotter;
use snapshot_overlay::OverlaySnapshotter;
use testkit::layout::layout_typed;

use super::cage::Cage;
use super::cases::{Case, Outcome};
use crate::common::tree::{Tree, compare, scan};

/// What came of an image.
pub(super) struct Tried {
    pub(super) outcome: Outcome,
    /// The message of the error, if the image was refused in the plain tree.
    pub(super) said: String,
    /// The plain tree, if the image was unpacked.
    pub(super) tree: Option<Tree>,
    /// What is wrong, one line for each.
    pub(super) wrong: Vec<String>,
}

fn store() -> Store {
    MemoryStore::new().with_images()
}

/// Imports a case from an image layout in each place, and unpacks it there. All places must have
/// the same outcome and the same tree. Nothing outside may be touched, and a refusal leaves nothing
/// that is incomplete. The places are a plain tree, and the snapshotters with these names.
pub(super) async fn attempt(cage: &Cage, case: &Case, names: &[String]) -> Tried {
    let mut wrong = Vec::new();
    write_layout(&cage.path("layout"), case);
    let plain = cage.path("plain/snapshots/0/fs");
    let unpacked = unpack_plain(cage, &plain).await;
    let outcome = outcome(&unpacked);
    let mut said = String::new();
    if let Err(error) = &unpacked {
        said = error.to_string();
        wrong.extend(unnamed("plain", case, error));
    }
    if plain.exists() != unpacked.is_ok() {
        wrong.push("plain: a refusal leaves a directory".to_owned());
    }
    wrong.extend(disturbed("plain", cage));
    let tree = plain.exists().then(|| scan(&plain));
    let all = snapshotters(cage).into_iter();
    for snapshotter in all.filter(|one| names.iter().any(|name| name == one.name())) {
        let name = snapshotter.name();
        let found = unpack_in(cage, &snapshotter, case, tree.as_ref()).await;
        wrong.extend(found.wrong.iter().map(|line| format!("{name}: {line}")));
        if found.outcome != outcome {
            let said = found.said;
            wrong.push(format!(
                "{name}: {:?}, but plain: {outcome:?}: {said}",
                found.outcome
            ));
        }
        wrong.extend(disturbed(name, cage));
    }
    if plain.exists() {
        fs::remove_dir_all(&plain).unwrap();
    }
    fs::remove_dir_all(cage.path("layout")).unwrap();
    wrong.extend(disturbed("removal", cage));
    wrong.extend(cage.mounted());
    Tried {
        outcome,
        said,
        tree,
        wrong,
    }
}

fn write_layout(path: &Path, case: &Case) {
    let diff_ids: Vec<Digest> = case.layers.iter().map(|layer| layer.diff_id).collect();
    let layers: Vec<Vec<u8>> = case.layers.iter().map(|layer| layer.blob.clone()).collect();
    layout_typed(path, &layers, &diff_ids, case.media_type.as_str());
}

fn snapshotters(cage: &Cage) -> [Arc<dyn Snapshotter>; 3] {
    let records = Arc::new(MemoryStore::new());
    let native = NativeSnapshotter::open(cage.path("native"), records.clone()).unwrap();
    let overlay = OverlaySnapshotter::open(cage.path("overlay"), records.clone()).unwrap();
    let erofs = ErofsSnapshotter::open(cage.path("erofs"), records).unwrap();
    [Arc::new(native), Arc::new(overlay), Arc::new(erofs)]
}

/// Returns success, or the kind of the error.
fn outcome<T>(unpacked: &Result<T>) -> Outcome {
    match unpacked {
        Ok(_) => Outcome::Harmless,
        Err(error) => Outcome::Refused(error.kind()),
    }
}

fn disturbed(place: &str, cage: &Cage) -> Vec<String> {
    let lines = cage.disturbed().into_iter();
    lines.map(|line| format!("{place}: {line}")).collect()
}

/// Checks that an error has a kind for wrong input, or the kind that its case expects, and that its
/// message names the layer, is short and has no control characters. Returns a line if not.
fn unnamed(place: &str, case: &Case, error: &Error) -> Option<String> {
    let said = error.to_string();
    let is_of_input = matches!(
        error.kind(),
        ErrorKind::Corrupt
            | ErrorKind::OutOfRange
            | ErrorKind::Unsupported
            | ErrorKind::InvalidArgument
    ) || case.outcome == Outcome::Refused(error.kind());
    let names_it = case.layers.iter().any(|layer| {
        let digest = Digest::sha256(&layer.blob).to_string();
        said.contains(&digest)
    });
    let is_plain = !said.contains(|char: char| char.is_control()) && said.len() < LONGEST_MESSAGE;
    let fine = is_of_input && names_it && is_plain;
    (!fine).then(|| format!("{place}: not a refusal that names the layer: {said}"))
}

/// Number of bytes that every message is shorter than: no message repeats its input.
const LONGEST_MESSAGE: usize = 1500;

async fn unpack_plain(cage: &Cage, plain: &Path) -> Result<()> {
    let store = store();
    let source = Source::Path(cage.path("layout"));
    let images = import(&store, source, &ImportOptions::default()).await?;
    let manifest = manifest(&store, &images[0]).await?;
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    to_directory(&store, &manifest, plain, Entrance::AsImage, &progress).await
}

async fn manifest(store: &Store, one: &Image) -> Result<Manifest> {
    let platforms = cas::Platforms::All.narrowed();
    let resolved = image::manifest_for(&*store.content, &one.target, &platforms).await?;
    Ok(resolved.manifest)
}

/// The outcome in one place.
struct Found {
    outcome: Outcome,
    said: String,
    wrong: Vec<String>,
}

/// Imports the image with a snapshotter, and compares what a mount shows with the plain tree.
/// Removes all snapshots afterwards.
async fn unpack_in(
    cage: &Cage,
    snapshotter: &Arc<dyn Snapshotter>,
    case: &Case,
    plain: Option<&Tree>,
) -> Found {
    let target = Target {
        snapshotter,
        locks: &cage.path("locks"),
        only_tars: false,
        tables: None,
        confine: true,
    };
    let source = Source::Path(cage.path("layout"));
    let imported = import_unpacked(&store(), source, &ImportOptions::default(), target).await;
    let mut wrong = Vec::new();
    let shown = match imported {
        Ok(images) => {
            let top = images[0].1.map(|top| top.to_string());
            shown(&**snapshotter, top.as_deref(), plain).await
        }
        Err(error) => {
            wrong.extend(nothing_under_way(case, &**snapshotter).await);
            Err(error)
        }
    };
    let outcome = outcome(&shown);
    let said = match shown {
        Ok(differences) => {
            wrong.extend(differences);
            String::new()
        }
        Err(error) => {
            wrong.extend(unnamed("refusal", case, &error));
            error.to_string()
        }
    };
    let directory = cage.path(snapshotter.name()).join("snapshots");
    wrong.extend(remove_all(&**snapshotter, &directory).await);
    Found {
        outcome,
        said,
        wrong,
    }
}

/// Returns the differences between the plain tree and what the topmost snapshot shows.
async fn shown(
    snapshotter: &dyn Snapshotter,
    top: Option<&str>,
    plain: Option<&Tree>,
) -> Result<Vec<String>> {
    let mounts = snapshotter.view("look", top, Labels::new()).await?;
    let root = cas_host::mount::open(&mounts)?;
    let found = scan(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())));
    drop(root);
    snapshotter.remove("look").await?;
    Ok(plain.map_or_else(Vec::new, |plain| compare(plain, &found)))
}

/// Checks that a refused layer has left no snapshot, and that the snapshots below it are complete.
/// Only a snapshotter that keeps tars may have a snapshot of the refused layer: it commits a layer
/// as it is, and refuses to show it. Returns a line if something is wrong.
async fn nothing_under_way(case: &Case, snapshotter: &dyn Snapshotter) -> Option<String> {
    let all = snapshotter.walk(None, 1000).await.unwrap();
    let committed = all.iter().all(|info| info.kind == SnapshotKind::Committed);
    let most = case.layers.len() - usize::from(!snapshotter.keeps_tars());
    let fine = committed && all.len() <= most;
    (!fine).then(|| format!("a refusal leaves {all:?}"))
}

/// Removes all snapshots, the topmost first, and checks that their directories are gone.
async fn remove_all(snapshotter: &dyn Snapshotter, directory: &Path) -> Option<String> {
    loop {
        let all = snapshotter.walk(None, 1000).await.unwrap();
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
    let left = fs::read_dir(directory).unwrap().count();
    (left > 0).then(|| format!("{left} directories are left after the removal"))
}
