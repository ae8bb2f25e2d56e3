//! Several destinations, and what Kubernetes says of passing telemetry.

use std::{fs, process::Command, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::e2e::{
    backend::{Backend, Inbox},
    client::{self, Grpc},
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request, span_numbers},
};

fn start(folder: &std::path::Path, config: &Value) -> Program {
    let file = folder.join("tapio.yaml");
    fs::write(&file, config.to_string()).expect("the case's folder is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
    command.arg("--config").arg(&file).current_dir(folder);
    Program::start("tapio", command, folder)
}

/// Scenario: one pipeline with two exporters, each with a queue; one backend is away.
/// Guarantees: the sender is answered, the other backend has everything at once, and the one that was
/// away gets everything when it is back: once each.
pub(crate) fn fan_out() -> Result<(), Skipped> {
    block_on(async {
        let (here, away) = (Inbox::default(), Inbox::default());
        let backend = Backend::start(free_port(), here.clone(), Duration::ZERO).await;
        let (grpc, closed) = (free_port(), free_port());
        let exporter = |port: u16| {
            json!({"endpoint": format!("127.0.0.1:{port}"), "tls": {"insecure": true}, "compression": "none",
                "retry_on_failure": {"initial_interval": "100ms", "max_interval": "200ms"}})
        };
        let folder = folder("fan_out");
        let mut tapio = start(
            &folder,
            &json!({
                "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": format!("127.0.0.1:{grpc}")}}}},
                "exporters": {"otlp_grpc/here": exporter(backend.port), "otlp_grpc/away": exporter(closed)},
                "connectors": {"forward": {}},
                "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
                    "traces/in": {"receivers": ["otlp"], "exporters": ["forward"]},
                    "traces": {"receivers": ["forward"], "exporters": ["otlp_grpc/here", "otlp_grpc/away"]},
                }},
            }),
        );
        tapio.listens(grpc).await;
        let mut client = Grpc::connect(grpc).await.expect("it listens");
        for number in 0..20 {
            let body = request([record(Signal::Traces, number)]);
            let reply = client.export(Signal::Traces, body).await.expect("an answer");
            assert_eq!(reply.code, 0, "{}", reply.message);
        }
        wait_for("the backend that is there", || here.len() == 20).await;
        assert_eq!(away.len(), 0);
        let back = Backend::start(closed, away.clone(), Duration::ZERO).await;
        wait_for("the backend that is back", || away.len() == 20).await;
        tapio.stop_well().await;
        let messages = |inbox: &Inbox| {
            let mut all: Vec<_> =
                inbox.all().into_iter().map(|received| received.message).collect();
            all.sort();
            all
        };
        assert_eq!(messages(&here), messages(&away), "the same requests, each once");
        drop(back);
    });
    Ok(())
}

/// Scenario: two pipelines joined by a connector, a batch waiting in each, are told to stop while 30
/// requests are under way.
/// Guarantees: what was acknowledged has arrived; the requests under way are let through.
pub(crate) fn drained() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let grpc = free_port();
        let folder = folder("drained");
        let mut tapio = start(
            &folder,
            &json!({
                "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": format!("127.0.0.1:{grpc}")}}}},
                "processors": {"batch": {"timeout": "400ms"}},
                "exporters": {"otlp_grpc": {"endpoint": format!("127.0.0.1:{}", backend.port), "tls": {"insecure": true}, "compression": "none"}},
                "connectors": {"forward": {}},
                "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
                    "traces/out": {"receivers": ["forward"], "processors": ["batch"], "exporters": ["otlp_grpc"]},
                    "traces/in": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["forward"]},
                }},
            }),
        );
        tapio.listens(grpc).await;
        let client = Grpc::connect(grpc).await.expect("it listens");
        let mut senders = tokio::task::JoinSet::new();
        for number in 0..30 {
            let mut client = client.clone();
            senders.spawn(async move {
                let body = request([record(Signal::Traces, number)]);
                let reply = client.export(Signal::Traces, body).await;
                reply.is_ok_and(|reply| reply.code == 0).then_some(number)
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(inbox.len(), 0, "the first batch waits");
        tapio.stop_well().await;
        let acknowledged: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
        let arrived: Vec<_> =
            inbox.all().iter().flat_map(|received| span_numbers(&received.message)).collect();
        assert_eq!(acknowledged.len(), 30, "all were under way when it was told to stop");
        assert!(acknowledged.iter().all(|number| arrived.contains(number)), "{arrived:?}");
    });
    Ok(())
}

/// Scenario: Kubernetes objects pass through one pipeline, spans of a pod through another.
/// Guarantees: the spans' resource says which pod, node and Deployment it is soon after the objects came.
pub(crate) fn k8s_attributes() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let http = free_port();
        let folder = folder("k8s_attributes");
        let mut tapio = start(
            &folder,
            &json!({
                "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{http}")}}}},
                "processors": {"tapio": {}, "k8sattributes": {
                    "auth_type": "serviceAccount",
                    "extract": {"metadata": ["k8s.pod.name", "k8s.node.name", "k8s.deployment.name"], "labels": [{"key": "app", "tag_name": "app"}]},
                    "pod_association": [
                        {"sources": [{"from": "resource_attribute", "name": "k8s.pod.ip"}]},
                        {"sources": [{"from": "connection"}]},
                    ],
                }},
                "exporters": {"otlp_http": {"endpoint": format!("http://127.0.0.1:{}", backend.port), "compression": "none", "sending_queue": {"enabled": false}}, "nop": {}},
                "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
                    "traces": {"receivers": ["otlp"], "processors": ["k8sattributes"], "exporters": ["otlp_http"]},
                    "logs": {"receivers": ["otlp"], "processors": ["k8sattributes", "tapio"], "exporters": ["nop"]},
                }},
            }),
        );
        tapio.listens(http).await;
        let send = |signal: Signal, body: Value| async move {
            let headers = [("content-type", "application/json")];
            let body = Bytes::from(body.to_string());
            let reply = client::http("POST", http, signal.http_path(), &headers, body).await;
            assert_eq!(reply.expect("an answer").status, 200);
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos();
        let object = |object: Value| {
            json!({
                "observedTimeUnixNano": now.to_string(),
                "attributes": [{"key": "k8s.resource.name", "value": {"stringValue": "objects"}}],
                "body": any(&json!({"type": "ADDED", "object": object})),
            })
        };
        let objects = json!([
            object(
                json!({"kind": "ReplicaSet", "metadata": {"name": "cart-5f4ddbf799", "namespace": "shop", "uid": "r-1",
                "ownerReferences": [{"kind": "Deployment", "name": "cart", "uid": "d-1", "controller": true}]}})
            ),
            object(
                json!({"kind": "Pod", "metadata": {"name": "cart-5f4ddbf799-ddmxg", "namespace": "shop", "uid": "p-1",
                "labels": {"app": "cart"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5f4ddbf799", "uid": "r-1", "controller": true}]},
                "spec": {"nodeName": "n1", "containers": [{"name": "cart", "image": "cart:1"}]},
                "status": {"podIP": "10.0.0.1", "phase": "Running"}})
            ),
        ]);
        send(Signal::Logs, json!({"resourceLogs": [{"scopeLogs": [{"logRecords": objects}]}]}))
            .await;

        let spans = json!({"resourceSpans": [{
            "resource": {"attributes": [{"key": "k8s.pod.ip", "value": {"stringValue": "10.0.0.1"}}]},
            "scopeSpans": [{"spans": [{"name": "get"}]}],
        }]});
        let expected = json!([
            {"key": "k8s.pod.ip", "value": {"stringValue": "10.0.0.1"}},
            {"key": "k8s.pod.name", "value": {"stringValue": "cart-5f4ddbf799-ddmxg"}},
            {"key": "k8s.node.name", "value": {"stringValue": "n1"}},
            {"key": "k8s.deployment.name", "value": {"stringValue": "cart"}},
            {"key": "app", "value": {"stringValue": "cart"}},
        ]);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            send(Signal::Traces, spans.clone()).await;
            let received = inbox.all().pop().expect("it was sent on");
            let text =
                tapio_proto::json::from_proto(tapio_proto::Signal::Traces, &received.message);
            let out: Value = serde_json::from_str(&text.expect("it is OTLP")).expect("it is JSON");
            let attributes = &out["resourceSpans"][0]["resource"]["attributes"];
            if *attributes == expected {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{attributes}\n{}", tapio.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tapio.stop_well().await;
        let log = tapio.output();
        assert!(log.contains("does not know the senders' addresses"), "{log}");
        assert!(
            log.contains("\"k8sattributes\" alias is deprecated; use \"k8s_attributes\""),
            "{log}"
        );
    });
    Ok(())
}

/// Any JSON as an OTLP value, as the Collector's receivers write objects.
fn any(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let values: Vec<_> = members
                .iter()
                .map(|(key, value)| json!({"key": key, "value": any(value)}))
                .collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Array(elements) => {
            json!({"arrayValue": {"values": elements.iter().map(any).collect::<Vec<_>>()}})
        }
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(value) => json!({"intValue": value.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Null => json!({}),
    }
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what} did not get everything");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Scenario: senders of two tenants, and `batch` before a queue that batches on disk.
/// Guarantees: `headers_setter` gives each request to the backend the header of its own sender, through
/// merging as without it, and by both protocols.
pub(crate) fn headers_setter() -> Result<(), Skipped> {
    block_on(async {
        let (inbox, folder) = (Inbox::default(), folder("headers_setter"));
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let (grpc, http) = (free_port(), free_port());
        let tenant = json!(["x-tenant"]);
        let exporter = |queue: Value| {
            json!({
                "endpoint": format!("http://127.0.0.1:{}", backend.port), "tls": {"insecure": true}, "compression": "none",
                "auth": {"authenticator": "headers_setter"}, "sending_queue": queue,
                "headers": {"x-replaced": "before", "x-kept": "before"},
            })
        };
        let mut tapio = start(
            &folder,
            &json!({
                "receivers": {"otlp": {"protocols": {
                    "grpc": {"endpoint": format!("127.0.0.1:{grpc}"), "include_metadata": true},
                    "http": {"endpoint": format!("127.0.0.1:{http}"), "include_metadata": true},
                }}},
                "processors": {"batch": {"timeout": "100ms", "metadata_keys": tenant}},
                "exporters": {
                    "otlp_grpc": exporter(json!({"enabled": false})),
                    "otlp_http": exporter(json!({"batch": {"flush_timeout": "100ms", "partition": {"metadata_keys": tenant}}})),
                },
                "extensions": {"headers_setter": {"headers": [
                    {"action": "upsert", "key": "X-Scope-OrgID", "from_context": "X-Tenant", "default_value": "nobody"},
                    {"action": "insert", "key": "x-kept", "value": "after"},
                    {"action": "update", "key": "x-replaced", "value": "after"},
                    {"action": "update", "key": "x-absent", "value": "after"},
                ]}},
                "service": {
                    "extensions": ["headers_setter"], "telemetry": {"metrics": {"level": "none"}},
                    "pipelines": {
                        "traces": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["otlp_grpc"]},
                        "logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
                    },
                },
            }),
        );
        tapio.listens(grpc).await;
        tapio.listens(http).await;
        let mut senders = tokio::task::JoinSet::new();
        for (number, tenant) in [Some("a"), Some("b"), Some("a"), None].into_iter().enumerate() {
            for signal in [Signal::Traces, Signal::Logs] {
                senders.spawn(async move {
                    let body = request([record(signal, number as u64)]);
                    let mut headers = vec![("content-type", "application/x-protobuf")];
                    headers.extend(tenant.map(|tenant| ("X-Tenant", tenant)));
                    if number % 2 == 0 {
                        let path = signal.http_path();
                        let reply = client::http("POST", http, path, &headers, body).await;
                        assert_eq!(reply.expect("an answer").status, 200);
                    } else {
                        let mut headers =
                            vec![("content-type", "application/grpc"), ("te", "trailers")];
                        headers.extend(tenant.map(|tenant| ("x-tenant", tenant)));
                        let mut client = Grpc::connect(grpc).await.expect("it listens");
                        let body = client::frame(0, &body);
                        let reply = client.send("POST", signal.grpc_path(), &headers, body).await;
                        assert_eq!(reply.expect("an answer").code, 0);
                    }
                });
            }
        }
        while let Some(sent) = senders.join_next().await {
            sent.expect("a sender failed");
        }
        wait_for("a batch for each tenant and signal", || inbox.len() == 6).await;
        tapio.stop_well().await;
        for path in [Signal::Traces.grpc_path(), Signal::Logs.http_path()] {
            let here: Vec<_> = inbox.all().into_iter().filter(|one| one.path == path).collect();
            let mut tenants: Vec<_> = here
                .iter()
                .map(|one| one.headers["x-scope-orgid"].to_str().expect("a text").to_owned())
                .collect();
            tenants.sort();
            assert_eq!(tenants, ["a", "b", "nobody"], "{path}");
            for one in here {
                assert_eq!(one.headers["x-kept"], "before", "{path}");
                assert_eq!(one.headers["x-replaced"], "after", "{path}");
                assert!(!one.headers.contains_key("x-absent"), "{path}");
            }
        }
    });
    Ok(())
}
