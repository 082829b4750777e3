//! Measures mounts of images that are already unpacked, with 6 and with 128 layers, in the
//! snapshotters `overlay` and `erofs`. The time begins with the call of `Cas::mount_with`, and ends
//! when the directory is mounted. The goal for `erofs` is 1 ms. In contrast to the time that
//! `peers mount` measures, this time does not include the start of a process.
//!
//! This bench also measures how long it takes to prepare the root directory of a container. The
//! goal is 10 ms if nothing is mounted at the path of the root directory, and 20 ms if the root
//! directory of an earlier container is still mounted there.
//!
//! `cargo bench -p oci-cas-benches --bench mount`, as the superuser.
#![allow(missing_docs, reason = "a bench has no API")]

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use cas::layer::import::Source;
use cas::{Cas, ImportOptions, MountOptions, OpenOptions};
use oci_cas_benches::images;
use oci_cas_benches::measure::{Taken, nine, print_floors, time};
use oci_cas_benches::scratch::{self, Scratch};
use tokio::runtime::{Builder, Runtime};

const TALL: usize = 128;
/// Time of a mount in the snapshotter `erofs`.
const GOAL: Duration = Duration::from_millis(1);

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let scratch = Scratch::new(None, Path::new(scratch::MEMORY), 8 << 30)?;
    println!("on {}", scratch.kind());
    print_floors(scratch.path())?;
    for layers in [6, TALL] {
        let layout = scratch.path().join(format!("layout-{layers}"));
        images::tall(layers, &layout)?;
        for snapshotter in ["overlay", "erofs"] {
            let root = scratch.path().join(format!("{snapshotter}-{layers}"));
            let options = OpenOptions::default().with_snapshotter(snapshotter);
            let cas = runtime.block_on(Cas::open_with(&root, options))?;
            let options = ImportOptions::default().with_unpack(true);
            let source = Source::Path(layout.clone());
            runtime.block_on(cas.import_with(source, options))?;
            let name = format!("{snapshotter}, {layers} layers");
            print(&runtime, &cas, &root, &name, snapshotter == "erofs")?;
            runtime.block_on(cas.close())?;
        }
    }
    Ok(())
}

/// Measures the mounts and the root directories of an image, and prints how long they take.
fn print(runtime: &Runtime, cas: &Cas, root: &Path, image: &str, has_goal: bool) -> Result<()> {
    for (name, writable) in [("read-only", false), ("writable", true)] {
        let taken = mounted(runtime, cas, root, writable)?;
        let met = match has_goal {
            true => format!("; {}", taken.verdict(GOAL)),
            false => String::new(),
        };
        println!("{image}, {name}: {taken}{met}");
    }
    for (name, over, goal) in [
        ("root directory", false, 10),
        ("root directory over another", true, 20),
    ] {
        let taken = prepared(runtime, cas, root, over)?;
        let met = taken.verdict(Duration::from_millis(goal));
        println!("{image}, {name}: {taken}; {met}");
    }
    Ok(())
}

fn mounted(runtime: &Runtime, cas: &Cas, root: &Path, writable: bool) -> Result<Taken> {
    let target = root.with_extension("mounted");
    std::fs::create_dir_all(&target)?;
    nine(|| {
        let options = MountOptions::default().with_writable(writable);
        let mount = cas.mount_with("bench", &target, options);
        let (taken, mounted) = time(|| runtime.block_on(mount));
        mounted?;
        runtime.block_on(cas.unmount(&target))?;
        Ok(taken)
    })
}

/// Measures how long it takes to prepare a root directory from the image. If `over` is set, the
/// path already has a mounted root directory.
fn prepared(runtime: &Runtime, cas: &Cas, root: &Path, over: bool) -> Result<Taken> {
    let path = root.with_extension("container");
    nine(|| {
        if over {
            runtime.block_on(cas.prepare_root_dir(&path, "bench"))?;
        }
        let prepare = cas.prepare_root_dir(&path, "bench");
        let (taken, prepared) = time(|| runtime.block_on(prepare));
        prepared?;
        runtime.block_on(cas.remove_root_dir(&path))?;
        Ok(taken)
    })
}
