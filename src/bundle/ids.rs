//! The ids of a user without privileges, and how a user namespace maps them.

use std::fmt;
use std::str::FromStr;

use cas_core::Error;
use serde::Serialize;

/// Ids of the host that one user may use: either user ids or group ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user's own id.
    pub own: u32,
    /// Ranges of further ids, as in `/etc/subuid`: the first id of a range and the number of its
    /// ids.
    pub more: Vec<(u32, u32)>,
}

/// The user ids and group ids that a user without privileges may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// User ids.
    pub users: Ids,
    /// Group ids.
    pub groups: Ids,
}

/// A range of ids in a user namespace, and the range of ids of the host that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdRange {
    /// The first id in the namespace.
    #[serde(rename = "containerID")]
    pub inside: u32,
    /// The id of the host that [`inside`](Self::inside) maps to.
    #[serde(rename = "hostID")]
    pub outside: u32,
    /// Number of ids in the range.
    #[serde(rename = "size")]
    pub count: u32,
}

impl fmt::Display for IdRange {
    /// Writes the range as `INSIDE:OUTSIDE:COUNT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

impl FromStr for IdRange {
    type Err = Error;

    /// Parses `INSIDE:OUTSIDE:COUNT`.
    ///
    /// # Errors
    /// `InvalidArgument` if the text has another form, if the range has no ids, or if an id is
    /// greater than 4,294,967,294.
    fn from_str(text: &str) -> Result<Self, Error> {
        let numbers = text.split(':').map(|number| number.parse::<u32>());
        let numbers: Option<Vec<u32>> = numbers.map(Result::ok).collect();
        let Some(&[inside, outside, count]) = numbers.as_deref() else {
            let why = "expected INSIDE:OUTSIDE:COUNT, as in 0:100000:65536";
            return Err(Error::invalid(why));
        };
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(inside) || !fits(outside) {
            let why = format!("expected at least one id, and none above {}", u32::MAX - 1);
            return Err(Error::invalid(why));
        }
        Ok(IdRange {
            inside,
            outside,
            count,
        })
    }
}

impl UserIds {
    /// Returns whether the user has further ids of both kinds: user ids and group ids.
    pub fn has_more(&self) -> bool {
        !self.users.more.is_empty() && !self.groups.more.is_empty()
    }
}

impl Ids {
    /// Returns the ranges of a user namespace in which the user's own id is 0, and the further ids
    /// follow in the order of [`more`](Self::more). Ids that do not fit into the namespace are left
    /// out.
    pub fn map(&self) -> Vec<IdRange> {
        let own = IdRange {
            inside: 0,
            outside: self.own,
            count: 1,
        };
        let mut ranges = vec![own];
        let mut next: u32 = 1;
        for &(outside, count) in &self.more {
            // The greatest number is not an id.
            let count = count.min(u32::MAX - next);
            if count > 0 {
                ranges.push(IdRange {
                    inside: next,
                    outside,
                    count,
                });
            }
            next += count;
        }
        ranges
    }

    /// Returns whether the user namespace of [`Self::map`] has the id.
    pub(super) fn has(&self, id: u32) -> bool {
        let within = |range: &IdRange| id >= range.inside && id - range.inside < range.count;
        self.map().iter().any(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(more: &[(u32, u32)]) -> Ids {
        let (own, more) = (1000, more.to_vec());
        Ids { own, more }
    }

    #[test]
    fn the_own_id_is_zero_and_the_others_follow() {
        let most = u32::MAX - 1;
        for (more, expected) in [
            (&[][..], &[][..]),
            (&[(100_000, 65_536)], &[(1, 100_000, 65_536)]),
            (
                &[(100_000, 10), (5000, 3)],
                &[(1, 100_000, 10), (11, 5000, 3)],
            ),
            (&[(9, u32::MAX), (7, 2)], &[(1, 9, most)]),
            (&[(9, most), (7, 2)], &[(1, 9, most)]),
        ] {
            let found = ids(more).map();
            let plain = |range: &IdRange| (range.inside, range.outside, range.count);
            let found: Vec<_> = found.iter().map(plain).collect();
            assert_eq!(found[0], (0, 1000, 1));
            assert_eq!(&found[1..], expected, "{more:?}");
        }
    }

    #[test]
    fn a_range_is_written_as_it_is_read() {
        for text in [
            "0:100000:65536",
            "7:0:1",
            "0:0:4294967295",
            "4294967294:5:1",
        ] {
            let range: IdRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
        }
        for (text, why) in [
            ("", "INSIDE:OUTSIDE:COUNT"),
            ("0:1", "INSIDE:OUTSIDE:COUNT"),
            ("0:1:2:3", "INSIDE:OUTSIDE:COUNT"),
            ("0:-1:2", "INSIDE:OUTSIDE:COUNT"),
            ("0:1:4294967296", "INSIDE:OUTSIDE:COUNT"),
            ("0:1:0", "at least one id"),
            ("4294967295:0:1", "none above 4294967294"),
            ("0:2:4294967294", "none above 4294967294"),
        ] {
            let error = text.parse::<IdRange>().unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_mapped_is_known() {
        let many = ids(&[(100_000, 10), (5, 1)]);
        for (id, expected) in [(0, true), (1, true), (11, true), (12, false), (1000, false)] {
            assert_eq!(many.has(id), expected, "{id}");
        }
        assert!(ids(&[]).has(0) && !ids(&[]).has(1));
    }
}
