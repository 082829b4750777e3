//! Opens a store that several processes share. Makes a lost or damaged object `format` again.

use cas_core::{Capabilities, Capability, Error, Result};

use crate::cell::Cells;
use crate::folder::DAMAGED_FORMAT;
use crate::format::{self, Format};
use crate::nonce::nonce;
use crate::prefix::conditional::{Condition, Deletion, Outcome};
use crate::prefix::{Object, Prefix};
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
                None => create(&prefix, endpoint, Condition::Absent).await?,
            };
            if found.is_some_and(|found| found.upgraded().is_some()) {
                Format::upgrade_shared(&prefix).await?;
            }
            Ok(Self::new(Cells::shared(prefix, deletion), CAPABILITIES))
        })
        .await
    }
}

/// Makes the object `format` of a store again. Keeps the bytes of the damaged object, if there is
/// one, under another name. `endpoint` is `None` if only this process uses the store. A kill leaves
/// either the damaged object or the new one in its place.
///
/// # Errors
/// As [`RemoteStore::open_shared`], if several processes may use the store; errors of the service.
pub(crate) async fn make_format(
    prefix: &Prefix,
    damaged: Option<Object>,
    endpoint: Option<String>,
) -> Result<()> {
    if let Some(object) = &damaged {
        let aside = format!("{DAMAGED_FORMAT}{}", nonce()?);
        prefix.put(&aside, object.body.clone()).await?;
    }
    let Some(endpoint) = endpoint else {
        let body = Format::single().body()?;
        return prefix.put(format::PATH, body).await;
    };
    let condition = match damaged.as_ref().and_then(|object| object.etag.as_deref()) {
        Some(etag) => Condition::Match(etag),
        None => Condition::Absent,
    };
    create(prefix, endpoint, condition).await.map(drop)
}

/// Writes the object `format` if the condition holds, unless another process is faster. Returns
/// whether the service honors conditions on deletes.
async fn create(prefix: &Prefix, endpoint: String, condition: Condition<'_>) -> Result<Deletion> {
    let deletion = probe::full(prefix).await?;
    let body = Format::shared(endpoint, deletion).body()?;
    let outcome = prefix.put_if(format::PATH, body, condition).await?;
    if matches!(outcome, Outcome::Done(_)) || Format::load(prefix).await?.is_some() {
        return Ok(deletion);
    }
    Err(Error::unavailable(
        "another process created the store and removed it; retry",
    ))
}
