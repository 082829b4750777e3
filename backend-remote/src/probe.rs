//! What a service does with conditions, found out by trying.
//!
//! S3 says that a write may ask for nothing, or for one ETag, to be there. Some services ignore
//! that, and some look first and write then, so that several writers win. Both lose records.

use cas_core::{Error, Result};
use futures_util::{StreamExt, stream};

use crate::cell::number;
use crate::format::{self, Format};
use crate::place::{Condition, Place, Put};

/// An ETag that no object has.
const NONE: &str = "\"00000000000000000000000000000000\"";
/// Races of each kind, and their writers.
const ROUNDS: usize = 3;
const RACERS: usize = 8;

/// Tries everything in a folder of its own; whether deletion is conditional too.
///
/// # Errors
/// `FailedPrecondition` with what was seen, where compare-and-swap cannot be built on it.
pub(crate) async fn examine(place: &Place) -> Result<bool> {
    let folder = format!("probe/{}/", number()?);
    let found = examine_in(place, &folder).await;
    for name in place.names(&folder, "", None, ROUNDS + 1).await? {
        place.delete(&format!("{folder}{name}")).await?;
    }
    found
}

async fn examine_in(place: &Place, folder: &str) -> Result<bool> {
    let path = format!("{folder}alone");
    let first = write(place, &path, Condition::Absent).await?;
    let first = first.ok_or_else(|| refuse("a new object was said to be there already"))?;
    expect_refusals(place, &path, None).await?;
    let second = write(place, &path, Condition::Match(&first)).await?;
    let second = second.ok_or_else(|| refuse("a write with the right ETag was refused"))?;
    if first == second {
        return Err(refuse("two writes of different bytes got one ETag"));
    }
    if write(place, &path, Condition::Match(&first))
        .await?
        .is_some()
    {
        return Err(refuse(
            "a write with an old ETag was done: If-Match is ignored",
        ));
    }
    for round in 0..ROUNDS {
        let path = format!("{folder}race-{round}");
        let etag = race(place, &path, Condition::Absent, "If-None-Match").await?;
        race(place, &path, Condition::Match(&etag), "If-Match").await?;
    }
    deletes_conditionally(place, &path, &second).await
}

/// The cheap part, on the format itself: what is refused changes nothing, and what is not writes
/// the same bytes.
///
/// # Errors
/// As [`examine`].
pub(crate) async fn glance(place: &Place, format: &Format) -> Result<()> {
    expect_refusals(place, format::PATH, Some(format)).await
}

/// Checks that a write is refused that wants nothing there, or what is not there.
async fn expect_refusals(place: &Place, path: &str, format: Option<&Format>) -> Result<()> {
    for (condition, header) in [
        (Condition::Absent, "If-None-Match"),
        (Condition::Match(NONE), "If-Match"),
    ] {
        let body = match format {
            Some(format) => format.body()?,
            None => number()?.into(),
        };
        if let Put::Done(_) = place.put(path, body, condition).await? {
            return Err(refuse(format!(
                "a write that must be refused was done: {header} is ignored"
            )));
        }
    }
    Ok(())
}

/// Lets several writers want the same; the ETag of the one that won.
async fn race(place: &Place, path: &str, want: Condition<'_>, header: &str) -> Result<String> {
    let outcomes: Vec<Result<Option<String>>> = stream::iter(0..RACERS)
        .map(|_| write(place, path, want))
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
            "{won} of {RACERS} writers won one race: {header} is not decided atomically"
        ))),
    }
}

/// Writes bytes that never come again; the ETag, or nothing when it was refused. A write whose
/// answer was lost is refused when it is sent again, and yet was done.
async fn write(place: &Place, path: &str, condition: Condition<'_>) -> Result<Option<String>> {
    let number = number()?;
    let etag = match place.put(path, number.clone(), condition).await? {
        Put::Done(etag) => etag,
        Put::Refused => match place.get(path).await? {
            Some(found) if found.body == number => found.etag,
            _ => return Ok(None),
        },
    };
    etag.map(Some)
        .ok_or_else(|| refuse("a write was answered without an ETag"))
}

/// Whether a deletion with another ETag is refused, and one with the right ETag done.
async fn deletes_conditionally(place: &Place, path: &str, etag: &str) -> Result<bool> {
    for (asked, done) in [(NONE, false), (etag, true)] {
        match place.delete_match(path, asked).await {
            Ok(Put::Done(_)) if done => {}
            Ok(Put::Refused) if !done && place.get(path).await?.is_some() => {}
            // Also where it is an error: records can do without.
            _ => return Ok(false),
        }
    }
    Ok(place.get(path).await?.is_none())
}

fn refuse(seen: impl AsRef<str>) -> Error {
    Error::precondition(format!(
        "several processes cannot share a store here: {}; with ?single=true one process alone may \
         use it",
        seen.as_ref()
    ))
}
