//! A fault that a test injects into the code that applies layers: links are followed out of the
//! tree. The test shows that confinement prevents writes outside of the tree in spite of the fault.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use cas_core::Result;
use cas_host::calls;
use rustix::fs::{Mode, OFlags};

use super::dirs::Dir;
use super::os;

thread_local! {
    static PLANTED: Cell<bool> = const { Cell::new(false) };
}

/// If the fault is planted on this thread, opens a directory as the kernel does, so that links are
/// followed out of the tree. Otherwise, returns `None`.
pub(super) fn follow(dir: &Dir, name: &[u8]) -> Result<Option<OwnedFd>> {
    if !PLANTED.get() {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    os(calls::openat(&dir.fd, name, flags, Mode::empty())).map(Some)
}

mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use cas_core::{Descriptor, MediaType};
    use testkit::archive::Tar;

    use super::*;
    use crate::apply::Tree;
    use crate::codec::Compression;
    use crate::flow::{self, Accept, Confine, LayerSource};
    use crate::tar::Reader;

    #[test]
    fn a_faulty_applier_leaves_the_tree_only_if_it_is_not_confined() {
        for confined in [false, true] {
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let [root, canary] = ["root", "canary"].map(|name| dir.path().join(name));
            fs::create_dir(&root).unwrap();
            fs::create_dir(&canary).unwrap();
            fs::write(canary.join("file"), "alive").unwrap();
            let layer = Tar::new()
                .symlink("out", canary.to_str().unwrap())
                .file("out/file", "escaped")
                .end();
            let layer = LayerSource {
                blob: Box::new(&layer[..]),
                descriptor: Descriptor::of(MediaType::OCI_LAYER, &layer),
                diff_id: None,
                compression: Compression::None,
                checkpoints: None,
            };
            let tree = Tree::open(&root).unwrap();
            let confine = Confine::if_set(confined, Confine::Below(tree.as_fd()));
            let applied = flow::stream(vec![layer], Accept::Tars, confine, &|_| {}, |_, bytes| {
                PLANTED.set(true);
                tree.apply(&mut Reader::new(bytes)).map(drop)
            });
            let left = fs::read_to_string(canary.join("file")).unwrap();
            let expected = if confined { "alive" } else { "escaped" };
            assert_eq!(left, expected, "{applied:?}");
            assert_eq!(applied.is_err(), confined, "{applied:?}");
        }
    }
}
