//! Spans, their events and links.

use super::{Attributes, last_varint, next_nested, text};
use crate::wire::{Fields, Value, WireError};

/// A `Span`. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct SpanView<'a> {
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// 8 bytes; none for a root.
    pub parent_span_id: &'a [u8],
    /// W3C `tracestate`.
    pub trace_state: &'a str,
    /// Bits 0-7 W3C flags, 8 and 9 whether the parent is remote.
    pub flags: u32,
    /// The operation.
    pub name: &'a str,
    /// `SpanKind`; senders may use numbers that are not defined.
    pub kind: i32,
    /// Start.
    pub start_time_unix_nano: u64,
    /// End.
    pub end_time_unix_nano: u64,
    /// `StatusCode`: 0 unset, 1 ok, 2 error.
    pub status_code: i32,
    /// The message of the status.
    pub status_message: &'a str,
    fields: Fields<'a>,
    attributes: Attributes<'a>,
}

impl<'a> SpanView<'a> {
    pub(crate) fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut span = SpanView {
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            trace_state: "",
            flags: 0,
            name: "",
            kind: 0,
            start_time_unix_nano: 0,
            end_time_unix_nano: 0,
            status_code: 0,
            status_message: "",
            fields,
            attributes: Attributes::new(Fields::new(&[]), 9),
        };
        let mut rest = fields;
        // Attributes lie side by side; remembering where spares a walk over the other fields.
        let mut from = None;
        while let Some(field) = rest.next_field()? {
            match (field.number, field.value) {
                (1, Value::Len(id)) => span.trace_id = id,
                (2, Value::Len(id)) => span.span_id = id,
                (3, Value::Len(bytes)) => span.trace_state = text(&field, bytes, "traceState")?,
                (4, Value::Len(id)) => span.parent_span_id = id,
                (5, Value::Len(bytes)) => span.name = text(&field, bytes, "name")?,
                (6, Value::Varint(kind)) => span.kind = kind as i32,
                (7, Value::Fixed64(time)) => span.start_time_unix_nano = time,
                (8, Value::Fixed64(time)) => span.end_time_unix_nano = time,
                (9, Value::Len(_)) => {
                    let from = *from.get_or_insert(field.start);
                    span.attributes = Attributes::new(rest.between(from, field.end), 9);
                }
                (15, Value::Len(_)) => span.status(rest.nested(&field))?,
                (16, Value::Fixed32(flags)) => span.flags = flags,
                _ => {}
            }
        }
        Ok(span)
    }

    fn status(&mut self, mut fields: Fields<'a>) -> Result<(), WireError> {
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (2, Value::Len(bytes)) => self.status_message = text(&field, bytes, "message")?,
                (3, Value::Varint(code)) => self.status_code = code as i32,
                _ => {}
            }
        }
        Ok(())
    }

    /// The attributes in their order, duplicates included.
    pub fn attributes(&self) -> Attributes<'a> {
        self.attributes
    }

    /// The events.
    pub fn events(&self) -> Events<'a> {
        Events { fields: self.fields }
    }

    /// The links to other spans.
    pub fn links(&self) -> Links<'a> {
        Links { fields: self.fields }
    }

    /// How many attributes the sender left out.
    pub fn dropped_attributes_count(&self) -> u32 {
        last_varint(self.fields, 10) as u32
    }

    /// How many events the sender left out.
    pub fn dropped_events_count(&self) -> u32 {
        last_varint(self.fields, 12) as u32
    }

    /// How many links the sender left out.
    pub fn dropped_links_count(&self) -> u32 {
        last_varint(self.fields, 14) as u32
    }
}

/// Iterator over the events of a span.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    fields: Fields<'a>,
}

/// Something that happened during a span.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// When, nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// What; `exception` for exceptions.
    pub name: &'a str,
    fields: Fields<'a>,
}

impl<'a> EventView<'a> {
    fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut event = EventView { time_unix_nano: 0, name: "", fields };
        for field in fields {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Fixed64(time)) => event.time_unix_nano = time,
                (2, Value::Len(bytes)) => event.name = text(&field, bytes, "name")?,
                _ => {}
            }
        }
        Ok(event)
    }

    /// The attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.fields, 3)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<EventView<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, 11).map(|fields| fields.and_then(EventView::new))
    }
}

/// Iterator over the links of a span.
#[derive(Clone, Debug)]
pub struct Links<'a> {
    fields: Fields<'a>,
}

/// A pointer to another span.
#[derive(Clone, Copy, Debug)]
pub struct LinkView<'a> {
    /// 16 bytes.
    pub trace_id: &'a [u8],
    /// 8 bytes.
    pub span_id: &'a [u8],
    /// W3C `tracestate` of the other span.
    pub trace_state: &'a str,
    /// As in [`SpanView::flags`].
    pub flags: u32,
    fields: Fields<'a>,
}

impl<'a> LinkView<'a> {
    fn new(fields: Fields<'a>) -> Result<Self, WireError> {
        let mut link = LinkView { trace_id: &[], span_id: &[], trace_state: "", flags: 0, fields };
        for field in fields {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(id)) => link.trace_id = id,
                (2, Value::Len(id)) => link.span_id = id,
                (3, Value::Len(bytes)) => link.trace_state = text(&field, bytes, "traceState")?,
                (6, Value::Fixed32(flags)) => link.flags = flags,
                _ => {}
            }
        }
        Ok(link)
    }

    /// The attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.fields, 4)
    }
}

impl<'a> Iterator for Links<'a> {
    type Item = Result<LinkView<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, 13).map(|fields| fields.and_then(LinkView::new))
    }
}
