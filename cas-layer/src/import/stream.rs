//! Reads an archive once, from start to end. A thread reads and decompresses it.
//!
//! - Files of at least [`LARGE`] bytes are stored as they arrive.
//! - Files of at most [`SMALL`] bytes stay in memory until it is known whether an image needs them,
//!   as long as they have at most [`IN_MEMORY`] bytes in all.
//! - All other files are between these sizes, or do not fit into this memory. Only the first
//!   [`ALONE`] of them are stored as they arrive, because storing one file takes as long as reading
//!   [`LARGE`] bytes. The rest are kept together in a [`Spill`] until it is known which of them an
//!   image needs.

use std::io::{BufReader, Read};
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::layout::{INDEX, OCI_LAYOUT};
use cas_core::transfer::BlobSource;
use cas_core::{Context, Digest, Error, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::archive::{Member, Members, begin};
use super::contents::{Contents, Location, Node, Part, check_document_size};
use super::importer::BlobImporter;
use super::spill::Spill;
use crate::buffers::{Buffers, PIECE};
use crate::codec::{self, Decoder};
use crate::layout::DOCKER_MANIFEST;

/// Maximum number of pieces that wait between the reader and the store.
const AHEAD: usize = 4;
/// Maximum size in bytes of a small file. Small files are kept in memory while there is room.
const SMALL: u64 = 64 << 10;
/// Maximum number of bytes of small files that are kept in memory.
const IN_MEMORY: u64 = 32 << 20;
/// Minimum size in bytes of a file that is always stored as it arrives. Reading so many bytes takes
/// as long as storing a file.
const LARGE: u64 = 1 << 20;
/// Maximum number of files below [`LARGE`] that are stored as they arrive. Few images have as many
/// such layers.
const ALONE: usize = 64;
/// Files that are always kept in memory, and never stored. They may be larger than [`SMALL`].
const DOCUMENTS: [&str; 3] = [OCI_LAYOUT, INDEX, DOCKER_MANIFEST];

enum Event {
    /// A member and its size in bytes, which is 0 for a link. If the member is a file, its pieces
    /// follow.
    Member(Member, u64),
    /// A piece of the current file.
    Piece(Bytes),
    /// The archive ended properly, with these warnings.
    End(Vec<String>),
}

/// Stores the large files of the archive in `input`. Returns where all of its files are.
pub(super) async fn receive(
    importer: &BlobImporter<'_>,
    input: Box<dyn Read + Send>,
) -> Result<Contents> {
    let (events, mut archive) = channel(AHEAD);
    let buffers = importer.buffers.clone();
    thread::Builder::new()
        .name("cas-import".to_owned())
        .spawn(move || {
            let outcome = read(input, &buffers, &events);
            // The receiver is gone if the other side failed.
            let _ = events.blocking_send(outcome.map(Event::End));
        })?;
    let mut members = Members::default();
    let mut room = Room {
        in_memory: IN_MEMORY,
        alone: ALONE,
        spill: Spill::default(),
    };
    loop {
        match archive.recv().await.transpose()? {
            Some(Event::Member(member, size)) => {
                let node = match member.link {
                    Some(link) => link,
                    None => {
                        let file = file(importer, &member.path, size, &mut archive, &mut room);
                        Node::File(file.await?)
                    }
                };
                members.add(member.path, node)?;
            }
            Some(Event::End(warnings)) => {
                importer.warn(&warnings);
                room.spill.flush().await?;
                return Ok(members.finish());
            }
            Some(Event::Piece(_)) | None => {
                return Err(Error::internal(
                    "the reader of the archive ended early; please report it",
                ));
            }
        }
    }
}

/// Reads the archive and sends its members. Returns the warnings of the reader.
fn read(
    mut input: Box<dyn Read + Send>,
    buffers: &Buffers,
    events: &Sender<Result<Event>>,
) -> Result<Vec<String>> {
    let send = |event| {
        events
            .blocking_send(Ok(event))
            .map_err(|_| Error::cancelled("the import ended"))
    };
    let mut magic = Vec::new();
    (&mut input)
        .take(codec::MAGIC as u64)
        .read_to_end(&mut magic)?;
    let compression = codec::detect(&magic);
    let input = std::io::Cursor::new(magic).chain(input);
    let decoder = Decoder::new(input, compression)?;
    let (mut reader, mut members) = begin(BufReader::with_capacity(PIECE, decoder))?;
    while let Some(entry) = members.next(&mut reader)? {
        let Some(member) = members.member(&entry)? else {
            continue;
        };
        let mut left = if member.link.is_some() { 0 } else { entry.size };
        send(Event::Member(member, left))?;
        while left > 0 {
            let piece = buffers.read(&mut reader, left)?;
            left -= piece.len() as u64;
            send(Event::Piece(piece))?;
        }
    }
    Ok(reader.warnings())
}

/// Where there is room for further files.
struct Room {
    /// Number of bytes that may still be kept in memory.
    in_memory: u64,
    /// Number of files below [`LARGE`] that may still be stored as they arrive.
    alone: usize,
    /// All other files below [`LARGE`].
    spill: Spill,
}

/// Stores the current file, or keeps it in memory or in the spill.
async fn file(
    importer: &BlobImporter<'_>,
    path: &str,
    size: u64,
    archive: &mut Receiver<Result<Event>>,
    room: &mut Room,
) -> Result<Part> {
    let mut source = ArchiveSource {
        archive,
        left: size,
    };
    let location = if DOCUMENTS.contains(&path) {
        Location::Memory(source.document(path).await?)
    } else if size <= SMALL.min(room.in_memory) {
        room.in_memory -= size;
        Location::Memory(source.all().await?)
    } else if size < LARGE && room.alone == 0 {
        room.spill.add(importer, &mut source).await?
    } else if let Some(digest) = blob_name(path) {
        if importer.pin(&digest, size).await? {
            while source.next().await?.is_some() {}
        } else {
            importer.store_pinned(digest, size, &mut source).await?;
        }
        Location::Stored(digest)
    } else {
        Location::Stored(importer.store_unnamed(Some(size), &mut source).await?)
    };
    if size < LARGE && matches!(location, Location::Stored(_)) {
        room.alone -= 1;
    }
    Ok(Part { size, location })
}

/// Returns the digest in a path `blobs/<algorithm>/<hex>`, or `None` for another path.
fn blob_name(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The rest of the current file.
struct ArchiveSource<'a> {
    archive: &'a mut Receiver<Result<Event>>,
    left: u64,
}

impl ArchiveSource<'_> {
    async fn document(&mut self, path: &str) -> Result<Bytes> {
        check_document_size(self.left).during("read", path)?;
        self.all().await
    }

    async fn all(&mut self) -> Result<Bytes> {
        let mut data = Vec::new();
        while let Some(piece) = self.next().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data.into())
    }
}

#[async_trait]
impl BlobSource for ArchiveSource<'_> {
    async fn open(&mut self, offset: u64) -> Result<()> {
        if offset > 0 {
            return Err(Error::internal(
                "a file of an archive was not read from its beginning; please report it",
            ));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.archive.recv().await.transpose()? {
            Some(Event::Piece(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(Some(piece))
            }
            _ => Err(Error::internal(
                "the reader of the archive ended early; please report it",
            )),
        }
    }
}
