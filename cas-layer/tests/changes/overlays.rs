//! A layer of changes, applied to the layers below, gives the tree that the overlay shows.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use cas_core::snapshot::Mount;
use cas_layer::apply::Tree;
use cas_layer::changes;
use cas_layer::tar::Reader;
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use testkit::tree::{Described, scan};

use super::{is_root, place};

/// A change of a tree. It has no effect if the tree does not allow it.
#[derive(Clone, Debug)]
enum Change {
    Write(String, u8),
    Directory(String),
    Remove(String),
    Rename(String, String),
    Symlink(String, String),
    Link(String, String),
    Own(String, u32),
    Attribute(String, u8),
    Time(String, i64),
    Node(String, bool),
}

impl Change {
    fn make(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &str| root.join(path);
        match self {
            Change::Write(path, byte) => {
                // A pipe must not block.
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let mut file = OpenOptions::new();
                let file = file.append(true).create(true).custom_flags(flags);
                let mut file = file.open(at(path))?;
                file.write_all(&vec![*byte; 300 * usize::from(*byte)])
            }
            Change::Directory(path) => fs::create_dir(at(path)),
            Change::Remove(path) if at(path).is_dir() => fs::remove_dir_all(at(path)),
            Change::Remove(path) => fs::remove_file(at(path)),
            Change::Rename(from, to) => fs::rename(at(from), at(to)),
            Change::Symlink(path, to) => symlink(to, at(path)),
            Change::Link(from, to) => fs::hard_link(at(from), at(to)),
            Change::Own(path, id) => chown(at(path), Some(*id), Some(id / 2)),
            Change::Attribute(path, value) => {
                let name = "user.of-the-tree";
                Ok(rustix::fs::setxattr(
                    at(path),
                    name,
                    &[*value],
                    XattrFlags::empty(),
                )?)
            }
            Change::Time(path, seconds) => {
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: 5,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                Ok(rustix::fs::utimensat(
                    CWD,
                    at(path),
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                )?)
            }
            Change::Node(path, is_fifo) => {
                let kind = if *is_fifo {
                    FileType::Fifo
                } else {
                    FileType::CharacterDevice
                };
                let (mode, device) = (Mode::RUSR, rustix::fs::makedev(1, 7));
                Ok(rustix::fs::mknodat(CWD, at(path), kind, mode, device)?)
            }
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (name(), 0..9u8).prop_map(|(path, byte)| Change::Write(path, byte)),
        4 => name().prop_map(Change::Directory),
        3 => name().prop_map(Change::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (name(), name()).prop_map(|(path, to)| Change::Symlink(path, to)),
        2 => (name(), name()).prop_map(|(from, to)| Change::Link(from, to)),
        1 => (name(), 0..3_000_000_000u32).prop_map(|(path, id)| Change::Own(path, id)),
        1 => (name(), 0..9u8).prop_map(|(path, value)| Change::Attribute(path, value)),
        1 => (name(), -9..1i64 << 34).prop_map(|(path, seconds)| Change::Time(path, seconds)),
        1 => (name(), any::<bool>()).prop_map(|(path, is_fifo)| Change::Node(path, is_fifo)),
    ]
}

fn make(changes: &[Change], root: &Path) {
    for change in changes {
        // Not every change is possible in every tree.
        let _ = change.make(root);
    }
}

/// Mounts an overlay of two directories. Calls `then` with the path of its root.
fn with_overlay(lower: &Path, upper: &Path, then: impl FnOnce(&Path)) {
    let work = upper.with_extension("work");
    fs::create_dir_all(&work).unwrap();
    let mount = Mount::Overlay {
        lower: vec![lower.to_owned()],
        upper: Some(upper.to_owned()),
        work: Some(work),
        options: cas_host::overlay::options().unwrap(),
    };
    let root = cas_host::mount::open(&[mount]).unwrap();
    then(&PathBuf::from(format!(
        "/proc/self/fd/{}/.",
        root.as_raw_fd()
    )));
}

/// Sets all hard-link counts to 0. For a file that an overlay has copied up, the overlay still
/// reports the count of the lower file.
fn without_link_counts(mut tree: BTreeMap<PathBuf, Described>) -> BTreeMap<PathBuf, Described> {
    tree.values_mut().for_each(|file| file.3 = 0);
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_layer_of_changes_gives_what_the_overlay_shows(
        below in vec(change(), 0..30),
        above in vec(change(), 0..30),
    ) {
        prop_assume!(is_root());
        let (temp, upper) = place();
        let [lower, applied] = ["lower", "applied"].map(|name| temp.path().join(name));
        for place in [&lower, &applied] {
            fs::create_dir(place).unwrap();
        }
        make(&below, &lower);
        cas_host::copy_tree(File::open(&lower).unwrap(), File::open(&applied).unwrap()).unwrap();
        with_overlay(&lower, &upper, |root| {
            make(&above, root);
            let [mut layer, mut again] = [Vec::new(), Vec::new()];
            changes::write(File::open(&upper).unwrap(), &mut layer).unwrap();
            changes::write(File::open(&upper).unwrap(), &mut again).unwrap();
            assert!(layer == again);
            let tree = Tree::open(&applied).unwrap();
            let warnings = tree.apply(&mut Reader::new(&layer[..])).unwrap().warnings;
            assert!(warnings.is_empty(), "{warnings:?}");
            let found = scan(&applied);
            assert_eq!(without_link_counts(found.clone()), without_link_counts(scan(root)));
            for (path, file) in scan(&upper) {
                let is_whiteout = file.0 == FileType::CharacterDevice.as_raw_mode();
                assert!(is_whiteout || file.3 == found[&path].3, "{}", path.display());
            }
        });
    }
}
