//! How the blob of a layer is made from the tar of the layer.

use serde::{Deserialize, Serialize};

/// How the blob of a layer is made from its tar, which a snapshotter keeps instead of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Packing {
    /// The blob has the bytes of the tar.
    Plain,
    /// The blob has the bytes that this program makes when it compresses the tar with gzip at this
    /// level, from 1 to 9.
    Gzip(u32),
    /// It is not known how to make the bytes of the blob, or this program cannot make them.
    Unknown,
}
