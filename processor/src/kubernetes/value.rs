//! Reading Kubernetes objects as JSON values: paths, numbers that arrive as text, cut text.

use serde_json::Value;

/// The value at a path of object keys.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The text at a path; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The number at a path, whether it arrives as a number or, as in OTLP/JSON, as text.
pub(crate) fn number(value: &Value, path: &[&str]) -> Option<i64> {
    match at(value, path)? {
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().map(|float| float as i64))
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The boolean at a path, whether it arrives as one or as text.
pub(crate) fn boolean(value: &Value, path: &[&str]) -> Option<bool> {
    match at(value, path)? {
        Value::Bool(bool) => Some(*bool),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The elements of the list at a path; none when there is no list.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A scalar as its text; anything else as compact JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// At most `limit` characters, the last one an ellipsis when something was cut.
pub(super) fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A Kubernetes quantity (`96Mi`, `200m`, `1.5`, `1e3`) in its base unit: bytes, cores.
/// Suffixes: apimachinery `pkg/api/resource/suffix.go`.
pub(super) fn quantity(value: &Value) -> Option<f64> {
    let written = plain(value);
    let written = written.trim();
    if let Ok(number) = written.parse() {
        return Some(number).filter(|number: &f64| number.is_finite());
    }
    let digits = written.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match written.get(digits..)? {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => return None,
    };
    written.get(..digits)?.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_in_every_notation() {
        for (written, base) in
            [("96Mi", 100_663_296.0), ("200m", 0.2), ("3", 3.0), ("1e3", 1000.0), ("1.5G", 1.5e9)]
        {
            assert_eq!(quantity(&json!(written)), Some(base), "{written}");
        }
        assert_eq!(quantity(&json!(2)), Some(2.0));
        for wrong in ["", "Mi", "12Qi", "inf", "é"] {
            assert_eq!(quantity(&json!(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_arrive_as_text_too() {
        let object = json!({"a": {"b": "137", "c": 7, "d": null}});
        assert_eq!(number(&object, &["a", "b"]), Some(137));
        assert_eq!(number(&object, &["a", "c"]), Some(7));
        assert_eq!(number(&object, &["a", "d"]), None);
    }

    #[test]
    fn cutting_counts_characters_not_bytes() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
