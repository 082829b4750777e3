//! Parts of texts in messages: escaped, and shortened if they are long.

/// Maximum number of characters of an input text that a message repeats.
const EXCERPT: usize = 100;

/// Returns the beginning of a text for a message. Escapes control characters, quotes and
/// backslashes, and then keeps at most 100 characters, as by [`shortened`].
pub fn excerpt(text: &str) -> String {
    beginning(text, EXCERPT)
}

/// Returns the same as [`excerpt`], with at most `most` characters.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    // The rest of a long text is not needed.
    let shown: String = text.escape_debug().take(most.saturating_add(1)).collect();
    shortened(&shown, most, 0, text.len())
}

/// Returns a text for a message: `shown`, or if it has more than `first + last` characters, only
/// its first and last characters. Between them is `…`, and after them is `bytes`, the size of the
/// whole text without escapes. Does not escape anything.
pub fn shortened(shown: &str, first: usize, last: usize, bytes: usize) -> String {
    let characters = shown.chars().count();
    if characters <= first.saturating_add(last) {
        return shown.to_owned();
    }
    let start: String = shown.chars().take(first).collect();
    let end: String = shown.chars().skip(characters - last).collect();
    format!("{start}…{end} ({bytes} bytes)")
}

/// Returns a URL for a message, shortened and escaped as by [`excerpt`]. Its login, query and
/// fragment are removed, because they may be secret. If `url` is not a valid URL, other parts may
/// be removed, too.
pub fn url_excerpt(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        let shown = url.split(['?', '#']).next().unwrap_or_default();
        return excerpt(shown.rsplit('@').next().unwrap_or_default());
    };
    let (authority, path) = rest.split_at(rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    // If a password contains `/`, `\`, `?` or `#`, the part of the password before this character
    // is now in the place of the port, but is usually not a number.
    if !host.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return excerpt(&format!("{scheme}://…"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    excerpt(&format!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_in_a_message_has_no_login_and_no_query() {
        for (url, expected) in [
            ("https://host:1/a/b.aci", "https://host:1/a/b.aci"),
            ("https://host/@me/a", "https://host/@me/a"),
            ("http://[::1]/a", "http://[::1]/a"),
            ("http://me:hush@[::1]:80/a", "http://[::1]:80/a"),
            ("https://me:hush@host/a?hush#hush", "https://host/a"),
            ("https://me:hush@hush@host", "https://host"),
            ("https://me@host?hush", "https://host"),
            ("https://me:hu/sh@host/a", "https://…"),
            ("https://me:hu?sh@host/a", "https://…"),
            ("https:/me:hush@host/a", "host/a"),
            ("a.aci?hush", "a.aci"),
            ("a\nb", "a\\nb"),
            ("", ""),
        ] {
            assert_eq!(url_excerpt(url), expected, "{url}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_harmless() {
        assert_eq!(excerpt("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        let longest = "x".repeat(100);
        assert_eq!(excerpt(&longest), longest);
        let long = format!("{longest}{}", "y".repeat(1 << 20));
        assert_eq!(excerpt(&long), format!("{longest}… (1048676 bytes)"));
        let escapes = excerpt(&"\u{1b}".repeat(101));
        assert!(escapes.starts_with("\\u{1b}\\u{1b}"), "{escapes}");
        assert!(escapes.ends_with("… (101 bytes)"), "{escapes}");
        assert_eq!(
            escapes.chars().count(),
            100 + "… (101 bytes)".chars().count()
        );
    }

    #[test]
    fn a_shortened_text_states_that_it_was_cut() {
        for (text, first, last, expected) in [
            ("abcd", 2, 2, "abcd"),
            ("abcde", 2, 2, "ab…de (9 bytes)"),
            ("äöü", 2, 0, "äö… (9 bytes)"),
            ("", 0, 0, ""),
        ] {
            assert_eq!(shortened(text, first, last, 9), expected);
        }
    }
}
