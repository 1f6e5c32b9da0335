//! Timestamps as text, in headers, events and lines of JSON.

use jiff::Timestamp;
use serde::Serializer;

/// RFC 3339 in UTC.
///
/// # Timestamps sort as text
///
/// Always has three digits of milliseconds: otherwise `…:19.3Z` would sort after `…:19.323Z` in any
/// sort by text (`sort`, `jq 'sort_by(.failed_at)'`, a log store).
pub(crate) fn text(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// The same, for serde's `serialize_with`.
#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(crate) fn serialize<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&text(*time)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_sort_as_text() {
        let moments = [300, 277, 323, 0, 999]
            .map(|ms| Timestamp::from_millisecond(1_795_602_319_000 + ms).unwrap());
        let mut texts = moments.map(text);
        let mut sorted = moments;
        sorted.sort_unstable();
        texts.sort_unstable();
        assert_eq!(texts, sorted.map(text));
        assert_eq!(texts[3], "2026-11-25T10:25:19.323Z");
    }
}
