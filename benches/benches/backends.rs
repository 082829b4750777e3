//! Measures with Criterion those rows of the benchmark table that take little time, for each column
//! that is one of our own stores. `docs/BACKENDS.md` contains the table.
//!
//! `cargo bench -p oci-cas-benches --bench backends -- [ROW[/COLUMN]]`. The environment variable
//! `CAS_BENCH_ON` names the directory for the stores.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a bench may panic"
)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use cas::Digest;
use criterion::{Criterion, criterion_group, criterion_main};
use oci_cas_benches::columns;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use workload::{Blob, Column, Contender, ImageBlobs, data, rows};

const ROWS: [&str; 9] = [
    "put", "stat", "absent", "read", "ranges", "list", "label", "tag", "resolve",
];
/// Number of images, of a hundred blobs each.
const IMAGES: u32 = 100;
/// Size of the large blob in bytes.
const LARGE: u64 = 64 << 20;
/// Size in bytes of a range that is read from the large blob.
const RANGE: usize = 64 << 10;

fn backends(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let opened: Vec<Opened> = columns::ours()
        .iter()
        .map(|contender| Opened::new(&runtime, contender))
        .collect();
    for row in rows(&ROWS.map(str::to_owned)).unwrap() {
        let mut group = criterion.benchmark_group(row.key);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500));
        group.measurement_time(Duration::from_secs(1));
        for column in &opened {
            group.bench_function(&column.name, |bench| {
                bench.iter_custom(|times| column.run(&runtime, row.key, times as usize));
            });
        }
        group.finish();
    }
}

/// An open store with content.
struct Opened {
    name: String,
    column: Box<dyn Column>,
    images: Vec<ImageBlobs>,
    small: Vec<Digest>,
    /// The seed of the next blobs. It grows, so that no blob is stored twice.
    seed: Cell<u64>,
    _directory: TempDir,
}

impl Opened {
    fn new(runtime: &Runtime, contender: &Contender) -> Self {
        let directory = match std::env::var_os("CAS_BENCH_ON") {
            Some(on) => tempfile::tempdir_in(on),
            None => tempfile::tempdir(),
        };
        let directory = directory.unwrap();
        let images: Vec<ImageBlobs> = (0..IMAGES).map(data::image).collect();
        let small = data::small(0, 1000);
        let column = runtime.block_on(async {
            let column = (contender.open)(directory.path().to_owned()).await.unwrap();
            column.fill(&images).await.unwrap();
            column.put_batched(&small).await.unwrap();
            column.put_large(0, LARGE).await.unwrap();
            column
        });
        Opened {
            name: contender.name.clone(),
            column,
            images,
            small: small.iter().map(|blob| blob.digest).collect(),
            seed: Cell::new(1),
            _directory: directory,
        }
    }

    /// Runs a row `times` times. Returns how long that took.
    fn run(&self, runtime: &Runtime, row: &str, times: usize) -> Duration {
        let column = &*self.column;
        let seed = self.seed.replace(self.seed.get() + 1);
        let blobs = self.images.iter().flat_map(|image| &image.children);
        let there: Vec<Digest> = cycle(blobs.map(|blob| blob.digest).collect(), times);
        let names = |name: &dyn Fn(usize) -> String| (0..times).map(name).collect::<Vec<_>>();
        let timed = |work: &mut dyn FnMut()| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        };
        let mut ran = Ok(());
        let taken = match row {
            "put" => {
                let blobs: Vec<Blob> = data::small(seed, times);
                timed(&mut || ran = runtime.block_on(column.put(&blobs)))
            }
            "stat" => timed(&mut || ran = runtime.block_on(column.stat(&there)).map(drop)),
            "absent" => {
                let absent = |number: usize| Digest::sha256(&number.to_le_bytes());
                let absent = cycle((0..1000).map(absent).collect(), times);
                timed(&mut || ran = runtime.block_on(column.stat(&absent)).map(drop))
            }
            "read" => {
                let small = cycle(self.small.clone(), times);
                timed(&mut || ran = runtime.block_on(column.read(&small)).map(drop))
            }
            "ranges" => {
                let digest = data::digest(0, LARGE);
                let offset = |number: usize| number as u64 * 15_485_863 % (LARGE - RANGE as u64);
                let offsets: Vec<u64> = (0..times).map(offset).collect();
                timed(&mut || {
                    let work = column.read_ranges(&digest, &offsets, RANGE);
                    ran = runtime.block_on(work).map(drop);
                })
            }
            "list" => timed(&mut || {
                for _ in 0..times {
                    ran = runtime.block_on(column.list()).map(drop);
                }
            }),
            "label" => {
                let value = format!("{seed}");
                timed(&mut || ran = runtime.block_on(column.label(&there, &value)))
            }
            "tag" => {
                let names = names(&|number| format!("example.org/tag-{seed}:{number}"));
                let target = &self.images[0].root;
                timed(&mut || ran = runtime.block_on(column.tag(&names, target)))
            }
            "resolve" => {
                let known = |number: usize| self.images[number % self.images.len()].name.clone();
                let names = names(&known);
                timed(&mut || ran = runtime.block_on(column.resolve(&names)).map(drop))
            }
            other => panic!("this bench does not have the row {other}"),
        };
        ran.unwrap();
        taken
    }
}

/// Returns `times` items, with repetitions if there are fewer.
fn cycle<T: Clone>(items: Vec<T>, times: usize) -> Vec<T> {
    items.into_iter().cycle().take(times).collect()
}

criterion_group!(benches, backends);
criterion_main!(benches);
