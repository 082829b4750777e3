//! The laws, in groups. Each trait that a backend or a snapshotter implements has a group, and the
//! group `gc` is for whole stores. A law is written in `GROUP/THEME.rs` and listed in
//! `GROUP/mod.rs`; see "Add a law" in `conformance/README.md`.

pub mod content;
pub mod gc;
pub mod images;
pub mod records;
pub mod snapshots;

use crate::law::Law;

/// The description of a law of any group.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The group of the law, such as `content`. The laws of whole stores are in the group `gc`.
    pub group: &'static str,
    /// The name of the law, unique among all laws.
    pub name: &'static str,
    /// What goes wrong for a user if a store does not keep the law.
    pub why: &'static str,
    /// The document, trait, program or issue that the rule comes from.
    pub source: &'static str,
    /// The law applies only to stores that promise this capability. `None` if the law applies to
    /// every store.
    pub needs: Option<cas_core::Capability>,
}

/// Returns all laws of all groups.
pub fn book() -> impl Iterator<Item = Rule> {
    fn rules<S: ?Sized>(laws: &'static [Law<S>]) -> impl Iterator<Item = Rule> {
        laws.iter().map(|law| Rule {
            group: law.group,
            name: law.name,
            why: law.why,
            source: law.source,
            needs: law.needs,
        })
    }
    rules(content::all())
        .chain(rules(records::all()))
        .chain(rules(images::all()))
        .chain(rules(gc::all()))
        .chain(rules(snapshots::all()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports print these texts. `why` must have more than 20 bytes and no period at its end.
    /// `source` must not be empty or an absolute path.
    #[test]
    fn every_law_says_why_and_where_it_comes_from() {
        for rule in book() {
            let (why, source) = (rule.why, rule.source);
            assert!(
                why.len() > 20 && !why.ends_with('.'),
                "{}: {why}",
                rule.name
            );
            assert!(
                !source.is_empty() && !source.starts_with('/'),
                "{}: {source}",
                rule.name
            );
        }
    }
}
