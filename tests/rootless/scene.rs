//! A user with a fresh home, and the tool in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testkit::archive::Tar;

use crate::common::layout::layout;
use crate::common::{can, copy_tool, ok, text};

/// The user. No other test uses this id, and no user of a system has it.
pub(crate) const USER: u32 = 123_456;

/// The first of the further ids of the user, and how many there are.
pub(crate) const MORE: (u32, u32) = (200_000, 5_000_000);

/// The ids that `/etc/subuid` and `/etc/subgid` give the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// No further ids: the user has only its own.
    One,
    /// [`MORE`].
    Many,
}

/// Runs "$@" where the user has a name and further ids, and where there is one hierarchy of
/// cgroups, because crun refuses several.
const MANY: &str = "set -e
    if umount -R /sys/fs/cgroup; then mount -t cgroup2 none /sys/fs/cgroup; fi
    mount --bind passwd /etc/passwd
    mount --bind subids /etc/subuid
    mount --bind subids /etc/subgid
    exec \"$@\"";

/// A user with a home.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// Returns a home in `/dev/shm`, or in another directory if files in memory cannot have extended
    /// attributes. If a program is missing, or if this is not the superuser, prints that and returns
    /// `None`.
    pub(crate) fn new(programs: &[&str]) -> Option<Self> {
        let probe = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(probe.path(), "user.probe", b"1", flags);
        let place = if set.is_ok() { "/dev/shm" } else { "/var/tmp" };
        Self::new_in(place, programs)
    }

    /// Returns a home, as [`Home::new`] does. Returns `None` also if this machine does not let
    /// users make namespaces.
    pub(crate) fn with_namespaces(programs: &[&str]) -> Option<Self> {
        let home = Self::new(programs)?;
        let mut unshare = home.user(Ids::One, "unshare");
        let allowed = unshare.args(["-Urm", "true"]).output().unwrap();
        if !allowed.status.success() {
            eprintln!(
                "SKIPPED: no user namespaces here: {}",
                text(&allowed.stderr)
            );
            return None;
        }
        Some(home)
    }

    /// Returns a home in a directory. Returns `None` as [`Home::new`] does.
    pub(crate) fn new_in(place: &str, programs: &[&str]) -> Option<Self> {
        if !can(&[programs, &["setpriv", "unshare"]].concat()) {
            return None;
        }
        let dir = tempfile::tempdir_in(place).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let home = Home { dir };
        copy_tool(&home.outside("cas"));
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = format!("rootless:x:{USER}:{USER}::/:/bin/sh\n");
        fs::write(home.outside("passwd"), passwd + &line).unwrap();
        let (first, count) = MORE;
        fs::write(
            home.outside("subids"),
            format!("rootless:{first}:{count}\n"),
        )
        .unwrap();
        for name in ["passwd", "subids"] {
            fs::set_permissions(home.outside(name), Permissions::from_mode(0o644)).unwrap();
        }
        fs::create_dir(home.path("")).unwrap();
        chown(home.path(""), Some(USER), Some(USER)).unwrap();
        Some(home)
    }

    /// Returns a path next to the home, which the user cannot change.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a path in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.outside("home").join(name)
    }

    /// Returns a command of the user, in their home, with a clean environment.
    pub(crate) fn user(&self, ids: Ids, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let user = USER.to_string();
        let mut command = match ids {
            Ids::One => Command::new("setpriv"),
            Ids::Many => {
                let mut command = Command::new("unshare");
                command.args(["-m", "--propagation", "slave"]);
                command.args(["sh", "-c", MANY, "sh", "setpriv"]);
                command
            }
        };
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args(["env", "-C"])
            .arg(self.path(""))
            .arg(program)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path(""))
            .env("TMPDIR", self.path(""))
            .stdin(std::process::Stdio::null());
        command
    }

    /// Returns a command of the tool, called by the user.
    pub(crate) fn cas(&self, ids: Ids, arguments: &[&str]) -> Command {
        let mut command = self.user(ids, self.outside("cas"));
        command.arg("--no-progress").args(arguments);
        command
    }

    /// Returns a script of the user in `cas unshare`, where `$cas` is the tool.
    pub(crate) fn unshared(&self, ids: Ids, script: &str) -> Command {
        let cas = self.outside("cas");
        let script = format!("set -e; cas='{} --no-progress'; {script}", cas.display());
        self.cas(ids, &["unshare", "sh", "-c", &script])
    }

    /// Writes the layout `image` next to the home. It has one image of these layers, named `app`.
    /// Returns its path.
    pub(crate) fn image(&self, layers: Vec<Tar>) -> PathBuf {
        let path = self.outside("image");
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        layout(&path, layers);
        let index = fs::read_to_string(path.join("index.json")).unwrap();
        let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let name = serde_json::json!({"org.opencontainers.image.ref.name": "app"});
        index["manifests"][0]["annotations"] = name;
        fs::write(path.join("index.json"), index.to_string()).unwrap();
        readable(&path);
        path
    }

    /// Imports a layout or an archive as `app`.
    pub(crate) fn import(&self, source: &Path) {
        let mut import = self.cas(Ids::One, &["-q", "import", "--name", "app"]);
        ok(import.arg(source));
    }
}

/// Lets everybody read a tree.
pub(crate) fn readable(path: &Path) {
    ok(Command::new("chmod").args(["-R", "a+rX"]).arg(path));
}

/// Returns what a command prints, after checking that it has succeeded: results and messages.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (out, said) = (text(&stdout), text(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{said}\n{out}");
    (out, said)
}
