//! Serde over [`Node`]s, made so that one run names *all* that is wrong with a component, each with
//! its place: unknown keys do not stop it, and a value of a wrong type is noted, left out, and the
//! rest is decoded again.
//!
//! A null means "the default": it is left out in the same way where a scalar is expected, and taken
//! as an empty map where a struct is (`grpc:` switches the protocol on).

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor,
    value::{BorrowedStrDeserializer, SeqDeserializer},
};
use tapio_proto::transport::NULLABLE;

use super::{
    node::{Key, Node, Number, Place, Value, boolean, number},
    suggest::did_you_mean,
};

/// What is wrong with a body: its place, and a text with the path inside of the body.
pub(crate) type Wrong = Vec<(Place, String)>;

/// Decodes a component's body.
pub(crate) fn decode<T: DeserializeOwned>(body: &Node) -> Result<T, Wrong> {
    let mut pass = Pass::default();
    let mut wrong = Wrong::new();
    loop {
        pass.unknown.take();
        let result = T::deserialize(Decoder { node: body, pass: &pass });
        let stuck = match &result {
            Ok(_) => true,
            Err(error) => {
                let node = error.node.unwrap_or(body);
                // A field that is missing because its value was left out is not one more thing to fix.
                let follows = error.missing && !wrong.is_empty();
                if !(error.null || follows) {
                    wrong.push((node.place.clone(), describe(&error.text, body, node)));
                }
                error.missing || std::ptr::eq(node, body) || !pass.skip.insert(address(node))
            }
        };
        if stuck {
            wrong.extend(pass.unknown.take().into_iter().map(|unknown| unknown.describe(body)));
            return match result {
                Ok(value) if wrong.is_empty() => Ok(value),
                _ => Err(wrong),
            };
        }
    }
}

/// What one try at decoding leaves out and finds.
#[derive(Default)]
struct Pass<'n> {
    /// Addresses of nodes to leave out.
    skip: HashSet<usize>,
    unknown: RefCell<Vec<Unknown<'n>>>,
}

/// A key that the struct does not have.
struct Unknown<'n> {
    key: &'n Key,
    inside: &'n Node,
    known: &'static [&'static str],
}

#[derive(Clone, Copy)]
struct Decoder<'n, 'p> {
    node: &'n Node,
    pass: &'p Pass<'n>,
}

/// Serde's error, with the node that it is about.
#[derive(Debug)]
struct Error<'n> {
    text: String,
    node: Option<&'n Node>,
    /// A null where a scalar is expected.
    null: bool,
    missing: bool,
}

// === helpers ===

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node) as usize
}

/// `'path' text`, as the Collector's decoder writes it.
fn describe(text: &str, body: &Node, node: &Node) -> String {
    match body.path_to(node) {
        Some(path) => format!("'{path}' {text}"),
        None => text.to_owned(),
    }
}

impl Unknown<'_> {
    fn describe(self, body: &Node) -> (Place, String) {
        let text = format!(
            "has invalid keys: {}{}",
            self.key.text,
            did_you_mean(&self.key.text, self.known)
        );
        (self.key.place.clone(), describe(&text, body, self.inside))
    }
}

// === impl Error ===

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error<'_> {}

impl de::Error for Error<'_> {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Error { text: text.to_string(), node: None, null: false, missing: false }
    }

    fn missing_field(field: &'static str) -> Self {
        Error { missing: true, ..Self::custom(format_args!("requires {field:?}")) }
    }
}

impl<'n> Error<'n> {
    /// The innermost node stays.
    fn at(mut self, node: &'n Node) -> Self {
        self.node.get_or_insert(node);
        self
    }
}

// === impl Decoder ===

impl<'n> Decoder<'n, '_> {
    fn wrong_type(&self, expected: &str) -> Error<'n> {
        let found = self.node.value.type_name();
        let text = match expected {
            "map" => format!("expected a map or struct, got {found:?}"),
            "slice" => format!("source data must be an array or slice, got {found}"),
            _ => format!("expected type '{expected}', got unconvertible type '{found}'"),
        };
        Error { text, node: Some(self.node), null: self.node.is_null(), missing: false }
    }

    fn text(&self, expected: &str) -> Result<&'n str, Error<'n>> {
        match &self.node.value {
            Value::Scalar { text, .. } => Ok(text),
            _ => Err(self.wrong_type(expected)),
        }
    }

    fn number<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Error<'n>> {
        let text = self.text(expected)?.replace('_', "");
        text.parse().map_err(|_| match (&self.node.value, text.parse::<i128>()) {
            (Value::Scalar { plain: true, .. }, Ok(number)) => {
                let text =
                    format!("cannot parse, {number} overflows {}", std::any::type_name::<T>());
                Error { text, node: Some(self.node), null: false, missing: false }
            }
            _ => self.wrong_type(expected),
        })
    }

    fn map<V: Visitor<'n>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Error<'n>> {
        match self.node.value {
            Value::Map(_) | Value::Null => {
                let entries = self.node.entries();
                visitor
                    .visit_map(Entries { entries, at: 0, inside: self, fields })
                    .map_err(|error| error.at(self.node))
            }
            _ => Err(self.wrong_type("map")),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $expected:literal;)*) => { $(
        fn $method<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
            visitor.$visit(self.number($expected)?).map_err(|error: Error<'n>| error.at(self.node))
        }
    )* };
}

impl<'n> de::Deserializer<'n> for Decoder<'n, '_> {
    type Error = Error<'n>;

    numbers! {
        deserialize_i8 visit_i8 "int8"; deserialize_i16 visit_i16 "int16"; deserialize_i32 visit_i32 "int32"; deserialize_i64 visit_i64 "int";
        deserialize_u8 visit_u8 "uint8"; deserialize_u16 visit_u16 "uint16"; deserialize_u32 visit_u32 "uint32"; deserialize_u64 visit_u64 "int";
        deserialize_f32 visit_f32 "float32"; deserialize_f64 visit_f64 "float64";
    }

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.map(None, visitor),
            Value::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Value::Scalar { text, .. } => match number(text) {
                Some(Number::Int(value)) => match u64::try_from(value) {
                    Ok(value) => visitor.visit_u64(value),
                    Err(_) => visitor.visit_i64(value),
                },
                Some(Number::Large(value)) => visitor.visit_u64(value),
                Some(Number::Float(value)) => visitor.visit_f64(value),
                None => match boolean(text) {
                    Some(value) => visitor.visit_bool(value),
                    None => visitor.visit_borrowed_str(text),
                },
            },
        };
        result
            .map_err(|error: Error<'n>| Error { null: self.node.is_null(), ..error.at(self.node) })
    }

    fn deserialize_bool<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        visitor.visit_bool(boolean(self.text("bool")?).ok_or_else(|| self.wrong_type("bool"))?)
    }

    fn deserialize_str<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        visitor
            .visit_borrowed_str(self.text("string")?)
            .map_err(|error: Error<'n>| error.at(self.node))
    }

    fn deserialize_string<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error<'n>> {
        match name == NULLABLE && self.node.is_null() {
            true => visitor.visit_none(),
            false => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        match &self.node.value {
            Value::List(nodes) => visitor
                .visit_seq(Elements { nodes: nodes.iter(), pass: self.pass })
                .map_err(|error| error.at(self.node)),
            // As in the Collector, a text stands for a list of texts with commas between them.
            Value::Scalar { text, plain } if !(*plain && number(text).is_some()) => {
                let texts = text.split(',').filter(|one| !one.is_empty());
                visitor
                    .visit_seq(SeqDeserializer::new(texts.map(BorrowedStrDeserializer::new)))
                    .map_err(|_: Error<'n>| self.wrong_type("slice"))
            }
            _ => Err(self.wrong_type("slice")),
        }
    }

    fn deserialize_map<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error<'n>> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error<'n>> {
        visitor
            .visit_enum(self.text("string")?.into_deserializer())
            .map_err(|error: Error<'n>| error.at(self.node))
    }

    fn deserialize_unit<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error<'n>> {
        self.map(Some(&[]), visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error<'n>> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { <W: Visitor<'n>> char bytes byte_buf tuple tuple_struct identifier }
}

/// The entries of a map, without those that the pass leaves out or the struct does not have.
struct Entries<'n, 'p> {
    entries: &'n [(Key, Node)],
    at: usize,
    inside: Decoder<'n, 'p>,
    fields: Option<&'static [&'static str]>,
}

impl<'n> de::MapAccess<'n> for Entries<'n, '_> {
    type Error = Error<'n>;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error<'n>> {
        while let Some((key, node)) = self.entries.get(self.at) {
            let unknown = self.fields.filter(|fields| !fields.contains(&key.text.as_str()));
            if let Some(known) = unknown {
                self.inside.pass.unknown.borrow_mut().push(Unknown {
                    key,
                    inside: self.inside.node,
                    known,
                });
            } else if !self.inside.pass.skip.contains(&address(node)) {
                return seed.deserialize(key.text.as_str().into_deserializer()).map(Some);
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'n>>(&mut self, seed: V) -> Result<V::Value, Error<'n>> {
        let Some((_, node)) = self.entries.get(self.at) else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        self.at += 1;
        seed.deserialize(Decoder { node, pass: self.inside.pass }).map_err(|error| error.at(node))
    }
}

/// The elements of a list, without those that the pass leaves out.
struct Elements<'n, 'p> {
    nodes: std::slice::Iter<'n, Node>,
    pass: &'p Pass<'n>,
}

impl<'n> de::SeqAccess<'n> for Elements<'n, '_> {
    type Error = Error<'n>;

    fn next_element_seed<T: DeserializeSeed<'n>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error<'n>> {
        match self.nodes.find(|node| !self.pass.skip.contains(&address(node))) {
            Some(node) => seed
                .deserialize(Decoder { node, pass: self.pass })
                .map(Some)
                .map_err(|error| error.at(node)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::config::yaml;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Server {
        endpoint: String,
        limit: u32,
        headers: BTreeMap<String, String>,
        grpc: Option<Grpc>,
        mode: Mode,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Grpc {
        size: Option<u64>,
        names: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Fast,
        Slow,
    }

    fn server(text: &str) -> Result<Server, Vec<String>> {
        let node = yaml::parse("t", text).unwrap();
        decode(&node).map_err(|wrong| {
            wrong.into_iter().map(|(place, text)| format!("{place}: {text}")).collect()
        })
    }

    /// Guarantees: where the Collector takes a text for a list of texts, so does Tapio; a number is none.
    #[test]
    fn a_text_stands_for_a_list_of_texts() {
        let list = |text| decode::<Vec<String>>(&yaml::parse("t", text).unwrap()).ok();
        assert_eq!(list("a,b"), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(list("'*'"), Some(vec!["*".to_owned()]));
        assert_eq!((list("''"), list("5"), list("{a: b}")), (Some(Vec::new()), None, None));
        assert!(decode::<Vec<BTreeMap<String, String>>>(&yaml::parse("t", "a").unwrap()).is_err());
    }

    #[test]
    fn null_means_the_default() {
        assert_eq!(server("").unwrap(), Server::default());
        assert_eq!(server("{endpoint: , limit: ~, headers: , mode: }").unwrap(), Server::default());
        assert_eq!(server("grpc:").unwrap().grpc, Some(Grpc::default()));
        assert_eq!(server("grpc: {size: , names: }").unwrap().grpc, Some(Grpc::default()));
    }

    #[test]
    fn text_fields_take_what_looks_like_numbers() {
        let server = server("{endpoint: 0123, headers: {x: true}, mode: slow}").unwrap();
        assert_eq!(
            (server.endpoint.as_str(), server.headers["x"].as_str(), server.mode),
            ("0123", "true", Mode::Slow)
        );
    }

    #[test]
    fn everything_wrong_is_named_with_its_place() {
        let wrong = server("endpont: x\nlimit: lots\ngrpc:\n  size: -1\n  name: 1\n  names: [a, [b]]\nmode: quick\nheaders: x\n").unwrap_err();
        assert_eq!(
            wrong,
            [
                "t:2:8: 'limit' expected type 'uint32', got unconvertible type 'string'",
                "t:4:9: 'grpc.size' cannot parse, -1 overflows u64",
                "t:6:14: 'grpc.names[1]' expected type 'string', got unconvertible type '[]interface {}'",
                "t:7:7: 'mode' unknown variant `quick`, expected `fast` or `slow`",
                "t:8:10: 'headers' expected a map or struct, got \"string\"",
                "t:1:1: '' has invalid keys: endpont (did you mean \"endpoint\"?)",
                "t:5:3: 'grpc' has invalid keys: name (did you mean \"names\"?)",
            ]
        );
    }
}
