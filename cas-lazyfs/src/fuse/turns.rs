//! Limits how many reads that need bytes from the same registry are served at the same time. A
//! registry that does not answer therefore does not occupy all threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use cas_core::sync::lock;

/// The reads that wait for each registry. At most `most` of one registry are served at a time; the
/// others wait in a queue, which occupies no thread.
pub(super) struct Turns<R> {
    most: usize,
    registries: Mutex<BTreeMap<String, Registry<R>>>,
}

struct Registry<R> {
    served: usize,
    queue: VecDeque<R>,
}

impl<R> Turns<R> {
    pub(super) fn new(most: usize) -> Self {
        Turns {
            most,
            registries: Mutex::default(),
        }
    }

    /// Returns `read` if it is served now. The caller serves it, and then calls
    /// [`next`](Self::next) until that returns `None`. Returns `None` if the read waits in the
    /// queue.
    pub(super) fn begin(&self, registry: &str, read: R) -> Option<R> {
        let mut registries = lock(&self.registries);
        let registry = registries.entry(registry.to_owned()).or_insert(Registry {
            served: 0,
            queue: VecDeque::new(),
        });
        if registry.served == self.most {
            registry.queue.push_back(read);
            return None;
        }
        registry.served += 1;
        Some(read)
    }

    /// Ends a read of a registry. Returns the next one in the queue, which the caller serves, or
    /// `None` if the queue is empty.
    pub(super) fn next(&self, name: &str) -> Option<R> {
        let mut registries = lock(&self.registries);
        let registry = registries.get_mut(name)?;
        let next = registry.queue.pop_front();
        if next.is_none() {
            registry.served -= 1;
            if registry.served == 0 {
                registries.remove(name);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_a_registry_wait_in_order_and_not_for_other_registries() {
        let turns = Turns::new(2);
        assert_eq!(turns.begin("a", 1), Some(1));
        assert_eq!(turns.begin("a", 2), Some(2));
        assert_eq!(turns.begin("a", 3), None);
        assert_eq!(turns.begin("a", 4), None);
        assert_eq!(turns.begin("b", 5), Some(5));
        assert_eq!(turns.next("a"), Some(3));
        assert_eq!(turns.next("a"), Some(4));
        assert_eq!(turns.next("a"), None);
        assert_eq!(turns.begin("a", 6), Some(6));
        assert_eq!(turns.begin("a", 7), None);
        assert_eq!(turns.next("b"), None);
        assert_eq!(turns.next("a"), Some(7));
        assert_eq!(turns.next("a"), None);
        assert_eq!(turns.next("a"), None);
        assert!(lock(&turns.registries).is_empty());
    }
}
