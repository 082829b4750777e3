//! Recognizing a document by its bytes.

use crate::content::{BlobReader, read_whole};
use crate::document_type::document_type;
use crate::error::Result;
use crate::limit;
use crate::media_type::MediaType;

/// Number of bytes at the beginning of a blob that [`may_be_document`] needs.
pub const HEAD: usize = 64;

/// Returns whether a blob of `size` bytes that begins with `head` can be a manifest or an index: a
/// JSON object of at most [`limit::DOCUMENT_READ`] bytes.
pub fn may_be_document(size: u64, head: &[u8]) -> bool {
    size <= limit::DOCUMENT_READ && head.trim_ascii_start().first() == Some(&b'{')
}

/// Returns the media type of a blob that is a manifest or an index, or `None` for any other blob.
/// The bytes are not verified. If the first bytes cannot begin a document, the rest is not read.
pub(super) async fn sniff(reader: &dyn BlobReader) -> Result<Option<MediaType>> {
    let head = reader.read_at(0, HEAD).await?;
    if !may_be_document(reader.size(), &head) {
        return Ok(None);
    }
    let data = read_whole(reader).await?;
    let is_whole = data.len() as u64 == reader.size();
    Ok(document_type(&data).filter(|_| is_whole))
}
