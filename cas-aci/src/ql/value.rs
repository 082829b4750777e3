//! Lists of values, in the encoding of the Go package lldb.

use std::time::{Duration, SystemTime};

use cas_core::Result;

use super::damaged;

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

// The tags of the encoding. Some tags include a length: after `BYTES + 3`, three bytes follow.
const NULL: u8 = 0x00;
const FALSE: u8 = 0x01;
const TRUE: u8 = 0x02;
const BYTES: u8 = 0x15;
const BYTES_1: u8 = 0x27;
const BYTES_2: u8 = 0x28;
const TEXT: u8 = 0x29;
const TEXT_1: u8 = 0x3b;
const TEXT_2: u8 = 0x3c;
const UNSIGNED: u8 = 0x3d;
const NEGATIVE: u8 = 0x45;
const POSITIVE: u8 = 0x4d;
const SMALL: u8 = 0x55;

/// The number that every encoded time begins with.
const TIME: i64 = 0x54;
/// Seconds from the beginning of year 1, which Go counts from, to 1970.
const YEAR_1: i64 = 62_135_596_800;

/// Returns the values that a block, or the encoding of a time, contains. Floating and complex
/// numbers are refused, because rkt stores none.
pub(super) fn values(mut data: &[u8]) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    while let Some((&tag, rest)) = data.split_first() {
        data = rest;
        values.push(match tag {
            NULL => Value::Null,
            FALSE | TRUE => Value::Bool(tag == TRUE),
            BYTES..BYTES_1 => bytes(&mut data, usize::from(tag - BYTES))?,
            BYTES_1 => {
                let length = length(&mut data, 1)?;
                bytes(&mut data, length)?
            }
            BYTES_2 => {
                let length = length(&mut data, 2)? + 1;
                bytes(&mut data, length)?
            }
            TEXT..TEXT_1 => text(&mut data, usize::from(tag - TEXT))?,
            TEXT_1 | TEXT_2 => {
                let length = length(&mut data, usize::from(tag - TEXT_1) + 1)?;
                text(&mut data, length)?
            }
            UNSIGNED..NEGATIVE => integer(&mut data, usize::from(tag - UNSIGNED) + 1, 0)?,
            NEGATIVE..POSITIVE => integer(&mut data, 8 - usize::from(tag - NEGATIVE), -1)?,
            POSITIVE..SMALL => integer(&mut data, usize::from(tag - POSITIVE) + 1, 0)?,
            SMALL.. => Value::Integer(i64::from(tag - SMALL)),
            _ => return Err(damaged("a value has an unknown type")),
        });
    }
    Ok(values)
}

impl Value {
    /// Returns the time that the value encodes. For a time before 1970, returns a time in the first
    /// second of 1970.
    ///
    /// # Errors
    /// `Corrupt` if the value is not a time.
    pub(crate) fn time(&self) -> Result<SystemTime> {
        let fail = || damaged("a value in a column of times is not a time");
        let Value::Bytes(encoded) = self else {
            return Err(fail());
        };
        let values = values(encoded)?;
        let [Value::Integer(TIME), Value::Bytes(encoded)] = &*values else {
            return Err(fail());
        };
        // The last 15 bytes are what Go's `Time.MarshalBinary` returns: a version, seconds,
        // nanoseconds and the minutes of the time zone.
        let Some(&[1, ref time @ ..]) = encoded.last_chunk::<15>() else {
            return Err(fail());
        };
        let seconds = time
            .first_chunk()
            .map_or(0, |bytes| i64::from_be_bytes(*bytes));
        let nanoseconds = time[8..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let since = u64::try_from(seconds.saturating_sub(YEAR_1)).unwrap_or(0);
        let since =
            Duration::from_secs(since).checked_add(Duration::from_nanos(nanoseconds.into()));
        let time = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        time.filter(|_| nanoseconds < 1_000_000_000)
            .ok_or_else(fail)
    }
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let split = data.split_at_checked(length);
    let (taken, rest) = split.ok_or_else(|| damaged("a value ends after the end of its block"))?;
    *data = rest;
    Ok(taken)
}

fn length(data: &mut &[u8], width: usize) -> Result<usize> {
    let digits = take(data, width)?;
    Ok(digits
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

fn bytes(data: &mut &[u8], length: usize) -> Result<Value> {
    take(data, length).map(|bytes| Value::Bytes(bytes.to_vec()))
}

fn text(data: &mut &[u8], length: usize) -> Result<Value> {
    let text = String::from_utf8(take(data, length)?.to_vec());
    text.map(Value::Text)
        .map_err(|_| damaged("a text is not UTF-8"))
}

/// Reads a number of `width` bytes. Its higher bytes are the bytes of `fill`, which is 0 or -1.
fn integer(data: &mut &[u8], width: usize, fill: i64) -> Result<Value> {
    let digits = take(data, width)?;
    let number = digits
        .iter()
        .fold(fill, |number, byte| number << 8 | i64::from(*byte));
    Ok(Value::Integer(number))
}
