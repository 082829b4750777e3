//! Reads an image without a store: lists the tags of its repository, and writes each layer into a
//! file whose name is the hex digits of the layer's digest.
//!
//! ```sh
//! cargo run -p oci-cas-distribution --example registry -- registry.example/team/app:1 /tmp
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;

use cas_core::transfer::Fetcher;
use cas_core::{Error, Manifest, Result};
use cas_distribution::{Client, ListOptions, Options};
use futures_util::StreamExt;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, directory] = &arguments[..] else {
        return Err(Error::invalid(
            "expected two arguments: the name of an image, and a directory",
        ));
    };
    let client = Client::connect(&name.parse()?, Options::default()).await?;
    let mut tags = client.tags(&ListOptions::default())?;
    while let Some(page) = tags.next().await? {
        page.iter().for_each(|tag| println!("{tag}"));
    }
    let manifest = client.document(&client.resolve().await?).await?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| {
        Error::corrupt(format!(
            "expected a manifest: {error}; name an image without an index"
        ))
    })?;
    for layer in &manifest.layers {
        let mut file = File::create(Path::new(directory).join(layer.digest.hex()))?;
        let mut pieces = client.blob(layer).await?;
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?)?;
        }
    }
    Ok(())
}
