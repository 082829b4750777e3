//! Reading ACIs.

use std::io::{self, Read};
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::content::ContentExt;
use cas_core::{Algorithm, Context, Digest, Error, ErrorKind, Hasher, Result};
use cas_layer::codec::Decoder;
use cas_layer::unpack::Blob;

use super::AciStore;
use crate::info::AciInfo;
use crate::key::Key;
use crate::manifest::ImageManifest;

impl AciStore {
    /// Returns a reader of the uncompressed archive of an ACI, and keeps the time of this use in
    /// memory until [`AciStore::flush`]. When the times of
    /// [`limit::NOTED_READS`](cas_core::limit::NOTED_READS) ACIs are in memory, this call flushes
    /// them, and ignores errors. If they cannot be written, the times of reads of further ACIs are
    /// discarded until a later flush writes the times that are in memory.
    ///
    /// # Errors
    /// As [`AciStore::get_aci_info`]; `NotFound` if the store does not have the blob of the ACI.
    pub async fn read_stream(&self, key: &str) -> Result<AciReader> {
        let info = self.find(key).await.during("read ACI", key)?;
        self.open_reader(&info).await
    }

    /// Returns the manifest of an ACI.
    ///
    /// # Errors
    /// As [`AciStore::get_image_manifest_json`]; `Corrupt` if the manifest does not parse.
    pub async fn get_image_manifest(&self, key: &str) -> Result<ImageManifest> {
        let info = self.find(key).await.during("get image manifest", key)?;
        self.manifest_of(&info).await
    }

    /// Returns the manifest of an ACI, byte for byte as its author wrote it.
    ///
    /// # Errors
    /// As [`AciStore::get_aci_info`]; `NotFound` if the store does not have the blob of the
    /// manifest; `Corrupt` if this blob is damaged.
    pub async fn get_image_manifest_json(&self, key: &str) -> Result<Bytes> {
        let info = self.find(key).await.during("get image manifest", key)?;
        self.manifest_json_of(&info).await
    }

    pub(crate) async fn manifest_of(&self, info: &AciInfo) -> Result<ImageManifest> {
        let data = self.manifest_json_of(info).await?;
        ImageManifest::parse(&data).map_err(|error| error.subject(info.key))
    }

    async fn manifest_json_of(&self, info: &AciInfo) -> Result<Bytes> {
        let data = self.store.content.fetch(&info.manifest).await;
        data.map_err(|error| import_again(error, &info.key))
    }

    /// Returns a reader of the uncompressed archive of an ACI, and keeps the time of this use in
    /// memory as [`AciStore::read_stream`] does.
    pub(crate) async fn open_reader(&self, info: &AciInfo) -> Result<AciReader> {
        let opened = Blob::open(&self.store, &info.blob).await;
        let (blob, compression) = opened.map_err(|error| import_again(error, &info.key))?;
        if self.reads.note(info.key, SystemTime::now()) {
            self.flush_if_possible().await;
        }
        Ok(AciReader {
            archive: Decoder::new(blob, compression)?,
            hasher: Some(Hasher::new(Algorithm::Sha512)),
            found: None,
            key: info.key,
        })
    }
}

/// Adds the key of the ACI to an error about one of its blobs. Returns the new error. If the blob
/// is missing, the message asks the user to import the ACI again.
fn import_again(error: Error, key: &Key) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            Error::not_found("a blob of the ACI is not in the store; import the ACI again")
                .operation("read ACI")
                .subject(key)
                .source(error)
        }
        _ => error.within(format_args!("ACI {key}")),
    }
}

/// Reads the uncompressed archive of an ACI. A read at the end of the archive fails with `Corrupt`
/// if the bytes of the archive do not match the key. Reads block, so call them on a thread that may
/// block.
pub struct AciReader {
    archive: Decoder<Blob>,
    /// `None` once the end was read.
    hasher: Option<Hasher>,
    /// The digest of all bytes, once the end was read.
    found: Option<Digest>,
    key: Key,
}

impl AciReader {
    /// Returns the key of the ACI.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl Read for AciReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(out)?;
        if read > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&out[..read]);
            }
        } else if !out.is_empty() {
            if let Some(hasher) = self.hasher.take() {
                self.found = Some(hasher.finish());
            }
            // Each read at the end of damaged bytes fails, not only the first.
            if let Some(found) = self.found.filter(|found| found != self.key.digest()) {
                return Err(Error::corrupt(format!(
                    "the stored ACI is damaged: its bytes hash to {found}; import it again"
                ))
                .operation("read ACI")
                .subject(self.key)
                .into());
            }
        }
        Ok(read)
    }
}
