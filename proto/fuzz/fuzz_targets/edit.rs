#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tapio_proto::{
    Signal, check,
    edit::{AttributeList, Editor, Unread, edit_records, edit_resources},
    view::{ResourceView, ScopeGroup},
};

/// By the length of the key: some go, some change; each list gets one more.
fn rules(attributes: &mut AttributeList<'_>) {
    attributes.remove(|key| key.len() % 3 == 1);
    attributes.change(|key| key.len() % 3 == 2, |_| Some(b"\x0a\x03new".to_vec()));
    attributes.set("zz", &b"\x18\x01"[..]);
}

struct Everything;

impl<'a> Editor<'a> for Everything {
    fn resource(&mut self, _: &ResourceView<'a>) -> bool {
        true
    }

    fn scope(&mut self, _: &ScopeGroup<'a>) -> bool {
        true
    }

    fn record(&mut self, record: &Unread<'a>) -> bool {
        record.read().is_some()
    }

    fn edit(&mut self, attributes: &mut AttributeList<'a>) {
        rules(attributes);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let signal = Signal::ALL[usize::from(first % 4)];
    let whole = Bytes::copy_from_slice(bytes);
    let records = edit_records(signal, &whole, &mut Everything);
    let resources = edit_resources(signal, &whole, rules);
    let Ok(items) = check(signal, bytes) else { return };
    assert_eq!(check(signal, &records.expect("checked")), Ok(items));
    assert_eq!(check(signal, &resources.expect("checked")), Ok(items));
});
