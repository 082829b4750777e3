//! A registry with an image, and a root that has pulled it without its layers.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cas::snapshot::OnDemandBytes;
use serde_json::Value;
use testkit::archive::{Header, Tar};

use crate::common::chunked::{self, Chunked};
use crate::common::docker::{PROGRAM, Registry};
use crate::common::tree::differences;
use crate::common::{can, cas, mounting_snapshotters, ok, real_image};

/// A registry with a real image that has an index of SOCI, and a root that has pulled the image
/// without its layers.
pub(super) struct Scene {
    pub(super) registry: Registry,
    pub(super) reference: String,
    /// A root that has the whole image.
    pub(super) whole: PathBuf,
    pub(super) root: PathBuf,
    pub(super) mnt: PathBuf,
    pub(super) scratch: tempfile::TempDir,
}

impl Scene {
    /// A scene with a real image, or `None`, with the reason, if this machine cannot do it.
    pub(super) fn real(completes: bool) -> Option<Self> {
        let layout = real_image("small").filter(|_| is_usable())?;
        Some(Scene::with(completes, |whole, reference| {
            ok(cas(whole).args(["-q", "import"]).arg(layout));
            convert(whole, "small", reference, "256KiB");
        }))
    }

    /// A scene with the image of [`layers`], or `None`, with the reason, if this machine cannot do
    /// it.
    pub(super) fn handmade(completes: bool) -> Option<Self> {
        is_usable().then(|| {
            Scene::with(completes, |whole, reference| {
                import(whole, "plain", chunked::plain);
                convert(whole, "plain", reference, "16KiB");
            })
        })
    }

    /// A scene with the image of [`layers`] in the format of `write`, or `None`, with the reason, if
    /// this machine cannot do it.
    pub(super) fn in_format(completes: bool, write: fn(&[u8]) -> Chunked) -> Option<Self> {
        is_usable().then(|| {
            Scene::with(completes, |whole, reference| {
                import(whole, reference, write);
            })
        })
    }

    /// `import` imports an image into a root under a name. `completes` states whether the rest of
    /// the layers is fetched in the background.
    pub(super) fn with(completes: bool, import: impl FnOnce(&Path, &str)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let registry = Registry::open(scratch.path());
        let reference = registry.at("app:1");
        let [whole, root, mnt] = ["whole", "root", "mnt"].map(|name| scratch.path().join(name));
        ok(cas(&whole).args(["--snapshotter", "erofs", "init"]));
        import(&whole, &reference);
        ok(cas(&whole).args(["-q", "push", "--referrers", &reference]));
        ok(cas(&root).args(["--snapshotter", "erofs", "init"]));
        let mut settings = File::options();
        let mut settings = settings.append(true).open(root.join("cas.toml")).unwrap();
        writeln!(settings, "[lazy]\ncomplete = {completes}").unwrap();
        ok(cas(&root).args(["-q", "pull", "--lazy", &reference]));
        fs::create_dir(&mnt).unwrap();
        Scene {
            registry,
            reference,
            whole,
            root,
            mnt,
            scratch,
        }
    }

    /// Waits until so many layers are complete. Large layers take minutes in a debug build.
    pub(super) fn await_tars(&self, count: usize) {
        let longest = Duration::from_secs(600);
        let begun = Instant::now();
        loop {
            let found = ok(Command::new("find")
                .arg(&self.root)
                .args(["-name", "layer.tar"]));
            if found.lines().count() == count {
                return;
            }
            assert!(begun.elapsed() < longest, "{found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn mount(&self) {
        ok(cas(&self.root)
            .args(["-q", "mount", &self.reference])
            .arg(&self.mnt));
    }

    pub(super) fn unmount(&self) {
        ok(cas(&self.root).arg("umount").arg(&self.mnt));
    }

    /// Unmounts the data files. Another test may have copied the mounts into a namespace of its own,
    /// and the data files are in use there until that test ends.
    pub(super) fn end_session(&self) {
        end_session(&self.root);
    }

    /// Returns how much has arrived of each layer that is read on demand.
    pub(super) fn on_demand(&self) -> Vec<OnDemandBytes> {
        on_demand(&self.root)
    }

    /// Returns the tree of the whole image.
    pub(super) fn plain(&self) -> PathBuf {
        let plain = self.scratch.path().join("plain");
        ok(cas(&self.whole)
            .args(["-q", "unpack", &self.reference])
            .arg(&plain));
        plain
    }

    /// Asserts that the mounted tree is the tree of the whole image.
    #[track_caller]
    pub(super) fn assert_shows(&self, plain: &Path) {
        let found = differences(plain, &self.mnt);
        assert!(found.is_empty(), "{found:#?}");
    }

    /// Asserts that the mounted tree is the tree of the whole image while its `layers` arrive, and
    /// after they are complete and the image is mounted again.
    #[track_caller]
    pub(super) fn assert_shows_before_and_after_completion(&self, layers: usize) {
        let plain = self.plain();
        self.mount();
        self.assert_shows(&plain);
        assert!(arrived(&self.root) > 0);
        self.unmount();
        self.end_session();
        let settings = self.root.join("cas.toml");
        let text = fs::read_to_string(&settings).unwrap();
        let text = text.replace("complete = false", "complete = true");
        fs::write(&settings, text).unwrap();
        self.mount();
        self.await_tars(layers);
        self.unmount();
        self.mount();
        self.end_session();
        self.assert_shows(&plain);
        self.unmount();
        ok(cas(&self.root).args(["fsck", "--read-data"]));
    }

    pub(super) fn served(&self) -> PathBuf {
        self.root.join("snapshots/erofs/lazy")
    }

    /// Returns the processes that serve the root: the holder is first.
    pub(super) fn servers(&self) -> Vec<String> {
        let root = self.root.display().to_string();
        let found = Command::new("pgrep")
            .args(["-a", "-f", &format!("{root} lazy serve")])
            .output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let mut found: Vec<&str> = found.lines().collect();
        // Numbers of processes start again at the lowest, so their order says nothing.
        found.sort_by_key(|process| process.contains("--session"));
        let numbers = found.iter().filter_map(|process| process.split(' ').next());
        numbers.map(str::to_owned).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for mounted in [&self.mnt, &self.served()] {
            let _ = Command::new("umount").arg("-l").arg(mounted).output();
        }
        for server in self.servers() {
            let _ = Command::new("kill").args(["-9", &server]).output();
        }
        let mounts = self.root.join("snapshots/erofs/mounts");
        for shared in fs::read_dir(mounts).into_iter().flatten().flatten() {
            let _ = Command::new("umount").arg("-l").arg(shared.path()).output();
        }
    }
}

/// The smallest layer that gets a zTOC, in bytes.
pub(super) const ALL: [&str; 2] = ["--min-layer-size", "0"];

/// Makes an image with zTOCs of all layers.
pub(super) fn convert(root: &Path, image: &str, name: &str, span_size: &str) {
    let mut convert = cas(root);
    convert
        .args(["-q", "soci", "convert", image, name])
        .args(ALL);
    ok(convert.args(["--span-size", span_size]));
}

/// Returns how much has arrived of each layer in a root that is read on demand.
pub(super) fn on_demand(root: &Path) -> Vec<OnDemandBytes> {
    let listed = ok(cas(root).args(["snapshot", "ls", "--json"]));
    let keys = listed.lines().map(|line| {
        let item: Value = serde_json::from_str(line).unwrap();
        item["info"]["key"].as_str().unwrap().to_owned()
    });
    let arrived = keys.filter_map(|key| {
        let info = ok(cas(root).args(["snapshot", "info", "--json", &key]));
        let info: Value = serde_json::from_str(&info).unwrap();
        let arrived = info.get("on_demand")?;
        Some(serde_json::from_value(arrived.clone()).unwrap())
    });
    arrived.collect()
}

pub(super) fn end_session(root: &Path) {
    let begun = Instant::now();
    loop {
        let served = root.join("snapshots/erofs/lazy");
        let ended = Command::new("umount").arg(served).output().unwrap();
        if ended.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns whether this machine can do it. Otherwise prints why it cannot.
pub(super) fn is_usable() -> bool {
    can(&["chroot"]) && can(&[PROGRAM]) && mounting_snapshotters().contains(&"erofs")
}

/// Returns how many bytes the files of arrived data occupy below a root.
pub(super) fn arrived(root: &Path) -> u64 {
    let script =
        "find \"$0\" -name lazy.data -printf '%b\\n' | awk '{ sum += $1 } END { print sum * 512 }'";
    let said = ok(Command::new("sh").args(["-c", script]).arg(root));
    said.trim().parse().unwrap()
}

/// The members of the layers of the test in other formats: a layer of everything, and one that
/// removes and replaces a part of it.
pub(super) fn layers() -> Vec<Vec<u8>> {
    let content = |length: usize| {
        (0..length)
            .map(|at| ((at * at) >> 7) as u8)
            .collect::<Vec<u8>>()
    };
    let base = Tar::new()
        .dir("./")
        .dir("dir/")
        .file("dir/large", content(300_000))
        .file("dir/gone", "gone")
        .file("empty", "")
        .symlink("link", "dir/large")
        .hardlink("same", "dir/large")
        .pax(&[("SCHILY.xattr.user.name", b"value")])
        .file("attributes", "x")
        .member(Header::new(b'3', "null").mode(0o666).device(1, 3), "");
    let top = Tar::new()
        .file("dir/.wh.gone", "")
        .file("empty", content(70_000))
        .hardlink("dir/again", "same");
    vec![base.end(), top.end()]
}

/// Imports the image of [`layers`] in the format of `write`, with the name `name`.
pub(super) fn import(root: &Path, name: &str, write: fn(&[u8]) -> Chunked) {
    import_tars(root, name, &layers(), write);
}

/// Imports an image of these layers in the format of `write`, with the name `name`.
pub(super) fn import_tars(root: &Path, name: &str, tars: &[Vec<u8>], write: fn(&[u8]) -> Chunked) {
    let layout = root.join("layout");
    chunked::layout(&layout, tars.iter().map(|tar| write(tar)).collect());
    ok(cas(root).args(["-q", "import", "--name", name]).arg(layout));
}
