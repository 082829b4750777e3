//! The meaning of gc labels in a collection. These labels have the same meaning in containerd.
//!
//! | label | on | a resource with this label |
//! |---|---|---|
//! | `gc.root…` | blobs, snapshots | is kept, with everything that it refers to, directly or not |
//! | `gc.ref.content`, `gc.ref.snapshot.NAME`, `gc.ref.image` | all but leases | keeps the target |
//! | `gc.bref.…`, with the same kinds of targets | all but leases | is kept by the target |
//! | `gc.cond.snapshot.NAME` = `usedat<2h\|KEY` | all but leases | keeps KEY on a condition |
//! | `gc.cond.value-usedat` | snapshots | was last used at the time in the value |
//! | `gc.expire` | leases, images | expires; see [`expiry`](crate::labels::expiry) |
//! | `gc.flat` | leases | see [`GC_FLAT`](crate::labels::GC_FLAT) |
//!
//! The table leaves out the beginning of each key, `containerd.io/`. The target is the resource
//! that the label names. A key that ends with `content` or `image` in the table may be longer:
//! after this word, `.` or `/` and any text may follow. `NAME`, after `snapshot.`, is the name of
//! the snapshotter, up to the end of the label's key or the next `/`. `KEY`, in the value, is the
//! key of a snapshot of this snapshotter. The condition `usedat<2h` holds while the last use of
//! this snapshot is less than two hours ago. A condition may have `>` instead of `<`, and any
//! duration.

use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::{GC, GC_BACK_REF, GC_CONDITION, GC_REF, GC_ROOT, GC_USED_AT, Labels, time};
use crate::records::Resource;

/// The effect of one label on the resource that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Root,
    Reference(Resource),
    BackReference(Resource),
    /// A reference to a snapshot, valid while the age of its last use fits.
    Condition(Resource, Age),
    UsedAt(SystemTime),
}

/// A bound on an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Below(Duration),
    Above(Duration),
}

impl Age {
    /// Returns whether the age of `time` at `now` fits. A time in the future has the age zero.
    pub(super) fn fits(self, time: SystemTime, now: SystemTime) -> bool {
        let age = now.duration_since(time).unwrap_or_default();
        match self {
            Age::Below(bound) => age < bound,
            Age::Above(bound) => age > bound,
        }
    }
}

/// Returns the effects of labels. Labels of other kinds, for example a time of expiry, and labels
/// with an invalid value have none.
pub(super) fn effects(labels: &Labels) -> impl Iterator<Item = Effect> {
    let ours = labels.range(GC.to_owned()..);
    ours.take_while(|(key, _)| key.starts_with(GC))
        .flat_map(|(key, value)| read(key, value))
}

fn read(key: &str, value: &str) -> Vec<Effect> {
    if key.starts_with(GC_ROOT) {
        return vec![Effect::Root];
    }
    if let Some(kind) = key.strip_prefix(GC_REF) {
        return target(kind, value)
            .map(Effect::Reference)
            .into_iter()
            .collect();
    }
    if let Some(kind) = key.strip_prefix(GC_BACK_REF) {
        return target(kind, value)
            .map(Effect::BackReference)
            .into_iter()
            .collect();
    }
    if let Some(snapshotter) = key.strip_prefix(GC_CONDITION) {
        return conditions(snapshotter.trim_start_matches(['.', '/']), value);
    }
    match time(value) {
        Some(used) if key.starts_with(GC_USED_AT) => vec![Effect::UsedAt(used)],
        _ => Vec::new(),
    }
}

/// Returns the digests that `gc.ref.content` labels refer to.
pub(crate) fn referenced_content(labels: &Labels) -> impl Iterator<Item = Digest> {
    effects(labels).filter_map(|effect| match effect {
        Effect::Reference(Resource::Content(digest)) => Some(digest),
        _ => None,
    })
}

/// Returns the resources that `gc.bref` labels refer to.
pub(crate) fn back_references(labels: &Labels) -> impl Iterator<Item = Resource> {
    effects(labels).filter_map(|effect| match effect {
        Effect::BackReference(keeper) => Some(keeper),
        _ => None,
    })
}

/// Checks that every gc label has a meaning on a blob, so that a mistake in its key or its value
/// does not go unnoticed.
///
/// # Errors
/// `InvalidArgument` for a gc label that has no meaning on a blob, or whose value is invalid.
pub(crate) fn check_meaning(labels: &Labels) -> Result<()> {
    for (key, value) in labels.iter().filter(|(key, _)| key.starts_with(GC)) {
        let effects = read(key, value);
        if effects.is_empty() || effects.iter().any(|one| matches!(one, Effect::UsedAt(_))) {
            return Err(Error::invalid(
                "this label has no meaning on a blob, or its value is invalid; expected one of: \
                 containerd.io/gc.root=TEXT, containerd.io/gc.ref.content=DIGEST, \
                 containerd.io/gc.ref.image=NAME, containerd.io/gc.ref.snapshot.SNAPSHOTTER=KEY, \
                 one of the last three with bref instead of ref, or \
                 containerd.io/gc.cond.snapshot.SNAPSHOTTER=usedat<2h|KEY",
            )
            .subject(format!("{key:.200}={value:.200}")));
        }
    }
    Ok(())
}

/// Returns the resource with the name `value`, or `None` for an unknown kind or an invalid digest.
/// `kind` is the rest of the label's key.
fn target(kind: &str, value: &str) -> Option<Resource> {
    if let Some(snapshotter) = kind.strip_prefix("snapshot.") {
        return Some(snapshot(snapshotter, value));
    }
    let is = |name: &str| {
        let rest = kind.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    };
    if is("content") {
        value.parse().ok().map(Resource::Content)
    } else if is("image") {
        Some(Resource::Image(value.to_owned()))
    } else {
        None
    }
}

fn snapshot(snapshotter: &str, key: &str) -> Resource {
    let name = snapshotter.split('/').next().unwrap_or_default();
    Resource::Snapshot {
        snapshotter: name.to_owned(),
        key: key.to_owned(),
    }
}

/// Parses `CONDITION,…|KEY`, where at least one of the conditions on the snapshot `KEY` must hold.
fn conditions(snapshotter: &str, value: &str) -> Vec<Effect> {
    let Some((conditions, key)) = value.split_once('|') else {
        return Vec::new();
    };
    let node = snapshot(snapshotter, key);
    let ages = conditions.split(',').filter_map(|text| {
        let bound = text.strip_prefix("usedat")?;
        match bound.split_at_checked(1)? {
            ("<", age) => humantime::parse_duration(age).ok().map(Age::Below),
            (">", age) => humantime::parse_duration(age).ok().map(Age::Above),
            _ => None,
        }
    });
    ages.map(|age| Effect::Condition(node.clone(), age))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pairs: &[(&str, &str)]) -> Vec<Effect> {
        let labels = pairs
            .iter()
            .map(|(key, value)| (format!("containerd.io/gc.{key}"), (*value).to_owned()));
        effects(&labels.collect()).collect()
    }

    fn node(name: &str, key: &str) -> Resource {
        Resource::Snapshot {
            snapshotter: name.into(),
            key: key.into(),
        }
    }

    #[test]
    fn the_key_of_a_reference_ends_or_goes_on_with_a_dot_or_a_slash() {
        let digest = Digest::sha256(b"x");
        let text = digest.to_string();
        for suffix in ["", ".l.0", "/layer", ".config"] {
            let key = format!("ref.content{suffix}");
            let wanted = Effect::Reference(Resource::Content(digest));
            assert_eq!(all(&[(&key, &text)]), [wanted], "{key}");
        }
        for key in [
            "ref.contentbad",
            "ref.conten",
            "refs.content",
            "ref.snapshot",
            "ref.imagex",
        ] {
            assert_eq!(all(&[(key, &text)]), [], "{key}");
        }
        assert_eq!(all(&[("ref.content", "sha256:../../x")]), []);
        let image = Effect::Reference(Resource::Image("a:1".into()));
        assert_eq!(all(&[("ref.image.base", "a:1")]), [image]);
    }

    #[test]
    fn a_snapshotter_is_named_in_the_key() {
        for key in ["ref.snapshot.overlay", "ref.snapshot.overlay/top"] {
            assert_eq!(
                all(&[(key, "k")]),
                [Effect::Reference(node("overlay", "k"))]
            );
        }
        let back = Effect::BackReference(node("native", "a/b"));
        assert_eq!(all(&[("bref.snapshot.native", "a/b")]), [back]);
        let back = Effect::BackReference(Resource::Image("a".into()));
        assert_eq!(all(&[("bref.image", "a"), ("bref.container", "c")]), [back]);
        assert_eq!(
            all(&[("root", ""), ("rooted", "x")]),
            [Effect::Root, Effect::Root]
        );
    }

    #[test]
    fn one_of_several_conditions_must_hold_and_unknown_ones_are_ignored() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let read = all(&[(
            "cond.snapshot.overlay",
            "usedat<2h,size>3,usedat>48h|key|with|bars",
        )]);
        let node = node("overlay", "key|with|bars");
        assert_eq!(
            read,
            [
                Effect::Condition(node.clone(), Age::Below(hours(2))),
                Effect::Condition(node, Age::Above(hours(48))),
            ]
        );
        for value in [
            "usedat<2h",
            "usedat=2h|k",
            "usedat<=2h|k",
            "usedat<x|k",
            "|k",
        ] {
            assert_eq!(all(&[("cond.snapshot.overlay", value)]), [], "{value}");
        }
        let (now, ago) = (SystemTime::now(), |age| SystemTime::now() - age);
        assert!(Age::Below(hours(2)).fits(ago(hours(1)), now));
        assert!(!Age::Below(hours(2)).fits(ago(hours(3)), now));
        assert!(Age::Above(hours(2)).fits(ago(hours(3)), now));
    }

    #[test]
    fn the_last_use_of_a_snapshot_is_a_time() {
        let used = |text| all(&[("cond.value-usedat", text)]);
        let at = humantime::parse_rfc3339("2026-11-21T08:00:00Z").unwrap();
        assert_eq!(used("2026-11-21T10:00:00+02:00"), [Effect::UsedAt(at)]);
        assert_eq!(used("yesterday"), []);
    }
}
