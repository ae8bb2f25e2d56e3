//! A YAML document in which every node knows where it stands.

use std::{fmt, sync::Arc};

/// Where something stands in a configuration source; shown as `tapio.yaml:12:7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file as the user named it, or the `scheme:rest` of another source.
    pub(crate) source: Arc<str>,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// What YAML can say. A scalar keeps its text; what it means is up to the field that takes it.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Scalar {
        text: String,
        /// Not quoted, so it may be a number or a boolean.
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map and where it stands. Keys are text, unique in their map.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

// === impl Node ===

impl Node {
    /// An empty map that stands at the start of `source`.
    pub(crate) fn empty(source: &str) -> Self {
        Node { value: Value::Map(Vec::new()), place: Place::start(source) }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The entries of a map; none for anything else.
    pub(crate) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value under `key` if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.text == key).map(|(_, node)| node)
    }

    /// Lays `over` on top: maps join, key by key; everything else is replaced.
    pub(crate) fn merge(&mut self, over: Node) {
        let Value::Map(new) = over.value else {
            *self = over;
            return;
        };
        let Value::Map(old) = &mut self.value else {
            *self = Node { value: Value::Map(new), place: over.place };
            return;
        };
        for (key, node) in new {
            match old.iter_mut().find(|(k, _)| k.text == key.text) {
                Some((place, there)) => {
                    *place = key;
                    there.merge(node);
                }
                None => old.push((key, node)),
            }
        }
    }

    /// Keys and indexes from this node down to `target`, joined with dots; `None` if it is not below.
    pub(crate) fn path_to(&self, target: &Node) -> Option<String> {
        if std::ptr::eq(self, target) {
            return Some(String::new());
        }
        let join = |head: &str, tail: String| match tail.as_bytes().first() {
            None | Some(b'[') => format!("{head}{tail}"),
            Some(_) => format!("{head}.{tail}"),
        };
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find_map(|(key, node)| Some(join(&key.text, node.path_to(target)?)))
            }
            Value::List(nodes) => nodes
                .iter()
                .enumerate()
                .find_map(|(i, node)| Some(join(&format!("[{i}]"), node.path_to(target)?))),
            Value::Null | Value::Scalar { .. } => None,
        }
    }
}

impl Value {
    /// The name that the Collector's decoder (Go, mapstructure) gives to the type of this value.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "nil",
            Value::Scalar { text, plain: true } => match number(text) {
                Some(Number::Int(_) | Number::Large(_)) => "int",
                Some(Number::Float(_)) => "float64",
                None if boolean(text).is_some() => "bool",
                None => "string",
            },
            Value::Scalar { .. } => "string",
            Value::List(_) => "[]interface {}",
            Value::Map(_) => "map[string]interface {}",
        }
    }
}

/// YAML's core schema, which is what the Collector's reader takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// What a plain scalar is as a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    /// Above `i64::MAX`.
    Large(u64),
    Float(f64),
}

/// As the Collector's reader takes it (go-yaml): integers in base 10, and by their prefix in 16, 8 and 2,
/// a leading zero is octal, underscores are left out; `.inf` and `.nan` are numbers, `inf` and `NaN` texts.
pub(crate) fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    match digits {
        ".inf" | ".Inf" | ".INF" => return Some(Number::Float(f64::from(sign) * f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => {
            return Some(Number::Float(f64::NAN));
        }
        _ if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return None,
        _ => {}
    }
    let plain = digits.replace('_', "");
    let (radix, body) = match plain.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &plain[2..]),
        [b'0', b'o' | b'O', ..] => (8, &plain[2..]),
        [b'0', b'b' | b'B', ..] => (2, &plain[2..]),
        [b'0', _, ..] => (8, &plain[1..]),
        _ => (10, &plain[..]),
    };
    let unsigned = body.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(value) = u64::from_str_radix(body, radix).ok().filter(|_| unsigned) {
        return match (i64::try_from(value), sign) {
            (Ok(value), sign) => Some(Number::Int(value * i64::from(sign))),
            (Err(_), 1) => Some(Number::Large(value)),
            (Err(_), _) if value == i64::MIN.unsigned_abs() => Some(Number::Int(i64::MIN)),
            (Err(_), _) => Some(Number::Float(-(value as f64))),
        };
    }
    // Digits, a point, an exponent: what else Rust reads as a number is a text in YAML.
    let float = plain.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let value: f64 = plain.parse().ok().filter(|_| float)?;
    Some(Number::Float(f64::from(sign) * value))
}

// === impl Place ===

impl Place {
    pub(crate) fn start(source: &str) -> Self {
        Place { source: source.into(), line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Collector 0.149 made of these.
    #[test]
    fn scalars_are_the_numbers_that_the_collector_reads() {
        use Number::{Float, Int, Large};
        for (text, value) in [
            ("5", Int(5)),
            ("-5", Int(-5)),
            ("+5", Int(5)),
            ("0", Int(0)),
            ("0x1F", Int(31)),
            ("0o17", Int(15)),
            ("017", Int(15)),
            ("0b11", Int(3)),
            ("1_000", Int(1000)),
            ("1_", Int(1)),
            ("12345678901234567890", Large(12_345_678_901_234_567_890)),
            ("-9223372036854775808", Int(i64::MIN)),
            ("99999999999999999999", Float(1e20)),
            ("1e3", Float(1000.0)),
            ("5.", Float(5.0)),
            ("-.5", Float(-0.5)),
            ("0.1_0", Float(0.1)),
            ("-.inf", Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        assert!(matches!(number(".nan"), Some(Float(value)) if value.is_nan()));
        for text in [
            "", "nan", "NaN", "inf", "Infinity", "0x", "_1", "-", "+", ".", "e5", "1 ", "0xg",
            "--1", "1.2.3",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
