//! The directory that an image is unpacked into.

use std::path::Path;
use std::time::Duration;

use cas_core::progress::Progress;
use cas_core::{Result, pool};
use cas_host::NewDirectory;

/// Time between two attempts to lock a directory.
const INTERVAL: Duration = Duration::from_millis(20);

/// Locks the directory `path`, and waits while another task or process has locked it. If the
/// directory is absent, first creates it with the mode `mode`. Returns the locked directory.
///
/// # Errors
/// As [`NewDirectory::try_begin`].
pub async fn new_directory(
    path: &Path,
    mode: u32,
    progress: &dyn Progress,
) -> Result<NewDirectory> {
    let mut told = false;
    loop {
        let own = path.to_owned();
        if let Some(new) = pool::run(move || NewDirectory::try_begin(&own, mode)).await? {
            return Ok(new);
        }
        if !std::mem::replace(&mut told, true) {
            let path = path.display();
            progress.warn(&format!("waiting for another unpack into {path} to end"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
