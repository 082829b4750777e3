//! Applying a layer under a strict umask. This test is alone in its file, because a umask applies
//! to the whole process.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{Apply, Cage, Header, Tar};

#[test]
fn the_umask_does_not_matter() {
    let cage = Cage::new();
    symlink("x", cage.root().join("old")).unwrap();
    fs::set_permissions(cage.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let applied = Tar::new()
        .member(Header::new(b'0', "old").mode(0o666), b"")
        .member(Header::new(b'5', "d").mode(0o1777), b"")
        .file("made/f", "")
        .apply(&cage.root());
    rustix::process::umask(umask);
    applied.unwrap();
    let mode = |name: &str| fs::symlink_metadata(cage.root().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("old"), mode("d"), mode("made")),
        (0o666, 0o1777, 0o755)
    );
}
