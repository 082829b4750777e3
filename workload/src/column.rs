//! A column of the benchmark table: one way to store blobs.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{Digest, Error, Result};

/// A small blob. Its digest is known in advance. A column must check that the data has this digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// SHA-256 of the data.
    pub digest: Digest,
    /// The data.
    pub data: Bytes,
}

/// An image: a name, and the blobs that the name protects from garbage collection.
#[derive(Clone, Debug)]
pub struct ImageBlobs {
    /// The name.
    pub name: String,
    /// The blob that the name points to.
    pub root: Blob,
    /// The blobs that `root` refers to.
    pub children: Vec<Blob>,
}

/// What the acknowledgement of a write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The data and its record are on stable storage.
    Durable,
    /// A crash of the machine may lose written data. The column competes for the best value only
    /// in the rows that do not require durability, which are the rows of reads and of space on
    /// disk.
    Written,
    /// The data is lost when the process ends. The column does not compete for the best value in
    /// any row.
    Volatile,
}

impl Promise {
    /// Returns the text that states the durability in the head of a column.
    pub const fn text(self) -> &'static str {
        match self {
            Promise::Durable => "Full: synced",
            Promise::Written => "none: never synced",
            Promise::Volatile => "none: in memory",
        }
    }
}

/// Why a column is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One of our stores.
    Store,
    /// Another way to store blobs, for comparison with our stores.
    Other,
    /// A bound that no store on a disk can beat. The column is not printed in the table. It serves
    /// only as a baseline of the goals in [`targets`](crate::targets).
    Floor,
}

/// The future that opens a column.
pub type Opening = Pin<Box<dyn Future<Output = Result<Box<dyn Column>>> + Send>>;

/// A column that can be opened, in any number of directories.
pub struct Contender {
    /// The name of the column.
    pub name: String,
    /// Why the column is in the table.
    pub role: Role,
    /// What the acknowledgement of a write in this column means.
    pub promise: Promise,
    /// Opens the column in an existing directory.
    pub open: Box<dyn Fn(PathBuf) -> Opening + Send + Sync>,
}

impl Contender {
    /// Returns a column that is opened by `open`.
    pub fn new<F, O>(name: impl Into<String>, role: Role, promise: Promise, open: F) -> Self
    where
        F: Fn(PathBuf) -> O + Send + Sync + 'static,
        O: Future<Output = Result<Box<dyn Column>>> + Send + 'static,
    {
        Contender {
            name: name.into(),
            role,
            promise,
            open: Box::new(move |directory| Box::pin(open(directory))),
        }
    }
}

/// Returns the error `Unsupported` for an operation that a column does not have. The table shows
/// this error as N/A.
pub fn not_applicable() -> Error {
    Error::unsupported("the column does not have this operation")
}

/// The operations of an open column. Most operations handle many items in one call, so that the
/// overhead of a call hardly changes the measured values. If a column does not implement an
/// operation, the table shows N/A.
#[async_trait]
pub trait Column: Send + Sync {
    /// Stores blobs one by one. Each blob is acknowledged before the next blob is written.
    async fn put(&self, _blobs: &[Blob]) -> Result<()> {
        Err(not_applicable())
    }

    /// Stores blobs together. All blobs are acknowledged when the call returns.
    async fn put_batched(&self, _blobs: &[Blob]) -> Result<()> {
        Err(not_applicable())
    }

    /// Stores images as fast as possible, and also their names if the column can store names. All
    /// images and names are acknowledged when the call returns.
    async fn fill(&self, _images: &[ImageBlobs]) -> Result<()> {
        Err(not_applicable())
    }

    /// Stores the blob that consists of the [`pieces`](crate::data::pieces) of this seed and size.
    async fn put_large(&self, _seed: u64, _size: u64) -> Result<()> {
        Err(not_applicable())
    }

    /// Stores one blob with several concurrent writers. Each writer stores the whole blob, which
    /// consists of the [`pieces`](crate::data::pieces) of this seed and size.
    async fn put_same(&self, _seed: u64, _size: u64, _writers: usize) -> Result<()> {
        Err(not_applicable())
    }

    /// Returns how many of these blobs exist.
    async fn stat(&self, _digests: &[Digest]) -> Result<usize> {
        Err(not_applicable())
    }

    /// Opens and reads whole blobs. Returns the number of bytes.
    async fn read(&self, _digests: &[Digest]) -> Result<u64> {
        Err(not_applicable())
    }

    /// Reads `length` bytes at each offset of one blob. Returns the number of bytes.
    async fn read_ranges(&self, _digest: &Digest, _offsets: &[u64], _length: usize) -> Result<u64> {
        Err(not_applicable())
    }

    /// Lists all blobs with their sizes. Returns their number.
    async fn list(&self) -> Result<usize> {
        Err(not_applicable())
    }

    /// Sets a label of each blob to `value`, one blob at a time.
    async fn label(&self, _digests: &[Digest], _value: &str) -> Result<()> {
        Err(not_applicable())
    }

    /// Creates names that all point to one blob, one name at a time.
    async fn tag(&self, _names: &[String], _target: &Blob) -> Result<()> {
        Err(not_applicable())
    }

    /// Returns how many of these names exist.
    async fn resolve(&self, _names: &[String]) -> Result<usize> {
        Err(not_applicable())
    }

    /// Records in one batch which blobs the root blob of each image refers to.
    async fn edges(&self, _images: &[ImageBlobs]) -> Result<()> {
        Err(not_applicable())
    }

    /// Removes the names of images.
    async fn forget(&self, _names: &[String]) -> Result<()> {
        Err(not_applicable())
    }

    /// Removes the blobs that no name keeps. Returns their number.
    async fn collect(&self) -> Result<usize> {
        Err(not_applicable())
    }

    /// Creates an image of `layers` empty layers if it does not exist, then prepares a writable
    /// snapshot of the image `times` times. Returns the total time of the preparations, without the
    /// creation of the image.
    async fn prepare(&self, _layers: usize, _times: usize) -> Result<Duration> {
        Err(not_applicable())
    }
}
