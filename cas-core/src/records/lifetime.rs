//! The lifetimes of leases and of content without a lease, and the difference between clocks that a
//! garbage collection allows for.

use std::time::Duration;

/// The default lifetime of the lease of a job, counted from the creation or the last extension of
/// the lease. If the job is killed, a lease with this lifetime expires at most this long after the
/// kill; see `docs/DURABILITY.md`.
pub const LEASE_TTL: Duration = Duration::from_secs(10 * 60);
/// The time for which a blob, a snapshot or an ingest that was stored without a lease is kept, even
/// if nothing refers to it.
pub const UNLEASED_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum difference between the clocks of machines that share a store. A garbage collection
/// treats a lease as expired only after this much time has passed since the expiry time of the
/// lease.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
