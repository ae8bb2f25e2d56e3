//! What the analysis takes: for an event, for a batch, for a pass over all windows, and of memory.
//!
//! `cargo bench --workspace --bench engine`. A town of services calls along a tree; its telemetry comes in
//! requests of 100 spans, log records or points, in the order of its own time, and one service begins to
//! fail in the last minute. Ratios are to decoding the same requests with `prost`, in the same process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench may stop")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{
        AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
        number_data_point::Value as Number,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use prost::Message;
use serde_json::json;
use tapio_processor::{AnalysisConfig, Engine, Patterns, store::Store};
use tapio_proto::{
    Request, Signal, check,
    view::{Record, RequestView},
};

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Items in a request.
const BATCH: u64 = 100;
const SECOND: u64 = 1_000_000_000;
/// 2026-06-01, in unix nanoseconds.
const START: u64 = 1_780_272_000 * SECOND;

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn any(value: &serde_json::Value) -> AnyValue {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => return AnyValue::default(),
        Json::Bool(told) => Value::BoolValue(*told),
        Json::Number(n) => {
            n.as_i64().map_or(Value::DoubleValue(n.as_f64().unwrap()), Value::IntValue)
        }
        Json::String(told) => Value::StringValue(told.clone()),
        Json::Array(all) => Value::ArrayValue(ArrayValue { values: all.iter().map(any).collect() }),
        Json::Object(all) => Value::KvlistValue(KeyValueList {
            values: all.iter().map(|(key, value)| attribute(key, any(value))).collect(),
        }),
    };
    AnyValue { value: Some(value) }
}

/// Services in a tree, each with as many pods as the others.
struct Town {
    services: u64,
    pods: u64,
    /// Items a second of its own time.
    rate: u64,
    random: u64,
    /// Since when the last service fails, in unix nanoseconds.
    fails: u64,
}

impl Town {
    fn new(services: u64, pods: u64, rate: u64) -> Self {
        Town { services, pods, rate, random: 0x9e37_79b9_7f4a_7c15, fails: u64::MAX }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn resource(service: u64, pod: u64) -> Resource {
        let name = format!("service-{service}");
        let attributes = [
            ("service.name", name.clone()),
            ("service.version", "1.4.2".to_owned()),
            ("k8s.namespace.name", "town".to_owned()),
            ("k8s.deployment.name", name.clone()),
            ("k8s.pod.name", format!("{name}-7d4b9c8f6-{pod}")),
            ("k8s.node.name", format!("node-{}", (service * 7 + pod) % 100)),
        ];
        let attributes = attributes.iter().map(|(key, value)| attribute(key, text(value)));
        Resource { attributes: attributes.collect(), ..Resource::default() }
    }

    /// Every object of the cluster, as the `k8sobjects` receiver tells them.
    fn objects(&self) -> Vec<Request> {
        let mut all = Vec::new();
        for service in 0..self.services {
            let name = format!("service-{service}");
            let labels = json!({"app": name});
            let meta = |name: &str| {
                json!({"name": name, "namespace": "town", "uid": format!("uid-{name}"), "labels": labels,
                    "resourceVersion": "1", "creationTimestamp": "2026-05-01T00:00:00Z"})
            };
            let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{
                "name": "main", "image": "town/service:1.4.2",
                "envFrom": [{"configMapRef": {"name": name}}],
                "resources": {"limits": {"memory": "256Mi", "cpu": "500m"}}}]}});
            let owner = |kind: &str, name: &str| {
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true,
                    "uid": format!("uid-{name}")}])
            };
            all.push((
                "configmaps",
                json!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": meta(&name), "data": {"POOL": "20", "TIMEOUT": "500ms"}}),
            ));
            all.push((
                "services",
                json!({"kind": "Service", "apiVersion": "v1", "metadata": meta(&name),
                "spec": {"selector": labels, "ports": [{"port": 80}]}}),
            ));
            let count = self.pods / self.services;
            all.push((
                "deployments",
                json!({"kind": "Deployment", "apiVersion": "apps/v1",
                "metadata": meta(&name), "spec": {"replicas": count, "template": template,
                "selector": {"matchLabels": labels}}, "status": {"readyReplicas": count}}),
            ));
            let set = format!("{name}-7d4b9c8f6");
            let mut replicas = json!({"kind": "ReplicaSet", "apiVersion": "apps/v1",
                "metadata": meta(&set), "spec": {"replicas": count, "template": template}});
            replicas["metadata"]["ownerReferences"] = owner("Deployment", &name);
            all.push(("replicasets", replicas));
            for pod in 0..count {
                let mut told = json!({"kind": "Pod", "apiVersion": "v1",
                    "metadata": meta(&format!("{set}-{pod}")), "spec": template["spec"],
                    "status": {"phase": "Running", "podIP": format!("10.{}.{}.{pod}", service / 250, service % 250),
                        "conditions": [{"type": "Ready", "status": "True"}]}});
                told["metadata"]["ownerReferences"] = owner("ReplicaSet", &set);
                told["spec"]["nodeName"] = json!(format!("node-{}", (service * 7 + pod) % 100));
                all.push(("pods", told));
            }
        }
        let records = all.iter().map(|(plural, object)| LogRecord {
            time_unix_nano: START,
            observed_time_unix_nano: START,
            body: Some(any(&json!({"type": "ADDED", "object": object}))),
            attributes: vec![
                attribute("k8s.resource.name", text(plural)),
                attribute("event.domain", text("k8s")),
            ],
            ..LogRecord::default()
        });
        let records: Vec<LogRecord> = records.collect();
        let scope = InstrumentationScope {
            name: "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/k8sobjectsreceiver".into(),
            ..InstrumentationScope::default()
        };
        records
            .chunks(BATCH as usize)
            .map(|records| {
                let resource = Resource {
                    attributes: vec![attribute("k8s.namespace.name", text("town"))],
                    ..Resource::default()
                };
                logs(resource, Some(scope.clone()), records.to_vec())
            })
            .collect()
    }

    /// One request of a pod at `time`: eight of ten bring spans, one log records, one points.
    fn request(&mut self, number: u64, time: u64) -> Request {
        let service = self.random() % self.services;
        let pod = self.random() % (self.pods / self.services);
        let resource = Town::resource(service, pod);
        match number % 10 {
            0 => self.lines(resource, time),
            5 => Town::points(resource, time),
            _ => self.spans(resource, service, time),
        }
    }

    /// Requests served and, by services that are no leaves, what they asked of the next.
    fn spans(&mut self, resource: Resource, service: u64, time: u64) -> Request {
        let child = service * 2 + 1 + number_of(time) % 2;
        let leaf = child >= self.services;
        let mut spans = Vec::with_capacity(BATCH as usize);
        let gap = SECOND * BATCH / self.rate / BATCH;
        while spans.len() < BATCH as usize {
            let id = self.random();
            let end = time + gap * spans.len() as u64;
            let sick =
                end >= self.fails && (service == self.services - 1 || child == self.services - 1);
            let failed = if sick { id.is_multiple_of(2) } else { id.is_multiple_of(1000) };
            let took = 3_000_000 + self.random() % 4_000_000;
            let trace_id = [id.to_be_bytes(), id.rotate_left(17).to_be_bytes()].concat();
            let status = Status {
                message: if failed { "connection refused".to_owned() } else { String::new() },
                code: 2 * i32::from(failed),
            };
            let server = Span {
                trace_id: trace_id.clone(),
                span_id: id.to_be_bytes().to_vec(),
                parent_span_id: id.rotate_left(7).to_be_bytes().to_vec(),
                name: format!("GET /api/v1/items/{}", id % 5),
                kind: 2,
                start_time_unix_nano: end - took,
                end_time_unix_nano: end,
                attributes: vec![
                    attribute("http.request.method", text("GET")),
                    attribute("url.path", text("/api/v1/items")),
                    attribute(
                        "http.response.status_code",
                        any(&json!(if failed { 500 } else { 200 })),
                    ),
                    attribute("server.address", text("town.svc")),
                ],
                status: Some(status.clone()),
                ..Span::default()
            };
            spans.push(server);
            if !leaf {
                spans.push(Span {
                    trace_id,
                    span_id: id.rotate_left(9).to_be_bytes().to_vec(),
                    parent_span_id: id.to_be_bytes().to_vec(),
                    name: "GET".to_owned(),
                    kind: 3,
                    start_time_unix_nano: end - took + 1_000_000,
                    end_time_unix_nano: end - 1_000_000,
                    attributes: vec![
                        attribute("http.request.method", text("GET")),
                        attribute("server.address", text(&format!("service-{child}"))),
                        attribute("peer.service", text(&format!("service-{child}"))),
                    ],
                    status: Some(status),
                    ..Span::default()
                });
            }
        }
        spans.truncate(BATCH as usize);
        let scope = ScopeSpans { spans, ..ScopeSpans::default() };
        let group = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        };
        sent(Signal::Traces, &ExportTraceServiceRequest { resource_spans: vec![group] })
    }

    fn lines(&mut self, resource: Resource, time: u64) -> Request {
        let records = (0..BATCH).map(|_| LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: time,
            severity_number: 9,
            body: Some(text(&format!(
                "order {} was paid in {} ms",
                self.random(),
                self.random() % 100
            ))),
            ..LogRecord::default()
        });
        let records = records.collect();
        logs(resource, None, records)
    }

    fn points(resource: Resource, time: u64) -> Request {
        let metric = |name: &str, of: u64| Metric {
            name: name.to_owned(),
            data: Some(Data::Gauge(Gauge {
                data_points: vec![NumberDataPoint {
                    time_unix_nano: time,
                    value: Some(Number::AsInt(of as i64)),
                    ..NumberDataPoint::default()
                }],
            })),
            ..Metric::default()
        };
        let metrics = (0..BATCH / 2)
            .flat_map(|i| [metric("k8s.pod.memory.usage", 100 << 20), metric("queue.length", i)])
            .collect();
        let scope = ScopeMetrics { metrics, ..ScopeMetrics::default() };
        let group = ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        };
        sent(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics: vec![group] })
    }

    /// What comes in so many milliseconds from `from` on.
    fn slice(&mut self, from: u64, millis: u64) -> Slice {
        let every = SECOND * BATCH / self.rate;
        let count = millis * 1_000_000 / every;
        let requests = (0..count).map(|number| self.request(number, from + number * every));
        Slice {
            parts: requests.map(|request| Part::of(request, from, millis)).collect(),
            from,
            millis,
        }
    }
}

/// Some milliseconds of telemetry, that can come again at another time with other ids.
struct Slice {
    parts: Vec<Part>,
    from: u64,
    millis: u64,
}

struct Part {
    signal: Signal,
    items: usize,
    bytes: Vec<u8>,
    times: Vec<usize>,
    ids: Vec<usize>,
}

impl Part {
    fn of(request: Request, from: u64, millis: u64) -> Self {
        let bytes = request.bytes.to_vec();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let near = from - SECOND..from + SECOND + millis * 1_000_000;
        let times = (1..bytes.len().saturating_sub(7))
            .filter(|at| bytes[at - 1] & 7 == 1 && near.contains(&number(*at)));
        let times = times.collect();
        let mut ids = Vec::new();
        let at = |slice: &[u8]| slice.as_ptr() as usize - request.bytes.as_ptr() as usize;
        if request.signal == Signal::Traces {
            for resource in RequestView::new(request.signal, &request.bytes).resources().flatten() {
                for record in
                    resource.scopes().flatten().flat_map(|scope| scope.records()).flatten()
                {
                    if let Record::Span(span) = record {
                        ids.extend([span.trace_id, span.span_id, span.parent_span_id].map(at));
                    }
                }
            }
        }
        Part { signal: request.signal, items: request.items, bytes, times, ids }
    }

    /// The same `later`, in ns.
    fn at(&self, later: u64) -> Request {
        let mut bytes = self.bytes.clone();
        for at in &self.times {
            let now = u64::from_le_bytes(bytes[*at..at + 8].try_into().unwrap()) + later;
            bytes[*at..at + 8].copy_from_slice(&now.to_le_bytes());
        }
        let mask = (later + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        for at in &self.ids {
            bytes[*at..at + 8].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        Request::new(self.signal, bytes.into(), self.items)
    }
}

/// Memory of the process, MiB.
fn resident() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// An engine to which a town talks.
struct Run {
    engine: Engine,
    store: Arc<Store>,
    slice: Slice,
    /// Where its time is, in unix nanoseconds.
    now: u64,
    items: u64,
    spent: Duration,
    batches: Vec<Duration>,
    passes: Vec<Duration>,
    stories: usize,
}

impl Run {
    fn new(town: &mut Town, millis: u64) -> Self {
        let store = Engine::store(AnalysisConfig::default().store_bytes).unwrap();
        let engine = Engine::new(store.clone(), Arc::new(Patterns::builtin().unwrap())).unwrap();
        let mut run = Run {
            engine,
            store,
            slice: town.slice(START, millis),
            now: START,
            items: 0,
            spent: Duration::ZERO,
            batches: Vec::new(),
            passes: Vec::new(),
            stories: 0,
        };
        for request in town.objects() {
            run.take(&request);
        }
        run
    }

    fn take(&mut self, request: &Request) {
        assert_eq!(self.engine.failures, (0, None));
        let (passes, began) = (self.engine.made().0, Instant::now());
        let tellings = black_box(self.engine.ingest(request));
        let took = began.elapsed();
        self.stories += tellings.len();
        self.items += request.items as u64;
        self.spent += took;
        let list =
            if self.engine.made().0 == passes { &mut self.batches } else { &mut self.passes };
        list.push(took);
    }

    /// Goes on for so many seconds of its own time.
    fn goes_on(&mut self, seconds: u64) {
        for _ in 0..seconds * 1000 / self.slice.millis {
            for at in 0..self.slice.parts.len() {
                let request = self.slice.parts[at].at(self.now - self.slice.from);
                self.take(&request);
            }
            self.now += self.slice.millis * 1_000_000;
        }
    }

    /// Forgets what was measured so far.
    fn anew(&mut self) {
        (self.items, self.spent) = (0, Duration::ZERO);
        self.batches.clear();
        self.passes.clear();
    }

    fn ns(&self) -> f64 {
        self.spent.as_nanos() as f64 / self.items as f64
    }
}

fn quantile(all: &[Duration], q: f64) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

fn mean(all: &[Duration]) -> f64 {
    all.iter().sum::<Duration>().as_secs_f64() * 1e3 / all.len().max(1) as f64
}

/// ns an item to decode what a town says with `prost`.
fn decoding(slice: &Slice) -> f64 {
    let requests: Vec<Request> = slice.parts.iter().map(|part| part.at(0)).collect();
    let items: usize = requests.iter().map(|request| request.items).sum();
    let began = Instant::now();
    for Request { signal, bytes, .. } in &requests {
        match signal {
            Signal::Traces => drop(black_box(ExportTraceServiceRequest::decode(&bytes[..]))),
            Signal::Logs => drop(black_box(ExportLogsServiceRequest::decode(&bytes[..]))),
            _ => drop(black_box(ExportMetricsServiceRequest::decode(&bytes[..]))),
        }
    }
    began.elapsed().as_nanos() as f64 / items as f64
}

/// Sustained: what an event takes with all that an event causes, passes included.
fn events() {
    println!(
        "events: 100 services, 1,000 pods, a minute of each rate after two; the one thread's time, passes included"
    );
    println!(
        "| events/s of its time | ns/event | of prost decode | events/s that one core takes | looked at |"
    );
    println!("|---|---|---|---|---|");
    for rate in [100_000, 200_000, 1_650_000] {
        let mut town = Town::new(100, 1_000, rate);
        let mut run = Run::new(&mut town, 100);
        let decode = decoding(&run.slice);
        run.goes_on(120);
        let passed = run.engine.sampled;
        run.anew();
        run.goes_on(60);
        let looked = 1.0 - (run.engine.sampled - passed) as f64 / run.items as f64;
        let ns = run.ns();
        println!("| {rate} | {ns:.0} | {:.2} | {:.0} | {looked:.2} |", ns / decode, 1e9 / ns);
    }
}

/// One batch of 100, and one pass, with a whole window behind them: while all is well, and in an incident.
fn batches() {
    println!(
        "\nbatches and passes: 500 services, 5,000 pods, 10,000 events/s, ten minutes behind them; ms"
    );
    println!("| | batch p50 | p99 | pass p50 | p99 | mean | tellings |");
    println!("|---|---|---|---|---|---|---|");
    let mut town = Town::new(500, 5_000, 10_000);
    let mut run = Run::new(&mut town, 20_000);
    let told = |run: &mut Run, when: &str| {
        run.anew();
        run.stories = 0;
        run.goes_on(60);
        println!(
            "| {when} | {:.3} | {:.3} | {:.1} | {:.1} | {:.1} | {} |",
            quantile(&run.batches, 0.5),
            quantile(&run.batches, 0.99),
            quantile(&run.passes, 0.5),
            quantile(&run.passes, 0.99),
            mean(&run.passes),
            run.stories,
        );
    };
    run.goes_on(600);
    told(&mut run, "all is well");
    town.fails = START;
    run.slice = town.slice(START, 20_000);
    told(&mut run, "one service fails");
}

/// What an event costs in a small town and a large one, at the beginning and after an hour: measured in turns,
/// for a machine is not as fast at one time as at another.
fn growth() {
    println!(
        "\ngrowth: 20,000 events/s; an event without its share of passes, and a pass; medians of nine turns of 5 s"
    );
    println!("| pods | minutes | ns/event | of the first row | pass, ms |");
    println!("|---|---|---|---|---|");
    let sizes = [(100, 10), (1_000, 1), (1_000, 10), (1_000, 60), (5_000, 10)];
    let mut runs = sizes.map(|(pods, minutes)| {
        let mut run = Run::new(&mut Town::new(pods / 10, pods, 20_000), 5_000);
        run.goes_on(minutes * 60 - 45);
        (run, Vec::new(), Vec::new())
    });
    for _ in 0..9 {
        for (run, events, passes) in &mut runs {
            run.anew();
            run.goes_on(5);
            let spent: Duration = run.batches.iter().sum();
            events.push(spent / (run.batches.len() as u32 * BATCH as u32));
            passes.push(Duration::from_secs_f64(mean(&run.passes) / 1e3));
        }
    }
    let first = quantile(&runs[0].1, 0.5);
    for ((pods, minutes), (_, events, passes)) in sizes.iter().zip(&runs) {
        let event = quantile(events, 0.5);
        let (of, pass) = (event / first, quantile(passes, 0.5));
        println!("| {pods} | {minutes} | {:.0} | {of:.2} | {pass:.1} |", event * 1e6);
    }
}

/// Ten minutes of a flood: what stays resident, and what an event takes in the store.
fn memory() {
    println!(
        "\nmemory: 500 services, 5,000 pods, 100,000 events/s for ten minutes, a store of {} MiB; resident without what \
         the bench itself sends",
        AnalysisConfig::default().store_bytes >> 20
    );
    println!("| minutes | events | resident, MiB | in the store, MiB | rows | bytes a row |");
    println!("|---|---|---|---|---|---|");
    let mut town = Town::new(500, 5_000, 100_000);
    let before = resident();
    let slice = town.slice(START, 1_000);
    let own = resident() - before;
    drop(slice);
    let mut run = Run::new(&mut town, 1_000);
    for minutes in [1, 2, 5, 10] {
        let gone = (run.now - START) / SECOND;
        run.goes_on(minutes * 60 - gone);
        let stats = ["spans", "logs", "metrics"].map(|name| run.store.table(name).unwrap().stats());
        let bytes: u64 = stats.iter().map(|stats| stats.bytes).sum();
        let rows: u64 = stats.iter().map(|stats| stats.rows).sum();
        println!(
            "| {minutes} | {} | {} | {} | {rows} | {} |",
            run.items,
            resident() - own,
            bytes >> 20,
            bytes / rows.max(1),
        );
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let began = Instant::now();
    let rows: [(&str, fn()); 4] =
        [("events", events), ("batches", batches), ("growth", growth), ("memory", memory)];
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let rows: Vec<_> = rows.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    match rows[..] {
        [(_, row)] => row(),
        // Each in a process of its own, or what one leaves behind is counted as the next one's memory.
        _ => rows.iter().for_each(|(name, _)| {
            let program = std::env::current_exe().unwrap();
            let status = std::process::Command::new(program).arg(name).status().unwrap();
            assert!(status.success(), "{name}: {status}");
        }),
    }
    println!("\n{:.0} s in all", began.elapsed().as_secs_f64());
}

fn number_of(time: u64) -> u64 {
    time / 1000
}

fn logs(
    resource: Resource,
    scope: Option<InstrumentationScope>,
    records: Vec<LogRecord>,
) -> Request {
    let scope = ScopeLogs { scope, log_records: records, ..ScopeLogs::default() };
    let group = ResourceLogs {
        resource: Some(resource),
        scope_logs: vec![scope],
        ..ResourceLogs::default()
    };
    sent(Signal::Logs, &ExportLogsServiceRequest { resource_logs: vec![group] })
}

fn sent(signal: Signal, message: &impl Message) -> Request {
    let bytes = message.encode_to_vec();
    let items = check(signal, &bytes).unwrap();
    Request::new(signal, bytes.into(), items)
}
