//! The time of a mount of an image that is already unpacked: from the call to the mounted
//! directory, for an image of 6 layers and one of 128. It does not include the start of a process;
//! `peers mount` does. It also measures how long the preparation of a container's root directory
//! takes: in an empty place, with a goal of 10 ms, and over the mounted root directory of an
//! earlier container, with a goal of 20 ms.
//!
//! `cargo bench --bench mount`, as the superuser.
#![allow(missing_docs, reason = "a bench has no API")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use cas::layer::import::Source;
use cas::{Cas, ImportOptions, MountOptions};
use oci_cas_benches::images;
use oci_cas_benches::scratch::{self, Scratch};
use tokio::runtime::Builder;

const ROUNDS: usize = 50;
const TALL: usize = 128;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let scratch = Scratch::new(None, Path::new(scratch::MEMORY), 8 << 30)?;
    println!("median of {ROUNDS}, {}", scratch.kind());
    for layers in [6, TALL] {
        let layout = scratch.path().join(format!("layout-{layers}"));
        images::tall(layers, &layout)?;
        let root = scratch.path().join(format!("root-{layers}"));
        for (name, writable) in [("read-only", false), ("writable", true)] {
            let took = runtime.block_on(mounted(&root, &layout, writable))?;
            println!("{layers} layers, {name}: {took:.2?}");
        }
        for (name, over) in [
            ("root directory", false),
            ("root directory over another", true),
        ] {
            let took = runtime.block_on(prepared(&root, over))?;
            println!("{layers} layers, {name}: {took:.2?}");
        }
    }
    Ok(())
}

async fn mounted(root: &Path, layout: &Path, writable: bool) -> Result<Duration> {
    let cas = Cas::open(root).await?;
    let source = Source::Path(layout.to_owned());
    cas.import_with(source, ImportOptions::default().with_unpack(true))
        .await?;
    let target = root.join("mounted");
    std::fs::create_dir_all(&target)?;
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let options = MountOptions::default().with_writable(writable);
        let begun = Instant::now();
        cas.mount_with("bench", &target, options).await?;
        took.push(begun.elapsed());
        cas.unmount(&target).await?;
    }
    Ok(median(took))
}

/// Prepares root directories of the image that [`mounted`] has imported.
async fn prepared(root: &Path, over: bool) -> Result<Duration> {
    let cas = Cas::open(root).await?;
    let path = root.join("container");
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        if over {
            cas.prepare_root_dir(&path, "bench").await?;
        }
        let begun = Instant::now();
        cas.prepare_root_dir(&path, "bench").await?;
        took.push(begun.elapsed());
        cas.remove_root_dir(&path).await?;
    }
    Ok(median(took))
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}
