//! Tapio's own traces: one span for a request that a receiver took, one for each exporter that it was
//! handed to. With a queue an exporter's span ends when the queue has the request.
//!
//! Tapio's own telemetry that comes back in, by whatever way and from whichever Tapio, is not traced:
//! else each span would make another one, for ever.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tapio_exporter::Exporter;
use tapio_proto::{
    Batching, CanBatch, Consumer, Next, Outcome, Pending, Request, Signal, attr,
    splice::encode_attributes,
    wire::{put_fixed64_field, put_len_field, put_message, put_varint_field},
};
use tokio::sync::mpsc;

use super::{push, registry::Counter, resource::Resource};
use crate::{
    components::{Host, Stop},
    config::telemetry::{BatchSpans, Level, PushExporter, Sampler, Traces},
};

/// The scope of Tapio's own spans, by which every Tapio knows them.
const SCOPE: &str = "tapio.dev/self/spans";
/// For the last spans when Tapio stops.
const LIMIT: Duration = Duration::from_secs(5);
/// SPAN_KIND_SERVER and SPAN_KIND_CLIENT
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// Decides what is traced, and takes spans that ended.
pub(crate) struct Tracer {
    sinks: Vec<mpsc::Sender<Bytes>>,
    /// Of 2^64 draws, so many are traced.
    threshold: u64,
    /// `service.instance.id`, if there is one: what carries it is our own.
    instance: Option<String>,
    random: RandomState,
    drawn: AtomicU64,
    /// Spans for which there was no room.
    dropped: Counter,
}

/// What is decided for the request in whose task this is.
#[derive(Clone, Copy)]
enum Decision {
    Traced { trace: [u8; 16], span: [u8; 8] },
    Untraced,
}

tokio::task_local! {
    static DECISION: Decision;
}

/// Starts what sends spans; `None` when nobody asked for them.
pub(crate) fn start(
    traces: &Traces,
    who: &Resource,
    host: &Host,
) -> Result<Option<(Arc<Tracer>, Stop)>, String> {
    let ratio = Sampler::ratio(&traces.sampler);
    if traces.level == Level::None || traces.processors.is_empty() || ratio == 0.0 {
        return Ok(None);
    }
    let (mut sinks, mut tasks) = (Vec::new(), Vec::new());
    for processor in &traces.processors {
        let batch = match (&processor.batch, &processor.simple) {
            (Some(batch), _) => batch.clone(),
            // One by one, they would cost as many requests as they tell of: a short delay is kept.
            (None, Some(simple)) => BatchSpans {
                exporter: simple.exporter.clone(),
                schedule_delay: 200,
                ..BatchSpans::default()
            },
            (None, None) => continue,
        };
        let exporter = exporter(&batch.exporter)?;
        let (sink, spans) = mpsc::channel(batch.max_queue_size);
        sinks.push(sink);
        tasks.push(tokio::spawn(send(spans, exporter, batch, who.encoded())));
    }
    let tracer = Tracer {
        sinks,
        threshold: (ratio * u64::MAX as f64) as u64,
        instance: who.attributes().get("service.instance.id").cloned(),
        random: RandomState::new(),
        drawn: AtomicU64::new(0),
        dropped: host.metrics.counter(
            "tapio_self_spans_dropped",
            "Spans of Tapio's own for which there was no room",
            &[],
        ),
    };
    let stop: Stop = Box::new(move || {
        Box::pin(async move {
            for task in tasks {
                // The last tracer is gone with the pipelines; what it left is sent within a limit.
                let mut task = task;
                if tokio::time::timeout(LIMIT, &mut task).await.is_err() {
                    task.abort();
                }
            }
        })
    });
    Ok(Some((Arc::new(tracer), stop)))
}

fn exporter(push: &PushExporter) -> Result<Exporter, String> {
    let otlp = push.otlp.as_ref().ok_or("must specify one exporter: otlp")?;
    push::exporter(&otlp.target()?)
}

/// `next` as the receiver's pipelines see it, traced if anything is.
pub(crate) fn receive(tracer: &Option<Arc<Tracer>>, id: &str, signal: Signal, next: Next) -> Next {
    let Some(tracer) = tracer else { return next };
    let what = match signal {
        Signal::Traces => "TraceDataReceived",
        Signal::Metrics => "MetricsReceived",
        Signal::Logs => "LogsReceived",
        Signal::Profiles => "ProfilesReceived",
    };
    let item = signal.items_name();
    Arc::new(Traced {
        tracer: Arc::clone(tracer),
        kind: SERVER,
        name: format!("receiver/{id}/{what}"),
        done: format!("accepted_{item}"),
        failed: format!("refused_{item}"),
        next,
    })
}

/// An exporter, traced if anything is.
pub(crate) fn export(tracer: &Option<Arc<Tracer>>, id: &str, signal: Signal, next: Next) -> Next {
    let Some(tracer) = tracer else { return next };
    Arc::new(Traced {
        tracer: Arc::clone(tracer),
        kind: CLIENT,
        name: format!("exporter/{id}/{}", signal.name()),
        done: "items.sent".into(),
        failed: "items.failed".into(),
        next,
    })
}

struct Traced {
    tracer: Arc<Tracer>,
    kind: u64,
    name: String,
    /// The attributes that say how many items were taken and how many were not.
    done: String,
    failed: String,
    next: Next,
}

impl Consumer for Traced {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let parent = DECISION.try_with(|decision| *decision).ok();
        let (trace, parent) = match parent {
            Some(Decision::Untraced) => return self.next.consume(request),
            Some(Decision::Traced { trace, span }) => (trace, Some(span)),
            None if self.tracer.wants(&request) => (self.tracer.trace_id(), None),
            None => return Box::pin(self.within(Decision::Untraced, request)),
        };
        let span = self.tracer.span_id();
        let items = request.items;
        let (start, clock) = (SystemTime::now(), std::time::Instant::now());
        let work = self.within(Decision::Traced { trace, span }, request);
        Box::pin(self.told(work, move |traced, outcome| {
            let mut out = Vec::with_capacity(160);
            put_len_field(&mut out, 1, &trace);
            put_len_field(&mut out, 2, &span);
            if let Some(parent) = parent {
                put_len_field(&mut out, 4, &parent);
            }
            put_len_field(&mut out, 5, traced.name.as_bytes());
            put_varint_field(&mut out, 6, traced.kind);
            put_fixed64_field(&mut out, 7, push::nanos(start));
            put_fixed64_field(&mut out, 8, push::nanos(start + clock.elapsed()));
            let (done, failed) = if outcome.is_ok() { (items, 0) } else { (0, items) };
            let number = |items: usize| attr::Value::Int(items as i64);
            let attributes =
                [(traced.done.as_str(), number(done)), (traced.failed.as_str(), number(failed))];
            out.extend(encode_attributes(9, &attributes));
            if let Err(status) = outcome {
                put_message(&mut out, 15, |out| {
                    put_len_field(out, 2, status.message.as_bytes());
                    put_varint_field(out, 3, 2); // STATUS_CODE_ERROR
                });
            }
            out.into()
        }))
    }
}

impl Traced {
    /// Hands the request on so that everything behind knows what was decided; the next one decides when
    /// it is called, so the call stands inside.
    async fn within(&self, decision: Decision, request: Request) -> Outcome {
        DECISION.scope(decision, async move { self.next.consume(request).await }).await
    }

    async fn told(
        &self,
        work: impl Future<Output = Outcome>,
        span: impl FnOnce(&Self, &Outcome) -> Bytes,
    ) -> Outcome {
        let outcome = work.await;
        self.tracer.put(span(self, &outcome));
        outcome
    }
}

impl Tracer {
    /// Drawn, and not our own telemetry.
    fn wants(&self, request: &Request) -> bool {
        if self.draw() > self.threshold {
            return false;
        }
        let holds = |text: &str| memchr::memmem::find(&request.bytes, text.as_bytes()).is_some();
        !holds(SCOPE) && !self.instance.as_deref().is_some_and(holds)
    }

    fn draw(&self) -> u64 {
        self.random.hash_one(self.drawn.fetch_add(1, Relaxed))
    }

    fn span_id(&self) -> [u8; 8] {
        self.draw().max(1).to_be_bytes()
    }

    fn trace_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.span_id());
        id[8..].copy_from_slice(&self.span_id());
        id
    }

    fn put(&self, span: Bytes) {
        for sink in &self.sinks {
            if sink.try_send(span.clone()).is_err() {
                self.dropped.add(1);
            }
        }
    }
}

/// Sends spans in batches until the tracer is gone.
async fn send(
    mut spans: mpsc::Receiver<Bytes>,
    exporter: Exporter,
    batch: BatchSpans,
    resource: Vec<u8>,
) {
    let mut ticks = tokio::time::interval(Duration::from_millis(batch.schedule_delay));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let limit = Duration::from_millis(batch.export_timeout);
    let mut waiting = Vec::with_capacity(batch.max_export_batch_size);
    loop {
        let open = tokio::select! {
            _ = ticks.tick() => true,
            span = spans.recv() => {
                let open = span.is_some();
                waiting.extend(span);
                if open && waiting.len() < batch.max_export_batch_size {
                    continue;
                }
                open
            }
        };
        if !waiting.is_empty() {
            let request = request(&resource, &waiting);
            waiting.clear();
            let error = match tokio::time::timeout(limit, exporter.consume(request)).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(status.to_string()),
                Err(_) => Some(format!("no answer in {limit:?}")),
            };
            if let Some(error) = error {
                tracing::warn!(error, "Tapio's own spans could not be sent. They are lost.");
            }
        }
        if !open {
            return;
        }
    }
}

fn request(resource: &[u8], spans: &[Bytes]) -> Request {
    let mut bytes = Vec::new();
    put_message(&mut bytes, 1, |group| {
        put_len_field(group, 1, resource);
        put_message(group, 2, |out| {
            put_message(out, 1, |out| put_len_field(out, 1, SCOPE.as_bytes()));
            for span in spans {
                put_len_field(out, 2, span);
            }
        });
    });
    Request::new(Signal::Traces, bytes.into(), spans.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::BTreeMap, sync::Mutex};

    use tapio_proto::Accepted;

    use super::*;

    fn tracer(sink: mpsc::Sender<Bytes>) -> Option<Arc<Tracer>> {
        Some(Arc::new(Tracer {
            sinks: vec![sink],
            threshold: u64::MAX,
            instance: Some("our-instance".into()),
            random: RandomState::new(),
            drawn: AtomicU64::new(0),
            dropped: Counter::default(),
        }))
    }

    #[derive(Default)]
    struct Sink(Mutex<usize>);

    impl Consumer for Sink {
        fn consume(&self, _: Request) -> Pending<'_> {
            *self.0.lock().unwrap() += 1;
            Box::pin(async { Ok(Accepted::default()) })
        }
    }

    fn of(bytes: impl Into<Bytes>) -> Request {
        Request::new(Signal::Traces, bytes.into(), 3)
    }

    #[tokio::test]
    async fn a_request_is_one_trace_from_the_receiver_to_the_exporter() {
        let (sink, mut spans) = mpsc::channel(10);
        let tracer = tracer(sink);
        let exporter = export(&tracer, "otlp_grpc", Signal::Traces, Arc::new(Sink::default()));
        let receiver = receive(&tracer, "otlp", Signal::Traces, exporter);
        receiver.consume(of("")).await.unwrap();
        let (client, server) = (spans.recv().await.unwrap(), spans.recv().await.unwrap());
        let who = Resource::new(&BTreeMap::new()).encoded();
        let request = request(&who, &[client, server]);
        let json = tapio_proto::json::from_proto(Signal::Traces, &request.bytes).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let spans = &json["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let (client, server) = (&spans[0], &spans[1]);
        assert_eq!(client["name"], "exporter/otlp_grpc/traces");
        assert_eq!(server["name"], "receiver/otlp/TraceDataReceived");
        assert_eq!(client["traceId"], server["traceId"]);
        assert_eq!(client["parentSpanId"], server["spanId"]);
        assert!(server.to_string().contains("accepted_spans"), "{server}");
    }

    #[tokio::test]
    async fn tapios_own_telemetry_is_passed_on_and_not_traced() {
        let (sink, mut spans) = mpsc::channel(10);
        let (tracer, behind) = (tracer(sink), Arc::new(Sink::default()));
        let exporter = export(&tracer, "otlp_grpc", Signal::Traces, behind.clone());
        let receiver = receive(&tracer, "otlp", Signal::Traces, exporter);
        let who = Resource::new(&BTreeMap::new()).encoded();
        let anothers = request(&who, &[Bytes::new()]);
        receiver.consume(anothers).await.unwrap();
        receiver.consume(of("..our-instance..")).await.unwrap();
        assert_eq!(*behind.0.lock().unwrap(), 2);
        assert!(spans.try_recv().is_err());
    }
}
