//! Attributes spliced in and edited, and requests cut into pieces: what was there stays what it was.

use bytes::Bytes;
use tapio_proto::{
    Most, Signal, attr, check,
    edit::{AttributeList, Editor, Unread, edit_records, edit_resources},
    splice::{Decision, encode_attributes, splice},
    split::Splitter,
    view::{ResourceView, ScopeGroup},
};

const KEY: &str = "tapio.story.fuzzed";

/// Takes away what is ours, adds it again, or leaves all as it is.
struct Edit {
    step: u8,
    add: bool,
}

impl Edit {
    fn picks(&mut self) -> bool {
        self.step = self.step.rotate_left(1);
        self.step & 1 == 1
    }
}

impl<'a> Editor<'a> for Edit {
    fn resource(&mut self, resource: &ResourceView<'a>) -> bool {
        resource.attributes().for_each(drop);
        true
    }
    fn scope(&mut self, scope: &ScopeGroup<'a>) -> bool {
        scope.attributes().for_each(drop);
        true
    }
    fn record(&mut self, record: &Unread<'a>) -> bool {
        record.read();
        !self.add || self.picks()
    }
    fn edit(&mut self, attributes: &mut AttributeList<'a>) {
        if self.add {
            attributes.set(KEY, text("x"));
        } else {
            attributes.remove(|key| key == KEY);
        }
    }
}

/// An `AnyValue` that is a text.
fn text(of: &str) -> Vec<u8> {
    let mut out = Vec::new();
    tapio_proto::wire::put_len_field(&mut out, 1, of.as_bytes());
    out
}

/// The first two bytes pick the signal and what is picked.
pub fn run(data: &[u8]) {
    let Some((signal, rest)) = crate::signal(data) else { return };
    let Some((&pattern, bytes)) = rest.split_first() else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    let good = check(signal, &bytes);
    let ours = [(KEY, attr::Value::Text("x"))];
    let on_resource = encode_attributes(1, &ours);
    let mut step = pattern;
    let mut decide = |extra: &'static [u8]| {
        step = step.rotate_left(1);
        match step & 3 {
            0 => Decision::Nothing,
            1 => Decision::All(extra),
            2 => {
                let mut turn = step;
                Decision::Each(Box::new(move |_| {
                    turn = turn.rotate_left(1);
                    (turn & 1 == 1).then_some(extra)
                }))
            }
            _ => Decision::Resource(RESOURCE),
        }
    };
    assert_eq!(RESOURCE, on_resource);
    let records: &[u8] = match signal {
        Signal::Traces => SPAN,
        Signal::Logs => LOG,
        _ => &[],
    };
    if let Some(field) = signal.record_attributes_field() {
        assert_eq!(records, encode_attributes(field, &ours));
    }
    let marked = splice(signal, &bytes, |resource| match decide(records) {
        // A group without a resource gets one for it, and keeps an empty one.
        Decision::Resource(_) if resource.as_bytes().is_empty() => Decision::Nothing,
        decision => decision,
    });
    let Ok(items) = good else { return };
    let marked = marked.expect("what passes the check can be spliced");
    assert_eq!(check(signal, &marked), Ok(items), "and is a request of as many items after it");
    // As prost writes them, the marks taken away again, it is the request that it was; unless it
    // held such marks before.
    if !bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()) {
        let clean = remove(signal, &marked);
        let was = remove(signal, &bytes);
        assert_eq!(
            crate::prost(signal, &clean).expect("prost reads it"),
            crate::prost(signal, &was).expect("prost reads it")
        );
    }
    let mut add = Edit { step: pattern, add: true };
    let edited = edit_records(signal, &bytes, &mut add).expect("records can be edited");
    assert_eq!(check(signal, &edited), Ok(items));
    cut(signal, &bytes, items, usize::from(pattern % 16) + 1);
}

/// The pieces hold as many items as the request, and none more than it may.
fn cut(signal: Signal, bytes: &Bytes, items: usize, most: usize) {
    for (limit, items_of_one) in [(Most::Items(most), most), (Most::Bytes(most * 16), items)] {
        let mut splitter = Splitter::new(signal, bytes).expect("what passes the check can be cut");
        let mut sum = 0;
        while let Some(piece) = splitter.next(limit) {
            assert_eq!(check(signal, &piece.bytes), Ok(piece.items));
            assert!(piece.items <= items_of_one);
            sum += piece.items;
        }
        assert_eq!(sum, items);
    }
}

/// An attribute `tapio.story.fuzzed: x` in field 1, 9 and 6.
const RESOURCE: &[u8] = b"\x0a\x19\x0a\x12tapio.story.fuzzed\x12\x03\x0a\x01x";
const SPAN: &[u8] = b"\x4a\x19\x0a\x12tapio.story.fuzzed\x12\x03\x0a\x01x";
const LOG: &[u8] = b"\x32\x19\x0a\x12tapio.story.fuzzed\x12\x03\x0a\x01x";

fn remove(signal: Signal, bytes: &Bytes) -> Bytes {
    let mut take = Edit { step: 0, add: false };
    let bytes = edit_records(signal, bytes, &mut take).expect("records can be edited");
    edit_resources(signal, &bytes, |list| list.remove(|key| key == KEY))
        .expect("resources can be edited")
}
