//! Decompresses a gzip stream with the help of checkpoints: several threads decompress the spans
//! between them, and the results are returned in their order.
//!
//! A span is returned only if the span before it ended with exactly the state in which this one
//! began, down to the window and the checksum of the member. So the bytes are those that one
//! decoder of the whole stream returns, whatever the checkpoints are. If the end of a span differs
//! from the checkpoint there, one decoder decompresses this span and the rest of the stream.
//! Otherwise this decoder decompresses only what follows the last checkpoint. So this decoder finds
//! every error of the stream.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, Scope};

use cas_core::Result;
use cas_core::sync::lock;

use super::checkpoint::{Checkpoint, Checkpoints, Recorder};
use super::{Compression, Decoder};

/// Maximum number of threads for one layer.
const THREADS: usize = 4;
/// Maximum number of bytes that one call decompresses. Only the last call for a span stops at each
/// block.
const READ: usize = 256 << 10;
/// Maximum number of bytes in memory, compressed and decompressed, unless one span has more.
const MEMORY: u64 = 64 << 20;

/// A reader of the decompressed bytes of `R`.
pub(crate) struct Spans<R: Read> {
    checkpoints: Arc<Checkpoints>,
    /// `None` once one decoder decompresses the rest.
    source: Option<R>,
    /// What the source returned after the last span in `pending`, if it then ended or failed.
    cut: Option<Cut>,
    jobs: Sender<Job>,
    threads: usize,
    /// The spans that threads decompress, in their order.
    pending: VecDeque<Pending>,
    /// The number of bytes in memory for `pending`.
    memory: u64,
    /// The number of spans that were decompressed.
    done: usize,
    /// The last decompressed span, and the number of its bytes that were returned.
    span: Vec<u8>,
    at: usize,
    rest: Option<Decoder<Rest<R>>>,
}

/// The last bytes of a source that ended or failed within a span.
struct Cut {
    bytes: Vec<u8>,
    error: Option<io::Error>,
}

/// A span that a thread decompresses.
struct Pending {
    compressed: Arc<Vec<u8>>,
    memory: u64,
    answer: Receiver<Option<Vec<u8>>>,
}

struct Job {
    /// The number of the span. It ends at the checkpoint with this number, and begins at the one
    /// before it, or at the beginning of the stream.
    span: usize,
    compressed: Arc<Vec<u8>>,
    /// Memory that is used again.
    buffer: Vec<u8>,
    answer: SyncSender<Option<Vec<u8>>>,
}

/// Returns how many threads decompress spans on this machine. It is 1 if spans are of no use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS))
}

impl<R: Read> Spans<R> {
    /// Creates a reader of `source`, a whole gzip stream, and starts at most `threads` threads,
    /// which end when the reader is dropped. If no thread can be started, one decoder decompresses
    /// the whole stream.
    pub(crate) fn new<'scope>(
        source: R,
        checkpoints: Arc<Checkpoints>,
        threads: usize,
        scope: &'scope Scope<'scope, '_>,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let mut started = 0;
        while started < threads {
            let (checkpoints, waiting) = (Arc::clone(&checkpoints), Arc::clone(&waiting));
            let thread = Builder::new().name("cas-span".to_owned());
            if (thread.spawn_scoped(scope, move || work(&checkpoints, &waiting))).is_err() {
                break;
            }
            started += 1;
        }
        Spans {
            checkpoints,
            source: Some(source),
            cut: None,
            jobs,
            threads: started,
            pending: VecDeque::new(),
            memory: 0,
            done: 0,
            span: Vec::new(),
            at: 0,
            rest: None,
        }
    }

    /// Returns the number of compressed bytes read from the source. The reader must have reached
    /// its end.
    pub(crate) fn consumed(&self) -> u64 {
        self.rest.as_ref().map_or(0, Decoder::consumed)
    }

    /// Returns the number of spans that threads have decompressed, and the checkpoints that were
    /// recorded because some of the given ones were wrong. The reader must have reached its end.
    pub(crate) fn finish(self) -> (usize, Option<Checkpoints>) {
        (self.done, self.rest.and_then(Decoder::recorded))
    }

    /// Reads spans from the source and passes them to the threads, as far ahead as is allowed.
    fn read_ahead(&mut self) {
        while self.cut.is_none() && self.pending.len() <= self.threads {
            let span = self.done + self.pending.len();
            let Some((compressed, decompressed)) = lengths(&self.checkpoints, span) else {
                return;
            };
            let memory = compressed + decompressed;
            if !self.pending.is_empty() && self.memory + memory > MEMORY {
                return;
            }
            let Some(source) = &mut self.source else {
                return;
            };
            let mut bytes = Vec::with_capacity(compressed as usize);
            let read = source.take(compressed).read_to_end(&mut bytes);
            if read.is_err() || (bytes.len() as u64) < compressed {
                let error = read.err();
                self.cut = Some(Cut { bytes, error });
                return;
            }
            let compressed = Arc::new(bytes);
            let (sender, answer) = mpsc::sync_channel(1);
            let job = Job {
                span,
                compressed: Arc::clone(&compressed),
                buffer: std::mem::take(&mut self.span),
                answer: sender,
            };
            self.at = 0;
            // If all threads have ended, the answer is never sent, and one decoder goes on.
            let _ = self.jobs.send(job);
            self.memory += memory;
            self.pending.push_back(Pending {
                compressed,
                memory,
                answer,
            });
        }
    }

    /// Makes the next span the current one. If there is none, or if its end differs from the
    /// checkpoint there, makes a decoder of the rest.
    fn next_span(&mut self) -> Result<()> {
        self.read_ahead();
        if let Some(first) = self.pending.front()
            && let Ok(Some(span)) = first.answer.recv()
        {
            self.memory -= first.memory;
            self.pending.pop_front();
            (self.span, self.at) = (span, 0);
            self.done += 1;
            return Ok(());
        }
        let mut pieces: VecDeque<Arc<Vec<u8>>> =
            self.pending.drain(..).map(|span| span.compressed).collect();
        let mut error = None;
        if let Some(cut) = self.cut.take() {
            pieces.push_back(Arc::new(cut.bytes));
            error = cut.error;
        }
        let rest = Rest {
            pieces,
            at: 0,
            error,
            source: self.source.take(),
        };
        let known = &self.checkpoints.0[..self.done];
        let mut decoder = match known.last().map(|last| (last.place, last.window())) {
            // The last span ended with this window, so it is not damaged.
            Some((place, window)) => Decoder::resume(rest, &place, &window.unwrap_or_default())?,
            None => Decoder::new(rest, Compression::Gzip)?,
        };
        if self.done < self.checkpoints.len() {
            decoder.record(Recorder::after(known));
        }
        self.rest = Some(decoder);
        Ok(())
    }
}

/// Returns the numbers of compressed and decompressed bytes of a span, or `None` for what follows
/// the last checkpoint.
fn lengths(checkpoints: &Checkpoints, span: usize) -> Option<(u64, u64)> {
    let (begin, end) = (begin(checkpoints, span), &checkpoints.0.get(span)?.place);
    let (compressed, decompressed) = begin.map_or((0, 0), |Checkpoint { place, .. }| {
        (place.compressed, place.decompressed)
    });
    Some((end.compressed - compressed, end.decompressed - decompressed))
}

/// Returns the checkpoint at which a span begins, or `None` for the first span.
fn begin(checkpoints: &Checkpoints, span: usize) -> Option<&Checkpoint> {
    checkpoints.0.get(span.checked_sub(1)?)
}

impl<R: Read> Read for Spans<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let available = &self.span[self.at..];
            if !available.is_empty() || out.is_empty() {
                let read = available.len().min(out.len());
                out[..read].copy_from_slice(&available[..read]);
                self.at += read;
                return Ok(read);
            }
            if let Some(rest) = &mut self.rest {
                return rest.read(out);
            }
            self.next_span()?;
        }
    }
}

/// The rest of a source: pieces that were read already, and then an error or the source itself.
struct Rest<R> {
    pieces: VecDeque<Arc<Vec<u8>>>,
    /// The number of bytes of the first piece that were returned.
    at: usize,
    error: Option<io::Error>,
    source: Option<R>,
}

impl<R: Read> Read for Rest<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.pieces.front() {
            let available = &piece[self.at..];
            if !available.is_empty() {
                let read = available.len().min(out.len());
                out[..read].copy_from_slice(&available[..read]);
                self.at += read;
                return Ok(read);
            }
            self.pieces.pop_front();
            self.at = 0;
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.source
            .as_mut()
            .map_or(Ok(0), |source| source.read(out))
    }
}

/// The work of one thread: decompresses spans until there are no more.
fn work(checkpoints: &Checkpoints, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = lock(waiting).recv();
        let Ok(job) = job else { return };
        let span = decompress(checkpoints, job.span, &job.compressed, job.buffer);
        // The answer is not awaited if an earlier span was wrong.
        let _ = job.answer.send(span);
    }
}

/// Decompresses a span. Returns `None` if its end differs from the checkpoint there.
fn decompress(
    checkpoints: &Checkpoints,
    span: usize,
    compressed: &[u8],
    mut buffer: Vec<u8>,
) -> Option<Vec<u8>> {
    let end = checkpoints.0.get(span)?;
    let mut decoder = match begin(checkpoints, span) {
        Some(begin) => Decoder::resume(compressed, &begin.place, &begin.window()?).ok()?,
        None => Decoder::new(compressed, Compression::Gzip).ok()?,
    };
    decoder.expect(end.place);
    let length = lengths(checkpoints, span)?.1 as usize;
    // The last byte is never written unless the span is longer than its checkpoint states.
    buffer.resize(length + 1, 0);
    let mut filled = 0;
    loop {
        let most = buffer.len().min(filled + READ);
        match decoder.read(&mut buffer[filled..most]) {
            Ok(read @ 1..) => filled += read,
            _ => break,
        }
    }
    let window = decoder.found()?;
    if filled != length || window != end.window()? {
        return None;
    }
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::thread;

    use cas_core::Error;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::super::checkpoint::Begins;
    use super::*;

    const SPACING: u64 = 48 << 10;

    /// Returns bytes that gzip compresses to about a half, or to little if `kind` is 0.
    fn plain(mut seed: u64, length: usize, kind: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match kind {
                0 => bytes.extend([(seed >> 62) as u8; 64]),
                _ => bytes.extend((seed >> 16 & 0x0f0f_0f0f_0f0f).to_le_bytes()),
            }
        }
        bytes.truncate(length);
        bytes
    }

    /// Compresses bytes to one member. If `flush` is not zero, an empty block follows each `flush`
    /// bytes, as compressors that work in parallel write it.
    fn member(plain: &[u8], level: u32, flush: usize) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        for piece in plain.chunks(if flush == 0 { usize::MAX } else { flush }) {
            gzip.write_all(piece).unwrap();
            if flush > 0 {
                gzip.flush().unwrap();
            }
        }
        gzip.finish().unwrap()
    }

    /// A layer of members of several kinds, with zeros between them and at the end.
    fn layer() -> (Vec<u8>, Vec<u8>) {
        let (mut whole, mut layer) = (Vec::new(), Vec::new());
        for (number, (length, level, flush)) in [
            (700_000, 6, 0),
            (10, 6, 0),
            (200_000, 0, 0),
            (300_000, 1, 20_000),
            (0, 6, 0),
            (400_000, 9, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = plain(number as u64, length, (number as u64 + 1) % 4);
            layer.extend(member(&bytes, level, flush));
            layer.extend(vec![0; number % 3]);
            whole.extend(bytes);
        }
        (whole, layer)
    }

    fn record(layer: &[u8], spacing: u64, most: usize) -> Checkpoints {
        let mut decoder = Decoder::new(layer, Compression::Gzip).unwrap();
        decoder.record(Recorder::with_bounds(&[], spacing, most));
        io::copy(&mut decoder, &mut io::sink()).unwrap();
        decoder.recorded().unwrap()
    }

    /// The outcome of reading a stream: the bytes up to the end or to an error, the error, and the
    /// number of compressed bytes if there was no error.
    #[derive(Debug)]
    struct Outcome {
        bytes: Vec<u8>,
        error: Option<String>,
        consumed: Option<u64>,
    }

    impl PartialEq for Outcome {
        /// How many bytes precede an error depends on the sizes of the buffers.
        fn eq(&self, other: &Self) -> bool {
            let (one, two) = (&self.bytes, &other.bytes);
            let is_same = match self.error {
                None => one == two,
                Some(_) => one.starts_with(two) || two.starts_with(one),
            };
            is_same && self.error == other.error && self.consumed == other.consumed
        }
    }

    fn outcome(reader: &mut impl Read) -> Outcome {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        Outcome {
            bytes,
            error: read.err().map(|error| Error::from(error).to_string()),
            consumed: None,
        }
    }

    fn serial(layer: impl Read) -> Outcome {
        let mut decoder = Decoder::new(layer, Compression::Gzip).unwrap();
        let mut outcome = outcome(&mut decoder);
        outcome.consumed = outcome.error.is_none().then(|| decoder.consumed());
        outcome
    }

    /// Decompresses a layer with checkpoints. Returns what [`Spans::finish`] returns, too.
    fn parallel(
        layer: impl Read,
        checkpoints: &Checkpoints,
        threads: usize,
    ) -> (Outcome, usize, Option<Checkpoints>) {
        thread::scope(|scope| {
            let mut spans = Spans::new(layer, Arc::new(checkpoints.clone()), threads, scope);
            let mut outcome = outcome(&mut spans);
            outcome.consumed = outcome.error.is_none().then(|| spans.consumed());
            let (done, recorded) = spans.finish();
            (outcome, done, recorded)
        })
    }

    #[test]
    fn spans_are_decompressed_as_by_one_decoder() {
        let (whole, layer) = layer();
        let checkpoints = record(&layer, SPACING, 512);
        assert!((20..40).contains(&checkpoints.len()), "{checkpoints:?}");
        let begins = checkpoints.0.iter().map(|one| one.place.begins);
        let members = begins.filter(|begins| *begins == Begins::Member).count();
        assert!((1..10).contains(&members), "{members}");
        let expected = serial(&layer[..]);
        assert_eq!((&expected.bytes, &expected.error), (&whole, &None));
        assert_eq!(expected.consumed, Some(layer.len() as u64));
        for threads in [0, 1, 3] {
            let (found, done, recorded) = parallel(&layer[..], &checkpoints, threads);
            assert!(found == expected, "{threads} threads");
            match threads {
                0 => assert_eq!(done, 0),
                _ => assert_eq!((done, recorded), (checkpoints.len(), None)),
            }
        }
    }

    #[test]
    fn checkpoints_of_a_large_layer_have_larger_distances() {
        let (_, layer) = layer();
        let all = record(&layer, SPACING, 512);
        let some = record(&layer, SPACING, 9);
        assert!((5..=9).contains(&some.len()), "{}", some.len());
        assert!(some.0.iter().any(|one| all.0.contains(one)));
        let (found, done, _) = parallel(&layer[..], &some, 2);
        assert!(found == serial(&layer[..]));
        assert_eq!(done, some.len());
        // A layer with few checkpoints has none.
        let mut decoder = Decoder::new(&layer[..], Compression::Gzip).unwrap();
        decoder.record(Recorder::new());
        io::copy(&mut decoder, &mut io::sink()).unwrap();
        assert_eq!(decoder.recorded(), None);
    }

    #[test]
    fn checkpoints_that_lie_change_no_byte() {
        let (_, layer) = layer();
        let expected = serial(&layer[..]);
        let truth = record(&layer, SPACING, 512);
        let foreign = record(&member(&plain(99, 2_000_000, 1), 6, 0), SPACING, 512);
        let check = |what: &str, first_wrong: usize, lies: &Checkpoints| {
            let (found, done, recorded) = parallel(&layer[..], lies, 2);
            assert!(found == expected, "{what}");
            assert_eq!(done, first_wrong, "{what}");
            // The rest is too short for more checkpoints.
            let kept = (done >= 4).then(|| Checkpoints(truth.0[..done].to_vec()));
            assert_eq!(recorded, kept, "{what}");
        };
        check("of another layer", 0, &foreign);
        for at in [0, 1, 7, truth.len() - 1] {
            let lie = |what: &str, change: &dyn Fn(&mut Checkpoint)| {
                let mut lies = truth.clone();
                change(&mut lies.0[at]);
                check(&format!("{what} of {at}"), at, &lies);
            };
            lie("compressed", &|one| one.place.compressed -= 1);
            lie("compressed", &|one| one.place.compressed += 1);
            lie("decompressed", &|one| one.place.decompressed -= 1);
            lie("decompressed", &|one| one.place.decompressed += 1);
            lie("sum", &|one| one.place.sum ^= 1);
            lie("length", &|one| one.place.length ^= 1);
            lie("begins", &|one| {
                one.place.begins = match one.place.begins {
                    Begins::Block { bits, last } if bits > 0 => Begins::Block {
                        bits: bits % 7 + 1,
                        last,
                    },
                    Begins::Block { .. } => Begins::Member,
                    Begins::Member => Begins::Block { bits: 0, last: 0 },
                };
            });
            let next = truth.0[(at + 3) % truth.len()].clone();
            lie("window", &|one| *one = one.with_window_of(&next));
            lie("damaged window", &|one| *one = one.with_damaged_window());
            let mut lies = truth.clone();
            lies.0.remove(at);
            let (found, done, _) = parallel(&layer[..], &lies, 2);
            assert!(found == expected && done == lies.len(), "without {at}");
        }
    }

    #[test]
    fn damaged_layers_end_as_with_one_decoder() {
        let (_, layer) = layer();
        let checkpoints = record(&layer, SPACING, 512);
        for at in (0..layer.len()).step_by(layer.len() / 40) {
            let mut changed = layer.clone();
            changed[at] ^= 0x10;
            let foreign = [&layer[..at], b"other bytes"].concat();
            for damaged in [&changed, &layer[..at].to_vec(), &foreign] {
                let (found, ..) = parallel(&damaged[..], &checkpoints, 2);
                let expected = serial(&damaged[..]);
                assert!(
                    found == expected,
                    "{at}: {:?} {:?}",
                    found.error,
                    expected.error
                );
            }
            let broken = || layer[..at].chain(Broken);
            let (found, ..) = parallel(broken(), &checkpoints, 2);
            assert!(found == serial(broken()), "{at}");
            assert!(found.error.is_some_and(|error| error.contains("broken")));
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 48,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_layer_is_decompressed_as_by_one_decoder(
            members in prop::collection::vec(
                (any::<u64>(), 0..150_000_usize, 0..3_u64, 0..10_u32, 0..3_usize), 1..6
            ),
            spacing in 1..40_000_u64,
            threads in 1..4_usize,
            (lie, byte) in (any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let mut layer = Vec::new();
            for (seed, length, kind, level, flush) in members {
                layer.extend(member(&plain(seed, length, kind), level, flush * 9_000));
            }
            let mut decoder = Decoder::new(&layer[..], Compression::Gzip).unwrap();
            decoder.record(Recorder::with_bounds(&[], spacing, 512));
            io::copy(&mut decoder, &mut io::sink()).unwrap();
            let Some(checkpoints) = decoder.recorded() else { return Ok(()) };
            let stored = checkpoints.encode();
            prop_assert_eq!(&Checkpoints::decode(stored.clone().into()).unwrap(), &checkpoints);
            let expected = serial(&layer[..]);
            let (found, done, _) = parallel(&layer[..], &checkpoints, threads);
            prop_assert!(found == expected);
            prop_assert_eq!(done, checkpoints.len());
            // One changed byte of the stored checkpoints.
            let mut changed = stored;
            let at = lie.index(changed.len());
            changed[at] = byte;
            if let Ok(lies) = Checkpoints::decode(changed.into()) && lies.are_close() {
                prop_assert!(parallel(&layer[..], &lies, threads).0 == expected);
            }
        }
    }
}
