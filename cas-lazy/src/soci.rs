//! SOCI indexes: manifests that list the zTOCs of an image.

mod go_json;
mod index;
mod prefetch;

pub use index::{
    CONFIG, CONFIG_MEDIA_TYPE_V1, CONFIG_MEDIA_TYPE_V2, IMAGE_MANIFEST_DIGEST, INDEX_DIGEST, Index,
    LayerPrefetch, LayerZtoc, Version, is_index,
};
pub use prefetch::Prefetch;
