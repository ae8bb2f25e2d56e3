//! Keys that are not set when they are null.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

/// By this name a decoder of configurations knows a value whose null means that it is not set, where it else
/// takes a null for an empty map.
pub const NULLABLE: &str = "tapio::Nullable";

/// For `#[serde(deserialize_with)]`: `key:` without a value is as if the key were not there.
pub fn null_is_none<'de, D, T>(decoder: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Visitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value or nothing")
        }

        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            decoder: D,
        ) -> Result<Self::Value, D::Error> {
            T::deserialize(decoder).map(Some)
        }
    }

    decoder.deserialize_newtype_struct(NULLABLE, Visitor(PhantomData))
}
