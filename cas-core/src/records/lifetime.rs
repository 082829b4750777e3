//! The lease default and all other lifetimes: how long things are kept without a name.

use std::time::Duration;

/// The default lifetime of a lease: how long a lease outlives its job if the job is killed.
/// `docs/DURABILITY.md` states it.
pub const LEASE_TTL: Duration = Duration::from_secs(10 * 60);
/// How long a blob, a snapshot or an ingest that no lease pins is kept.
pub const UNLEASED_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the clocks of machines that share a store may differ. A lease counts as expired this
/// long after the time that it states.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
