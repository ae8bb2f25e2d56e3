//! What becomes of requests that are larger than a batch may be.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Group, Ports, Twin, pair, processors::tidied};
use crate::e2e::{
    backend::Received,
    client,
    program::block_on,
    runner::Skipped,
    wire::{Message, Signal},
};

/// A way to batch: a processor, or the exporter's queue.
struct Way {
    name: &'static str,
    processor: Option<Value>,
    queue: Value,
}

fn ways() -> Vec<Way> {
    let processor =
        |name, body| Way { name, processor: Some(body), queue: json!({"enabled": false}) };
    let queue = |name, body| Way { name, processor: None, queue: json!({"batch": body}) };
    vec![
        processor(
            "processor",
            json!({"send_batch_size": 10, "send_batch_max_size": 10, "timeout": "200ms"}),
        ),
        processor(
            "processor_less",
            json!({"send_batch_size": 4, "send_batch_max_size": 10, "timeout": "200ms"}),
        ),
        processor(
            "processor_no_timeout",
            json!({"send_batch_size": 10, "send_batch_max_size": 10, "timeout": "0s"}),
        ),
        processor("processor_no_size", json!({"send_batch_size": 0, "send_batch_max_size": 10})),
        queue(
            "queue",
            json!({"sizer": "items", "min_size": 10, "max_size": 10, "flush_timeout": "200ms"}),
        ),
        queue(
            "queue_less",
            json!({"sizer": "items", "min_size": 4, "max_size": 10, "flush_timeout": "200ms"}),
        ),
        queue(
            "queue_bytes",
            json!({"sizer": "bytes", "min_size": MAX_BYTES, "max_size": MAX_BYTES, "flush_timeout": "200ms"}),
        ),
        queue(
            BELOW_AN_ITEM,
            json!({"sizer": "bytes", "min_size": 100, "max_size": 100, "flush_timeout": "200ms"}),
        ),
    ]
}

/// Four items with what is around them, and not nearly five: the Collector writes a few bytes more for each item, and
/// reckons with the longest lengths that there could be.
const MAX_BYTES: usize = 1500;
/// An item has about so many bytes, with its attribute.
const ITEM: usize = 300;

/// Where no item fits. The Collector drops them.
const BELOW_AN_ITEM: &str = "queue_below_an_item";

/// Groups of scopes with so many items; a scope of metrics has one metric.
type Shape = &'static [&'static [usize]];

/// What is sent, and what of it arrives at the same time.
const ROUNDS: &[(&str, &[Shape])] = &[
    ("25", &[&[&[25]]]),
    ("10", &[&[&[10]]]),
    ("11", &[&[&[11]]]),
    ("mixed", &[&[&[3, 4], &[6, 1, 15], &[2]]]),
    ("two", &[&[&[25]], &[&[5]]]),
];

fn items(rounds: &[Shape]) -> usize {
    rounds.iter().copied().flatten().copied().flatten().sum()
}

fn body(signal: Signal, shape: Shape) -> Bytes {
    let mut number = 0;
    let mut item = |attributes| {
        number += 1;
        let item = match signal {
            Signal::Traces => Message::new().bytes(1, [7; 16]).fixed64(7, number),
            Signal::Metrics => Message::new().fixed64(3, number).double(4, 0.5),
            Signal::Logs => Message::new().fixed64(1, number).bytes(3, "INFO"),
        };
        let len = item.0.len();
        item.attribute(attributes, "k", "v".repeat(ITEM - 12 - len))
    };
    let mut scopes = 0;
    let mut request = Message::new();
    for group in shape {
        let name = format!("service-{}", group.len());
        let resource = Message::new().attribute(1, "service.name", name);
        let mut message = Message::new().message(1, resource).bytes(3, "https://resource");
        for count in *group {
            scopes += 1;
            let scope = Message::new().bytes(1, format!("scope-{scopes}"));
            let mut scope = Message::new().message(1, scope).bytes(3, "https://scope");
            match signal {
                Signal::Traces => {
                    scope = (0..*count).fold(scope, |scope, _| scope.message(2, item(9)));
                }
                Signal::Logs => {
                    scope = (0..*count).fold(scope, |scope, _| scope.message(2, item(6)));
                }
                Signal::Metrics => {
                    // Gauge, sum and histogram in turn.
                    let (kind, attributes) = [(9, 9), (5, 7), (7, 7)][scopes % 3];
                    let mut data = (0..*count)
                        .fold(Message::new(), |data, _| data.message(1, item(attributes)));
                    if kind != 5 {
                        data = data.varint(2, 2);
                    }
                    let metric = Message::new().bytes(1, "m").bytes(2, "about").bytes(3, "s");
                    scope = scope.message(2, metric.message(kind, data));
                }
            }
            message = message.message(2, scope);
        }
        request = request.message(1, message);
    }
    request.0.into()
}

fn name_of(signal: Signal) -> &'static str {
    signal.http_path().trim_start_matches("/v1/")
}

fn configuration(ports: &Ports) -> Value {
    let (mut processors, mut exporters, mut pipelines) = (json!({}), json!({}), json!({}));
    for Way { name, processor, queue } in ways() {
        let batch = format!("batch/{name}");
        let used = if processor.is_some() { json!([batch]) } else { json!([]) };
        if let Some(processor) = processor {
            processors[&batch] = processor;
        }
        let exporter = format!("otlp_http/{name}");
        exporters[&exporter] = json!({
            "endpoint": format!("http://127.0.0.1:{}/{name}", ports.backend),
            "compression": "none", "sending_queue": queue,
        });
        for signal in Signal::ALL {
            pipelines[format!("{}/{name}", name_of(signal))] =
                json!({"receivers": ["otlp"], "processors": used, "exporters": [exporter]});
        }
    }
    json!({
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{}", ports.http)}}}},
        "processors": processors, "exporters": exporters,
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": pipelines},
    })
}

fn items_of(signal: Signal, received: &Received) -> usize {
    let signal = match signal {
        Signal::Traces => tapio_proto::Signal::Traces,
        Signal::Metrics => tapio_proto::Signal::Metrics,
        Signal::Logs => tapio_proto::Signal::Logs,
    };
    tapio_proto::check(signal, &received.message).expect("OTLP")
}

/// Sends these at the same time, and returns what arrived when all of it has, in each way.
async fn round(twin: &Twin, signal: Signal, shapes: &[Shape]) -> Vec<Vec<Received>> {
    let mut sent = tokio::task::JoinSet::new();
    for shape in shapes {
        let (port, body) = (twin.ports.http, body(signal, shape));
        sent.spawn(
            async move { client::post(port, signal, body).await.expect("an answer").status },
        );
    }
    assert!(sent.join_all().await.iter().all(|status| *status == 200), "{}", twin.program.tail());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let all = twin.inbox.all();
        let of = |way: &Way| -> Vec<_> {
            let path = format!("/{}{}", way.name, signal.http_path());
            all.iter().filter(|received| received.path == path).cloned().collect()
        };
        let arrived: Vec<_> = ways().iter().map(of).collect();
        let missing = |(way, arrived): (&Way, &Vec<Received>)| {
            let there: usize = arrived.iter().map(|one| items_of(signal, one)).sum();
            let dropped = twin.name == "Collector" && way.name == BELOW_AN_ITEM;
            (!dropped && there < items(shapes)).then_some((way.name, there))
        };
        let missing: Vec<_> = ways().iter().zip(&arrived).filter_map(missing).collect();
        if missing.is_empty() {
            twin.inbox.take();
            return arrived;
        }
        let (name, log) = (twin.name, twin.program.tail());
        assert!(Instant::now() < deadline, "of {signal:?} {name} sent only {missing:?}\n{log}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Scenario: requests below, at and above what a batch may hold, alone and two at a time.
/// Guarantees: the backend gets as many requests as from a Collector with as many items in each, and where one was sent
/// alone the same items in each with the same around them.
pub(crate) fn pieces() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("pieces", configuration).await?;
        let mut group = Group::new();
        for (name, shapes) in ROUNDS {
            for signal in Signal::ALL {
                let theirs = round(&twins[0], signal, shapes).await;
                let ours = round(&twins[1], signal, shapes).await;
                for (way, sides) in ways().iter().zip(theirs.into_iter().zip(ours)) {
                    let sorted = |texts: &mut Vec<String>| {
                        texts.sort();
                        texts.join("\n")
                    };
                    let sizes = |side: &[Received]| {
                        let sizes = side.iter().map(|one| format!("{:3}", items_of(signal, one)));
                        sorted(&mut sizes.collect())
                    };
                    let sent = |side: &[Received]| {
                        let alone = shapes.len() == 1;
                        sorted(&mut side.iter().filter(|_| alone).map(tidied).collect())
                    };
                    let (theirs, ours) = sides;
                    let facets = [
                        ("sizes", sizes(&theirs), sizes(&ours)),
                        ("sent", sent(&theirs), sent(&ours)),
                    ];
                    group.case(&format!("pieces/{}/{name}/{}", way.name, name_of(signal)), &facets);
                }
            }
        }
        group.end();
        Ok(())
    })
}
