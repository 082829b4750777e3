//! Finding ACIs by key and by name.

use std::cmp::Reverse;

use cas_core::error::excerpt;
use cas_core::records::Revision;
use cas_core::{Context, Error, Result, limit};

use super::AciStore;
use crate::catalogue::Candidate;
use crate::info::AciInfo;
use crate::key::{DIGITS, HALF, Key, KeyPrefix};
use crate::manifest::Label;

impl AciStore {
    /// Returns the whole key of the only ACI whose key begins with `key`. The argument `key` is
    /// `sha512-` and 2 to 128 digits, all of which are compared.
    ///
    /// # Errors
    /// `InvalidArgument` if `key` does not have this form, or if several keys begin with it (the
    /// message lists the first [`limit::CANDIDATES`] of them); `NotFound` if no key begins with it;
    /// errors of the store.
    pub async fn resolve_key(&self, key: &str) -> Result<Key> {
        let found = self.resolve(key).await;
        found
            .map(|found| found.key)
            .during("resolve key", excerpt(key))
    }

    /// Returns the keys of the ACIs with exactly this name, in the order of the keys.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no ACI may have; errors of the store.
    pub async fn resolve_name(&self, name: &str) -> Result<Vec<Key>> {
        let infos = self.catalogue.get_aci_infos_with_name(name).await;
        let infos = infos.during("resolve name", excerpt(name))?;
        Ok(infos.iter().map(|info| info.key).collect())
    }

    /// Returns whether the catalogue has the ACI with this key. Returns false if `key` is neither a
    /// whole key nor a key of rkt, which has the first 64 digits.
    ///
    /// # Errors
    /// Errors of the store. A text that is not a key is not an error.
    pub async fn has_full_key(&self, key: &str) -> Result<bool> {
        self.catalogue.check_open()?;
        let Ok(prefix) = key.parse::<KeyPrefix>() else {
            return Ok(false);
        };
        let is_full = matches!(prefix.hex().len(), HALF | DIGITS);
        Ok(is_full && !self.catalogue.first(&prefix, 1).await?.is_empty())
    }

    /// Returns the key of the ACI that suits a name and labels best. The ACI must have all labels
    /// with their values. If `labels` has no version, ACIs with [`AciInfo::latest`] are preferred.
    /// Of several equally good ACIs, returns the ACI that was imported last.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no ACI may have; errors of the store. If no ACI suits:
    /// `NotFound`, or, if a manifest of an ACI with this name cannot be read, the error of reading
    /// the manifest.
    pub async fn get_aci(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let found = self.best(name, labels).await;
        found.during("get ACI", excerpt(name))
    }

    async fn best(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let mut infos = self.catalogue.get_aci_infos_with_name(name).await?;
        let any_version = labels.iter().all(|label| label.name != "version");
        infos.sort_by_key(|info| Reverse((any_version && info.latest, info.import_time)));
        let mut unreadable = None;
        for info in infos {
            match self.manifest_of(&info).await {
                Ok(manifest) if manifest.has_labels(labels) => return Ok(info.key),
                Ok(_) => {}
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        Err(unreadable.unwrap_or_else(|| {
            Error::not_found("no ACI has this name and these labels; import one")
        }))
    }

    /// Returns the information on the only ACI whose key begins with `key`.
    pub(super) async fn find(&self, key: &str) -> Result<AciInfo> {
        self.resolve(key).await?.info()
    }

    /// Returns the information on an ACI, and the revision of the information.
    ///
    /// # Errors
    /// `NotFound` if the catalogue does not have the ACI; as [`Catalogue::load`].
    ///
    /// [`Catalogue::load`]: crate::Catalogue::load
    pub(super) async fn load(&self, key: &Key) -> Result<(AciInfo, Revision)> {
        self.catalogue.load(key).await?.ok_or_else(not_found)
    }

    /// Returns the only ACI whose key begins with `key`.
    pub(super) async fn resolve(&self, key: &str) -> Result<Candidate> {
        self.catalogue.check_open()?;
        let prefix: KeyPrefix = key.parse()?;
        let mut found = self.catalogue.first(&prefix, limit::CANDIDATES + 1).await?;
        match found.pop() {
            None => Err(not_found()),
            Some(only) if found.is_empty() => Ok(only),
            Some(last) => {
                found.push(last);
                let keys: Vec<Key> = found.into_iter().map(|found| found.key).collect();
                Err(ambiguous(&keys))
            }
        }
    }
}

pub(super) fn not_found() -> Error {
    Error::not_found("the catalogue has no ACI with this key; list the ACIs to find their keys")
}

/// Returns the error for a prefix of several keys. The message lists the keys as rkt writes them.
fn ambiguous(keys: &[Key]) -> Error {
    let shown = keys.iter().take(limit::CANDIDATES).map(Key::half);
    let shown: Vec<String> = shown.collect();
    let more = if keys.len() > limit::CANDIDATES {
        " and more"
    } else {
        ""
    };
    Error::invalid(format!(
        "ambiguous: several ACIs have keys that begin with these digits: {}{more}; give more digits",
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use cas_core::Digest;
    use cas_core::digest::Algorithm;

    use super::*;

    #[test]
    fn a_message_lists_only_so_many_keys() {
        let key = |number: usize| {
            let digest = Digest::of(Algorithm::Sha512, &number.to_le_bytes());
            Key::new(digest).unwrap()
        };
        let keys: Vec<Key> = (0..=limit::CANDIDATES).map(key).collect();
        let said = |count: usize| ambiguous(&keys[..count]).to_string();
        let (most, more) = (said(limit::CANDIDATES), said(limit::CANDIDATES + 1));
        for (key, shown) in keys.iter().zip(1..) {
            assert_eq!(more.contains(&key.half()), shown <= limit::CANDIDATES);
        }
        assert!(!most.contains("and more"), "{most}");
        assert!(more.contains(" and more; "), "{more}");
    }
}
