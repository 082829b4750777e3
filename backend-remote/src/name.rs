//! Names of objects for keys: every key has one, and they are in the order of the keys.
//!
//! Letters, digits and `-` stand for themselves. Every other byte is a sign and two hex digits,
//! and the sign sorts as the byte does: `!` for what comes before `-`, `.` for `.` and `/`, `=`
//! for `:` to `@`, `_` for `[` to the back-quote, `~` for what comes after `z`. A long name is
//! cut into folders that end in `+`, which sorts before all of them, so that it fits a directory.

/// Longest name of a file or folder; what the directory service adds to it stays below 255.
const PIECE: usize = 200;

/// The name of `key`; the name of a beginning of it is a beginning of the name.
pub(crate) fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + key.len() / 4);
    let mut piece = 0;
    let mut push = |letter: char| {
        if piece == PIECE {
            name.push_str("+/");
            piece = 0;
        }
        name.push(letter);
        piece += 1;
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

/// The key of a name; nothing where it is no name of ours.
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

/// What introduces a byte that does not stand for itself.
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
    fn names_can_be_read() {
        assert_eq!(
            escape("docker.io/library/a:3.20"),
            "docker.2eio.2flibrary.2fa=3a3.2e20"
        );
        assert_eq!(escape(".."), ".2e.2e");
        assert_eq!(escape(&"k".repeat(201)), format!("{}+/k", "k".repeat(200)));
    }

    #[test]
    fn what_is_no_name_has_no_key() {
        for name in ["!", "a!2", "a/b", ".2E", "!61", "~ff", "a+/b", "é"] {
            assert_eq!(unescape(name), None, "{name}");
        }
    }

    /// Keys near each other, and longer than a piece.
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
            for piece in escape(&whole).split('/') {
                prop_assert!(piece.len() <= PIECE + 1 && piece != "." && piece != "..");
            }
        }
    }
}
