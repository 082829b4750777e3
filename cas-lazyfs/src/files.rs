//! The data files of all layers, by the numbers of their snapshots.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cas_core::sync::lock;
use cas_core::{Error, ErrorKind, Result};
use cas_lazy::StoredTable;

use crate::Fetch;
use crate::arrival::REQUEST;
use crate::layer::{Layer, warn_unrecorded};

/// Time until the next attempt to fetch a layer in the background, after a failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time until the next attempt, if the bytes of the layer are wrong. It is longer than any session.
const FINAL: Duration = Duration::from_secs(1 << 30);

/// Maximum number of requests at the same time for the pieces that containers read when they start.
/// Some of them decompress what has arrived while the others use the link. These requests are in
/// addition to the requests of readers.
const FIRST: usize = 6;
/// Number of threads that complete layers. While some of them decompress or verify what has arrived,
/// the others use the link. With fewer threads, a link with a delay of 20 ms and 50 MB/s was idle for
/// more than a tenth of the time. With more, the process needed more than 64 MiB of memory.
const COMPLETE: usize = 7;
/// Maximum number of layers that are fetched as a whole at the same time. Each needs memory for a
/// decoder and for several parts.
const WHOLE: usize = 3;

/// Default time that must pass after the last fetch for a reader before layers are completed. While
/// a program starts, it reads again and again, with short pauses. No layer is completed in these.
const QUIET: Duration = Duration::from_secs(1);

/// Time to wait while there is nothing to complete.
const IDLE: Duration = Duration::from_millis(50);

/// Fetches a whole layer to complete it, no faster than the speed allows. Each fetch waits until
/// readers are quiet. Readers never wait for one of these fetches.
struct Paced<'a> {
    files: &'a Files,
    layer: &'a Layer,
}

impl Fetch for Paced<'_> {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        while !self.files.is_quiet() {
            self.files.check(self.layer)?;
            thread::sleep(IDLE);
        }
        let due = self.files.turn(range.end - range.start);
        while Instant::now() < due {
            self.files.check(self.layer)?;
            thread::sleep(IDLE);
        }
        self.files.fetch.fetch(layer, range)
    }
}

/// The turn of a thread to fetch at most [`REQUEST`] bytes of pieces. Readers can wait for these
/// pieces, so the thread waits for its turn before it begins, and then fetches at once.
struct Turn<'a> {
    files: &'a Files,
    /// Number of bytes of the turn that were not fetched. Dropping the turn gives them back.
    left: AtomicU64,
}

impl Fetch for Turn<'_> {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = range.end - range.start;
        let spent = |left: u64| Some(left.saturating_sub(bytes));
        let _ = (self.left).fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
        self.files.fetch.fetch(layer, range)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let left = self.files.time_of(*self.left.get_mut());
        let mut next = lock(&self.files.next);
        *next = next.checked_sub(left).unwrap_or(*next);
    }
}

/// Fetches what readers wait for, and the pieces that containers read when they start.
struct Wanted<'a>(&'a Files);

impl Fetch for Wanted<'_> {
    fn fetch(&self, layer: &StoredTable, range: Range<u64>) -> Result<Vec<u8>> {
        let fetched = self.0.fetch.fetch(layer, range);
        self.0.note_activity();
        fetched
    }
}

/// Counts a read while it is served.
struct Serving<'a>(&'a AtomicUsize);

impl<'a> Serving<'a> {
    fn begin(reads: &'a AtomicUsize) -> Self {
        reads.fetch_add(1, Ordering::Relaxed);
        Serving(reads)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The data files of the layers in a directory of snapshots. A layer is opened when it is first
/// used.
pub struct Files {
    /// The directory in which each snapshot has its own directory.
    snapshots: PathBuf,
    fetch: Arc<dyn Fetch>,
    open: Mutex<BTreeMap<u64, Arc<Layer>>>,
    /// Maximum number of compressed bytes that are fetched per second to complete layers.
    speed: u64,
    /// When the next of these fetches may begin.
    next: Mutex<Instant>,
    /// Time that must pass after `active` before layers are completed.
    quiet: Duration,
    /// When a layer was last opened, or when a fetch by [`Wanted`] last ended, whichever is later.
    active: Mutex<Instant>,
    /// Number of reads that are being served.
    reads: AtomicUsize,
    /// Whether the session has ended.
    ended: AtomicBool,
    /// The layers that could not be fetched in the background, and the times of the next attempts.
    failed: Mutex<BTreeMap<u64, Instant>>,
}

impl Files {
    /// Returns the data files of the layers in `snapshots`, a directory in which each snapshot has
    /// its own directory. Missing bytes are fetched with `fetch`.
    pub fn new(snapshots: PathBuf, fetch: Arc<dyn Fetch>) -> Self {
        Files {
            snapshots,
            fetch,
            open: Mutex::default(),
            speed: u64::MAX,
            next: Mutex::new(Instant::now()),
            quiet: QUIET,
            active: Mutex::new(Instant::now()),
            reads: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            failed: Mutex::default(),
        }
    }

    /// Sets the maximum number of compressed bytes that are fetched per second to complete open
    /// layers. With 0, no layer is completed. By default, the speed is not limited. The pieces that
    /// are fetched before all others, because containers read them when they start, are always
    /// fetched without a limit.
    #[must_use]
    pub fn with_speed(mut self, bytes: u64) -> Self {
        self.speed = bytes;
        self
    }

    /// Sets the time that must pass after the last fetch, and after the last opening of a layer,
    /// before layers are completed. Fetches that complete layers do not count. By default, one
    /// second.
    #[must_use]
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Returns the identity of the layer that has this number now, and the length in bytes of its
    /// data file.
    ///
    /// # Errors
    /// As [`Layer::open`].
    pub(crate) fn find(&self, id: u64) -> Result<(u64, u64)> {
        let layer = self.current(id)?;
        Ok((layer.identity(), layer.length()))
    }

    /// Reads from the data file of the layer that [`find`](Self::find) has returned with this
    /// identity. Returns the number of bytes read.
    ///
    /// # Errors
    /// `FailedPrecondition` if the layer was removed, and another layer has its number; as
    /// [`Layer::open`] and [`Layer::read`].
    pub(crate) fn read(
        &self,
        id: u64,
        identity: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let layer = self.layer(id, identity)?;
        let _serving = Serving::begin(&self.reads);
        layer.read(&Wanted(self), offset, buffer)
    }

    /// Returns the host of the registry for which a read of the `size` bytes at `offset` of a data
    /// file waits. Returns `None` if the read does not wait: if none of these bytes is missing, if
    /// requests for the layer fail at once, or if the layer cannot be opened.
    pub(crate) fn registry_of_missing(
        &self,
        id: u64,
        identity: u64,
        offset: u64,
        size: u32,
    ) -> Option<String> {
        // If the layer cannot be opened, the read that follows returns the error.
        let layer = self.layer(id, identity).ok()?;
        let end = offset.saturating_add(size.into()).min(layer.length());
        layer.must_wait(offset..end).then(|| layer.registry())
    }

    /// Works in the background. Fetches the missing pieces that containers read when they start. If
    /// there are none, completes layers, as long as readers are quiet. Returns how long to wait
    /// before the next call.
    pub(crate) fn advance(&self) -> Duration {
        if self.layer_that_misses_first().is_some() {
            self.in_parallel(FIRST, || self.fetch_first());
            return Duration::ZERO;
        }
        if !self.may_complete() || self.incomplete_layer().is_none() {
            return IDLE;
        }
        self.in_parallel(COMPLETE, || self.complete_layers());
        Duration::ZERO
    }

    /// Runs a function in this number of threads at the same time.
    fn in_parallel(&self, threads: usize, work: impl Fn() + Sync) {
        thread::scope(|scope| {
            for _ in 1..threads {
                // If a thread cannot be started, the others do its share.
                let _ = thread::Builder::new().spawn_scoped(scope, &work);
            }
            work();
        });
    }

    /// Fetches the missing pieces that containers read when they start. Does not wait until readers
    /// are quiet, because they mostly need the same pieces.
    fn fetch_first(&self) {
        while !self.has_ended()
            && let Some((id, layer)) = self.layer_that_misses_first()
        {
            self.note_failure(id, layer.fetch_first(&Wanted(self)).map(drop));
        }
    }

    fn layer_that_misses_first(&self) -> Option<(u64, Arc<Layer>)> {
        self.open_layer(|layer| layer.misses_first() && !layer.is_removed())
    }

    /// Completes layers as long as readers are quiet. If the data file of a layer is its tar,
    /// fetches the missing pieces, and completes the layer when all are present. Otherwise, fetches
    /// the whole layer and completes it.
    fn complete_layers(&self) {
        while !self.has_ended()
            && self.may_complete()
            && let Some((id, layer)) = self.incomplete_layer()
        {
            let whole = Paced {
                files: self,
                layer: &layer,
            };
            let advanced = match layer.table.is_tar() && !layer.is_whole() {
                true => self.fetch_rest(&layer).map(|()| false),
                false => layer.complete(&whole),
            };
            if let Ok(true) = advanced {
                tracing::info!(id, arrived = ?layer.arrived(), "a layer is complete");
            }
            self.note_failure(id, advanced.map(drop));
        }
    }

    /// Waits for a turn, and then fetches missing pieces of the layer. Fetches nothing if layers may
    /// no longer be completed.
    fn fetch_rest(&self, layer: &Layer) -> Result<()> {
        let due = self.turn(REQUEST);
        let turn = Turn {
            files: self,
            left: AtomicU64::new(REQUEST),
        };
        while Instant::now() < due {
            self.check(layer)?;
            if !self.may_complete() {
                return Ok(());
            }
            thread::sleep(IDLE);
        }
        layer.fetch_rest(&turn).map(drop)
    }

    /// Checks that the session has not ended, and that the layer was not removed.
    ///
    /// # Errors
    /// `Cancelled` otherwise.
    fn check(&self, layer: &Layer) -> Result<()> {
        match self.has_ended() || layer.is_removed() {
            true => Err(Error::cancelled(
                "the fetch was stopped, because the session has ended or the layer was removed",
            )),
            false => Ok(()),
        }
    }

    /// Returns whether layers may be completed now: readers are quiet, and no layer misses pieces
    /// that containers read when they start.
    fn may_complete(&self) -> bool {
        self.speed > 0 && self.is_quiet() && self.layer_that_misses_first().is_none()
    }

    /// Returns an incomplete layer for which there is work that no thread does: pieces to fetch, or
    /// the completion.
    fn incomplete_layer(&self) -> Option<(u64, Arc<Layer>)> {
        let open = lock(&self.open);
        let are_completing = |layer: &&Arc<Layer>| !layer.table.is_tar() && layer.is_completing();
        let may_begin = open.values().filter(are_completing).count() < WHOLE;
        drop(open);
        self.open_layer(|layer| {
            let may_fetch = || layer.table.is_tar() && layer.misses_rest();
            let has_all = || match layer.table.is_tar() {
                true => layer.is_whole(),
                false => may_begin,
            };
            !layer.is_complete() && (may_fetch() || (has_all() && !layer.is_completing()))
        })
    }

    /// Returns when a fetch of this number of bytes may begin, so that all fetches together are no
    /// faster than the speed allows.
    fn turn(&self, bytes: u64) -> Instant {
        let takes = self.time_of(bytes);
        let mut next = lock(&self.next);
        let begin = (*next).max(Instant::now());
        *next = begin + takes;
        begin
    }

    /// Returns how long a fetch of this number of bytes takes at the speed.
    fn time_of(&self, bytes: u64) -> Duration {
        let seconds = bytes as f64 / self.speed as f64;
        Duration::try_from_secs_f64(seconds).map_or(FINAL, |takes| takes.min(FINAL))
    }

    /// `advanced` is the result of an attempt to fetch a layer in the background. If it is an
    /// error, notes when the next attempt may begin. Logs the error, unless the attempt was
    /// cancelled.
    fn note_failure(&self, id: u64, advanced: Result<()>) {
        if let Err(error) = advanced {
            // Bytes that do not have the diff ID will not have it later either.
            let wait = match error.kind() {
                ErrorKind::Corrupt => FINAL,
                _ => PATIENCE,
            };
            if error.kind() != ErrorKind::Cancelled {
                tracing::warn!(
                    %error,
                    id,
                    "cannot fetch a layer in the background; it is still read on demand"
                );
            }
            lock(&self.failed).insert(id, Instant::now() + wait);
        }
    }

    /// Ends what [`advance`](Self::advance) is doing.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`end`](Self::end) was called.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Returns an open layer for which `suits` returns true, and whose next attempt may begin now.
    fn open_layer(&self, suits: impl Fn(&Layer) -> bool) -> Option<(u64, Arc<Layer>)> {
        let open = lock(&self.open);
        let failed = lock(&self.failed);
        let now = Instant::now();
        let may_try = |id: &u64| failed.get(id).is_none_or(|again| *again <= now);
        let next = (open.iter()).find(|(id, layer)| may_try(id) && suits(layer));
        next.map(|(id, layer)| (*id, Arc::clone(layer)))
    }

    fn note_activity(&self) {
        *lock(&self.active) = Instant::now();
    }

    /// Returns whether no read is served, and no reader has needed the registry for some time.
    fn is_quiet(&self) -> bool {
        self.reads.load(Ordering::Relaxed) == 0 && lock(&self.active).elapsed() >= self.quiet
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// Closes the layers that were removed and those whose sync has failed. For all other layers,
    /// records which pieces have arrived and what was read. A failure is only logged: the next
    /// process fetches again what is not recorded.
    pub(crate) fn record(&self) {
        lock(&self.open).retain(|_, layer| !layer.is_removed() && !layer.has_failed());
        let layers: Vec<_> = lock(&self.open).values().cloned().collect();
        for layer in layers {
            let recorded = layer.record();
            if let Err(error) = recorded.and_then(|()| layer.write_arrived()) {
                warn_unrecorded(&error);
            }
        }
    }

    /// Returns the layer with this number and identity. A layer that is open is returned even if
    /// its directory was removed.
    fn layer(&self, id: u64, identity: u64) -> Result<Arc<Layer>> {
        let open = lock(&self.open).get(&id).cloned();
        if let Some(layer) = open.filter(|layer| layer.identity() == identity) {
            return Ok(layer);
        }
        let layer = self.current(id)?;
        if layer.identity() == identity {
            return Ok(layer);
        }
        Err(Error::precondition(
            "the layer was removed, and another layer has its number; mount the image again",
        ))
    }

    /// Returns the layer whose directory has this number now.
    fn current(&self, id: u64) -> Result<Arc<Layer>> {
        // Two threads must not open one layer, because each would fetch the same pieces.
        let mut open = lock(&self.open);
        if let Some(layer) = open.get(&id).filter(|layer| layer.place.is_current()) {
            return Ok(Arc::clone(layer));
        }
        let layer = Arc::new(Layer::open(&self.directory(id))?);
        open.insert(id, Arc::clone(&layer));
        // The failures were those of another layer.
        lock(&self.failed).remove(&id);
        // Its readers come soon.
        self.note_activity();
        Ok(layer)
    }
}
