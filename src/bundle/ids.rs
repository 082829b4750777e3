//! The ids of a user without privileges, and how a user namespace maps them.

use serde::Serialize;

/// Ids of the host that one user may use: either user ids or group ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user's own id.
    pub own: u32,
    /// Ranges of further ids, as in `/etc/subuid`: the first id and how many there are.
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

/// A range of ids in a user namespace, and the ids of the host that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdRange {
    /// The first id in the namespace.
    #[serde(rename = "containerID")]
    pub inside: u32,
    /// The first id of the host.
    #[serde(rename = "hostID")]
    pub outside: u32,
    /// How many ids there are.
    #[serde(rename = "size")]
    pub count: u32,
}

impl UserIds {
    /// Returns whether there are more ids than the user's own.
    pub fn has_more(&self) -> bool {
        !self.users.more.is_empty() && !self.groups.more.is_empty()
    }
}

impl Ids {
    /// Returns the ranges of a user namespace in which the user's own id is 0, and the further ids
    /// follow.
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

    /// Returns whether that namespace has the id.
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
    fn what_is_mapped_is_known() {
        let many = ids(&[(100_000, 10), (5, 1)]);
        for (id, expected) in [(0, true), (1, true), (11, true), (12, false), (1000, false)] {
            assert_eq!(many.has(id), expected, "{id}");
        }
        assert!(ids(&[]).has(0) && !ids(&[]).has(1));
    }
}
