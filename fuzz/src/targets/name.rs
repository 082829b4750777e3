//! Short texts from users and from other machines, such as names, digests, sizes and filters.

use cas_core::check::{ReadData, parse_rate};
use cas_core::image::filter::Filters;
use cas_core::image::{FullName, Reference};
use cas_core::{
    Descriptor, Digest, DigestPrefix, Image, Location, MediaType, Owner, Platform, parse_size,
};
use cas_distribution::Host;

use super::{accepted, parsed, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "reference",
        run: parsed::<Reference>,
        seeds: || {
            texts(&[
                "app:1",
                "host.test:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ])
        },
        longest: 700,
    },
    Target {
        name: "full-name",
        run: full_name,
        seeds: || {
            texts(&[
                "app",
                "docker.io/library/app:latest",
                "[::1]:5000/a/b:tag@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "localhost/a__b/c-d.e",
            ])
        },
        longest: 700,
    },
    Target {
        name: "digest",
        run: digest,
        seeds: || {
            texts(&[
                "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            ])
        },
        longest: 200,
    },
    Target {
        name: "digest-prefix",
        run: digest_prefix,
        seeds: || texts(&["sha256:e3b0c442", "e3b0c44298fc1c14", "sha512:cf83e135"]),
        longest: 200,
    },
    Target {
        name: "platform",
        run: platform,
        seeds: || {
            texts(&[
                "linux/amd64",
                "linux/arm/v7",
                "windows/amd64",
                "linux(+a)/arm64",
            ])
        },
        longest: 300,
    },
    Target {
        name: "location",
        run: location,
        seeds: || {
            texts(&[
                "fs:///srv/store",
                "s3://bucket/prefix?endpoint=http://host:1&region=r",
                "by-size://?small=redb&large=fs:///x&threshold=64KiB",
            ])
        },
        longest: 1000,
    },
    Target {
        name: "host",
        run: host,
        seeds: || texts(&["host.test:5000", "[::1]:80", "127.0.0.1", "xn--a.test"]),
        longest: 300,
    },
    Target {
        name: "owner",
        run: parsed::<Owner>,
        seeds: || texts(&["tenant-1"]),
        longest: 100,
    },
    Target {
        name: "size",
        run: size,
        seeds: || texts(&["64KiB", "100", "50%"]),
        longest: 40,
    },
    Target {
        name: "filter",
        run: filter,
        seeds: || {
            texts(&[
                "name==app:1",
                "name~=^app,labels.\"a.b\"",
                "target.mediatype!=x,labels.key==\"v\\n\"",
            ])
        },
        longest: 600,
    },
];

fn full_name(input: &[u8]) -> bool {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(name) = text.parse::<FullName>()
    {
        // Each spelling is read as the same name.
        for spelling in name.spellings() {
            assert_eq!(FullName::of(&spelling).as_ref(), Some(&name), "{spelling}");
        }
        assert_eq!(
            name.familiar().parse::<FullName>().ok().as_ref(),
            Some(&name)
        );
    }
    parsed::<FullName>(input)
}

fn digest(input: &[u8]) -> bool {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(digest) = Digest::from_text_or_hex(text)
    {
        assert_eq!(
            Digest::from_bytes(digest.algorithm(), digest.as_bytes()),
            Some(digest)
        );
    }
    parsed::<Digest>(input)
}

fn digest_prefix(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else {
        return false;
    };
    let prefix = text.parse::<DigestPrefix>();
    if let Ok(prefix) = &prefix {
        for digest in prefix.first() {
            assert!(prefix.matches(&digest), "{text} {digest}");
        }
        for text in prefix.texts() {
            assert!(text.ends_with(prefix.hex()));
        }
    }
    accepted(prefix)
}

fn platform(input: &[u8]) -> bool {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(platform) = text.parse::<Platform>()
    {
        let normalized = platform.normalized();
        assert_eq!(normalized.normalized(), normalized, "{text}");
    }
    parsed::<Platform>(input)
}

fn location(input: &[u8]) -> bool {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(location) = text.parse::<Location>()
    {
        accepted(location.path());
        accepted(location.size_option("threshold"));
        accepted(location.member("small"));
        accepted(location.check_options(&["threshold", "small", "large"]));
    }
    parsed::<Location>(input)
}

fn host(input: &[u8]) -> bool {
    if let Ok(text) = str::from_utf8(input)
        && text.parse::<Host>().is_ok()
    {
        let spelling = cas_distribution::fuzzing::spelling(text);
        assert_eq!(
            cas_distribution::fuzzing::spelling(&spelling),
            spelling,
            "{text:?}"
        );
    }
    parsed::<Host>(input)
}

fn size(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else {
        return false;
    };
    let all = [
        accepted(parse_size(text)),
        accepted(parse_rate(text)),
        accepted(ReadData::parse(text)),
    ];
    all.contains(&true)
}

fn filter(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else {
        return false;
    };
    let filters = Filters::parse(&[text]);
    if let Ok(filters) = &filters
        && let Ok(name) = "host.test/app:1".parse()
    {
        let target = Descriptor::of(MediaType::OCI_MANIFEST, b"");
        filters.matches(&Image::new(name, target));
    }
    accepted(filters)
}
