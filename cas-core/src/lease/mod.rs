//! Leases: a job pins all content that it depends on under a lease, until names refer to the
//! content.
//!
//! A garbage collection ([`gc`](crate::gc)) may run at any time, in any process. It never removes
//! what a job needs, because every job follows these steps in order:
//!
//! 1. The job creates a lease ([`LeaseGuard::begin`]). A thread extends the lease until the job
//!    ends. If the job is killed, the lease expires within [`LEASE_TTL`].
//! 2. The job pins everything that it depends on, down to the last blob ([`LeaseGuard::pin_tree`]),
//!    and publishes what the store does not have yet ([`LeaseGuard::publish`]).
//! 3. The job records which children the stored documents (indexes and manifests) list
//!    ([`LeaseGuard::record_children`]). A job that fails before this point leaves every image as
//!    it was.
//! 4. The job writes names ([`LeaseGuard::name`], which also does step 5).
//! 5. The job ends the lease ([`LeaseGuard::finish`]).
//!
//! A job that only reads pins what it reads. If the store cannot be written, such a job runs
//! without a lease ([`ReadGuard`]).
//!
//! To pin a blob is to add the id of the lease to the record of the blob, by compare-and-swap. This
//! changes the revision of the record. So a collector that read the record before the change can no
//! longer write a tombstone, the mark of a blob that is being removed. A collector that reads the
//! record later finds the lease. A blob that already has a tombstone is revived. Its bytes, if they
//! are intact, are stored again as a new version.
//!
//! If a garbage collection has removed a lease that expired before its job was done, the job
//! creates the lease again and pins everything again. If a pinned blob was collected meanwhile, the
//! job fails with `Conflict`, and the names that it wrote are deleted, or restored to what they
//! were before.

mod add;
mod change_labels;
mod children;
mod guard;
mod intact;
mod label;
mod name;
mod pin;
mod publish;
mod reading;
mod referrers;
mod renewer;
mod revive;
mod store;
mod swap;
mod tree;
mod verified;

pub use add::add_to_lease;
pub use change_labels::{change_labels, update_labels};
pub use guard::LeaseGuard;
pub(crate) use intact::stored_copy;
pub use label::{
    child_gc_labels, child_gc_labels_filter_layers, set_children_labels,
    set_children_mapped_labels, set_labels,
};
pub use pin::BlobRef;
pub use reading::{ReadGuard, cannot_write};
pub(crate) use referrers::add_referrers;

pub use crate::records::{CLOCK_SKEW, LEASE_TTL, UNLEASED_TTL};
