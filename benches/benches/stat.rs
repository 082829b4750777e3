//! Stat of a blob that is there: through the trait, beside the raw call beneath it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a bench may stop anywhere"
)]

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::sync::RwLock;
use std::task::{Context, Poll, Waker};

use cas::content::ContentExt;
use cas::memory::MemoryStore;
use cas::{ContentStore, Digest, Location};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::fs::{AtFlags, statat};
use tokio::runtime::{Builder, Runtime};

/// Blobs in a store, so that a lookup is no constant.
const BLOBS: u32 = 10_000;

/// A stat runs where it is called: it is ready at the first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("stat left the thread"),
    }
}

fn fill(runtime: &Runtime, store: &dyn ContentStore) -> Vec<Digest> {
    let put = |number: u32| runtime.block_on(store.put(number.to_le_bytes().to_vec().into()));
    (0..BLOBS).map(|number| put(number).unwrap()).collect()
}

/// The raw call is a lookup in a map behind the same lock.
fn memory(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let store = MemoryStore::new();
    let digests = fill(&runtime, &store);
    let map: RwLock<HashMap<Digest, u64>> =
        RwLock::new(digests.iter().map(|digest| (*digest, 4)).collect());
    let mut group = criterion.benchmark_group("stat/memory");
    let mut next = digests.iter().cycle();
    group.bench_function("raw", |bench| {
        bench.iter(|| black_box(map.read().unwrap().get(next.next().unwrap()).copied()))
    });
    let store: &dyn ContentStore = &store;
    group.bench_function("trait", |bench| {
        bench.iter(|| now(store.stat(black_box(next.next().unwrap()))))
    });
    group.finish();
}

/// The raw call is one `fstatat` of the name in the open directory.
fn fs(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let memory = Path::new("/dev/shm");
    let scratch = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let location = Location::of_path("fs", &scratch.path().join("store"));
    let store = runtime.block_on(cas::registry().open(&location)).unwrap();
    let digests = fill(&runtime, &*store.content);
    let blobs = File::open(scratch.path().join("store/blobs/sha256")).unwrap();
    let names: Vec<String> = digests.iter().map(Digest::hex).collect();
    let mut group = criterion.benchmark_group("stat/fs");
    let mut name = names.iter().cycle();
    group.bench_function("raw", |bench| {
        bench.iter(|| statat(&blobs, name.next().unwrap(), AtFlags::SYMLINK_NOFOLLOW).unwrap())
    });
    let mut next = digests.iter().cycle();
    group.bench_function("trait", |bench| {
        bench.iter(|| now(store.content.stat(black_box(next.next().unwrap()))))
    });
    group.finish();
}

criterion_group!(benches, memory, fs);
criterion_main!(benches);
