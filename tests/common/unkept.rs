//! Roots in which nothing keeps the snapshots of an image any more.

use std::path::Path;

use cas::Digest;
use cas::backend::pool::wait;
use cas::blocking::Cas;
use cas::labels::{GC_BACK_REF, Labels};
use cas::records::{Batch, Expect, Table};

/// Replaces the record of an image's configuration by `record`, or deletes it. Also removes the
/// labels by which blobs keep snapshots without records. Earlier releases did not set these labels.
pub(crate) fn lose_labels(root: &Path, image: &str, record: Option<&'static str>) {
    let open = Cas::open(root).unwrap();
    let snapshotter = open.snapshotter().unwrap();
    let mut removed = 0;
    for info in open.snapshots().unwrap() {
        let keys = info.labels.keys();
        for key in keys.filter(|key| key.starts_with(GC_BACK_REF)) {
            let path = format!("labels.{key}");
            wait(snapshotter.update(&info.key, Labels::new(), &[&path])).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0);
    let config = open.manifest(image).unwrap().manifest.config.digest;
    replace_record(&open, &config, record);
    open.close().unwrap();
}

/// Deletes the record of a blob.
pub(crate) fn lose_record(root: &Path, blob: &Digest) {
    let open = Cas::open(root).unwrap();
    replace_record(&open, blob, None);
    open.close().unwrap();
}

/// Replaces the record of a blob by `record`, or deletes it.
fn replace_record(open: &Cas, blob: &Digest, record: Option<&'static str>) {
    let (mut batch, key) = (Batch::new(), blob.to_string());
    match record {
        Some(record) => batch.put(Table::Blobs, key, Expect::Any, record.into()),
        None => batch.delete(Table::Blobs, key, Expect::Any),
    }
    wait(open.store().records.commit(&batch)).unwrap();
}
