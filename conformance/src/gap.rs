//! Gaps. A gap is a law that a store cannot keep, with the reason. Each store declares its gaps.

use crate::law::Gaps;
use crate::laws::{content, gc, images, records, snapshots};

/// The names of all laws, by group.
pub const KNOWN: &[&[&str]] = &[
    content::NAMES,
    records::NAMES,
    images::NAMES,
    snapshots::NAMES,
    gc::NAMES,
];

/// Checks that each gap names a law that exists, and gives a reason.
///
/// # Panics
/// If a gap names an unknown law, or gives no reason. In a constant, the panic is a compile error.
pub const fn check(gaps: Gaps) {
    let mut at = 0;
    while at < gaps.len() {
        assert!(
            is_known(gaps[at].0),
            "a gap names a law that does not exist; `conformance::gap::KNOWN` has all names"
        );
        assert!(!gaps[at].1.is_empty(), "a gap has no reason; give one");
        at += 1;
    }
}

const fn is_known(name: &str) -> bool {
    let mut group = 0;
    while group < KNOWN.len() {
        let mut at = 0;
        while at < KNOWN[group].len() {
            if same(name, KNOWN[group][at]) {
                return true;
            }
            at += 1;
        }
        group += 1;
    }
    false
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_every_law_and_no_other() {
        check(&[("an_empty_blob_is_a_blob", "reason")]);
        let unknown = std::panic::catch_unwind(|| check(&[("no_such_law", "reason")]));
        let unreasoned = std::panic::catch_unwind(|| check(&[("an_empty_blob_is_a_blob", "")]));
        assert!(unknown.is_err() && unreasoned.is_err());
    }

    #[test]
    fn one_list_of_gaps_serves_all_groups() {
        let mut names: Vec<&str> = KNOWN.iter().copied().flatten().copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "two laws have the same name");
    }
}
