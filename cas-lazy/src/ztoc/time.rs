//! Formats and parses times in the form of RFC 3339. A formatted time is in UTC. Its fraction has
//! no trailing zeros, as in times that Go writes.

use cas_layer::tar::Time;

const DAY: i64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;
/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH: i64 = 719_468;

/// Returns a time in UTC, with as many digits of the fraction as it needs. Returns `None` if the
/// year is not from 0 to 9999.
pub(super) fn format(time: Time) -> Option<Vec<u8>> {
    let (year, month, day) = date(time.seconds.div_euclid(DAY));
    if !(0..=9999).contains(&year) {
        return None;
    }
    let second = time.seconds.rem_euclid(DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = format!(".{:09}", time.nanoseconds);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let text =
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z");
    Some(text.into_bytes())
}

/// Returns the time in a text. Returns `None` if it is not of the form of RFC 3339.
pub(crate) fn parse(text: &[u8]) -> Option<Time> {
    let (clock, rest) = text.split_first_chunk::<19>()?;
    let mut shape = clock.map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    shape[10] = shape[10].to_ascii_uppercase();
    if &shape != b"0000-00-00T00:00:00" {
        return None;
    }
    let number = |from: usize, to: usize| digits(&clock[from..to]);
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days(year, month, day);
    if date(days) != (year, month, day) {
        return None;
    }
    let (nanoseconds, zone) = match rest.strip_prefix(b".") {
        Some(rest) => fraction(rest)?,
        None => (0, rest),
    };
    Some(Time {
        seconds: days * DAY + hour * 3600 + minute * 60 + second - offset(zone)?,
        nanoseconds,
    })
}

/// Returns the nanoseconds of a fraction, and what follows it.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&length) {
        return None;
    }
    let scale = 10u32.pow(9 - length as u32);
    let (fraction, rest) = text.split_at(length);
    Some((digits(fraction) as u32 * scale, rest))
}

/// Returns by how many seconds a zone is ahead of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" => Some(0),
        [
            sign @ (b'+' | b'-'),
            a @ b'0'..=b'9',
            b @ b'0'..=b'9',
            b':',
            c @ b'0'..=b'5',
            d @ b'0'..=b'9',
        ] => {
            let seconds = digits(&[*a, *b]) * 3600 + digits(&[*c, *d]) * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> i64 {
    text.iter()
        .fold(0, |value, byte| value * 10 + i64::from(byte - b'0'))
}

/// Returns the year, month and day that is `days` days after the first of January 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(EPOCH);
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months are counted from March, so that the leap day is the last day of a year.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// Returns the number of days from the first of January 1970 to a day.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (month + 9) % 12;
    let day = (153 * month + 2) / 5 + day - 1 + of_era * 365 + of_era / 4 - of_era / 100;
    era * ERA + day - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> Time {
        Time {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let written = [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00Z"),
            (at(1_700_000_000, 500_000_000), "2023-11-14T22:13:20.5Z"),
            (at(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z"),
            (at(253_402_300_799, 0), "9999-12-31T23:59:59Z"),
            (at(-62_167_219_200, 0), "0000-01-01T00:00:00Z"),
        ];
        for (time, text) in written {
            assert_eq!(format(time).unwrap().escape_ascii().to_string(), text);
            assert_eq!(parse(text.as_bytes()), Some(time), "{text}");
        }
        for outside in [253_402_300_800, -62_167_219_201, i64::MAX, i64::MIN] {
            assert_eq!(format(at(outside, 0)), None);
        }
    }

    #[test]
    fn zones_count_and_other_texts_are_refused() {
        let zoned = parse(b"2023-11-14T23:13:20+01:00");
        assert_eq!(zoned, Some(at(1_700_000_000, 0)));
        assert_eq!(parse(b"2023-11-14T19:43:20-02:30"), zoned);
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20.0123456789Z",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14 22:13:20Z",
            "+023-11-14T22:13:20Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
