//! A layer that is read on demand: notes which of its pieces have arrived, and fetches the missing
//! pieces.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use cas_core::snapshot::OnDemandBytes;
use cas_core::sync::lock;
use cas_core::{Context, Digest, Error, ErrorKind, Result};
use cas_host::{Pace, TREE, read_file, sum_of_range};
use cas_lazy::soci::Prefetch;
use cas_lazy::{LazyLayer, StoredTable};

use crate::arrival::{Arrival, Claim, State, open_data};
use crate::place::Place;
use crate::read::Reads;
use crate::{Fetch, bytes, complete};

/// As soon as this many pieces are present and not recorded, they are recorded. If there are fewer,
/// they are recorded within a second.
const UNRECORDED: usize = 16;
/// Maximum number of attempts to fetch pieces, if their bytes are wrong.
const ATTEMPTS: usize = 2;

/// A layer that is read on demand.
pub(crate) struct Layer {
    pub(crate) place: Place,
    /// Identifies the content of the data file: the beginning of the digest of the description.
    identity: u64,
    pub(crate) stored: StoredTable,
    pub(crate) table: LazyLayer,
    pub(crate) data: File,
    /// The record of the pieces. `None` if the data file was the complete tar when the layer was
    /// opened.
    pieces: Option<File>,
    /// Whether the complete tar is in the directory of the snapshot.
    is_complete: AtomicBool,
    /// Whether a thread completes the layer.
    is_completing: AtomicBool,
    /// Compressed bytes that were fetched.
    fetched: AtomicU64,
    /// Bytes that readers have requested.
    requested: AtomicU64,
    /// The pieces that are fetched before all others, in this order.
    first: Vec<Range<usize>>,
    state: Mutex<State>,
    /// Notified when pieces are no longer being fetched.
    arrived: Condvar,
}

impl Layer {
    /// Opens the layer of the snapshot whose directory is `directory`. If the complete tar is
    /// there, and if the data file of this layer is its tar, opens the tar as the data file.
    /// Otherwise makes the data file and its record if they are missing, and empties both if the
    /// data file is too short.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no layer that is read on demand; `Corrupt`, `OutOfRange` or
    /// `Unsupported` if its description, its table of contents or its list of spans cannot be used;
    /// errors of the file system.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let place = Place::open(directory)?;
        let inside = place.in_process();
        let read = |name: &str| {
            let bytes = read_file(&inside.join(TREE).join(name));
            bytes.during("read", place.shown(TREE).join(name).display())
        };
        let description = read(StoredTable::FILE)?;
        let identity = identity(&description);
        let stored = StoredTable::from_bytes(&description)?;
        let table = stored.read(&read(StoredTable::TABLE_FILE)?)?;
        let tar = complete::existing(&place)?;
        let is_complete = AtomicBool::new(tar.is_some());
        // A data file that is not a tar has the content of files at other offsets than the tar.
        let (data, pieces, arrived) = match tar.filter(|_| table.is_tar()) {
            Some(tar) => (tar, None, vec![Arrival::Present; table.pieces().len()]),
            None => {
                let (data, pieces, arrived) = open_data(&place, &table)?;
                (data, Some(pieces), arrived)
            }
        };
        let first = first_pieces(&place, &table)?;
        let before: OnDemandBytes = bytes::read(&inside, StoredTable::BYTES_FILE);
        let state = State {
            pieces: arrived,
            written: before,
            reads: Reads::of_snapshot(&inside),
            ..State::default()
        };
        Ok(Layer {
            place,
            identity,
            stored,
            table,
            data,
            pieces,
            is_complete,
            is_completing: AtomicBool::new(false),
            fetched: before.fetched.into(),
            requested: before.read.into(),
            first,
            state: Mutex::new(state),
            arrived: Condvar::new(),
        })
    }

    /// Returns what identifies the content of the data file. Layers with different content have
    /// different identities.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Returns the length of the data file in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.table.length()
    }

    /// Reads bytes of the data file from `offset` into `buffer`, and fetches what is missing.
    /// Returns the number of bytes read, which is smaller than the buffer only at the end.
    ///
    /// # Errors
    /// `Corrupt` or `OutOfRange` if a piece or a header does not match the table of contents;
    /// `Unavailable` after a failed sync, until the layer is opened again; errors of `fetch` and of
    /// the file system.
    pub(crate) fn read(&self, fetch: &dyn Fetch, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let end = self
            .length()
            .min(offset.saturating_add(buffer.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let buffer = &mut buffer[..(end - offset) as usize];
        self.requested.fetch_add(end - offset, Ordering::Relaxed);
        self.check_headers(fetch, offset..end)?;
        self.want(fetch, self.table.pieces_in(offset..end))?;
        if self.table.is_tar() {
            let mut state = lock(&self.state);
            state.has_new_reads |= state.reads.add_range(offset..end);
        }
        let stored = self.table.stored_length().clamp(offset, end);
        let (content, padding) = buffer.split_at_mut((stored - offset) as usize);
        self.data.read_exact_at(content, offset)?;
        padding.fill(0);
        Ok(buffer.len())
    }

    /// Returns whether a read of this range of the data file waits for the registry: a piece is
    /// missing, for the bytes of the range or for the headers of the files in the range, and
    /// requests do not fail at once because the last one failed.
    pub(crate) fn must_wait(&self, range: Range<u64>) -> bool {
        let headers = self.table.headers_before(range.clone()).into_iter();
        let ranges = headers.map(|(_, header)| header).chain([range]);
        let mut pieces = ranges.flat_map(|range| self.table.pieces_in(range));
        let state = lock(&self.state);
        pieces.any(|piece| state.pieces[piece] == Arrival::Missing) && state.check_rest().is_ok()
    }

    /// Returns the host of the registry that has the layer.
    pub(crate) fn registry(&self) -> String {
        let reference = &self.stored.reference;
        let host = reference.split_once('/').map_or("", |(host, _)| host);
        host.to_owned()
    }

    /// Fetches the pieces that are missing. Waits for pieces that other threads are fetching. If
    /// another thread fetches one of these pieces and fails, this call fails with the same error,
    /// so that readers do not wait for a registry one after the other. If the other fetch was
    /// cancelled, this call fetches the piece itself. Compares pieces that an earlier process has
    /// recorded with their checksums. Pieces that do not match count as missing.
    pub(crate) fn want(&self, fetch: &dyn Fetch, pieces: Range<usize>) -> Result<()> {
        loop {
            let claim = {
                let mut state = lock(&self.state);
                if state.has_failed {
                    return Err(sync_failed());
                }
                let mut others = pieces.clone();
                let Some(first) = others.find(|&piece| state.pieces[piece] != Arrival::Present)
                else {
                    return Ok(());
                };
                if let Arrival::Recorded(sum) = state.pieces[first] {
                    drop(state);
                    self.check_recorded(first, sum);
                    continue;
                }
                state.check_rest()?;
                if let Some(other) = state.fetching.get(&first).cloned() {
                    drop(self.arrived.wait_while(state, |_| other.get().is_none()));
                    match other.get().cloned().flatten() {
                        Some((kind, why)) if kind != ErrorKind::Cancelled => {
                            return Err(Error::new(kind, why));
                        }
                        _ => continue,
                    }
                }
                state.claim(first, pieces.end, self.table.pieces())
            };
            self.fetch_claimed(fetch, claim)?;
        }
    }

    /// Fetches the next of the pieces that are fetched before all others, with one request. Leaves
    /// out pieces that other threads are fetching. Returns false if there was no piece left to
    /// fetch.
    pub(crate) fn fetch_first(&self, fetch: &dyn Fetch) -> Result<bool> {
        self.fetch_next(fetch, &self.first)
    }

    /// Fetches the next missing pieces of the layer, as [`fetch_first`](Self::fetch_first) does.
    pub(crate) fn fetch_rest(&self, fetch: &dyn Fetch) -> Result<bool> {
        self.fetch_next(fetch, &[self.all()])
    }

    fn fetch_next(&self, fetch: &dyn Fetch, ranges: &[Range<usize>]) -> Result<bool> {
        loop {
            let claim = {
                let mut state = lock(&self.state);
                if state.has_failed {
                    return Err(sync_failed());
                }
                let Some(missing) = ranges.iter().find_map(|all| state.missing(all)) else {
                    return Ok(false);
                };
                if let Arrival::Recorded(sum) = state.pieces[missing.start] {
                    drop(state);
                    self.check_recorded(missing.start, sum);
                    continue;
                }
                state.check_rest()?;
                state.claim(missing.start, missing.end, self.table.pieces())
            };
            self.fetch_claimed(fetch, claim)?;
            return Ok(true);
        }
    }

    fn fetch_claimed(&self, fetch: &dyn Fetch, claim: Claim) -> Result<()> {
        let Claim { run, attempt } = claim;
        let begun = Instant::now();
        // Other threads wait until this attempt ends, so it must also end if the fetch panics.
        let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch_run(fetch, run.clone())));
        let stored = fetched.unwrap_or_else(|_| {
            let why = "a fetch of bytes of a layer panicked; please report it";
            Err(Error::internal(why).subject(self.stored.layer.digest))
        });
        let must_record = {
            let mut state = lock(&self.state);
            for piece in run {
                state.fetching.remove(&piece);
            }
            for (piece, sum) in stored.iter().flatten() {
                state.pieces[*piece] = Arrival::Present;
                state.unrecorded.push((*piece, *sum));
            }
            let failed = stored.as_ref().err();
            state.note_attempt(begun, failed);
            let _ = attempt.set(failed.map(|error| (error.kind(), error.to_string())));
            self.arrived.notify_all();
            state.unrecorded.len() >= UNRECORDED
        };
        stored?;
        if must_record && let Err(error) = self.record() {
            if self.has_failed() {
                return Err(error);
            }
            warn_unrecorded(&error);
        }
        Ok(())
    }

    /// Compares a piece that an earlier process has recorded with its checksum.
    fn check_recorded(&self, piece: usize, sum: u64) {
        let arrival = match self.sum(piece) {
            Ok(found) if found == sum => Arrival::Present,
            // A piece that cannot be read is fetched and written again, too.
            found => {
                let piece = &self.table.pieces()[piece];
                tracing::warn!(
                    ?piece,
                    ?found,
                    "a stored piece of a layer was changed or cannot be read; it is fetched again"
                );
                Arrival::Missing
            }
        };
        let mut state = lock(&self.state);
        // Another thread may have found the same, and may have fetched the piece since.
        if state.pieces[piece] == Arrival::Recorded(sum) {
            state.pieces[piece] = arrival;
        }
    }

    /// Returns the checksum of the bytes of a piece in the data file.
    fn sum(&self, piece: usize) -> io::Result<u64> {
        let range = self.table.pieces()[piece].data.clone();
        sum_of_range(&self.data, range, &mut Pace::new(None))
    }

    /// Fetches neighboring pieces, verifies them, and writes them to the data file. Returns the
    /// checksums for their records.
    fn fetch_run(&self, fetch: &dyn Fetch, run: Range<usize>) -> Result<Vec<(usize, u64)>> {
        let mut attempt = 1;
        loop {
            match self.fetch_once(fetch, run.clone()) {
                Err(error) if error.kind() == ErrorKind::Corrupt && attempt < ATTEMPTS => {
                    tracing::warn!(%error, "bytes of a layer are wrong; fetching them again");
                    attempt += 1;
                }
                fetched => return fetched,
            }
        }
    }

    fn fetch_once(&self, fetch: &dyn Fetch, run: Range<usize>) -> Result<Vec<(usize, u64)>> {
        let pieces = &self.table.pieces()[run.clone()];
        let begin = pieces.iter().map(|piece| piece.compressed.start).min();
        let end = pieces.iter().map(|piece| piece.compressed.end).max();
        let (Some(begin), Some(end)) = (begin, end) else {
            return Ok(Vec::new());
        };
        let bytes = self.fetch(fetch, begin..end)?;
        if bytes.len() as u64 != end - begin {
            return Err(Error::corrupt(format!(
                "expected the bytes {begin}..{end} of a layer, found {} bytes; try again",
                bytes.len()
            ))
            .subject(self.stored.layer.digest));
        }
        let mut sums = Vec::with_capacity(pieces.len());
        for (index, piece) in run.zip(pieces) {
            let of_piece = piece.compressed.start - begin..piece.compressed.end - begin;
            let of_piece = &bytes[of_piece.start as usize..of_piece.end as usize];
            // The last piece of a tar may continue after `length` with padding. Readers do not need
            // the padding, but the diff ID covers it.
            let write = |offset, part: &[u8]| Ok(self.data.write_all_at(part, offset)?);
            self.table.decode(index, of_piece, write)?;
            sums.push((index, self.sum(index)?));
        }
        Ok(sums)
    }

    /// Fetches compressed bytes of the layer.
    pub(crate) fn fetch(&self, fetch: &dyn Fetch, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = fetch.fetch(&self.stored, range)?;
        self.fetched
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Compares the headers of the members in `range` of the data file with the table of contents.
    /// Fetches them if they are missing. Notes that the members were read.
    fn check_headers(&self, fetch: &dyn Fetch, range: Range<u64>) -> Result<()> {
        for (member, header) in self.table.headers_before(range) {
            if lock(&self.state).checked.contains(&member) {
                continue;
            }
            self.want(fetch, self.table.pieces_in(header.clone()))?;
            let mut bytes = vec![0; (header.end - header.start) as usize];
            self.data.read_exact_at(&mut bytes, header.start)?;
            self.table.check_header(member, &bytes)?;
            let mut state = lock(&self.state);
            if state.checked.insert(member) {
                state.reads.add_member(member);
                state.has_new_reads = true;
            }
        }
        Ok(())
    }

    /// Returns whether a sync has failed, so that the layer must be opened again.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).has_failed
    }

    /// Returns whether all pieces are present.
    pub(crate) fn is_whole(&self) -> bool {
        let state = lock(&self.state);
        (state.pieces.iter()).all(|arrival| *arrival == Arrival::Present)
    }

    /// Returns how much of the layer has arrived.
    pub(crate) fn arrived(&self) -> OnDemandBytes {
        let state = lock(&self.state);
        let pieces = self.table.pieces().iter().zip(&state.pieces);
        let present = pieces.filter(|(_, arrival)| **arrival != Arrival::Missing);
        // Bytes between the pieces of a data file are zeros, and need no piece.
        let has_all = self.is_complete() || !state.pieces.contains(&Arrival::Missing);
        OnDemandBytes {
            total: self.length(),
            verified: match has_all {
                true => self.length(),
                false => present
                    .map(|(piece, _)| piece.data.end - piece.data.start)
                    .sum(),
            },
            fetched: self.fetched.load(Ordering::Relaxed),
            read: self.requested.load(Ordering::Relaxed),
        }
    }

    /// Writes how much of the layer has arrived, and which files were read, to the directory of its
    /// snapshot, if that has changed.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn write_arrived(&self) -> Result<()> {
        let arrived = self.arrived();
        let reads = {
            let mut state = lock(&self.state);
            if state.written == arrived && !state.has_new_reads {
                return Ok(());
            }
            let has_new = std::mem::take(&mut state.has_new_reads);
            has_new.then(|| state.reads.clone())
        };
        if let Some(reads) = reads {
            let written = bytes::write(&self.place, StoredTable::READ_FILE, &reads);
            lock(&self.state).has_new_reads |= written.is_err();
            written?;
        }
        bytes::write(&self.place, StoredTable::BYTES_FILE, &arrived)?;
        lock(&self.state).written = arrived;
        Ok(())
    }

    /// Returns whether there is work for [`fetch_first`](Self::fetch_first): one of the pieces that
    /// are fetched before all others is not present, and no thread is fetching it.
    pub(crate) fn misses_first(&self) -> bool {
        let state = lock(&self.state);
        self.first.iter().any(|all| state.missing(all).is_some())
    }

    /// Returns whether there is work for [`fetch_rest`](Self::fetch_rest).
    pub(crate) fn misses_rest(&self) -> bool {
        lock(&self.state).missing(&self.all()).is_some()
    }

    /// Returns the range of all pieces.
    fn all(&self) -> Range<usize> {
        0..self.table.pieces().len()
    }

    /// Completes the layer with [`complete::complete`], unless another thread does or has done so.
    /// Returns whether this call completed the layer.
    ///
    /// # Errors
    /// As [`complete::complete`].
    pub(crate) fn complete(&self, fetch: &dyn Fetch) -> Result<bool> {
        if self.is_completing.swap(true, Ordering::Acquire) {
            return Ok(false);
        }
        let must_complete = !self.is_complete();
        let completed = if must_complete {
            complete::complete(self, fetch)
        } else {
            Ok(())
        };
        self.is_completing.store(false, Ordering::Release);
        completed.map(|()| must_complete)
    }

    /// Returns whether a thread completes the layer.
    pub(crate) fn is_completing(&self) -> bool {
        self.is_completing.load(Ordering::Acquire)
    }

    /// Returns whether the complete tar is in the directory of the snapshot.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Notes that the complete tar is in the directory of the snapshot.
    pub(crate) fn set_complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// Returns whether the data file was removed, on its own or with the snapshot.
    pub(crate) fn is_removed(&self) -> bool {
        self.data.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    /// Records which pieces are present, so that the next process has them.
    ///
    /// # Errors
    /// `Unavailable` if an earlier sync has failed; errors of the file system.
    pub(crate) fn record(&self) -> Result<()> {
        let unrecorded = std::mem::take(&mut lock(&self.state).unrecorded);
        if unrecorded.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.data.sync_data() {
            lock(&self.state).has_failed = true;
            return Err(error).during("sync", StoredTable::DATA_FILE);
        }
        if self.has_failed() {
            return Err(sync_failed());
        }
        for (piece, sum) in unrecorded {
            if let Some(pieces) = &self.pieces {
                let at = piece * StoredTable::PIECE_RECORD;
                pieces.write_all_at(&sum.to_le_bytes(), at as u64)?;
            }
        }
        Ok(())
    }
}

/// Returns the pieces that are fetched before all others: the spans in the prefetch artifact, or
/// the pieces before the landmark of an eStargz layer. If a range begins within the range before it
/// or directly after it, the two become one range, so that one request can fetch their pieces.
fn first_pieces(place: &Place, table: &LazyLayer) -> Result<Vec<Range<usize>>> {
    let name = [TREE, StoredTable::PREFETCH_FILE].join("/");
    let bytes = match read_file(&place.in_process().join(&name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(vec![table.before_landmark()]);
        }
        bytes => bytes.during("read", place.shown(&name).display())?,
    };
    let last = table.pieces().len();
    let mut first: Vec<Range<usize>> = Vec::new();
    for spans in Prefetch::decode(&bytes)?.spans {
        let pieces = *spans.start() as usize..(*spans.end() as usize + 1).min(last);
        match first.last_mut() {
            Some(before) if (before.start..=before.end).contains(&pieces.start) => {
                before.end = before.end.max(pieces.end);
            }
            _ => first.push(pieces),
        }
    }
    Ok(first)
}

/// Returns the identity of the layer with this description, as [`Layer::identity`] does. The
/// description determines the content of the data file.
fn identity(description: &[u8]) -> u64 {
    let digest = Digest::sha256(description);
    let first = digest.as_bytes().first_chunk();
    first.map_or(0, |first| u64::from_be_bytes(*first))
}

/// Logs that a record could not be written: which pieces have arrived, or which files were read.
/// The next process fetches unrecorded pieces again.
pub(crate) fn warn_unrecorded(error: &Error) {
    tracing::warn!(
        %error,
        "cannot record which pieces of a layer have arrived or which files were read; pieces \
         without a record are fetched again"
    );
}

fn sync_failed() -> Error {
    Error::unavailable(
        "the fetched bytes of the layer could not be written to the disk; free space, or check \
         the disk",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn no_thread_waits_at_a_pipe_in_the_place_of_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join(TREE);
        std::fs::create_dir(&tree).unwrap();
        let pipe = tree.join(StoredTable::FILE);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let pipe = temp.path().join(StoredTable::READ_FILE);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (sender, receiver) = mpsc::channel();
        let directory = temp.path().to_owned();
        thread::spawn(move || {
            let opened = Layer::open(&directory).map(drop);
            let listed = crate::FilesRead::of_snapshot(&directory).map(drop);
            let kinds = [opened, listed].map(|one| one.unwrap_err().kind());
            sender
                .send((kinds, Reads::of_snapshot(&directory)))
                .unwrap();
        });
        let found = receiver.recv_timeout(Duration::from_secs(60));
        let (kinds, reads) = found.expect("no thread waits");
        assert_eq!(kinds, [ErrorKind::Corrupt; 2]);
        assert_eq!(reads, Reads::default());
    }
}
