//! What a worker was promised before a loss of power.
//!
//! A worker notes a line before and after each change of a resource:
//!
//! ```text
//! try image t0-3 sha256:6b..
//! did image t0-3 sha256:6b..
//! ```
//! After `did`, the resource has this value. Between `try` and `did`, it has this value or the
//! value before. The value `-` means that the resource is absent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

/// The value of an absent resource.
pub(crate) const ABSENT: &str = "-";
/// The value of a resource of which only the existence is promised.
pub(crate) const PRESENT: &str = "+";

/// A resource whose state is promised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// A blob, by its digest. The value is its size in bytes.
    Blob(String),
    /// A lease, by its id. The value is [`PRESENT`].
    Lease(String),
    /// A name of an image. The value is the digest of its target.
    Image(String),
    /// The unpacked files of a named image. The value is the number of the image among the
    /// material.
    Tree(String),
}

impl Resource {
    fn parse(kind: &str, name: &str) -> Result<Self> {
        let name = name.to_owned();
        Ok(match kind {
            "blob" => Resource::Blob(name),
            "lease" => Resource::Lease(name),
            "image" => Resource::Image(name),
            "tree" => Resource::Tree(name),
            _ => bail!("expected a kind of resource, found {kind:?}"),
        })
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Resource::Blob(name) => ("blob", name),
            Resource::Lease(name) => ("lease", name),
            Resource::Image(name) => ("image", name),
            Resource::Tree(name) => ("tree", name),
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

/// Notes what a worker tries and does. Clones write to the same file.
#[derive(Clone)]
pub(crate) struct Notes(Arc<File>);

impl Notes {
    /// Opens the file of marks of a [`Disk`](crate::disk::Disk).
    pub(crate) fn open(marks: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(marks);
        let file = file.with_context(|| format!("open {}", marks.display()))?;
        Ok(Notes(Arc::new(file)))
    }

    /// Notes that a change begins.
    pub(crate) fn trying(&self, resource: &Resource, value: &str) -> Result<()> {
        self.note("try", resource, value)
    }

    /// Notes that a change was acknowledged.
    pub(crate) fn did(&self, resource: &Resource, value: &str) -> Result<()> {
        self.note("did", resource, value)
    }

    fn note(&self, what: &str, resource: &Resource, value: &str) -> Result<()> {
        // One write is one mark.
        let line = format!("{what} {resource} {value}");
        (&*self.0).write_all(line.as_bytes()).context("note a mark")
    }
}

/// The values that each resource may have.
#[derive(Default)]
pub(crate) struct Promise(pub(crate) BTreeMap<Resource, BTreeSet<String>>);

impl Promise {
    /// Returns what the lines of a worker promise.
    pub(crate) fn of(marks: impl Iterator<Item = impl AsRef<str>>) -> Result<Self> {
        let mut promise = Promise::default();
        for mark in marks {
            let words: Vec<&str> = mark.as_ref().split(' ').collect();
            let [what, kind, name, value] = &words[..] else {
                bail!("expected four words in a mark, found {:?}", mark.as_ref());
            };
            let values = promise.0.entry(Resource::parse(kind, name)?);
            let values = values.or_insert_with(|| [ABSENT.to_owned()].into());
            match *what {
                "did" => *values = [(*value).to_owned()].into(),
                "try" => _ = values.insert((*value).to_owned()),
                _ => bail!("expected `try` or `did`, found {what:?}"),
            }
        }
        Ok(promise)
    }
}
