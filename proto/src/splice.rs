//! Adding attributes to a request without decoding it.
//!
//! The new attributes are put behind the last field of a record (or of a resource); the lengths of the
//! messages around it are rewritten; every other byte is copied as it came, in one pass, into one
//! buffer of exactly the right size. A request that nothing touches is returned as it is.

use bytes::Bytes;
use memchr::memmem;

use crate::{
    attr::{self, STORY_PREFIX},
    plan::Plan,
    signal::Signal,
    view::{Record, ResourceGroup, ResourceView},
    wire::{
        Fields, Value, WireError, put_fixed64_field, put_len_field, put_message, put_varint_field,
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
/// Profiles are passed on as they are.
pub fn splice<'e>(
    signal: Signal,
    bytes: &Bytes,
    mut decide: impl FnMut(&ResourceView<'_>) -> Decision<'e>,
) -> Result<Bytes, WireError> {
    if signal == Signal::Profiles {
        // Opaque: nothing in them was checked.
        return Ok(bytes.clone());
    }
    let mut plan = Plan::new(bytes);
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next_field()? {
        if field.number != 1 || !matches!(field.value, Value::Len(_)) {
            continue;
        }
        let inner = fields.nested(&field);
        let decision = decide(&ResourceGroup::new(signal, inner)?.resource());
        plan.message(&field, |plan| plan.group(signal, inner, decision))?;
    }
    Ok(plan.carry_out(bytes))
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
        self.insert_field(start, extra);
        Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// One resource with the service `name` and `spans` spans.
    fn group(out: &mut Vec<u8>, name: &str, spans: usize) {
        put_message(out, 1, |group| {
            put_message(group, 1, |resource| {
                resource
                    .extend(encode_attributes(1, &[(attr::SERVICE_NAME, attr::Value::Text(name))]));
            });
            put_message(group, 2, |scope| {
                (0..spans).for_each(|_| put_len_field(scope, 2, b"\x2a\x01n"))
            });
        });
    }

    #[test]
    fn only_the_resources_that_are_meant_are_touched() {
        let (mut request, mut after) = (Vec::new(), Vec::new());
        group(&mut request, "cart", 1);
        let first = request.len();
        group(&mut request, "shop", 2);
        let request = Bytes::from(request);
        let extra = encode_attributes(9, &[(attr::STORY_ID, attr::Value::Text("s"))]);
        let out = splice(Signal::Traces, &request, |resource| {
            match resource.attribute(attr::SERVICE_NAME).and_then(|value| value.as_str()) {
                Some("cart") => Decision::All(&extra),
                _ => Decision::Nothing,
            }
        });
        let out = out.unwrap();
        put_message(&mut after, 1, |group| {
            put_message(group, 1, |resource| {
                resource.extend(encode_attributes(
                    1,
                    &[(attr::SERVICE_NAME, attr::Value::Text("cart"))],
                ));
            });
            put_message(group, 2, |scope| {
                put_len_field(scope, 2, &[b"\x2a\x01n", &extra[..]].concat())
            });
        });
        after.extend_from_slice(&request[first..]);
        assert_eq!(out, after);
        assert_eq!(out.len(), request.len() + extra.len());
    }

    #[test]
    fn a_length_grows_by_a_byte_where_it_must() {
        for spans in [1, 10, 40, 200] {
            let mut request = Vec::new();
            group(&mut request, "cart", spans);
            let extra = encode_attributes(9, &[("k", attr::Value::Text(&"x".repeat(200)))]);
            let out =
                splice(Signal::Traces, &Bytes::from(request), |_| Decision::All(&extra)).unwrap();
            assert_eq!(crate::check(Signal::Traces, &out), Ok(spans));
        }
    }

    #[test]
    fn lengths_and_tags_written_longer_than_need_be_are_understood() {
        // A group of 7 bytes with a scope of 3 and an empty record; tag and length in two bytes each.
        let request =
            Bytes::from_static(&[0x8a, 0x00, 0x87, 0x00, 0x92, 0x00, 0x83, 0x00, 0x12, 0x80, 0x00]);
        assert_eq!(crate::check(Signal::Traces, &request), Ok(1));
        let extra = encode_attributes(9, &[("k", attr::Value::Bool(true))]);
        let out = splice(Signal::Traces, &request, |_| Decision::All(&extra)).unwrap();
        assert_eq!(crate::check(Signal::Traces, &out), Ok(1));
        assert!(out.ends_with(&extra));
    }

    #[test]
    fn a_record_of_another_story_keeps_it() {
        let theirs = encode_attributes(9, &[(attr::STORY_ID, attr::Value::Text("theirs"))]);
        let mut request = Vec::new();
        put_message(&mut request, 1, |group| {
            put_message(group, 2, |scope| {
                put_len_field(scope, 2, &theirs);
                // The words alone, in a name, are no mark.
                put_message(scope, 2, |span| put_len_field(span, 5, b"tapio.story.id"));
            });
        });
        let extra = encode_attributes(9, &[(attr::STORY_ID, attr::Value::Text("ours"))]);
        let out = splice(Signal::Traces, &Bytes::from(request), |_| Decision::All(&extra)).unwrap();
        assert_eq!(memmem::find_iter(&out, b"ours").count(), 1);
        assert!(out.ends_with(&extra));
        assert!(carries_story(&theirs, 9));
        assert!(!carries_story(&theirs, 6));
    }

    #[test]
    fn empty_additions_change_nothing() {
        let mut request = Vec::new();
        group(&mut request, "cart", 2);
        let request = Bytes::from(request);
        for signal in [Signal::Traces, Signal::Metrics] {
            let out = splice(signal, &request, |_| Decision::All(b"")).unwrap();
            assert_eq!(out.as_ptr(), request.as_ptr());
            let out = splice(signal, &request, |_| Decision::Resource(b"")).unwrap();
            assert_eq!(out.as_ptr(), request.as_ptr());
        }
    }
}
