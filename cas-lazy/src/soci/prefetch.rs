//! The prefetch artifact of SOCI: a list that states which spans of a layer are fetched first.

use std::ops::RangeInclusive;

use cas_core::{Error, Result, error::malformed, limit};
use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read.
const VERSION: &str = "1.0";

/// The spans of a layer that are fetched before all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefetch {
    /// Ranges of spans, in the order in which they are fetched.
    pub spans: Vec<RangeInclusive<u32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct Stored {
    version: String,
    #[serde(default)]
    prefetch_spans: Option<Vec<StoredSpans>>,
}

#[derive(Serialize, Deserialize)]
#[serde(expecting = "an object")]
struct StoredSpans {
    start_span: u32,
    end_span: u32,
    /// Ranges with lower numbers are fetched first.
    #[serde(default, skip_serializing)]
    priority: i64,
}

impl Prefetch {
    /// Appends a range of spans, so that these spans are fetched last. If the new range begins in
    /// the last range or directly after it, extends the last range instead. Does nothing if one of
    /// the ranges already has all of these spans.
    pub fn add(&mut self, spans: RangeInclusive<u32>) {
        let has_all = |range: &RangeInclusive<u32>| {
            range.contains(spans.start()) && range.contains(spans.end())
        };
        if self.spans.iter().any(has_all) {
            return;
        }
        match self.spans.last_mut() {
            Some(last)
                if spans.start() >= last.start()
                    && *spans.start() <= last.end().saturating_add(1) =>
            {
                *last = *last.start()..=*spans.end();
            }
            _ => self.spans.push(spans),
        }
    }

    /// Reads an artifact.
    ///
    /// # Errors
    /// `Corrupt` if the artifact does not parse, or if a range ends before it begins; `Unsupported`
    /// if the version is not 1.0; `OutOfRange` for more than [`limit::SPANS`] ranges or
    /// [`limit::PREFETCH`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes).map_err(|error| error.operation("read prefetch artifact"))
    }

    /// Returns the bytes to store.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::SPANS`] ranges, which [`decode`](Self::decode) would
    /// refuse; `Internal` if the artifact cannot be serialized.
    pub fn encode(&self) -> Result<Vec<u8>> {
        check_bound("ranges", self.spans.len() as u64, limit::SPANS as u64)
            .map_err(|error| error.operation("write prefetch artifact"))?;
        let stored = self.spans.iter().map(|spans| StoredSpans {
            start_span: *spans.start(),
            end_span: *spans.end(),
            priority: 0,
        });
        let stored = Stored {
            version: VERSION.to_owned(),
            prefetch_spans: Some(stored.collect()),
        };
        serde_json::to_vec(&stored).map_err(|error| {
            Error::internal("a prefetch artifact could not be serialized; please report it")
                .source(error)
        })
    }
}

fn decode(bytes: &[u8]) -> Result<Prefetch> {
    check_bound("bytes", bytes.len() as u64, limit::PREFETCH)?;
    let stored: Stored = serde_json::from_slice(bytes)
        .map_err(|error| malformed("not a valid prefetch artifact", &error))?;
    if stored.version != VERSION {
        return Err(Error::unsupported(format!(
            "the prefetch artifact has the version {:.20}; only {VERSION} is supported; create it \
             again",
            stored.version
        )));
    }
    let mut stored = stored.prefetch_spans.unwrap_or_default();
    check_bound("ranges", stored.len() as u64, limit::SPANS as u64)?;
    stored.sort_by_key(|spans| spans.priority);
    let spans: Vec<_> = (stored.iter())
        .map(|spans| spans.start_span..=spans.end_span)
        .collect();
    match spans.iter().find(|spans| spans.is_empty()) {
        Some(spans) => Err(Error::corrupt(format!(
            "the prefetch artifact is damaged: a range begins with the span {} and ends with the \
             span {}; create it again",
            spans.start(),
            spans.end()
        ))),
        None => Ok(Prefetch { spans }),
    }
}

fn check_bound(what: &str, found: u64, most: u64) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::out_of_range(format!(
        "the prefetch artifact has {found} {what}; at most {most} are allowed; create it with \
         fewer files",
    )))
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    /// The text is the example of SOCI's documentation, with a priority.
    #[test]
    fn ranges_are_read_in_the_order_of_their_priorities() {
        let text = r#"{"version": "1.0", "prefetch_spans": [
            {"start_span": 10, "end_span": 15, "priority": 1},
            {"start_span": 50, "end_span": 55}
        ]}"#;
        let read = Prefetch::decode(text.as_bytes()).unwrap();
        assert_eq!(read.spans, [50..=55, 10..=15]);
        let written = read.encode().unwrap();
        assert_eq!(
            written,
            br#"{"version":"1.0","prefetch_spans":[{"start_span":50,"end_span":55},{"start_span":10,"end_span":15}]}"#
        );
        assert_eq!(Prefetch::decode(&written).unwrap(), read);
        let none = br#"{"version":"1.0","prefetch_spans":null}"#;
        assert_eq!(Prefetch::decode(none).unwrap(), Prefetch::default());
    }

    #[test]
    fn spans_of_files_in_order_become_few_ranges() {
        let mut prefetch = Prefetch::default();
        for spans in [5..=5, 5..=5, 5..=7, 8..=8, 2..=3, 6..=7, 3..=4, 9..=9] {
            prefetch.add(spans);
        }
        assert_eq!(prefetch.spans, [5..=8, 2..=4, 9..=9]);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let spans = (0..limit::SPANS as u32).map(|span| span..=u32::MAX);
        let mut prefetch = Prefetch {
            spans: spans.collect(),
        };
        let written = prefetch.encode().unwrap();
        assert_eq!(Prefetch::decode(&written).unwrap(), prefetch);
        prefetch.spans.push(0..=0);
        let error = prefetch.encode().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }

    #[test]
    fn artifacts_that_lie_are_refused() {
        let one = r#"{"start_span":1,"end_span":1}"#;
        let many = |count: usize| {
            let spans = vec![one; count].join(",");
            format!(r#"{{"version":"1.0","prefetch_spans":[{spans}]}}"#)
        };
        assert!(Prefetch::decode(many(limit::SPANS).as_bytes()).is_ok());
        for (text, kind) in [
            (many(limit::SPANS + 1), ErrorKind::OutOfRange),
            (
                many(1) + &" ".repeat(limit::PREFETCH as usize),
                ErrorKind::OutOfRange,
            ),
            (many(1).replace("1.0", "2.0"), ErrorKind::Unsupported),
            (
                many(1).replace("end_span\":1", "end_span\":0"),
                ErrorKind::Corrupt,
            ),
            (
                many(1).replace("end_span\":1", "end_span\":-1"),
                ErrorKind::Corrupt,
            ),
            (many(1).replace("start_span", "start"), ErrorKind::Corrupt),
            ("[]".to_owned(), ErrorKind::Corrupt),
            (String::new(), ErrorKind::Corrupt),
        ] {
            assert_eq!(
                Prefetch::decode(text.as_bytes()).unwrap_err().kind(),
                kind,
                "{text:.80}"
            );
        }
    }
}
