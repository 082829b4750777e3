//! The leases of repairs, [`QUARANTINE`] and [`RECOVERED`], whose own records are damaged.
//!
//! Only the record of a lease lists what the lease keeps. A repair makes the list again: the notes
//! on damaged bytes name what [`QUARANTINE`] keeps, and the text of the damaged record names what
//! [`RECOVERED`] keeps. If a part of this text cannot be read, the repair keeps everything that
//! [`RECOVERED`] may have kept: the documents that no name reaches, and the blobs to which nothing
//! refers.

use std::collections::BTreeSet;

use super::{Checker, QUARANTINE, RECOVERED};
use crate::error::Result;
use crate::records::{Lease, Record, Resource, Table, codec};

impl Checker<'_> {
    /// Returns the lease that takes the place of the damaged record of a lease of repairs, and how
    /// it was made, in words for a finding. Returns `None` for any other record, and if no blob is
    /// known that the lease kept.
    pub(super) async fn rebuilt_lease(
        &mut self,
        table: Table,
        damaged: &Record,
    ) -> Result<Option<(Lease, String)>> {
        let (resources, how) = match (table, damaged.key.as_str()) {
            (Table::Leases, QUARANTINE) => {
                let noted = self.noted_as_damaged().await?.into_iter();
                let noted = noted.map(Resource::Content).collect();
                let how = "made again from the notes on damaged bytes".to_owned();
                (self.without_unknown(noted).await?, how)
            }
            (Table::Leases, RECOVERED) => self.readable_list(damaged).await?,
            _ => return Ok(None),
        };
        let mut lease = Lease::new("fsck", None);
        lease.resources = resources;
        Ok((!lease.resources.is_empty()).then_some((lease, how)))
    }

    /// Returns the resources in the text of a damaged record of [`RECOVERED`], and whether these
    /// are all, in words for a finding. Leaves out blobs that the store does not know, because
    /// their digests may be changed digests of other blobs.
    async fn readable_list(&mut self, damaged: &Record) -> Result<(BTreeSet<Resource>, String)> {
        let mut found: BTreeSet<Resource> = BTreeSet::new();
        if !codec::is_of_another_key(Table::Leases, damaged) {
            let text = String::from_utf8_lossy(&damaged.value);
            found.extend(text.split('"').filter_map(|one| one.parse().ok()));
        }
        let resources = self.without_unknown(found).await?;
        let stated: serde_json::Result<Lease> = serde_json::from_slice(&damaged.value);
        let how = format!("made again with the {} resources that", resources.len());
        if stated.is_ok_and(|stated| stated.resources == resources) {
            return Ok((resources, format!("{how} it lists")));
        }
        self.note_list_lost().await?;
        let how = format!(
            "{how} could be read; it may have listed more, so the repair keeps the documents that \
             no name reaches and the blobs to which nothing refers"
        );
        Ok((resources, how))
    }

    /// Returns the resources without the blobs of which the store has neither the bytes nor a
    /// record.
    async fn without_unknown(&self, found: BTreeSet<Resource>) -> Result<BTreeSet<Resource>> {
        let mut known = BTreeSet::new();
        for resource in found {
            let is_known = match &resource {
                Resource::Content(digest) => self.known(digest).await?.is_some(),
                _ => true,
            };
            if is_known {
                known.insert(resource);
            }
        }
        Ok(known)
    }
}
