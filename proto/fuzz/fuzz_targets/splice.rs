#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tapio_proto::{
    Signal, attr, check,
    splice::{Decision, encode_attributes, splice},
};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let signal = Signal::ALL[usize::from(first % 4)];
    let whole = Bytes::copy_from_slice(bytes);
    let extra = [(attr::STORY_ID, attr::Value::Text("s"))];
    let record = encode_attributes(signal.record_attributes_field().unwrap_or(1), &extra);
    let resource = encode_attributes(1, &extra);
    let all = splice(signal, &whole, |_| Decision::All(&record));
    let origin = splice(signal, &whole, |_| Decision::Resource(&resource));
    let nothing = splice(signal, &whole, |_| Decision::Nothing);
    let Ok(items) = check(signal, bytes) else { return };
    assert_eq!(nothing.expect("checked"), whole);
    assert_eq!(check(signal, &all.expect("checked")), Ok(items));
    assert_eq!(check(signal, &origin.expect("checked")), Ok(items));
});
