//! How a bundle is made.

use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};

use super::UserIds;

/// Options of [`Cas::bundle_with`](crate::Cas::bundle_with).
#[derive(Clone)]
#[non_exhaustive]
pub struct BundleOptions {
    /// The platform to use. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// Replaces the image's entrypoint and command. An empty text removes them. `None` keeps the
    /// entrypoint.
    pub entrypoint: Option<String>,
    /// Replaces the image's command. In the arguments of the process, `command` comes after the
    /// entrypoint. If `command` is empty and `entrypoint` is `None`, the image's command is kept.
    /// If there is then neither an entrypoint nor a command, the process is `sh`.
    pub command: Vec<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Whether the root file system is a mounted, writable snapshot instead of plain files. If so,
    /// unmount `rootfs` in the directory of the bundle with [`Cas::unmount`](crate::Cas::unmount)
    /// when the bundle is no longer needed.
    pub mounted: bool,
    /// The ids of a user without privileges. If the ids are given, the root file system is unpacked
    /// [without privileges](crate::UnpackOptions::rootless), and the process runs in a user
    /// namespace with these ids, so that this user can start the bundle. The root file system
    /// cannot be `mounted` then.
    pub rootless: Option<UserIds>,
    /// Whether a power failure may damage an unpacked root file system. If so, its files are not
    /// synced to the device. Set this for a bundle that is removed after its use.
    pub temporary: bool,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for BundleOptions {
    fn default() -> Self {
        BundleOptions {
            platforms: Platforms::default(),
            entrypoint: None,
            command: Vec::new(),
            terminal: false,
            mounted: false,
            rootless: None,
            temporary: false,
            progress: Arc::new(Silent),
        }
    }
}

impl BundleOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`entrypoint`](Self::entrypoint).
    #[must_use]
    pub fn with_entrypoint(mut self, entrypoint: impl Into<Option<String>>) -> Self {
        self.entrypoint = entrypoint.into();
        self
    }

    /// Sets [`command`](Self::command).
    #[must_use]
    pub fn with_command(mut self, command: Vec<String>) -> Self {
        self.command = command;
        self
    }

    /// Sets [`terminal`](Self::terminal).
    #[must_use]
    pub fn with_terminal(mut self, terminal: bool) -> Self {
        self.terminal = terminal;
        self
    }

    /// Sets [`mounted`](Self::mounted).
    #[must_use]
    pub fn with_mounted(mut self, mounted: bool) -> Self {
        self.mounted = mounted;
        self
    }

    /// Sets [`rootless`](Self::rootless).
    #[must_use]
    pub fn with_rootless(mut self, rootless: impl Into<Option<UserIds>>) -> Self {
        self.rootless = rootless.into();
        self
    }

    /// Sets [`temporary`](Self::temporary).
    #[must_use]
    pub fn with_temporary(mut self, temporary: bool) -> Self {
        self.temporary = temporary;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}
