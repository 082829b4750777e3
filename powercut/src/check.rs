//! Checks a root after a loss of power.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cas::backend::pool;
use cas::blocking::Cas;
use cas::check::{Finding, Problem, ReadData};
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ContentExt as _, Digest, ErrorKind, FsckOptions, ImportOptions};
use testkit::tree::scan;

use crate::material::{IMAGES, Material};
use crate::promise::{ABSENT, PRESENT, Promise, Resource};
use crate::work::{FILLER, full_name};

/// What a check reads.
pub(crate) struct Place<'a> {
    pub(crate) root: &'a Path,
    /// An empty directory for mounts.
    pub(crate) mount: &'a Path,
    pub(crate) material: &'a Material,
}

/// Findings of `fsck` that are no damage. A collection removes what interrupted jobs have left. A
/// removed blob may be back without its record, and then `fsck` suspects that names were lost, too.
const LEFT: [Problem; 5] = [
    Problem::RecordMissing,
    Problem::NameMissing,
    Problem::IngestLeft,
    Problem::SnapshotLeft,
    Problem::MountLeft,
];

/// Returns a line for each violation.
pub(crate) fn check(place: &Place<'_>, promise: &Promise) -> Vec<String> {
    let mut found = Vec::new();
    for (step, end) in [
        ("full disk", works_on_full_disk(place)),
        ("as promised", keeps(place, promise)),
        ("fsck", has_no_damage(place)),
        ("collection", collects(place)),
        ("as promised after a collection", keeps(place, promise)),
        ("fsck after a collection", has_no_damage(place)),
    ] {
        match end {
            Ok(violations) => found.extend(violations.iter().map(|one| format!("{step}: {one}"))),
            Err(error) => found.push(format!("{step}: {error:#}")),
        }
    }
    found
}

/// Lists and collects, if the worker has filled the disk, and then frees the disk.
fn works_on_full_disk(place: &Place<'_>) -> Result<Vec<String>> {
    let filler = place.root.with_file_name(FILLER);
    if !filler.exists() {
        return Ok(Vec::new());
    }
    let store = place.root.join("store");
    let reserves = [store.join("reserve"), store.join(".cas/reserve")];
    let reserved = reserves.iter().any(|reserve| reserve.exists());
    let collect = || -> Result<()> {
        let cas = Cas::open(place.root)?;
        cas.images()?;
        cas.gc()?;
        cas.close()?;
        Ok(())
    };
    let collected = collect();
    fs::remove_file(filler)?;
    match collected {
        // Power was lost while a removal used the reserve.
        Err(_) if !reserved => Ok(Vec::new()),
        collected => collected.map(|()| Vec::new()),
    }
}

/// Compares everything that was promised, and reads every image that has a name.
fn keeps(place: &Place<'_>, promise: &Promise) -> Result<Vec<String>> {
    let cas = Cas::open(place.root)?;
    let mut found = Vec::new();
    for (resource, allowed) in &promise.0 {
        let value = match resource {
            Resource::Blob(digest) => blob(&cas, digest),
            Resource::Lease(id) => lease(&cas, id),
            Resource::Image(name) => image(&cas, name),
            Resource::Tree(name) => tree(&cas, place, name),
        };
        match value {
            Ok(value) if allowed.contains(&value) => {}
            Ok(value) => found.push(format!("{resource}: expected {allowed:?}, found {value}")),
            Err(error) => found.push(format!("{resource}: {error:#}")),
        }
    }
    for image in cas.images()? {
        let check = cas.check(&image);
        match check {
            Ok(check) if check.is_complete() => {}
            Ok(check) => found.push(format!("{} lacks {:?}", image.name, check.missing)),
            Err(error) => found.push(format!("{}: {error}", image.name)),
        }
    }
    cas.close()?;
    Ok(found)
}

fn blob(cas: &Cas, digest: &str) -> Result<String> {
    let digest: Digest = digest.parse()?;
    let store = cas.store();
    let Some(stat) = pool::wait(store.content.stat(&digest))? else {
        return Ok(ABSENT.into());
    };
    let hashed = pool::wait(store.content.hash(&digest))?;
    if hashed != Some(digest) {
        return Ok(format!("other bytes, which have the digest {hashed:?}"));
    }
    match pool::wait(store.blobs().load(&digest))? {
        Some((record, _)) if record.leases.is_empty() => Ok("a record without its lease".into()),
        Some(_) => Ok(stat.size.to_string()),
        None => Ok("no record".into()),
    }
}

fn lease(cas: &Cas, id: &str) -> Result<String> {
    let found = pool::wait(cas.store().leases().load(id))?;
    Ok(found.map_or(ABSENT, |_| PRESENT).into())
}

fn image(cas: &Cas, name: &str) -> Result<String> {
    match cas.image(full_name(name)) {
        Ok(image) => Ok(image.target.digest.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ABSENT.into()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the number of the image whose files a mount of the named image shows, or [`ABSENT`] if
/// the image is absent or not unpacked.
fn tree(cas: &Cas, place: &Place<'_>, name: &str) -> Result<String> {
    let target = image(cas, name)?;
    for number in 0..IMAGES {
        let (manifest, chain_id) = place.material.facts(number)?;
        if manifest != target {
            continue;
        }
        if pool::wait(cas.snapshotter()?.stat(&chain_id))?.is_none() {
            return Ok(ABSENT.into());
        }
        cas.mount(full_name(name), place.mount)?;
        let found = scan(place.mount);
        cas.unmount(place.mount)?;
        let expected = scan(&place.material.tree(number));
        let differs = |path: &&PathBuf| expected.get(*path) != found.get(*path);
        let paths: BTreeSet<&PathBuf> = expected.keys().chain(found.keys()).collect();
        return Ok(match paths.into_iter().find(differs) {
            None => number.to_string(),
            Some(path) => format!("a different {} than image {number}", path.display()),
        });
    }
    Ok(ABSENT.into())
}

/// Returns the damage that `fsck` finds when it reads everything.
fn has_no_damage(place: &Place<'_>) -> Result<Vec<String>> {
    let mut options = FsckOptions::default();
    options.read_data = ReadData::All;
    let report = Cas::fsck(place.root, options)?;
    let damage = report.findings.iter();
    let damage = damage.filter(|finding| !LEFT.contains(&finding.problem));
    let line = |finding: &Finding| {
        let Finding {
            problem, subject, ..
        } = finding;
        format!("{problem} {subject}: {}", finding.detail)
    };
    Ok(damage.map(line).collect())
}

/// Collects, and then imports and unpacks all images, which must work at once.
fn collects(place: &Place<'_>) -> Result<Vec<String>> {
    let cas = Cas::open(place.root)?;
    cas.gc()?;
    let mut found = Vec::new();
    for number in 0..IMAGES {
        let name = format!("after{number}");
        let options = ImportOptions::default()
            .with_name(full_name(&name).parse::<Reference>()?)
            .with_unpack(true);
        cas.import_with(Source::Path(place.material.layout(number)), options)?;
        let shown = tree(&cas, place, &name)?;
        if shown != number.to_string() {
            found.push(format!("expected image {number}, found {shown}"));
        }
    }
    cas.close()?;
    Ok(found)
}
