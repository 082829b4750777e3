//! `cas df`: disk usage by kind.

use cas::backend::Snapshotter;
use cas::snapshot::{Usage, all_sound};
use cas::{Cas, Error, ErrorKind, Result};
use clap::Args;
use serde::Serialize;

use super::output::size;
use super::{Context, exit};

/// Show the disk usage of blobs, ingests, snapshots and the leftovers of killed processes
#[derive(Args)]
#[command(after_help = "Example:\n  cas df")]
pub(crate) struct Df {}

/// Maximum number of blobs in one page of a list.
const PAGE: usize = 1000;
/// Maximum number of times that one snapshot is measured if directories are moved meanwhile.
const MEASUREMENTS: usize = 16;

/// The number and the total size of blobs, ingests, snapshots or leftovers.
#[derive(Serialize)]
struct Share {
    kind: &'static str,
    count: usize,
    bytes: u64,
}

impl Share {
    fn of(kind: &'static str) -> Self {
        Share {
            kind,
            count: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

impl Df {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let (snapshots, mut problems) = snapshots(&cas).await?;
        let mut shares = vec![blobs(&cas).await?, ingests(&cas).await?, snapshots];
        match leftovers(&cas).await {
            // What belongs to a damaged record is not known. The record was reported already.
            Err(error) if error.kind() == ErrorKind::Corrupt && !problems.is_empty() => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => problems.push(error),
            leftovers => shares.extend(Some(leftovers?).filter(|share| share.count > 0)),
        }
        let columns = ["KIND", "COUNT", "SIZE"];
        context.out.list(&columns, &shares, |share| {
            vec![
                share.kind.into(),
                share.count.to_string(),
                size(share.bytes),
            ]
        })?;
        exit::damaged(problems)
    }
}

async fn blobs(cas: &Cas) -> Result<Share> {
    let mut share = Share::of("blobs");
    let mut after = None;
    loop {
        let page = cas.store().content.list(after.as_ref(), PAGE).await?;
        page.iter().for_each(|blob| share.add(blob.size));
        match page.get(PAGE - 1) {
            Some(last) => after = Some(last.digest),
            None => return Ok(share),
        }
    }
}

async fn ingests(cas: &Cas) -> Result<Share> {
    let mut share = Share::of("ingests");
    let found = cas.store().content.ingests().await?;
    found.iter().for_each(|ingest| share.add(ingest.offset));
    Ok(share)
}

/// Adds up the snapshots whose records can be read. Also returns the errors of the damaged records.
async fn snapshots(cas: &Cas) -> Result<(Share, Vec<Error>)> {
    let (mut share, mut problems) = (Share::of("snapshots"), Vec::new());
    for cas in cas.with_each_snapshotter().await? {
        // A root may have no snapshotter of its own.
        let Ok(snapshotter) = cas.snapshotter() else {
            continue;
        };
        let found = all_sound(&**snapshotter).await?;
        problems.extend(found.problems);
        for info in found.snapshots {
            match measure(&**snapshotter, &info.key).await {
                // The snapshot was removed after it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                usage => share.add(usage?.bytes),
            }
        }
    }
    Ok((share, problems))
}

/// Measures a snapshot. If a directory of the snapshot is moved during a measurement, measures the
/// snapshot again. Makes at most [`MEASUREMENTS`] measurements.
async fn measure(snapshotter: &dyn Snapshotter, key: &str) -> Result<Usage> {
    for _ in 1..MEASUREMENTS {
        match snapshotter.usage(key).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            measured => return measured,
        }
    }
    snapshotter.usage(key).await
}

async fn leftovers(cas: &Cas) -> Result<Share> {
    let mut share = Share::of("leftovers");
    let found = cas.leftovers().await?;
    found.iter().for_each(|left| share.add(left.usage.bytes));
    Ok(share)
}
