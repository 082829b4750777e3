//! Moves images between stores, and between stores and remotes such as registries: pull, push and
//! copy.
//!
//! The function [`store_blob`] stores every blob whose bytes come from a [`BlobSource`]. The
//! callers of the function need different guarantees. Its arguments therefore state how durable the
//! blob must be, whether to keep the bytes of an earlier attempt, and when to write the record of
//! the blob.

mod artifact_client;
mod carry;
mod copy;
mod documents;
mod fetch;
mod layer_feed;
mod options;
mod pull;
mod pull_limits;
mod push;
mod quota;
mod read_ahead;
mod referrers;
mod remote;
mod remote_blob;
mod source;
mod store_blob;
mod store_fetcher;
mod store_repository;
mod unpacker;
mod wants;

pub use artifact_client::{ArtifactClient, select_first};
pub use copy::copy;
pub(crate) use fetch::fetch_into;
pub use fetch::{Fetched, fetch};
pub use layer_feed::{LayerFeed, LayerReader, LayerSender, layer_channel};
pub use options::{CopyOptions, PullOptions, PushOptions};
pub use pull::pull;
pub use pull_limits::PullLimits;
pub use push::{push, pushed_platforms};
pub use quota::{AcquiredSlots, ImageQuota, Quota, QuotaLease, Slots};
pub use referrers::{ReferrerPages, Referrers};
pub use remote::{Content, DocumentName, Fetcher, Pieces, Pusher};
pub use source::BlobSource;
pub use store_blob::{BlobWrite, RecordOrder, Resume, store_blob};
pub use store_fetcher::StoreFetcher;
pub use store_repository::StoreRepository;
pub use unpacker::{Unpacker, Want};
