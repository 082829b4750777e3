//! Showing what an image store contains.

use std::fmt::Write as _;

use cas_core::{Descriptor, Result};

use super::AciStore;

/// Maximum number of bytes of a blob that are shown.
const SHOWN: usize = 128;

impl AciStore {
    /// Calls `line` once for each blob of each ACI, in the order of the keys. A line has four
    /// fields: the key as [`Key::half`](crate::Key::half) returns it, the word `aci` or `manifest`,
    /// the digest of the blob, and the first 128 bytes of the blob. The bytes are hexadecimal
    /// digits if `hex` is set, and otherwise ASCII text with escapes. The rest of the blob is not
    /// read. If the store does not have the blob, the line has `missing` in place of the bytes.
    ///
    /// # Errors
    /// As [`AciStore::get_all_aci_infos`]; errors of the store.
    pub async fn dump(&self, hex: bool, mut line: impl FnMut(&str) + Send) -> Result<()> {
        for info in self.catalogue.get_all_aci_infos(&[], true).await? {
            for (what, blob) in [("aci", &info.blob), ("manifest", &info.manifest)] {
                let shown = self.beginning(blob, hex).await?;
                line(&format!(
                    "{} {what} {} {shown}",
                    info.key.half(),
                    blob.digest
                ));
            }
        }
        Ok(())
    }

    async fn beginning(&self, blob: &Descriptor, hex: bool) -> Result<String> {
        let Some(reader) = self.store.content.open(&blob.digest).await? else {
            return Ok("missing".to_owned());
        };
        let bytes = reader.read_at(0, SHOWN).await?;
        if !hex {
            return Ok(bytes.escape_ascii().to_string());
        }
        let mut digits = String::with_capacity(2 * bytes.len());
        for byte in &bytes {
            // Writing to a string does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        Ok(digits)
    }
}
