//! Reads an uncompressed tar file. One pass over its headers finds the position of every file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use cas_core::error::ErrorKind;
use cas_core::{Error, Result, limit};
use cas_host::calls::undisturbed;

use super::contents::{Contents, Location, Node, Part, clean, unrecognised};
use crate::codec;
use crate::tar::{Entry, EntryKind, Reader};

/// Finds the files of an archive. Returns them, and the warnings of the reader.
pub(super) fn scan(file: File) -> Result<(Contents, Vec<String>)> {
    let length = undisturbed(|| file.metadata())?.len();
    let file = Arc::new(file);
    let (mut reader, mut members) = begin(BufReader::new(&*file))?;
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
                        "the archive ends before the end of this member (missing bytes: {}); \
                         import a complete copy",
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
    Ok((members.finish(), reader.warnings()))
}

/// Begins to read an archive. Returns a reader of its members, and an empty list of members.
pub(super) fn begin<R: BufRead>(mut input: R) -> Result<(Reader<R>, Members)> {
    let first = input.fill_buf()?;
    let members = Members {
        magic: first[..first.len().min(codec::MAGIC)].to_vec(),
        ..Members::default()
    };
    Ok((Reader::new(input), members))
}

/// The members of an archive that were found so far.
#[derive(Default)]
pub(super) struct Members {
    /// The first bytes of the archive.
    magic: Vec<u8>,
    nodes: HashMap<String, Node>,
    entries: usize,
}

/// A relevant member: a file, or a link.
pub(super) struct Member {
    /// Its clean path.
    pub(super) path: String,
    /// The target of a link; `None` for a file.
    pub(super) link: Option<Node>,
}

impl Members {
    /// Returns the next entry. If the first entry is malformed, the error reports that the source
    /// is not an image.
    pub(super) fn next<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<Option<Entry>> {
        let entry = reader.next_entry().map_err(|error| match error.kind() {
            ErrorKind::Corrupt if self.entries == 0 => unrecognised(&self.magic).source(error),
            _ => error,
        })?;
        self.entries += usize::from(entry.is_some());
        if self.entries > limit::ENTRIES_IN_MEMORY {
            let allowed = limit::ENTRIES_IN_MEMORY;
            return Err(Error::out_of_range(format!(
                "the archive has more than the {allowed} members allowed; import an archive with \
                 fewer members"
            )));
        }
        Ok(entry)
    }

    /// Returns the entry as a member. Returns `None` for an entry that is neither a file nor a
    /// link, and for a path that is outside the archive or not UTF-8, because nothing in an image
    /// refers to them.
    ///
    /// # Errors
    /// `Unsupported` for a sparse file.
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
            return Err(Error::unsupported(
                "the file is sparse; create the archive without sparse files",
            )
            .operation("read")
            .subject(path));
        }
        Ok(Some(Member { path, link }))
    }

    /// Adds a member.
    ///
    /// # Errors
    /// `Corrupt` if the path exists already, because readers differ in which member they use.
    pub(super) fn add(&mut self, path: String, node: Node) -> Result<()> {
        if self.nodes.contains_key(&path) {
            return Err(Error::corrupt(
                "the archive contains this path twice; create the archive with each path once",
            )
            .operation("read")
            .subject(path));
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Returns all members.
    pub(super) fn finish(self) -> Contents {
        Contents::Archive(self.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive with as many members as `members` states, as if `entries` entries had been
    /// read before. Returns whether all are accepted.
    fn accepts(entries: usize, members: usize) -> bool {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        for _ in 0..members {
            archive.append_data(&mut header, "x", &b""[..]).unwrap();
        }
        let archive = archive.into_inner().unwrap();
        let mut reader = Reader::new(&archive[..]);
        let mut found = Members {
            entries,
            ..Members::default()
        };
        loop {
            match found.next(&mut reader) {
                Ok(Some(_)) => {}
                end => return end.is_ok(),
            }
        }
    }

    #[test]
    fn as_many_members_as_allowed_are_read_and_no_more() {
        let before = limit::ENTRIES_IN_MEMORY - 2;
        assert!(accepts(before, 2));
        assert!(!accepts(before, 3));
    }
}
