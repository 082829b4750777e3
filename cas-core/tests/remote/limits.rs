//! Limits on the number of requests and of blobs that are fetched concurrently.

use cas_core::platform::Platforms;
use cas_core::transfer::{PullLimits, PullOptions, Quota};
use cas_core::{Descriptor, MediaType, Platform, Store};

use super::fake::{FakeRemote, of, pulled};
use crate::support::{config, manifest, put, store};

/// Puts an image of eight layers.
async fn made(store: &Store) -> Descriptor {
    let mut layers = Vec::new();
    for number in 0..8u8 {
        layers.push(put(store, MediaType::OCI_LAYER, &[number; 50]).await);
    }
    let config = config(store, &Platform::host().to_string(), &[]).await;
    manifest(store, config, &layers).await
}

fn limited(limits: &PullLimits) -> PullOptions<'static> {
    of(Platforms::Host).with_limits(limits.clone())
}

#[tokio::test]
async fn one_pull_makes_as_many_requests_as_the_lower_limit_says() {
    for (overall, per_image, expected) in [(3, 3, 3), (2, 2, 2), (8, 4, 4), (5, 0, 5), (-1, 2, 2)] {
        let from = store();
        let remote = FakeRemote::new(&from, &made(&from).await);
        let limits = PullLimits::of_requests(Quota::new(overall, per_image).unwrap());
        pulled(&store(), &remote, &limited(&limits)).await.unwrap();
        assert_eq!(remote.most_running(), expected, "{overall} {per_image}");
    }
}

#[tokio::test]
async fn without_a_limit_on_requests_the_number_of_blobs_counts() {
    let from = store();
    let remote = FakeRemote::new(&from, &made(&from).await);
    let limits = PullLimits::default().with_blobs(4);
    pulled(&store(), &remote, &limited(&limits)).await.unwrap();
    assert_eq!(remote.most_running(), 4);
}

#[tokio::test]
async fn the_overall_limit_holds_for_pulls_that_share_it() {
    let from = store();
    let remote = FakeRemote::new(&from, &made(&from).await);
    let shared = PullLimits::of_requests(Quota::new(4, 3).unwrap());
    let (first, second) = (limited(&shared), limited(&shared));
    let stores = (store(), store());
    let pulls = (
        pulled(&stores.0, &remote, &first),
        pulled(&stores.1, &remote, &second),
    );
    let (first, second) = tokio::join!(pulls.0, pulls.1);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(remote.most_running(), 4);
}

/// Two pulls of one image into one store: one waits for the ingest of the other, which waits for a
/// request.
#[tokio::test]
async fn pulls_of_one_image_do_not_wait_for_each_other_forever() {
    let (from, to) = (store(), store());
    let remote = FakeRemote::new(&from, &made(&from).await);
    let shared = PullLimits::of_requests(Quota::new(1, 1).unwrap());
    let (first, second) = (limited(&shared), limited(&shared));
    let pulls = (pulled(&to, &remote, &first), pulled(&to, &remote, &second));
    let (first, second) = tokio::join!(pulls.0, pulls.1);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(remote.most_running(), 1);
}
