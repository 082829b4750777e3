//! Completes a layer that is read on demand: makes its whole tar, and compares the tar with the
//! diff ID. Mounts that were made earlier still read the layer through its data file in the FUSE
//! file system. Later mounts read the tar itself.

use std::collections::VecDeque;
use std::fs::{File, FileTimes};
use std::io::{self, Cursor, Read, Write};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::SystemTime;

use cas_core::{Context, Digest, Error, ErrorKind, Hasher, Result};
use cas_host::erofs::open_file;
use cas_host::{Pace, digest_of};
use cas_layer::codec::Decoder;
use cas_lazy::StoredTable;

use crate::Fetch;
use crate::layer::Layer;
use crate::place::Place;

/// The name of the complete tar while it is made from a layer whose data file is not its tar.
const NEW: &str = "lazy.new";
/// Size in bytes of the buffer for decompressed bytes.
const BUFFER: usize = 256 << 10;
/// Size in bytes of the parts in which a whole layer is fetched.
const PART: u64 = 1 << 20;
/// Number of parts of a layer that are fetched while the part before them is decompressed. With one
/// part, a link with a delay of 20 ms and 50 MB/s was idle for half of the time.
const AHEAD: usize = 2;

/// Returns the complete tar in the directory of a snapshot, if it is there.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn existing(place: &Place) -> Result<Option<File>> {
    match open_file(&place.in_process().join(StoredTable::TAR_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened
            .during("open", place.shown(StoredTable::TAR_FILE).display())
            .map(Some),
    }
}

/// Makes the complete tar of a layer, in the directory of its snapshot. If the data file is the
/// tar, all its pieces must be present. Otherwise, fetches the whole layer.
///
/// # Errors
/// `Corrupt` if the tar does not have the diff ID, or if the layer does not have its digest or
/// cannot be decompressed; `OutOfRange` if the decompressed layer is too large; `Unavailable` after
/// a failed sync; errors of `fetch` and of the file system.
pub(crate) fn complete(layer: &Layer, fetch: &dyn Fetch) -> Result<()> {
    layer.record()?;
    if layer.table.is_tar() {
        publish_data(layer)?;
    } else {
        fetch_tar(layer, fetch)?;
    }
    layer.set_complete();
    Ok(())
}

/// Checks that the data file has the diff ID, and renames it to the complete tar.
fn publish_data(layer: &Layer) -> Result<()> {
    let algorithm = layer.stored.diff_id.algorithm();
    let found = digest_of(&layer.data, algorithm, &mut Pace::new(None))?;
    check(&found, &layer.stored)?;
    publish(&layer.data, StoredTable::DATA_FILE, &layer.place)?;
    // The record of the pieces has no meaning without the data file.
    let _ = layer.place.dir().remove(StoredTable::PIECES_FILE);
    Ok(())
}

/// Fetches the whole layer, and makes the complete tar of it.
fn fetch_tar(layer: &Layer, fetch: &dyn Fetch) -> Result<()> {
    let file = layer.place.new_file(NEW)?;
    let written = thread::scope(|scope| {
        let mut whole = Whole {
            layer,
            fetch,
            scope,
            position: 0,
            ahead: VecDeque::new(),
            part: Cursor::default(),
            hasher: Hasher::new(layer.stored.layer.digest.algorithm()),
        };
        write_tar(&mut whole, layer, &file)
    });
    let written = written.and_then(|()| publish(&file, NEW, &layer.place));
    if written.is_err() {
        let _ = layer.place.dir().remove(NEW);
    }
    written
}

/// Writes the decompressed layer to `file`. Checks that this tar has the diff ID, and that the
/// compressed layer has its digest.
fn write_tar(whole: &mut Whole<'_, '_>, layer: &Layer, mut file: &File) -> Result<()> {
    let stored = &layer.stored;
    let mut decoder = Decoder::new(&mut *whole, layer.table.compression())?;
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
    // Bytes after the last compressed stream belong to the layer, too.
    io::copy(whole, &mut io::sink())?;
    let found = whole.hasher.clone().finish();
    if found == stored.layer.digest {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the fetched layer has the wrong digest {found}; pull the image without --lazy"
    ))
    .subject(stored.layer.digest))
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

/// Gives the file `name` its final name, durably. Its modification time becomes the beginning of
/// 1970, so that a later change shows. Fails if another file has this name meanwhile, because the
/// bytes of that file were not verified.
fn publish(file: &File, name: &str, place: &Place) -> Result<()> {
    let published = || -> Result<()> {
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))?;
        file.sync_all()?;
        if !place.dir().is_file(name, file)? {
            return Err(Error::unavailable(
                "the fetched bytes of the layer were removed or replaced; mount the image again",
            ));
        }
        place
            .dir()
            .rename(name, place.dir(), StoredTable::TAR_FILE)?;
        Ok(place.dir().sync()?)
    };
    published().during("write", place.shown(StoredTable::TAR_FILE).display())
}

/// The compressed bytes of a layer, from its beginning to its end.
struct Whole<'scope, 'layer> {
    layer: &'layer Layer,
    fetch: &'layer dyn Fetch,
    scope: &'scope Scope<'scope, 'layer>,
    /// Where the part begins that is requested next.
    position: u64,
    /// The parts after `part` that were requested, in the order of the layer.
    ahead: VecDeque<ScopedJoinHandle<'scope, Result<Vec<u8>>>>,
    part: Cursor<Vec<u8>>,
    hasher: Hasher,
}

impl Whole<'_, '_> {
    /// Requests the next parts.
    fn request(&mut self) -> io::Result<()> {
        let (layer, fetch) = (self.layer, self.fetch);
        while self.ahead.len() < AHEAD && self.position < layer.stored.layer.size {
            let end = layer.stored.layer.size.min(self.position + PART);
            let range = self.position..end;
            let job = thread::Builder::new()
                .spawn_scoped(self.scope, move || layer.fetch(fetch, range))?;
            self.ahead.push_back(job);
            self.position = end;
        }
        Ok(())
    }
}

impl Read for Whole<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.part.position() == self.part.get_ref().len() as u64 {
            self.request()?;
            if let Some(next) = self.ahead.pop_front() {
                let panicked = |_| Error::internal("a fetch panicked; please report it");
                self.part = Cursor::new(next.join().map_err(panicked)??);
                self.request()?;
            }
        }
        let amount = self.part.read(out)?;
        self.hasher.update(&out[..amount]);
        Ok(amount)
    }
}
