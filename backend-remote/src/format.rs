//! The object `format`: what this store is, and what a probe found when it was made.

use bytes::Bytes;
use cas_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::place::{Condition, Place, Put};

/// Its name.
pub(crate) const PATH: &str = "format";
/// What every store of this crate calls itself.
const KIND: &str = "oci-cas remote";
/// The version that is read and written.
const VERSION: u32 = 1;
/// Objects that are looked at to tell an empty place.
const GLANCE: usize = 1000;

/// The object, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    kind: String,
    version: u32,
    /// The endpoint that was probed; none where one process uses the store alone.
    pub(crate) endpoint: Option<String>,
    /// Whether that endpoint deletes conditionally.
    pub(crate) conditional_deletion: bool,
}

impl Format {
    pub(crate) fn new(endpoint: Option<String>, conditional_deletion: bool) -> Self {
        Format {
            kind: KIND.to_owned(),
            version: VERSION,
            endpoint,
            conditional_deletion,
        }
    }

    pub(crate) fn body(&self) -> Result<Bytes> {
        let text = serde_json::to_vec_pretty(self);
        text.map(Bytes::from)
            .map_err(|error| Error::internal("the format does not serialise").source(error))
    }

    /// The format of the store that is there; nothing where the place is empty.
    ///
    /// # Errors
    /// `FailedPrecondition` where something else is there, or a newer store.
    pub(crate) async fn load(place: &Place) -> Result<Option<Self>> {
        if let Some(found) = Self::read(place).await? {
            return Ok(Some(found));
        }
        let names = place.names("", "", None, GLANCE).await?;
        // Another process may be about to make the store, or just have made it.
        let ours = |name: &str| name.starts_with("probe/") || name == "lock";
        match names.iter().find(|name| !ours(name)) {
            None => Ok(None),
            Some(name) => match Self::read(place).await? {
                Some(found) => Ok(Some(found)),
                None => Err(Error::precondition(format!(
                    "something that is no store of cas is there: it has {name:?}; name an empty \
                     place"
                ))),
            },
        }
    }

    async fn read(place: &Place) -> Result<Option<Self>> {
        let Some(object) = place.get(PATH).await? else {
            return Ok(None);
        };
        let found: Format = serde_json::from_slice(&object.body).map_err(|error| {
            Error::precondition(format!("this is no format of a store of cas: {error}"))
                .subject(PATH)
        })?;
        if found.kind != KIND || found.version != VERSION {
            return Err(Error::precondition(format!(
                "expected {KIND:?} of version {VERSION}, found {:?} of version {}; use the cas \
                 that made it",
                found.kind, found.version
            ))
            .subject(PATH));
        }
        Ok(Some(found))
    }

    /// Writes it under the condition; false when another process did.
    pub(crate) async fn write(&self, place: &Place, condition: Condition<'_>) -> Result<bool> {
        let put = place.put(PATH, self.body()?, condition).await?;
        Ok(matches!(put, Put::Done(_)))
    }
}
