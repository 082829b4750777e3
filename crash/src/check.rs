//! Checks of a root after a loss of power, after kills and after storms.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cas::backend::pool;
use cas::blocking::Cas;
use cas::check::{Finding, Problem, ReadData};
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ContentExt as _, Digest, ErrorKind, FsckOptions, ImportOptions, Labels};
use cas_host::mount;
use testkit::tree::scan;

use crate::material::{IMAGES, Material};
use crate::promise::{ABSENT, PRESENT, Promise, Resource};
use crate::work::{FILES, FILLER, remove_snapshot, repair};

/// A root, and what a check of this root needs.
pub(crate) struct Place<'a> {
    pub(crate) root: &'a Path,
    /// An empty directory for mounts.
    pub(crate) mount: &'a Path,
    pub(crate) material: &'a Material,
}

/// The key of the view through which a check reads a committed snapshot.
const LOOK: &str = "look";

/// Findings of `fsck` that are not damage. Interrupted jobs leave files, and a collection removes
/// these files. After a crash, the bytes of a removed blob may exist again, but not the record of
/// the blob. If such a blob is a manifest or an index, `fsck` also reports that the name of an
/// image may be missing.
const LEFT: [Problem; 6] = [
    Problem::RecordMissing,
    Problem::NameMissing,
    Problem::IngestLeft,
    Problem::SnapshotLeft,
    Problem::MountLeft,
    Problem::JobLeft,
];

/// The beginning of the text that [`value`] returns for a blob whose bytes do not match its digest.
const OTHER_BYTES: &str = "other bytes";

/// Makes all checks after a loss of power. Some checks also change the root: they run a garbage
/// collection, repair damage that a worker (a process that changed the root) has made, or import
/// images. Returns a line for each broken promise and for each step that fails.
pub(crate) fn after_loss_of_power(place: &Place<'_>, promise: &Promise) -> Vec<String> {
    let mut found = Vec::new();
    for (step, end) in [
        ("full disk", works_on_full_disk(place)),
        ("repair", repairs(place, promise)),
        ("comparison", keeps(place, promise)),
        ("fsck", has_no_damage(place)),
        ("collection", collects(place)),
        ("comparison after a collection", keeps(place, promise)),
        ("fsck after a collection", has_no_damage(place)),
    ] {
        match end {
            Ok(violations) => found.extend(violations.iter().map(|one| format!("{step}: {one}"))),
            Err(error) => found.push(format!("{step}: {error:#}")),
        }
    }
    found
}

/// Lists images and runs a garbage collection while the disk is full. Then removes the file with
/// which the worker has filled the disk. Does nothing if this file does not exist.
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
        // A removal on a full disk deletes the file `reserve` to free space, and makes it again
        // afterwards. If power was lost in between, the next removal may fail.
        Err(_) if !reserved => Ok(Vec::new()),
        collected => collected.map(|()| Vec::new()),
    }
}

/// Repairs the root, if the worker may have left damage.
fn repairs(place: &Place<'_>, promise: &Promise) -> Result<Vec<String>> {
    let is_damaged = |(resource, values): (&Resource, &BTreeSet<String>)| {
        matches!(resource, Resource::Damage(_)) && values.contains(PRESENT)
    };
    if promise.0.iter().any(is_damaged) {
        repair(place.root, place.material)?;
    }
    Ok(Vec::new())
}

/// Checks a root on a disk on which bits have changed. Returns `None` if an `fsck` that reads all
/// bytes finds damage or fails, or if the root cannot be opened. Otherwise returns a line for each
/// blob, tree and snapshot with wrong bytes. Names and records may be lost: a changed bit may end
/// the log of a database.
pub(crate) fn after_rot(place: &Place<'_>, promise: &Promise) -> Option<Vec<String>> {
    let damage = has_no_damage(place).ok()?;
    if !damage.is_empty() {
        return None;
    }
    let cas = match Cas::open(place.root) {
        Err(error) => {
            return Some(vec![format!(
                "fsck finds no damage, but opening fails: {error}"
            )]);
        }
        Ok(cas) => cas,
    };
    let wrong = promise.0.keys().filter_map(|resource| {
        // What cannot be read shows no wrong bytes.
        let value = value(&cas, place, resource).ok()??;
        let is_wrong = match resource {
            Resource::Blob(_) => value.starts_with(OTHER_BYTES),
            // All files of a snapshot have the same text.
            Resource::Tree(_) | Resource::Snapshot(_) => value.contains(' '),
            _ => false,
        };
        is_wrong.then(|| format!("{resource}: found {value}, but fsck finds no damage"))
    });
    Some(wrong.collect())
}

/// Compares the root with everything that was promised, and checks that each named image is
/// complete.
fn keeps(place: &Place<'_>, promise: &Promise) -> Result<Vec<String>> {
    let cas = Cas::open(place.root)?;
    let all: BTreeSet<Resource> = promise.0.keys().cloned().collect();
    let mut found = compare(&cas, place, promise, &all).violations;
    found.extend(incomplete(&cas)?);
    cas.close()?;
    Ok(found)
}

/// Returns a line for each named image that is not complete or cannot be checked.
pub(crate) fn incomplete(cas: &Cas) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for image in cas.images()? {
        let check = cas.check(&image);
        match check {
            Ok(check) if check.is_complete() => {}
            Ok(check) => found.push(format!("{} lacks {:?}", image.name, check.missing)),
            Err(error) => found.push(format!("{}: {error}", image.name)),
        }
    }
    Ok(found)
}

/// What was found about resources. [`Resource::Damage`], and resources about which nothing is
/// promised, are left out.
#[derive(Default)]
pub(crate) struct Comparison {
    /// Each resource whose value is one of the promised values, with this value.
    pub(crate) values: Vec<(Resource, String)>,
    /// A line for each resource whose value is none of the promised values or cannot be read.
    pub(crate) violations: Vec<String>,
}

/// Compares each resource in `which` with what was promised about this resource.
pub(crate) fn compare(
    cas: &Cas,
    place: &Place<'_>,
    promise: &Promise,
    which: &BTreeSet<Resource>,
) -> Comparison {
    let mut comparison = Comparison::default();
    for resource in which {
        let Some(allowed) = promise.0.get(resource) else {
            continue;
        };
        let value = value(cas, place, resource);
        let violation = match value {
            // A repair comes before this comparison.
            Ok(None) => continue,
            Ok(Some(value)) if promise.allows(resource, &value) => {
                comparison.values.push((resource.clone(), value));
                continue;
            }
            Ok(Some(value)) => format!("{resource}: expected {allowed:?}, found {value}"),
            Err(error) => format!("{resource}: {error:#}"),
        };
        comparison.violations.push(violation);
    }
    comparison
}

/// Returns the value of a resource, or `None` for [`Resource::Damage`].
fn value(cas: &Cas, place: &Place<'_>, resource: &Resource) -> Result<Option<String>> {
    match resource {
        Resource::Blob(digest) => blob(cas, digest),
        Resource::Lease(id) => lease(cas, id),
        Resource::Image(name) => image(cas, name),
        Resource::Tree(name) => tree(cas, place, name),
        Resource::Snapshot(key) => snapshot(cas, key),
        Resource::Damage(_) => return Ok(None),
    }
    .map(Some)
}

fn blob(cas: &Cas, digest: &str) -> Result<String> {
    let digest: Digest = digest.parse()?;
    let store = cas.store();
    let Some(stat) = pool::wait(store.content.stat(&digest))? else {
        return Ok(ABSENT.into());
    };
    let hashed = pool::wait(store.content.hash(&digest))?;
    if hashed != Some(digest) {
        return Ok(format!("{OTHER_BYTES}, which have the digest {hashed:?}"));
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
    match cas.image(name) {
        Ok(image) => Ok(image.target.digest.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ABSENT.into()),
        Err(error) => Err(error.into()),
    }
}

/// Mounts the image `name`, and compares its files with those of the image in [`Material`] that has
/// the same manifest. The material has all images that workers import, copy and pull. Returns the
/// number of the image in the material, or [`ABSENT`] if the image is absent, is not unpacked or is
/// not in the material. If a file differs, returns a text that names the file.
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
        cas.mount(name, place.mount)?;
        let found = scan(place.mount);
        cas.unmount(place.mount)?;
        let expected = scan(&place.material.tree(number));
        let differs = |path: &&PathBuf| expected.get(*path) != found.get(*path);
        let paths: BTreeSet<&PathBuf> = expected.keys().chain(found.keys()).collect();
        return Ok(match paths.into_iter().find(differs) {
            None => number.to_string(),
            Some(path) => format!("a difference from image {number} at {}", path.display()),
        });
    }
    Ok(ABSENT.into())
}

/// Returns the text that each file of a committed snapshot contains, or [`ABSENT`] if the snapshot
/// does not exist. If the files contain different texts, returns these texts, joined by ` and `.
fn snapshot(cas: &Cas, key: &str) -> Result<String> {
    let snapshotter = &**cas.snapshotter()?;
    if pool::wait(snapshotter.stat(key))?.is_none() {
        return Ok(ABSENT.into());
    }
    remove_snapshot(snapshotter, LOOK)?;
    let mounts = pool::wait(snapshotter.view(LOOK, Some(key), Labels::new()))?;
    let root = mount::open(&mounts)?;
    let mut texts = BTreeSet::new();
    for number in 0..FILES {
        let path = format!("/proc/self/fd/{}/f{number}", root.as_raw_fd());
        texts.insert(fs::read_to_string(path)?);
    }
    drop(root);
    remove_snapshot(snapshotter, LOOK)?;
    Ok(texts.into_iter().collect::<Vec<_>>().join(" and "))
}

/// Runs an `fsck` that reads all bytes. Returns a line for each finding that is damage.
pub(crate) fn has_no_damage(place: &Place<'_>) -> Result<Vec<String>> {
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

/// Runs a garbage collection, and then imports and unpacks all images of the material. Each step
/// must succeed at the first attempt. Returns a line for each image whose files are wrong.
fn collects(place: &Place<'_>) -> Result<Vec<String>> {
    let cas = Cas::open(place.root)?;
    cas.gc()?;
    let mut found = Vec::new();
    for number in 0..IMAGES {
        let name = format!("cut.example/after{number}:1");
        let options = ImportOptions::default()
            .with_name(name.parse::<Reference>()?)
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
