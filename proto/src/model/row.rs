//! Rows to Arrow: a struct declared with [`table!`] is a row, and knows its schema.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
        TimestampNanosecondArray,
    },
    datatypes::{DataType, Field, SchemaRef, TimeUnit},
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

column!(String, DataType::Utf8, false, v => StringArray::from_iter_values(v));
column!(Option<String>, DataType::Utf8, true, v => StringArray::from_iter(v.map(Option::as_deref)));
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
