//! A remote for tests. It has one name, and its content is that of a store.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::gc::{GcOptions, collect};
use cas_core::lease::LEASE_TTL;
use cas_core::platform::Platforms;
use cas_core::transfer::{Content, DocumentName, Fetcher, Pieces, PullOptions, Pusher, pull};
use cas_core::{Descriptor, Digest, Error, Result, Store};
use futures_util::{StreamExt, stream};

/// A remote that records what is fetched from it and pushed to it.
pub(crate) struct FakeRemote {
    pub(crate) store: Store,
    pub(crate) root: Mutex<Descriptor>,
    /// A store that is collected before every fetch.
    pub(crate) collected: Option<Store>,
    /// What [`Fetcher::serves_ranges`] returns. The ranges that are fetched are served in any case.
    pub(crate) serves_ranges: bool,
    /// Content that is damaged on the way: the first byte of each fetched range is changed.
    pub(crate) damaged: Option<Digest>,
    /// Number of bytes that are missing at the end of a range.
    pub(crate) missing: usize,
    pub(crate) fetched: Mutex<Vec<(Digest, Range<u64>)>>,
    pub(crate) pushed: Mutex<Vec<Digest>>,
    running: Arc<AtomicUsize>,
    most_running: AtomicUsize,
}

impl FakeRemote {
    pub(crate) fn new(store: &Store, root: &Descriptor) -> Self {
        FakeRemote {
            store: store.clone(),
            root: Mutex::new(root.clone()),
            collected: None,
            serves_ranges: true,
            damaged: None,
            missing: 0,
            fetched: Mutex::default(),
            pushed: Mutex::default(),
            running: Arc::default(),
            most_running: AtomicUsize::new(0),
        }
    }

    /// Returns how many fetches there were so far.
    pub(crate) fn fetches(&self) -> usize {
        self.fetched.lock().unwrap().len()
    }

    /// Returns the ranges that were fetched of some content.
    pub(crate) fn ranges_of(&self, digest: &Digest) -> Vec<Range<u64>> {
        let fetched = self.fetched.lock().unwrap();
        let ranges = fetched.iter().filter(|(fetched, _)| fetched == digest);
        ranges.map(|(_, range)| range.clone()).collect()
    }

    /// Returns the maximum number of fetches that were in progress at the same time.
    pub(crate) fn most_running(&self) -> usize {
        self.most_running.load(Ordering::SeqCst)
    }
}

/// One fetch in progress.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Fetcher for FakeRemote {
    async fn resolve(&self) -> Result<Descriptor> {
        Ok(self.root.lock().unwrap().clone())
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let digest = descriptor.digest;
        self.fetched.lock().unwrap().push((digest, range.clone()));
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let running = Running(Arc::clone(&self.running));
        if let Some(store) = &self.collected {
            // The collection's clock is ahead, but not so far that the pull's lease has expired.
            let options = GcOptions::default().with_now(SystemTime::now() + LEASE_TTL / 2);
            collect(store, &[], &options).await?;
        }
        let reader = self.store.content.open(&digest).await?;
        let reader = reader.ok_or_else(|| Error::not_found("missing in the remote"))?;
        let is_range = range != (0..descriptor.size);
        let missing = if is_range { self.missing } else { 0 };
        let length = (range.end - range.start) as usize - missing;
        let data = reader.read_at(range.start, length).await?;
        let mut data = data.to_vec();
        if self.damaged == Some(digest) && !data.is_empty() {
            data[0] ^= 1;
        }
        let pieces = data.chunks(3.max(data.len() / 5));
        let pieces: Vec<Bytes> = pieces.map(Bytes::copy_from_slice).collect();
        // The first ranges arrive last.
        let pauses = 20usize.saturating_sub((range.start >> 20) as usize);
        let pieces = stream::iter(pieces).then(move |piece| {
            let _running = &running;
            async move {
                for _ in 0..pauses {
                    tokio::task::yield_now().await;
                }
                Ok(piece)
            }
        });
        Ok(pieces.boxed())
    }

    fn serves_ranges(&self) -> bool {
        self.serves_ranges
    }
}

#[async_trait]
impl Pusher for FakeRemote {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.store.present(descriptor).await
    }

    async fn push(&self, descriptor: &Descriptor, content: Content) -> Result<()> {
        let (mut data, mut content) = (Vec::new(), content(0));
        while let Some(piece) = content.next().await.transpose()? {
            data.extend_from_slice(&piece);
        }
        self.pushed.lock().unwrap().push(descriptor.digest);
        let data = Bytes::from(data);
        self.store.put(descriptor, data, Durability::Full).await
    }

    async fn push_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()> {
        let content = move |_| stream::iter([Ok(data.clone())]).boxed();
        self.push(descriptor, Arc::new(content)).await?;
        if name == DocumentName::Root {
            *self.root.lock().unwrap() = descriptor.clone();
        }
        Ok(())
    }
}

/// Pulls the image of a remote. Returns the descriptor of its target.
pub(crate) async fn pulled(
    to: &Store,
    remote: &FakeRemote,
    options: &PullOptions<'_>,
) -> Result<Descriptor> {
    let name = "remote.test/app:1".parse().unwrap();
    Ok(pull(to, remote, name, options).await?.target)
}

/// Returns options for these platforms.
pub(crate) fn of(platforms: Platforms) -> PullOptions<'static> {
    PullOptions::default().with_platforms(platforms)
}
