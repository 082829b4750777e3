//! Escapes the key of a record into the name of an object. Names and their keys have the same byte
//! order.
//!
//! ASCII letters, digits and `-` stay as they are. Every other byte becomes a sign and the two hex
//! digits of the byte. The sign depends on the range in which the byte is, so that the order is
//! kept:
//!
//! ```text
//! sign  for the bytes
//! !     before -
//! .     . and /
//! =     from : to @
//! _     from [ to the back-quote
//! ~     after z
//! ```
//!
//! File systems limit the length of a file name, so a long name is split into a path. Each folder
//! in the path has 200 bytes of the name and a `+` at the end. The last component has the remaining
//! bytes and does not contain a `+`.

/// Maximum length of the name of a file or folder in bytes, without the `+` of a folder. File
/// systems accept 255, and OpenDAL adds a suffix to a temporary file.
const MAX_COMPONENT: usize = 200;

/// Returns the name of `key`. If a key begins with another key, its name begins with the name of
/// the other key.
pub(crate) fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + key.len() / 4);
    let mut length = 0;
    let mut push = |letter: char| {
        if length == MAX_COMPONENT {
            name.push_str("+/");
            length = 0;
        }
        name.push(letter);
        length += 1;
    };
    for byte in key.bytes() {
        match sign(byte) {
            None => push(char::from(byte)),
            Some(sign) => {
                push(sign);
                push(hex(byte >> 4));
                push(hex(byte & 15));
            }
        }
    }
    name
}

/// Returns the key of a name, or `None` if [`escape`] cannot have made the name.
pub(crate) fn unescape(name: &str) -> Option<String> {
    let joined = name.replace("+/", "");
    let mut letters = joined.bytes();
    let mut key = Vec::with_capacity(joined.len());
    while let Some(letter) = letters.next() {
        if matches!(letter, b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z') {
            key.push(letter);
            continue;
        }
        let digits = [letters.next()?, letters.next()?];
        let byte = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
        key.push(byte);
    }
    let key = String::from_utf8(key).ok()?;
    (escape(&key) == name).then_some(key)
}

/// Returns the sign before an escaped byte, or `None` if the byte stays as it is.
fn sign(byte: u8) -> Option<char> {
    match byte {
        b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => None,
        0..b'-' => Some('!'),
        b'.' | b'/' => Some('.'),
        b':'..=b'@' => Some('='),
        b'['..=b'`' => Some('_'),
        b'{'.. => Some('~'),
    }
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_keys_have_readable_names() {
        assert_eq!(
            escape("docker.io/library/a:3.20"),
            "docker.2eio.2flibrary.2fa=3a3.2e20"
        );
        assert_eq!(escape(".."), ".2e.2e");
        assert_eq!(escape(&"k".repeat(201)), format!("{}+/k", "k".repeat(200)));
    }

    #[test]
    fn an_invalid_name_has_no_key() {
        for name in ["!", "a!2", "a/b", ".2E", "!61", "~ff", "a+/b", "é"] {
            assert_eq!(unescape(name), None, "{name}");
        }
    }

    /// Generates keys that sort close together, and keys longer than a component.
    fn key() -> impl Strategy<Value = String> {
        let long = ("[a./]{190,210}", any::<String>()).prop_map(|(one, other)| one + &other);
        prop_oneof![any::<String>(), "[-./:@A\\[_`a{z~ ]{0,6}", long]
    }

    proptest! {
        #[test]
        fn order_prefix_and_key_are_kept(one in key(), other in key()) {
            prop_assert_eq!(escape(&one).cmp(&escape(&other)), one.cmp(&other));
            prop_assert_eq!(unescape(&escape(&one)), Some(one.clone()));
            let whole = one.clone() + &other;
            prop_assert!(escape(&whole).starts_with(&escape(&one)));
            for component in escape(&whole).split('/') {
                prop_assert!(component.len() <= MAX_COMPONENT + 1);
                prop_assert!(component != "." && component != "..");
            }
        }
    }
}
