//! Adding attributes to a request without decoding it.
//!
//! The new attributes are put behind the last field of a record (or of a resource); the lengths of the
//! messages around it are rewritten; every other byte is copied as it came, in one pass, into one
//! buffer of exactly the right size. A request that nothing touches is returned as it is.

use bytes::Bytes;
use memchr::memmem;

use crate::{
    attr::{self, STORY_PREFIX},
    signal::Signal,
    view::{Record, ResourceGroup, ResourceView},
    wire::{
        Field, Fields, Value, WireError, put_fixed64_field, put_len_field, put_message, put_varint,
        put_varint_field, varint_len,
    },
};

/// What to add to the records of one resource. The bytes are `repeated KeyValue` fields, made with
/// [`encode_attributes`].
pub enum Decision<'e> {
    /// Nothing.
    Nothing,
    /// The same to each record. A record that carries a `tapio.story.*` attribute already keeps its
    /// own: another Tapio was here before.
    All(&'e [u8]),
    /// What the function says of each record.
    #[expect(clippy::type_complexity, reason = "it is what it is, and named only here")]
    Each(Box<dyn FnMut(&Record<'_>) -> Option<&'e [u8]> + 'e>),
    /// To the resource itself: attributes in field 1.
    Resource(&'e [u8]),
}

/// Adds to the records what `decide` says of their resource.
///
/// Errors where the bytes are not well-formed; bytes that passed [`check`](crate::check()) are.
/// Metrics have no attributes on their records: for them only [`Decision::Resource`] adds anything.
pub fn splice<'e>(
    signal: Signal,
    bytes: &Bytes,
    mut decide: impl FnMut(&ResourceView<'_>) -> Decision<'e>,
) -> Result<Bytes, WireError> {
    let mut plan = Plan { bytes, edits: Vec::new(), grown: 0 };
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next_field()? {
        if field.number != 1 || !matches!(field.value, Value::Len(_)) {
            continue;
        }
        let inner = fields.nested(&field);
        let decision = decide(&ResourceGroup::new(signal, inner)?.resource());
        plan.message(&field, |plan| plan.group(signal, inner, decision))?;
    }
    Ok(if plan.edits.is_empty() { bytes.clone() } else { plan.carry_out().into() })
}

/// Does the record's serialized message carry an attribute `tapio.story.*` in the field `attributes`?
pub fn carries_story(record: &[u8], attributes: u32) -> bool {
    marked(Fields::new(record), attributes)
}

/// Encodes attributes as `repeated KeyValue` in the field `number`.
pub fn encode_attributes(number: u32, attributes: &[(&str, attr::Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in attributes {
        put_message(&mut out, number, |out| {
            put_len_field(out, 1, key.as_bytes());
            put_message(out, 2, |out| match *value {
                attr::Value::Text(text) => put_len_field(out, 1, text.as_bytes()),
                attr::Value::Bool(value) => put_varint_field(out, 2, u64::from(value)),
                attr::Value::Int(value) => put_varint_field(out, 3, value as u64),
                attr::Value::Double(value) => put_fixed64_field(out, 4, value.to_bits()),
            });
        });
    }
    out
}

/// A change at a position of the request.
struct Edit<'e> {
    at: usize,
    what: What<'e>,
}

enum What<'e> {
    /// Another length instead of the one that takes `old` bytes here.
    Length { old: usize, new: usize },
    /// These bytes before what is here.
    Insert(&'e [u8]),
    /// A field 1 with these bytes before what is here.
    InsertField(&'e [u8]),
}

/// The changes to a request in the order of their positions, and how much longer it gets by them.
struct Plan<'b, 'e> {
    bytes: &'b [u8],
    edits: Vec<Edit<'e>>,
    grown: usize,
}

impl<'e> Plan<'_, 'e> {
    /// A resource and its scopes.
    fn group(
        &mut self,
        signal: Signal,
        mut fields: Fields<'_>,
        mut decision: Decision<'e>,
    ) -> Result<(), WireError> {
        let attributes = match (&decision, signal.record_attributes_field()) {
            (Decision::Nothing, _) => return Ok(()),
            (Decision::Resource(extra), _) => return self.resource(fields, extra),
            (_, None) => return Ok(()),
            (_, Some(number)) => number,
        };
        // One search over the whole resource spares the look into each record.
        let seen_before = matches!(decision, Decision::All(_))
            && memmem::find(fields.rest(), STORY_PREFIX.as_bytes()).is_some();
        while let Some(scope) = fields.next_field()? {
            if scope.number != 2 || !matches!(scope.value, Value::Len(_)) {
                continue;
            }
            let mut records = fields.nested(&scope);
            self.message(&scope, |plan| {
                while let Some(record) = records.next_field()? {
                    let (2, Value::Len(_)) = (record.number, record.value) else { continue };
                    let extra = match &mut decision {
                        Decision::All(_)
                            if seen_before && marked(records.nested(&record), attributes) =>
                        {
                            None
                        }
                        Decision::All(extra) => Some(*extra),
                        Decision::Each(decide) => Record::new(signal, records.nested(&record))?
                            .and_then(|record| decide(&record)),
                        Decision::Nothing | Decision::Resource(_) => None,
                    };
                    if let Some(extra) = extra {
                        plan.append(&record, extra);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Attributes for the resource of a group, which gets one if it has none.
    fn resource(&mut self, mut fields: Fields<'_>, extra: &'e [u8]) -> Result<(), WireError> {
        let start = fields.position();
        while let Some(field) = fields.next_field()? {
            if let (1, Value::Len(_)) = (field.number, field.value) {
                self.append(&field, extra);
                return Ok(());
            }
        }
        if !extra.is_empty() {
            self.edits.push(Edit { at: start, what: What::InsertField(extra) });
            self.grown += 1 + varint_len(extra.len() as u64) + extra.len();
        }
        Ok(())
    }

    /// Plans `extra` at the end of the message in `field`.
    #[inline]
    fn append(&mut self, field: &Field<'_>, extra: &'e [u8]) {
        if extra.is_empty() {
            return;
        }
        let (old_len, len) = (field.end - field.body, field.end - field.body + extra.len());
        let at = self.length_at(field);
        self.edits.push(Edit { at, what: What::Length { old: field.body - at, new: len } });
        self.edits.push(Edit { at: field.end, what: What::Insert(extra) });
        self.grown += len - old_len + varint_len(len as u64) - (field.body - at);
    }

    /// Plans what `inner` plans inside the message in `field`, and before that its new length.
    fn message(
        &mut self,
        field: &Field<'_>,
        inner: impl FnOnce(&mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let (slot, before) = (self.edits.len(), self.grown);
        let at = self.length_at(field);
        let old = field.body - at;
        self.edits.push(Edit { at, what: What::Length { old, new: 0 } });
        inner(self)?;
        if self.edits.len() == slot + 1 {
            self.edits.truncate(slot);
            return Ok(());
        }
        let new = field.end - field.body + (self.grown - before);
        self.grown = self.grown + varint_len(new as u64) - old;
        self.edits[slot].what = What::Length { old, new };
        Ok(())
    }

    /// Where the length of a message stands: behind the tag, which a sender may have written longer
    /// than need be.
    #[inline]
    fn length_at(&self, field: &Field<'_>) -> usize {
        let tag = self.bytes[field.start..field.body].iter().position(|byte| *byte < 0x80);
        field.start + tag.map_or(0, |last| last + 1)
    }

    /// Copies the request with the changes.
    fn carry_out(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + self.grown);
        let mut from = 0;
        for edit in self.edits {
            out.extend_from_slice(&self.bytes[from..edit.at]);
            from = edit.at;
            match edit.what {
                What::Length { old, new } => {
                    put_varint(&mut out, new as u64);
                    from += old;
                }
                What::Insert(extra) => out.extend_from_slice(extra),
                What::InsertField(extra) => put_len_field(&mut out, 1, extra),
            }
        }
        out.extend_from_slice(&self.bytes[from..]);
        out
    }
}

fn marked(record: Fields<'_>, attributes: u32) -> bool {
    record.flatten().any(|field| match field.value {
        Value::Len(kv) if field.number == attributes => Fields::new(kv).flatten().any(|field| {
            matches!(field.value, Value::Len(key) if field.number == 1 && key.starts_with(STORY_PREFIX.as_bytes()))
        }),
        _ => false,
    })
}
