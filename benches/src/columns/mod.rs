//! The columns of the table: our stores, the databases called directly, plain files, the crate
//! cacache, and the floors, which are bounds that no store can beat.

mod cached;
mod raw_redb;
#[cfg(feature = "rocksdb")]
mod raw_rocksdb;
mod raw_sqlite;

use std::path::PathBuf;
use std::sync::Arc;

use cas::backend::{Records, Snapshotter};
use cas::compose::{Counters, observe};
use cas::testing::memory::MemoryStore;
use cas::{Error, Location, Result, Store};
use snapshot_overlay::OverlaySnapshotter;
use workload::{Contender, Open, Promise, floors, plain, stores};

/// Returns all columns in the order of the table, the floors last.
pub fn all() -> Vec<Contender> {
    let mut all = ours();
    all.push(raw_redb::contender());
    #[cfg(feature = "rocksdb")]
    all.push(raw_rocksdb::contender());
    all.push(raw_sqlite::contender());
    all.push(plain());
    all.push(cached::contender());
    all.extend(floors());
    all
}

/// The name of the column of the object store with a directory in place of a bucket. Listing or
/// garbage-collecting 100,000 blobs takes many minutes, because the store makes separate calls for
/// each blob, as with a bucket. The program `table` therefore shows the column only if `--columns`
/// names it.
pub const SLOW: &str = "dir";

/// The schemes of the backends that each have a column of their own.
const BACKENDS: &[&str] = &[
    "fs",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    SLOW,
];

/// Returns the columns of our stores.
pub fn ours() -> Vec<Contender> {
    let mut all: Vec<Contender> = BACKENDS.iter().copied().map(backend).collect();
    let by_size: Open = Arc::new(|directory| Box::pin(by_size(directory)));
    let observed: Open = Arc::new(|directory| Box::pin(observed(directory)));
    let memory: Open = Arc::new(|_| Box::pin(async { Ok(MemoryStore::new().with_images()) }));
    all.push(stores(
        "by-size redb+fs",
        Promise::Durable,
        by_size,
        Some(overlay),
    ));
    all.push(stores(
        "redb observed",
        Promise::Durable,
        observed,
        Some(overlay),
    ));
    all.push(stores("memory", Promise::Volatile, memory, Some(overlay)));
    all
}

fn backend(scheme: &'static str) -> Contender {
    let open: Open = Arc::new(move |directory: PathBuf| {
        let location = Location::of_path(scheme, &directory);
        Box::pin(async move { cas::registry().open(&location?).await })
    });
    stores(scheme, Promise::Durable, open, Some(overlay))
}

async fn by_size(directory: PathBuf) -> Result<Store> {
    let location = Location::of_path("by-size", &directory)?
        .with_option("small", "redb")
        .with_option("large", "fs");
    cas::registry().open(&location).await
}

async fn observed(directory: PathBuf) -> Result<Store> {
    let store = cas::registry()
        .open(&Location::of_path("redb", &directory)?)
        .await?;
    Ok(observe(store, Arc::new(Counters::new())))
}

fn overlay(directory: &std::path::Path, records: Arc<dyn Records>) -> Result<Arc<dyn Snapshotter>> {
    Ok(Arc::new(OverlaySnapshotter::open(directory, records)?))
}

/// Returns the record of a blob in a database that is called directly.
fn record(size: u64) -> String {
    format!(r#"{{"size":{size},"media_type":"application/vnd.oci.image.layer.v1.tar"}}"#)
}

/// Converts an error of SQLite, redb, RocksDB or cacache. Returns it as an error of `cas`.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal(error.to_string()).source(error)
}
