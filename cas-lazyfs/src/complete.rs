//! Makes a layer that is read on demand an ordinary layer: its whole tar, which is compared with
//! its diff ID. Mounts that exist go on with the data file; new mounts use the tar.

use std::fs::{self, File, FileTimes};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use cas_core::{Context, Digest, Error, Hasher, Result};
use cas_layer::codec::Decoder;
use cas_lazy::{LazyLayer, StoredTable};

use crate::Fetch;
use crate::layer::Layer;

/// The name of the complete tar while it is made.
const NEW: &str = "lazy.new";
/// Size in bytes of a request for a part of a layer.
const REQUEST: u64 = 4 << 20;
/// Size in bytes of the buffer for decompressed bytes.
const BUFFER: usize = 256 << 10;

/// Returns the complete tar in the directory of a snapshot, if it is there and serves this layer.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn existing(directory: &Path, layer: &LazyLayer) -> Result<Option<File>> {
    let path = directory.join(StoredTable::TAR_FILE);
    // The content of another data file has other offsets.
    if !layer.is_tar() {
        return Ok(None);
    }
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.during("open", path.display()).map(Some),
    }
}

/// Returns whether a snapshot has its complete tar.
pub(crate) fn is_complete(directory: &Path) -> bool {
    fs::symlink_metadata(directory.join(StoredTable::TAR_FILE)).is_ok()
}

/// Makes the complete tar of a layer of which all pieces have arrived, in the directory of its
/// snapshot.
///
/// # Errors
/// `Corrupt` if the tar does not have the diff ID; errors of `fetch` and of the file system.
pub(crate) fn complete(layer: &Layer, fetch: &dyn Fetch, directory: &Path) -> Result<()> {
    layer.record()?;
    let path = directory.join(StoredTable::DATA_FILE);
    if layer.layer.is_tar() {
        let found = digest(&layer.data, layer.stored.diff_id)?;
        check(&found, &layer.stored)?;
        publish(&layer.data, &path, directory)?;
        // The record of the pieces has no meaning without the data file.
        let _ = fs::remove_file(directory.join(StoredTable::PIECES_FILE));
        return Ok(());
    }
    let path = directory.join(NEW);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .during("create", path.display())?;
    let mut whole = Whole {
        layer,
        fetch,
        position: 0,
        part: Cursor::default(),
        hasher: Hasher::new(layer.stored.layer.digest.algorithm()),
    };
    let written =
        write_tar(&mut whole, layer, &file).and_then(|()| publish(&file, &path, directory));
    if written.is_err() {
        let _ = fs::remove_file(&path);
    }
    written
}

/// Decompresses the whole layer, and compares both digests.
fn write_tar(whole: &mut Whole<'_>, layer: &Layer, mut file: &File) -> Result<()> {
    let stored = &layer.stored;
    let mut decoder = Decoder::new(&mut *whole, layer.layer.compression())?;
    let mut hasher = Hasher::new(stored.diff_id.algorithm());
    let mut buffer = vec![0; BUFFER];
    loop {
        match decoder.read(&mut buffer)? {
            0 => break,
            read => {
                hasher.update(&buffer[..read]);
                file.write_all(&buffer[..read])?;
            }
        }
    }
    check(&hasher.finish(), stored)?;
    // What follows the last compressed bytes belongs to the layer, too.
    io::copy(whole, &mut io::sink())?;
    let found = whole.hasher.clone().finish();
    if found == stored.layer.digest {
        return Ok(());
    }
    Err(Error::corrupt(format!("the layer has the digest {found}")).subject(stored.layer.digest))
}

fn check(found: &Digest, stored: &StoredTable) -> Result<()> {
    if *found == stored.diff_id {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the decompressed layer has the digest {found}, but its diff ID is {}; pull the image \
         without --lazy",
        stored.diff_id
    ))
    .subject(stored.layer.digest))
}

/// Gives a file its final name, durably. Its time is the year 1970, so that a later change shows.
fn publish(file: &File, path: &Path, directory: &Path) -> Result<()> {
    let tar = directory.join(StoredTable::TAR_FILE);
    let published = || {
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))?;
        file.sync_all()?;
        fs::rename(path, &tar)?;
        File::open(directory)?.sync_all()
    };
    published().during("write", tar.display())
}

fn digest(file: &File, like: Digest) -> Result<Digest> {
    let mut hasher = Hasher::new(like.algorithm());
    let (mut buffer, mut at) = (vec![0; BUFFER], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

/// The compressed bytes of a layer, from its beginning to its end.
struct Whole<'a> {
    layer: &'a Layer,
    fetch: &'a dyn Fetch,
    /// Where the bytes after `part` begin.
    position: u64,
    part: Cursor<Vec<u8>>,
    hasher: Hasher,
}

impl Read for Whole<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let stored = &self.layer.stored;
        let end = stored.layer.size.min(self.position + REQUEST);
        if self.part.position() == self.part.get_ref().len() as u64 && self.position < end {
            self.part = Cursor::new(self.fetch.fetch(stored, self.position..end)?);
            self.position = end;
        }
        let amount = self.part.read(out)?;
        self.hasher.update(&out[..amount]);
        Ok(amount)
    }
}
