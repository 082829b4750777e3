//! Extended attributes in the form in which an image stores them. The files of a tree that have the
//! same attributes share one set in memory.

use std::collections::HashMap;
use std::sync::Arc;

/// Prefixes of names, and the numbers that stand for them in an image. The third value is true if
/// the prefix must be the whole name.
const PREFIXES: [(&[u8], u8, bool); 5] = [
    (b"user.", 1, false),
    (b"system.posix_acl_access", 2, true),
    (b"system.posix_acl_default", 3, true),
    (b"trusted.", 4, false),
    (b"security.", 6, false),
];

/// Maximum length of a value in bytes.
pub(crate) const VALUE: usize = u16::MAX as usize;

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Attribute {
    /// The number of the prefix.
    pub(crate) prefix: u8,
    /// The name after the prefix.
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

impl Attribute {
    /// Returns the attribute, or `None` if an image cannot store its name or a value of its size.
    pub(crate) fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let split = |&(prefix, number, whole): &(&[u8], u8, bool)| {
            let rest = name.strip_prefix(prefix)?;
            (rest.is_empty() == whole).then_some((number, rest))
        };
        let (prefix, rest) = PREFIXES.iter().find_map(split)?;
        let fits = rest.len() <= u8::MAX.into() && value.len() <= VALUE;
        fits.then(|| Attribute {
            prefix,
            name: rest.into(),
            value: value.into(),
        })
    }

    /// Returns the number of bytes of the name and the value.
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len()
    }
}

/// Identifies a set of attributes.
pub(crate) type SetId = u32;

/// The set without attributes.
pub(crate) const NONE: SetId = 0;

/// The sets of attributes of a tree, each once.
pub(crate) struct Sets {
    sets: Vec<Arc<[Attribute]>>,
    ids: HashMap<Arc<[Attribute]>, SetId>,
}

impl Default for Sets {
    fn default() -> Self {
        let none: Arc<[Attribute]> = Arc::new([]);
        Sets {
            sets: vec![Arc::clone(&none)],
            ids: HashMap::from([(none, NONE)]),
        }
    }
}

impl Sets {
    /// Sorts the attributes of a set, and stores the set if it is new. Returns the identity of the
    /// set.
    pub(crate) fn insert(&mut self, mut set: Vec<Attribute>) -> SetId {
        set.sort();
        if let Some(&id) = self.ids.get(&set[..]) {
            return id;
        }
        // The number fits in 32 bits: every new set adds at least one byte to the size of the tree,
        // which is at most `limit::TREE`.
        let id = self.sets.len() as SetId;
        let set: Arc<[Attribute]> = set.into();
        self.sets.push(Arc::clone(&set));
        self.ids.insert(set, id);
        id
    }

    pub(crate) fn get(&self, id: SetId) -> &[Attribute] {
        &self.sets[id as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_values_that_an_image_can_store() {
        let new = |name: &str, value: usize| Attribute::new(name.as_bytes(), &vec![0; value]);
        assert_eq!(new("user.a", 1).map(|one| one.prefix), Some(1));
        assert_eq!(new("security.capability", 0).map(|one| one.prefix), Some(6));
        let acl = new("system.posix_acl_access", 4).map(|one| (one.prefix, one.name.len()));
        assert_eq!(acl, Some((2, 0)));
        for (name, value) in [
            ("user.", 1),
            ("system.posix_acl_access.more", 1),
            ("system.other", 1),
            ("plain", 1),
            ("user.long", VALUE + 1),
        ] {
            assert!(new(name, value).is_none(), "{name}");
        }
        let long = |length| format!("user.{}", "n".repeat(length));
        assert!(new(&long(255), VALUE).is_some());
        assert!(new(&long(256), 1).is_none());
    }

    #[test]
    fn equal_sets_have_one_identity() {
        let one = |name: &str| Attribute::new(name.as_bytes(), b"v").unwrap();
        let mut sets = Sets::default();
        let first = sets.insert(vec![one("user.b"), one("user.a")]);
        assert_eq!(sets.insert(vec![one("user.a"), one("user.b")]), first);
        assert_eq!(sets.insert(Vec::new()), NONE);
        assert_eq!(sets.len(), 2);
    }
}
