//! A column: one way to store blobs, and what can be asked of it.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::{Digest, Error, Result};

/// A small blob, whose digest is known beforehand and must be checked all the same.
#[derive(Clone, Debug)]
pub struct Blob {
    /// SHA-256 of the data.
    pub digest: Digest,
    /// The data.
    pub data: Bytes,
}

/// A name, and what is kept by it.
#[derive(Clone, Debug)]
pub struct ImageBlobs {
    /// The name.
    pub name: String,
    /// What the name stands for.
    pub root: Blob,
    /// What the root refers to.
    pub children: Vec<Blob>,
}

/// What the acknowledgement of a write means; the head of the column says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Bytes and record are on stable storage.
    Durable,
    /// A crash of the machine may lose what was written; such a column competes where it reads.
    Written,
    /// Nothing outlives the process; such a column does not compete.
    Volatile,
}

impl Promise {
    /// As the head of a column says it.
    pub const fn text(self) -> &'static str {
        match self {
            Promise::Durable => "Full: synced",
            Promise::Written => "none: never synced",
            Promise::Volatile => "none: in memory",
        }
    }
}

/// What a column is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A store of ours.
    Store,
    /// Something to compare with.
    Other,
    /// What no column can beat; shown in the ratios alone.
    Floor,
}

/// A future of a column that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = Result<Box<dyn Column>>> + Send>>;

/// A column that can be opened, in any number of directories.
pub struct Contender {
    /// The head of the column.
    pub name: String,
    /// What it is there for.
    pub role: Role,
    /// What its acknowledgement means.
    pub promise: Promise,
    /// Opens it in a directory, made where nothing is there.
    pub open: Box<dyn Fn(PathBuf) -> Opening + Send + Sync>,
}

impl Contender {
    /// A column that is opened by `open`.
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

/// The error of an operation that a column has not; the table shows N/A.
pub fn gap() -> Error {
    Error::unsupported("no such operation")
}

/// What is asked of an open column. Calls take many items, so that the call itself costs nothing;
/// what is not written for a column is a gap of it.
#[async_trait]
pub trait Column: Send + Sync {
    /// Stores blobs one by one, each acknowledged before the next is begun.
    async fn put(&self, _blobs: &[Blob]) -> Result<()> {
        Err(gap())
    }

    /// Stores blobs together; all are acknowledged when it returns.
    async fn put_batched(&self, _blobs: &[Blob]) -> Result<()> {
        Err(gap())
    }

    /// Stores images as fast as it can, durably in the end; the names too, where it has names.
    async fn fill(&self, _pictures: &[ImageBlobs]) -> Result<()> {
        Err(gap())
    }

    /// Stores the blob of [`pieces`](crate::data::pieces).
    async fn put_large(&self, _seed: u64, _size: u64) -> Result<()> {
        Err(gap())
    }

    /// Stores the same large blob by several writers at once.
    async fn put_same(&self, _seed: u64, _size: u64, _writers: usize) -> Result<()> {
        Err(gap())
    }

    /// How many of these are there.
    async fn stat(&self, _digests: &[Digest]) -> Result<usize> {
        Err(gap())
    }

    /// Opens and reads each as a whole; the bytes.
    async fn read(&self, _digests: &[Digest]) -> Result<u64> {
        Err(gap())
    }

    /// Reads `length` bytes at each offset of one blob; the bytes.
    async fn read_ranges(&self, _digest: &Digest, _offsets: &[u64], _length: usize) -> Result<u64> {
        Err(gap())
    }

    /// Lists all blobs, sizes included; how many there are.
    async fn list(&self) -> Result<usize> {
        Err(gap())
    }

    /// Sets a label of each to `value`, one by one.
    async fn label(&self, _digests: &[Digest], _value: &str) -> Result<()> {
        Err(gap())
    }

    /// Makes names for one blob, one by one.
    async fn tag(&self, _names: &[String], _target: &Blob) -> Result<()> {
        Err(gap())
    }

    /// How many of the names stand for something.
    async fn resolve(&self, _names: &[String]) -> Result<usize> {
        Err(gap())
    }

    /// Writes down in one batch that the root of each image refers to its children.
    async fn edges(&self, _pictures: &[ImageBlobs]) -> Result<()> {
        Err(gap())
    }

    /// Forgets the names of images.
    async fn forget(&self, _names: &[String]) -> Result<()> {
        Err(gap())
    }

    /// Removes what no name holds; how many blobs went.
    async fn collect(&self) -> Result<usize> {
        Err(gap())
    }

    /// Makes an image of `layers` empty layers where it is not there, then a writable snapshot on
    /// top of it, `times` times; how long the latter took.
    async fn prepare(&self, _layers: usize, _times: usize) -> Result<Duration> {
        Err(gap())
    }
}
