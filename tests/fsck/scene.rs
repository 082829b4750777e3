//! A root with an unpacked image, a sound copy of its content, and helpers that run `cas fsck`.

use std::fs;
use std::path::{Path, PathBuf};

use cas::blocking::Cas;
use cas::{ContentExt, Digest, Manifest, Store};
use serde_json::Value;

use crate::common::{cas, ok, small_archive, text};

/// A root with the image `app:1`.
pub(crate) struct Scene {
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) root: PathBuf,
    /// The URL of the store.
    pub(crate) store: &'static str,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest: Manifest,
}

impl Scene {
    pub(crate) fn new(store: &'static str) -> Self {
        Self::with(store, "native")
    }

    pub(crate) fn with(store: &'static str, snapshotter: &str) -> Self {
        Self::made(store, &["--snapshotter", snapshotter, "init"])
    }

    /// A root of the snapshotter `erofs` that keeps layers only as tars.
    pub(crate) fn of_tars() -> Self {
        Self::made("fs", &["--snapshotter", "erofs", "init", "--keep-tars"])
    }

    fn made(store: &'static str, init: &[&str]) -> Self {
        let scratch = match init.contains(&"erofs") {
            // The metadata of its images cannot be in memory.
            true => tempfile::tempdir().unwrap(),
            false => tempfile::tempdir_in("/dev/shm").unwrap(),
        };
        let (root, source) = (scratch.path().join("root"), scratch.path().join("source"));
        let archive = small_archive(scratch.path());
        ok(cas(&source)
            .arg("import")
            .arg(&archive)
            .args(["--name", "app:1"]));
        ok(cas(&root).args(["--store", store]).args(init));
        let import = ["import", "--unpack", "--name", "app:1"];
        ok(cas(&root).args(import).arg(&archive));
        let open = Cas::open(&source).unwrap();
        let resolved = open.manifest("app:1").unwrap();
        Scene {
            scratch,
            root,
            store,
            manifest_digest: resolved.descriptor.digest,
            manifest: resolved.manifest,
        }
    }

    /// Returns the root with the same image in an undamaged store.
    pub(crate) fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    /// Returns the digest of the largest layer.
    pub(crate) fn layer(&self) -> Digest {
        let largest = self.manifest.layers.iter().max_by_key(|layer| layer.size);
        largest.unwrap().digest
    }

    /// Runs `work` on the store. No other process has the store open.
    pub(crate) fn open<T>(&self, work: impl AsyncFnOnce(&Store) -> T) -> T {
        let open = Cas::open(&self.root).unwrap();
        cas::backend::pool::wait(work(open.store()))
    }

    /// Returns the bytes of a blob in the undamaged store.
    pub(crate) fn bytes(&self, digest: &Digest) -> Vec<u8> {
        fs::read(self.source().join("store/blobs/sha256").join(digest.hex())).unwrap()
    }

    /// Flips a bit of the stored blob, in any kind of store.
    pub(crate) fn flip(&self, digest: &Digest) {
        let bytes = self.bytes(digest);
        let needle = needle(&bytes);
        let mut flipped = 0;
        for file in files(&self.root.join("store")) {
            let mut data = fs::read(&file).unwrap();
            let found: Vec<usize> = data
                .windows(needle.len())
                .enumerate()
                .filter(|(_, window)| *window == needle)
                .map(|(at, _)| at)
                .collect();
            flipped += found.len();
            if found.is_empty() {
                continue;
            }
            found.iter().for_each(|at| data[*at] ^= 1);
            overwrite(&file, &data);
        }
        assert!(
            flipped > 0,
            "{digest} was not found in the files of {}",
            self.store
        );
    }

    /// Returns whether a flipped bit of a small blob damages that blob only. RocksDB keeps it in a
    /// block with others, and refuses to read any of them.
    pub(crate) fn keeps_documents_apart(&self) -> bool {
        self.store != "rocksdb"
    }

    /// Runs `cas fsck` with these arguments. Returns its exit code and its findings.
    pub(crate) fn fsck(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let out = cas(&self.root)
            // A repair must not reach Docker Hub, because the names in this root are names of
            // Docker Hub.
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .args(["--json", "fsck"])
            .args(arguments)
            .output()
            .unwrap();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert!(!stderr.contains("panicked"), "{stderr}");
        let findings = stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect(line));
        let code = out.status.code().unwrap();
        let findings: Vec<Value> = findings.collect();
        assert!(code == 0 || code == 4, "{code}: {stdout}{stderr}");
        (code, findings)
    }

    /// Repairs the root with the undamaged store. Returns the exit code and the findings.
    pub(crate) fn repair_from_source(&self) -> (i32, Vec<Value>) {
        let source = self.source();
        let source = source.to_str().unwrap();
        self.fsck(&["--read-data", "--repair", "--from", source])
    }

    /// Checks that fsck finds this problem and names it, repairs everything, and then finds
    /// nothing.
    pub(crate) fn heals(&self, problem: &str, subject: impl AsRef<str>) {
        let subject = subject.as_ref();
        let (code, found) = self.fsck(&["--read-data"]);
        assert!(
            has(&found, problem, subject),
            "{problem} {subject}: {found:#?}"
        );
        assert_eq!(code, 4, "on {}: {found:#?}", self.store);
        let (code, repaired) = self.repair_from_source();
        assert_eq!(code, 0, "on {}: {repaired:#?}", self.store);
        assert!(
            has(&repaired, problem, subject),
            "{problem} {subject}: {repaired:#?}"
        );
        assert_eq!(
            self.fsck(&["--read-data"]),
            (0, Vec::new()),
            "{problem} on {}",
            self.store
        );
        self.works();
    }

    /// Checks that the image can be unpacked, and that the bytes of its largest layer are right, if
    /// the root stores layers.
    pub(crate) fn works(&self) {
        let out = self.scratch.path().join("out");
        ok(cas(&self.root).args(["unpack", "app:1"]).arg(&out));
        fs::remove_dir_all(&out).unwrap();
        let layer = self.layer();
        let hashed = self.open(async |store| store.content.hash(&layer).await);
        let settings = fs::read_to_string(self.root.join("cas.toml")).unwrap();
        assert!(settings.contains("keep") || hashed.unwrap() == Some(layer));
    }
}

/// Returns bytes of a blob that nothing else in a store has. Records have the digests that
/// documents list, so the bytes of a document are taken at the name of a member.
fn needle(bytes: &[u8]) -> &[u8] {
    let find = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
    let member = [&b"\",\"size\":"[..], b"\"rootfs\":{"]
        .into_iter()
        .find_map(find);
    match member {
        Some(at) => &bytes[at..at + 10],
        None => &bytes[bytes.len() / 2..][..40],
    }
}

/// Returns whether one of the findings has this problem and names this subject.
pub(crate) fn has(findings: &[Value], problem: &str, subject: impl AsRef<str>) -> bool {
    let subject = subject.as_ref();
    findings.iter().any(|one| {
        let text = |key: &str| one[key].as_str().unwrap();
        text("problem") == problem && (text("subject").contains(subject) || subject.is_empty())
    })
}

/// Writes a file that may be read-only.
pub(crate) fn overwrite(file: &Path, data: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, data).unwrap();
}

/// Returns all files below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

/// Returns the findings without directories that a later collection removes. If another test copies
/// the mount table while an image is mounted, or mounts a directory whose path ends in the same way,
/// directories of this image seem to be in use, and stay until that test ends.
pub(crate) fn without_leftovers(mut found: Vec<Value>) -> Vec<Value> {
    found.retain(|one| one["problem"] != "snapshot-left");
    found
}
