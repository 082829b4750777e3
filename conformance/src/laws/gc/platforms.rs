//! Laws of an image with only some of its platforms in the store.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::complete::completeness;
use cas_core::content::Durability;
use cas_core::gc::{GcOptions, collect};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;
use cas_core::transfer::{Fetcher, Pieces, PullOptions, pull};
use cas_core::{
    Capability, ContentExt, Descriptor, ErrorKind, Index, MediaType, Platform, Platforms, Result,
    Store,
};
use futures_util::{StreamExt, stream};

use super::fault::{nothing_dead, nothing_without};
use super::{Subject, sorted};
use crate::sample::{Sample, tag, verify};

/// In each round, one call of the pull fails. In the next round, the failing call is this many
/// calls later. Only calls that change something are counted.
const STRIDE: usize = 3;
/// The [`STRIDE`] for a store without atomic batches. A pull into such a store makes many more
/// calls, and slower ones.
const LONG_STRIDE: usize = 7;

/// One platform of an image is stored. A pull of all platforms is repeated, and each time a later
/// call fails. After each failure, the image can be tagged, and the stored platform is complete,
/// even after a collection. A pull without a fault then stores the other platforms.
pub(super) async fn a_failed_pull_leaves_stored_platforms_complete(subject: Subject) {
    let (store, plan) = (subject.open().await, Plan::new());
    let samples = [Sample::of(1), Sample::of(2)];
    let remote = Remote::of(&samples).await;
    let mut all = vec![remote.root.digest];
    all.extend(samples.iter().flat_map(Sample::digests));
    let stride = match store.records.capabilities().has(Capability::Atomic) {
        true => STRIDE,
        false => LONG_STRIDE,
    };
    for nth in (1..).step_by(stride) {
        remote
            .pull(&store, Platforms::One(platform(0)))
            .await
            .unwrap();
        // The call fails before its effect in one round, and after its effect in the next.
        let side = [Side::Before, Side::After][nth / stride % 2];
        let kind = ErrorKind::Unavailable;
        plan.fail_nth(nth, Fault { kind, side });
        let outcome = remote.pull(&faulty(&store, &plan), Platforms::All).await;
        let failed = plan.end();
        let context =
            format!("planned fault at call {nth} (`Side::{side:?}`); failed calls: {failed:?}");
        if outcome.is_ok() {
            let found = completeness(&store, &remote.root).await.unwrap();
            assert!(
                found.left_out.is_empty(),
                "{context}: the pull succeeded, but left out platforms: {found:?}"
            );
        }

        tag(&store, "app", "other")
            .await
            .unwrap_or_else(|error| panic!("{context}: the image cannot be tagged: {error:?}"));
        collect(&store, &[], &GcOptions::default()).await.unwrap();
        let found = completeness(&store, &remote.root).await.unwrap();
        assert_eq!(found.missing, None, "{context}");
        verify(&store, &samples[0].root())
            .await
            .unwrap_or_else(|error| {
                panic!("{context}: the stored platform is incomplete: {error:?}")
            });

        remote.pull(&store, Platforms::All).await.unwrap();
        let found = completeness(&store, &remote.root).await.unwrap();
        assert!(
            found.left_out.is_empty(),
            "{context}: the repeated pull left out platforms: {found:?}"
        );
        nothing_dead(&store, sorted(all.clone())).await;
        nothing_without(&store, ["app", "other"]).await;
        if failed.is_empty() {
            outcome.expect("a pull without a failing call must succeed");
            assert!(
                nth > 20,
                "expected more than 20 calls that change something, found fewer than {nth}"
            );
            return;
        }
    }
}

fn platform(number: usize) -> Platform {
    Platform::new("linux", ["amd64", "arm64"][number])
}

/// A repository with an index of two samples.
struct Remote {
    store: Store,
    root: Descriptor,
}

impl Remote {
    async fn of(samples: &[Sample]) -> Self {
        let store = MemoryStore::new().with_images();
        for sample in samples {
            sample.import(&store, "sample").await.unwrap();
        }
        let manifests = samples
            .iter()
            .enumerate()
            .map(|(number, sample)| Descriptor {
                platform: Some(platform(number)),
                ..sample.root()
            });
        let index = Index {
            schema_version: 2,
            media_type: Some(MediaType::OCI_INDEX),
            artifact_type: None,
            manifests: manifests.collect(),
            subject: None,
            annotations: None,
        };
        let index = Bytes::from(serde_json::to_vec(&index).expect("an index serializes"));
        let root = Descriptor::of(MediaType::OCI_INDEX, &index);
        store.put(&root, index, Durability::Full).await.unwrap();
        Remote { store, root }
    }

    async fn pull(&self, to: &Store, platforms: Platforms) -> Result<()> {
        let options = PullOptions::default().with_platforms(platforms);
        pull(to, self, "app".parse()?, &options).await.map(|_| ())
    }
}

#[async_trait]
impl Fetcher for Remote {
    async fn resolve(&self) -> Result<Descriptor> {
        Ok(self.root.clone())
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let data = self.store.content.fetch(descriptor).await?;
        let data = data.slice(range.start as usize..range.end as usize);
        Ok(stream::iter([Ok(data)]).boxed())
    }
}
