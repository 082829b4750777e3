//! Describes a blob as JSON: what its record and its first bytes show.

use cas::content::Stat;
use cas::layer::codec;
use cas::records::BlobRecord;
use cas::{ContentExt as _, Descriptor, Digest, MediaType, Result, Store};
use serde_json::{Value, json};

use crate::cli::gc::when;

/// Number of bytes that are read at the beginning of a blob to recognize its format. This is the
/// size of the header of a tar.
const HEAD: usize = 512;
/// Where the header of a tar has the bytes `ustar`.
const MARK: std::ops::Range<usize> = 257..262;

/// Returns a JSON object with the digest, size and kind of a blob, its format if [`format()`]
/// recognizes one, and its record if the store has one. For a configuration, the object also has
/// the content of the blob, or null if the content is not JSON.
///
/// # Errors
/// `Corrupt` for a damaged configuration or record; `OutOfRange` for a configuration that is too
/// large to be read; `NotFound` if the blob was removed meanwhile; errors of the store.
pub(crate) async fn describe(store: &Store, stat: &Stat) -> Result<Value> {
    let Stat { digest, size, .. } = *stat;
    let record = store.blobs().load(&digest).await?;
    let record = record.map(|(record, _)| record);
    let media_type = record.as_ref().and_then(|one| one.media_type.clone());
    let mut shown = json!({"digest": digest, "size": size, "kind": kind(media_type.as_ref())});
    if let Some(format) = format(store, &digest).await? {
        shown["format"] = json!(format);
    }
    if let Some(record) = &record {
        add_record(&mut shown, record);
    }
    if let Some(media_type) = media_type.filter(MediaType::is_known_config) {
        let described = Descriptor::new(media_type, digest, size);
        let content = store.content.fetch(&described).await?;
        shown["content"] = serde_json::from_slice(&content).unwrap_or(Value::Null);
    }
    Ok(shown)
}

fn add_record(shown: &mut Value, record: &BlobRecord) {
    shown["mediaType"] = json!(record.media_type);
    shown["labels"] = json!(record.labels);
    shown["children"] = json!(record.children);
    shown["createdAt"] = json!(when(record.created_at));
    shown["updatedAt"] = json!(when(record.updated_at));
}

/// Returns the kind of a blob with this media type, such as `layer`.
fn kind(media_type: Option<&MediaType>) -> &'static str {
    match media_type {
        Some(kind) if kind.is_index() => "index",
        Some(kind) if kind.is_manifest() => "manifest",
        Some(kind) if kind.is_known_config() => "config",
        Some(kind) if kind.is_layer() => "layer",
        _ => "blob",
    }
}

/// Recognizes the format of a blob by its first bytes. Returns `tar`, `json` or the name of a
/// compression, or `None` for any other format.
async fn format(store: &Store, digest: &Digest) -> Result<Option<String>> {
    let reader = super::open(store, digest).await?;
    let head = reader.read_at(0, HEAD).await?;
    if head.get(MARK) == Some(b"ustar") {
        return Ok(Some("tar".to_owned()));
    }
    Ok(match codec::detect(&head) {
        codec::Compression::None if head.first() == Some(&b'{') => Some("json".to_owned()),
        codec::Compression::None => None,
        compression => Some(compression.to_string()),
    })
}
