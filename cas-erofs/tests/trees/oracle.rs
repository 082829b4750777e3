//! The crate `erofs-rs`, which shares no code with this one, reads the trees of images back from
//! their metadata and data files.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cas_erofs::{Image, Layers};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use erofs_rs::types::Inode;
use testkit::tree::{Described, scan};

use crate::compare::apply;
use crate::{odd, random};

/// Number of bytes that are read at once, so that reads begin within blocks.
const PIECE: usize = 700;

/// Returns everything in an image, as [`scan`] does.
fn read(metadata: &[u8], data: &[Vec<u8>]) -> BTreeMap<PathBuf, Described> {
    let devices = data.iter().map(|data| SliceImage::new(data)).collect();
    let image = EroFS::new_with_devices(SliceImage::new(metadata), devices).unwrap();
    let root = image
        .get_inode(image.super_block().root_inode_id())
        .unwrap();
    let mut found = BTreeMap::from([(PathBuf::new(), describe(&image, root))]);
    for entry in image.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let path = entry.dir_entry.path();
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let path = path.strip_prefix("/").unwrap().to_owned();
        let described = describe(&image, entry.inode);
        assert!(found.insert(path, described).is_none());
    }
    found
}

fn describe(image: &EroFS<SliceImage<'_>>, inode: Inode) -> Described {
    let content = if inode.is_file() {
        let file = image.open_inode_file(inode).unwrap();
        let mut content = vec![0; file.size() as usize];
        let mut at = 0;
        while at < content.len() {
            let end = content.len().min(at + PIECE);
            at += file.read_at(&mut content[at..end], at as u64).unwrap();
        }
        content
    } else if inode.is_symlink() {
        image.read_link_inode(inode).unwrap().into_vec()
    } else if let Some((major, minor)) = inode.device() {
        rustix::fs::makedev(major, minor).to_le_bytes().to_vec()
    } else {
        Vec::new()
    };
    let is_root = inode.id() == image.super_block().root_inode_id();
    let (seconds, nanoseconds) = inode.modified_unix();
    let time = match is_root {
        true => (0, 0),
        false => (seconds, nanoseconds.into()),
    };
    (
        inode.file_type().as_raw_mode() | u32::from(inode.permissions()),
        (inode.uid(), inode.gid()),
        time,
        if inode.is_dir() {
            0
        } else {
            inode.nlink().into()
        },
        content,
        image.xattrs_inode(inode).unwrap().into_iter().collect(),
    )
}

/// Compares the image of layers with a directory that they are applied to. Returns false if they
/// cannot be applied.
fn compare(layers: &[Vec<u8>]) -> bool {
    let temp = tempfile::tempdir().unwrap();
    let Ok(directory) = apply(layers) else {
        return false;
    };
    let mut reader = Layers::new(temp.path());
    for layer in layers {
        reader.add(&mut &layer[..]).unwrap();
    }
    let (tree, data) = reader.finish();
    let image = Image::new(&tree, &data).unwrap();
    let whole = |file: &cas_erofs::DataFile| {
        // The last block of a device is a whole one.
        let mut bytes = vec![0; file.length.next_multiple_of(512) as usize];
        file.file
            .read_exact_at(&mut bytes[..file.length as usize], 0)
            .unwrap();
        bytes
    };
    let data: Vec<_> = data.iter().map(whole).collect();
    let (found, expected) = (read(image.metadata(), &data), scan(directory.path()));
    for (path, expected) in &expected {
        assert_eq!(found.get(path), Some(expected), "{}", path.display());
    }
    assert_eq!(found.len(), expected.len());
    true
}

#[test]
fn another_reader_finds_the_same_trees() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only the superuser gives files to their owners");
    }
    let made = (0..60)
        .filter(|&seed| compare(&random::layers(seed)))
        .count();
    assert!(made > 30, "only {made} stacks were made");
    assert!(compare(&odd::sparse_layers()));
    assert!(compare(&[odd::attributes_before_ends()]));
}
