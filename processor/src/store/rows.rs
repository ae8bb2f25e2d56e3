//! Result batches read back as rows, by column name.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType},
    record_batch::RecordBatch,
};
use tapio_proto::model::Time;

/// The rows of a result. Whatever kind of string, integer, float or time the engine chose, a row
/// gives the plain one.
#[derive(Debug, Default)]
pub struct Rows {
    names: BTreeMap<String, usize>,
    batches: Vec<Vec<ArrayRef>>,
}

/// One row of a result.
#[derive(Clone, Copy, Debug)]
pub struct RowRef<'a> {
    names: &'a BTreeMap<String, usize>,
    columns: &'a [ArrayRef],
    index: usize,
}

/// A column that is not there or does not hold what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("result column `{column}`: {problem}")]
pub struct ColumnError {
    /// The column.
    pub column: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Rows {
    /// Rows of these batches, which have one schema; an error when a column has a type that no
    /// plain one stands for.
    pub fn new(batches: &[RecordBatch]) -> Result<Self, ColumnError> {
        let Some(first) = batches.first() else { return Ok(Rows::default()) };
        let fields = first.schema_ref().fields();
        let names =
            fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        let plain = |batch: &RecordBatch| {
            let columns = batch.columns().iter().zip(fields);
            columns
                .map(|(column, field)| {
                    plain(column).map_err(|problem| error(field.name(), problem))
                })
                .collect()
        };
        let batches = batches.iter().map(plain).collect::<Result<_, _>>()?;
        Ok(Rows { names, batches })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.batches.iter().map(|columns| height(columns)).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows in their order.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        self.batches.iter().flat_map(|columns| {
            (0..height(columns)).map(|index| RowRef { names: &self.names, columns, index })
        })
    }
}

impl<'a> RowRef<'a> {
    /// A text that must not be null.
    pub fn text(&self, name: &str) -> Result<&'a str, ColumnError> {
        self.text_opt(name)?.ok_or_else(|| null(name))
    }

    /// A text, or null.
    pub fn text_opt(&self, name: &str) -> Result<Option<&'a str>, ColumnError> {
        let column = self.column(name)?;
        let strings =
            column.as_string_opt::<i32>().ok_or_else(|| mismatch(name, column, "text"))?;
        Ok(strings.is_valid(self.index).then(|| strings.value(self.index)))
    }

    /// An integer that must not be null.
    pub fn int(&self, name: &str) -> Result<i64, ColumnError> {
        self.int_opt(name)?.ok_or_else(|| null(name))
    }

    /// An integer, or null.
    pub fn int_opt(&self, name: &str) -> Result<Option<i64>, ColumnError> {
        let column = self.column(name)?;
        let ints = column
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| mismatch(name, column, "an integer"))?;
        Ok(ints.is_valid(self.index).then(|| ints.value(self.index)))
    }

    /// A number, integer or not, that must not be null.
    pub fn float(&self, name: &str) -> Result<f64, ColumnError> {
        self.float_opt(name)?.ok_or_else(|| null(name))
    }

    /// A number, integer or not; or null.
    pub fn float_opt(&self, name: &str) -> Result<Option<f64>, ColumnError> {
        let column = self.column(name)?;
        if let Some(floats) = column.as_primitive_opt::<Float64Type>() {
            return Ok(floats.is_valid(self.index).then(|| floats.value(self.index)));
        }
        let ints = column
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| mismatch(name, column, "a number"))?;
        Ok(ints.is_valid(self.index).then(|| ints.value(self.index) as f64))
    }

    /// A timestamp, or nanoseconds since the epoch, that must not be null.
    pub fn time(&self, name: &str) -> Result<Time, ColumnError> {
        self.time_opt(name)?.ok_or_else(|| null(name))
    }

    /// A timestamp, or nanoseconds since the epoch; or null.
    pub fn time_opt(&self, name: &str) -> Result<Option<Time>, ColumnError> {
        let column = self.column(name)?;
        if let Some(times) = column.as_primitive_opt::<TimestampNanosecondType>() {
            return Ok(times.is_valid(self.index).then(|| Time(times.value(self.index))));
        }
        let ints = column
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| mismatch(name, column, "a time"))?;
        Ok(ints.is_valid(self.index).then(|| Time(ints.value(self.index))))
    }

    /// A truth value that must not be null.
    pub fn bool(&self, name: &str) -> Result<bool, ColumnError> {
        self.bool_opt(name)?.ok_or_else(|| null(name))
    }

    /// A truth value, or null.
    pub fn bool_opt(&self, name: &str) -> Result<Option<bool>, ColumnError> {
        let column = self.column(name)?;
        let bools =
            column.as_boolean_opt().ok_or_else(|| mismatch(name, column, "a truth value"))?;
        Ok(bools.is_valid(self.index).then(|| bools.value(self.index)))
    }

    fn column(&self, name: &str) -> Result<&'a ArrayRef, ColumnError> {
        let column = self.names.get(name).and_then(|index| self.columns.get(*index));
        column.ok_or_else(|| {
            let there = self.names.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            error(name, format!("not in the result, which has {there}"))
        })
    }
}

fn height(columns: &[ArrayRef]) -> usize {
    columns.first().map_or(0, |column| column.len())
}

/// The column as Utf8, Int64, Float64, Boolean or nanosecond timestamp.
fn plain(column: &ArrayRef) -> Result<ArrayRef, String> {
    use DataType::*;
    let target = match column.data_type() {
        Dictionary(_, values) => return plain(&cast(column, values).map_err(|e| e.to_string())?),
        Utf8 | Int64 | Float64 | Boolean => return Ok(column.clone()),
        Utf8View | LargeUtf8 | Null => Utf8,
        Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 => Int64,
        UInt64 => return exact(column, Int64),
        Float16 | Float32 | Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => {
            Float64
        }
        Timestamp(_, zone) => return exact(column, Timestamp(TimeUnit::Nanosecond, zone.clone())),
        // Other types can be selected as long as nobody asks for them.
        _ => return Ok(column.clone()),
    };
    cast(column, &target).map_err(|e| e.to_string())
}

/// A cast that refuses what does not fit, instead of making it null.
fn exact(column: &ArrayRef, target: DataType) -> Result<ArrayRef, String> {
    let cast = cast(column, &target).map_err(|e| e.to_string())?;
    if cast.null_count() != column.null_count() {
        return Err(format!("a value does not fit {target}"));
    }
    Ok(Arc::clone(&cast))
}

fn error(column: &str, problem: String) -> ColumnError {
    ColumnError { column: column.to_owned(), problem }
}

fn mismatch(column: &str, array: &ArrayRef, wanted: &str) -> ColumnError {
    error(column, format!("is {}, not {wanted}", array.data_type()))
}

fn null(column: &str) -> ColumnError {
    error(column, "is null".to_owned())
}
