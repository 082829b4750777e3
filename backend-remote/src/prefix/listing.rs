//! Reads a list of objects from a service, page by page.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use cas_core::caught::caught;
use cas_core::error::excerpt;
use cas_core::{Error, Result, limit};
use futures_util::StreamExt;
use opendal::{Entry, Lister};

use crate::error::{listed, of_list};

tokio::task_local! {
    /// Number of pages that were requested to find the next object of a list.
    static PAGES: Cell<usize>;
}

/// The objects that a service lists. A list that does not end is an error.
pub(super) struct Listing<'a> {
    lister: Lister,
    folder: &'a str,
    /// Whether the service lists the objects in byte order.
    ordered: bool,
    /// The path of the last object.
    last: Option<String>,
    /// Number of objects so far.
    count: usize,
}

impl<'a> Listing<'a> {
    /// Reads what `lister` lists. Errors name `folder`.
    pub(super) fn new(lister: Lister, folder: &'a str, ordered: bool) -> Self {
        Listing {
            lister,
            folder,
            ordered,
            last: None,
            count: 0,
        }
    }

    /// Returns the next object, or `None` at the end of the list.
    ///
    /// # Errors
    /// `Unavailable` if the list is not in order, has an object outside of the prefix of the store,
    /// or has more than [`limit::PAGES`] pages in a row without an object; `OutOfRange` if it has
    /// more than [`limit::OBJECTS`] objects; errors of the service.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        let lister = &mut self.lister;
        // OpenDAL panics at an object outside of the prefix of the store.
        let next = poll_fn(|context| match caught(|| lister.poll_next_unpin(context)) {
            Some(polled) => polled.map(Some),
            None => Poll::Ready(None),
        });
        let Some(next) = PAGES.scope(Cell::new(0), next).await else {
            let why = "the service lists an object outside of the location of the store; use a \
                       service that lists objects as S3 does";
            return Err(self.fail(Error::unavailable(why)));
        };
        let next = next.transpose();
        let Some(entry) = next.map_err(|error| of_list(error, self.folder))? else {
            return Ok(None);
        };
        self.count += 1;
        if self.count > limit::OBJECTS {
            let why = format!(
                "the service lists more than {} objects; use several smaller stores",
                limit::OBJECTS
            );
            return Err(self.fail(Error::out_of_range(why)));
        }
        if self.ordered {
            self.check_order(entry.path())?;
        }
        Ok(Some(entry))
    }

    /// Checks that `path` comes after the object before it. A service that repeats a page, or does
    /// not begin where the page before ended, would otherwise be followed for ever.
    fn check_order(&mut self, path: &str) -> Result<()> {
        if let Some(last) = &self.last
            && path <= last.as_str()
        {
            let why = format!(
                "the service lists \"{}\" after \"{}\", expected names in byte order without \
                 repetition; use a service that lists objects as S3 does",
                excerpt(path),
                excerpt(last)
            );
            return Err(self.fail(Error::unavailable(why)));
        }
        self.last = Some(path.to_owned());
        Ok(())
    }

    fn fail(&self, error: Error) -> Error {
        error.operation("list").subject(listed(self.folder))
    }
}

/// Counts a page that is requested for a list.
///
/// # Errors
/// `Unexpected` if too many pages in a row had no object.
#[cfg(feature = "s3")]
pub(crate) fn count_page() -> opendal::Result<()> {
    let count = |pages: &Cell<usize>| {
        pages.set(pages.get() + 1);
        pages.get()
    };
    // Requests outside of a list have no count.
    match PAGES.try_with(count) {
        Ok(pages) if pages > limit::PAGES => {
            let why = format!(
                "the list of objects does not end: {} pages in a row have no object; check the \
                 service at the endpoint",
                limit::PAGES
            );
            Err(opendal::Error::new(opendal::ErrorKind::Unexpected, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;
    use cas_core::pool::wait;
    use opendal::Operator;
    use opendal::services::Memory;

    use super::*;

    /// Reading so many objects takes too long, so the count begins just below the maximum.
    #[test]
    fn a_list_of_too_many_objects_is_given_up() {
        let operator = Operator::new(Memory::default()).unwrap();
        let error = wait(async {
            for object in ["a", "b"] {
                operator.write(object, "").await.unwrap();
            }
            let lister = operator.lister_with("").recursive(true).await.unwrap();
            let mut listing = Listing::new(lister, "", false);
            listing.count = limit::OBJECTS - 1;
            let last = listing.next().await.unwrap().unwrap();
            assert_eq!(last.path(), "a");
            listing.next().await.err().unwrap()
        });
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        let expected = format!("lists more than {} objects", limit::OBJECTS);
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
