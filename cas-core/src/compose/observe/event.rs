//! What an observer hears.

use std::time::Duration;

use crate::error::ErrorKind;

/// A call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was called.
    pub operation: Operation,
    /// Bytes of content that it moved, or of records that it loaded or wrote; none when it failed.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// How it failed, if it did.
    pub error: Option<ErrorKind>,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A [`ContentStore`](crate::ContentStore).
    Content,
    /// A [`BlobReader`](crate::BlobReader).
    Reader,
    /// An [`Ingest`](crate::Ingest).
    Ingest,
    /// A [`Records`](crate::Records).
    Records,
    /// An [`ImageStore`](crate::ImageStore).
    Images,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident => $subject:ident, $text:literal;)*) => {
        /// A method of a store and its parts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Operation] = &[$(Operation::$name),*];

            /// What it is a method of.
            pub const fn subject(self) -> Subject {
                match self {
                    $(Operation::$name => Subject::$subject,)*
                }
            }

            /// The name in reports: subject and method.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Operation::$name => $text,)*
                }
            }
        }
    };
}

operations! {
    /// [`ContentStore::stat`](crate::ContentStore::stat).
    Stat => Content, "content.stat";
    /// [`ContentStore::open`](crate::ContentStore::open).
    Open => Content, "content.open";
    /// [`ContentStore::begin`](crate::ContentStore::begin).
    Begin => Content, "content.begin";
    /// [`ContentStore::ingests`](crate::ContentStore::ingests).
    Ingests => Content, "content.ingests";
    /// [`ContentStore::discard`](crate::ContentStore::discard).
    Discard => Content, "content.discard";
    /// [`ContentStore::remove_version`](crate::ContentStore::remove_version).
    RemoveVersion => Content, "content.remove_version";
    /// [`ContentStore::remove_versions`](crate::ContentStore::remove_versions).
    RemoveVersions => Content, "content.remove_versions";
    /// [`ContentStore::list`](crate::ContentStore::list).
    List => Content, "content.list";
    /// [`ContentStore::flush`](crate::ContentStore::flush).
    Flush => Content, "content.flush";
    /// [`ContentStore::compact`](crate::ContentStore::compact).
    Compact => Content, "content.compact";
    /// [`BlobReader::read_at`](crate::BlobReader::read_at); the bytes are those read.
    ReadAt => Reader, "reader.read_at";
    /// [`Ingest::append`](crate::Ingest::append); the bytes are those appended.
    Append => Ingest, "ingest.append";
    /// [`Ingest::adopt`](crate::Ingest::adopt); the bytes are those added.
    Adopt => Ingest, "ingest.adopt";
    /// [`Ingest::read_back`](crate::Ingest::read_back); the bytes are those read.
    ReadBack => Ingest, "ingest.read_back";
    /// [`Ingest::rewind`](crate::Ingest::rewind).
    Rewind => Ingest, "ingest.rewind";
    /// [`Ingest::publish`](crate::Ingest::publish); the bytes are those of the blob.
    Publish => Ingest, "ingest.publish";
    /// [`Records::load`](crate::Records::load); the bytes are those of the value.
    Load => Records, "records.load";
    /// [`Records::commit`](crate::Records::commit); the bytes are those of the values.
    Commit => Records, "records.commit";
    /// [`Records::scan`](crate::Records::scan); the bytes are those of the values.
    Scan => Records, "records.scan";
    /// [`ImageStore::get`](crate::ImageStore::get).
    Get => Images, "images.get";
    /// [`ImageStore::list`](crate::ImageStore::list).
    Images => Images, "images.list";
    /// [`ImageStore::create`](crate::ImageStore::create).
    Create => Images, "images.create";
    /// [`ImageStore::update`](crate::ImageStore::update).
    Update => Images, "images.update";
    /// [`ImageStore::delete`](crate::ImageStore::delete).
    Delete => Images, "images.delete";
}
