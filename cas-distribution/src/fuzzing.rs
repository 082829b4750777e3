//! Functions that call private parsers, for the fuzz targets of this repository.

use std::iter;

use reqwest::header::{HeaderMap, HeaderValue, LINK};

use crate::config::Config;
use crate::{challenge, date, pages, spelling, token, warning};

/// Parses a value of the header `WWW-Authenticate`. Returns how many Basic and Bearer challenges
/// the value has in total. A Bearer challenge without a realm is not counted.
pub fn challenges(value: &str) -> usize {
    challenge::parse(iter::once(value)).len()
}

/// Parses a value of the header `Link`. Returns the target of the link to the next page, or `None`
/// if the value does not have this link.
pub fn next_page(value: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(LINK, HeaderValue::from_bytes(value).ok()?);
    pages::target(&headers)
}

/// Parses the answer of a token service. Returns whether the answer has a token.
pub fn token(body: &[u8]) -> bool {
    token::Answer::read(body).is_some()
}

/// Parses a date in an HTTP header. Returns whether the text is a date from 1970 to 9999 in the
/// form `Sun, 06 Nov 1994 08:49:37 GMT`. The weekday is not checked.
pub fn date(text: &str) -> bool {
    date::parse(text).is_some()
}

/// Returns the text in a value of the header `Warning`, escaped and shortened to 300 characters.
/// Returns `None` if the text is empty, or if the warning has another form than `299 - "text"`.
pub fn warning(text: &str) -> Option<String> {
    warning::text(text)
}

/// Returns the canonical spelling of a host.
pub fn spelling(host: &str) -> String {
    spelling::host(host)
}

/// Parses a file of logins: docker's `config.json` or podman's `auth.json`, or the older
/// `.dockercfg` if `is_legacy` is true.
///
/// # Errors
/// `InvalidArgument` if the file does not parse.
pub fn logins(data: &[u8], is_legacy: bool) -> cas_core::Result<()> {
    Config::parse(data, is_legacy).map(|_| ())
}
