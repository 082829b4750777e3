//! A root, what surrounds it, and the collection that ends every round.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cas::blocking::Cas;
use cas::gc::GcOptions;

use crate::bucket::Bucket;
use crate::common::{cas, ok, text, tree};
use crate::inventory::Inventory;
use crate::{material, processes};

/// The image that verbs read, which is unpacked.
pub(crate) const BASE: &str = "base:1";
/// The image that verbs import or pull.
pub(crate) const OTHER: &str = "other:1";
/// The image whose layers are compressed.
#[cfg(feature = "on-demand")]
pub(crate) const ZIPPED: &str = "zipped:1";
/// The exit code of a command that finds the store open in another process.
const BUSY: i32 = 5;
/// The time in which the children of a killed command must release the lock of the store.
const RELEASED: Duration = Duration::from_secs(10);
/// Longer than any lease, and longer than content without a lease is kept.
const LATER: Duration = Duration::from_secs(3 * 86_400);

pub(crate) struct Place {
    scratch: tempfile::TempDir,
    pub(crate) root: PathBuf,
    /// Number of choices made so far.
    pub(crate) round: u64,
    /// The objects of a store in S3.
    bucket: Option<Bucket>,
    #[cfg(feature = "registry")]
    pub(crate) registry: Option<crate::common::docker::Registry>,
    #[cfg(feature = "registry")]
    _registry_files: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(store: &str, snapshotter: &str) -> Self {
        // The kernel mounts no image of EROFS from a file in memory.
        let scratch = match snapshotter {
            "erofs" => tempfile::tempdir(),
            _ => tempfile::tempdir_in("/dev/shm"),
        };
        let scratch = scratch.unwrap();
        let root = scratch.path().join("root");
        material::write(scratch.path());
        #[cfg(feature = "registry")]
        let registry_files = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = Place {
            root,
            round: 0,
            #[cfg(feature = "registry")]
            registry: crate::common::can(&[crate::common::docker::PROGRAM])
                .then(|| crate::common::docker::Registry::open(registry_files.path())),
            #[cfg(feature = "registry")]
            _registry_files: registry_files,
            bucket: Bucket::of(store),
            scratch,
        };
        let store = place.bucket.as_ref().map_or(store, Bucket::url);
        ok(&mut place.cas(&["--store", store, "--snapshotter", snapshotter, "init"]));
        let base = place.path("base");
        ok(place
            .cas(&["import", "--unpack", "--name", BASE])
            .arg(&base));
        let source = place.path("source");
        for (name, layout) in [(BASE, "base"), (OTHER, "other")] {
            let mut import = cas(&source);
            ok(import
                .args(["import", "--name", name])
                .arg(place.path(layout)));
        }
        ok(cas(&source).args(["unpack", BASE]).arg(place.path("right")));
        ok(cas(&source)
            .args(["export", OTHER, "--output"])
            .arg(place.path("other.tar")));
        for name in ["out", "mounted"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        fs::write(place.path("file"), vec![7; 1_500_000]).unwrap();
        place
    }

    /// Returns a path next to the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Returns a path that a verb writes to.
    pub(crate) fn out(&self) -> PathBuf {
        self.path("out/made")
    }

    /// Returns a command of the tool on the root.
    pub(crate) fn cas(&self, arguments: &[&str]) -> Command {
        self.cas_on(&self.root, arguments)
    }

    /// Returns a command of the tool on another root.
    pub(crate) fn cas_on(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut command = cas(root);
        command.env(processes::MARK, self.scratch.path());
        command.args(arguments);
        command
    }

    /// Returns the command lines of the processes that commands on this place have started, and
    /// that have not ended.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes::of(self.scratch.path())
    }

    /// Runs a command that may find nothing to do. Returns whether it found something.
    pub(crate) fn found(&self, command: &mut Command) -> bool {
        let begun = Instant::now();
        let mut out = command.output().unwrap();
        // A child of a killed command has the lock of the store until it has started its program.
        while out.status.code() == Some(BUSY) && begun.elapsed() < RELEASED {
            thread::sleep(Duration::from_millis(20));
            out = command.output().unwrap();
        }
        let code = out.status.code();
        assert!(
            matches!(code, Some(0 | 3)),
            "{command:?}: {}",
            text(&out.stderr)
        );
        code == Some(0)
    }

    /// Removes a name, if it exists.
    pub(crate) fn forget(&self, name: &str) {
        self.found(&mut self.cas(&["rmi", name]));
    }

    /// Returns whether something is mounted at `directory`.
    pub(crate) fn is_mounted(&self, directory: &str) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = format!(" {} ", self.path(directory).display());
        mounts.contains(&directory)
    }

    /// Collects once, after all leases have ended and nothing is young.
    pub(crate) fn collect(&self) {
        let cas = Cas::open(&self.root).unwrap();
        let later = SystemTime::now() + LATER;
        #[cfg(feature = "aci")]
        cas::backend::pool::wait(crate::verbs::aci::sweep(cas.store(), later)).unwrap();
        cas.gc_with(GcOptions::default().with_now(later)).unwrap();
        cas.close().unwrap();
    }

    /// Waits until the processes that a killed command has started have ended.
    pub(crate) fn await_processes(&self) {
        processes::await_end(self.scratch.path());
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let open = async {
            let cas = cas::Cas::open(&self.root).await.unwrap();
            let (store, snapshotter) = (cas.store(), &**cas.snapshotter().unwrap());
            let here = self.scratch.path();
            let taken = testkit::inventory::Inventory::take(here, &self.root, store, snapshotter);
            let taken = taken.await;
            cas.close().await.unwrap();
            taken
        };
        let objects = self.bucket.as_ref().map(Bucket::objects);
        Inventory {
            root: cas::backend::pool::wait(open),
            objects: objects.unwrap_or_default(),
            processes: self.processes(),
        }
    }

    /// Returns what is damaged: findings of a check, and differences in the image's files.
    pub(crate) fn damage(&self) -> Vec<String> {
        let checked = self.cas(&["fsck", "--read-data"]).output().unwrap();
        let mut found = Vec::new();
        if !checked.status.success() {
            found.push(text(&checked.stdout) + &text(&checked.stderr));
        }
        let out = self.path("checked");
        let unpacked = self.cas(&["unpack", BASE]).arg(&out).output().unwrap();
        if !unpacked.status.success() {
            found.push(text(&unpacked.stderr));
            return found;
        }
        found.extend(tree::differences(&self.path("right"), &out));
        fs::remove_dir_all(&out).unwrap();
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let here = format!("{}/", self.scratch.path().display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        // Later mounts may be in earlier ones.
        for directory in mounted.filter(|at| at.starts_with(&here)).rev() {
            let _ = Command::new("umount").arg("-l").arg(directory).status();
        }
        self.await_processes();
    }
}
