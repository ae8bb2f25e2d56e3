//! The pages beside the telemetry: `health_check` and the metrics' page.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Group, Ports, Twin, both, facets, pair, shown};
use crate::e2e::{
    client::{self, Grpc},
    program::block_on,
    runner::Skipped,
    wire::{Signal, record, request},
};

fn with_health(ports: &Ports, health: Value, processors: Value) -> Value {
    let names: Vec<_> = processors.as_object().expect("a map").keys().cloned().collect();
    let mut health = health;
    health["endpoint"] = format!("127.0.0.1:{}", ports.health).into();
    json!({
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": format!("127.0.0.1:{}", ports.grpc)}, "http": {"endpoint": format!("127.0.0.1:{}", ports.http)}}}},
        "processors": processors, "exporters": {"otlp_grpc": {
            "endpoint": format!("127.0.0.1:{}", if names.is_empty() { 1 } else { ports.backend }), "tls": {"insecure": true},
            "sending_queue": {"queue_size": 2, "num_consumers": 1}, "retry_on_failure": {"initial_interval": "30s"},
        }},
        "extensions": {"health_check": health},
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"readers": [{"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": ports.metrics}}}}]}},
            "pipelines": {
                "traces": {"receivers": ["otlp"], "processors": names, "exporters": ["otlp_grpc"]},
                "logs": {"receivers": ["otlp"], "processors": names, "exporters": ["otlp_grpc"]},
            },
        },
    })
}

/// Times differ from run to run: what remains is the shape.
fn shape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if !(c == '0' && out.ends_with('0')) {
            out.push(c);
        }
    }
    // How long it runs: seconds, or milliseconds at first.
    out.replace("0ms", "0.0s").replace(":\"0s\"", ":\"0.0s\"").replace("0.0.0s", "0.0s")
}

async fn told(port: u16, method: &str, path: &str) -> BTreeMap<&'static str, String> {
    let reply = client::http(method, port, path, &[], Bytes::new()).await.expect("an answer");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let body = if path == "/metrics" { "metrics".to_owned() } else { shape(&text) };
    BTreeMap::from([
        ("status", reply.status.to_string()),
        ("headers", shown(&reply.headers)),
        ("body", body),
    ])
}

/// Guarantees: probes and scrapers find what they know, and a hop that cannot take more says so alike.
pub(crate) fn health() -> Result<(), Skipped> {
    block_on(async {
        let mut group = Group::new();
        for (name, body) in [
            ("default", json!({})),
            ("path", json!({"path": "/healthz"})),
            ("body", json!({"response_body": {"healthy": "fine", "unhealthy": "not fine"}})),
        ] {
            let make = |ports: &Ports| with_health(ports, body.clone(), json!({}));
            let twins = pair(&format!("health_{name}"), make).await?;
            for path in ["/", "/healthz", "/healthz/deep", "/?verbose", "/nothing"] {
                for method in ["GET", "HEAD", "POST"] {
                    let health = async |twin: &Twin| told(twin.ports.health, method, path).await;
                    let sides = both(&twins, health).await;
                    group.case(&format!("health/{name}/{method}{path}"), &facets(sides));
                }
            }
            if name != "default" {
                continue;
            }
            for path in ["/", "/metrics", "/metrics/", "/nothing"] {
                for method in ["GET", "HEAD", "POST"] {
                    let page = async |twin: &Twin| told(twin.ports.metrics, method, path).await;
                    let sides = both(&twins, page).await;
                    group.case(&format!("page/{method}{path}"), &facets(sides));
                }
            }
            queue_full(&mut group, &twins).await;
        }
        // As low as a limit can be: everything is over it.
        let limiter = json!({"memory_limiter": {"check_interval": "50ms", "limit_mib": 2, "spike_limit_mib": 1}});
        let twins =
            pair("memory", |ports: &Ports| with_health(ports, json!({}), limiter.clone())).await?;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        refused(&mut group, "memory_limiter", &twins).await;
        group.end();
        Ok(())
    })
}

/// With a backend that is away and room for two: what the third sender hears.
async fn queue_full(group: &mut Group, twins: &[Twin; 2]) {
    for twin in twins {
        let mut grpc = Grpc::connect(twin.ports.grpc).await.expect("it listens");
        for signal in [Signal::Traces, Signal::Logs] {
            // One may be under way and not counted.
            for _ in 0..4 {
                let body = request([record(signal, 1)]);
                let reply = grpc.export(signal, body).await.expect("an answer");
                assert!(matches!(reply.code, 0 | 14), "{}: {}", twin.name, reply.message);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
    refused(group, "queue_full", twins).await;
}

async fn refused(group: &mut Group, name: &str, twins: &[Twin; 2]) {
    for signal in [Signal::Traces, Signal::Logs] {
        let body = request([record(signal, 1)]);
        let by_grpc = both(twins, async |twin: &Twin| {
            let mut grpc = Grpc::connect(twin.ports.grpc).await.expect("it listens");
            super::grpc::of_reply(&grpc.export(signal, body.clone()).await.expect("an answer"))
        });
        let case = format!("refused/{name}/grpc_{}", signal.items_name());
        group.case(&case, &facets(by_grpc.await));
        let by_http = both(twins, async |twin: &Twin| {
            let reply = client::post(twin.ports.http, signal, body.clone()).await;
            let reply = reply.expect("an answer");
            let mut facets =
                super::http::of_answer(twin, reply.status, &reply.headers, &reply.body);
            facets.remove("sent");
            facets
        });
        let case = format!("refused/{name}/http_{}", signal.items_name());
        group.case(&case, &facets(by_http.await));
    }
}
