//! Random changes of images and snapshots.

use anyhow::Result;
use cas::blocking::Cas;
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{CopyOptions, ErrorKind, ImportOptions, ParallelPull, PullMode, PullModes, PullOptions};
use testkit::random::Random;

use super::{Worker, owner, snapshots};
use crate::material::{IMAGES, material_name};
use crate::promise::{ABSENT, ANY, Resource};

/// The number of names that a thread gives to images that it imports, copies or tags.
const NAMES: u64 = 4;

/// Makes a random change of the images or of the snapshot of a thread. No other thread changes
/// them.
pub(super) fn change(worker: &Worker, thread: u64, random: &mut Random) -> Result<()> {
    let owner = owner(worker.process, thread);
    let name = format!("cut.example/{owner}-{}:1", random.below(NAMES));
    let number = random.below(IMAGES);
    match random.below(12) {
        0..3 => remove(worker, &name),
        3 => match worker.material.in_registry(number, &owner) {
            Some(name) => remove(worker, &name),
            None => Ok(()),
        },
        4..6 => import(worker, name, number),
        6..8 => match worker.material.in_registry(number, &owner) {
            Some(name) => pull(worker, name, number, random),
            None => import(worker, name, number),
        },
        8 => copy(worker, name, number),
        9 => tag(worker, &owner, name, random),
        _ => snapshots::commit(worker, &owner, random),
    }
}

fn resources(name: &str) -> [Resource; 2] {
    let name = || name.to_owned();
    [Resource::Image(name()), Resource::Tree(name())]
}

fn remove(worker: &Worker, name: &str) -> Result<()> {
    let resources = resources(name);
    for resource in &resources {
        worker.notes.trying(resource, ABSENT)?;
    }
    match worker.cas.remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for resource in &resources {
        worker.notes.did(resource, ABSENT)?;
    }
    Ok(())
}

/// Calls `bring`, a function that must import or pull the image `number` of the material under the
/// name `name`, and unpack the image. Then records what the worker was promised about the name and
/// the tree.
fn unpack(
    worker: &Worker,
    name: &str,
    number: u64,
    bring: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (target, _) = worker.material.facts(number)?;
    let [image, tree] = resources(name);
    worker.notes.trying(&image, &target)?;
    worker.notes.trying(&tree, &number.to_string())?;
    let did = || {
        worker.notes.did(&image, &target)?;
        match worker.promises_trees {
            true => worker.notes.did(&tree, &number.to_string()),
            false => worker.notes.trying(&tree, ANY),
        }
    };
    if worker.is_early {
        did()?;
        return bring();
    }
    bring()?;
    did()
}

fn import(worker: &Worker, name: String, number: u64) -> Result<()> {
    unpack(worker, &name, number, || {
        let options = ImportOptions::default()
            .with_name(name.parse::<Reference>()?)
            .with_unpack(true);
        let layout = Source::Path(worker.material.layout(number));
        worker.cas.import_with(layout, options)?;
        Ok(())
    })
}

/// Pulls and unpacks an image. Half of the pulls, chosen at random, pull and unpack layers in
/// parallel. The snapshots of a parallel pull get their parents when they are committed.
fn pull(worker: &Worker, name: String, number: u64, random: &mut Random) -> Result<()> {
    unpack(worker, &name, number, || {
        let parallel = match random.below(2) {
            0 => None,
            _ => {
                let mut modes = PullModes::default();
                modes.mode = PullMode::Parallel;
                modes.unpacks_per_image = 2;
                Some(ParallelPull::new(&modes)?)
            }
        };
        let options = PullOptions::default()
            .with_plain_http(true)
            .with_unpack(true)
            .with_parallel(parallel);
        worker.cas.pull_with(&*name, options)?;
        Ok(())
    })
}

/// Copies an image from the root of the material. Nothing is promised about the unpacked files of
/// the copy.
fn copy(worker: &Worker, name: String, number: u64) -> Result<()> {
    let (target, _) = worker.material.facts(number)?;
    let [image, tree] = resources(&name);
    worker.notes.trying(&tree, ANY)?;
    worker.notes.trying(&image, &target)?;
    let from = Cas::open(worker.material.root())?;
    let options = CopyOptions::default().with_name(name);
    from.copy_with(material_name(number), worker.cas.inner(), options)?;
    from.close()?;
    worker.notes.did(&image, &target)
}

/// Chooses a name of this thread at random. If an image has this name, gives the image the
/// name `name`, too. Nothing is promised about the unpacked files under the name `name`.
fn tag(worker: &Worker, owner: &str, name: String, random: &mut Random) -> Result<()> {
    let source = format!("cut.example/{owner}-{}:1", random.below(NAMES));
    let target = match worker.cas.image(&*source) {
        Ok(image) => image.target.digest.to_string(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if source == name {
        return Ok(());
    }
    let [image, tree] = resources(&name);
    worker.notes.trying(&tree, ANY)?;
    worker.notes.trying(&image, &target)?;
    worker.cas.tag(source, name)?;
    worker.notes.did(&image, &target)
}
