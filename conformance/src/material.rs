//! Helpers of the laws: test data, and short ways to write and read it.

use bytes::Bytes;
use cas_core::content::{Committed, Durability, Expected, Writer};
use cas_core::records::{Batch, Expect, Record, Table};
use cas_core::{
    BlobReader, ContentStore, Descriptor, Digest, Error, ErrorKind, Image, MediaType, Records,
    Result,
};

/// Returns `length` pseudorandom bytes (xorshift), which differ between seeds.
pub(crate) fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        data.extend_from_slice(&next());
    }
    data.truncate(length);
    data.into()
}

/// Writes `data` under `key` and commits it. Returns what was committed.
pub(crate) async fn ingest(
    store: &dyn ContentStore,
    key: &str,
    data: &Bytes,
    expected: Expected,
) -> Result<Committed> {
    let mut writer = Writer::begin(store, key, expected).await?;
    writer.write(data.clone()).await?;
    writer.commit(&Batch::new(), Durability::Full).await
}

/// Stores `data` under its digest. Returns the digest.
pub(crate) async fn put(store: &dyn ContentStore, data: &Bytes) -> Digest {
    let digest = Digest::sha256(data);
    let expected = Expected::exactly(digest, data.len() as u64);
    let writer = Writer::begin(store, &digest.to_string(), expected).await;
    let mut writer = writer.expect("begin must succeed");
    // A process that was killed may have written a prefix of `data` already.
    let rest =
        data.slice(usize::try_from(writer.offset()).expect("the offset must fit into `usize`")..);
    writer.write(rest).await.expect("the write must succeed");
    let committed = writer.commit(&Batch::new(), Durability::Full).await;
    assert_eq!(committed.expect("the commit must succeed").digest, digest);
    digest
}

/// Returns all bytes of a reader, read in pieces of `piece` bytes.
pub(crate) async fn read_all(reader: &dyn BlobReader, piece: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while (data.len() as u64) < reader.size() {
        let at = data.len() as u64;
        let read = reader.read_at(at, piece).await;
        let read = read.expect("the read must succeed");
        let (size, found) = (reader.size(), read.len() as u64);
        let wanted = (size - at).min(piece as u64);
        assert_eq!(
            found, wanted,
            "number of bytes read at offset {at} of a blob of {size} bytes"
        );
        data.extend_from_slice(&read);
    }
    data
}

/// Returns the bytes of a blob, or `None` if it does not exist.
pub(crate) async fn read(store: &dyn ContentStore, digest: &Digest) -> Option<Vec<u8>> {
    let reader = store.open(digest).await.expect("open must succeed")?;
    Some(read_all(reader.as_ref(), 1 << 20).await)
}

/// Checks by `stat` and `open` that the blob exists with exactly these bytes.
pub(crate) async fn assert_has(store: &dyn ContentStore, digest: &Digest, data: &[u8]) {
    let stat = store.stat(digest).await.expect("stat must succeed");
    let size = stat.map(|stat| (stat.digest, stat.size));
    assert_eq!(size, Some((*digest, data.len() as u64)), "stat of {digest}");
    let found = read(store, digest).await;
    assert!(
        found.as_deref() == Some(data),
        "{digest} does not have the bytes that were stored"
    );
}

/// Checks by `stat`, `open` and `list` that no blob exists under the digest.
pub(crate) async fn assert_absent(store: &dyn ContentStore, digest: &Digest) {
    assert_eq!(
        store.stat(digest).await.expect("stat must succeed"),
        None,
        "stat of {digest}"
    );
    let reader = store.open(digest).await.expect("open must succeed");
    assert!(
        reader.is_none(),
        "{digest} must be absent, but can be opened"
    );
    let listed = digests(store).await;
    assert!(
        !listed.contains(digest),
        "{digest} must be absent, but is listed"
    );
}

/// Returns all listed digests, read in pages of three.
pub(crate) async fn digests(store: &dyn ContentStore) -> Vec<Digest> {
    let mut all: Vec<Digest> = Vec::new();
    loop {
        let page = store.list(all.last(), 3).await.expect("list must succeed");
        let short = page.len() < 3;
        all.extend(page.iter().map(|stat| stat.digest));
        if short {
            return all;
        }
    }
}

/// Returns the kind of an error, or `None` for a success.
pub(crate) fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

/// Commits one write.
pub(crate) async fn write(
    records: &dyn Records,
    table: Table,
    key: &str,
    expect: Expect,
    value: &[u8],
) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(table, key, expect, Bytes::copy_from_slice(value));
    records.commit(&batch).await
}

/// Commits one deletion.
pub(crate) async fn delete(
    records: &dyn Records,
    table: Table,
    key: &str,
    expect: Expect,
) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete(table, key, expect);
    records.commit(&batch).await
}

/// Returns a record, which must exist.
pub(crate) async fn record(records: &dyn Records, table: Table, key: &str) -> Record {
    let record = records.load(table, key).await.expect("load must succeed");
    record.unwrap_or_else(|| panic!("the table {} has no record {key:?}", table.name()))
}

/// Returns the value under the key, if there is one.
pub(crate) async fn value(records: &dyn Records, table: Table, key: &str) -> Option<Vec<u8>> {
    let record = records.load(table, key).await.expect("load must succeed");
    record.map(|record| record.value.to_vec())
}

/// Returns all records with the prefix, read in pages of `limit`.
pub(crate) async fn scan(
    records: &dyn Records,
    table: Table,
    prefix: &str,
    limit: usize,
) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map(|record| record.key.clone());
        let page = records.scan(table, prefix, after.as_deref(), limit).await;
        let page = page.expect("scan must succeed");
        let short = page.len() < limit;
        assert!(
            page.len() <= limit,
            "a page must have at most {limit} records, but has {}",
            page.len()
        );
        all.extend(page);
        if short {
            return all;
        }
    }
}

/// Returns a descriptor with the type of a manifest and the digest of `text`. There need not be
/// such a blob.
pub(crate) fn target(text: &str) -> Descriptor {
    Descriptor::of(MediaType::OCI_MANIFEST, text.as_bytes())
}

/// Returns an image with a name and the [`target`] of `text`.
pub(crate) fn image(name: &str, text: &str) -> Image {
    Image::new(name.parse().expect("a name"), target(text))
}
