//! Rows to Arrow: a struct declared with [`table!`] is a row, and knows its schema.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListBuilder,
        StringArray, StringBuilder, TimestampNanosecondArray, UInt32Array,
    },
    datatypes::{DataType, Field, SchemaRef, TimeUnit, UInt32Type},
    error::ArrowError,
    record_batch::RecordBatch,
};

use super::time::Time;

/// A Rust type that has an Arrow column.
pub trait Column: Sized {
    /// May the column hold nulls?
    const NULLABLE: bool = false;
    /// The Arrow type.
    fn data_type() -> DataType;
    /// One array from the values of many rows.
    fn array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;
}

/// A struct whose fields are the columns of a table.
pub trait Row: Sized {
    /// The name of the table in SQL.
    const TABLE: &'static str;
    /// The schema, made once.
    fn schema() -> SchemaRef;
    /// A batch of these rows, in their order.
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError>;
}

macro_rules! column {
    ($type:ty, $data:expr, $nullable:expr, $values:ident => $array:expr) => {
        impl Column for $type {
            const NULLABLE: bool = $nullable;
            fn data_type() -> DataType {
                $data
            }
            fn array<'a>($values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new($array)
            }
        }
    };
}

column!(String, DataType::Utf8, false, v => strings(v.map(|text| Some(text.as_str()))));
column!(Option<String>, DataType::Utf8, true, v => strings(v.map(Option::as_deref)));
column!(Arc<str>, dictionary(), false, v => names(v.map(|name| &**name)));
column!(&'static str, dictionary(), false, v => names(v.copied()));
column!(i64, DataType::Int64, false, v => Int64Array::from_iter_values(v.copied()));
column!(Option<i64>, DataType::Int64, true, v => Int64Array::from_iter(v.copied()));
column!(f64, DataType::Float64, false, v => Float64Array::from_iter_values(v.copied()));
column!(Option<f64>, DataType::Float64, true, v => Float64Array::from_iter(v.copied()));
column!(bool, DataType::Boolean, false, v => BooleanArray::from_iter(v.map(|b| Some(*b))));
column!(Time, utc(), false, v => TimestampNanosecondArray::from_iter_values(v.map(|t| t.0)).with_timezone("UTC"));
column!(Option<Time>, utc(), true, v => TimestampNanosecondArray::from_iter(v.map(|t| t.map(|t| t.0))).with_timezone("UTC"));
column!(Vec<String>, DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), false, v => {
    let mut list = ListBuilder::new(StringBuilder::new());
    for row in v {
        for item in row {
            list.values().append_value(item);
        }
        list.append(true);
    }
    list.finish()
});

/// Texts in no more memory than they need: tables of them are kept.
fn strings<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> StringArray {
    let texts: Vec<Option<&str>> = texts.collect();
    let bytes = texts.iter().flatten().map(|text| text.len()).sum();
    let mut builder = StringBuilder::with_capacity(texts.len(), bytes);
    texts.into_iter().for_each(|text| builder.append_option(text));
    builder.finish()
}

/// Names that come again and again.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> DictionaryArray<UInt32Type> {
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut all = Vec::new();
    let keys = names.map(|name| {
        *known.entry(name).or_insert_with(|| {
            all.push(Some(name));
            all.len() as u32 - 1
        })
    });
    let keys = UInt32Array::from_iter_values(keys);
    DictionaryArray::new(keys, Arc::new(strings(all.into_iter())))
}

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8))
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// Declares a row struct, and with it a table: `table! { "name" => /// doc  pub struct Row { ... } }`.
#[macro_export]
#[doc(hidden)]
macro_rules! __table {
    ($table:literal => $(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$fmeta])* pub $field: $type),* }
        impl $crate::model::Row for $name {
            const TABLE: &'static str = $table;
            fn schema() -> ::arrow::datatypes::SchemaRef {
                static SCHEMA: ::std::sync::LazyLock<::arrow::datatypes::SchemaRef> = ::std::sync::LazyLock::new(|| {
                    ::std::sync::Arc::new(::arrow::datatypes::Schema::new(vec![$(::arrow::datatypes::Field::new(
                        stringify!($field).trim_start_matches("r#"),
                        <$type as $crate::model::Column>::data_type(),
                        <$type as $crate::model::Column>::NULLABLE,
                    )),*]))
                });
                SCHEMA.clone()
            }
            fn batch(rows: &[Self]) -> Result<::arrow::record_batch::RecordBatch, ::arrow::error::ArrowError> {
                ::arrow::record_batch::RecordBatch::try_new(
                    Self::schema(),
                    vec![$(<$type as $crate::model::Column>::array(rows.iter().map(|row| &row.$field))),*],
                )
            }
        }
    };
}
pub use __table as table;
