//! Finding ACIs by key and by name.

use std::cmp::Reverse;
use std::collections::BTreeSet;

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
    /// `sha512-` and 2 to 128 lower-case hexadecimal digits. All digits are compared, including
    /// those after the 64th, which rkt leaves out.
    ///
    /// # Errors
    /// `InvalidArgument` if `key` does not have this form, or if several keys begin with it (the
    /// message lists the first [`limit::CANDIDATES`] of them); `NotFound` if no key begins with it;
    /// `FailedPrecondition` after [`AciStore::close`]; `Corrupt` if a key in the catalogue does not
    /// parse; errors of the store.
    pub async fn resolve_key(&self, key: &str) -> Result<Key> {
        let found = self.resolve(key).await;
        found
            .map(|found| found.key)
            .during("resolve key", excerpt(key))
    }

    /// Returns the keys of the ACIs with exactly this name, in the order of the keys.
    ///
    /// # Errors
    /// As [`Catalogue::get_aci_infos_with_name`](crate::Catalogue::get_aci_infos_with_name).
    pub async fn resolve_name(&self, name: &str) -> Result<Vec<Key>> {
        let infos = self.catalogue.get_aci_infos_with_name(name).await;
        let infos = infos.during("resolve name", excerpt(name))?;
        Ok(infos.iter().map(|info| info.key).collect())
    }

    /// Returns whether the catalogue has the ACI with this key: a whole key, or a key of rkt, which
    /// has only the first 64 digits. Returns false, not an error, for any other text.
    ///
    /// # Errors
    /// `FailedPrecondition` after [`AciStore::close`]; `Corrupt` if a key in the catalogue does not
    /// parse; errors of the store.
    pub async fn has_full_key(&self, key: &str) -> Result<bool> {
        self.catalogue.check_open()?;
        let Ok(prefix) = key.parse::<KeyPrefix>() else {
            return Ok(false);
        };
        let is_full = matches!(prefix.hex().len(), HALF | DIGITS);
        Ok(is_full && !self.catalogue.first(&prefix, 1).await?.is_empty())
    }

    /// Returns the key of the ACI that has this name and all `labels` with their values. If several
    /// ACIs match, returns the key of the last imported one. However, if `labels` does not contain
    /// the label `version`, ACIs whose [`AciInfo::latest`] is true are preferred to all others.
    ///
    /// # Errors
    /// As [`AciStore::resolve_name`]. If no ACI matches, returns the error of the first manifest
    /// that could not be read, or `NotFound` if all manifests could be read.
    pub async fn get_aci(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let found = self.best(name, labels).await;
        found.during("get ACI", excerpt(name))
    }

    async fn best(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let mut infos = self.catalogue.get_aci_infos_with_name(name).await?;
        let any_version = labels.iter().all(|label| label.name != "version");
        infos.sort_by_key(|info| Reverse((any_version && info.latest, info.import_time)));
        let mut unreadable = None;
        let mut versions = BTreeSet::new();
        for info in infos {
            match self.manifest_of(&info).await {
                Ok(manifest) if manifest.has_labels(labels) => return Ok(info.key),
                Ok(manifest) => versions.extend(manifest.label("version").map(str::to_owned)),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        Err(unreadable.unwrap_or_else(|| not_labelled(labels, &versions)))
    }

    /// Returns the key of the only ACI that has this name and all `labels` with their values. Fails
    /// if several ACIs match, so that a caller does not remove an ACI that the user did not mean.
    ///
    /// # Errors
    /// `InvalidArgument` if several ACIs match (the message lists the first [`limit::CANDIDATES`]
    /// of them); `NotFound` if no ACI matches; as [`AciStore::resolve_name`]. If `labels` is not
    /// empty, the call also fails if it cannot read the manifest of an ACI with this name.
    pub async fn get_only_aci(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let found = self.only(name, labels).await;
        found.during("get ACI", excerpt(name))
    }

    async fn only(&self, name: &str, labels: &[Label]) -> Result<Key> {
        let mut found = Vec::new();
        let mut versions = BTreeSet::new();
        for info in self.catalogue.get_aci_infos_with_name(name).await? {
            if labels.is_empty() {
                found.push(info.key);
                continue;
            }
            let manifest = self.manifest_of(&info).await?;
            match manifest.has_labels(labels) {
                true => found.push(info.key),
                false => versions.extend(manifest.label("version").map(str::to_owned)),
            }
        }
        match &found[..] {
            [] => Err(not_labelled(labels, &versions)),
            [only] => Ok(*only),
            keys => Err(Error::invalid(format!(
                "ambiguous: several ACIs have this name and these labels; their keys are {}; give \
                 one of the keys, or more labels",
                listed(keys)
            ))),
        }
    }

    /// Returns the information on the only ACI whose key begins with `key`.
    pub(super) async fn find(&self, key: &str) -> Result<AciInfo> {
        self.resolve(key).await?.info()
    }

    /// Returns the information on an ACI, and the revision of the information.
    ///
    /// # Errors
    /// `NotFound` if the catalogue does not have the ACI; as [`Catalogue::get_aci_info`].
    ///
    /// [`Catalogue::get_aci_info`]: crate::Catalogue::get_aci_info
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
    Error::not_found("the catalogue has no ACI with this key; `cas aci ls` lists the keys")
}

/// Returns the error for a name whose ACIs do not have these labels. `versions` are the versions of
/// these ACIs.
fn not_labelled(labels: &[Label], versions: &BTreeSet<String>) -> Error {
    if labels.is_empty() || versions.is_empty() {
        return Error::not_found(
            "no ACI has this name and these labels; `cas aci ls` lists the ACIs",
        );
    }
    let label = |label: &Label| format!("{}={}", label.name, label.value);
    let asked: Vec<String> = labels.iter().map(label).collect();
    let shown = versions.iter().take(limit::CANDIDATES);
    let shown: Vec<String> = shown.map(|one| excerpt(one)).collect();
    let more = match versions.len() > limit::CANDIDATES {
        true => " and more",
        false => "",
    };
    Error::not_found(format!(
        "no ACI with this name has the labels {}; stored versions: {}{more}; give other labels, \
         or import an ACI with these labels",
        excerpt(&asked.join(",")),
        shown.join(", ")
    ))
}

/// Returns the error for a prefix of several keys.
fn ambiguous(keys: &[Key]) -> Error {
    Error::invalid(format!(
        "ambiguous: several keys begin with these digits; the keys are {}; give more digits",
        listed(keys)
    ))
}

/// Returns the first [`limit::CANDIDATES`] keys as rkt writes them, for a message.
fn listed(keys: &[Key]) -> String {
    let shown = keys.iter().take(limit::CANDIDATES).map(Key::half);
    let shown: Vec<String> = shown.collect();
    let more = if keys.len() > limit::CANDIDATES {
        " and more"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
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
