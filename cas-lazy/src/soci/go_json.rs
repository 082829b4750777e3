//! JSON as Go's `encoding/json` writes it.

use std::io::{self, Write};

use cas_core::{Error, Result};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Returns a value as compact JSON, in which `<`, `>`, `&`, U+2028 and U+2029 are escaped. Go 1.22
/// and later write every other character as serde does.
///
/// # Errors
/// `Internal` if the value cannot be written.
pub(super) fn write(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Go);
    let written = value.serialize(&mut serializer);
    written.map_err(|error| {
        Error::internal("the SOCI index could not be serialized; please report it").source(error)
    })?;
    Ok(bytes)
}

struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            let mut characters = special.chars();
            let code = characters.next().map_or(0, u32::from);
            write!(to, "{plain}\\u{code:04x}")?;
            rest = characters.as_str();
        }
        to.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        let text = "a<b>&\u{2028}\u{2029}\"\\/\n\t\r\u{1}é\u{7f}";
        let written = String::from_utf8(write(&text).unwrap()).unwrap();
        let go = r#""a\u003cb\u003e\u0026\u2028\u2029\"\\/\n\t\r\u0001é"#;
        assert_eq!(written, format!("{go}\u{7f}\""));
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
