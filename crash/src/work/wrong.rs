//! Work in a wrong order.

use std::fs;

use anyhow::Result;
use bytes::Bytes;
use cas::backend::pool;
use cas::content::Durability;
use cas::{Descriptor, Image, MediaType};

use super::Worker;
use crate::material::IMAGES;
use crate::promise::Resource;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Names each image before its blobs are flushed.
pub(super) fn name_first(worker: &Worker) -> Result<()> {
    let store = worker.cas.store();
    for number in 0..IMAGES {
        let (manifest, _) = worker.material.facts(number)?;
        let blobs = worker.material.layout(number).join("blobs/sha256");
        let mut target = None;
        for entry in fs::read_dir(blobs)? {
            let data = Bytes::from(fs::read(entry?.path())?);
            let bytes = Descriptor::of(MediaType::from("application/octet-stream"), &data);
            if bytes.digest.to_string() == manifest {
                target = Some(Descriptor::of(MediaType::from(MANIFEST), &data));
            }
            pool::wait(store.put(&bytes, data, Durability::Relaxed))?;
        }
        let name = format!("cut.example/wrong{number}:1");
        if let Some(target) = target {
            let image = Image::new(name.parse()?, target);
            pool::wait(store.images.create(image))?;
            worker.notes.did(&Resource::Image(name), &manifest)?;
        }
        pool::wait(store.content.flush())?;
    }
    Ok(())
}
