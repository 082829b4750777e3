//! EROFS images.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use cas_core::Result;
use cas_erofs::{DataFile, Image, Layers, Tree, check_image};
use cas_layer::apply;
use cas_layer::tar::Reader;
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use testkit::archive::Tar;

use super::tar::{archives, sealed};
use super::{accepted, scratch};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "erofs-image",
        run: image,
        seeds: || without_files().into_iter().collect(),
        longest: 4096,
    },
    Target {
        name: "erofs-merge",
        run: merged,
        seeds: archives,
        longest: 8192,
    },
];

/// Makes the image of some layers. Returns its metadata and its data files.
fn image_of(layers: &[&[u8]]) -> Result<(Vec<u8>, Vec<DataFile>)> {
    let (tree, data) = merge(layers)?;
    Ok((Image::new(&tree, &data)?.metadata().to_vec(), data))
}

fn merge(layers: &[&[u8]]) -> Result<(Tree, Vec<DataFile>)> {
    let directory = scratch()?;
    let mut reader = Layers::new(directory.path());
    for layer in layers {
        reader.add(&mut &**layer)?;
    }
    Ok(reader.finish())
}

/// Returns the metadata of a tree without files. Without data files, the metadata is a whole image.
fn without_files() -> Option<Vec<u8>> {
    let layer = Tar::new().dir("dir/").symlink("link", "dir").end();
    let (tree, _) = merge(&[&layer]).ok()?;
    Some(Image::new(&tree, &[]).ok()?.metadata().to_vec())
}

/// Checks the superblock of an image that others made, as is done before a mount.
fn image(input: &[u8]) -> bool {
    let check = || {
        let directory = scratch()?;
        let path = directory.path().join("image");
        fs::write(&path, input)?;
        check_image(&File::open(&path)?)
    };
    accepted(check())
}

/// Makes an image of a layer that is added twice. `erofs-rs`, which shares no code with `cas`,
/// reads the image. If the layer can be applied to a directory twice, the directory then has as
/// many entries as the image.
fn merged(input: &[u8]) -> bool {
    let layer = sealed(input);
    let made = image_of(&[&layer, &layer]);
    if let Ok((metadata, data)) = &made {
        let data: Vec<Vec<u8>> = data.iter().map(whole).collect();
        let devices = data.iter().map(|data| SliceImage::new(data)).collect();
        let peer = EroFS::new_with_devices(SliceImage::new(metadata), devices);
        let peer = peer.unwrap_or_else(|error| panic!("erofs-rs cannot read the image: {error}"));
        let walked = peer.walk_dir("/");
        let walked =
            walked.unwrap_or_else(|error| panic!("erofs-rs cannot list the image: {error}"));
        let mut found = 0;
        for entry in walked {
            if let Err(error) = entry {
                panic!("erofs-rs cannot read an entry of the image: {error}");
            }
            found += 1;
        }
        if let Ok(expected) = applied(&layer) {
            assert_eq!(found, expected);
        }
    }
    accepted(made)
}

/// Returns the bytes of a data file, and zeros to the end of its last block of 512 bytes.
fn whole(file: &DataFile) -> Vec<u8> {
    let mut bytes = vec![0; file.length.next_multiple_of(512) as usize];
    let read = file
        .file
        .read_exact_at(&mut bytes[..file.length as usize], 0);
    read.unwrap_or_else(|error| panic!("cannot read a data file: {error}"));
    bytes
}

/// Applies a layer twice to a directory. Returns the number of entries below the directory.
fn applied(layer: &[u8]) -> Result<usize> {
    let directory = scratch()?;
    let tree = apply::Tree::open(directory.path())?;
    for _ in 0..2 {
        tree.apply(&mut Reader::new(layer))?;
    }
    let mut entries = 0;
    let mut directories = vec![directory.path().to_owned()];
    while let Some(one) = directories.pop() {
        for entry in fs::read_dir(one)? {
            let entry = entry?;
            entries += 1;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(entries)
}
