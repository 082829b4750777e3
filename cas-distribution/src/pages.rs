//! Reads listings page by page. Each page except the last names the URL of the next page.

use std::sync::Arc;

use cas_core::{Error, Result, limit};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};

use crate::client::Inner;
use crate::error::REGISTRY;
use crate::origin::{self, shown};
use crate::request::{Action, Ask};
use crate::runtime;
use crate::whole::Whole;

/// The pages of a listing, which are requested one after the other.
pub struct Pages<T>(BoxStream<'static, Result<Vec<T>>>);

impl<T> Pages<T> {
    /// Requests the next page. Returns `None` after the last one.
    ///
    /// # Errors
    /// `NotFound`, `Denied` or `Unavailable` if the registry answers with an error status;
    /// `Unavailable` if the registry does not answer; `Corrupt` if the page is not a list, if its
    /// link to the next page is not a URL, or if this URL has another scheme, host or port than the
    /// registry; `Denied` if the URL of the next page uses neither http nor https, uses http
    /// although the registry uses https, or contains credentials; `OutOfRange` if a page is larger
    /// than [`limit::PAGE`] bytes, if a page names itself as the next page, or if the listing has
    /// more than [`limit::PAGES`] pages; `Unsupported` if the answer has a content encoding, such
    /// as gzip; errors of reading the files of logins and of certificates.
    ///
    /// After an error, the next call returns `None`.
    pub async fn next(&mut self) -> Result<Option<Vec<T>>> {
        self.0.next().await.transpose()
    }
}

/// How the pages of a listing are requested.
#[derive(Clone, Copy)]
pub(crate) struct Listing {
    pub(crate) action: Action,
    /// Maximum size of a page in bytes.
    pub(crate) allowed: u64,
}

/// Returns the pages of a listing that begins at `first`. `read` parses a page.
pub(crate) fn pages<T: Send + 'static>(
    inner: Arc<Inner>,
    listing: Listing,
    first: Url,
    read: impl Fn(&Whole) -> Result<Vec<T>> + Send + Sync + 'static,
) -> Pages<T> {
    Pages(after(inner, listing, Some(first), 0, read))
}

/// Returns the pages from `next` on, after `asked` pages were requested.
pub(crate) fn after<T: Send + 'static>(
    inner: Arc<Inner>,
    listing: Listing,
    next: Option<Url>,
    asked: usize,
    read: impl Fn(&Whole) -> Result<Vec<T>> + Send + Sync + 'static,
) -> BoxStream<'static, Result<Vec<T>>> {
    let read = Arc::new(read);
    let pages = stream::try_unfold((next, asked), move |(next, asked)| {
        let (inner, read) = (Arc::clone(&inner), Arc::clone(&read));
        async move {
            let Some(url) = next else {
                return Ok(None);
            };
            if asked == limit::PAGES {
                return Err(endless(&url));
            }
            let own = Arc::clone(&inner);
            let page = runtime::run(async move { own.page(url, listing).await }).await?;
            let next = inner.next(&page)?;
            Ok(Some((read(&page)?, (next, asked + 1))))
        }
    });
    pages.boxed()
}

impl Inner {
    /// Requests one page.
    pub(crate) async fn page(&self, url: Url, listing: Listing) -> Result<Whole> {
        let ask = Ask::new(Method::GET, url, listing.action);
        let patience = &mut self.http.patience();
        self.whole(ask, &[StatusCode::OK], listing.allowed, patience)
            .await
    }

    /// Returns the URL of the page after `page`, or `None` if `page` is the last page.
    ///
    /// # Errors
    /// `Denied` as [`origin::check`]; `Corrupt` if the link is not a URL, or leads to another
    /// origin than that of the registry; `OutOfRange` if it leads to the same page again.
    pub(crate) fn next(&self, page: &Whole) -> Result<Option<Url>> {
        let Some(target) = target(&page.headers) else {
            return Ok(None);
        };
        let Ok(next) = page.url.join(&target) else {
            return Err(broken(&page.url, "names a next page that is not a URL"));
        };
        origin::check(&self.base, &next).map_err(|error| error.backend(REGISTRY))?;
        if !origin::same(&self.base, &next) {
            let why = "names a next page at another scheme, host or port";
            return Err(broken(&page.url, why));
        }
        if next == page.url {
            return Err(endless(&next));
        }
        Ok(Some(next))
    }
}

/// Returns the target of the link to the next page, as RFC 8288 writes it: `<URL>; rel="next"`.
pub(crate) fn target(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(LINK).iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.find_map(|text| {
        let mut rest = text;
        while let Some((_, link)) = rest.split_once('<') {
            let (target, parameters) = link.split_once('>')?;
            let (mut own, later) = split_unquoted(parameters, ',');
            while !own.is_empty() {
                let (parameter, others) = split_unquoted(own, ';');
                if is_next(parameter) {
                    return Some(target.to_owned());
                }
                own = others;
            }
            rest = later;
        }
        None
    })
}

/// Returns the text before and after the first `separator` that is not in a quoted string. The
/// second text is empty if there is none.
fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let at = text.find(|letter| {
        let is_quote = letter == '"' && !is_escaped;
        is_escaped = is_quoted && letter == '\\' && !is_escaped;
        is_quoted ^= is_quote;
        letter == separator && !is_quoted
    });
    at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

/// Returns whether a parameter of a link marks it as the link to the next page.
fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
    name.trim().eq_ignore_ascii_case("rel")
        && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

/// Returns the error for a listing that does not follow the protocol.
pub(crate) fn broken(url: &Url, what: &str) -> Error {
    let why = format!(
        "{} {what}; ask the operator of the registry to correct this",
        shown(url)
    );
    Error::corrupt(why).backend(REGISTRY)
}

fn endless(url: &Url) -> Error {
    Error::out_of_range(format!(
        "a listing of {} has a page that names itself as the next page, or has more than {} pages; \
         check the registry",
        shown(url),
        limit::PAGES
    ))
    .backend(REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        for (text, expected) in [
            ("</v2/a?n=2&last=x>; rel=\"next\"", Some("/v2/a?n=2&last=x")),
            ("<a>;rel=next", Some("a")),
            (
                "<a>; rel=prev, <b>; title=\"x\"; REL=\"last Next\"",
                Some("b"),
            ),
            ("<a,b>; rel=next", Some("a,b")),
            ("<a>; title=\"x, y\"; rel=next", Some("a")),
            (
                "<a>; title=\"x\\\", <z>; rel=next\"; rel=prev, <b>; rel=next",
                Some("b"),
            ),
            ("<a>; title=\"; rel=next\"", None),
            ("<a>; rel=prev", None),
            ("<a>", None),
            ("a; rel=next", None),
            ("<a; rel=next", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(LINK, text.parse().unwrap())]);
            assert_eq!(target(&headers).as_deref(), expected, "{text}");
        }
    }
}
