//! Times in records, stored as whole nanoseconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serializer};

/// Writes a time, for `#[serde(with = "cas_core::time")]`. Times before 1970 are written as 1970,
/// and times after the year 2554 as [`u64::MAX`].
///
/// # Errors
/// Errors of the serializer.
pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns a time that [`serialize`] wrote.
///
/// # Errors
/// Errors of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    u64::deserialize(deserializer).map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos))
}

/// The functions [`serialize`] and [`deserialize`], for a time that may be absent.
pub mod optional {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Time(#[serde(with = "super")] SystemTime);

    /// Writes a time, or the empty value of the format (`null` in JSON) for `None`.
    ///
    /// # Errors
    /// Errors of the serializer.
    pub fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Returns the time that [`serialize`] wrote, or `None` if it wrote the empty value.
    ///
    /// # Errors
    /// Errors of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Option::<Time>::deserialize(deserializer).map(|time| time.map(|Time(time)| time))
    }
}

/// Returns the current time, or the time one nanosecond after `last` if that is later. So two
/// states of a record never have the same time.
pub(crate) fn later(last: SystemTime) -> SystemTime {
    SystemTime::now().max(last + Duration::from_nanos(1))
}
