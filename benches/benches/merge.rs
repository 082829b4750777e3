//! Measures the merge of the tars of an image's layers into the metadata of an EROFS image: the
//! processor time, the size of the metadata, and the memory for an image of 140,000 files.
//!
//! `cargo bench -p oci-cas-benches --bench merge`. The bench makes the image of 140,000 files. The
//! bench also measures the images that `cargo xtask setup` and `cargo xtask long` make, if these
//! images exist. The environment variable `CAS_BENCH_ON` names the directory for the tars.
#![allow(missing_docs, reason = "a bench has no API")]

use std::env;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use cas::erofs::{Image, Layers};
use flate2::bufread::MultiGzDecoder;
use oci_cas_benches::images;
use oci_cas_benches::measure::{nine, place, print_floors, verdict};
use oci_cas_benches::process::{as_child, measure, processor_time};

/// The large image: how many layers it has, how many directories each layer has, and how many files
/// each directory has.
const LAYERS: usize = 7;
const DIRECTORIES: usize = 200;
const FILES: usize = 100;
/// The images that `cargo xtask setup` and `cargo xtask long` make in `target/images`.
const IMAGES: &[&str] = &[
    "small:small",
    "debian-multi:plain",
    "debian-multi:latest",
    "debian-multi:strict",
];
/// Processor time for 1,000 members of the tars.
const GOAL: Duration = Duration::from_micros(1500);
/// Bytes of metadata for each inode.
const METADATA_GOAL: f64 = 100.0;
/// Peak memory of a process that merges the large image, in bytes.
const MEMORY_GOAL: u64 = 64 << 20;
/// Offset at which the metadata has the number of inodes. This is a field of 8 bytes in the
/// superblock.
const INODES: usize = 1024 + 16;
/// The first argument of the process whose memory is measured. The directory of the tars follows.
const CHILD: &str = "--merge";

fn main() -> Result<()> {
    if let Some(code) = as_child()? {
        std::process::exit(code);
    }
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == CHILD) {
        let tars = arguments.next().context("no directory of tars")?;
        return merge(Path::new(&tars)).map(drop);
    }
    let place = place()?;
    print_floors(place.path())?;
    let large = place.path().join("large");
    write_large(&large)?;
    print(&format!("{} files", LAYERS * DIRECTORIES * FILES), &large)?;
    let peak = measure(Command::new(env::current_exe()?).arg(CHILD).arg(&large))?.peak;
    let met = verdict(peak <= MEMORY_GOAL);
    let (peak, goal) = (peak.div_ceil(1 << 20), MEMORY_GOAL >> 20);
    println!("peak memory of the merge of these files: {peak} MiB; goal {goal} MiB {met}");
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
    for name in IMAGES {
        let image = images::Image::parse(&format!("{}/{name}", images.display()));
        let Ok(image) = image else {
            println!(
                "{name}: not measured, because the image is missing; `cargo xtask long` makes it"
            );
            continue;
        };
        let tars = place.path().join(name);
        inflate(&image, &tars)?;
        print(name, &tars)?;
    }
    Ok(())
}

/// Merges the tars of an image nine times. Prints the processor time and the size of the metadata.
fn print(name: &str, tars: &Path) -> Result<()> {
    let members = members(tars)?;
    let mut metadata = Vec::new();
    let taken = nine(|| {
        let before = processor_time()?;
        metadata = merge(tars)?;
        Ok(processor_time()? - before)
    })?;
    let part = taken.median.mul_f64(1000.0 / members as f64);
    let inodes = metadata[INODES..].first_chunk();
    let inodes = u64::from_le_bytes(*inodes.context("the metadata has no superblock")?);
    let bytes = metadata.len() as f64 / inodes as f64;
    println!(
        "{name}: {members} members merged in {taken} of processor time, {part:.1?} for 1,000 \
         members, goal {GOAL:?} {}; {inodes} inodes of {bytes:.1} bytes, goal {METADATA_GOAL} {}",
        verdict(part <= GOAL),
        verdict(bytes <= METADATA_GOAL)
    );
    Ok(())
}

/// Merges the tars of an image. Returns the metadata.
fn merge(tars: &Path) -> Result<Vec<u8>> {
    let mut layers = Layers::new(tars);
    for tar in sorted(tars)? {
        layers.add_file(File::open(tar)?)?;
    }
    let (tree, data) = layers.finish();
    Ok(Image::new(&tree, &data)?.metadata().to_vec())
}

/// Returns the tars of an image, lowest first.
fn sorted(tars: &Path) -> Result<Vec<PathBuf>> {
    let tars = fs::read_dir(tars)?.map(|tar| tar.map(|tar| tar.path()));
    let mut tars: Vec<PathBuf> = tars.collect::<io::Result<_>>()?;
    tars.sort();
    Ok(tars)
}

fn members(tars: &Path) -> Result<usize> {
    let mut members = 0;
    for tar in sorted(tars)? {
        let mut archive = tar::Archive::new(File::open(tar)?);
        members += archive.entries_with_seek()?.count();
    }
    Ok(members)
}

/// Returns the path of the tar of a layer.
fn tar_of(tars: &Path, layer: usize) -> PathBuf {
    tars.join(format!("{layer:03}.tar"))
}

/// Writes the tars of an image of files with one byte each.
fn write_large(tars: &Path) -> Result<()> {
    fs::create_dir_all(tars)?;
    for layer in 0..LAYERS {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(tar_of(tars, layer))?));
        for directory in 0..DIRECTORIES {
            for file in 0..FILES {
                let mut header = tar::Header::new_gnu();
                header.set_size(1);
                header.set_mode(0o644);
                let path = format!("usr/share/layer-{layer}/directory-{directory}/file-{file}");
                tar.append_data(&mut header, path, &b"x"[..])?;
            }
        }
        tar.into_inner()?.flush()?;
    }
    Ok(())
}

/// Writes the tars of a stored image.
fn inflate(image: &images::Image, tars: &Path) -> Result<()> {
    fs::create_dir_all(tars)?;
    for (number, layer) in image.layers()?.iter().enumerate() {
        let mut layer = MultiGzDecoder::new(BufReader::new(File::open(layer)?));
        io::copy(&mut layer, &mut File::create(tar_of(tars, number))?)?;
    }
    Ok(())
}
