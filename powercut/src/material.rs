//! The images that a worker imports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cas::blocking::Cas;
use testkit::archive::Tar;
use testkit::random::Random;

/// The number of images.
pub(crate) const IMAGES: u64 = 6;

/// A directory with a layout of each image, and with the files of each image.
#[derive(Clone)]
pub(crate) struct Material(PathBuf);

impl Material {
    /// Makes the images. All share a layer, and one has a layer of 3 MiB.
    pub(crate) fn make(directory: &Path, seed: u64) -> Result<Self> {
        let material = Material(directory.to_owned());
        let mut random = Random::new(seed, "material");
        let base = layer("base", 40, &mut random);
        let root = directory.join("root");
        let cas = Cas::open(&root)?;
        for number in 0..IMAGES {
            let mut own = layer(&format!("own{number}"), 12, &mut random);
            if number == 0 {
                own = own.file("large", random.bytes(3 << 20));
            }
            let changed = format!("changed by {number}");
            let layers = vec![base.clone(), own.file("base/f3", changed)];
            testkit::layout::layout(&material.layout(number), layers);
            let image = cas.import(material.layout(number))?;
            let image = image.first().context("a layout has an image")?;
            cas.unpack(image, material.tree(number))?;
            let chain_id = cas.snapshot(image)?.context("an image has layers")?;
            let facts = format!("{} {chain_id}", image.target.digest);
            fs::write(material.facts_file(number), facts)?;
        }
        cas.close()?;
        fs::remove_dir_all(root)?;
        Ok(material)
    }

    /// Returns the material that another process made in `directory`.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Material(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the layout of an image.
    pub(crate) fn layout(&self, number: u64) -> PathBuf {
        self.0.join(format!("layout{number}"))
    }

    /// Returns the digest of the manifest of an image, and the chain ID of its topmost layer.
    pub(crate) fn facts(&self, number: u64) -> Result<(String, String)> {
        let facts = fs::read_to_string(self.facts_file(number))?;
        let (manifest, chain_id) = facts.split_once(' ').context("facts are two words")?;
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

/// Returns a layer with a directory of some files of up to 8 KiB.
fn layer(name: &str, files: u64, random: &mut Random) -> Tar {
    let mut tar = Tar::new().dir(name);
    for file in 0..files {
        let length = random.below(8 << 10) as usize;
        tar = tar.file(format!("{name}/f{file}"), random.bytes(length));
    }
    tar.symlink(format!("{name}/link"), "f0")
        .hardlink(format!("{name}/second"), format!("{name}/f1"))
}
