//! Field paths: which fields of a record an update replaces.

use super::Image;
use crate::descriptor::Descriptor;
use crate::error::{Error, Result, excerpt};
use crate::labels::{Labels, check_labels};

/// Copies fields from `update` to `image`. The paths select the fields: `target`, `labels`,
/// `labels.<key>`, and `annotations` and `annotations.<key>` of the target. Without paths, the
/// target and the labels are copied. A selected label or annotation that is missing or empty in
/// `update` is removed from `image`. But if the whole target is copied, its empty annotations are
/// copied, too. The paths are applied in their order.
///
/// # Errors
/// `InvalidArgument` for any other path. The fields of the paths before it are then already copied.
pub fn update_image(image: &mut Image, update: &Image, fieldpaths: &[&str]) -> Result<()> {
    if fieldpaths.is_empty() {
        image.target = update.target.clone();
        replace(&mut image.labels, &update.labels);
    }
    for path in fieldpaths {
        let (from, to) = (&update.target.annotations, &mut image.target.annotations);
        match (*path, path.strip_prefix("annotations.")) {
            ("target", _) => image.target = update.target.clone(),
            ("annotations", _) => replace(to, from),
            (_, Some(key)) if !key.is_empty() => set(to, from, key),
            _ => update_label(&mut image.labels, &update.labels, path)?,
        }
    }
    Ok(())
}

/// Copies labels from `update` to `labels`. The path `labels` selects all labels, and
/// `labels.<key>` selects one label. Without paths, all labels are copied. A selected label that is
/// missing or empty in `update` is removed from `labels`.
///
/// # Errors
/// `InvalidArgument` for any other path. The labels of the paths before it are then already copied.
pub fn update_labels(labels: &mut Labels, update: &Labels, fieldpaths: &[&str]) -> Result<()> {
    if fieldpaths.is_empty() {
        replace(labels, update);
    }
    fieldpaths
        .iter()
        .try_for_each(|path| update_label(labels, update, path))
}

/// Checks an image before it is stored: its target must have a media type and at least one byte,
/// its name must [allow](super::Reference::allows) the digest of the target, and its labels must
/// pass [`check_labels`].
///
/// # Errors
/// `InvalidArgument` if the image does not pass the check. The message names the problem.
pub fn check_image(image: &Image) -> Result<()> {
    let wrong = |why: &'static str| {
        Err(Error::invalid(why)
            .operation("check image")
            .subject(&image.name))
    };
    if image.target.media_type.as_str().is_empty() {
        return wrong("the target has no media type: expected a manifest or an index");
    }
    if image.target.size == 0 {
        return wrong("the target is empty: expected a manifest or an index");
    }
    image.name.check_digest(&image.target.digest)?;
    check_labels(&image.labels)
}

/// Checks that the target of `image` has the digest of `expected`. An image store calls this
/// function before it replaces the target.
///
/// # Errors
/// `Conflict` if the target has another digest. The error names both digests.
pub fn check_target(image: &Image, expected: &Descriptor) -> Result<()> {
    let found = image.target.digest;
    if found == expected.digest {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "expected the target {}, found {found}; read the image again and retry",
        expected.digest
    )))
}

fn update_label(labels: &mut Labels, update: &Labels, path: &str) -> Result<()> {
    match path.strip_prefix("labels") {
        Some("") => replace(labels, update),
        Some(key) if key.len() > 1 && key.starts_with('.') => set(labels, update, &key[1..]),
        _ => {
            return Err(Error::invalid(
                "unknown field path: expected labels or labels.<key>; for an image also target, \
                 annotations or annotations.<key>",
            )
            .operation("update field")
            .subject(excerpt(path)));
        }
    }
    Ok(())
}

fn replace(labels: &mut Labels, update: &Labels) {
    labels.clone_from(update);
    labels.retain(|_, value| !value.is_empty());
}

fn set(labels: &mut Labels, update: &Labels, key: &str) {
    match update.get(key).filter(|value| !value.is_empty()) {
        Some(value) => labels.insert(key.to_owned(), value.clone()),
        None => labels.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::{Descriptor, MediaType};

    fn map(pairs: &[(&str, &str)]) -> Labels {
        let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        owned.collect()
    }

    fn pair() -> (Image, Image) {
        let make = |data: &[u8]| {
            let target = Descriptor::of(MediaType::OCI_MANIFEST, data);
            Image::new("a".parse().unwrap(), target)
        };
        let (mut old, mut new) = (make(b"old"), make(b"new"));
        old.created_at = std::time::UNIX_EPOCH;
        old.labels = map(&[("keep", "1"), ("a.b/c", "1")]);
        old.target.annotations = map(&[("keep", "1"), ("x.y", "1")]);
        new.labels = map(&[("a.b/c", "2"), ("empty", "")]);
        new.target.annotations = map(&[("x.y", "2")]);
        (old, new)
    }

    fn updated(paths: &[&str]) -> Image {
        let (mut old, new) = pair();
        update_image(&mut old, &new, paths).unwrap();
        old
    }

    #[test]
    fn only_the_named_fields_are_replaced() {
        let (old, new) = pair();
        let all = updated(&[]);
        assert_eq!((&all.target, all.created_at), (&new.target, old.created_at));
        assert_eq!(all.labels, map(&[("a.b/c", "2")]));
        assert_eq!(updated(&["labels"]).labels, map(&[("a.b/c", "2")]));
        assert_eq!(updated(&["labels"]).target, old.target);
        let label = updated(&["labels.a.b/c", "labels.keep"]);
        assert_eq!(label.labels, map(&[("a.b/c", "2")]));
        let target = updated(&["target"]);
        assert_eq!((&target.target, &target.labels), (&new.target, &old.labels));
        let annotation = updated(&["annotations.x.y"]);
        assert_eq!(annotation.target.digest, old.target.digest);
        assert_eq!(
            annotation.target.annotations,
            map(&[("keep", "1"), ("x.y", "2")])
        );
        assert_eq!(
            updated(&["annotations"]).target.annotations,
            map(&[("x.y", "2")])
        );
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "",
            "name",
            "created_at",
            "target.digest",
            "target.",
            "labels.",
            "labelsx",
            "annotations.",
            "annotationsx",
            ".labels",
        ] {
            let (mut old, new) = pair();
            let error = update_image(&mut old, &new, &[path]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{path}");
        }
        let mut labels = Labels::new();
        assert!(update_labels(&mut labels, &Labels::new(), &["target"]).is_err());
    }
}
