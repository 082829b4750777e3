//! Information in headers that is not needed to make a file tree.

use std::collections::BTreeMap;

use cas_core::Result;

use super::header::Header;

/// Information in the headers of a member that its [`Entry`](super::Entry) does not have. A table
/// of contents of SOCI contains all of this except [`Self::follows_global`]: a layer with a global
/// pax header cannot have such a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// The mode as the header has it, including bits that are not permissions.
    pub mode: i64,
    /// The name of the owner. Empty if there is none.
    pub user: Vec<u8>,
    /// The name of the group. Empty if there is none.
    pub group: Vec<u8>,
    /// The keys and values of the records in the member's pax header. If several records have the
    /// same key, only the last one is kept.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether a global pax header is among the extension headers directly before the header of
    /// this member.
    pub follows_global: bool,
}

impl Stated {
    /// Adds what the header of the member states. The names of a pax header take precedence.
    pub(super) fn add(&mut self, header: &Header) -> Result<()> {
        let (user, group) = header.owners();
        let named = |key: &[u8], stated: &[u8]| {
            let record = self.records.get(key).filter(|value| !value.is_empty());
            record.cloned().unwrap_or_else(|| stated.to_vec())
        };
        (self.user, self.group) = (named(b"uname", user), named(b"gname", group));
        self.mode = header.number(100..108, "mode")?;
        Ok(())
    }
}
