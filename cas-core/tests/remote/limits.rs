//! Limits on the number of blobs that are fetched concurrently.

use cas_core::platform::Platforms;
use cas_core::transfer::{PullLimits, PullOptions};
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
async fn one_pull_fetches_as_many_blobs_as_the_lower_limit_says() {
    for (overall, per_image, expected) in [(3, 3, 3), (2, 5, 2), (8, 4, 4), (0, 0, 1)] {
        let from = store();
        let remote = FakeRemote::new(&from, &made(&from).await);
        let limits = PullLimits::new(overall).with_per_image(per_image);
        pulled(&store(), &remote, &limited(&limits)).await.unwrap();
        assert_eq!(remote.most_running(), expected, "{overall} {per_image}");
    }
}

#[tokio::test]
async fn the_overall_limit_holds_for_pulls_that_share_it() {
    let from = store();
    let remote = FakeRemote::new(&from, &made(&from).await);
    let shared = PullLimits::new(4);
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
