//! The object `format`. It identifies a store. If several processes may share the store, the object
//! also contains the results of the probe that tested the service when the store was created.
//!
//! If the object is lost or damaged, a store is recognized by its cells.

use bytes::Bytes;
use cas_core::check::{Finding, Problem};
use cas_core::{Error, Result, limit};
use serde::{Deserialize, Serialize};

use crate::cell::is_cell;
#[cfg(feature = "s3")]
use crate::prefix::conditional::{Condition, Deletion};
use crate::prefix::{Object, Prefix};

/// The name of the object.
pub(crate) const PATH: &str = "format";
/// The kind of every store of this crate.
const KIND: &str = "oci-cas remote";
/// The version that is written. Version 1 does not have the records table `notes`.
const VERSION: u32 = 2;
/// Maximum number of names that are listed to find out whether a prefix is empty. Probes that other
/// processes are running add names.
const LISTED: usize = 1000;
/// The folders of cells.
const CELLS: [&str; 2] = ["records/", "blobs/"];
/// Number of objects in each folder of cells that are read to recognize a store.
const TRIED: usize = 16;

/// What a prefix has in the place of the object `format`.
pub(crate) enum Found {
    /// Nothing, and no other object except those of a probe and the file `lock`.
    Nothing,
    /// The format of a store.
    Format(Format),
    /// A store without a format: the object that does not parse, or `None` if there is none.
    Damaged(Option<Object>),
}

/// The content of the object `format`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    kind: String,
    version: u32,
    /// The endpoint that was probed. `None` if the store was created for one process alone.
    pub(crate) endpoint: Option<String>,
    /// Whether that endpoint honors conditions on deletes.
    conditional_deletion: bool,
}

impl Format {
    /// Returns the format of a store that one process uses alone.
    pub(crate) fn single() -> Self {
        Format {
            kind: KIND.to_owned(),
            version: VERSION,
            endpoint: None,
            conditional_deletion: false,
        }
    }

    /// Returns the format of a store that several processes share.
    #[cfg(feature = "s3")]
    pub(crate) fn shared(endpoint: String, deletion: Deletion) -> Self {
        Format {
            endpoint: Some(endpoint),
            conditional_deletion: deletion == Deletion::Conditional,
            ..Format::single()
        }
    }

    #[cfg(feature = "s3")]
    pub(crate) fn deletion(&self) -> Deletion {
        if self.conditional_deletion {
            Deletion::Conditional
        } else {
            Deletion::Unconditional
        }
    }

    /// Returns whether the store has everything that stores of today have.
    pub(crate) fn is_current(&self) -> bool {
        self.version == VERSION
    }

    /// Returns the format that replaces this format, or `None` if this format is up to date.
    pub(crate) fn upgraded(&self) -> Option<Self> {
        (self.version < VERSION).then(|| Format {
            version: VERSION,
            ..self.clone()
        })
    }

    /// Upgrades the format of a store that several processes share. Leaves the format alone if
    /// another process changes it meanwhile, or if the service returns no ETag.
    ///
    /// # Errors
    /// `FailedPrecondition` if the object `format` cannot be parsed, or is of another kind or a
    /// newer version; errors of the service.
    #[cfg(feature = "s3")]
    pub(crate) async fn upgrade_shared(prefix: &Prefix) -> Result<()> {
        let Some(object) = prefix.get(PATH).await? else {
            return Ok(());
        };
        if let (Some(upgraded), Some(etag)) = (parse(&object.body)?.upgraded(), object.etag) {
            let body = upgraded.body()?;
            prefix.put_if(PATH, body, Condition::Match(&etag)).await?;
        }
        Ok(())
    }

    /// Returns the object as it is stored.
    pub(crate) fn body(&self) -> Result<Bytes> {
        let text = serde_json::to_vec_pretty(self);
        text.map(Bytes::from).map_err(|error| {
            Error::internal("cannot serialize the format; please report it").source(error)
        })
    }

    /// Returns the format of the store, or `None` if the prefix is empty, apart from objects of a
    /// probe and the file `lock`.
    ///
    /// # Errors
    /// `Corrupt` if the object `format` of a store is missing or does not parse; errors of
    /// [`Format::find`].
    pub(crate) async fn load(prefix: &Prefix) -> Result<Option<Self>> {
        match Self::find(prefix).await? {
            Found::Nothing => Ok(None),
            Found::Format(format) => Ok(Some(format)),
            Found::Damaged(object) => Err(damaged(damage(object.is_some()))),
        }
    }

    /// Returns what the prefix has in the place of the object `format`.
    ///
    /// # Errors
    /// `FailedPrecondition` if the prefix contains objects, but neither an object `format` that
    /// parses nor cells of a store, or if the object `format` is of another kind or a newer
    /// version; errors of the service.
    pub(crate) async fn find(prefix: &Prefix) -> Result<Found> {
        if let Some(object) = prefix.get(PATH).await? {
            return match is_format(&object.body) || !has_store(prefix).await? {
                true => parse(&object.body).map(Found::Format),
                false => Ok(Found::Damaged(Some(object))),
            };
        }
        let names = prefix.list("", "", None, LISTED).await?;
        // A process that creates the store writes these names before it writes `format`.
        let foreign = |name: &&String| !name.starts_with("probe/") && *name != "lock";
        let Some(name) = names.iter().find(foreign) else {
            return Ok(Found::Nothing);
        };
        // Another process may have created the store since the first read.
        match prefix.get(PATH).await? {
            Some(object) => parse(&object.body).map(Found::Format),
            None if has_store(prefix).await? => Ok(Found::Damaged(None)),
            None => Err(Error::precondition(format!(
                "the location is neither empty nor a store of cas: it contains {name:?}"
            ))
            .advice("name an empty location")),
        }
    }
}

/// Returns whether a prefix without a format has a store: one of the first objects in the folders
/// of cells is a cell. Other programs do not write cells.
async fn has_store(prefix: &Prefix) -> Result<bool> {
    for folder in CELLS {
        for name in prefix.list(folder, "", None, TRIED).await? {
            let path = format!("{folder}{name}");
            // An object of another program may be too large for the memory.
            let status = prefix.stat(&path).await?;
            if status.is_none_or(|status| status.length > limit::DOCUMENT_READ) {
                continue;
            }
            let object = prefix.get(&path).await?;
            if object.is_some_and(|object| is_cell(&object.body)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Returns what is wrong with the object `format` of a store that has no format: the object does
/// not parse, or it does not exist.
pub(crate) fn damage(exists: bool) -> &'static str {
    match exists {
        true => "does not parse",
        false => "is missing",
    }
}

/// Returns the error for a store whose object `format` is damaged in this way.
pub(crate) fn damaged(damage: &str) -> Error {
    Error::corrupt(format!("the object that identifies the store {damage}"))
        .advice("run `cas fsck --repair`")
        .subject(PATH)
}

/// Returns the finding for an object `format` that is damaged in this way.
pub(crate) fn finding(damage: &str, repaired: bool) -> Finding {
    let outcome = match repaired {
        true => {
            "it was made again (a repair keeps the bytes of a damaged object under a name that \
             begins with `format.damaged-`)"
        }
        false => "a repair makes it again",
    };
    Finding {
        problem: Problem::StoreDamaged,
        subject: PATH.to_owned(),
        detail: format!("the object that identifies the store {damage}; {outcome}"),
        repaired,
    }
}

/// Returns whether the object has the form of a format, of any kind and version.
pub(crate) fn is_format(body: &[u8]) -> bool {
    read(body).is_ok()
}

pub(crate) fn parse(body: &[u8]) -> Result<Format> {
    let found = read(body).map_err(|why| {
        Error::precondition(format!(
            "the object does not describe a store of cas: {why}; restore the object, or name an \
             empty location"
        ))
        .subject(PATH)
    })?;
    if found.kind != KIND {
        return Err(Error::precondition(format!(
            "expected a store of kind {KIND:?}, found {:?}; name an empty location",
            found.kind
        ))
        .subject(PATH));
    }
    if found.version > VERSION {
        return Err(Error::newer_format(VERSION, found.version).subject(PATH));
    }
    Ok(found)
}

/// Reads a format of any kind and version. Returns what is wrong if the object is not a format.
fn read(body: &[u8]) -> Result<Format, String> {
    let allowed = limit::LAYOUT_FILE;
    if body.len() as u64 > allowed {
        return Err(format!("expected at most {allowed} bytes, found more"));
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
