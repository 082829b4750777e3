//! Parts of a blob, from registries that serve ranges and from registries that do not.

use std::ops::Range;

use bytes::Bytes;
use cas::distribution::Client;
use cas::transfer::{Fetcher, PullLimits, PullOptions, pull};
use cas::{Descriptor, Result};
use cas_core::testing::memory::MemoryStore;
use futures_util::TryStreamExt;

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use super::{client, quick};

/// Size of a blob that arrives in more than one piece.
const SIZE: u64 = 700_000;
/// A range in it that also arrives in more than one piece.
const MIDDLE: Range<u64> = 1000..600_001;

async fn fetched(client: &Client, blob: &Descriptor, range: Range<u64>) -> Result<Vec<u8>> {
    let pieces: Vec<Bytes> = client.fetch(blob, range).await?.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn the_middle_of_a_blob_is_asked_for_and_the_whole_is_not_a_range() {
    let sample = Sample::new(&[SIZE as usize]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let (client, blob) = (client(&registry, quick()).await, &sample.layers[0]);
    for (range, header) in [
        (MIDDLE, Some("bytes=1000-600000")),
        (0..1, Some("bytes=0-0")),
        (SIZE - 1..SIZE, Some("bytes=699999-699999")),
        (0..SIZE, None),
    ] {
        let data = &sample.data(blob)[range.start as usize..range.end as usize];
        assert!(fetched(&client, blob, range).await.unwrap() == data);
        let seen = registry.seen();
        assert_eq!(seen.last().unwrap().header("range"), header);
    }
    assert!(client.serves_ranges());
}

/// The registry answers with the whole blob, with another range, and with a refusal.
#[tokio::test]
async fn a_range_is_cut_out_of_other_answers() {
    for status in [200, 206, 416] {
        let sample = Sample::new(&[SIZE as usize]);
        let (blob, whole) = (
            sample.layers[0].clone(),
            sample.data(&sample.layers[0]).to_vec(),
        );
        let answered = whole.clone();
        let registry = Fake::start(move |request| match (request.range(), status) {
            (Some(_), 206) => Answer::new(206)
                .with("Content-Range", "bytes 0-9/700000")
                .body(&answered[..10]),
            (Some(_), 416) => Answer::new(416),
            _ => Answer::new(200).body(&answered),
        });
        let client = client(&registry, quick()).await;
        assert!(client.serves_ranges());
        for range in [MIDDLE, 0..1, SIZE - 1..SIZE] {
            let expected = &whole[range.start as usize..range.end as usize];
            assert!(fetched(&client, &blob, range).await.unwrap() == expected);
        }
        assert!(!client.serves_ranges(), "{status}");
    }
}

#[tokio::test]
async fn a_range_that_breaks_off_continues_where_it_ended() {
    let sample = Sample::new(&[SIZE as usize]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request).cut(250_000));
    let (client, blob) = (client(&registry, quick()).await, &sample.layers[0]);
    let expected = &sample.data(blob)[MIDDLE.start as usize..MIDDLE.end as usize];
    assert!(fetched(&client, blob, MIDDLE).await.unwrap() == expected);
    let ranges: Vec<_> = registry.seen().iter().filter_map(Request::range).collect();
    let starts = [1000, 251_000, 501_000];
    assert_eq!(ranges, starts.map(|start| (start, 600_000)));
}

#[tokio::test]
async fn a_layer_comes_in_several_ranges_at_once() {
    let size = 2 * PullLimits::RANGE as usize + 5;
    for serves in [true, false] {
        let sample = Sample::new(&[size]);
        let (good, layer) = (sample.clone(), sample.layers[0].clone());
        let path = format!("/blobs/{}", layer.digest);
        let registry = Fake::start(move |request| {
            if serves || !request.path.ends_with(&path) {
                return good.answer(request);
            }
            Answer::new(200).body(good.data(&good.layers[0]))
        });
        let store = MemoryStore::new().with_images();
        let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(3));
        let (client, name) = (client(&registry, quick()).await, "app:1".parse().unwrap());
        pull(&store, &client, name, &options).await.unwrap();
        assert!(store.present(&layer).await.unwrap());
        let seen = registry.seen();
        let ranges: Vec<_> = seen.iter().filter_map(Request::range).collect();
        assert_eq!(ranges.len(), if serves { 3 } else { 1 }, "{ranges:?}");
    }
}

/// The registry serves the first ranges only, and one of these in two parts.
#[tokio::test]
async fn the_rest_comes_by_one_request_once_ranges_are_refused() {
    let range = PullLimits::RANGE;
    let size = 4 * range as usize + 5;
    let sample = Sample::new(&[size]);
    let (good, layer) = (sample.clone(), sample.layers[0].clone());
    let path = format!("/blobs/{}", layer.digest);
    let registry = Fake::start(move |request| {
        let answer = good.answer(request);
        match request.range() {
            _ if !request.path.ends_with(&path) => answer,
            Some((start, _)) if start == range as usize => answer.cut(1000),
            Some((start, _)) if start > 2 * range as usize => Answer::new(501),
            _ => answer,
        }
    });
    let store = MemoryStore::new().with_images();
    let options = PullOptions::default().with_limits(PullLimits::default().with_per_layer(2));
    let (client, name) = (client(&registry, quick()).await, "app:1".parse().unwrap());
    pull(&store, &client, name, &options).await.unwrap();
    assert!(store.present(&layer).await.unwrap());
    let path = format!("/blobs/{}", layer.digest);
    let seen = registry.seen();
    let asked = seen.iter().filter(|one| one.path.ends_with(&path));
    let wholes = asked.filter(|one| one.range().is_none()).count();
    assert!(wholes <= 2, "the layer was fetched {wholes} times");
}
