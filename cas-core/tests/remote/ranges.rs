//! Layers that are fetched in several concurrent ranges.

use std::ops::Range;

use bytes::Bytes;
use cas_core::platform::Platforms;
use cas_core::transfer::{Fetcher, PullLimits, PullOptions, Quota};
use cas_core::{Descriptor, ErrorKind, MediaType, Platform, Store};
use futures_util::TryStreamExt;

use super::fake::{FakeRemote, of, pulled};
use crate::support::{config, manifest, put, store};

const RANGE: u64 = PullLimits::RANGE;
/// Three whole ranges, and a short one.
const SIZE: u64 = 3 * RANGE + 5;

/// Puts an image with one large layer.
async fn made(store: &Store) -> (Descriptor, Descriptor) {
    let data: Vec<u8> = (0..SIZE).map(|at| (at >> 8 ^ at) as u8).collect();
    let layer = put(store, MediaType::OCI_LAYER, &data).await;
    let config = config(store, &Platform::host().to_string(), &[layer.digest]).await;
    let root = manifest(store, config, std::slice::from_ref(&layer)).await;
    (root, layer)
}

fn in_ranges(ranges: usize) -> PullOptions<'static> {
    of(Platforms::Host).with_limits(PullLimits::default().with_blobs(1).with_per_layer(ranges))
}

/// Returns the ranges that begin at these positions and end where the next one begins.
fn ranges(starts: &[u64]) -> Vec<Range<u64>> {
    let ends = starts.iter().skip(1).chain([&SIZE]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| *start..*end)
        .collect()
}

#[tokio::test]
async fn a_remote_serves_the_middle_of_a_blob() {
    let from = store();
    let blob = put(&from, MediaType::OCI_LAYER, b"0123456789").await;
    let remote = FakeRemote::new(&from, &blob);
    for (range, expected) in [(0..10, "0123456789"), (3..7, "3456"), (9..10, "9")] {
        let pieces = remote.fetch(&blob, range).await.unwrap();
        let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), expected.as_bytes());
    }
}

#[tokio::test]
async fn ranges_are_fetched_at_once_and_written_in_order() {
    let from = store();
    let (root, layer) = made(&from).await;
    for (at_once, starts) in [
        (1, &[0][..]),
        (2, &[0, RANGE, 2 * RANGE, 3 * RANGE]),
        (8, &[0, RANGE, 2 * RANGE, 3 * RANGE]),
    ] {
        let (to, remote) = (store(), FakeRemote::new(&from, &root));
        pulled(&to, &remote, &in_ranges(at_once)).await.unwrap();
        assert_eq!(remote.ranges_of(&layer.digest), ranges(starts));
        assert_eq!(remote.most_running(), at_once.min(starts.len()));
        assert!(to.present(&layer).await.unwrap());
    }
}

#[tokio::test]
async fn ranges_count_as_requests_and_have_the_size_that_was_chosen() {
    let from = store();
    let (root, layer) = made(&from).await;
    for (requests, expected) in [(1, 1), (2, 2), (0, 4)] {
        let (to, remote) = (store(), FakeRemote::new(&from, &root));
        let limits = PullLimits::of_requests(Quota::of_each_image(requests))
            .with_blobs(1)
            .with_per_layer(4)
            .with_range(RANGE / 2);
        let options = of(Platforms::Host).with_limits(limits);
        pulled(&to, &remote, &options).await.unwrap();
        let starts: Vec<u64> = (0..7).map(|at| at * RANGE / 2).collect();
        assert_eq!(remote.ranges_of(&layer.digest), ranges(&starts));
        assert_eq!(remote.most_running(), expected);
        assert!(to.present(&layer).await.unwrap());
    }
}

#[tokio::test]
async fn a_resumed_layer_is_fetched_from_its_offset() {
    let from = store();
    let (root, layer) = made(&from).await;
    let (to, remote) = (store(), FakeRemote::new(&from, &root));
    let reader = from.content.open(&layer.digest).await.unwrap().unwrap();
    let mut writer = to.writer(&layer).await.unwrap();
    let beginning = reader.read_at(0, 100).await.unwrap();
    writer.write(beginning).await.unwrap();
    drop(writer);
    pulled(&to, &remote, &in_ranges(3)).await.unwrap();
    let starts = [100, RANGE + 100, 2 * RANGE + 100];
    assert_eq!(remote.ranges_of(&layer.digest), ranges(&starts));
    assert!(to.present(&layer).await.unwrap());
}

#[tokio::test]
async fn a_remote_without_ranges_is_asked_for_the_whole() {
    let from = store();
    let (root, layer) = made(&from).await;
    let (to, mut remote) = (store(), FakeRemote::new(&from, &root));
    remote.serves_ranges = false;
    pulled(&to, &remote, &in_ranges(3)).await.unwrap();
    assert_eq!(remote.ranges_of(&layer.digest), [0..RANGE, 0..SIZE]);
    assert!(to.present(&layer).await.unwrap());
}

#[tokio::test]
async fn a_short_range_is_damage_and_nothing_is_kept() {
    let from = store();
    let (root, _) = made(&from).await;
    let (to, mut remote) = (store(), FakeRemote::new(&from, &root));
    remote.missing = 1;
    let error = pulled(&to, &remote, &in_ranges(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("fewer"), "{error}");
    assert!(to.content.ingests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_beginning_is_fetched_again() {
    let from = store();
    let (root, layer) = made(&from).await;
    let (to, remote) = (store(), FakeRemote::new(&from, &root));
    let mut writer = to.writer(&layer).await.unwrap();
    writer.write(Bytes::from_static(b"wrong")).await.unwrap();
    drop(writer);
    pulled(&to, &remote, &in_ranges(3)).await.unwrap();
    assert!(to.present(&layer).await.unwrap());
}
