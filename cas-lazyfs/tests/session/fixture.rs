//! A snapshot with the zTOC of a layer, a registry in memory, and a mounted session.

use std::io::Write;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cas_core::{Descriptor, Digest, Error, Result};
use cas_lazy::soci::Prefetch;
use cas_lazy::{StoredTable, TableFormat, Ztoc};
use cas_lazyfs::{Fetch, Files, Session, mount};
use tempfile::TempDir;
use testkit::archive::Tar;

/// How long a request waits for others that should be made at the same time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which a request that should not be made would arrive.
const GRACE: Duration = Duration::from_millis(50);

/// The number of the snapshot.
pub(crate) const ID: &str = "7";

/// Returns bytes that begin with zeros and go on with noise.
fn zeros_and_noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let noise = (0..length).map(|at| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if at < length / 8 {
            0
        } else {
            (state >> 56) as u8
        }
    });
    noise.collect()
}

/// Returns a tar whose files have noise that depends on `seed`, and the compressed tar.
fn archive(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut tar = Tar::new().dir("dir/");
    for (name, size) in [
        ("a", 300_000),
        ("b", 1),
        ("c", 0),
        ("d", 500_000),
        ("e", 150_000),
    ] {
        tar = tar.file(
            format!("dir/{name}"),
            zeros_and_noise(size, size as u64 + seed),
        );
    }
    let tar = tar.symlink("link", "dir/a").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&tar).unwrap();
    (tar, gzip.finish().unwrap())
}

/// Returns whether a session can be mounted here. If not, prints the reason.
fn is_usable() -> bool {
    let temp = tempfile::tempdir().unwrap();
    match mount(temp.path()) {
        Ok(_) => {
            rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: cannot mount FUSE here: {error}");
            false
        }
    }
}

/// A directory of snapshots with one layer that is read on demand.
pub(crate) struct Snapshots {
    temp: TempDir,
    pub(crate) tar: Vec<u8>,
    pub(crate) pieces: u64,
    /// Where the contents of the members begin.
    pub(crate) offsets: Vec<u64>,
}

impl Snapshots {
    /// Returns snapshots and the registry of their layer, or `None`, with the reason, if no session
    /// can be mounted here.
    pub(crate) fn new() -> Option<(Self, Arc<Registry>)> {
        Self::with(|_| {})
    }

    /// As [`new`](Self::new). `change` changes the zTOC before it is stored.
    pub(crate) fn with(change: impl FnOnce(&mut Ztoc)) -> Option<(Self, Arc<Registry>)> {
        if !is_usable() {
            return None;
        }
        let (tar, layer) = archive(0);
        let mut ztoc = Ztoc::build(&layer[..], 64 << 10, "test").unwrap();
        change(&mut ztoc);
        let snapshots = Snapshots {
            temp: tempfile::tempdir().unwrap(),
            tar,
            pieces: ztoc.checkpoints.len() as u64,
            offsets: ztoc.files.iter().map(|file| file.offset).collect(),
        };
        std::fs::create_dir(snapshots.temp.path().join("lazy")).unwrap();
        snapshots.store(&layer, &snapshots.tar, &ztoc);
        Some((snapshots, Registry::new(layer)))
    }

    /// Writes the files of a snapshot whose directory does not exist.
    fn store(&self, layer: &[u8], tar: &[u8], ztoc: &Ztoc) {
        let table = ztoc.encode().unwrap();
        let stored = StoredTable {
            reference: "registry.example/app:1".to_owned(),
            layer: Descriptor::new(
                "application/gzip".into(),
                Digest::sha256(layer),
                layer.len() as u64,
            ),
            diff_id: Digest::sha256(tar),
            format: TableFormat::Ztoc {
                digest: Digest::sha256(&table),
            },
        };
        let tree = self.directory().join("fs");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join(StoredTable::FILE), stored.to_bytes().unwrap()).unwrap();
        std::fs::write(tree.join(StoredTable::TABLE_FILE), table).unwrap();
    }

    /// Replaces the snapshot by one of another layer with the same number. Returns the tar of the
    /// other layer, which has the same length as the first.
    pub(crate) fn replace(&self, registry: &Registry) -> Vec<u8> {
        let (tar, layer) = archive(1);
        // The session may write to the directory meanwhile.
        cas_host::remove_all(&self.directory(), true).unwrap();
        let ztoc = Ztoc::build(&layer[..], 64 << 10, "test").unwrap();
        self.store(&layer, &tar, &ztoc);
        *registry.other.lock().unwrap() = layer;
        tar
    }

    /// Adds a snapshot with the same layer, whose image has another name.
    pub(crate) fn add(&self, id: &str, reference: &str) {
        let (from, to) = (self.directory().join("fs"), self.directory());
        let to = to.with_file_name(id).join("fs");
        std::fs::create_dir_all(&to).unwrap();
        let read = |name: &str| std::fs::read(from.join(name)).unwrap();
        let mut stored = StoredTable::from_bytes(&read(StoredTable::FILE)).unwrap();
        stored.reference = reference.to_owned();
        std::fs::write(to.join(StoredTable::FILE), stored.to_bytes().unwrap()).unwrap();
        let table = read(StoredTable::TABLE_FILE);
        std::fs::write(to.join(StoredTable::TABLE_FILE), table).unwrap();
    }

    /// Says that these spans of a snapshot are fetched first.
    pub(crate) fn prefetch(&self, id: &str, spans: &[RangeInclusive<u32>]) {
        let spans = spans.to_vec();
        let prefetch = Prefetch { spans };
        let tree = self.directory().with_file_name(id).join("fs");
        let path = tree.join(StoredTable::PREFETCH_FILE);
        std::fs::write(path, prefetch.encode().unwrap()).unwrap();
    }

    /// Returns whether each piece is recorded as arrived, up to the last that is.
    pub(crate) fn recorded(&self, id: &str) -> Vec<bool> {
        let record = self
            .directory()
            .with_file_name(id)
            .join(StoredTable::PIECES_FILE);
        let record = std::fs::read(record).unwrap_or_default();
        let pieces = record.len() / StoredTable::PIECE_RECORD;
        let sums = StoredTable::piece_sums(&record, pieces).into_iter();
        sums.map(|sum| sum != 0).collect()
    }

    /// Returns the directory of the snapshot.
    pub(crate) fn directory(&self) -> PathBuf {
        self.temp.path().join("snapshots").join(ID)
    }
}

/// A registry that counts requests, and can fail or send wrong bytes.
pub(crate) struct Registry {
    pub(crate) layer: Vec<u8>,
    /// The layer with another digest.
    other: Mutex<Vec<u8>>,
    /// How many bytes were sent, and with how many answers.
    pub(crate) bytes: AtomicU64,
    pub(crate) answers: AtomicUsize,
    pub(crate) is_down: AtomicBool,
    /// The time in milliseconds after which a request fails while the registry is down, and how
    /// many requests have failed.
    pub(crate) delay: AtomicU64,
    pub(crate) failures: AtomicUsize,
    pub(crate) panics: AtomicBool,
    /// Whether requests for layers in `registry.example` are not answered.
    pub(crate) is_stuck: AtomicBool,
    /// How many more answers are wrong.
    pub(crate) lies: AtomicUsize,
    /// How many requests were served at the same time, and at most.
    pub(crate) now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// How many requests must be served at the same time before the first answer.
    pub(crate) together: AtomicUsize,
}

impl Registry {
    fn new(layer: Vec<u8>) -> Arc<Self> {
        Arc::new(Registry {
            layer,
            other: Mutex::default(),
            bytes: AtomicU64::new(0),
            answers: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            failures: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            lies: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            together: AtomicUsize::new(0),
        })
    }

    /// Waits until enough requests are served at the same time.
    fn wait_for_others(&self) {
        let together = self.together.load(Ordering::Relaxed);
        if together == 0 {
            return;
        }
        let begun = Instant::now();
        while self.most.load(Ordering::Relaxed) < together && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(GRACE);
    }
}

impl Fetch for Registry {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        if self.is_down.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(Error::unavailable("the registry is down"));
        }
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
        self.wait_for_others();
        while layer.reference.starts_with("registry.") && self.is_stuck.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "planted");
        let range = range.start as usize..range.end as usize;
        let mut bytes = match layer.layer.digest == Digest::sha256(&self.layer) {
            true => self.layer[range].to_vec(),
            false => self.other.lock().unwrap()[range].to_vec(),
        };
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
        let lies = self
            .lies
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if lies.is_ok() {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Ok(bytes)
    }
}

/// A mounted session, which a thread serves.
pub(crate) struct Mounted {
    root: PathBuf,
    server: Option<JoinHandle<Result<()>>>,
}

impl Mounted {
    pub(crate) fn new(snapshots: &Snapshots, registry: &Arc<Registry>) -> Self {
        Self::with(snapshots, registry, |session| session)
    }

    /// `change` sets options of the session.
    pub(crate) fn with(
        snapshots: &Snapshots,
        registry: &Arc<Registry>,
        change: impl FnOnce(Session) -> Session,
    ) -> Self {
        Self::serve(snapshots, registry, |files| files.with_speed(0), change)
    }

    /// A session that completes layers if no reader has needed the registry for the time `quiet`.
    pub(crate) fn completing(
        snapshots: &Snapshots,
        registry: &Arc<Registry>,
        quiet: Duration,
    ) -> Self {
        let change = |files: Files| files.with_quiet(quiet);
        Self::serve(snapshots, registry, change, |session| session)
    }

    /// A session that completes layers at one byte per second.
    pub(crate) fn slow(snapshots: &Snapshots, registry: &Arc<Registry>) -> Self {
        let change = |files: Files| files.with_quiet(Duration::ZERO).with_speed(1);
        Self::serve(snapshots, registry, change, |session| session)
    }

    fn serve(
        snapshots: &Snapshots,
        registry: &Arc<Registry>,
        change_files: impl FnOnce(Files) -> Files,
        change: impl FnOnce(Session) -> Session,
    ) -> Self {
        let root = snapshots.temp.path().join("lazy");
        let device = mount(&root).unwrap();
        let fetch: Arc<dyn Fetch> = registry.clone();
        let files = Files::new(snapshots.temp.path().join("snapshots"), fetch);
        let session = change(Session::new(device, change_files(files)));
        Mounted {
            root,
            server: Some(thread::spawn(move || session.serve())),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.root.join(ID)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::empty()).unwrap();
        self.server.take().unwrap().join().unwrap().unwrap();
    }
}
