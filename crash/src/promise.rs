//! What workers were promised before a crash.
//!
//! A worker notes a line before and after each change of a resource:
//!
//! ```text
//! try image t0-3 sha256:6b..
//! did image t0-3 sha256:6b..
//! ```
//! After `did`, the resource has the value in the line. Between `try` and `did`, the resource has
//! the value in the line or its previous value. Before its first line, a resource is absent, which
//! is the value `-`. After a line that begins with `free`, nothing is promised about the resource.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

/// The value of an absent resource.
pub(crate) const ABSENT: &str = "-";
/// The value of a resource if only its existence is promised.
pub(crate) const PRESENT: &str = "+";

/// The promised value of a resource that may have any value, except one that describes damage.
pub(crate) const ANY: &str = "*";

/// A resource whose state is promised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// A blob, by its digest. The value is its size in bytes.
    Blob(String),
    /// A lease, by its id. The value is [`PRESENT`].
    Lease(String),
    /// A name of an image. The value is the digest of its target.
    Image(String),
    /// The unpacked files of a named image. The value is the number of the image in the
    /// [`Material`](crate::material::Material). The value is the same if the image was unpacked
    /// only under another name, because both names share the unpacked files.
    Tree(String),
    /// A committed snapshot, by its key. The value is the text that each of its files contains.
    Snapshot(String),
    /// Damage that a worker makes and then repairs. The value in between is [`PRESENT`].
    Damage(String),
}

impl Resource {
    fn parse(kind: &str, name: &str) -> Result<Self> {
        let name = name.to_owned();
        Ok(match kind {
            "blob" => Resource::Blob(name),
            "lease" => Resource::Lease(name),
            "image" => Resource::Image(name),
            "tree" => Resource::Tree(name),
            "snapshot" => Resource::Snapshot(name),
            "damage" => Resource::Damage(name),
            _ => bail!("expected a kind of resource, found {kind:?}"),
        })
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Resource::Blob(name) => ("blob", name),
            Resource::Lease(name) => ("lease", name),
            Resource::Image(name) => ("image", name),
            Resource::Tree(name) => ("tree", name),
            Resource::Snapshot(name) => ("snapshot", name),
            Resource::Damage(name) => ("damage", name),
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
    /// Opens the file to which a worker appends its lines (marks): an ordinary file, or the file
    /// `marks` of a [`Disk`](crate::power).
    pub(crate) fn open(marks: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(marks);
        let file = file.with_context(|| format!("cannot open {}", marks.display()))?;
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

    /// Notes that nothing is promised about a resource from now on.
    pub(crate) fn free(&self, resource: &Resource) -> Result<()> {
        self.note("free", resource, ABSENT)
    }

    fn note(&self, what: &str, resource: &Resource, value: &str) -> Result<()> {
        // One write is one mark.
        let line = format!("{what} {resource} {value}\n");
        (&*self.0)
            .write_all(line.as_bytes())
            .context("cannot note a mark")
    }
}

/// The values that each resource may have.
#[derive(Default)]
pub(crate) struct Promise(pub(crate) BTreeMap<Resource, BTreeSet<String>>);

impl Promise {
    /// Returns what the lines of workers promise.
    pub(crate) fn of(marks: &str) -> Result<Self> {
        let mut promise = Promise::default();
        promise.add(marks)?;
        Ok(promise)
    }

    /// Adds what the lines of workers promise. Returns the resources that the lines name.
    pub(crate) fn add(&mut self, marks: &str) -> Result<BTreeSet<Resource>> {
        let mut named = BTreeSet::new();
        for mark in marks.lines() {
            let words: Vec<&str> = mark.split(' ').collect();
            let [what, kind, name, value] = words[..] else {
                bail!("expected four words in a mark, found {mark:?}");
            };
            let resource = Resource::parse(kind, name)?;
            named.insert(resource.clone());
            if what == "free" {
                self.0.remove(&resource);
                continue;
            }
            let values = self.0.entry(resource);
            let values = values.or_insert_with(|| [ABSENT.to_owned()].into());
            match what {
                "did" => *values = [value.to_owned()].into(),
                "try" => _ = values.insert(value.to_owned()),
                _ => bail!("expected `try`, `did` or `free`, found {what:?}"),
            }
        }
        Ok(named)
    }

    /// Returns whether a resource may have this value. [`ANY`] does not allow a value with a blank,
    /// because such a value is a text about damage.
    pub(crate) fn allows(&self, resource: &Resource, value: &str) -> bool {
        let allowed = self.0.get(resource);
        allowed.is_some_and(|allowed| {
            allowed.contains(value) || (allowed.contains(ANY) && !value.contains(' '))
        })
    }

    /// Notes that a resource was found with this value. From now on, the resource must have this
    /// value, unless [`ANY`] is one of its allowed values.
    pub(crate) fn settle(&mut self, resource: Resource, value: String) {
        if let Some(allowed) = self.0.get_mut(&resource)
            && !allowed.contains(ANY)
        {
            *allowed = [value].into();
        }
    }
}
