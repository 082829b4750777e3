//! A column while it is measured, and the data that all columns receive.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cas_core::{Digest, Error, Result};

use crate::child::{SelfCommand, Task};
use crate::column::{Column, Contender, ImageBlobs, Promise};
use crate::data;
use crate::scale::Scale;

/// Images and digests that all columns receive.
pub(crate) struct Fixture {
    pub(crate) images: Vec<ImageBlobs>,
    /// The children of the images, shuffled.
    pub(crate) present: Vec<Digest>,
    /// Digests of blobs that no column has.
    pub(crate) absent: Vec<Digest>,
}

impl Fixture {
    /// Returns the fixture for a scale. The fixture is empty if `with_images` is false.
    pub(crate) fn new(scale: &Scale, with_images: bool) -> Self {
        let count = if with_images { scale.images } else { 0 };
        let images: Vec<ImageBlobs> = (0..count).map(data::image).collect();
        let blobs = images.iter().flat_map(|image| &image.children);
        let sorted: Vec<Digest> = blobs.map(|blob| blob.digest).collect();
        // The stride and the number of blobs have no common factor, so each blob occurs once.
        let present = (0..sorted.len()).map(|number| sorted[number * 7919 % sorted.len()]);
        let absent = (0..count * 100).map(|number: u32| Digest::sha256(&number.to_le_bytes()));
        Fixture {
            present: present.collect(),
            absent: absent.collect(),
            images,
        }
    }

    /// Returns the number of blobs of the images.
    pub(crate) fn blobs(&self) -> usize {
        self.present.len() + self.images.len()
    }
}

/// One column while it is measured, in its own directory.
pub(crate) struct Lane<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) self_command: &'a SelfCommand,
    pub(crate) scale: &'a Scale,
    pub(crate) fixture: &'a Fixture,
    pub(crate) directory: PathBuf,
    pub(crate) column: Option<Box<dyn Column>>,
    pub(crate) round: usize,
    /// Sum of the sizes in bytes of the blobs that the steps `put`, `batch`, `read` and `large`
    /// stored.
    pub(crate) stored: u64,
}

/// The amount of work that was done, and the time that the work took.
pub(crate) struct Taken {
    pub(crate) amount: f64,
    pub(crate) time: Duration,
}

impl Taken {
    pub(crate) fn since(begun: Instant, amount: f64) -> Self {
        Taken {
            amount,
            time: begun.elapsed(),
        }
    }

    /// Returns the amount per second.
    pub(crate) fn rate(&self) -> f64 {
        self.amount / self.time.as_secs_f64()
    }

    /// Returns the microseconds per item.
    pub(crate) fn micros(&self) -> f64 {
        self.time.as_secs_f64() * 1e6 / self.amount
    }
}

impl Lane<'_> {
    /// Returns the column. Opens it first if it is not open.
    pub(crate) async fn column(&mut self) -> Result<&dyn Column> {
        let column = match self.column.take() {
            Some(column) => column,
            None => (self.contender.open)(self.directory.clone()).await?,
        };
        Ok(&**self.column.insert(column))
    }

    /// Returns a value that runs tasks on this column in a child process.
    pub(crate) fn task(&self) -> Task<'_> {
        Task {
            self_command: self.self_command,
            column: &self.contender.name,
            directory: &self.directory,
        }
    }

    /// Returns whether the data of the column is lost when the process ends.
    pub(crate) fn is_volatile(&self) -> bool {
        self.contender.promise == Promise::Volatile
    }

    /// Calls `work` with `chunk` items at a time, until all items are done or the time of a round
    /// is over. Returns the number of items that were done, and the time.
    pub(crate) async fn timed<T>(
        &mut self,
        items: &[T],
        chunk: usize,
        work: impl AsyncFn(&dyn Column, &[T]) -> Result<()>,
    ) -> Result<Taken> {
        let limit = self.scale.round_time;
        let column = self.column().await?;
        let (mut done, begun) = (0, Instant::now());
        for some in items.chunks(chunk) {
            work(column, some).await?;
            done += some.len();
            if begun.elapsed() > limit {
                break;
            }
        }
        Ok(Taken::since(begun, done as f64))
    }

    /// Returns the seed of this round for data of a kind. Other rounds and other kinds have other
    /// seeds.
    pub(crate) fn seed(&self, kind: u64) -> u64 {
        (kind << 8) | self.round as u64
    }
}

/// Returns the milliseconds since `begun`.
pub(crate) fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// Returns the error `Corrupt` if `found` is not the expected number of `what`.
pub(crate) fn expect(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let text = format!("expected {expected} {what}, found {found}");
    Err(Error::corrupt(text))
}
