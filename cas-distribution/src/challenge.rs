//! Parses the header `WWW-Authenticate`, with which a registry asks for credentials.

use std::collections::HashMap;

/// One way to authenticate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password.
    Basic,
    /// A token of the token service whose URL is `realm`. `service` is the registry's name for
    /// itself. The scope that a registry proposes is ignored: the operation decides the scope.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// Returns the known challenges in the values of the header. A Bearer challenge without a realm is
/// left out.
pub(crate) fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    values.flat_map(parse_one).collect()
}

/// Returns the known challenges in one value. Commas separate both challenges and the parameters of
/// one challenge.
fn parse_one(value: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some((scheme, parameters, after)) = next(rest) {
        rest = after;
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let mut parameters = parameters;
            if let Some(realm) = parameters.remove("realm") {
                found.push(Challenge::Bearer {
                    realm,
                    service: parameters.remove("service"),
                });
            }
        }
    }
    found
}

/// Returns the next scheme, its parameters, and the rest of the text, or `None` at the end.
fn next(text: &str) -> Option<(&str, HashMap<String, String>, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let end = text.find([' ', ',', '\t']).unwrap_or(text.len());
    let (scheme, mut rest) = text.split_at(end);
    if scheme.is_empty() {
        return None;
    }
    let mut parameters = HashMap::new();
    while let Some((key, value, after)) = parameter(rest) {
        parameters.insert(key.to_ascii_lowercase(), value);
        rest = after;
    }
    Some((scheme, parameters, rest))
}

/// Parses `key=value` or `key="value"`. Returns the key, the value and the rest of the text, or
/// `None` if the text begins with anything else, such as the next scheme.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (key, rest) = text.split_once('=')?;
    if key.is_empty() || key.contains([' ', ',', '\t', '"']) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((key, rest[..end].to_owned(), &rest[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((key, value, &quoted[at + 1..])),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
        }
    }

    #[test]
    fn headers_of_registries_are_parsed() {
        for (header, expected) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://x.test/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                vec![bearer("https://x.test/t", Some("s"))],
            ),
            (
                "bearer service=s, realm=\"q\\\"uote\" , error=\"invalid_token\"",
                vec![bearer("q\"uote", Some("s"))],
            ),
            (
                "Negotiate, Basic realm=x, Bearer realm=y",
                vec![Challenge::Basic, bearer("y", None)],
            ),
        ] {
            assert_eq!(parse(std::iter::once(header)), expected, "{header}");
        }
    }

    #[test]
    fn malformed_headers_have_no_challenges() {
        for header in [
            "",
            ",",
            "=",
            "Bearer",
            "Bearer realm=\"open",
            "Bearer =",
            "a=b=c",
            "\"",
            "Bearer \\",
        ] {
            assert_eq!(parse(std::iter::once(header)), vec![], "{header}");
        }
    }
}
