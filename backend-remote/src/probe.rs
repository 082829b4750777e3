//! Tests how a service handles conditional requests.
//!
//! S3 lets a write require that the object does not exist (`If-None-Match: *`) or has a given ETag
//! (`If-Match`). Some services ignore these headers. Other services check the condition first and
//! write later, so several writers can succeed. In both cases, records would be lost.

use bytes::Bytes;
use cas_core::{Error, Result};
use futures_util::{StreamExt, stream};

use crate::format::{self, Format};
use crate::nonce::nonce;
use crate::prefix::Prefix;
use crate::prefix::conditional::{Condition, Deletion, Outcome};

/// An ETag that no object has.
const UNUSED_ETAG: &str = "\"00000000000000000000000000000000\"";
/// Number of races for each condition.
const ROUNDS: usize = 3;
/// Number of writers in each race.
const RACERS: usize = 8;

/// Tries all conditional requests of a store in a new folder, and removes the folder. Returns
/// whether the service honors conditions on deletes.
///
/// # Errors
/// `FailedPrecondition` with what was observed, if compare-and-swap is impossible on the service;
/// errors of the service.
pub(crate) async fn full(prefix: &Prefix) -> Result<Deletion> {
    let folder = format!("probe/{}/", nonce()?);
    let found = full_in(prefix, &folder).await;
    for name in prefix.list(&folder, "", None, ROUNDS + 1).await? {
        prefix.delete(&format!("{folder}{name}")).await?;
    }
    found
}

async fn full_in(prefix: &Prefix, folder: &str) -> Result<Deletion> {
    let path = format!("{folder}alone");
    let first = write(prefix, &path, Condition::Absent).await?;
    let first =
        first.ok_or_else(|| refuse("a write of a new object with If-None-Match was refused"))?;
    expect_refusals(prefix, &path, None).await?;
    let second = write(prefix, &path, Condition::Match(&first)).await?;
    let second = second.ok_or_else(|| refuse("a write with the right ETag was refused"))?;
    if first == second {
        return Err(refuse("two writes of different bytes got the same ETag"));
    }
    let stale = write(prefix, &path, Condition::Match(&first)).await?;
    if stale.is_some() {
        return Err(refuse(
            "a write with an old ETag succeeded: If-Match is ignored",
        ));
    }
    for round in 0..ROUNDS {
        let path = format!("{folder}race-{round}");
        let etag = race(prefix, &path, Condition::Absent, "If-None-Match").await?;
        race(prefix, &path, Condition::Match(&etag), "If-Match").await?;
    }
    probe_deletion(prefix, &path, &second).await
}

/// Tries the cheap part of the probe on the object `format`. A refused write changes nothing, and
/// an accepted write writes the same bytes again.
///
/// # Errors
/// As [`full`].
pub(crate) async fn quick(prefix: &Prefix, format: &Format) -> Result<()> {
    expect_refusals(prefix, format::PATH, Some(format)).await
}

/// Checks that the service refuses a write to an existing object if the write requires that the
/// object does not exist, or that it has another ETag.
async fn expect_refusals(prefix: &Prefix, path: &str, format: Option<&Format>) -> Result<()> {
    for (condition, header) in [
        (Condition::Absent, "If-None-Match"),
        (Condition::Match(UNUSED_ETAG), "If-Match"),
    ] {
        let body = match format {
            Some(format) => format.body()?,
            None => Bytes::from(nonce()?),
        };
        if let Outcome::Done(_) = prefix.put_if(path, body, condition).await? {
            return Err(refuse(format!(
                "a write whose condition did not hold succeeded: {header} is ignored"
            )));
        }
    }
    Ok(())
}

/// Lets several writers race for one object. Returns the ETag of the only winner.
async fn race(
    prefix: &Prefix,
    path: &str,
    condition: Condition<'_>,
    header: &str,
) -> Result<String> {
    let outcomes: Vec<Result<Option<String>>> = stream::iter(0..RACERS)
        .map(|_| write(prefix, path, condition))
        .buffer_unordered(RACERS)
        .collect()
        .await;
    let mut winners = Vec::new();
    for outcome in outcomes {
        winners.extend(outcome?);
    }
    let won = winners.len();
    match winners.pop() {
        Some(etag) if won == 1 => Ok(etag),
        _ => Err(refuse(format!(
            "{won} of {RACERS} concurrent writes with the same condition succeeded, expected 1: \
             {header} is not evaluated atomically"
        ))),
    }
}

/// Writes a nonce. Returns the ETag, or `None` if the write was refused.
///
/// If the reply to a successful write is lost, its retry is refused. A refused write therefore
/// counts as successful if the object contains the nonce.
async fn write(prefix: &Prefix, path: &str, condition: Condition<'_>) -> Result<Option<String>> {
    let nonce = Bytes::from(nonce()?);
    let etag = match prefix.put_if(path, nonce.clone(), condition).await? {
        Outcome::Done(etag) => etag,
        Outcome::Refused => match prefix.get(path).await? {
            Some(found) if found.body == nonce => found.etag,
            _ => return Ok(None),
        },
    };
    etag.map(Some)
        .ok_or_else(|| refuse("a write returned no ETag"))
}

/// Returns `Conditional` if the service refuses to delete an object with another ETag, and deletes
/// an object with the right ETag. Returns `Unconditional` otherwise.
async fn probe_deletion(prefix: &Prefix, path: &str, etag: &str) -> Result<Deletion> {
    // An error counts as a missing feature, because records work without conditional deletes.
    let refused = prefix.delete_if_match(path, UNUSED_ETAG).await;
    if !matches!(refused, Ok(Outcome::Refused)) || prefix.get(path).await?.is_none() {
        return Ok(Deletion::Unconditional);
    }
    let done = prefix.delete_if_match(path, etag).await;
    if !matches!(done, Ok(Outcome::Done(_))) || prefix.get(path).await?.is_some() {
        return Ok(Deletion::Unconditional);
    }
    Ok(Deletion::Conditional)
}

fn refuse(observed: impl AsRef<str>) -> Error {
    Error::precondition(format!(
        "several processes cannot share a store in this bucket: {}; if only one process uses the \
         store, add the option single=true to its location",
        observed.as_ref()
    ))
}
