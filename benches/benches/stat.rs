//! Stat of a blob that is there: through the trait, and the raw call beneath.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::path::Path;

use cas::content::ContentExt;
use cas::{ContentStore, Digest};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use tokio::runtime::Builder;

/// Blobs in the store, so that a lookup is no constant.
const BLOBS: u32 = 10_000;

fn memory(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let store = cas::memory::MemoryContent::new();
    let digests: Vec<Digest> = (0..BLOBS)
        .map(|number| runtime.block_on(store.put(number.to_le_bytes().to_vec().into())).unwrap())
        .collect();
    let mut group = criterion.benchmark_group("stat/memory");
    let mut next = digests.iter().cycle();
    group.bench_function("raw", |bench| bench.iter(|| black_box(store.size(next.next().unwrap()))));
    let store: &dyn ContentStore = &store;
    group.bench_function("trait", |bench| {
        bench.iter(|| black_box(cas::blocking_wait(store.stat(next.next().unwrap()))))
    });
    group.finish();
}

criterion_group!(benches, memory);
criterion_main!(benches);
