//! Large blobs, and the memory that they take, beside redb called directly with rows of its best
//! size, one transaction a blob, while another thread hashes the same bytes.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use cas::content::{Durability, Expected, Writer};
use cas::records::Batch;
use cas::{Algorithm, ContentStore, Digest, Hasher};
use redb::{Builder, Database, TableDefinition};
use tokio::runtime::Runtime;

use super::{open, peak, report, reset_peak, time, turns};

const BLOBS: u64 = 4;
const SIZE: u64 = 256 << 20;
const PIECE: usize = 1 << 20;
/// Bytes of the rows that are tried; the first is ours.
const ROWS: [usize; 3] = [(256 << 10) - 512, (64 << 10) - 512, (1 << 20) - 512];
const CACHE: usize = 64 << 20;
const TABLE: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("rows");

/// A piece whose bytes nothing can shorten.
fn piece(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..PIECE).map(|_| next()).collect()
}

pub(super) fn run(runtime: &Runtime, place: &Path) -> Result<()> {
    let directory = place.join("large");
    let mut most = 0;
    let times: [Duration; 1 + ROWS.len()] = turns(|contender, round| {
        let _ = std::fs::remove_dir_all(&directory);
        let piece = piece(round as u64);
        reset_peak()?;
        let before = peak()?;
        let taken = match contender.checked_sub(1) {
            None => {
                let store = open(runtime, &directory)?;
                let taken = time(|| runtime.block_on(store_all(&*store.content, &piece)))?;
                most = most.max(peak()? - before);
                taken
            }
            Some(row) => {
                std::fs::create_dir(&directory)?;
                raw(&directory.join("raw"), &piece, ROWS[row])?
            }
        };
        Ok(taken)
    })?;
    let _ = std::fs::remove_dir_all(&directory);
    let rate = |time: Duration| ((BLOBS * SIZE) >> 20) as f64 / time.as_secs_f64();
    for (row, time) in ROWS.iter().zip(&times[1..]) {
        println!("redb itself, rows of {row} B: {:.0} MiB/s", rate(*time));
    }
    let best = times[1..].iter().copied().map(rate).fold(0.0, f64::max);
    report(
        "4 x 256 MiB, beside redb",
        0.85,
        rate(times[0]),
        best,
        "MiB/s",
    );
    println!(
        "4 x 256 MiB: {most} MiB of memory at most, {} of them pages",
        CACHE >> 20
    );
    Ok(())
}

async fn store_all(content: &dyn ContentStore, piece: &[u8]) -> Result<()> {
    for blob in 0..BLOBS {
        let mut writer = Writer::begin(content, "layer", Expected::ANY).await?;
        let mut piece = piece.to_vec();
        piece[..8].copy_from_slice(&blob.to_le_bytes());
        let piece = bytes::Bytes::from(piece);
        for _ in 0..SIZE / PIECE as u64 {
            writer.write(piece.clone()).await?;
        }
        let done = writer.commit(&Batch::new(), Durability::Full).await?;
        let _: Digest = done.digest;
    }
    Ok(())
}

fn raw(path: &Path, piece: &[u8], row: usize) -> Result<Duration> {
    let db = Builder::new().set_cache_size(CACHE).create(path)?;
    time(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut hasher = Hasher::new(Algorithm::Sha256);
                (0..BLOBS * SIZE / PIECE as u64).for_each(|_| hasher.update(piece));
                std::hint::black_box(hasher.finish());
            });
            (0..BLOBS).try_for_each(|blob| write(&db, blob, &piece[..row]))
        })
    })
}

fn write(db: &Database, blob: u64, row: &[u8]) -> Result<()> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(true);
    {
        let mut table = tx.open_table(TABLE)?;
        for offset in (0..SIZE).step_by(row.len()) {
            table.insert((blob, offset), row)?;
        }
    }
    Ok(tx.commit()?)
}
