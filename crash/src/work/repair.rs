//! Damage and its repair.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use cas::backend::pool;
use cas::blocking::Cas;
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ContentExt as _, FsckOptions, ImportOptions};
use testkit::random::Random;

use crate::material::{IMAGES, Material};
use crate::promise::{ABSENT, Notes, PRESENT, Resource};

/// The number of repairs.
const REPAIRS: u64 = 4;

/// Imports all images of the material, and then damages and repairs the root [`REPAIRS`] times.
pub(super) fn run(
    root: &Path,
    notes: &Notes,
    material: &Material,
    mut random: Random,
) -> Result<()> {
    let cas = Cas::open(root)?;
    for number in 0..IMAGES {
        let (target, _) = material.facts(number)?;
        let name = name(number);
        let options = ImportOptions::default()
            .with_name(name.parse::<Reference>()?)
            .with_unpack(true);
        cas.import_with(Source::Path(material.layout(number)), options)?;
        notes.did(&Resource::Image(name.clone()), &target)?;
        notes.did(&Resource::Tree(name), &number.to_string())?;
    }
    cas.close()?;
    let damage = Resource::Damage("any".into());
    for _ in 0..REPAIRS {
        notes.trying(&damage, PRESENT)?;
        lose_layer(root, &mut random)?;
        lose_snapshot(root, &mut random)?;
        repair(root, material)?;
        notes.did(&damage, ABSENT)?;
    }
    Ok(())
}

fn name(number: u64) -> String {
    format!("cut.example/r{number}:1")
}

/// Repairs a root with the content of the material's root.
pub(crate) fn repair(root: &Path, material: &Material) -> Result<()> {
    let mut options = FsckOptions::default();
    options.repair = true;
    options.from = Some(
        material
            .root()
            .to_str()
            .context("the path of the material's root is not UTF-8")?
            .into(),
    );
    Cas::fsck(root, options)?;
    Ok(())
}

/// Removes the bytes of a layer.
fn lose_layer(root: &Path, random: &mut Random) -> Result<()> {
    let cas = Cas::open(root)?;
    let manifest = cas.manifest(name(random.below(IMAGES)))?.manifest;
    let layer = random.below(manifest.layers.len() as u64) as usize;
    pool::wait(cas.store().content.remove(&manifest.layers[layer].digest))?;
    cas.close()?;
    Ok(())
}

/// Removes the directory of a snapshot.
fn lose_snapshot(root: &Path, random: &mut Random) -> Result<()> {
    let mut found = Vec::new();
    for snapshotter in fs::read_dir(root.join("snapshots"))? {
        for entry in fs::read_dir(snapshotter?.path().join("snapshots"))? {
            found.push(entry?.path());
        }
    }
    found.sort();
    if !found.is_empty() {
        let chosen = random.below(found.len() as u64) as usize;
        fs::remove_dir_all(&found[chosen])?;
    }
    Ok(())
}
