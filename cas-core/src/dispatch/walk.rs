//! The two ways to visit an image, in order and in parallel, with the same bounds.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::{Handler, Next};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limit;
use crate::media_type::MediaType;

/// Visits `roots` and everything below them in order: a descriptor, then everything below it, then
/// its next sibling.
///
/// # Errors
/// The first error of the handler; `OutOfRange` if indexes are nested deeper than
/// [`limit::INDEX_DEPTH`], or if more than [`limit::WALK`] descriptors are listed.
pub async fn walk(handler: &dyn Handler, roots: &[Descriptor]) -> Result<()> {
    let mut bounds = Bounds::default();
    let mut pending = bounds.admit(roots.to_vec(), 0)?;
    pending.reverse();
    while let Some(visit) = pending.pop() {
        if !bounds.is_new(&visit.descriptor) {
            continue;
        }
        if let Next::Children(children) = handler.handle(&visit.descriptor).await? {
            let children = bounds.admit(children, visit.indexes)?;
            pending.extend(children.into_iter().rev());
        }
    }
    Ok(())
}

/// Visits `roots` as [`walk`] does, but fails if no descriptor has children.
///
/// # Errors
/// As [`walk`]; `NotFound` if no descriptor has children, perhaps because a filter left them out.
pub async fn walk_not_empty(handler: &dyn Handler, roots: &[Descriptor]) -> Result<()> {
    let watched = Watched {
        handler,
        found: AtomicBool::new(false),
    };
    walk(&watched, roots).await?;
    if watched.found.into_inner() {
        return Ok(());
    }
    Err(Error::not_found(
        "no descriptor has children: a filter may have left them out; choose another filter",
    ))
}

struct Watched<'a> {
    handler: &'a dyn Handler,
    found: AtomicBool,
}

#[async_trait]
impl Handler for Watched<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let next = self.handler.handle(descriptor).await?;
        if matches!(&next, Next::Children(children) if !children.is_empty()) {
            self.found.store(true, Ordering::Relaxed);
        }
        Ok(next)
    }
}

/// Visits `roots` and everything below them in parallel. A descriptor is visited after the
/// descriptor that lists it.
///
/// Each call of `handler` runs under a permit of `limiter`, and gives the permit back before the
/// children are visited, so that one permit is enough for any depth. Without a limiter, only
/// [`limit::WALK`] bounds how many calls run concurrently. After the first error, the calls that
/// still run are dropped, so none of them runs after this function has returned.
///
/// # Errors
/// As [`walk`]; `Cancelled` if the limiter is closed.
pub async fn dispatch(
    handler: &dyn Handler,
    limiter: Option<&Semaphore>,
    roots: &[Descriptor],
) -> Result<()> {
    let mut bounds = Bounds::default();
    let mut running = FuturesUnordered::new();
    let mut ready = bounds.admit(roots.to_vec(), 0)?;
    loop {
        ready.retain(|visit| bounds.is_new(&visit.descriptor));
        running.extend(ready.drain(..).map(|visit| run(handler, limiter, visit)));
        match running.next().await {
            None => return Ok(()),
            Some(finished) => {
                let (indexes, next) = finished?;
                if let Next::Children(children) = next {
                    ready = bounds.admit(children, indexes)?;
                }
            }
        }
    }
}

async fn run(
    handler: &dyn Handler,
    limiter: Option<&Semaphore>,
    visit: Visit,
) -> Result<(usize, Next)> {
    let _permit = match limiter {
        None => None,
        Some(limiter) => Some(limiter.acquire().await.map_err(|closed| {
            Error::cancelled("the limiter was closed before the visit ended; visit again")
                .operation("visit")
                .subject(visit.descriptor.digest)
                .source(closed)
        })?),
    };
    let next = handler.handle(&visit.descriptor).await?;
    Ok((visit.indexes, next))
}

/// A descriptor to visit.
struct Visit {
    descriptor: Descriptor,
    /// How many indexes are on the path to the descriptor, including the descriptor itself.
    indexes: usize,
}

/// What a walk has found so far, to enforce its bounds.
#[derive(Default)]
struct Bounds {
    listed: usize,
    seen: HashSet<(Digest, u64, MediaType)>,
}

impl Bounds {
    fn admit(&mut self, listed: Vec<Descriptor>, indexes: usize) -> Result<Vec<Visit>> {
        self.listed = self.listed.saturating_add(listed.len());
        if self.listed > limit::WALK {
            return Err(Error::out_of_range(format!(
                "the image lists more than {} descriptors; build it again with fewer",
                limit::WALK
            ))
            .operation("visit"));
        }
        let visit = |descriptor: Descriptor| {
            let indexes = indexes + usize::from(descriptor.media_type.is_index());
            if indexes > limit::INDEX_DEPTH {
                return Err(Error::out_of_range(format!(
                    "indexes are nested deeper than {} levels; build the image again with fewer",
                    limit::INDEX_DEPTH
                ))
                .operation("visit")
                .subject(descriptor.digest));
            }
            Ok(Visit {
                descriptor,
                indexes,
            })
        };
        listed.into_iter().map(visit).collect()
    }

    fn is_new(&mut self, descriptor: &Descriptor) -> bool {
        let media_type = descriptor.media_type.clone();
        self.seen
            .insert((descriptor.digest, descriptor.size, media_type))
    }
}
