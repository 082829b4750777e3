//! A root with images to run, and what runs leave there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::common::{can, cas, mounting_snapshotters, ok, program, real_image};

const USERS: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
const GROUPS: &str = "app:x:1001:\naudio:x:29:app\nvideo:x:44:other,app\n";

/// Returns a layout with three images: `small`; `app`, the same with users and more configuration;
/// and `unknown`, whose user does not exist in it. The layout is made once per test binary.
fn layout(small: &Path) -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let layout = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run");
        if layout.exists() {
            fs::remove_dir_all(&layout).unwrap();
        }
        ok(Command::new("cp").arg("-a").arg(small).arg(&layout));
        let image = |tag: &str| format!("{}:{tag}", layout.display());
        ok(Command::new("umoci")
            .args(["config", "--image", &image("small"), "--tag", "unknown"])
            .args(["--config.user", "nobody-here"]));
        ok(Command::new("umoci")
            .args(["config", "--image", &image("small"), "--tag", "app"])
            .args(["--config.user", "app", "--config.workingdir", "/srv/work"])
            .args(["--config.env", "GREETING=two words", "--config.cmd", "id"])
            .args(["--config.stopsignal", "SIGUSR1"])
            .args(["--config.label", "run.oci.hooks.stdout=/etc/passwd"]));
        for (name, text) in [("passwd", USERS), ("group", GROUPS)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            ok(Command::new("umoci")
                .args(["insert", "--image", &image("app")])
                .arg(file.path())
                .arg(format!("/etc/{name}")));
        }
        layout
    })
}

/// A root with the images of [`layout`].
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// Returns a scene. Prints the reason and returns `None` if a program or the image is missing.
    pub(crate) fn new() -> Option<Self> {
        Self::with("overlay", tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// Returns a scene with the snapshotter `overlay`, and one with `erofs`. Prints the reason for
    /// each that is missing.
    pub(crate) fn all() -> Vec<Self> {
        let Some(overlay) = Self::new() else {
            return Vec::new();
        };
        let is_usable = mounting_snapshotters().contains(&"erofs");
        // The metadata of the images of `erofs` cannot be in memory.
        let erofs = is_usable.then(|| Self::with("erofs", tempfile::tempdir().unwrap()));
        [overlay].into_iter().chain(erofs.flatten()).collect()
    }

    fn with(snapshotter: &str, dir: tempfile::TempDir) -> Option<Self> {
        let small = real_image("small").filter(|_| can(&["umoci", "runc"]))?;
        let scene = Scene { dir };
        ok(cas(&scene.root()).args(["--snapshotter", snapshotter, "init"]));
        let layout = layout(&small);
        ok(cas(&scene.root()).args(["-q", "import"]).arg(layout));
        Some(scene)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Returns [`RUNTIMES`], and crun if it works here.
    pub(crate) fn runtimes(&self) -> Vec<String> {
        let mut runtimes = RUNTIMES.map(str::to_owned).to_vec();
        if can(&["crun", "unshare"]) {
            let crun = self.path("crun");
            program(&crun, CRUN, 0o755);
            runtimes.push(crun.to_str().unwrap().to_owned());
        }
        runtimes
    }

    /// Returns a command that runs `image` by `runtime` with these arguments.
    pub(crate) fn run(&self, runtime: &str, image: &str, command: &[&str]) -> Command {
        let mut run = cas(&self.root());
        run.args(["run", "--runtime", runtime, image, "--"]);
        run.args(command).stdin(Stdio::null());
        run
    }

    /// Returns the file that the only run in this root locks.
    pub(crate) fn lock_of_run(&self) -> PathBuf {
        let runs = fs::read_dir(self.root().join("run")).unwrap();
        let mut paths = runs.map(|one| one.unwrap().path());
        let is_lock = |path: &PathBuf| path.extension().is_some_and(|name| name == "lock");
        paths.find(is_lock).unwrap()
    }

    /// Returns what runs have left in this root: bundles, mounts and snapshots.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let runs = fs::read_dir(self.root().join("run"));
        let runs = runs
            .into_iter()
            .flatten()
            .map(|one| one.unwrap().file_name().into_string().unwrap());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(root.to_str().unwrap()));
        let snapshots = ok(cas(&root).args(["--json", "snapshot", "ls"]));
        let active = snapshots.lines().filter(|line| line.contains("mounted"));
        let more = mounts.chain(active).map(str::to_owned);
        runs.chain(more).collect()
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

pub(crate) const RUNTIMES: [&str; 2] = ["runc", "chroot"];

/// A wrapper of crun with its own cgroup mounts, because crun refuses to start if cgroups of both
/// versions are mounted, or if it may not set their device filters. Mounts that other tests end
/// meanwhile end here, too.
const CRUN: &str = "#!/bin/sh
exec unshare -m --propagation slave sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || exit
exec crun --cgroup-manager=disabled \"$@\"' sh \"$@\"
";
