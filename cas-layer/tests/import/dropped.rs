//! Imports whose future is dropped, as after a signal.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use cas_core::Store;
use cas_layer::import::{ImportOptions, Source};
use serde_json::json;

use super::docker::saved;
use super::{import, store};
use crate::common::source::{Files, gzip, in_file, in_stream};

/// Maximum number of times that an archive is imported until a drop meets an open ingest.
const ROUNDS: usize = 100;

/// Imports, but drops the future after some polls. Returns the number of ingests that it had then,
/// or `None` if it ended before.
async fn dropped_after(polls: usize, store: &Store, source: Source) -> Option<usize> {
    let options = ImportOptions::default();
    let mut importing = pin!(import(store, source, &options));
    let mut left = polls;
    let is_done = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        importing.as_mut().poll(context).map(|done| {
            done.unwrap();
            true
        })
    });
    match is_done.await {
        true => None,
        false => Some(store.content.ingests().await.unwrap().len()),
    }
}

/// Waits until the ingests are discarded in the background.
async fn assert_none_is_left(store: &Store) {
    let begun = Instant::now();
    loop {
        let left = store.content.ingests().await.unwrap();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{left:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn an_import_that_is_dropped_at_any_point_leaves_no_ingest() {
    let mut layout = Files::layout();
    let images = ["amd64", "arm64"].map(|one| layout.image(one.len() as u64, one));
    layout.entries(&[(Some("a"), &images[0]), (Some("b"), &images[1])]);
    let archives = [
        layout.tar(),
        gzip(&layout.tar()),
        saved(json!(["x.io/a:1"])).0.tar(),
        gzip(&saved(json!(["x.io/a:1"])).0.tar()),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (number, archive) in archives.iter().enumerate() {
        for is_stream in [true, false] {
            let mut open = 0;
            // Whether an ingest is open after a number of polls depends on threads.
            for _ in 0..ROUNDS {
                for polls in 1.. {
                    let source = match is_stream {
                        true => in_stream(archive),
                        false => in_file(directory.path(), archive),
                    };
                    let store = store();
                    let Some(ingests) = dropped_after(polls, &store, source).await else {
                        break;
                    };
                    open += ingests;
                    assert_none_is_left(&store).await;
                }
                if open > 0 {
                    break;
                }
            }
            assert!(open > 0, "{number}: no ingest was ever open");
        }
    }
}
