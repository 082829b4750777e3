//! Opens a store that several processes share.

use cas_core::{Capabilities, Capability, Error, Result};

use crate::cell::Cells;
use crate::format::{self, Format};
use crate::prefix::Prefix;
use crate::prefix::conditional::{Condition, Deletion, Outcome};
use crate::store::RemoteStore;
use crate::{probe, runtime};

/// The capabilities of a store in a bucket whose service evaluates conditions atomically.
pub(crate) const CAPABILITIES: Capabilities =
    Capabilities::of(&[Capability::Durable, Capability::Shared]);

impl RemoteStore {
    /// Opens the store below `prefix`. Creates it if there is none, and upgrades an older format.
    ///
    /// # Errors
    /// `FailedPrecondition` if a probe finds that several processes cannot share a store on the
    /// service; `Unavailable` if another process creates the store and removes it meanwhile; errors
    /// of [`Format::load`].
    pub(crate) async fn open_shared(prefix: Prefix, endpoint: String) -> Result<Self> {
        runtime::run(async move {
            let found = Format::load(&prefix).await?;
            let deletion = match &found {
                Some(format) if format.endpoint.as_deref() == Some(&endpoint) => {
                    probe::quick(&prefix, format).await?;
                    format.deletion()
                }
                Some(_) => probe::full(&prefix).await?,
                None => create(&prefix, endpoint).await?,
            };
            if found.is_some_and(|found| found.upgraded().is_some()) {
                Format::upgrade_shared(&prefix).await?;
            }
            Ok(Self::new(Cells::shared(prefix, deletion), CAPABILITIES))
        })
        .await
    }
}

/// Creates the store, unless another process creates it first. Returns whether the service honors
/// conditions on deletes.
async fn create(prefix: &Prefix, endpoint: String) -> Result<Deletion> {
    let deletion = probe::full(prefix).await?;
    let body = Format::shared(endpoint, deletion).body()?;
    let outcome = prefix.put_if(format::PATH, body, Condition::Absent).await?;
    if matches!(outcome, Outcome::Done(_)) || Format::load(prefix).await?.is_some() {
        return Ok(deletion);
    }
    Err(Error::unavailable(
        "another process created the store and removed it; retry",
    ))
}
