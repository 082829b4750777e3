//! Labels, and the keys of the labels that have a meaning in `cas`, except
//! [`UNCOMPRESSED`](crate::image::UNCOMPRESSED) and the labels of layers that are read on demand.
//!
//! The keys of garbage collection mean the same as in containerd's documentation. The module `gc`
//! states their meaning, in `gc/labels.rs`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limit;

/// Labels of a blob, an image, a snapshot or a lease.
pub type Labels = BTreeMap<String, String>;

/// The prefix of every garbage-collection label.
pub const GC: &str = "containerd.io/gc.";
/// On a blob or a snapshot: keeps it, and everything that it refers to, directly or not. A longer
/// key that begins with this text has the same effect.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// The prefix of the key of a reference: a label that names another object, the target. The object
/// that has the label keeps the target. The rest of the key names the kind of the target.
pub const GC_REF: &str = "containerd.io/gc.ref.";
/// The key of a reference to a blob. A longer key that begins with this text and continues with `.`
/// or `/` has the same meaning.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// On a layer: refers to the checkpoints of the layer, a blob of the type
/// [`MediaType::LAYER_CHECKPOINTS`](crate::MediaType::LAYER_CHECKPOINTS).
pub const GC_REF_CHECKPOINTS: &str = "containerd.io/gc.ref.content.checkpoints";
/// The prefix of the key of a back reference. The target of a back reference keeps the object that
/// has the label. The rest of the key names the kind of the target.
pub const GC_BACK_REF: &str = "containerd.io/gc.bref.";
/// The prefix of the key of a conditional reference to a snapshot. The rest of the key is a dot and
/// the name of the snapshotter. The value is a condition and the key of the snapshot, as in
/// `usedat<2h|KEY`. In this example, the reference counts only while the time since the last use of
/// the snapshot is less than two hours.
pub const GC_CONDITION: &str = "containerd.io/gc.cond.snapshot";
/// On a snapshot: when it was last used, as RFC 3339. Conditional references compare this time with
/// the current time.
pub const GC_USED_AT: &str = "containerd.io/gc.cond.value-usedat";
/// On a lease or an image: when it expires, as RFC 3339.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// On a lease: the lease keeps only its resources, the targets of its images and the parents of its
/// snapshots.
pub const GC_FLAT: &str = "containerd.io/gc.flat";
/// On a snapshot: the id of the lease of the job that made it. Without this label, a snapshot is
/// kept for at least a day after it was made, even if nothing refers to it.
pub const LEASE: &str = "cas.lease";
/// On a snapshot: the directory at which it was last mounted. A snapshot that `Cas::mount` makes
/// does not have this label.
pub const MOUNTED_AT: &str = "cas.mounted-at";
/// On a snapshot: the digest of the verified layer from which the snapshot was made. The label is
/// set if the layer was unpacked without storing its blob. It is also set if a collection may
/// remove the blob because the snapshot has the tar of the layer.
pub const VERIFIED_LAYER: &str = "cas.verified-layer";
/// On a snapshot whose tar may be the only copy of a layer: the inode and the time of the last
/// change (ctime) of the tar when its bytes were last verified.
pub const VERIFIED_TAR: &str = "cas.verified-tar";

/// The prefix of the labels by which a manifest or an index keeps its referrers. A referrer is a
/// document that names the manifest or the index as its subject. The rest of the key is the digest
/// of the referrer, with a dot instead of the colon.
pub const GC_REF_REFERRER: &str = "containerd.io/gc.ref.content.referrer.";

/// Returns the key of the label by which a subject keeps a referrer. The value of the label is the
/// digest of the referrer.
pub fn gc_ref_referrer(referrer: &Digest) -> String {
    format!(
        "{GC_REF_REFERRER}{}",
        referrer.to_string().replace(':', ".")
    )
}

/// Returns the referrers that a subject with these labels keeps, in the order of their digests.
/// Skips a label whose value is not a digest.
pub(crate) fn kept_referrers(labels: &Labels) -> impl Iterator<Item = Digest> {
    let labels = labels.range(GC_REF_REFERRER.to_owned()..);
    let labels = labels.take_while(|(key, _)| key.starts_with(GC_REF_REFERRER));
    labels.filter_map(|(_, value)| value.parse().ok())
}

/// Returns whether a snapshot with these labels belongs to a job: a job makes the snapshot from a
/// layer, and makes it again if it is lost. Any other snapshot may have the only copy of files.
pub fn is_of_job(labels: &Labels) -> bool {
    labels.contains_key(LEASE)
}

/// Returns the key of a label that refers to a snapshot of `snapshotter`.
pub fn gc_ref_snapshot(snapshotter: &str) -> String {
    format!("{GC_REF}snapshot.{snapshotter}")
}

/// The annotation that containerd adds to the descriptor of a referrer: the digest of its subject.
const MANIFEST_SUBJECT: &str = "io.containerd.manifest.subject";

/// Returns the key of the label by which a parent refers to `child`. The key depends on the media
/// type of the child, and on whether the child is a referrer. The caller must complete the key. If
/// the key ends with `.sha256.`, the caller appends the first 12 digits of the child's digest. If
/// the key ends with a dot, but not with `.sha256.`, the caller appends the number of earlier
/// children with the same key. If the key does not end with a dot, the caller appends this number
/// only if it is at least 1.
pub fn gc_ref_child(child: &Descriptor) -> String {
    let media_type = &child.media_type;
    let suffix = if child.annotations.contains_key(MANIFEST_SUBJECT) {
        "referrer.sha256."
    } else if media_type.is_known_config() {
        "config"
    } else if media_type.is_manifest() {
        "m."
    } else if media_type.is_layer() {
        "l."
    } else {
        ""
    };
    format!("{GC_REF_CONTENT}.{suffix}")
}

/// Checks that each label has at most [`limit::LABEL`] bytes, that at most [`limit::DESCRIPTORS`]
/// labels begin with [`GC_REF`] or [`GC_BACK_REF`], and that there are at most [`limit::LABELS`]
/// other labels.
///
/// # Errors
/// `InvalidArgument` if a bound is exceeded. The message states the bound.
pub fn check_labels(labels: &Labels) -> Result<()> {
    let is_reference = |key: &&String| key.starts_with(GC_REF) || key.starts_with(GC_BACK_REF);
    let references = labels.keys().filter(is_reference).count();
    let found = labels.len() - references;
    if found > limit::LABELS || references > limit::DESCRIPTORS {
        return Err(Error::invalid(format!(
            "too many labels: found {references} with the prefix {GC_REF} or {GC_BACK_REF} (at \
             most {} are allowed) and {found} without these prefixes (at most {} are allowed); \
             remove some labels",
            limit::DESCRIPTORS,
            limit::LABELS
        )));
    }
    let length = |key: &str, value: &str| key.len() + value.len();
    let too_long = labels
        .iter()
        .find(|(key, value)| length(key, value) > limit::LABEL);
    match too_long {
        None => Ok(()),
        Some((key, value)) => Err(Error::invalid(format!(
            "key and value have {} bytes together: at most {} are allowed; shorten one of them",
            length(key, value),
            limit::LABEL
        ))
        .operation("check label")
        .subject(format!("{key:.100}"))),
    }
}

/// Returns when a lease or an image with these labels expires. An invalid time is ignored.
pub(crate) fn expiry(labels: &Labels) -> Option<SystemTime> {
    labels.get(GC_EXPIRE).and_then(|text| time(text))
}

/// Parses a time in the format of RFC 3339, in any time zone.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    let Some((local, sign, zone)) = zoned(text) else {
        return humantime::parse_rfc3339(text).ok();
    };
    let (hours, minutes) = zone.split_once(':')?;
    let seconds = hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60;
    let (time, ahead) = (
        humantime::parse_rfc3339(&format!("{local}Z")).ok()?,
        Duration::from_secs(seconds),
    );
    match sign {
        '+' => time.checked_sub(ahead),
        _ => time.checked_add(ahead),
    }
}

/// Splits a time into the local time, the sign of the zone's offset, and its hours and minutes.
fn zoned(text: &str) -> Option<(&str, char, &str)> {
    let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = zone.chars().next().filter(|sign| "+-".contains(*sign))?;
    Some((local, sign, &zone[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_any_zone_and_invalid_ones_are_ignored() {
        let at = |text: &str| expiry(&[(GC_EXPIRE.to_owned(), text.to_owned())].into());
        let utc = at("2026-11-21T08:00:00Z").unwrap();
        assert_eq!(at("2026-11-21T10:00:00+02:00"), Some(utc));
        assert_eq!(at("2026-11-21T03:30:00.0-04:30"), Some(utc));
        for bad in [
            "",
            "tomorrow",
            "2026-11-21",
            "2026-11-21T10:00:00+0200",
            "+02:00",
            "é+02:00",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
