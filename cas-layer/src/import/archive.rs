//! A plain tar file: one pass over its headers says where every file is.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::{Error, Result, limit};

use super::contents::{Contents, Location, Node, Part, clean, unrecognised};
use crate::tar::{Entry, EntryKind, Reader};

/// Where the files of an archive are.
pub(super) fn scan(file: File) -> Result<Contents> {
    let length = file.metadata()?.len();
    let file = Arc::new(file);
    let mut reader = Reader::new(BufReader::new(&*file));
    let mut members = Members::default();
    while let Some(entry) = members.next(&mut reader)? {
        let Some(member) = members.member(&entry)? else {
            continue;
        };
        let node = match member.link {
            Some(link) => link,
            None => {
                let offset = reader.skip_body_seek()?;
                if length.saturating_sub(offset) < entry.size {
                    return Err(Error::corrupt(format!(
                        "the archive ends {} bytes before the end of the file",
                        entry.size - length.saturating_sub(offset)
                    ))
                    .operation("read")
                    .subject(member.path));
                }
                Node::File(Part {
                    size: entry.size,
                    location: Location::File(Arc::clone(&file), offset),
                })
            }
        };
        members.add(member.path, node)?;
    }
    Ok(members.finish())
}

/// The members of an archive, gathered.
#[derive(Default)]
pub(super) struct Members {
    nodes: HashMap<String, Node>,
    entries: usize,
}

/// A member that counts: a file, or a link that leads on.
pub(super) struct Member {
    /// Its clean path.
    pub(super) path: String,
    /// Where it leads; nothing for a file.
    pub(super) link: Option<Node>,
}

impl Members {
    /// The next entry; a stream that does not even begin as an archive is no image.
    pub(super) fn next<R: std::io::BufRead>(
        &mut self,
        reader: &mut Reader<R>,
    ) -> Result<Option<Entry>> {
        let entry = reader.next_entry().map_err(|error| match error.kind() {
            ErrorKind::Corrupt if self.entries == 0 => unrecognised().source(error),
            _ => error,
        })?;
        self.entries += 1;
        if self.entries > limit::ENTRIES_IN_MEMORY {
            let allowed = limit::ENTRIES_IN_MEMORY;
            return Err(Error::out_of_range(format!(
                "the archive has more than {allowed} members; no image archive has"
            )));
        }
        Ok(entry)
    }

    /// The entry as a member; nothing for directories, devices and names outside the archive,
    /// which nothing in an image refers to.
    pub(super) fn member(&self, entry: &Entry) -> Result<Option<Member>> {
        let Some(path) = clean("", &entry.path) else {
            return Ok(None);
        };
        let link = match &entry.kind {
            EntryKind::File => None,
            EntryKind::Symlink(target) => {
                let base = path.rsplit_once('/').map_or("", |(base, _)| base);
                Some(Node::Link(clean(base, target)))
            }
            EntryKind::Hardlink(target) => Some(Node::Link(clean("", target))),
            _ => return Ok(None),
        };
        if entry.regions.is_some() {
            return Err(
                Error::unsupported("is stored sparse; make the archive without holes")
                    .operation("read")
                    .subject(path),
            );
        }
        Ok(Some(Member { path, link }))
    }

    /// Adds a member.
    ///
    /// # Errors
    /// `Corrupt` when the archive has it twice: readers would differ in which they take.
    pub(super) fn add(&mut self, path: String, node: Node) -> Result<()> {
        if self.nodes.contains_key(&path) {
            return Err(Error::corrupt("the archive has this member twice")
                .operation("read")
                .subject(path));
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// All of them.
    pub(super) fn finish(self) -> Contents {
        Contents::Archive(self.nodes)
    }
}
