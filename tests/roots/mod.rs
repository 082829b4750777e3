//! Snapshots under keys of the caller, and root directories of containers.

mod example;
mod killed;
mod leftovers;
mod namespaces;
mod paths;
mod prepared;
mod snapshots;
mod trouble;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::blocking::Cas;
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{Engines, ImportOptions, OpenOptions};
use testkit::archive::Tar;

use crate::common::layout::layout;
use crate::common::{can, ok, stores};

/// The last component of the path of a root directory, as EVE names it.
const KEY: &str = "6f1c9a0e-52b7-4c1d-9d5e-0a7f3b2c1d4e#0.container";

/// A root in memory with the images `app:1` and `other:1`, and a directory for root directories.
struct Scene {
    scratch: tempfile::TempDir,
    cas: Cas,
    snapshotter: &'static str,
}

impl Scene {
    fn new(snapshotter: &'static str) -> Self {
        Self::on("fs", snapshotter)
    }

    fn on(store: &str, snapshotter: &'static str) -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let mut engines = Engines::default();
        store.clone_into(&mut engines.store);
        snapshotter.clone_into(&mut engines.snapshotter);
        Cas::init_with(&root, engines, &cas::registry()).unwrap();
        let cas = Cas::open(root).unwrap();
        let scene = Scene {
            scratch,
            cas,
            snapshotter,
        };
        let base = Tar::new().dir("etc").file("etc/base", "base");
        scene.import("app:1", vec![base.clone(), Tar::new().file("app", "one")]);
        scene.import("other:1", vec![base, Tar::new().file("other", "two")]);
        fs::create_dir(scene.path("dirs")).unwrap();
        fs::create_dir(scene.path("mnt")).unwrap();
        scene
    }

    /// Opens another handle on the root, as another process does.
    fn another(&self) -> Cas {
        self.open(&self.path("root"))
    }

    fn open(&self, root: &Path) -> Cas {
        let options = OpenOptions::default().with_snapshotter(self.snapshotter);
        Cas::open_with(root, options).unwrap()
    }

    /// Imports an image of these layers, without unpacking it.
    fn import(&self, name: &str, layers: Vec<Tar>) {
        let source = self.path(&name.replace(':', "-"));
        layout(&source, layers);
        let name: Reference = name.parse().unwrap();
        let options = ImportOptions::default().with_name(name);
        self.cas.import_with(Source::Path(source), options).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The directory that most tests prepare.
    fn dir(&self) -> PathBuf {
        self.path("dirs").join(KEY)
    }

    fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    fn prepare(&self, image: &str) {
        self.cas.prepare_root_dir(self.dir(), image).unwrap();
    }

    fn keys(&self) -> Vec<String> {
        let snapshots = self.cas.snapshots().unwrap().into_iter();
        let own = snapshots.filter(|info| !info.key.starts_with("sha256:"));
        own.map(|info| info.key).collect()
    }

    /// Returns the places below the scratch directory where something is mounted.
    fn mounts(&self) -> Vec<String> {
        mounts(self.scratch.path())
    }

    /// Checks that the root directory is complete, and shows an image.
    fn assert_prepared(&self, image: &str) {
        let (file, text) = match image {
            "app:1" => ("app", "one"),
            _ => ("other", "two"),
        };
        let rootfs = self.rootfs();
        assert_eq!(fs::read_to_string(rootfs.join(file)).unwrap(), text);
        assert_eq!(fs::read_to_string(rootfs.join("etc/base")).unwrap(), "base");
        let mut expected = ["etc", file];
        expected.sort_unstable();
        assert_eq!(names(&rootfs), expected);
        let all = ["image-config.json", "image-name", "rootfs"];
        assert_eq!(names(&self.dir()), all);
        let config = fs::read(self.dir().join("image-config.json")).unwrap();
        let manifest = self.cas.manifest(image).unwrap().manifest;
        assert_eq!(cas::Digest::sha256(&config), manifest.config.digest);
        let name = fs::read_to_string(self.dir().join("image-name")).unwrap();
        assert_eq!(name, format!("docker.io/library/{image}"));
        assert_eq!(self.mounts().len(), 1, "{:?}", self.mounts());
        assert_eq!(self.keys(), [KEY]);
    }

    /// Checks that neither a snapshot, nor a mount, nor a file of a root directory is left.
    fn assert_nothing_left(&self) {
        assert_eq!(self.mounts(), [""; 0]);
        assert_eq!(self.keys(), [""; 0]);
        assert_eq!(names(&self.path("dirs")), [""; 0]);
    }

    /// Runs the rest of a test in the tool, on the same root.
    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = crate::common::cas(&self.path("root"));
        command.args(["--snapshotter", self.snapshotter]);
        command.args(arguments).current_dir(self.scratch.path());
        command
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for place in self.mounts() {
            ok(Command::new("umount").arg("-l").arg(place));
        }
    }
}

/// Returns the places below `directory` where something is mounted, topmost first.
fn mounts(directory: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let places = places.map(|place| place.replace("\\040", " ").replace("\\043", "#"));
    let here = format!("{}/", directory.display());
    let mut found: Vec<String> = places.filter(|place| place.starts_with(&here)).collect();
    found.reverse();
    found
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    let found = path.symlink_metadata().unwrap();
    assert!(!found.file_type().is_fifo());
    found.permissions().mode() & 0o7777
}

/// Runs a test on each snapshotter, if this is the superuser.
fn each(test: impl Fn(&Scene)) {
    if can(&["umount"]) {
        ["native", "overlay"].map(Scene::new).iter().for_each(test);
    }
}

/// Runs a test on each snapshotter, and on each store of this build, if this is the superuser. Only
/// one handle can open some stores.
fn each_store(test: impl Fn(&Scene)) {
    each(&test);
    if can(&["umount"]) {
        let others = stores("roots").into_iter().filter(|store| store != "fs");
        for (number, store) in others.enumerate() {
            eprintln!("on {store}");
            test(&Scene::on(&store, ["native", "overlay"][number % 2]));
        }
    }
}
