//! Reads `null` as the empty value, in documents of other programs.
//!
//! Programs in Go may write an empty list, map or string as `null`, or leave it out. In both cases,
//! the value is empty. Use these functions with `#[serde(default, deserialize_with = "…")]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Returns the value, or the default value of `T` if the value is `null`.
///
/// # Errors
/// Errors of the deserializer.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Returns a map of strings. If `null` stands in place of the map, the map is empty. A `null` value
/// in the map is read as an empty string.
///
/// # Errors
/// Errors of the deserializer.
pub fn texts<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let texts = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    let texts = texts.unwrap_or_default().into_iter();
    Ok(texts
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect())
}

/// Returns a map of strings, or `None` if `null` stands in place of the map. A `null` value in the
/// map is read as an empty string.
///
/// # Errors
/// Errors of the deserializer.
pub fn optional_texts<'de, D>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Texts(#[serde(deserialize_with = "texts")] BTreeMap<String, String>);
    Ok(Option::<Texts>::deserialize(deserializer)?.map(|texts| texts.0))
}
