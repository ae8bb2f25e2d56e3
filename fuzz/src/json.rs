//! Requests as OTLP JSON.

use tapio_proto::{check, json, wire::Fault};

/// What is taken is a request, and its JSON says the same again.
pub fn run(data: &[u8]) {
    let _ = json::signal_of(data);
    let Some((signal, text)) = crate::signal(data) else { return };
    let Ok(bytes) = json::to_proto(signal, text) else { return };
    if let Err(error) = check(signal, &bytes) {
        // The door checks what came out of JSON as it checks what came as protobuf.
        return assert!(matches!(error.what, Fault::Id { .. }), "{error}");
    }
    let again = json::from_proto(signal, &bytes).expect("a request has a JSON form");
    let back = json::to_proto(signal, again.as_bytes()).expect("which is taken again");
    // Not byte for byte: of a key that stands twice the last one counts.
    let once_more = json::from_proto(signal, &back).expect("it has a JSON form");
    assert_eq!(again, once_more, "and says the same");
}
