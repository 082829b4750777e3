//! Writers that are dropped during a write, and publishes that are interrupted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::thread;

use backend_fs::FsStore;
use cas_core::{Digest, ErrorKind, pool};

/// Keeps every thread of the pool busy until the caller waits at the returned barrier.
fn block_the_pool() -> (Arc<Barrier>, Vec<thread::JoinHandle<()>>) {
    let threads = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let barrier = Arc::new(Barrier::new(threads + 1));
    let blockers = (0..threads).map(|_| {
        let barrier = Arc::clone(&barrier);
        thread::spawn(move || {
            let work = pool::run(move || {
                barrier.wait();
                barrier.wait();
                Ok(())
            });
            let runtime = tokio::runtime::Builder::new_current_thread();
            { runtime }.build().unwrap().block_on(work).unwrap();
        })
    });
    let blockers = blockers.collect();
    barrier.wait();
    (barrier, blockers)
}

/// More bytes than a writer writes inline.
const LENGTH: usize = 1 << 20;

/// A late write must not change the bytes of the next writer.
#[test]
fn a_write_of_a_dropped_writer_keeps_the_key_locked() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let mut ingest = pool::wait(content.begin("key")).unwrap();
    let (barrier, blockers) = block_the_pool();
    {
        let mut append = ingest.append(vec![1; LENGTH].into());
        let pending = append
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(pending.is_pending());
    }
    drop(ingest);
    let second = pool::wait(content.begin("key")).map(|ingest| ingest.offset());
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Busy);
    barrier.wait();
    blockers.into_iter().for_each(|one| one.join().unwrap());
    let offset = loop {
        match pool::wait(content.begin("key")) {
            Err(error) if error.kind() == ErrorKind::Busy => thread::yield_now(),
            begun => break begun.unwrap().offset(),
        }
    };
    assert_eq!(offset, LENGTH as u64);
}

/// A publish was interrupted between link and unlink.
#[test]
fn an_ingest_that_is_hard_linked_to_a_blob_is_not_written_to() {
    for key in ["key", &Digest::sha256(b"key").to_string()] {
        let temp = tempfile::tempdir().unwrap();
        let content = FsStore::open(temp.path()).unwrap().content();
        let staged = match key {
            "key" => Digest::sha256(b"key").hex(),
            digest => digest.to_owned(),
        };
        let staged = temp.path().join(".cas/ingest").join(staged);
        pool::wait(async {
            let mut ingest = content.begin(key).await.unwrap();
            ingest.append("bytes".into()).await.unwrap();
            drop(ingest);
            let digest = Digest::sha256(b"bytes");
            let blob = temp.path().join("blobs/sha256").join(digest.hex());
            std::fs::hard_link(staged, &blob).unwrap();
            let mut ingest = content.begin(key).await.unwrap();
            assert_eq!(ingest.offset(), 0);
            ingest.append("other".into()).await.unwrap();
            assert_eq!(std::fs::read(&blob).unwrap(), b"bytes");
        });
    }
}
