//! Unpacking an image while it is pulled.

use async_trait::async_trait;

use super::layer_feed::LayerFeed;
use crate::descriptor::Descriptor;
use crate::document::Manifest;
use crate::error::Result;

/// What happens to the bytes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Want {
    /// The bytes are stored.
    #[default]
    Store,
    /// The bytes are stored, and fed to the unpacker while they arrive.
    StoreAndFeed,
    /// The bytes are verified and fed to the unpacker, but not stored.
    Feed,
    /// The layer is not fetched.
    Nothing,
}

impl Want {
    /// Returns whether the layer is stored. A layer that is not stored is [recorded as
    /// absent](crate::records::BlobRecord::absent) in the record of its manifest, unless an earlier
    /// pull stored it.
    pub fn is_stored(self) -> bool {
        matches!(self, Want::Store | Want::StoreAndFeed)
    }

    /// Returns whether the bytes are fed to the unpacker.
    pub fn is_fed(self) -> bool {
        matches!(self, Want::StoreAndFeed | Want::Feed)
    }
}

/// Unpacks an image while it is pulled. A pull that finds several images calls `begin` for each of
/// them, and the unpacker unpacks only the first.
///
/// The calls come in this order: `begin`, then `wants`, `admit` and `receive` for layers, then
/// `needs` and `finish`. If the pull fails before it begins to write the name of the image,
/// `abandon` is the last call, even after `finish`. Layers arrive in any order and concurrently.
#[async_trait]
pub trait Unpacker: Send + Sync {
    /// Announces an image. `root` is the descriptor of its index or, without an index, of its
    /// manifest. `own` is the descriptor of its manifest. The configuration of the image, and the
    /// index if there is one, are in the store already.
    ///
    /// # Errors
    /// `Corrupt` if manifest and configuration contradict each other; `Unsupported` if the
    /// snapshotter does not support the media type of a layer; errors of the store and the
    /// snapshotter.
    async fn begin(&self, root: &Descriptor, own: &Descriptor, manifest: &Manifest) -> Result<()>;

    /// Returns what to do with a layer of an announced image.
    ///
    /// A pull calls this at most once for each digest. Layers that neither this pull nor an earlier
    /// one stored are recorded as absent. A layer that an earlier pull stored is stored again if it
    /// is missing or damaged in the store, whatever this method returns.
    fn wants(&self, layer: &Descriptor) -> Want;

    /// Waits until a layer that is fed and not stored may be unpacked. The pull requests the bytes
    /// of the layer afterwards. By default, the layer may be unpacked at once.
    ///
    /// # Errors
    /// Errors of the unpacker.
    async fn admit(&self, _layer: &Descriptor) -> Result<()> {
        Ok(())
    }

    /// Returns the feed that receives the bytes of a layer, or `None` if the layer is not fed after
    /// all.
    ///
    /// A pull calls this only for layers that are to be fed. A layer that is to be stored is not
    /// fed if the store has some or all of it already.
    fn receive(&self, layer: &Descriptor) -> Option<LayerFeed<'_>>;

    /// Returns the layers that [`finish`](Self::finish) will read from the store and that may be
    /// missing there, for example because a layer was fed and not stored, but must be unpacked
    /// again. The pull fetches and stores the missing ones before `finish`. By default, there are
    /// none.
    fn needs(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Unpacks the layers that were not fed, and commits the snapshots. By then, all layers that
    /// were to be stored are in the store.
    ///
    /// # Errors
    /// `Corrupt` for a damaged layer; errors of the store and the snapshotter. After an error, the
    /// unpacker removes the snapshots that it made and did not commit.
    async fn finish(&self) -> Result<()>;

    /// Removes the snapshots that were made and not committed. A pull calls this if it fails before
    /// it begins to write the name of the image.
    async fn abandon(&self);
}
