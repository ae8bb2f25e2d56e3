//! What goes in on one transport comes out on any other, byte for byte.

use std::time::Duration;

use bytes::Bytes;

use crate::e2e::{
    backend::{Backend, Inbox},
    client::{self, Grpc},
    program::{Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Message, Signal, record, request},
};

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Grpc,
    Http,
}

pub(crate) fn grpc_to_http() -> Result<(), Skipped> {
    bytes_survive("grpc_to_http", Transport::Grpc, Transport::Http)
}

pub(crate) fn http_to_grpc() -> Result<(), Skipped> {
    bytes_survive("http_to_grpc", Transport::Http, Transport::Grpc)
}

pub(crate) fn grpc_to_grpc() -> Result<(), Skipped> {
    bytes_survive("grpc_to_grpc", Transport::Grpc, Transport::Grpc)
}

pub(crate) fn http_to_http() -> Result<(), Skipped> {
    bytes_survive("http_to_http", Transport::Http, Transport::Http)
}

/// The exporter that sends to a port, without a queue and with the given compression.
pub(crate) fn exporter(transport: &str, port: u16, compression: &str) -> (&'static str, String) {
    let rest = format!("compression: {compression}, sending_queue: {{enabled: false}}");
    match transport {
        "grpc" => (
            "otlp_grpc",
            format!("{{endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}, {rest}}}"),
        ),
        _ => ("otlp_http", format!("{{endpoint: \"http://127.0.0.1:{port}\", {rest}}}")),
    }
}

fn bytes_survive(case: &str, way_in: Transport, way_out: Transport) -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let (name, compression) =
            if way_out == Transport::Grpc { ("grpc", "gzip") } else { ("http", "none") };
        let (id, body) = exporter(name, backend.port, compression);
        let mut tapio = Tapio::start(&folder(case), "tapio", (id, &body)).await;
        let mut grpc = Grpc::connect(tapio.grpc).await.expect("it listens");
        let mut expected = vec![];
        for signal in Signal::ALL {
            for message in [plain(signal), unusual(signal)] {
                if way_in == Transport::Grpc {
                    let reply = grpc.export(signal, message.clone()).await.expect("an answer");
                    assert_eq!(reply.code, 0, "{}", reply.message);
                    let reply = grpc.export_gzip(signal, &message).await.expect("an answer");
                    assert_eq!(reply.code, 0, "{}", reply.message);
                } else {
                    let reply =
                        client::post(tapio.http, signal, message.clone()).await.expect("an answer");
                    assert_eq!(reply.status, 200, "{:?}", reply.body);
                    let headers =
                        [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
                    let body = client::gzip(&message);
                    let reply =
                        client::http("POST", tapio.http, signal.http_path(), &headers, body).await;
                    assert_eq!(reply.expect("an answer").status, 200);
                }
                let path = match way_out {
                    Transport::Grpc => signal.grpc_path(),
                    Transport::Http => signal.http_path(),
                };
                expected.extend([(path, message.clone()), (path, message)]);
            }
        }
        tapio.program.stop_well().await;
        let received = inbox.all();
        assert_eq!(received.len(), expected.len(), "requests at the backend");
        for (index, (received, (path, message))) in received.iter().zip(&expected).enumerate() {
            assert_eq!(received.path, *path, "request {index}");
            assert!(
                received.message == *message,
                "request {index} for {path} was changed on its way"
            );
        }
    });
    Ok(())
}

fn plain(signal: Signal) -> Bytes {
    request((0..20).map(|number| record(signal, number)))
}

/// What a decoder of structs would lose or tidy up: unknown fields on every level, empty envelopes,
/// duplicates, an enum out of range, NaN, a resource after its scopes, all flag bits.
fn unusual(signal: Signal) -> Bytes {
    let unknown = |message: Message| {
        message.bytes(500, "unknown").varint(501, 7).fixed64(502, 9).fixed32(503, 1)
    };
    let odd = match signal {
        Signal::Traces => record(signal, 1).varint(6, 4_000_000).fixed32(16, u32::MAX),
        Signal::Logs => record(signal, 1).varint(2, 4_000_000).fixed32(8, u32::MAX),
        Signal::Metrics => record(signal, 0),
    };
    let nan = Message::new().double(4, f64::from_bits(0x7ff8_dead_beef_0001));
    let odd = match signal {
        Signal::Traces => odd.any_attribute(9, "nan", nan),
        Signal::Logs => odd.any_attribute(6, "nan", nan),
        Signal::Metrics => odd.any_attribute(12, "nan", nan),
    };
    let resource = unknown(Message::new().attribute(1, "service.name", "shop")).attribute(
        1,
        "service.name",
        "again",
    );
    let scope = unknown(Message::new().message(2, odd.clone()))
        .message(2, unknown(odd))
        .message(1, unknown(Message::new().bytes(1, "late scope")))
        .bytes(3, "https://example.com/schema");
    let envelope =
        unknown(Message::new().message(2, Message::new()).message(2, scope)).message(1, resource);
    let request =
        Message::new().message(1, Message::new()).message(1, envelope).message(1, Message::new());
    unknown(request).0.into()
}
