//! Importing ACIs.

use std::io::{self, BufReader, Read};
use std::sync::Weak;
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::content::{Writer, write_apart};
use cas_core::error::excerpt;
use cas_core::lease::LeaseGuard;
use cas_core::records::{Batch, Expect, Lease, Leases, Resource, Table, retry};
use cas_core::{
    Algorithm, Descriptor, Error, ErrorKind, Hasher, MediaType, Result, limit, pool, unique,
};
use cas_layer::codec::{Decoder, MAGIC, detect};

use super::{AciStore, OWNER};
use crate::archive::read_manifest;
use crate::blobs::{publish, store_small_blob};
use crate::info::{AciInfo, MANIFEST_MEDIA_TYPE, MEDIA_TYPE};
use crate::key::{Key, KeyPrefix, hash_to_key};
use crate::manifest::ImageManifest;

/// Number of bytes that are read and written in one piece.
const PIECE: usize = 256 << 10;

/// Options of [`AciStore::write_aci_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Whether the ACI was looked up without a version and is imported as the latest version.
    pub latest: bool,
    /// The name that the ACI must have. By default, any name is accepted.
    pub name: Option<String>,
    /// The key that the ACI must have, or the first digits of the key. By default, any key is
    /// accepted.
    pub key: Option<KeyPrefix>,
    /// The time that is recorded as the time of the import. By default, now.
    pub import_time: Option<SystemTime>,
    /// The time that is recorded as the last use. By default, the time of the import. If the
    /// catalogue already has the ACI, and the recorded last use is later, the later time stays.
    pub last_used: Option<SystemTime>,
}

impl WriteOptions {
    /// Sets [`latest`](Self::latest).
    #[must_use]
    pub fn with_latest(mut self, latest: bool) -> Self {
        self.latest = latest;
        self
    }

    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Option<KeyPrefix>>) -> Self {
        self.key = key.into();
        self
    }

    /// Sets [`import_time`](Self::import_time).
    #[must_use]
    pub fn with_import_time(mut self, time: impl Into<Option<SystemTime>>) -> Self {
        self.import_time = time.into();
        self
    }

    /// Sets [`last_used`](Self::last_used).
    #[must_use]
    pub fn with_last_used(mut self, time: impl Into<Option<SystemTime>>) -> Self {
        self.last_used = time.into();
        self
    }
}

/// An ACI that was read from a source.
struct Received {
    writer: Writer,
    key: Key,
    size: u64,
    manifest: Bytes,
}

impl AciStore {
    /// Imports an ACI: a tar, plain or compressed with gzip, bzip2, xz or zstd. Returns the key of
    /// the ACI. If the catalogue already has the ACI, this import replaces the blob, the time of
    /// the import and [`latest`](WriteOptions::latest).
    ///
    /// A separate thread reads the source to the end, so reads of the source may block.
    ///
    /// # Errors
    /// `InvalidArgument` if the source is empty or is not an archive; `Corrupt` if the archive is
    /// not an ACI, or if its manifest exceeds a bound of [`limit`]; `OutOfRange` if the source, or
    /// a member other than the manifest, exceeds a bound of [`limit`]; `Unsupported` if the
    /// compressed ACI is followed by bytes that are neither zeros nor another stream of the same
    /// format, or if the ACI needs a filter or a checksum of xz that is not supported;
    /// `FailedPrecondition` after [`AciStore::close`]; errors of the source and of the store. After
    /// an error of the source, the store keeps none of the bytes that were read. After an error of
    /// the store, blobs may stay until a collection.
    pub async fn write_aci(&self, source: impl Read + Send + 'static) -> Result<Key> {
        self.write_aci_with(source, WriteOptions::default()).await
    }

    /// Imports an ACI as [`AciStore::write_aci`] does, with options.
    ///
    /// # Errors
    /// As [`AciStore::write_aci`]; `Corrupt` if the ACI does not have the name or the key of
    /// `options`.
    pub async fn write_aci_with(
        &self,
        source: impl Read + Send + 'static,
        options: WriteOptions,
    ) -> Result<Key> {
        self.write_or(source, options, ErrorKind::InvalidArgument)
            .await
    }

    /// Imports an ACI as [`AciStore::write_aci_with`] does, from a place that should have an ACI,
    /// such as a server.
    ///
    /// # Errors
    /// As [`AciStore::write_aci_with`], but `Corrupt` if the source is empty or is not an archive.
    pub(crate) async fn write_found(
        &self,
        source: impl Read + Send + 'static,
        options: WriteOptions,
    ) -> Result<Key> {
        self.write_or(source, options, ErrorKind::Corrupt).await
    }

    /// Imports an ACI. `foreign` is the kind of the error if the source is empty or is not an
    /// archive.
    async fn write_or(
        &self,
        source: impl Read + Send + 'static,
        options: WriteOptions,
        foreign: ErrorKind,
    ) -> Result<Key> {
        self.catalogue.check_open()?;
        let written = self.write_leased(Box::new(source), &options).await;
        let key = written.map_err(|error| {
            let error = match error.kind() {
                kind if kind == foreign => error,
                ErrorKind::InvalidArgument => Error::new(foreign, error.to_string()).source(error),
                _ => error,
            };
            error.operation("import ACI")
        })?;
        self.flush_if_possible().await;
        Ok(key)
    }

    async fn write_leased(
        &self,
        source: Box<dyn Read + Send>,
        options: &WriteOptions,
    ) -> Result<Key> {
        let guard = LeaseGuard::begin(&self.store, "aci-import").await?;
        let outcome = self.write_under(&guard, source, options).await;
        guard.finish_with(outcome).await
    }

    /// Stores the blobs of the ACI under the lease of the import. Then writes, in one batch, the
    /// lease that keeps the blobs, and the information on the ACI. A kill before the batch leaves
    /// blobs or an unfinished ingest, which a collection removes.
    async fn write_under(
        &self,
        guard: &LeaseGuard,
        source: Box<dyn Read + Send>,
        options: &WriteOptions,
    ) -> Result<Key> {
        let receive = |writer, waiter| receive(source, writer, waiter);
        let (ingest, received) = write_apart(&self.store.content, OWNER, receive).await?;
        let Received {
            writer,
            key,
            size,
            manifest: json,
        } = received;
        let manifest = ImageManifest::parse(&json).map_err(|error| error.subject(key))?;
        check_asked(&key, &manifest.name, options).map_err(|error| error.subject(key))?;
        let blob = publish(&self.store, guard, MEDIA_TYPE.into(), ingest, writer).await?;
        let manifest_blob = Descriptor::of(MediaType::from(MANIFEST_MEDIA_TYPE), &json);
        store_small_blob(&self.store, guard, &manifest_blob, Vec::new(), json).await?;
        let now = options.import_time.unwrap_or_else(SystemTime::now);
        let mut info = AciInfo::new(key, manifest.name, options.latest, now, size, 0);
        info.last_used = options.last_used.unwrap_or(now);
        info.blob = blob;
        info.manifest = manifest_blob;
        guard.confirm().await?;
        self.record(info).await?;
        Ok(key)
    }

    /// Writes the information on an ACI, and a lease that keeps its blobs.
    async fn record(&self, mut info: AciInfo) -> Result<()> {
        info.lease = unique::key(OWNER);
        let mut lease = Lease::new(OWNER, None);
        lease.resources.extend([
            Resource::Content(info.blob.digest),
            Resource::Content(info.manifest.digest),
        ]);
        let (info, lease) = (&info, &lease);
        retry(|| self.record_once(info.clone(), lease)).await
    }

    async fn record_once(&self, mut info: AciInfo, lease: &Lease) -> Result<()> {
        let mut batch = Batch::new();
        Leases::put(&mut batch, &info.lease, lease, Expect::Absent)?;
        let before = self.catalogue.load(&info.key).await?;
        let expect = match &before {
            Some((before, revision)) => {
                info.tree_store_size = before.tree_store_size;
                info.last_used = info.last_used.max(before.last_used);
                Expect::Revision(revision.clone())
            }
            None => Expect::Absent,
        };
        self.catalogue.put(&mut batch, &info, expect)?;
        if let Some((before, _)) = before {
            batch.delete(Table::Leases, before.lease, Expect::Any);
        }
        let committed = self.catalogue.commit(&batch).await;
        if matches!(&committed, Err(error) if error.kind() == ErrorKind::Conflict) {
            // A store that is not atomic may have written the lease already.
            let leases = self.store.leases();
            leases.delete(&info.lease, OWNER, SystemTime::now()).await?;
        }
        committed
    }
}

/// Checks that an ACI with this key and name is the ACI that the caller asked for.
pub(super) fn check_asked(key: &Key, name: &str, options: &WriteOptions) -> Result<()> {
    if let Some(asked) = options.name.as_ref().filter(|asked| *asked != name) {
        return Err(Error::corrupt(format!(
            "expected an ACI called {}, found one called {name}; get the ACI from another place",
            excerpt(asked)
        )));
    }
    if let Some(asked) = options.key.as_ref().filter(|asked| !asked.matches(key)) {
        return Err(Error::corrupt(format!(
            "expected an ACI whose key begins with {asked}, found {key}; get the ACI from another \
             place"
        )));
    }
    Ok(())
}

/// Reads a source to its end: stores its bytes as they are, and hashes and inspects the archive in
/// them.
fn receive(source: Box<dyn Read + Send>, writer: Writer, waiter: Weak<()>) -> Result<Received> {
    let mut tee = Tee {
        source,
        writer,
        waiter,
        piece: Bytes::new(),
    };
    let compression = detect(tee.begin()?);
    let mut hashed = Hashed {
        archive: Decoder::new(&mut tee, compression)?,
        hasher: Hasher::new(Algorithm::Sha512),
    };
    let manifest = read_manifest(BufReader::with_capacity(PIECE, &mut hashed))?;
    let size = hashed.archive.produced();
    let key = hash_to_key(hashed.hasher)?;
    // A decoder may stop before trailing bytes, which are stored, too.
    io::copy(&mut tee, &mut io::sink())?;
    Ok(Received {
        writer: tee.writer,
        key,
        size,
        manifest,
    })
}

/// Reads a source and stores what it reads. A read fails with `Cancelled` once `waiter` can no
/// longer be upgraded.
struct Tee {
    source: Box<dyn Read + Send>,
    writer: Writer,
    waiter: Weak<()>,
    /// What was stored and not returned yet.
    piece: Bytes,
}

impl Tee {
    /// Reads and stores the first [`MAGIC`] bytes or more, or all bytes if there are fewer. Returns
    /// them. Later reads return them again.
    fn begin(&mut self) -> Result<&[u8]> {
        while self.piece.len() < MAGIC {
            let before = self.piece.clone();
            self.piece = Bytes::new();
            let more = self.next_piece()?;
            let ended = more.is_empty();
            self.piece = [before, more].concat().into();
            if ended {
                break;
            }
        }
        Ok(&self.piece)
    }

    /// Reads and stores the next piece. Returns it. At the end, the piece is empty.
    fn next_piece(&mut self) -> Result<Bytes> {
        if self.waiter.strong_count() == 0 {
            return Err(Error::cancelled("the caller no longer waits for the ACI"));
        }
        let mut piece = vec![0; PIECE];
        let read = loop {
            match self.source.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        piece.truncate(read);
        let piece = Bytes::from(piece);
        if self.writer.offset() + read as u64 > limit::LAYER {
            let allowed = limit::LAYER;
            return Err(Error::out_of_range(format!(
                "the ACI has more than the {allowed} bytes allowed; build a smaller one"
            )));
        }
        if read > 0 {
            pool::wait(self.writer.write(piece.clone()))?;
        }
        Ok(piece)
    }
}

impl Read for Tee {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.next_piece()?;
        }
        let read = self.piece.len().min(out.len());
        out[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

/// Hashes what it reads.
struct Hashed<R> {
    archive: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(out)?;
        self.hasher.update(&out[..read]);
        Ok(read)
    }
}
