//! The entries of a source, such as signatures, that refer to an image in the source.

use std::collections::{HashMap, HashSet};

use cas_core::{Descriptor, Digest};

use super::names::Root;
use super::plan::Plan;

/// An entry without a name, and the subject that it refers to.
pub(super) struct Referrer {
    pub(super) subject: Descriptor,
    pub(super) digest: Digest,
}

/// Removes from `roots` the entries without a name whose subject can be reached from another entry.
/// Returns the removed entries. An entry whose subject is not in the source stays, as an image
/// without a name.
pub(super) fn take(roots: &mut Vec<Root>, plan: &Plan<'_>) -> Vec<Referrer> {
    let listed: HashMap<Digest, &[Digest]> = plan
        .documents
        .iter()
        .map(|item| (item.descriptor.digest, &*item.children))
        .collect();
    let mut reached = HashSet::new();
    let reach = |root: &Root, reached: &mut HashSet<Digest>| {
        let mut waiting = vec![root.target.digest];
        while let Some(digest) = waiting.pop() {
            if reached.insert(digest) {
                waiting.extend(listed.get(&digest).copied().unwrap_or_default());
            }
        }
    };
    let subject = |root: &Root| plan.subject(&root.target.digest).cloned();
    let (mut candidates, mut kept): (Vec<Root>, Vec<Root>) = std::mem::take(roots)
        .into_iter()
        .partition(|root| root.name.is_none() && subject(root).is_some());
    kept.iter().for_each(|root| reach(root, &mut reached));
    let mut taken = Vec::new();
    loop {
        let before = taken.len();
        candidates.retain(|root| match subject(root) {
            Some(subject) if reached.contains(&subject.digest) => {
                reach(root, &mut reached);
                let digest = root.target.digest;
                taken.push(Referrer { subject, digest });
                false
            }
            _ => true,
        });
        if taken.len() == before {
            break;
        }
    }
    kept.append(&mut candidates);
    *roots = kept;
    taken
}
