//! Exports from the memory store and the strict store. The archives have the right content and can
//! be imported, and a failure leaves no file.

mod bad;
pub(crate) mod flawed;
mod good;

use std::io::Write;
use std::sync::{Arc, Mutex};

use cas_core::image::RecordImages;
use cas_core::progress::{Event, Phase, Progress};
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::{ContentStore, Image, Platform, Platforms, Records, Result, Store};
use cas_layer::export::{ExportOptions, Format, Target, export};
use cas_layer::import::{ImportOptions, import};

use crate::common::source::{Files, in_stream};

fn store_of(content: Arc<dyn ContentStore>, records: Arc<dyn Records>) -> Store {
    Store {
        content,
        images: Arc::new(RecordImages::new(Arc::clone(&records))),
        records,
    }
}

fn memory() -> Store {
    let memory = Arc::new(MemoryStore::new());
    store_of(memory.clone(), memory)
}

fn strict() -> Store {
    let strict = Arc::new(StrictStore::new());
    store_of(strict.clone(), strict)
}

/// Collects what is written.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects warnings.
#[derive(Default)]
struct Warned(Mutex<Vec<String>>);

impl Progress for Warned {
    fn report(&self, event: Event<'_>) {
        if event.phase == Phase::Warning {
            self.0.lock().unwrap().push(event.item.to_owned());
        }
    }
}

/// Returns all images of the store, by name or in the reverse order.
async fn images(store: &Store, reversed: bool) -> Vec<Image> {
    let mut images = store.images.list(&[]).await.unwrap();
    if reversed {
        images.reverse();
    }
    images
}

/// Exports all images of the store. Returns the archive.
async fn bytes_of(store: &Store, options: &ExportOptions) -> Result<Vec<u8>> {
    let sink = Sink::default();
    let target = Target::Stream(Box::new(sink.clone()));
    export(store, &images(store, false).await, target, options).await?;
    let written = sink.0.lock().unwrap().clone();
    Ok(written)
}

async fn take(store: &Store, archive: &[u8], platform: Option<Platform>) -> Vec<Image> {
    let platforms = platform.map_or(Platforms::All, Platforms::One);
    let options = ImportOptions::default().with_platforms(platforms);
    import(store, in_stream(archive), &options).await.unwrap()
}

fn docker() -> ExportOptions {
    ExportOptions::default().with_format(Format::Docker)
}

fn for_platform(platform: &str) -> ExportOptions {
    ExportOptions::default().with_platforms(platform.parse::<Platform>().unwrap())
}

/// Returns the names of the members in order, with their bytes.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let member = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.mode().unwrap(), 0o644);
        assert_eq!(
            (
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap()
            ),
            (0, 0, 0)
        );
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (path, data)
    };
    archive.entries().unwrap().map(member).collect()
}

/// Returns an archive of images that share a layer: an index for amd64 and arm64, the manifest for
/// amd64 under two more names, and an image with a zstd layer.
fn source() -> Vec<u8> {
    let mut files = Files::layout();
    let of = |files: &mut Files, seed, architecture: &str| {
        let platform = Platform::new("linux", architecture);
        files.image(seed, architecture).with_platform(platform)
    };
    let amd64 = of(&mut files, 1, "amd64");
    let arm64 = of(&mut files, 2, "arm64");
    let multi = files.index(vec![amd64.clone(), arm64]);
    let zstd = good::zstd_image(&mut files);
    let alone = cas_core::Descriptor {
        platform: None,
        ..amd64
    };
    files.entries(&[
        (Some("x.test/multi:1"), &multi),
        (Some("x.test/one:1"), &alone),
        (Some("other"), &alone),
        (Some("x.test/zstd:1"), &zstd),
    ]);
    files.tar()
}
