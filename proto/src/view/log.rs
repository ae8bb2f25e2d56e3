//! Log records.

use super::{AnyValue, Attributes, last_varint, text};
use crate::wire::{Fields, Value, WireError};

/// A `LogRecord`. Times are nanoseconds since the Unix epoch, 0 for unknown.
#[derive(Clone, Copy, Debug)]
pub struct LogView<'a> {
    /// When it happened.
    pub time_unix_nano: u64,
    /// When it was seen.
    pub observed_time_unix_nano: u64,
    /// `SeverityNumber`, 1-24; 0 unspecified; senders may use numbers that are not defined.
    pub severity_number: i32,
    /// The severity in the source's own words.
    pub severity_text: &'a str,
    /// The body; `None` if there is none.
    pub body: Option<AnyValue<'a>>,
    /// W3C flags in bits 0-7.
    pub flags: u32,
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// The kind of event, if the record is one.
    pub event_name: &'a str,
    fields: Fields<'a>,
    attributes: Attributes<'a>,
}

impl<'a> LogView<'a> {
    pub(crate) fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut log = LogView {
            time_unix_nano: 0,
            observed_time_unix_nano: 0,
            severity_number: 0,
            severity_text: "",
            body: None,
            flags: 0,
            trace_id: &[],
            span_id: &[],
            event_name: "",
            fields,
            attributes: Attributes::new(Fields::new(&[]), 6),
        };
        let mut rest = fields;
        let mut from = None;
        while let Some(field) = rest.next_field()? {
            match (field.number, field.value) {
                (1, Value::Fixed64(time)) => log.time_unix_nano = time,
                (2, Value::Varint(severity)) => log.severity_number = severity as i32,
                (3, Value::Len(bytes)) => log.severity_text = text(&field, bytes, "severityText")?,
                (5, Value::Len(_)) => log.body = Some(AnyValue::new(rest.nested(&field))?),
                (6, Value::Len(_)) => {
                    let from = *from.get_or_insert(field.start);
                    log.attributes = Attributes::new(rest.between(from, field.end), 6);
                }
                (8, Value::Fixed32(flags)) => log.flags = flags,
                (9, Value::Len(id)) => log.trace_id = id,
                (10, Value::Len(id)) => log.span_id = id,
                (11, Value::Fixed64(time)) => log.observed_time_unix_nano = time,
                (12, Value::Len(bytes)) => log.event_name = text(&field, bytes, "eventName")?,
                _ => {}
            }
        }
        Ok(log)
    }

    /// The attributes in their order, duplicates included.
    pub fn attributes(&self) -> Attributes<'a> {
        self.attributes
    }

    /// The first attribute with this key.
    pub fn attribute(&self, key: &str) -> Option<AnyValue<'a>> {
        self.attributes().flatten().find(|attribute| attribute.key == key).map(|a| a.value)
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        last_varint(self.fields, 7) as u32
    }
}
