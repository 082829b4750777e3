//! Blobs of 4 KiB with their records, beside plain files: written aside, synced, renamed, the
//! directory synced, and a line about each written and synced. Then all of them are removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use cas::content::{Durability, Expected, Writer};
use cas::records::{Batch, BlobRecord, Blobs, Expect};
use cas::{Digest, MediaType, Store};
use redb::{Database, TableDefinition};
use tokio::runtime::Runtime;

use super::{open, report, time, turns};

const SIZE: usize = 4096;
const BYTES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("bytes");
const RECORDS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");
/// Blobs of a round, and how many are published at a time where they share a sync.
const BLOBS: u64 = 2_000;
const WRITERS: u64 = 256;
/// Blobs that are removed in the end.
const REMOVED: u64 = 100_000;

/// Bytes that differ by their number.
fn blob(number: u64) -> Vec<u8> {
    let mut data = vec![7; SIZE];
    data[..8].copy_from_slice(&number.to_le_bytes());
    data
}

pub(super) fn run(runtime: &Runtime, place: &Path) -> Result<()> {
    let store = open(runtime, &place.join("small"))?;
    let db = Database::create(place.join("raw"))?;
    let [files, alone, together, raw, raw_together]: [Duration; 5] = turns(|contender, round| {
        let first = (round as u64 * 5 + contender as u64) * BLOBS;
        let numbers = first..first + BLOBS;
        time(|| match contender {
            0 => plain(&place.join(format!("plain{round}")), numbers),
            1 => runtime.block_on(async {
                for number in numbers {
                    put(&store, number, Durability::Full).await?;
                }
                Ok(())
            }),
            2 => runtime.block_on(many(&store, numbers, Durability::Batched)),
            3 => numbers
                .into_iter()
                .try_for_each(|number| bare(&db, &[number])),
            _ => {
                let numbers: Vec<u64> = numbers.collect();
                let mut groups = numbers.chunks(WRITERS as usize);
                groups.try_for_each(|group| bare(&db, group))
            }
        })
    })?;
    let rate = |time: Duration| BLOBS as f64 / time.as_secs_f64();
    let (raw, raw_together) = (rate(raw), rate(raw_together));
    println!("4 KiB by redb itself: one by one {raw:.0} /s, 256 at a time {raw_together:.0} /s");
    let files = rate(files);
    report(
        "4 KiB one by one, beside files",
        1.2,
        rate(alone),
        files,
        "/s",
    );
    report(
        "4 KiB by 256 writers, beside files",
        10.0,
        rate(together),
        files,
        "/s",
    );
    remove(runtime, &store)
}

/// One blob with its record, in one step.
async fn put(store: &Store, number: u64, durability: Durability) -> Result<()> {
    let (content, key) = (&*store.content, number.to_string());
    let mut writer = Writer::begin(content, &key, Expected::ANY).await?;
    writer.write(blob(number).into()).await?;
    let digest = writer.digest()?;
    let record = BlobRecord::new(SIZE as u64, Some(MediaType::OCI_LAYER));
    let mut batch = Batch::new();
    Blobs::put(&mut batch, &digest, &record, Expect::Absent)?;
    writer.commit(&batch, durability).await?;
    Ok(())
}

async fn many(store: &Store, numbers: std::ops::Range<u64>, durability: Durability) -> Result<()> {
    let end = numbers.end;
    let writers = (0..WRITERS).map(|writer| {
        let (store, first) = (store.clone(), numbers.start + writer);
        tokio::spawn(async move {
            for number in (first..end).step_by(WRITERS as usize) {
                put(&store, number, durability).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    Ok(())
}

/// The same promise without an engine.
fn plain(directory: &Path, numbers: std::ops::Range<u64>) -> Result<()> {
    fs::create_dir(directory)?;
    let names = File::open(directory)?;
    let mut records = File::create(directory.join("records"))?;
    for number in numbers {
        let data = blob(number);
        let digest = Digest::sha256(&data);
        let aside = directory.join("new");
        let mut file = File::create(&aside)?;
        file.write_all(&data)?;
        file.sync_data()?;
        fs::rename(&aside, directory.join(digest.hex()))?;
        names.sync_all()?;
        writeln!(records, "{digest} {SIZE} {}", MediaType::OCI_LAYER)?;
        records.sync_data()?;
    }
    Ok(())
}

/// The same promise by the engine itself.
fn bare(db: &Database, numbers: &[u64]) -> Result<()> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(true);
    {
        let mut blobs = tx.open_table(BYTES)?;
        let mut records = tx.open_table(RECORDS)?;
        let record = format!("{SIZE} {}", MediaType::OCI_LAYER);
        for number in numbers {
            let data = blob(*number);
            let digest = Digest::sha256(&data);
            blobs.insert(digest.as_bytes(), &*data)?;
            records.insert(digest.as_bytes(), record.as_bytes())?;
        }
    }
    Ok(tx.commit()?)
}

/// What a collection does with the bytes that nobody needs.
fn remove(runtime: &Runtime, store: &Store) -> Result<()> {
    let first = 1 << 32;
    let numbers = first..first + REMOVED;
    runtime.block_on(many(store, numbers, Durability::Relaxed))?;
    let blobs = runtime.block_on(store.content.list(None, REMOVED as usize))?;
    for (how, at_a_time) in [("one by one", 1), ("1,000 at a time", 1000)] {
        let half = match at_a_time {
            1 => &blobs[..blobs.len() / 2],
            _ => &blobs[blobs.len() / 2..],
        };
        let taken = time(|| {
            runtime.block_on(async {
                for some in half.chunks(at_a_time) {
                    let removals = some.iter().map(|blob| {
                        let content = store.content.clone();
                        let blob = *blob;
                        async move { content.remove_version(&blob.digest, blob.version).await }
                    });
                    join(removals.collect()).await?;
                }
                store.content.flush().await?;
                Ok(())
            })
        })?;
        println!("{} blobs removed {how} in {taken:.2?}", half.len());
    }
    Ok(())
}

/// Polls all in turn until all are done.
async fn join<F: Future<Output = cas::Result<bool>>>(futures: Vec<F>) -> cas::Result<()> {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut failed = None;
        left.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(done) => {
                failed = failed.take().or(done.err());
                false
            }
        });
        match (failed, left.is_empty()) {
            (Some(error), _) => std::task::Poll::Ready(Err(error)),
            (None, true) => std::task::Poll::Ready(Ok(())),
            (None, false) => std::task::Poll::Pending,
        }
    })
    .await
}
