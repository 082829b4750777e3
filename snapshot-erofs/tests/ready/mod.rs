//! Ready layers: snapshots that refer to tars in other directories.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

use cas_core::snapshot::chain_ids;
use cas_core::{Descriptor, Digest, MediaType};
use cas_erofs::Layers;
use cas_host::snapshotter::SnapshotLayout;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use snapshot_erofs::{Erofs, write_ready_layers};

use super::*;

/// A root, and a directory of ready layers beside it.
struct Scene {
    temp: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("ready/blobs/sha256")).unwrap();
        Scene { temp }
    }

    fn open(&self, immutable: bool) -> ErofsSnapshotter {
        let root = self.temp.path().join("root");
        fs::create_dir_all(&root).unwrap();
        let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
        let absent = self.temp.path().join("absent");
        let layout = Erofs::open().unwrap().with_immutable(immutable);
        let layout = layout.with_ready_layers(vec![absent, self.temp.path().join("ready")]);
        ErofsSnapshotter::with_layout(layout, root, records).unwrap()
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.temp
            .path()
            .join("ready/blobs/sha256")
            .join(diff_id.hex())
    }

    fn put(&self, tar: &[u8]) -> Digest {
        let diff_id = Digest::sha256(tar);
        fs::write(self.place(&diff_id), tar).unwrap();
        diff_id
    }
}

fn tars() -> [Vec<u8>; 2] {
    let base = Tar::new()
        .dir("dir/")
        .file("dir/kept", vec![b'k'; 70_000])
        .file("dir/gone", "gone");
    let top = Tar::new().file("dir/.wh.gone", "").file("new", "new");
    [base.end(), top.end()]
}

fn descriptor() -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER_GZIP, b"the compressed layer")
}

/// Prepares a snapshot for a layer. Returns whether it refers to a ready layer.
async fn refers(store: &ErofsSnapshotter, key: &str, diff_id: &Digest) -> bool {
    store.prepare_layer(key, None, Labels::new()).await.unwrap();
    let layer = descriptor();
    let used = store.use_ready_layer(key, &layer, diff_id);
    used.await.unwrap()
}

/// Commits ready layers under their chain IDs. Returns the chain IDs.
async fn chain(store: &ErofsSnapshotter, diff_ids: &[Digest]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (diff_id, chain_id) in diff_ids.iter().zip(chain_ids(diff_ids)) {
        let key = format!("making {chain_id}");
        assert!(refers(store, &key, diff_id).await);
        let options = Commit {
            parent: names.last().cloned(),
            ..Commit::default()
        };
        names.push(chain_id.to_string());
        store
            .commit(&chain_id.to_string(), &key, options)
            .await
            .unwrap();
    }
    names
}

/// Returns the description of the damage that a check finds.
async fn damage(store: &ErofsSnapshotter, key: &str, depth: Depth) -> String {
    match store.check(key, depth).await.unwrap() {
        Condition::Damaged(what) => what,
        found => panic!("{found:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_layer_is_mounted_where_it_is() {
    if !is_usable() {
        return;
    }
    for immutable in [false, true] {
        let scene = Scene::new();
        let store = scene.open(immutable);
        let diff_ids = tars().map(|tar| scene.put(&tar));
        let names = chain(&store, &diff_ids).await;
        let mounts = view(&store, "look", &names[1]).await;
        let [Mount::Erofs { devices, .. }] = &mounts[..] else {
            panic!("{mounts:?}");
        };
        assert_eq!(devices, &diff_ids.map(|diff_id| scene.place(&diff_id)));
        let mounted = mount::open(&mounts).unwrap();
        let shown = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
        assert_eq!(fs::read(shown.join("dir/kept")).unwrap(), [b'k'; 70_000]);
        assert_eq!(fs::read(shown.join("new")).unwrap(), b"new");
        assert!(!shown.join("dir/gone").exists());
        drop(mounted);
        // Containers can be started on the layers, and their changes can be committed.
        let mounts = prepare(&store, "container", &names[1]).await;
        assert_eq!(mounts.len(), 2);
        let mut tar = store.open_tar(&names[0]).await.unwrap().unwrap();
        let mut read = Vec::new();
        tar.read_to_end(&mut read).unwrap();
        assert_eq!(read, tars()[0]);
        for name in &names {
            assert!(store.has_ready_layer(name).await.unwrap());
            assert_eq!(store.check(name, READ).await.unwrap(), Condition::Sound);
            let usage = store.usage(name).await.unwrap();
            assert!(usage.bytes < 40_000, "{usage:?}");
        }
        for key in ["look", "container", &names[1], &names[0]] {
            store.remove(key).await.unwrap();
        }
        store.cleanup().await.unwrap();
        for (diff_id, tar) in diff_ids.iter().zip(tars()) {
            assert_eq!(fs::read(scene.place(diff_id)).unwrap(), tar);
            // The file is not immutable.
            fs::remove_file(scene.place(diff_id)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_layer_is_passed_over() {
    let scene = Scene::new();
    let store = scene.open(false);
    let [tar, other] = tars();
    let diff_id = Digest::sha256(&tar);
    let place = scene.place(&diff_id);
    let elsewhere = scene.temp.path().join("elsewhere");
    fs::write(&elsewhere, &tar).unwrap();
    let cases: [(&str, &dyn Fn()); 6] = [
        ("absent", &|| {}),
        ("other", &|| fs::write(&place, &other).unwrap()),
        ("short", &|| {
            fs::write(&place, &tar[..tar.len() - 512]).unwrap()
        }),
        ("link", &|| symlink(&elsewhere, &place).unwrap()),
        ("directory", &|| fs::create_dir(&place).unwrap()),
        ("pipe", &|| {
            mknodat(CWD, &place, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
    ];
    for (name, make) in cases {
        let _ = fs::remove_file(&place);
        let _ = fs::remove_dir(&place);
        make();
        assert!(!refers(&store, name, &diff_id).await, "{name}");
        let committed = store.commit("committed", name, Commit::default()).await;
        let error = committed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{name}");
    }
    let _ = fs::remove_file(&place);
    fs::write(&place, &tar).unwrap();
    assert!(refers(&store, "right", &diff_id).await);
    // The reference takes the place of the layer.
    let again = store
        .use_ready_layer("right", &descriptor(), &diff_id)
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

/// An image of a layer is used only with the type of such a layer, and only on request.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_taken_for_a_tar() {
    let scene = Scene::new();
    let image = super::native::image_of(Tar::new().file("native", "bytes"));
    let diff_id = scene.put(&image);
    let native = Descriptor::of("application/vnd.erofs.layer.v1".into(), &image);
    for (number, (allowed, layer, expected)) in [
        (false, &native, false),
        (true, &descriptor(), false),
        (true, &native, true),
    ]
    .into_iter()
    .enumerate()
    {
        let root = scene.temp.path().join(format!("root-{number}"));
        fs::create_dir(&root).unwrap();
        let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
        let layout = Erofs::open().unwrap().with_native(allowed);
        let layout = layout.with_ready_layers(vec![scene.temp.path().join("ready")]);
        let store = ErofsSnapshotter::with_layout(layout, root, records).unwrap();
        store
            .prepare_layer("new", None, Labels::new())
            .await
            .unwrap();
        let used = store.use_ready_layer("new", layer, &diff_id).await;
        assert_eq!(used.unwrap(), expected, "{number}");
        if !expected || !is_usable() {
            continue;
        }
        let name = diff_id.to_string();
        store.commit(&name, "new", Commit::default()).await.unwrap();
        let mounted = mount::open(&view(&store, "look", &name).await).unwrap();
        let shown = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
        assert_eq!(fs::read(shown.join("native")).unwrap(), b"bytes");
        assert_eq!(store.check(&name, READ).await.unwrap(), Condition::Sound);
        fs::write(scene.place(&diff_id), &image).unwrap();
        let what = damage(&store, &name, Depth::Files).await;
        assert!(what.contains("was changed"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_layer_that_changes_later_is_never_shown() {
    if !is_usable() {
        return;
    }
    let scene = Scene::new();
    let store = scene.open(false);
    let [tar, _] = tars();
    let diff_id = scene.put(&tar);
    let place = scene.place(&diff_id);
    let name = chain(&store, &[diff_id]).await.remove(0);
    let verified = fs::metadata(&place).unwrap().modified().unwrap();
    let moved = scene.temp.path().join("moved");
    let cases: [(&str, &dyn Fn()); 5] = [
        ("was changed", &|| {
            // The length and the time of modification stay.
            let file = File::options().write(true).open(&place).unwrap();
            file.write_all_at(b"j", 1024).unwrap();
            file.set_times(FileTimes::new().set_modified(verified))
                .unwrap();
        }),
        ("was changed", &|| {
            File::options()
                .write(true)
                .open(&place)
                .unwrap()
                .set_len(512)
                .unwrap();
        }),
        ("was changed", &|| {
            // The same bytes in another file.
            fs::rename(&place, &moved).unwrap();
            fs::write(&place, &tar).unwrap();
        }),
        ("was changed", &|| {
            fs::remove_file(&place).unwrap();
            mknodat(CWD, &place, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
        ("is missing", &|| fs::remove_file(&place).unwrap()),
    ];
    for (expected, change) in cases {
        change();
        let error = store
            .view("look", Some(&name), Labels::new())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let said = error.to_string();
        for text in [place.to_str().unwrap(), expected, "run `cas fsck --repair`"] {
            assert!(said.contains(text), "{text}: {said}");
        }
        for depth in [Depth::Files, READ] {
            let what = damage(&store, &name, depth).await;
            assert!(what.contains(expected), "{what}");
        }
        assert_eq!(
            store.check(&name, Depth::Directory).await.unwrap(),
            Condition::Sound
        );
    }
    // The bytes are verified again, and a new reference replaces the old one.
    fs::write(&place, &tar).unwrap();
    assert!(refers(&store, "again", &diff_id).await);
    store.replace(&name, "again").await.unwrap();
    view(&store, "look", &name).await;
    // A tar of the snapshot itself replaces the reference.
    store.remove("look").await.unwrap();
    fs::remove_file(&place).unwrap();
    store_tar(&store, "own", None, &tar).await;
    store.replace(&name, "own").await.unwrap();
    assert!(!store.has_ready_layer(&name).await.unwrap());
    view(&store, "look", &name).await;
}

/// The reference itself is as well protected as the tar of a layer.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_reference_is_damage() {
    if !is_usable() {
        return;
    }
    let scene = Scene::new();
    let store = scene.open(false);
    let diff_id = scene.put(&tars()[0]);
    let name = chain(&store, &[diff_id]).await.remove(0);
    let tree = scene.temp.path().join("root/snapshots/1/fs");
    let reference = tree.join("layer.tar.ready");
    let text = fs::read(&reference).unwrap();
    assert_eq!(
        fs::metadata(&reference).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::write(&reference, b"{").unwrap();
    let what = damage(&store, &name, Depth::Files).await;
    assert!(what.contains("layer.tar.ready"), "{what}");
    // Without the manifest of the commit, the reference must still parse.
    fs::remove_file(scene.temp.path().join("root/manifests/1")).unwrap();
    let what = damage(&store, &name, Depth::Files).await;
    assert!(what.contains("not a reference to a layer"), "{what}");
    let error = store
        .view("look", Some(&name), Labels::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    fs::write(&reference, text).unwrap();
    view(&store, "look", &name).await;
}

/// Writes the layers of [`tars`] as a builder does. Returns their diff IDs, and the metadata.
fn build(scene: &Scene) -> ([Digest; 2], Vec<u8>) {
    let mut layers = Layers::new(scene.temp.path());
    for tar in tars() {
        layers.add(&mut &tar[..]).unwrap();
    }
    let (tree, data) = layers.finish();
    let diff_ids = tars().map(|tar| Digest::sha256(&tar));
    let tars = diff_ids.iter().zip(&data);
    let tars: Vec<_> = tars
        .map(|(diff_id, tar)| (*diff_id, &tar.file, tar.length))
        .collect();
    let image = cas_erofs::Image::new(&tree, &data).unwrap();
    let metadata = image.metadata();
    write_ready_layers(&scene.temp.path().join("ready"), &tars, Some(metadata)).unwrap();
    (diff_ids, metadata.to_vec())
}

/// Returns the metadata of the two layers in a new root.
async fn metadata_of(scene: &Scene, diff_ids: &[Digest]) -> Vec<u8> {
    let _ = fs::remove_dir_all(scene.temp.path().join("root"));
    let store = scene.open(false);
    let names = chain(&store, diff_ids).await;
    view(&store, "look", &names[1]).await;
    assert_eq!(
        store.check(&names[1], READ).await.unwrap(),
        Condition::Sound
    );
    fs::read(scene.temp.path().join("root/snapshots/2/image.erofs")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_metadata_is_copied_and_damaged_metadata_is_made_again() {
    if !is_usable() {
        return;
    }
    let scene = Scene::new();
    let (diff_ids, metadata) = build(&scene);
    let top = chain_ids(&diff_ids)[1];
    let [json, erofs] = ["json", "erofs"].map(|kind| {
        let name = format!("ready/merged/sha256/{}.{kind}", top.hex());
        scene.temp.path().join(name)
    });
    assert_eq!(fs::read(&erofs).unwrap(), metadata);
    assert_eq!(metadata_of(&scene, &diff_ids).await, metadata);
    let record = fs::read_to_string(&json).unwrap();
    // Other metadata with a right record shows that the file is copied and not made.
    let mut marked = metadata.clone();
    marked.extend([0; 4096]);
    let with = |bytes: &[u8], record: &str| {
        let (old, new) = (Digest::sha256(&metadata), Digest::sha256(bytes));
        let record = record.replace(&old.to_string(), &new.to_string());
        let length = |bytes: &[u8]| format!("\"length\":{}", bytes.len());
        record.replace(&length(&metadata), &length(bytes))
    };
    fs::write(&erofs, &marked).unwrap();
    fs::write(&json, with(&marked, &record)).unwrap();
    assert_eq!(metadata_of(&scene, &diff_ids).await, marked);
    let tars = tars().map(|tar| tar.len());
    let other_length = with(&marked, &record).replace(
        &format!("[{},{}]", tars[0], tars[1]),
        &format!("[{},{}]", tars[0] + 512, tars[1]),
    );
    for (bytes, record) in [
        (&marked[..], record.as_str()),
        (&marked[..marked.len() - 1], &with(&marked, &record)),
        (&marked, &other_length),
        (&marked, "{"),
    ] {
        fs::write(&erofs, bytes).unwrap();
        fs::write(&json, record).unwrap();
        assert_eq!(metadata_of(&scene, &diff_ids).await, metadata, "{record}");
    }
    for path in [&erofs, &json] {
        build(&scene);
        fs::remove_file(path).unwrap();
        assert_eq!(metadata_of(&scene, &diff_ids).await, metadata);
    }
}

/// Snapshots refer to a file by its inode, so a file with the right bytes must stay.
#[test]
fn a_builder_replaces_only_wrong_files() {
    let scene = Scene::new();
    let (diff_ids, _) = build(&scene);
    let inode = |diff_id: &Digest| fs::metadata(scene.place(diff_id)).unwrap().ino();
    let before = diff_ids.map(|diff_id| inode(&diff_id));
    build(&scene);
    assert_eq!(diff_ids.map(|diff_id| inode(&diff_id)), before);
    fs::write(scene.place(&diff_ids[0]), "damaged").unwrap();
    build(&scene);
    assert_eq!(fs::read(scene.place(&diff_ids[0])).unwrap(), tars()[0]);
    assert_eq!(inode(&diff_ids[1]), before[1]);
    // A tar with another digest never gets the name.
    let file = File::open(scene.place(&diff_ids[0])).unwrap();
    let wrong = Digest::sha256(b"wrong");
    fs::write(scene.place(&wrong), "what was there").unwrap();
    let length = file.metadata().unwrap().len();
    let directory = scene.temp.path().join("ready");
    let error = write_ready_layers(&directory, &[(wrong, &file, length)], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(fs::read(scene.place(&wrong)).unwrap(), b"what was there");
}
