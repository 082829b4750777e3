//! The events that an observer receives.

use std::time::Duration;

use crate::error::ErrorKind;

/// A call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The method that was called.
    pub operation: Operation,
    /// Number of bytes of content that the call read, wrote or published, or number of bytes of
    /// records that a call of [`Records`](crate::Records) loaded or wrote. 0 if the call failed.
    pub bytes: u64,
    /// How long the call took.
    pub elapsed: Duration,
    /// The kind of the error, if the call failed.
    pub error: Option<ErrorKind>,
}

/// The trait that a method belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
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
    ($($(#[$doc:meta])* $name:ident => $interface:ident, $text:literal;)*) => {
        /// An asynchronous method of a store, of one of its ingests or of one of its readers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &[Operation] = &[$(Operation::$name),*];

            /// Returns the trait that declares the method.
            pub const fn interface(self) -> Interface {
                match self {
                    $(Operation::$name => Interface::$interface,)*
                }
            }

            /// Returns the name for reports, as in `content.stat`.
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
    /// [`ContentStore::list`](crate::ContentStore::list) and
    /// [`ContentStore::entries`](crate::ContentStore::entries).
    List => Content, "content.list";
    /// [`ContentStore::is_unchanged`](crate::ContentStore::is_unchanged).
    IsUnchanged => Content, "content.is_unchanged";
    /// [`ContentStore::flush`](crate::ContentStore::flush).
    Flush => Content, "content.flush";
    /// [`ContentStore::compact`](crate::ContentStore::compact).
    Compact => Content, "content.compact";
    /// [`ContentStore::leftovers`](crate::ContentStore::leftovers).
    Leftovers => Content, "content.leftovers";
    /// [`BlobReader::read_at`](crate::BlobReader::read_at); counts the bytes that were read.
    ReadAt => Reader, "reader.read_at";
    /// [`Ingest::append`](crate::Ingest::append); counts the bytes that were appended.
    Append => Ingest, "ingest.append";
    /// [`Ingest::adopt`](crate::Ingest::adopt); counts the bytes that were added.
    Adopt => Ingest, "ingest.adopt";
    /// [`Ingest::read_back`](crate::Ingest::read_back); counts the bytes that were read.
    ReadBack => Ingest, "ingest.read_back";
    /// [`Ingest::rewind`](crate::Ingest::rewind).
    Rewind => Ingest, "ingest.rewind";
    /// [`Ingest::publish`](crate::Ingest::publish); counts the bytes of the blob.
    Publish => Ingest, "ingest.publish";
    /// [`Records::load`](crate::Records::load); counts the bytes of the value.
    Load => Records, "records.load";
    /// [`Records::commit`](crate::Records::commit); counts the bytes of the values.
    Commit => Records, "records.commit";
    /// [`Records::scan`](crate::Records::scan); counts the bytes of the values.
    Scan => Records, "records.scan";
    /// [`ImageStore::get`](crate::ImageStore::get).
    Get => Images, "images.get";
    /// [`ImageStore::list`](crate::ImageStore::list).
    Images => Images, "images.list";
    /// [`ImageStore::find`](crate::ImageStore::find).
    Find => Images, "images.find";
    /// [`ImageStore::roots`](crate::ImageStore::roots).
    Roots => Images, "images.roots";
    /// [`ImageStore::create`](crate::ImageStore::create).
    Create => Images, "images.create";
    /// [`ImageStore::update`](crate::ImageStore::update).
    Update => Images, "images.update";
    /// [`ImageStore::compare_and_swap`](crate::ImageStore::compare_and_swap).
    CompareAndSwap => Images, "images.compare_and_swap";
    /// [`ImageStore::delete`](crate::ImageStore::delete) and
    /// [`ImageStore::delete_unchanged`](crate::ImageStore::delete_unchanged).
    Delete => Images, "images.delete";
    /// [`ImageStore::cleanup`](crate::ImageStore::cleanup).
    Cleanup => Images, "images.cleanup";
}
