//! OTLP/gRPC: what is answered to a call, and what is sent on because of it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tapio_proto::{
    Status,
    transport::{Compression, grpc},
};
use tokio::time::timeout;

use super::{Group, Twin, both, facets, http::direct, pair, processors::tidied, shown};
use crate::e2e::{
    client::{Grpc, GrpcReply, frame},
    program::block_on,
    runner::Skipped,
    wire::{Message, Signal, record, request},
};

struct Call {
    name: String,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Bytes,
}

fn call(name: impl Into<String>, body: impl Into<Bytes>) -> Call {
    Call {
        name: name.into(),
        method: "POST",
        path: Signal::Traces.grpc_path().to_owned(),
        headers: vec![("content-type", "application/grpc"), ("te", "trailers")],
        body: body.into(),
    }
}

impl Call {
    fn to(self, path: impl Into<String>) -> Self {
        Call { path: path.into(), ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }
}

fn calls() -> Vec<Call> {
    let mut all = vec![];
    for signal in Signal::ALL {
        let name = signal.items_name();
        let good = request((0..3).map(|n| record(signal, n)));
        let ask = |what: &str, message: &[u8]| {
            call(format!("{name}/{what}"), frame(0, message)).to(signal.grpc_path())
        };
        all.push(ask("good", &good));
        all.push(ask("empty", &[]));
        all.push(ask("empty_envelope", &Message::new().message(1, Message::new()).0));
        all.push(ask("truncated", &good[..good.len() - 9]));
        all.push(ask("garbage", b"\xff\xff\xff"));
    }
    let good = request([record(Signal::Traces, 1)]);
    let framed = frame(0, &good);
    for (what, path) in [
        (
            "profiles",
            "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
        ),
        ("service", "/opentelemetry.proto.collector.trace.v1.NoService/Export"),
        ("method", "/opentelemetry.proto.collector.trace.v1.TraceService/Import"),
        ("root", "/"),
        ("health", "/grpc.health.v1.Health/Check"),
        ("one_part", "/Export"),
        ("http", "/v1/traces"),
    ] {
        all.push(call(format!("path/{what}"), framed.clone()).to(path));
    }
    for (what, content) in [
        ("proto", "application/grpc+proto"),
        ("json", "application/grpc+json"),
        ("parameter", "application/grpc;charset=utf-8"),
        ("prefix", "application/grpcx"),
        ("http", "application/x-protobuf"),
    ] {
        let ask = call(format!("content_type/{what}"), framed.clone());
        all.push(ask.with("content-type", content));
    }
    all.push(call("content_type/none", framed.clone()).without("content-type"));
    all.push(call("te/none", framed.clone()).without("te"));
    all.push(Call { method: "GET", ..call("method/get", Bytes::new()) });
    all.push(Call { method: "PUT", ..call("method/put", framed.clone()) });
    for (what, value) in [
        ("well", "5S"),
        ("no_unit", "5"),
        ("no_number", "S"),
        ("long", "123456789S"),
        ("zero", "0n"),
    ] {
        all.push(call(format!("timeout/{what}"), framed.clone()).with("grpc-timeout", value));
    }
    for (name, compression) in [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("snappy", Compression::SnappyFramed),
    ] {
        let packed = compression.compress(&good, None).expect("it compresses");
        let large = request([record(Signal::Traces, 1).attribute(9, "big", vec![b'x'; 5 << 20])]);
        let large = compression.compress(&large, None).expect("it compresses");
        for (what, body) in [
            ("good", frame(1, &packed)),
            ("flag_not_set", framed.clone()),
            ("corrupt", frame(1, b"not at all compressed, is it?")),
            ("half", frame(1, &packed[..packed.len() / 2])),
            ("nothing", frame(1, b"")),
            ("too_large", frame(1, &large)),
        ] {
            let ask = call(format!("encoding/{name}/{what}"), body);
            all.push(ask.with("grpc-encoding", name));
        }
    }
    all.push(call("encoding/unknown", frame(1, &good)).with("grpc-encoding", "br"));
    all.push(call("encoding/unknown_not_set", framed.clone()).with("grpc-encoding", "br"));
    all.push(call("encoding/identity", framed.clone()).with("grpc-encoding", "identity"));
    all.push(call("encoding/identity_set", frame(1, &good)).with("grpc-encoding", "identity"));
    all.push(call("encoding/none_set", frame(1, &good)));
    let two = [&framed[..], &framed[..]].concat();
    let large = request([record(Signal::Traces, 1).attribute(9, "big", vec![b'x'; 5 << 20])]);
    for (what, body) in [
        ("none", Bytes::new()),
        ("prefix_cut", framed.slice(..3)),
        ("message_cut", framed.slice(..framed.len() - 3)),
        ("flag_9", frame(9, &good)),
        ("two", two.into()),
        ("one_and_a_bit", [&framed[..], &[0, 0]].concat().into()),
        ("too_large", frame(0, &large)),
        ("announces_too_much", Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff])),
    ] {
        all.push(call(format!("frame/{what}"), body));
    }
    all
}

/// Every facet of an answer by gRPC's rules.
pub(super) fn of_reply(reply: &GrpcReply) -> BTreeMap<&'static str, String> {
    let place = reply.trailers.as_ref().unwrap_or(&reply.headers);
    let details = place.get("grpc-status-details-bin").map(|value| {
        let bytes = grpc::decode_bin(value.as_bytes()).unwrap_or_default();
        // Details, without code and text, which are facets already.
        match Status::decode(&bytes) {
            Ok(status) => format!("{:?} {:?}", status.code, status.retry_after),
            Err(error) => error.to_string(),
        }
    });
    let trailers = match &reply.trailers {
        Some(trailers) => format!("trailers {}", shown(trailers)),
        None => "trailers only".to_owned(),
    };
    BTreeMap::from([
        ("status", reply.status.to_string()),
        ("headers", shown(&reply.headers)),
        ("accept_encoding", format!("{:?}", reply.headers.get("grpc-accept-encoding"))),
        ("trailers", trailers),
        ("code", reply.code.to_string()),
        ("message", grpc::decode_message(reply.message.as_bytes())),
        ("details", details.unwrap_or_default()),
        ("body", format!("{:?}", reply.body)),
    ])
}

async fn told(twin: &Twin, call: &Call) -> BTreeMap<&'static str, String> {
    // A connection of its own: some calls end theirs.
    let mut grpc = Grpc::connect(twin.ports.grpc).await.expect("it listens");
    let Call { method, path, headers, body, .. } = call;
    let reply = timeout(Duration::from_secs(3), grpc.send(method, path, headers, body.clone()));
    let mut told = match reply.await {
        Ok(Ok(reply)) => of_reply(&reply),
        Ok(Err(error)) => BTreeMap::from([("status", format!("{error:?}"))]),
        Err(_) => BTreeMap::from([("status", "no answer".to_owned())]),
    };
    let sent: Vec<_> = twin.inbox.take().iter().map(tidied).collect();
    told.insert("sent", sent.join("\n"));
    told
}

/// Guarantees: each call has the Collector's answer, and the backend gets what it would get from a Collector.
pub(crate) fn grpc() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("grpc", direct).await?;
        let mut group = Group::new();
        for call in calls() {
            let sides = both(&twins, async |twin| told(twin, &call).await).await;
            group.case(&format!("grpc/{}", call.name), &facets(sides));
        }
        group.end();
        Ok(())
    })
}
