//! What is run for the rows, and what is measured of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cas_core::{Context, Digest, Error, Result};

use crate::child::{self, Again, Task};
use crate::column::{Blob, Column, Contender, ImageBlobs, Promise};
use crate::rows::Scale;
use crate::{data, disk};

/// One thing that is run in a column; some give values for two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Put,
    Batch,
    Read,
    Disk,
    Large,
    Ranges,
    DiskLarge,
    Stream,
    Same,
    Fill,
    Stat,
    Absent,
    List,
    Resolve,
    Label,
    Tag,
    Edges,
    Prepare,
    Collect(u32),
    Reopen,
    Syncs,
    SyncsBatched,
}

impl Step {
    /// Whether it is run but once, since it takes long or gives the same again.
    pub(crate) fn once(self) -> bool {
        use Step::*;
        let slow = matches!(self, Stream | Fill | Collect(_));
        slow || matches!(self, Disk | DiskLarge | Syncs | SyncsBatched)
    }
}

/// Keys of rows and their values.
pub(crate) type Notes = Vec<(&'static str, f64)>;

const RANGE: usize = 64 << 10;
const RANGES: u64 = 1000;
const READ: usize = 1000;
const NAMES: usize = 200;
const LABELS: usize = 1000;
const EDGES: usize = 100;
const PREPARED: usize = 20;
const SAME: u64 = 16 << 20;
const WRITERS: usize = 8;
/// Puts that are traced.
const TRACED: usize = 1000;
const TRACED_BATCH: usize = 4096;

/// What all columns are given.
pub(crate) struct Shared {
    pub(crate) images: Vec<ImageBlobs>,
    /// The children of the images, in no order.
    there: Vec<Digest>,
    absent: Vec<Digest>,
}

impl Shared {
    pub(crate) fn of(scale: &Scale, many: bool) -> Self {
        let count = if many { scale.images } else { 0 };
        let images: Vec<ImageBlobs> = (0..count).map(data::image).collect();
        let blobs = images.iter().flat_map(|image| &image.children);
        let sorted: Vec<Digest> = blobs.map(|blob| blob.digest).collect();
        // A stride that has nothing in common with the number of blobs meets each once.
        let there = (0..sorted.len()).map(|number| sorted[number * 7919 % sorted.len()]);
        let absent = (0..count * 100).map(|number: u32| Digest::sha256(&number.to_le_bytes()));
        Shared {
            there: there.collect(),
            absent: absent.collect(),
            images,
        }
    }
}

/// One column while it is measured, in a directory of its own.
pub(crate) struct Lane<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) again: &'a Again,
    pub(crate) scale: &'a Scale,
    pub(crate) shared: &'a Shared,
    pub(crate) directory: PathBuf,
    pub(crate) column: Option<Box<dyn Column>>,
    pub(crate) round: usize,
    /// Bytes of small blobs that were stored.
    pub(crate) stored: u64,
}

impl Lane<'_> {
    async fn column(&mut self) -> Result<&dyn Column> {
        let column = match self.column.take() {
            Some(column) => column,
            None => (self.contender.open)(self.directory.clone()).await?,
        };
        Ok(&**self.column.insert(column))
    }

    fn task(&self) -> Task<'_> {
        Task {
            again: self.again,
            column: &self.contender.name,
            directory: &self.directory,
        }
    }

    /// Does `work` with the items, some at a time, until all are done or patience ends; how many
    /// were done, and in which time.
    async fn through<T>(
        &mut self,
        items: &[T],
        at_a_time: usize,
        work: impl AsyncFn(&dyn Column, &[T]) -> Result<()>,
    ) -> Result<(f64, Duration)> {
        let patience = self.scale.patience;
        let column = self.column().await?;
        let (mut done, begun) = (0, Instant::now());
        for some in items.chunks(at_a_time) {
            work(column, some).await?;
            done += some.len();
            if begun.elapsed() > patience {
                break;
            }
        }
        Ok((done as f64, begun.elapsed()))
    }

    /// Seeds that no other round has.
    fn seed(&self, of: u64) -> u64 {
        (of << 8) | self.round as u64
    }
}

fn micros((count, time): (f64, Duration)) -> f64 {
    time.as_secs_f64() * 1e6 / count
}

fn rate((count, time): (f64, Duration)) -> f64 {
    count / time.as_secs_f64()
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn expect(what: &str, expected: usize, found: usize) -> Result<()> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::corrupt(format!(
            "expected {expected} {what}, found {found}"
        ))),
    }
}

/// Runs a step.
pub(crate) async fn measure(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    match step {
        Step::Put | Step::Batch => put(step, lane).await,
        Step::Large | Step::Ranges | Step::Same => large(step, lane).await,
        Step::Fill | Step::Edges | Step::Label | Step::Tag => write(step, lane).await,
        Step::Read | Step::Stat | Step::Absent | Step::List | Step::Resolve => {
            read(step, lane).await
        }
        Step::Collect(percent) => collect(percent, lane).await,
        Step::Disk => {
            let stored = lane.stored;
            lane.column().await?;
            taken("disk", lane, stored)
        }
        Step::DiskLarge => {
            let stored = lane.scale.large;
            taken("disk-large", lane, stored)
        }
        _ => apart(step, lane).await,
    }
}

async fn put(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    let (key, seed, some) = match step {
        Step::Put => ("put", 1, 100),
        _ => ("batch", 2, 1024),
    };
    let blobs = data::small(lane.seed(seed), lane.scale.small);
    let done = lane
        .through(&blobs, some, async |column, blobs| match step {
            Step::Put => column.put(blobs).await,
            _ => column.put_batched(blobs).await,
        })
        .await?;
    lane.stored += done.0 as u64 * data::SMALL as u64;
    Ok(vec![(key, rate(done))])
}

async fn large(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    let (size, round) = (lane.scale.large, lane.round as u64);
    let column = lane.column().await?;
    match step {
        Step::Large => {
            let begun = Instant::now();
            column.put_large(round, size).await?;
            let mib = size as f64 / f64::from(1 << 20);
            Ok(vec![("large", rate((mib, begun.elapsed())))])
        }
        Step::Ranges => {
            let digest = data::digest(round, size);
            if column.stat(&[digest]).await? == 0 {
                column.put_large(round, size).await?;
            }
            let places = size - RANGE as u64;
            let offsets: Vec<u64> = (0..RANGES)
                .map(|n| n * 15_485_863 * 4096 % places)
                .collect();
            // Once for the caches.
            column.read_ranges(&digest, &offsets, RANGE).await?;
            let begun = Instant::now();
            let bytes = column.read_ranges(&digest, &offsets, RANGE).await?;
            let took = (RANGES as f64, begun.elapsed());
            expect("bytes", RANGE * RANGES as usize, bytes as usize)?;
            Ok(vec![("ranges", micros(took))])
        }
        _ => {
            // It is known beforehand, as to who pulls an image.
            data::digest(1 << 20 | round, SAME);
            let begun = Instant::now();
            column.put_same(1 << 20 | round, SAME, WRITERS).await?;
            Ok(vec![("same", millis(begun))])
        }
    }
}

async fn write(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    let (shared, round) = (lane.shared, lane.round);
    match step {
        Step::Fill => {
            let column = lane.column().await?;
            let begun = Instant::now();
            column.fill(&shared.images).await?;
            let blobs = shared.there.len() + shared.images.len();
            Ok(vec![("fill", rate((blobs as f64, begun.elapsed())))])
        }
        Step::Edges => {
            let images = &shared.images[..EDGES.min(shared.images.len())];
            let column = lane.column().await?;
            let begun = Instant::now();
            column.edges(images).await?;
            Ok(vec![("edges", millis(begun))])
        }
        Step::Label => {
            let value = format!("round {round}");
            let digests = &shared.there[..LABELS.min(shared.there.len())];
            let work =
                async |column: &dyn Column, some: &[Digest]| column.label(some, &value).await;
            Ok(vec![(
                "label",
                micros(lane.through(digests, 10, work).await?),
            )])
        }
        _ => {
            let name = |number| format!("example.org/tag-{round}:{number}");
            let names: Vec<String> = (0..NAMES).map(name).collect();
            let target: &Blob = &shared.images[0].root;
            let work = async |column: &dyn Column, some: &[String]| column.tag(some, target).await;
            Ok(vec![("tag", micros(lane.through(&names, 10, work).await?))])
        }
    }
}

async fn read(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    let shared = lane.shared;
    let (key, digests) = match step {
        Step::Read => return whole(lane).await,
        Step::List => {
            let column = lane.column().await?;
            let begun = Instant::now();
            let found = column.list().await?;
            let took = millis(begun);
            expect("blobs", shared.there.len() + shared.images.len(), found)?;
            return Ok(vec![("list", took)]);
        }
        Step::Resolve => {
            let names = shared.images.iter().map(|image| image.name.clone());
            let names: Vec<String> = names.collect();
            let work = async |column: &dyn Column, some: &[String]| {
                expect("names", some.len(), column.resolve(some).await?)
            };
            return Ok(vec![(
                "resolve",
                micros(lane.through(&names, 10, work).await?),
            )]);
        }
        Step::Stat => ("stat", &shared.there),
        _ => ("absent", &shared.absent),
    };
    let work = async |column: &dyn Column, some: &[Digest]| {
        let expected = if step == Step::Stat { some.len() } else { 0 };
        expect("blobs", expected, column.stat(some).await?)
    };
    Ok(vec![(
        key,
        micros(lane.through(digests, 1000, work).await?),
    )])
}

async fn whole(lane: &mut Lane<'_>) -> Result<Notes> {
    const SEED: u64 = 3 << 8;
    let blobs = data::small(SEED, READ);
    if lane.round == 0 {
        let column = lane.column().await?;
        match column.put_batched(&blobs).await {
            Err(error) if error.kind() == cas_core::ErrorKind::Unsupported => {
                column.put(&blobs).await?
            }
            outcome => outcome?,
        }
        lane.stored += (READ * data::SMALL) as u64;
    }
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let column = lane.column().await?;
    // Once for the caches.
    column.read(&digests).await?;
    let work = async |column: &dyn Column, some: &[Digest]| {
        expect(
            "bytes",
            some.len() * data::SMALL,
            column.read(some).await? as usize,
        )
    };
    Ok(vec![(
        "read",
        micros(lane.through(&digests, 100, work).await?),
    )])
}

async fn collect(percent: u32, lane: &mut Lane<'_>) -> Result<Notes> {
    let (shared, dead) = (
        lane.shared,
        (lane.scale.images * percent / 100).max(1) as usize,
    );
    // The first image keeps its many names.
    let dead = &shared.images[1..=dead];
    let names: Vec<String> = dead.iter().map(|image| image.name.clone()).collect();
    lane.column().await?.forget(&names).await?;
    let numbers = match lane.contender.promise {
        Promise::Volatile => {
            let begun = Instant::now();
            let count = lane.column().await?.collect().await?;
            vec![count as f64, begun.elapsed().as_secs_f64()]
        }
        _ => {
            lane.column = None;
            lane.task().run("collect")?
        }
    };
    let expected = dead.len() * data::IMAGE as usize;
    expect(
        "removed",
        expected,
        numbers.first().copied().unwrap_or_default() as usize,
    )?;
    lane.column().await?.fill(dead).await?;
    let key = match percent {
        1 => "collect-1",
        50 => "collect-50",
        _ => "collect-99",
    };
    let keys = [key, "collect-memory"].into_iter();
    let notes: Notes = keys.zip(numbers.into_iter().skip(1)).collect();
    Ok(notes
        .into_iter()
        .take(if percent == 50 { 2 } else { 1 })
        .collect())
}

fn taken(key: &'static str, lane: &Lane<'_>, stored: u64) -> Result<Notes> {
    if lane.contender.promise == Promise::Volatile {
        return Err(Error::unsupported("it is not on a disk"));
    }
    let directory = &lane.directory;
    let file = std::fs::File::open(directory).during("open", directory.display())?;
    // Blocks are counted once they are given out.
    rustix::fs::syncfs(&file).map_err(std::io::Error::from)?;
    match stored {
        0 => Err(Error::unsupported("nothing was stored for another row")),
        stored => Ok(vec![(key, disk::taken(directory)? as f64 / stored as f64)]),
    }
}

/// What is run in another process, or leaves the column alone.
async fn apart(step: Step, lane: &mut Lane<'_>) -> Result<Notes> {
    let volatile = lane.contender.promise == Promise::Volatile;
    match step {
        Step::Prepare => {
            let layers = lane.scale.layers;
            let taken = lane.column().await?.prepare(layers, PREPARED).await?;
            Ok(vec![("prepare", micros((PREPARED as f64, taken)))])
        }
        Step::Stream => {
            let size = lane.scale.stream;
            let numbers = lane.task().run(&format!("stream:{size}"))?;
            let [_, seconds, peak] = numbers[..] else {
                return Err(Error::internal("the measuring process is mute"));
            };
            let mib = size as f64 / f64::from(1 << 20);
            Ok(vec![("stream", mib / seconds), ("stream-memory", peak)])
        }
        Step::Reopen if volatile => Err(Error::unsupported("nothing is left of it")),
        Step::Reopen => {
            lane.task().kill()?;
            let blobs = data::small(child::SEED, child::STORED);
            let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
            let begun = Instant::now();
            let column = lane.column().await?;
            column.stat(&digests[..1]).await?;
            let took = millis(begun);
            expect(
                "acknowledged blobs",
                digests.len(),
                column.stat(&digests).await?,
            )?;
            Ok(vec![("reopen", took)])
        }
        Step::Syncs => Ok(vec![("syncs", lane.task().syncs("put", TRACED)?)]),
        _ => {
            let syncs = lane.task().syncs("batch", TRACED_BATCH)?;
            Ok(vec![("syncs-batch", syncs)])
        }
    }
}
