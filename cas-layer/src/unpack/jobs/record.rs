//! The record of a job, as a file in its directory.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cas_core::{Context, Digest, Error, Result, limit};
use cas_host::Dir;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// The name of the file.
const NAME: &str = "job.json";
/// Its name while it is written.
const NEW: &str = "job.json.new";

/// The state of a layer in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    /// The layer is being unpacked, or waits to be unpacked.
    InProgress,
    /// The layer was done. A process has claimed it, and moves its files to a snapshot.
    Claimed,
    /// The layer is unpacked and verified, and can be claimed.
    Done,
    /// The layer could not be unpacked.
    Failed,
    /// The layer is no longer unpacked in the job, for example because another layer failed.
    Cancelled,
}

/// A layer of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerJob {
    /// The digest of the layer.
    pub layer: Digest,
    /// The digest of the uncompressed tar of the layer.
    pub diff_id: Digest,
    /// The state of the layer.
    pub state: LayerState,
    /// The message of the error, if the layer failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The number of the layer in the job, and the name of its directory.
    pub(super) number: u64,
}

impl LayerJob {
    /// Returns the number of the layer in the job of its image.
    pub fn number(&self) -> u64 {
        self.number
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct JobRecord {
    /// The digest of the configuration of the image.
    pub(super) image: Digest,
    /// Seconds since 1970.
    expires: u64,
    /// The ID of the boot in which files were written. After another boot, some may be lost.
    boot: String,
    pub(super) next_number: u64,
    pub(super) layers: Vec<LayerJob>,
}

impl JobRecord {
    pub(super) fn new(image: Digest, boot: String) -> Self {
        JobRecord {
            image,
            expires: 0,
            boot,
            next_number: 0,
            layers: Vec::new(),
        }
    }

    /// Reads the record in the directory of a job. Returns `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` for a file that is not a record; `OutOfRange` for a file that is too large; errors
    /// of the file system.
    pub(super) fn read(dir: &Dir) -> Result<Option<Self>> {
        let Some(text) = dir.read(NAME, limit::UNPACK_JOB).during("read", NAME)? else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|error| {
            Error::corrupt(format!(
                "expected the record of an unpack job: {error}; a garbage collection will remove \
                 the job"
            ))
            .subject(NAME)
        })
    }

    /// Replaces the record. A kill leaves the old record or the new one. The file is not synced,
    /// because a loss of power ends the boot, and jobs of an earlier boot are not used.
    pub(super) fn write(&self, dir: &Dir) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| {
            Error::internal("an unpack job could not be serialized; please report it").source(error)
        })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = dir.open_file(NEW, flags, 0o600);
        let written = file.and_then(|mut file| file.write_all(&text));
        written.during("write", NEW)?;
        dir.rename(NEW, dir, NAME).during("write", NAME)
    }

    pub(super) fn extend(&mut self, now: SystemTime, lifetime: Duration) {
        let until = now.checked_add(lifetime);
        let since = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
        self.expires = since.map_or(u64::MAX, |since| since.as_secs());
    }

    pub(super) fn is_expired(&self, now: SystemTime, boot: &str) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.boot != boot || self.expires <= now.as_secs()
    }

    pub(super) fn layer(&mut self, number: u64) -> Option<&mut LayerJob> {
        self.layers.iter_mut().find(|layer| layer.number == number)
    }
}
