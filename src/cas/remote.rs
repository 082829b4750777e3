//! Pulls images from registries, and pushes images to them.

use std::path::PathBuf;
use std::sync::Arc;

use cas_core::dispatch::{self, Next, handler_fn, walk};
use cas_core::image::{self, FullName};
use cas_core::platform::Platforms;
use cas_core::progress::Progress;
use cas_core::{Descriptor, Error, ErrorKind, Image, Result, Store, transfer};
use cas_distribution::{Hosts, Mirrors, Options, Timeouts, Verified, Verifier, verify};
use cas_layer::Naming;
use cas_layer::unpack::{LayerTables, StreamingUnpacker, is_artifact};

use super::arguments::{ImageRef, RegistryRef};
#[cfg(feature = "on-demand")]
use super::lazy_settings;
use super::remote_options::{Policy, PullOptions, PushOptions};
#[cfg(feature = "soci")]
use super::soci_convert;
use super::{Cas, ParallelPull, StoredImage, cosign, lookup};
#[cfg(feature = "on-demand")]
use crate::on_demand::{RegistryTables, TablesOfRoot};
use crate::root::{PullMode, PullModes, RemoteSettings};

impl Cas {
    /// Pulls an image for the platform of this machine. The content of other platforms stays
    /// absent, and may be pulled later. Returns the image. Its name is the full reference.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is not a reference, or for a wrong setting in `cas.toml` or
    /// in a file of [`PullOptions::hosts`]; `NotFound` if the registry does not have the image for
    /// the platform, or if a file that `cas.toml` or an option names is absent; `Denied` if the
    /// registry denies access, if a file of [`PullOptions::hosts`] blocks or rejects the name, or
    /// if a verifier rejects the image; `Unavailable` if the registry does not answer; `Corrupt` if
    /// the registry sends bytes that do not match a digest; `Unsupported` if `policy.json` requires
    /// a signature, or if `cas.toml` requires a cosign signature and this build cannot verify one;
    /// `FailedPrecondition` if a program that verifies images cannot be started, is ended by a
    /// signal, or takes too long; as [`transfer::pull`]. On each of these errors, no name is
    /// written. Content that has arrived stays in the store until a garbage collection, and the
    /// next attempt uses it.
    pub async fn pull(&self, reference: impl Into<RegistryRef>) -> Result<Image> {
        let pulled = self.pull_with(reference, PullOptions::default()).await?;
        Ok(pulled.image)
    }

    /// Pulls with options. Returns the image. If the image was unpacked, also returns the key of
    /// its topmost snapshot.
    ///
    /// # Errors
    /// As [`Cas::pull`]; as [`Cas::snapshot`] if the image is unpacked; with [`Policy::Never`],
    /// `NotFound` if the store does not have the whole image, and `FailedPrecondition` if a
    /// signature is required, because signatures are fetched from the registry;
    /// `FailedPrecondition` if layers are read on demand, but `cas.toml` lacks an option with which
    /// this pull reaches the registry, such as [`PullOptions::plain_http`]. If all platforms are
    /// pulled, the image is unpacked after its name is written, and keeps the name if the unpacking
    /// fails.
    pub async fn pull_with(
        &self,
        reference: impl Into<RegistryRef>,
        options: PullOptions,
    ) -> Result<StoredImage> {
        let reference = reference.into().0?;
        let platforms = self.to_unpack(&options.platforms);
        let options = options.with_platforms(platforms);
        let stored = match options.policy {
            Policy::Always => None,
            Policy::Missing | Policy::Never => {
                self.find_whole(&reference, &options.platforms).await?
            }
        };
        let pulled = match (stored, options.policy) {
            (Some(image), _) => {
                if options.referrers {
                    options.progress.warn(
                        "the store has the image, so the registry is not asked for referrers; pull \
                         with the policy `always` to get them",
                    );
                }
                self.judge_stored(&reference, &image, &options).await?;
                self.unpack_stored(image, &options).await
            }
            (None, Policy::Never) => Err(Error::not_found(
                "the store does not have the whole image, and with the policy `never`, no \
                 registry is asked; pull with another policy",
            )
            .operation("pull")
            .subject(reference)),
            (None, _) => self.pull_from(&reference, options).await,
        }?;
        self.note_use(&pulled.image.name);
        Ok(pulled)
    }

    /// Checks whether the policy and the verifiers accept `image`, which the store has. A required
    /// signature is fetched again, because the image may have come from another source.
    async fn judge_stored(
        &self,
        reference: &FullName,
        image: &Image,
        options: &PullOptions,
    ) -> Result<()> {
        let hosts = options.hosts.clone().unwrap_or_else(|| self.hosts());
        hosts.check_policy(reference).await?;
        if options.policy == Policy::Never && self.cosign_key(options).is_some() {
            return Err(Error::precondition(
                "a signature of the image is required, but with the policy `never`, no registry is \
                 asked for it; pull with another policy",
            )
            .operation("pull")
            .subject(reference));
        }
        let verifiers = self.verifiers(options, &hosts).await?;
        verify(&verifiers, reference, &image.target, &*options.progress).await
    }

    async fn pull_from(&self, reference: &FullName, options: PullOptions) -> Result<StoredImage> {
        self.check_writable()?;
        let hosts = options.hosts.clone().unwrap_or_else(|| self.hosts());
        hosts.check_policy(reference).await?;
        let progress = &options.progress;
        let connection = self.connection(&options)?;
        let verifiers = self.verifiers(&options, &hosts).await?;
        let client = self.connect(reference, connection, &hosts).await?;
        let mut distrusted = 0;
        let pulled = loop {
            let pulled = self.pull_by(&client, reference, &verifiers, &options);
            let pulled = pulled.await;
            let before = std::mem::replace(&mut distrusted, client.distrusted());
            let error = pulled.as_ref().err().map(Error::kind);
            // Layers are unpacked while they arrive. If a mirror sent wrong bytes of a layer, the
            // next attempt fetches this layer from another mirror.
            let may_be_elsewhere = self.unpacks(&options) && distrusted > before;
            if error != Some(ErrorKind::Corrupt) || !may_be_elsewhere {
                break pulled;
            }
        };
        warn_of_logins(&client, progress, pulled.is_ok()).await;
        pulled
    }

    /// Returns whether a pull unpacks the image. A root that keeps layers only as tars unpacks each
    /// image, and stores artifacts as other roots do.
    fn unpacks(&self, options: &PullOptions) -> bool {
        options.unpack || self.only_tars
    }

    async fn pull_by(
        &self,
        client: &Mirrors,
        reference: &FullName,
        verifiers: &[Arc<dyn Verifier>],
        options: &PullOptions,
    ) -> Result<StoredImage> {
        let store = self.writable()?;
        let progress = &options.progress;
        let verified = Verified {
            fetcher: client,
            name: reference,
            verifiers,
            progress: &**progress,
        };
        let limits = match &options.limits {
            Some(limits) => limits.clone(),
            None => self.remote_settings().limits()?,
        };
        let parallel = self.parallel(options)?;
        let limits = match &parallel {
            Some(parallel) => parallel.limits(&limits),
            None => limits,
        };
        #[cfg(feature = "on-demand")]
        let tables = self.tables(client, reference, options, &limits)?;
        #[cfg(not(feature = "on-demand"))]
        let tables: Option<Arc<dyn LayerTables>> = None;
        let mut pull = transfer::PullOptions::default()
            .with_platforms(options.platforms.clone())
            .with_progress(Arc::clone(progress))
            .with_limits(limits);
        if options.referrers {
            pull = pull.with_referrers(client);
        }
        if !self.unpacks(options) && tables.is_none() || options.platforms == Platforms::All {
            let image = transfer::pull(store, &verified, reference.name(), &pull).await?;
            self.name_was_written(&image.name, Naming::Docker, progress)
                .await?;
            return self.unpack_stored(image, options).await;
        }
        let mut unpacker = StreamingUnpacker::new(store, self.target()?, progress);
        if let Some(parallel) = &parallel {
            unpacker = parallel.limit(unpacker, self.jobs());
        }
        if let Some(tables) = tables {
            unpacker = unpacker.with_tables(tables);
        }
        let pull = pull.with_unpacker(&unpacker);
        let image = transfer::pull(store, &verified, reference.name(), &pull).await?;
        self.name_was_written(&image.name, Naming::Docker, progress)
            .await?;
        let snapshot = unpacker.into_chain_id();
        self.drop_blobs(&image.target, &options.platforms, progress)
            .await?;
        Ok(StoredImage { image, snapshot })
    }

    /// Returns the source of the tables of contents of layers that are read on demand, or `None` if
    /// no layer is read on demand.
    #[cfg(feature = "on-demand")]
    fn tables(
        &self,
        client: &Mirrors,
        reference: &FullName,
        options: &PullOptions,
        limits: &transfer::PullLimits,
    ) -> Result<Option<Arc<dyn LayerTables>>> {
        if !options.on_demand {
            return Ok(None);
        }
        if !self.snapshotter()?.keeps_tars() {
            options.progress.warn(
                "the snapshotter cannot read layers on demand, so all layers are fetched; make a \
                 root with the snapshotter erofs",
            );
            return Ok(None);
        }
        lazy_settings::check(&self.remote_settings(), reference, options)?;
        let directory = self.locks.parent().unwrap_or(&self.locks).to_owned();
        let noted = |tables: Arc<dyn LayerTables>| -> Result<Option<Arc<dyn LayerTables>>> {
            let directory = directory.clone();
            Ok(Some(Arc::new(TablesOfRoot { tables, directory })))
        };
        if let Some(tables) = &options.tables {
            return noted(Arc::clone(tables));
        }
        let (modes, _) = self.pull_modes()?;
        let (client, progress) = (client.clone(), Arc::clone(&options.progress));
        let content = Arc::clone(&self.store.content);
        let tables = RegistryTables::new(client, content, reference.clone(), modes, progress);
        let quota = limits.requests().for_image();
        let tables = tables.with_quota(quota).with_directory(&directory);
        noted(Arc::new(tables))
    }

    /// Returns the settings in the table `[pull_modes]` of `cas.toml`, and a warning for each
    /// setting that has no effect, or whose value is replaced by the nearest allowed value.
    ///
    /// # Errors
    /// As [`PullModes::from_toml`]; errors of the file system.
    pub fn pull_modes(&self) -> Result<(PullModes, Vec<String>)> {
        self.opened()?;
        self.root.pull_modes()
    }

    /// Returns the limits of a parallel pull, or `None` if the pull is not parallel.
    fn parallel(&self, options: &PullOptions) -> Result<Option<ParallelPull>> {
        if let Some(parallel) = &options.parallel {
            return Ok(Some(parallel.clone()));
        }
        if let Some(parallel) = self.parallel.get() {
            return Ok(parallel.clone());
        }
        let (modes, warnings) = self.pull_modes()?;
        for warning in warnings {
            options.progress.warn(&warning);
        }
        let parallel = match modes.mode {
            PullMode::Off => None,
            _ => Some(ParallelPull::new(&modes)?),
        };
        Ok(self.parallel.get_or_init(|| parallel).clone())
    }

    /// Unpacks an image that is in the store, if the pull unpacks images (see [`Self::unpacks`]).
    /// If `options` name all platforms, unpacks the image for the platform of this machine.
    async fn unpack_stored(&self, image: Image, options: &PullOptions) -> Result<StoredImage> {
        if !self.unpacks(options) {
            let snapshot = None;
            return Ok(StoredImage { image, snapshot });
        }
        let platforms = self.to_unpack(&options.platforms.clone().narrowed());
        let manifest = self.manifest_of(&image, &platforms).await?;
        if self.only_tars && is_artifact(&self.store, &manifest).await? {
            let snapshot = None;
            return Ok(StoredImage { image, snapshot });
        }
        let snapshot = self.to_snapshots(&manifest, &options.progress).await?;
        self.drop_blobs(&image.target, &platforms, &options.progress)
            .await?;
        Ok(StoredImage { image, snapshot })
    }

    /// Returns the image of this name, if the store has all content of the image for `platforms`.
    async fn find_whole(&self, name: &FullName, platforms: &Platforms) -> Result<Option<Image>> {
        use ErrorKind::{NotFound, Unsupported};
        let store = self.opened()?;
        let found = lookup::by_name(store, name, &name.to_string()).await?;
        let Some(image) = found.into_iter().next() else {
            return Ok(None);
        };
        let root = match platforms {
            Platforms::All => image.target.clone(),
            one => {
                let content = &*store.content;
                match image::manifest_for(content, &image.target, one).await {
                    Err(error) if matches!(error.kind(), NotFound | Unsupported) => {
                        return Ok(None);
                    }
                    resolved => resolved?.descriptor,
                }
            }
        };
        Ok(has_all(store, &root).await?.then_some(image))
    }

    /// Pushes an image for all platforms, or only for the platform of this machine if the store
    /// does not have all platforms or a digest has an unknown algorithm. Returns the descriptor
    /// that `reference` then refers to in the registry.
    ///
    /// # Errors
    /// As [`Cas::image`]; `InvalidArgument` for text that is not a reference, or a wrong setting in
    /// `cas.toml` or in a file of [`PushOptions::hosts`]; `NotFound` if the store lacks a manifest
    /// or an index to push, if a blob of the image is missing although the store's records list it
    /// as stored, or if neither the store nor the registry has a blob of the image; `Corrupt` for
    /// damaged content, or if the registry reports another digest than that of the pushed content;
    /// `Unsupported` if a digest in the pushed documents has an unknown algorithm;
    /// `FailedPrecondition` if `hosts.toml` allows pushes to none of its hosts; `Denied` if the
    /// registry denies access, or if a file of [`PushOptions::hosts`] blocks the name;
    /// `Unavailable` if the registry does not answer; `OutOfRange` for a manifest or an index of
    /// more than [`limit::DOCUMENT_WRITE`](cas_core::limit::DOCUMENT_WRITE) bytes.
    pub async fn push(
        &self,
        image: impl Into<ImageRef>,
        reference: impl Into<RegistryRef>,
    ) -> Result<Descriptor> {
        let options = PushOptions::default();
        self.push_with(image, reference, options).await
    }

    /// Pushes with options. Returns the same as [`Cas::push`].
    ///
    /// # Errors
    /// As [`Cas::push`]; `NotFound` for a platform that the image does not have; `OutOfRange` for
    /// more than [`limit::REFERRERS`](cas_core::limit::REFERRERS) referrers, or for a chain of more
    /// than [`limit::REFERRER_DEPTH`](cas_core::limit::REFERRER_DEPTH) referrers; `Corrupt` if the
    /// store lists a referrer for a manifest or an index, but the referrer names another subject or
    /// none.
    pub async fn push_with(
        &self,
        image: impl Into<ImageRef>,
        reference: impl Into<RegistryRef>,
        options: PushOptions,
    ) -> Result<Descriptor> {
        let image = self.image(image).await?;
        self.note_use(&image.name);
        let reference = reference.into().0?;
        let progress = &options.progress;
        // The registry may have the blobs already, in the repository of the image's own name.
        let source = FullName::of(&image.name).filter(|source| {
            source.host() == reference.host() && source.repository() != reference.repository()
        });
        let connection = Options {
            plain_http: options.plain_http,
            token_hosts: options.token_hosts.clone(),
            auth_file: options.auth_file.clone(),
            private_addresses: options.private_addresses,
            mount_from: source.map(|source| source.repository().to_owned()),
            timeouts: self.timeouts(options.timeouts.as_ref())?,
        };
        let hosts = options.hosts.clone().unwrap_or_else(|| self.hosts());
        let client = self.connect(&reference, connection, &hosts).await?;
        let push = transfer::PushOptions::default()
            .with_platforms(options.platforms.clone())
            .with_referrers(options.referrers)
            .with_progress(Arc::clone(progress))
            .with_blobs(options.blobs);
        #[cfg(feature = "soci")]
        let target = image.target.clone();
        let mut pushed = transfer::push(&self.store, &client, &image.target, &push).await;
        if pushed
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
        {
            // The blob that was not found may be a layer that this root keeps only as a tar.
            let again = async |images: Vec<Image>| match images.first() {
                Some(whole) => transfer::push(&self.store, &client, &whole.target, &push).await,
                None => pushed,
            };
            let platforms = &push.platforms;
            pushed = match transfer::pushed_platforms(&self.store, &image.target, platforms).await {
                Ok(platforms) => {
                    self.with_whole(vec![image], &platforms, progress, again)
                        .await
                }
                Err(error) => Err(error),
            };
        }
        #[cfg(feature = "soci")]
        if let Ok(pushed) = &pushed {
            soci_convert::warn_of_left_out(&self.store, &target, pushed, &**progress).await;
        }
        warn_of_logins(&client, progress, pushed.is_ok()).await;
        pushed.map_err(|error| error.operation("push").within(&reference))
    }

    /// Returns the settings of registries in `cas.toml`.
    pub fn remote_settings(&self) -> RemoteSettings {
        self.root.remote_settings()
    }

    /// Returns the files that name mirrors of registries, trusted certificates and the policy for
    /// images. For a file that `cas.toml` does not name, returns the path at which containerd,
    /// docker or podman has this file on this machine (see [`Hosts::of_system`]).
    pub fn hosts(&self) -> Hosts {
        self.remote_settings().hosts()
    }

    /// Returns the verifiers of a pull: first the verifiers that `cas.toml` names, then the
    /// verifiers in `options`, and last the verifier of a required signature.
    async fn verifiers(
        &self,
        options: &PullOptions,
        hosts: &Hosts,
    ) -> Result<Vec<Arc<dyn Verifier>>> {
        let settings = self.remote_settings();
        let mut verifiers = settings.verifiers()?;
        verifiers.extend(options.verifiers.iter().cloned());
        if let Some(key) = self.cosign_key(options) {
            let connection = self.connection(options)?;
            verifiers.push(cosign::verifier(&key, settings, &connection, hosts).await?);
        }
        Ok(verifiers)
    }

    /// Returns the file of the public key that must verify a signature of the image of a pull.
    fn cosign_key(&self, options: &PullOptions) -> Option<PathBuf> {
        let named = options.cosign_key.clone();
        named.or_else(|| self.remote_settings().cosign_key())
    }

    /// Returns a client for `reference` and its mirrors, with the settings of `cas.toml`.
    pub(super) async fn connect(
        &self,
        reference: &FullName,
        options: Options,
        hosts: &Hosts,
    ) -> Result<Mirrors> {
        let settings = self.remote_settings();
        settings.connect(reference, options, hosts).await
    }

    /// Returns how a pull connects to registries.
    fn connection(&self, options: &PullOptions) -> Result<Options> {
        Ok(Options {
            plain_http: options.plain_http,
            token_hosts: options.token_hosts.clone(),
            auth_file: options.auth_file.clone(),
            private_addresses: options.private_addresses,
            timeouts: self.timeouts(options.timeouts.as_ref())?,
            ..Options::default()
        })
    }

    /// Returns the timeouts that a caller has chosen, or the timeouts of `cas.toml`.
    fn timeouts(&self, chosen: Option<&Timeouts>) -> Result<Timeouts> {
        match chosen {
            Some(timeouts) => Ok(timeouts.clone()),
            None => self.remote_settings().timeouts(),
        }
    }
}

/// Reports the warnings of the registry, and warns of mirrors and credential helpers that were
/// skipped. If the job succeeded, also warns of a login that was withheld from a token service; if
/// the job failed, its error mentions the login.
async fn warn_of_logins(client: &Mirrors, progress: &Arc<dyn Progress>, succeeded: bool) {
    for message in client.warnings() {
        progress.warn(&message);
    }
    if let Some(message) = client.withheld().await.filter(|_| succeeded) {
        progress.warn(&message);
    }
}

/// Returns whether the store has everything that `root` reaches, except layers that registries do
/// not distribute, and layers that the snapshotter keeps as tars.
async fn has_all(store: &Store, root: &Descriptor) -> Result<bool> {
    use ErrorKind::{Corrupt, NotFound, Unsupported};
    let handler = handler_fn(|descriptor: Descriptor| async move {
        let stored = descriptor.data.is_some() || store.present(&descriptor).await?;
        if !stored && !descriptor.media_type.is_non_distributable() {
            return Err(Error::not_found("a blob of the image is not in the store"));
        }
        let mut children = dispatch::children(&*store.content, &descriptor).await?;
        if descriptor.media_type.is_manifest()
            && let Some((record, _)) = store.blobs().load(&descriptor.digest).await?
        {
            children.retain(|child| !record.is_tar(&child.digest));
        }
        Ok(Next::Children(children))
    });
    match walk(&handler, std::slice::from_ref(root)).await {
        Ok(()) => Ok(true),
        // A document is unsupported if the digests that it lists have unknown algorithms.
        Err(error) if matches!(error.kind(), NotFound | Corrupt | Unsupported) => Ok(false),
        Err(error) => Err(error),
    }
}
