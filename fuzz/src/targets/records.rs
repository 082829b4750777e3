//! Records of a store: blobs, images, leases and snapshots.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::check::{CheckOptions, NoSources, ReadData, Repair, check};
use cas_core::gc::{GcOptions, collect};
use cas_core::records::{Batch, Blobs, Expect, Leases, Snapshots, Table};
use cas_core::testing::memory::MemoryStore;
use cas_core::{Digest, ErrorKind, Result, Store};

use super::{accepted, block_on, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "record-blob",
        run: |input| record(Table::Blobs, &Digest::sha256(b"blob").to_string(), input),
        seeds: || {
            texts(&[
                r#"{"size":4,"created_at":1000,"updated_at":1001}"#,
                r#"{"size":4,"media_type":"application/vnd.oci.image.manifest.v1+json","labels":{"containerd.io/gc.ref.content.0":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","containerd.io/gc.root":"1"},"children":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],"leases":["job"],"owners":["me"],"expires_at":5000,"created_at":1000,"updated_at":1001}"#,
                r#"{"size":4,"tombstone":{"version":1},"created_at":1000,"updated_at":1001}"#,
            ])
        },
        longest: 1500,
    },
    Target {
        name: "record-image",
        run: |input| record(Table::Images, NAME, input),
        seeds: || vec![stored(Table::Images)],
        longest: 1500,
    },
    Target {
        name: "record-lease",
        run: |input| record(Table::Leases, "job", input),
        seeds: || vec![stored(Table::Leases)],
        longest: 1000,
    },
    Target {
        name: "record-snapshot",
        run: |input| record(Table::Snapshots, "fuzz/key", input),
        seeds: || {
            texts(&[
                r#"{"id":7,"kind":"committed","created_at":1000,"updated_at":1001,"usage":{"bytes":1,"inodes":2},"children":0}"#,
                r#"{"id":8,"kind":"active","parent":"other","labels":{"containerd.io/gc.root":"1"},"created_at":1000,"updated_at":1001}"#,
            ])
        },
        longest: 1000,
    },
];

const NAME: &str = "host.test/app:1";

/// Returns the value that a store writes into the table of images or that of leases.
fn stored(table: Table) -> Vec<u8> {
    let write = async {
        let store = MemoryStore::new().with_images();
        let target = cas_core::Descriptor::of("application/x".into(), b"blob");
        let mut image = cas_core::Image::new(NAME.parse()?, target);
        image.labels.insert("key".to_owned(), "value".to_owned());
        store.images.create(image).await?;
        let lease = cas_core::records::Lease::new("owner", None);
        Leases::new(Arc::clone(&store.records))
            .create("job", &lease)
            .await?;
        let key = if table == Table::Images { NAME } else { "job" };
        store.records.load(table, key).await
    };
    let found: Result<_> = block_on(write);
    found
        .ok()
        .flatten()
        .map(|record| record.value.to_vec())
        .unwrap_or_default()
}

/// Puts a value into a store, and reads it. Then checks the store, repairs it, and runs a
/// collection. These may fail because the value is damaged, but not with `Internal`. Returns
/// whether the value can be read.
fn record(table: Table, key: &str, value: &[u8]) -> bool {
    block_on(async {
        let store = MemoryStore::new().with_images();
        let mut batch = Batch::new();
        batch.put(table, key, Expect::Any, Bytes::copy_from_slice(value));
        accepted(store.records.commit(&batch).await);
        let readable = accepted(read(&store).await);
        let repair = CheckOptions {
            read_data: ReadData::All,
            repair: Some(Repair {
                sources: &NoSources,
                rebuilder: None,
            }),
            ..CheckOptions::default()
        };
        for options in [&CheckOptions::default(), &repair] {
            accepted(check(&store, &[], options).await);
        }
        accepted(collect(&store, &[], &GcOptions::default()).await);
        readable
    })
}

/// Reads the only record of a store through the types of all tables, and in the dry run of a
/// collection.
///
/// # Errors
/// Errors of reading. A missing or damaged ancestor of a snapshot is not an error.
async fn read(store: &Store) -> Result<()> {
    let records = || Arc::clone(&store.records);
    Blobs::new(records()).load(&Digest::sha256(b"blob")).await?;
    Leases::new(records()).list().await?;
    store.images.list(&[]).await?;
    let snapshots = Snapshots::new(records(), "fuzz")?;
    let walked = snapshots.walk(None, 10).await?;
    for info in &walked {
        // The parent is missing, or is the snapshot itself.
        if let Some(record) = snapshots.load(&info.key).await?
            && let Err(error) = snapshots.ancestors(&record).await
        {
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
        }
    }
    let dry = GcOptions::default().with_dry_run(true);
    collect(store, &[], &dry).await.map(|_| ())
}
