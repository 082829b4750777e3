//! The images that a worker imports, copies and pulls.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cas::blocking::Cas;
use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ImportOptions, PushOptions};
use testkit::archive::Tar;
use testkit::docker::Registry;
use testkit::random::Random;

/// The number of images.
pub(crate) const IMAGES: u64 = 6;
/// A file with the host and the port of the registry.
const REGISTRY: &str = "host";

/// A directory with a layout of each image, the files of each image, and a root with all images.
#[derive(Clone)]
pub(crate) struct Material(PathBuf);

impl Material {
    /// Makes the images. All share a layer, and one has a file of 3 MiB.
    pub(crate) fn make(directory: &Path, seed: u64) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let material = Material(directory.to_owned());
        let mut random = Random::new(seed, "material");
        let base = layer("base", 40, &mut random);
        let cas = Cas::open(material.root())?;
        for number in 0..IMAGES {
            let mut own = layer(&format!("own{number}"), 12, &mut random);
            if number == 0 {
                own = own.file("large", random.bytes(3 << 20));
            }
            let changed = format!("changed by {number}");
            let layers = vec![base.clone(), own.file("base/f3", changed)];
            testkit::layout::layout(&material.layout(number), layers);
            let name = material_name(number).parse::<Reference>()?;
            let options = ImportOptions::default().with_name(name);
            let image = cas.import_with(Source::Path(material.layout(number)), options)?;
            let image = &image.first().context("the layout has no image")?.image;
            cas.unpack(image, material.tree(number))?;
            let chain_id = cas.snapshot(image)?.context("the image has no layers")?;
            let facts = format!("{} {chain_id}", image.target.digest);
            fs::write(material.facts_file(number), facts)?;
        }
        cas.close()?;
        Ok(material)
    }

    /// Returns the material that another process made in `directory`.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Material(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Starts a registry. Pushes all images to the registry once for each of `owners`, under tags
    /// that name the owner. Returns the registry.
    pub(crate) fn serve(&self, owners: impl Iterator<Item = String>) -> Result<Registry> {
        let registry = Registry::open(&self.0);
        let cas = Cas::open(self.root())?;
        for owner in owners {
            for number in 0..IMAGES {
                let target = at_registry(&registry.host, number, &owner);
                let options = PushOptions::default().with_plain_http(true);
                cas.push_with(material_name(number), target, options)?;
            }
        }
        cas.close()?;
        fs::write(self.0.join(REGISTRY), &registry.host)?;
        Ok(registry)
    }

    /// Returns the reference of an image in the registry, with the tag that names `owner`. Returns
    /// `None` if no registry was started.
    pub(crate) fn in_registry(&self, number: u64, owner: &str) -> Option<String> {
        let host = fs::read_to_string(self.0.join(REGISTRY)).ok()?;
        Some(at_registry(&host, number, owner))
    }

    /// Returns a root with all images.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Returns the layout of an image.
    pub(crate) fn layout(&self, number: u64) -> PathBuf {
        self.0.join(format!("layout{number}"))
    }

    /// Returns the digest of the manifest of an image, and the chain ID of its topmost layer.
    pub(crate) fn facts(&self, number: u64) -> Result<(String, String)> {
        let facts = fs::read_to_string(self.facts_file(number))?;
        let (manifest, chain_id) = facts
            .split_once(' ')
            .context("expected a digest and a chain ID in a file of facts")?;
        Ok((manifest.to_owned(), chain_id.to_owned()))
    }

    fn facts_file(&self, number: u64) -> PathBuf {
        self.0.join(format!("facts{number}"))
    }

    /// Returns the directory with the files of an image.
    pub(crate) fn tree(&self, number: u64) -> PathBuf {
        self.0.join(format!("tree{number}"))
    }
}

/// Returns the name of an image in the root of the material.
pub(crate) fn material_name(number: u64) -> String {
    format!("material.example/{number}:1")
}

fn at_registry(host: &str, number: u64, owner: &str) -> String {
    format!("{host}/material:{number}-{owner}")
}

/// Returns a layer with the directory `name`. The directory contains `files` files of less than
/// 8 KiB each, a symbolic link and a hard link.
fn layer(name: &str, files: u64, random: &mut Random) -> Tar {
    let mut tar = Tar::new().dir(name);
    for file in 0..files {
        let length = random.below(8 << 10) as usize;
        tar = tar.file(format!("{name}/f{file}"), random.bytes(length));
    }
    tar.symlink(format!("{name}/link"), "f0")
        .hardlink(format!("{name}/second"), format!("{name}/f1"))
}
