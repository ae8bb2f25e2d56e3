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
            Value::Scalar { text, plain: true } if text.parse::<i64>().is_ok() => "int",
            Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "float64",
            Value::Scalar { text, plain: true } if boolean(text).is_some() => "bool",
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
