//! Dates in HTTP headers.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Parses a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, from 1970 to 9999. Returns `None` for
/// anything else, including HTTP's obsolete forms of dates.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let mut words = text.split(' ');
    let mut next = || words.next();
    let (_weekday, day, month, year, time, zone) =
        (next()?, next()?, next()?, next()?, next()?, next()?);
    if zone != "GMT" || next().is_some() {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year = number(year, 1970..=9999)?;
    let day = number(day, 1..=days(month, year))?;
    let mut parts = time.split(':');
    let mut part = |most| number(parts.next()?, 0..=most);
    // A minute may have a leap second.
    let (hour, minute, second) = (part(23)?, part(59)?, part(60)?);
    if parts.next().is_some() {
        return None;
    }
    // A year that begins with March has its leap day at its end.
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let in_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + in_year;
    // The days from March of the year 0 to January 1970.
    let days = days.checked_sub(719_468)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Returns how many days a month has. January is 0.
fn days(month: u64, year: u64) -> u64 {
    let divides = |years: u64| year.is_multiple_of(years);
    let is_leap_year = divides(4) && (!divides(100) || divides(400));
    match month {
        1 if is_leap_year => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn number(text: &str, allowed: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    allowed.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds_since_1970() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Wed, 01 Mar 2000 00:00:00 GMT", Some(951_868_800)),
            ("Mon, 01 Mar 2100 00:00:00 GMT", Some(4_107_542_400)),
            ("Sat, 28 Nov 2026 09:10:11 GMT", Some(1_795_857_011)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun Nov  6 08:49:37 1994", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT x", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, +6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Thu, 31 Feb 2000 08:49:37 GMT", None),
            ("Thu, 29 Feb 2001 08:49:37 GMT", None),
            ("Mon, 29 Feb 2100 08:49:37 GMT", None),
            ("Thu, 31 Nov 1994 08:49:37 GMT", None),
            ("Sat, 31 Dec 1994 00:00:00 GMT", Some(788_832_000)),
            ("Sun, 06 nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 99999 08:49:37 GMT", None),
            ("120", None),
            ("", None),
        ] {
            let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let found = parse(text).map(|time| since(time).as_secs());
            assert_eq!(found, expected, "{text}");
        }
    }
}
