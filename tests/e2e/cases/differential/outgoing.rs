//! What an exporter's configuration makes of a request on its way out: path, headers, compression, content.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Group, Ports, Twin, both, facets, pair, processors::tidied, shown};
use crate::e2e::{
    client::{self},
    program::block_on,
    runner::Skipped,
    wire::{Signal, record, request},
};

fn configurations(ports: &Ports) -> Vec<(String, &'static str, Value)> {
    let at = format!("http://127.0.0.1:{}", ports.backend);
    let plain = format!("127.0.0.1:{}", ports.backend);
    let mut all = vec![];
    for compression in ["gzip", "zstd", "snappy", "none", ""] {
        let body =
            json!({"endpoint": plain, "tls": {"insecure": true}, "compression": compression});
        all.push((format!("grpc_{compression}"), "otlp_grpc", body));
    }
    for compression in
        ["gzip", "zstd", "snappy", "zlib", "deflate", "lz4", "x-snappy-framed", "none", ""]
    {
        for encoding in ["proto", "json"] {
            let body = json!({"endpoint": at, "compression": compression, "encoding": encoding});
            all.push((format!("http_{encoding}_{compression}"), "otlp_http", body));
        }
    }
    let headers = json!({"X-Scope-OrgID": "me", "user-agent": "mine/1"});
    for (name, kind, more) in [
        ("grpc_default", "otlp_grpc", json!({})),
        ("http_default", "otlp_http", json!({})),
        ("grpc_headers", "otlp_grpc", json!({"headers": headers})),
        ("http_headers", "otlp_http", json!({"headers": headers})),
        ("grpc_timeout", "otlp_grpc", json!({"timeout": "0s"})),
        ("http_timeout", "otlp_http", json!({"timeout": "0s"})),
        ("grpc_authority", "otlp_grpc", json!({"authority": "backend.example"})),
        ("http_host", "otlp_http", json!({"headers": {"Host": "backend.example"}})),
        ("http_slash", "otlp_http", json!({"endpoint": format!("{at}/")})),
        ("http_base", "otlp_http", json!({"endpoint": format!("{at}/base")})),
        ("http_own", "otlp_http", json!({"logs_endpoint": format!("{at}/own?x=1")})),
        ("http_level", "otlp_http", json!({"compression_params": {"level": 9}})),
        ("http_no_keep_alives", "otlp_http", json!({"disable_keep_alives": true})),
        (
            "grpc_plain",
            "otlp_grpc",
            json!({"endpoint": format!("127.0.0.1:{}", ports.backend), "tls": {"insecure": true}}),
        ),
        ("grpc_dns", "otlp_grpc", json!({"endpoint": format!("dns:///{plain}")})),
        (
            "grpc_keepalive",
            "otlp_grpc",
            json!({"keepalive": {"time": "20s"}, "wait_for_ready": true, "balancer_name": "pick_first"}),
        ),
    ] {
        let mut body = match kind {
            "otlp_grpc" => json!({"endpoint": plain, "tls": {"insecure": true}}),
            _ => json!({"endpoint": at}),
        };
        for (key, value) in more.as_object().expect("a map") {
            body[key] = value.clone();
        }
        all.push((name.to_owned(), kind, body));
    }
    all
}

fn outgoing_to(ports: &Ports) -> Value {
    let (mut exporters, mut names) = (json!({}), vec![]);
    for (name, kind, mut body) in configurations(ports) {
        body["sending_queue"] = json!({"enabled": false});
        body["retry_on_failure"] = json!({"enabled": false});
        // Each is known by a header, whatever the order in which they arrive.
        body["headers"]["x-case"] = name.clone().into();
        names.push(format!("{kind}/{name}"));
        exporters[names.last().expect("it was pushed")] = body;
    }
    json!({
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{}", ports.http)}}}},
        "exporters": exporters,
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
            "logs": {"receivers": ["otlp"], "exporters": names},
        }},
    })
}

/// Guarantees: whatever the exporter's keys, the backend gets the Collector's path, headers and content.
pub(crate) fn outgoing() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("outgoing", outgoing_to).await?;
        let body = request((0..3).map(|n| record(Signal::Logs, n)));
        let sides = both(&twins, async |twin: &Twin| {
            let reply = client::post(twin.ports.http, Signal::Logs, body.clone()).await;
            assert_eq!(reply.expect("an answer").status, 200, "{}", twin.program.tail());
            let received = twin.inbox.take();
            let named = received.into_iter().map(|mut received| {
                let name = received.headers.remove("x-case").expect("the case's own header");
                let accepts = received.headers.remove("accept-encoding");
                let agent = received.headers.remove("user-agent");
                let agent =
                    agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
                // The time that is left is told in nanoseconds.
                if let Some(timeout) = received.headers.get_mut("grpc-timeout") {
                    *timeout = ::http::HeaderValue::from_static("some");
                }
                // Another port on each side.
                if let Some(host) = received.headers.get_mut("host") {
                    let text = String::from_utf8_lossy(host.as_bytes());
                    let text = text.replace(&twin.ports.backend.to_string(), "PORT");
                    *host = ::http::HeaderValue::try_from(text).expect("a header");
                }
                let facets = BTreeMap::from([
                    ("path", received.path.clone()),
                    ("headers", shown(&received.headers)),
                    ("accept_encoding", format!("{accepts:?}")),
                    ("user_agent", agent.unwrap_or_default()),
                    ("content", tidied(&received)),
                ]);
                (String::from_utf8_lossy(name.as_bytes()).into_owned(), facets)
            });
            named.collect::<BTreeMap<_, _>>()
        });
        let [theirs, ours] = sides.await;
        let mut group = Group::new();
        for (name, ..) in configurations(&twins[0].ports) {
            let of = |side: &BTreeMap<String, _>| {
                side.get(&name).cloned().unwrap_or_else(|| panic!("{name} did not arrive"))
            };
            let mut sides = [of(&theirs), of(&ours)];
            if !name.ends_with("_default") {
                // Told once for each protocol.
                sides.iter_mut().for_each(|side| {
                    side.remove("user_agent");
                    side.remove("accept_encoding");
                });
            }
            group.case(&format!("outgoing/{name}"), &facets(sides));
        }
        group.end();
        Ok(())
    })
}
