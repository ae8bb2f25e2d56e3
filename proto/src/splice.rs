//! Attributes into a request without decoding it: the new bytes go behind the record's own, the
//! lengths of what encloses it are rewritten, everything else is copied as it was, once.

use bytes::Bytes;

use crate::{
    attr,
    signal::Signal,
    view::ResourceView,
    wire::{Field, Fields, Value, WireError, put_fixed64, put_len, put_tag, put_varint, varint_len},
};

/// What is to be added to the records of one resource.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Nothing; its bytes are copied, or the whole request is left as it is.
    Nothing,
    /// These bytes to each of its records: fields as [`encode_attributes`] makes them.
    All(&'a [u8]),
}

/// A spliced request.
#[derive(Clone, Debug)]
pub struct Spliced {
    /// The request; the same buffer that came in when nothing was added.
    pub bytes: Bytes,
    /// Records that were added to.
    pub touched: usize,
}

/// Adds attributes to spans or log records. A record that carries `tapio.story.id` already is left as
/// it is, so that two Tapios in a row do not add twice.
///
/// Signals whose records have no attributes of their own (metrics, profiles) are returned as they came.
pub fn splice<'d>(
    signal: Signal,
    bytes: &Bytes,
    mut decide: impl FnMut(&ResourceView<'_>) -> Decision<'d>,
) -> Result<Spliced, WireError> {
    let Some(attributes) = signal.record_attributes_field() else {
        return Ok(Spliced { bytes: bytes.clone(), touched: 0 });
    };
    // The resources to be touched, where they lie, and by how much they and their scopes grow.
    let mut plan: Vec<Touched<'d>> = Vec::new();
    for field in Fields::new(bytes) {
        let field = field?;
        let (1, Value::Len(group)) = (field.number, field.value) else { continue };
        let resource = last(group, field.content, 1)?.unwrap_or_default();
        if let Decision::All(extra) = decide(&ResourceView::new(resource)) {
            let touched = Touched::measure(&field, group, extra, attributes)?;
            plan.extend((touched.records > 0).then_some(touched));
        }
    }
    if plan.is_empty() {
        return Ok(Spliced { bytes: bytes.clone(), touched: 0 });
    }
    // Tag and length of a resource group take at most 11 bytes.
    let room: usize = plan.iter().map(|t| usize::try_from(t.growth).unwrap_or(0) + 11).sum();
    let mut out = Vec::with_capacity(bytes.len() + room);
    let mut copied = 0;
    for touched in &plan {
        out.extend_from_slice(&bytes[copied..touched.start]);
        touched.write(bytes, attributes, &mut out)?;
        copied = touched.end;
    }
    out.extend_from_slice(&bytes[copied..]);
    Ok(Spliced { bytes: out.into(), touched: plan.iter().map(|t| t.records).sum() })
}

/// A resource group that grows.
struct Touched<'d> {
    start: usize,
    content: usize,
    end: usize,
    extra: &'d [u8],
    scopes: Vec<Scope>,
    records: usize,
    /// Bytes that the content of the group grows by. A length that was not written as short as it could
    /// be is written so now, so that this may even be less than what is added.
    growth: isize,
}

/// A scope group within it.
struct Scope {
    start: usize,
    content: usize,
    end: usize,
    growth: isize,
}

impl<'d> Touched<'d> {
    fn measure(at: &Field<'_>, group: &[u8], extra: &'d [u8], attributes: u32) -> Result<Self, WireError> {
        let Field { start, content, end, .. } = *at;
        let mut touched = Touched { start, content, end, extra, scopes: Vec::new(), records: 0, growth: 0 };
        for field in Fields::at(group, content) {
            let field = field?;
            let (2, Value::Len(scope)) = (field.number, field.value) else { continue };
            let mut growth = 0_isize;
            let before = touched.records;
            for record in Fields::at(scope, field.content) {
                let record = record?;
                let (2, Value::Len(bytes)) = (record.number, record.value) else { continue };
                if carries_story(bytes, attributes)? {
                    continue;
                }
                growth += extra.len() as isize + header_grows(&record, bytes.len() + extra.len());
                touched.records += 1;
            }
            if touched.records > before {
                touched.growth += growth + header_grows(&field, scope.len().saturating_add_signed(growth));
                touched.scopes.push(Scope { start: field.start, content: field.content, end: field.end, growth });
            }
        }
        Ok(touched)
    }

    /// Length of the content once it has grown.
    fn length(&self) -> usize {
        (self.end - self.content).saturating_add_signed(self.growth)
    }

    fn write(&self, bytes: &[u8], attributes: u32, out: &mut Vec<u8>) -> Result<(), WireError> {
        put_tag(out, 1, 2);
        put_varint(out, self.length() as u64);
        let mut copied = self.content;
        for scope in &self.scopes {
            out.extend_from_slice(&bytes[copied..scope.start]);
            put_tag(out, 2, 2);
            put_varint(out, (scope.end - scope.content).saturating_add_signed(scope.growth) as u64);
            self.write_scope(bytes, scope, attributes, out)?;
            copied = scope.end;
        }
        out.extend_from_slice(&bytes[copied..self.end]);
        Ok(())
    }

    fn write_scope(&self, bytes: &[u8], scope: &Scope, attributes: u32, out: &mut Vec<u8>) -> Result<(), WireError> {
        let mut copied = scope.content;
        for record in Fields::at(&bytes[scope.content..scope.end], scope.content) {
            let record = record?;
            let (2, Value::Len(content)) = (record.number, record.value) else { continue };
            if carries_story(content, attributes)? {
                continue;
            }
            out.extend_from_slice(&bytes[copied..record.start]);
            put_tag(out, 2, 2);
            put_varint(out, (content.len() + self.extra.len()) as u64);
            out.extend_from_slice(content);
            out.extend_from_slice(self.extra);
            copied = record.end;
        }
        out.extend_from_slice(&bytes[copied..scope.end]);
        Ok(())
    }
}

/// Bytes that tag and length of a field grow by when its content gets a new length.
fn header_grows(field: &Field<'_>, length: usize) -> isize {
    (1 + varint_len(length as u64)) as isize - (field.content - field.start) as isize
}

/// Content of the last field of that number.
fn last(bytes: &[u8], base: usize, number: u32) -> Result<Option<&[u8]>, WireError> {
    let mut found = None;
    for field in Fields::at(bytes, base) {
        let field = field?;
        if let (true, Value::Len(content)) = (field.number == number, field.value) {
            found = Some(content);
        }
    }
    Ok(found)
}

/// Has a Tapio before this one marked the record?
fn carries_story(record: &[u8], attributes: u32) -> Result<bool, WireError> {
    for field in Fields::new(record) {
        let field = field?;
        if let (true, Value::Len(pair)) = (field.number == attributes, field.value)
            && last(pair, 0, 1)? == Some(attr::STORY_ID.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `repeated KeyValue` fields of that number, ready to be spliced.
pub fn encode_attributes(field: u32, attributes: &[(&str, attr::Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in attributes {
        put_len(&mut out, field, &encode_key_value(key, *value));
    }
    out
}

/// A serialized `KeyValue`.
pub fn encode_key_value(key: &str, value: attr::Value<'_>) -> Vec<u8> {
    let mut any = Vec::new();
    match value {
        attr::Value::Text(text) => put_len(&mut any, 1, text.as_bytes()),
        attr::Value::Bool(value) => {
            put_tag(&mut any, 2, 0);
            put_varint(&mut any, u64::from(value));
        }
        attr::Value::Int(value) => {
            put_tag(&mut any, 3, 0);
            put_varint(&mut any, value as u64);
        }
        attr::Value::Double(value) => put_fixed64(&mut any, 4, value.to_bits()),
    }
    let mut pair = Vec::new();
    put_len(&mut pair, 1, key.as_bytes());
    put_len(&mut pair, 2, &any);
    pair
}
