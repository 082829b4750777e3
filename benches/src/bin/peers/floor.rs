//! The floor of import and unpack: the work that no tool can leave out. The floor does not compare
//! digests, and writes no records and no attributes of files. The floor runs on one thread. In the
//! table of `peers`, the time of the floor is its processor time divided by the number of cores. A
//! pipeline that keeps every core busy would take this time.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oci_cas_benches::process::processor_time;
use ring::digest::{Context, SHA256};
use tar::EntryType;

/// The first argument of the child process that does this work.
pub(super) const CHILD: &str = "--floor";

/// In the child process, unpacks layers below a directory and prints the time of the floor in
/// seconds. The directory is the second argument, and the layers are the arguments after it.
/// Returns whether this is the child process.
pub(super) fn as_child() -> Result<bool> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != CHILD) {
        return Ok(false);
    }
    let target = PathBuf::from(arguments.next().context("the target is missing")?);
    let before = processor_time()?;
    for (number, layer) in arguments.enumerate() {
        let place = target.join(number.to_string());
        fs::create_dir_all(place.join("fs"))?;
        take(Path::new(&layer), &place)?;
    }
    let root = File::open(&target)?;
    // SAFETY: the file descriptor is open for the time of the call.
    if unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&root)) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let cores = std::thread::available_parallelism()?.get() as f64;
    println!("{}", (processor_time()? - before).as_secs_f64() / cores);
    Ok(true)
}

/// Reads a layer once: hashes it, stores it, decompresses it, hashes the decompressed bytes, and
/// writes the files.
fn take(layer: &Path, place: &Path) -> Result<()> {
    let blob = Tee {
        input: File::open(layer)?,
        copy: File::create(place.join("blob"))?,
        hash: Context::new(&SHA256),
    };
    let mut magic = [0; 4];
    File::open(layer)?.read_exact(&mut magic)?;
    let input = BufReader::with_capacity(256 << 10, blob);
    let inflated: Box<dyn Read> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        _ => Box::new(zstd::Decoder::with_buffer(input)?),
    };
    let hashed = Tee {
        input: inflated,
        copy: io::sink(),
        hash: Context::new(&SHA256),
    };
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, hashed));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?;
        let path = place
            .join("fs")
            .join(path.strip_prefix("/").unwrap_or(&path));
        write(&mut entry, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn write<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent)?;
    }
    match entry.header().entry_type() {
        EntryType::Directory => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)?;
        }
        EntryType::Regular => {
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o644);
            let mut file = replace(path, || options.open(path))?;
            io::copy(entry, &mut file)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.context("a link without target")?;
            replace(path, || std::os::unix::fs::symlink(&target, path))?;
        }
        _ => {}
    }
    Ok(())
}

/// Calls `make`, which creates `path`. If an earlier member created `path`, removes it first.
fn replace<T>(path: &Path, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            make()
        }
        made => made,
    }
}

/// A reader that hashes and copies what is read.
struct Tee<R, W> {
    input: R,
    copy: W,
    hash: Context,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.hash.update(&out[..read]);
        self.copy.write_all(&out[..read])?;
        Ok(read)
    }
}
