//! Numbers as the table prints them.

/// Returns the value with at least three significant digits, but at most six decimals, and with
/// commas between thousands.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    let text = format!("{value:.*}", digits.clamp(0, 6) as usize);
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    with_commas(whole) + fraction
}

/// Returns a count with commas between thousands.
pub(crate) fn count(count: u64) -> String {
    with_commas(&count.to_string())
}

/// Returns a size in GiB if it is a whole number of GiB, otherwise in MiB.
pub(crate) fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib >= 1024 && mib.is_multiple_of(1024) {
        format!("{} GiB", mib >> 10)
    } else {
        format!("{mib} MiB")
    }
}

fn with_commas(digits: &str) -> String {
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [0.0, 0.01234, 1.0, 12.34, 999.4, 12345.6, 1234567.0].map(number);
        assert_eq!(
            shown,
            ["0", "0.0123", "1.00", "12.3", "999", "12,346", "1,234,567"]
        );
    }

    #[test]
    fn counts_and_sizes_are_whole() {
        assert_eq!([7, 1000, 100_000].map(count), ["7", "1,000", "100,000"]);
        assert_eq!([64 << 20, 10 << 30].map(size), ["64 MiB", "10 GiB"]);
    }
}
