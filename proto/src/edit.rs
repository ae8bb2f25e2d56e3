//! Changing attributes of a request without decoding it: values replaced, attributes taken away and
//! added, on resources or on records (spans, log records, data points).
//!
//! What is not changed is copied as it came: unknown fields, the order, duplicates. New attributes come
//! behind the last field of their message.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;

use crate::{
    plan::Plan,
    schema::{self, Kind, Message},
    signal::Signal,
    view::{AnyValue, Record, ResourceGroup, ResourceView, ScopeGroup, raw},
    wire::{Field, Fields, Value, WireError, put_len_field, put_message},
};

/// What to edit in the records of a request. Each level is asked before those below it.
pub trait Editor<'a> {
    /// Is anything to be edited below this resource?
    fn resource(&mut self, resource: &ResourceView<'a>) -> bool;

    /// Is anything to be edited in this scope?
    fn scope(&mut self, scope: &ScopeGroup<'a>) -> bool;

    /// Is this span, log record or metric to be edited?
    fn record(&mut self, record: &Unread<'a>) -> bool;

    /// Edits the attributes of a span, a log record, or of one data point of a metric.
    fn edit(&mut self, attributes: &mut AttributeList<'a>);
}

/// A span, log record or metric that is read only when somebody looks.
pub struct Unread<'a> {
    signal: Signal,
    fields: Fields<'a>,
}

impl<'a> Unread<'a> {
    /// Reads it; `None` for what is malformed.
    pub fn read(&self) -> Option<Record<'a>> {
        Record::new(self.signal, self.fields).ok().flatten()
    }
}

/// Edits the attributes of the records that `editor` picks.
///
/// Errors where the bytes are not well-formed; bytes that passed [`check`](crate::check()) are.
/// Profiles are returned as they are.
pub fn edit_records<'a>(
    signal: Signal,
    bytes: &'a Bytes,
    editor: &mut impl Editor<'a>,
) -> Result<Bytes, WireError> {
    let mut walk = Walk { plan: Plan::new(bytes), list: AttributeList::default(), editor };
    let (Some(record), Some(mut groups)) = (record_message(signal), groups(signal, bytes)) else {
        return Ok(bytes.clone());
    };
    while let Some(group) = next_message(&mut groups, 1)? {
        let mut scopes = groups.nested(&group);
        if !walk.editor.resource(&ResourceGroup::new(signal, scopes)?.resource()) {
            continue;
        }
        let open_group = walk.plan.open(&group);
        while let Some(scope) = next_message(&mut scopes, 2)? {
            let mut records = scopes.nested(&scope);
            if !walk.editor.scope(&ScopeGroup::new(signal, records)?) {
                continue;
            }
            let open_scope = walk.plan.open(&scope);
            while let Some(field) = next_message(&mut records, 2)? {
                let fields = records.nested(&field);
                if walk.editor.record(&Unread { signal, fields }) {
                    walk.items(record, &field, fields)?;
                }
            }
            walk.plan.close(open_scope);
        }
        walk.plan.close(open_group);
    }
    Ok(walk.plan.carry_out(bytes))
}

/// Edits the attributes of each resource. A group that has none gets one if attributes are added.
///
/// Errors where the bytes are not well-formed; bytes that passed [`check`](crate::check()) are.
/// Profiles are returned as they are.
pub fn edit_resources<'a>(
    signal: Signal,
    bytes: &'a Bytes,
    mut edit: impl FnMut(&mut AttributeList<'a>),
) -> Result<Bytes, WireError> {
    let mut plan = Plan::new(bytes);
    let mut list = AttributeList::default();
    let Some(mut groups) = groups(signal, bytes) else { return Ok(bytes.clone()) };
    while let Some(group) = next_message(&mut groups, 1)? {
        let mut fields = groups.nested(&group);
        let start = fields.position();
        let open = plan.open(&group);
        match next_message(&mut fields, 1)? {
            Some(resource) => {
                list.read(fields.nested(&resource), 1)?;
                edit(&mut list);
                list.write(&mut plan, &resource, 1);
            }
            None => {
                list.entries.clear();
                edit(&mut list);
                if list.entries.iter().any(|entry| entry.state != State::Gone) {
                    plan.replace(start..start, |out, _| {
                        put_message(out, 1, |resource| list.write_new(resource, 1));
                    });
                }
            }
        }
        plan.close(open);
    }
    Ok(plan.carry_out(bytes))
}

/// The `Resource<Signal>` groups; `None` for profiles, in which nothing was checked.
fn groups(signal: Signal, bytes: &[u8]) -> Option<Fields<'_>> {
    (signal != Signal::Profiles).then(|| Fields::new(bytes))
}

/// Request, group, scope, record: the message of a span, a log record or a metric.
fn record_message(signal: Signal) -> Option<&'static Message> {
    let below = |message: &'static Message, number| match message.field(number)?.kind {
        Kind::Message(inner) => Some(inner),
        _ => None,
    };
    below(below(below(schema::request(signal), 1)?, 2)?, 2)
}

/// The next message in the field `number`.
#[inline]
fn next_message<'a>(fields: &mut Fields<'a>, number: u32) -> Result<Option<Field<'a>>, WireError> {
    while let Some(field) = fields.next_field()? {
        if field.number == number && matches!(field.value, Value::Len(_)) {
            return Ok(Some(field));
        }
    }
    Ok(None)
}

struct Walk<'w, 'a, E> {
    plan: Plan<'a, 'a>,
    list: AttributeList<'a>,
    editor: &'w mut E,
}

impl<'a, E: Editor<'a>> Walk<'_, 'a, E> {
    /// A span or a log record has attributes of its own; those of a metric are on its data points.
    fn items(
        &mut self,
        message: &'static Message,
        field: &Field<'a>,
        fields: Fields<'a>,
    ) -> Result<(), WireError> {
        if message.item {
            if let Some(attributes) = message.named("attributes") {
                self.list.read(fields, attributes.number)?;
                self.editor.edit(&mut self.list);
                self.list.write(&mut self.plan, field, attributes.number);
            }
            return Ok(());
        }
        let open = self.plan.open(field);
        let mut rest = fields;
        while let Some(inner) = rest.next_field()? {
            let known = message.field(inner.number).map(|known| known.kind);
            if let (Some(Kind::Message(below)), Value::Len(_)) = (known, inner.value)
                && holds_items(below)
            {
                self.items(below, &inner, rest.nested(&inner))?;
            }
        }
        self.plan.close(open);
        Ok(())
    }
}

/// Is this an item, or a message of items (`Gauge` of data points)?
fn holds_items(message: &Message) -> bool {
    message.item
        || message.fields.iter().any(|field| matches!(field.kind, Kind::Message(m) if m.item))
}

/// The attributes of one resource or record, to be looked at and changed.
///
/// Keys should be unique and sometimes are not. A value is read from the first attribute with its key,
/// and a change is one to all of them, so that nothing that was to be hidden stays in a second one.
#[derive(Default)]
pub struct AttributeList<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    key: Cow<'a, str>,
    /// A serialized `AnyValue`.
    value: Cow<'a, [u8]>,
    /// The field that it came in; empty for a new one.
    field: Range<usize>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Same,
    Changed,
    Gone,
}

impl<'a> AttributeList<'a> {
    /// The serialized `AnyValue` of an attribute.
    pub fn get(&self, key: &str) -> Option<&Cow<'a, [u8]>> {
        self.present().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of an attribute.
    pub fn value(&self, key: &str) -> Option<AnyValue<'_>> {
        self.get(key).map(|value| AnyValue::decode(value))
    }

    /// The text of an attribute that is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    /// Adds an attribute behind the others, whether or not there is one with this key.
    pub fn push(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        let (key, value) = (key.into(), value.into());
        self.entries.push(Entry { key, value, field: 0..0, state: State::Changed });
    }

    /// Gives an attribute another value, if there is one with this key.
    pub fn replace(&mut self, key: &str, value: impl Into<Cow<'a, [u8]>>) {
        let value = value.into();
        for entry in self.entries.iter_mut().filter(|entry| entry.is(key)) {
            entry.set(value.clone());
        }
    }

    /// Gives an attribute this value, whether or not it was there.
    pub fn set(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        let key = key.into();
        if self.get(&key).is_some() {
            self.replace(&key, value);
        } else {
            self.push(key, value);
        }
    }

    /// Takes away the attributes whose key is picked.
    pub fn remove(&mut self, mut picked: impl FnMut(&str) -> bool) {
        for entry in &mut self.entries {
            if entry.state != State::Gone && picked(&entry.key) {
                entry.state = State::Gone;
            }
        }
    }

    /// Computes new values for the attributes whose key is picked; `None` leaves one as it is.
    pub fn change(
        &mut self,
        mut picked: impl FnMut(&str) -> bool,
        mut change: impl FnMut(&AnyValue<'_>) -> Option<Vec<u8>>,
    ) {
        for entry in &mut self.entries {
            if entry.state != State::Gone
                && picked(&entry.key)
                && let Some(value) = change(&AnyValue::decode(&entry.value))
            {
                entry.set(value.into());
            }
        }
    }

    fn present(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|entry| entry.state != State::Gone)
    }

    /// The attributes in the field `number` of a message.
    fn read(&mut self, mut fields: Fields<'a>, number: u32) -> Result<(), WireError> {
        self.entries.clear();
        while let Some(field) = next_message(&mut fields, number)? {
            let (key, value) = raw(fields.nested(&field))?;
            // The lossy reader is the slower one, and not needed for what passed the check.
            let key =
                std::str::from_utf8(key).map_or_else(|_| String::from_utf8_lossy(key), Cow::from);
            self.entries.push(Entry {
                key,
                value: value.rest().into(),
                field: field.start..field.end,
                state: State::Same,
            });
        }
        Ok(())
    }

    /// Plans what has changed in the message of `field`.
    fn write(&self, plan: &mut Plan<'a, 'a>, field: &Field<'a>, number: u32) {
        if self.entries.iter().all(|entry| entry.state == State::Same) {
            return;
        }
        let open = plan.open(field);
        for entry in self.entries.iter().filter(|entry| !entry.is_new()) {
            match entry.state {
                State::Same => {}
                State::Gone => plan.replace(entry.field.clone(), |_, _| {}),
                State::Changed => plan.replace(entry.field.clone(), |out, bytes| {
                    put_message(out, number, |out| entry.rewrite(bytes, out));
                }),
            }
        }
        plan.replace(field.end..field.end, |out, _| self.write_new(out, number));
        plan.close(open);
    }

    fn write_new(&self, out: &mut Vec<u8>, number: u32) {
        for entry in self.present().filter(|entry| entry.is_new()) {
            put_message(out, number, |out| {
                put_len_field(out, 1, entry.key.as_bytes());
                put_len_field(out, 2, &entry.value);
            });
        }
    }
}

impl<'a> Entry<'a> {
    fn is(&self, key: &str) -> bool {
        self.state != State::Gone && self.key == key
    }

    fn set(&mut self, value: Cow<'a, [u8]>) {
        if self.value != value {
            (self.value, self.state) = (value, State::Changed);
        }
    }

    fn is_new(&self) -> bool {
        self.field.is_empty()
    }

    /// The `KeyValue` that it was in the request's `bytes`, with the new value where the old one stood.
    fn rewrite(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut whole = Fields::within(bytes, self.field.start, self.field.end);
        let Ok(Some(old)) = whole.next_field() else { return };
        let mut written = false;
        for field in whole.nested(&old).flatten() {
            if field.number != 2 {
                out.extend_from_slice(&bytes[field.start..field.end]);
            } else if !written {
                put_len_field(out, 2, &self.value);
                written = true;
            }
        }
        if !written {
            put_len_field(out, 2, &self.value);
        }
    }
}
