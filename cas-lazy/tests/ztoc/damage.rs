//! Damaged input ends with an error or with another value, and never with a panic.

use cas_core::ErrorKind;
use cas_lazy::{SPAN_SIZE, Ztoc};

use super::fixture::{build, gzip, tar};
use super::stored::example;

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % most
    }
}

/// Reads a damaged zTOC. If it can be read, uses it.
fn decode(bytes: &[u8], layer: &[u8]) {
    let Ok(ztoc) = Ztoc::decode(bytes) else {
        return;
    };
    for span in ztoc.spans() {
        let (start, end) = (span.compressed.start as usize, span.compressed.end as usize);
        if let Some(bytes) = layer.get(start..end) {
            drop(span.inflate(bytes));
        }
    }
    ztoc.encode().unwrap();
}

#[test]
fn ztocs_that_end_too_early_are_refused() {
    let bytes = example().encode().unwrap();
    // The last bytes are the end of the version: a NUL, and zeros.
    let text = bytes.len() - bytes.iter().rev().take_while(|&&byte| byte == 0).count();
    for length in 0..bytes.len() {
        match Ztoc::decode(&bytes[..length]) {
            Ok(ztoc) => assert!(length >= text && ztoc == example(), "{length}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}"),
        }
    }
}

#[test]
fn flipped_bits_of_a_ztoc_end_without_a_panic() {
    let layer = gzip(&tar()[..5120], 6);
    let bytes = build(&layer, SPAN_SIZE).encode().unwrap();
    // Beside the window, which may have any bytes.
    let window = bytes.windows(64).position(|some| some == [0; 64]).unwrap();
    let others: Vec<_> = (0..bytes.len())
        .filter(|at| !(window..window + 32_000).contains(at))
        .collect();
    let mut random = Random(1);
    for _ in 0..5000 {
        let mut damaged = bytes.clone();
        for _ in 0..=random.below(3) {
            let at = others[random.below(others.len())];
            damaged[at] ^= 1 << random.below(8);
        }
        decode(&damaged, &layer);
    }
}

#[test]
fn damaged_layers_end_without_a_panic() {
    let layer = gzip(&tar()[..4096], 6);
    for length in 0..layer.len() {
        let error = Ztoc::build(&layer[..length], 1, "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
    }
    let mut random = Random(2);
    for _ in 0..3000 {
        let mut damaged = layer.clone();
        damaged[random.below(layer.len())] ^= 1 << random.below(8);
        if let Ok(ztoc) = Ztoc::build(&damaged[..], 1, "") {
            decode(&ztoc.encode().unwrap(), &damaged);
        }
    }
}

#[test]
fn layers_that_a_ztoc_cannot_express_are_refused() {
    use testkit::archive::{Header, Tar, record};
    let global = record("comment", "x");
    let header = Header::new(b'g', "global").size(global.len() as u64);
    let tar = Tar::new().member(header, global).file("a", "b").0;
    let error = Ztoc::build(&gzip(&tar, 6)[..], SPAN_SIZE, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let records = [
        record("GNU.sparse.major", "0"),
        record("GNU.sparse.minor", "1"),
        record("GNU.sparse.size", "4096"),
        record("GNU.sparse.map", "0,1"),
    ]
    .concat();
    let header = Header::new(b'x', "pax").size(records.len() as u64);
    let tar = Tar::new().member(header, &records).file("holes", "b").0;
    let error = Ztoc::build(&gzip(&tar, 6)[..], SPAN_SIZE, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("holes"), "{error}");
    // Only the beginning and the end of a long path are shown.
    let path = vec!["n".repeat(200); 8].join("/");
    let records = [records, record("path", path)].concat();
    let header = Header::new(b'x', "pax").size(records.len() as u64);
    let tar = Tar::new().member(header, records).file("short", "b").0;
    let error = Ztoc::build(&gzip(&tar, 6)[..], SPAN_SIZE, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let shown = error.to_string().matches('n').count();
    assert!((250..400).contains(&shown), "{error}");
    let error = Ztoc::build(&b"plain bytes"[..], SPAN_SIZE, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = Ztoc::build(&b""[..], SPAN_SIZE, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let error = Ztoc::build(&gzip(b"", 6)[..], 0, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
