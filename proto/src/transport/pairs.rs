//! Names with values, in both forms that a Collector configuration has for them.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// A map, or a list of `{name: .., value: ..}` in which no name is twice. For `deserialize_with`.
pub fn named_values<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_any(Named(PhantomData))
}

struct Named<V>(PhantomData<V>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair<V> {
    name: String,
    value: V,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Named<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, or a list of {name: .., value: ..}")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            all.insert(name, value);
        }
        Ok(all)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(Pair { name, value }) = list.next_element()? {
            if all.contains_key(&name) {
                let why = format!("duplicate keys in map-style list: [{name}]");
                return Err(de::Error::custom(why));
            }
            all.insert(name, value);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        #[serde(deserialize_with = "named_values")]
        headers: BTreeMap<String, String>,
    }

    /// Guarantees: both forms mean the same; a name that is in the list twice is refused.
    #[test]
    fn a_list_is_read_as_a_map() {
        let read = |text: &str| serde_json::from_str::<Config>(text).map(|config| config.headers);
        let map = read(r#"{"headers": {"a": "b", "c": "d"}}"#).unwrap();
        let list = r#"{"headers": [{"name": "c", "value": "d"}, {"name": "a", "value": "b"}]}"#;
        assert_eq!(read(list).unwrap(), map);
        assert!(read(r#"{"headers": null}"#).unwrap().is_empty());
        let twice = r#"{"headers": [{"name": "a", "value": "d"}, {"name": "a", "value": "b"}]}"#;
        assert!(read(twice).unwrap_err().to_string().contains("duplicate keys"));
        assert!(read(r#"{"headers": [{"name": "a", "values": "d"}]}"#).is_err());
    }
}
