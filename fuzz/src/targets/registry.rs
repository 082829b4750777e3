//! Answers of registries and of their token services, keys of cosign, and rules that allow or deny
//! images.

use cas_distribution::fuzzing;
use cas_distribution::{CosignKey, Rules};

use super::{accepted, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "challenge",
        run: |input| str::from_utf8(input).is_ok_and(|text| fuzzing::challenges(text) > 0),
        seeds: || {
            texts(&[
                r#"Bearer realm="https://auth.test/token",service="host.test",scope="a,b""#,
                r#"Basic realm="x", Bearer realm=y"#,
                "Basic",
            ])
        },
        longest: 600,
    },
    Target {
        name: "link",
        run: |input| fuzzing::next_page(input).is_some(),
        seeds: || {
            texts(&[
                r#"</v2/_catalog?last=a&n=5>; rel="next""#,
                r#"<a>; rel=prev, <b>; title="x;y"; rel="last next""#,
            ])
        },
        longest: 600,
    },
    Target {
        name: "token",
        run: fuzzing::token,
        seeds: || {
            texts(&[
                r#"{"token":"abc","expires_in":300,"issued_at":"2020-01-01T00:00:00Z"}"#,
                r#"{"access_token":"abc","expires_in":"60"}"#,
            ])
        },
        longest: 600,
    },
    Target {
        name: "http-date",
        run: |input| str::from_utf8(input).is_ok_and(fuzzing::date),
        seeds: || texts(&["Sun, 06 Nov 1994 08:49:37 GMT"]),
        longest: 60,
    },
    Target {
        name: "warning",
        run: warning,
        seeds: || texts(&[r#"299 - "the tag is \"old\"""#]),
        longest: 600,
    },
    Target {
        name: "cosign-key",
        run: |input| accepted(CosignKey::parse(&String::from_utf8_lossy(input))),
        seeds: || {
            texts(&[concat!(
                "-----BEGIN PUBLIC KEY-----\n",
                "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",
                "-----END PUBLIC KEY-----\n",
            )])
        },
        longest: 400,
    },
    Target {
        name: "image-rule",
        run: rule,
        seeds: || {
            texts(&[
                "host.test",
                "host.test:5000/a/**:1.*",
                "*.test/**",
                "host.test/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ])
        },
        longest: 400,
    },
];

/// Reads a warning. Asserts that the text found has no control characters, which could control a
/// terminal.
fn warning(input: &[u8]) -> bool {
    let text = fuzzing::warning(&String::from_utf8_lossy(input));
    if let Some(text) = &text {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    text.is_some()
}

fn rule(input: &[u8]) -> bool {
    str::from_utf8(input).is_ok_and(|text| accepted(Rules::new("here").allow(text)))
}
