//! Leases: what a job depends on is pinned under a lease until the job has named it.
//!
//! A job begins a [`LeaseGuard`], pins what it depends on, publishes the rest, writes names and
//! ends the lease. Pinning is a compare-and-swap on the record of a blob: it moves the record's
//! revision, so that a collector that read the record before can no longer tombstone it.

mod add;
mod guard;
mod label;
mod name;
mod pin;
mod publish;
mod renewer;
mod revive;
mod store;
mod swap;
mod tree;

pub use add::add_to_lease;
pub use guard::LeaseGuard;
pub use label::{
    child_gc_labels, child_gc_labels_filter_layers, set_children_labels,
    set_children_mapped_labels, set_labels,
};
pub use pin::BlobRef;

pub use crate::records::{CLOCK_SKEW, LEASE_TTL, UNLEASED_TTL};
