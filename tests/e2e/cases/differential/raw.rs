//! HTTP/2 that is broken on purpose, byte by byte: what comes back, and whether the connection lives on.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Group, both, http::direct, pair};
use crate::e2e::{
    client::frame,
    program::block_on,
    runner::Skipped,
    wire::{Signal, record, request},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// For a program to show all that it has to say.
const QUIET: Duration = Duration::from_millis(150);

fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Literal fields without indexing: HPACK for those who do not care to compress.
fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![];
    for (name, value) in all {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("short texts"));
            out.extend(text.as_bytes());
        }
    }
    out
}

fn call_fields() -> Vec<(&'static str, &'static str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", Signal::Traces.grpc_path()),
        (":authority", "tapio"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
}

/// A sound call on a stream.
fn call(stream: u32) -> Vec<u8> {
    let body = frame(0, &request([record(Signal::Traces, 1)]));
    let mut out = http2(HEADERS, END_HEADERS, stream, &fields(&call_fields()));
    out.extend(http2(DATA, END_STREAM, stream, &body));
    out
}

/// A call with other fields.
fn called_with(all: &[(&str, &str)]) -> Vec<u8> {
    http2(HEADERS, END_HEADERS | END_STREAM, 1, &fields(all))
}

fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let changed = |name: &str, value: &'static str| {
        let mut all = call_fields();
        all.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            all.push((if name == ":path" { ":path" } else { "x-added" }, value));
        }
        called_with(&all)
    };
    let mut pseudo_late = call_fields();
    pseudo_late.rotate_left(1);
    let mut upper = call_fields();
    upper.push(("X-Upper", "v"));
    let mut connection = call_fields();
    connection.push(("connection", "close"));
    let headers = fields(&call_fields());
    let flood: Vec<u8> = (0..50).flat_map(|_| http2(PING, 0, 0, &[1; 8])).collect();
    vec![
        ("sound", call(1)),
        ("ping", http2(PING, 0, 0, b"12345678")),
        ("ping_short", http2(PING, 0, 0, b"1234")),
        ("ping_on_a_stream", http2(PING, 0, 1, b"12345678")),
        ("pings", flood),
        ("settings_of_5", http2(SETTINGS, 0, 0, &[0; 5])),
        ("settings_on_a_stream", http2(SETTINGS, 0, 1, &[])),
        ("settings_ack_with_payload", http2(SETTINGS, ACK, 0, &[0; 6])),
        ("settings_unknown", http2(SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1])),
        ("settings_window_too_large", http2(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("settings_frame_too_small", http2(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("data_on_stream_0", http2(DATA, 0, 0, b"x")),
        ("data_on_an_idle_stream", http2(DATA, 0, 1, b"x")),
        ("data_after_the_end", [call(1), http2(DATA, 0, 1, b"x")].concat()),
        (
            "data_with_bad_padding",
            [http2(HEADERS, END_HEADERS, 1, &headers), http2(DATA, 8, 1, &[9, 1])].concat(),
        ),
        ("headers_on_stream_0", http2(HEADERS, END_HEADERS, 0, &headers)),
        ("headers_on_an_even_stream", http2(HEADERS, END_HEADERS, 2, &headers)),
        ("headers_backwards", [call(5), call(3)].concat()),
        ("headers_that_do_not_decode", http2(HEADERS, END_HEADERS, 1, &[0xff; 20])),
        (
            "headers_interrupted",
            [http2(HEADERS, 0, 1, &headers), http2(PING, 0, 0, &[1; 8])].concat(),
        ),
        ("continuation_alone", http2(CONTINUATION, END_HEADERS, 1, &headers)),
        (
            "continued",
            [
                http2(HEADERS, END_STREAM, 1, &headers[..9]),
                http2(CONTINUATION, END_HEADERS, 1, &headers[9..]),
            ]
            .concat(),
        ),
        ("no_path", changed(":path", "")),
        ("no_method", changed(":method", "")),
        ("no_scheme", changed(":scheme", "")),
        ("no_authority", changed(":authority", "")),
        ("path_without_slash", changed(":path", "opentelemetry")),
        ("field_in_upper_case", called_with(&upper)),
        ("field_of_a_connection", called_with(&connection)),
        ("pseudo_field_late", called_with(&pseudo_late)),
        ("priority", http2(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])),
        ("priority_of_4", http2(PRIORITY, 0, 1, &[0; 4])),
        ("reset_of_an_idle_stream", http2(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("reset_on_stream_0", http2(RST_STREAM, 0, 0, &[0, 0, 0, 8])),
        ("reset_of_3", http2(RST_STREAM, 0, 1, &[0; 3])),
        ("push_promise", http2(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("goaway", http2(GOAWAY, 0, 0, &[0; 8])),
        ("window_of_0", http2(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("window_overflows", http2(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("window_of_3", http2(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("unknown_kind", http2(0x77, 0xff, 1, b"whatever")),
        ("frame_too_large", http2(DATA, 0, 1, &[0; 16_385])),
    ]
}

/// What comes back: frames by kind, errors by number, and whether a call goes through after it.
async fn told(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let mut start = PREFACE.to_vec();
    start.extend(http2(SETTINGS, 0, 0, &[]));
    start.extend(http2(SETTINGS, ACK, 0, &[]));
    start.extend(bytes);
    stream.write_all(&start).await.expect("it reads");
    let mut seen = vec![];
    let mut open = frames(&mut stream, &mut seen).await;
    if open {
        seen.push("then".to_owned());
        open = stream.write_all(&call(101)).await.is_ok() && frames(&mut stream, &mut seen).await;
    }
    seen.push(if open { "open" } else { "closed" }.to_owned());
    seen.join(", ")
}

/// Reads frames until it is quiet; whether the connection is still open.
async fn frames(stream: &mut TcpStream, seen: &mut Vec<String>) -> bool {
    loop {
        let mut head = [0; 9];
        // Patient with the first word, for a machine that is busy.
        let patience = if seen.is_empty() { QUIET * 4 } else { QUIET };
        match timeout(patience, stream.read_exact(&mut head)).await {
            Err(_) => return true,
            Ok(Err(_)) => return false,
            Ok(Ok(_)) => {}
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return false;
        }
        let number = |at: usize| {
            payload.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        let on = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let text = match (head[3], head[4]) {
            // Flow control and what each prefers are its own affair, and pings that measure the way.
            (SETTINGS | WINDOW_UPDATE, _) | (PING, 0) => continue,
            (DATA, _) => format!("data on {on}"),
            (HEADERS, flags) => {
                format!("headers on {on}{}", if flags & END_STREAM > 0 { " and end" } else { "" })
            }
            (RST_STREAM, _) => format!("reset of {on} by {}", number(0)),
            (GOAWAY, _) => format!("goaway by {}", number(4)),
            (PING, _) => "pong".to_owned(),
            (kind, _) => format!("frame of kind {kind}"),
        };
        if seen.last() != Some(&text) {
            seen.push(text);
        }
    }
}

/// Guarantees: broken HTTP/2 ends what it ends in the Collector, and nothing else.
pub(crate) fn raw() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("raw", direct).await?;
        let mut group = Group::new();
        for (name, bytes) in cases() {
            let sides = both(&twins, async |twin| told(twin.ports.grpc, &bytes).await).await;
            let [theirs, ours] = sides;
            group.case(&format!("raw/{name}"), &[("told", theirs, ours)]);
        }
        group.end();
        Ok(())
    })
}
