//! Which pieces of a layer have arrived, and the record of them in the directory of the snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cas_core::snapshot::OnDemandBytes;
use cas_core::{Error, ErrorKind, Result};
use cas_host::fill;
use cas_lazy::{LazyLayer, Piece, StoredTable};

use crate::place::Place;
use crate::read::Reads;

/// Maximum number of compressed bytes that one request fetches for neighboring pieces, unless a
/// single piece has more.
pub(crate) const REQUEST: u64 = 2 << 20;

/// Maximum time in which requests for a layer fail at once, after an attempt to fetch bytes of the
/// layer has failed. If the attempt took less time, they fail for only as long as it took. The
/// kernel reads each page of a failed read again on its own, and the pages may need other pieces.
/// Without this time, each of these reads would wait for the registry.
const REST: Duration = Duration::from_secs(5);

/// Whether the bytes of a piece are in the data file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Missing,
    /// An earlier process has recorded the piece with this checksum. Something may have changed the
    /// bytes since.
    Recorded(u64),
    /// This process has verified the bytes, or the data file is the complete tar.
    Present,
}

impl Arrival {
    /// Returns the arrival of a piece. `sum` is its checksum in the record, or 0 if there is none.
    fn of(sum: u64) -> Self {
        match sum {
            0 => Arrival::Missing,
            sum => Arrival::Recorded(sum),
        }
    }
}

/// What has arrived of a layer, and what was read.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) pieces: Vec<Arrival>,
    /// The pieces that threads are fetching, each with the attempt to fetch it.
    pub(crate) fetching: BTreeMap<usize, Arc<Attempt>>,
    /// The pieces that are present and not recorded, with their checksums.
    pub(crate) unrecorded: Vec<(usize, u64)>,
    /// The members whose headers were compared with the table of contents.
    pub(crate) checked: BTreeSet<usize>,
    pub(crate) reads: Reads,
    /// Whether the file [`StoredTable::READ_FILE`] lacks some of the `reads`.
    pub(crate) has_new_reads: bool,
    /// The content of the file [`StoredTable::BYTES_FILE`].
    pub(crate) written: OnDemandBytes,
    /// Whether a sync has failed. Bytes that were written since the last sync may be lost although
    /// they can still be read. Therefore nothing is read until the layer is opened again.
    pub(crate) has_failed: bool,
    /// The last attempt to fetch pieces, if it failed because the registry was unavailable.
    pub(crate) unavailable: Option<Unavailable>,
}

/// Why the registry was unavailable, and until when no further request is made.
pub(crate) struct Unavailable {
    why: String,
    until: Instant,
}

/// An attempt to fetch pieces. It is empty until the attempt ends. Then it has the error, or `None`
/// if the attempt succeeded.
pub(crate) type Attempt = OnceLock<Option<(ErrorKind, String)>>;

/// Missing pieces that the owner of this value fetches with one request.
pub(crate) struct Claim {
    pub(crate) run: Range<usize>,
    pub(crate) attempt: Arc<Attempt>,
}

impl State {
    /// Notes how an attempt to fetch pieces has ended, which began at the time `begun`.
    pub(crate) fn note_attempt(&mut self, begun: Instant, failed: Option<&Error>) {
        let unavailable = failed.filter(|error| error.kind() == ErrorKind::Unavailable);
        self.unavailable = unavailable.map(|error| Unavailable {
            why: error.to_string(),
            until: Instant::now() + begun.elapsed().min(REST),
        });
    }

    /// Checks that the last attempt did not fail just now.
    ///
    /// # Errors
    /// `Unavailable`, with the reason of the failure.
    pub(crate) fn check_rest(&self) -> Result<()> {
        match &self.unavailable {
            Some(failed) if Instant::now() < failed.until => {
                Err(Error::unavailable(failed.why.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Finds the first of `pieces` that is not present and that no thread is fetching. Returns this
    /// piece and all of `pieces` after it, or `None` if all are present or being fetched.
    pub(crate) fn missing(&self, pieces: &Range<usize>) -> Option<Range<usize>> {
        let missing = |piece: &usize| {
            self.pieces[*piece] != Arrival::Present && !self.fetching.contains_key(piece)
        };
        let begin = pieces.clone().find(missing)?;
        Some(begin..pieces.end)
    }

    /// Claims the piece `first`, and the missing pieces directly after it that the same request can
    /// fetch. Stops before the piece `end`. `pieces` has all pieces of the layer.
    pub(crate) fn claim(&mut self, first: usize, end: usize, pieces: &[Piece]) -> Claim {
        let run = self.run_from(first, end, pieces);
        let attempt = Arc::new(Attempt::new());
        let claimed = run.clone().map(|piece| (piece, Arc::clone(&attempt)));
        self.fetching.extend(claimed);
        Claim { run, attempt }
    }

    /// Returns the pieces that [`claim`](Self::claim) claims.
    fn run_from(&self, first: usize, end: usize, pieces: &[Piece]) -> Range<usize> {
        let begin = pieces[first].compressed.start;
        let mut last = first;
        while last + 1 < end {
            let next = &pieces[last + 1];
            let is_wanted = self.pieces[last + 1] == Arrival::Missing
                && !self.fetching.contains_key(&(last + 1));
            // Neighbors in the data file are usually neighbors in the layer, too.
            let follows = next.compressed.start >= pieces[last].compressed.start
                && next.compressed.start <= pieces[last].compressed.end;
            if !is_wanted || !follows || next.compressed.end - begin > REQUEST {
                break;
            }
            last += 1;
        }
        first..last + 1
    }
}

/// Opens the data file and the record of its pieces, and makes them if they are missing. If the
/// data file is too short, empties both. Returns them, and which pieces are recorded.
pub(crate) fn open_data(place: &Place, table: &LazyLayer) -> Result<(File, File, Vec<Arrival>)> {
    let data = place.open_file(StoredTable::DATA_FILE)?;
    let pieces = place.open_file(StoredTable::PIECES_FILE)?;
    let count = table.pieces().len();
    let mut recorded = vec![0; count * StoredTable::PIECE_RECORD];
    if data.metadata()?.len() >= table.stored_length() {
        fill(&pieces, &mut recorded, 0)?;
    } else {
        // The file is new, or something has changed it.
        pieces.set_len(0)?;
        data.set_len(0)?;
        data.set_len(table.stored_length())?;
    }
    let sums = StoredTable::piece_sums(&recorded, count).into_iter();
    Ok((data, pieces, sums.map(Arrival::of).collect()))
}
