#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio_proto::{Signal, check, json};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let signal = Signal::ALL[usize::from(first % 4)];
    json::signal_of(bytes);
    if let Ok(request) = json::to_proto(signal, bytes)
        && check(signal, &request).is_ok()
        && signal != Signal::Profiles
    {
        let text = json::from_proto(signal, &request).expect("checked");
        let again = json::to_proto(signal, text.as_bytes()).expect("our own");
        assert_eq!(json::from_proto(signal, &again).expect("our own"), text);
    }
    let text = json::from_proto(signal, bytes);
    assert!(text.is_ok() || signal == Signal::Profiles || check(signal, bytes).is_err());
});
