//! A root that keeps layers only as tars, with an image for two platforms, one of which is damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::archive::Tar;

use super::layout::layout_of_platforms;
use super::{cas, ok};

/// The platform whose tar is right.
pub(crate) const SOUND: &str = "linux/amd64";
/// The platform whose tar is damaged.
pub(crate) const DAMAGED: &str = "linux/s390x";

/// Makes the root in a directory, and imports the image as `app`. Returns the root.
pub(crate) fn half_damaged(scratch: &Path) -> PathBuf {
    let (root, layout) = (scratch.join("root"), scratch.join("layout"));
    let tar = |platform| Tar::new().file("file", platform).end();
    let images = [("amd64", tar(SOUND)), ("s390x", tar(DAMAGED))];
    layout_of_platforms(&layout, &images);
    let init = ["--snapshotter", "erofs", "init", "--keep-tars"];
    ok(cas(&root).args(init));
    for platform in [SOUND, DAMAGED] {
        let import = ["-q", "import", "--name", "app", "--platform", platform];
        ok(cas(&root).args(import).arg(&layout));
    }
    let mut find = Command::new("find");
    let found = ok(find.arg(&root).args(["-name", "layer.tar"]));
    let is_damaged = |path: &&str| fs::read(path).unwrap() == images[1].1;
    let damaged = found.lines().find(is_damaged).unwrap();
    let damaged = File::options().write(true).open(damaged).unwrap();
    damaged.write_all_at(b"x", 600).unwrap();
    root
}
