//! Requests into the engine: rows for the store, accumulators, facts. One walk over the bytes.

mod logs;
mod points;
mod spans;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};

pub(crate) use logs::asked_beyond;

use arrow::datatypes::SchemaRef;
use tapio_proto::{
    Request, Signal, attr,
    columns::{LogColumns, MetricColumns, SpanColumns},
    model::{Change, Event, Row as _, Time},
    view::{LogView, Record, RequestView, ResourceGroup, ResourceView},
};

use crate::{
    correlation::{CorrelationError, identity::Claim},
    engine::Engine,
    store::Store,
    validator::{Quarantine, Reason, Within},
};

/// Of each scope so many records are looked at, whatever else there is.
const FEW: usize = 16;

/// Of a container, its pod's name.
const HOST_NAME: &str = "host.name";

/// Rows on their way into the store, joined to batches until the next pass.
#[derive(Default)]
pub(crate) struct Columns {
    spans: SpanColumns,
    logs: LogColumns,
    metrics: MetricColumns,
    events: Vec<Event>,
    changes: Vec<Change>,
    /// Memory is short: rows of what passed through are let go, and only what is reduced from it stays.
    pub(crate) rollups: bool,
    pub(crate) quarantine: Quarantine,
}

impl Columns {
    /// Name, schema and weight of the tables of what passed through.
    pub(crate) fn tables() -> Vec<(&'static str, SchemaRef, u16)> {
        vec![
            ("spans", SpanColumns::schema(), 40),
            ("logs", LogColumns::schema(), 25),
            ("metrics", MetricColumns::schema(), 20),
        ]
    }

    pub(crate) fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    pub(crate) fn changes(&mut self, rows: &[Change]) {
        self.changes.extend_from_slice(rows);
    }

    /// About how many bytes have gathered; events and changes are few.
    pub(crate) fn bytes(&self) -> usize {
        self.spans.bytes() + self.logs.bytes() + self.metrics.bytes()
    }

    /// Moves what has gathered into the store.
    pub(crate) fn flush(&mut self, store: &Store) -> Result<(), CorrelationError> {
        for (name, rows) in [
            ("spans", (!self.spans.is_empty()).then(|| self.spans.finish())),
            ("logs", (!self.logs.is_empty()).then(|| self.logs.finish())),
            ("metrics", (!self.metrics.is_empty()).then(|| self.metrics.finish())),
        ] {
            if let Some(rows) = rows.filter(|_| !self.rollups) {
                store.table(name)?.append(rows)?;
            }
        }
        if !self.events.is_empty() {
            store.table(Event::TABLE)?.append(Event::batch(&std::mem::take(&mut self.events))?)?;
        }
        if !self.changes.is_empty() {
            store
                .table(Change::TABLE)?
                .append(Change::batch(&std::mem::take(&mut self.changes))?)?;
        }
        self.quarantine.flush(store)
    }
}

/// What a resource says of where its telemetry comes from.
#[derive(Default)]
struct Origin<'a> {
    service: &'a str,
    namespace: &'a str,
    /// The namespace is Kubernetes' own.
    placed: bool,
    host: &'a str,
    pod: &'a str,
    container: &'a str,
    node: &'a str,
    version: &'a str,
    workload: Option<(&'static str, &'a str)>,
}

impl<'a> Origin<'a> {
    fn of(resource: &ResourceView<'a>) -> Self {
        let mut origin = Origin::default();
        let mut service_namespace = "";
        for attribute in resource.attributes().flatten() {
            let text = attribute.value.as_str().unwrap_or_default();
            match attribute.key {
                attr::SERVICE_NAME => origin.service = text,
                attr::SERVICE_NAMESPACE => service_namespace = text,
                attr::K8S_NAMESPACE_NAME => origin.namespace = text,
                attr::K8S_POD_NAME => origin.pod = text,
                HOST_NAME => origin.host = text,
                attr::K8S_CONTAINER_NAME => origin.container = text,
                attr::K8S_NODE_NAME => origin.node = text,
                "service.version" => origin.version = text,
                attr::K8S_DEPLOYMENT_NAME => origin.workload = Some(("Deployment", text)),
                attr::K8S_STATEFULSET_NAME => origin.workload = Some(("StatefulSet", text)),
                attr::K8S_DAEMONSET_NAME => origin.workload = Some(("DaemonSet", text)),
                _ => {}
            }
        }
        origin.placed = !origin.namespace.is_empty();
        if !origin.placed {
            origin.namespace = service_namespace;
        }
        origin
    }

    /// What it says of who runs where.
    fn claim(&self) -> Claim<'a> {
        Claim {
            service: self.service,
            namespace: self.namespace,
            placed: self.placed,
            workload: self.workload,
            pod: if self.pod.is_empty() { self.host } else { self.pod },
            spans: false,
        }
    }

    /// The node it runs on, or where that is no node of Kubernetes the machine.
    fn home(&self) -> &'a str {
        let machine = self.pod.is_empty() && !self.placed && self.workload.is_none();
        if self.node.is_empty() && machine { self.host } else { self.node }
    }

    /// Who sends, as far as that is known.
    fn sender(&self) -> &'a str {
        let workload = self.workload.map_or("", |(_, name)| name);
        let names = [self.service, self.pod, workload, self.host];
        names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
    }
}
impl Engine {
    /// Keeps account of records that cannot be analysed.
    fn quarantine(
        &mut self,
        why: (Signal, Reason),
        said: Time,
        sender: &str,
        text: &str,
        items: u32,
    ) {
        let now = self.clock();
        self.columns.quarantine.add((now, said), why, sender, text, items);
    }

    /// What time the sender says that it is, by the newest of what it sent.
    fn says(&mut self, origin: &Origin<'_>, newest: Option<Time>) {
        let Some(newest) = newest else { return };
        let mut sender = DefaultHasher::new();
        if !origin.service.is_empty() {
            (origin.namespace, origin.service).hash(&mut sender);
        }
        self.clock.heard(sender.finish(), newest);
    }

    /// Learns where a service runs, from its spans or from what else it sends.
    fn saw(&mut self, origin: &Origin<'_>, spans: bool) {
        self.homes.saw(origin.namespace, origin.service, origin.home());
        let claim = Claim { spans, ..origin.claim() };
        self.identity.saw(&claim, &self.cluster, self.clock());
    }

    /// What is wrong with a time that is not within, when its sender has said what time it is.
    #[cold]
    fn wrong_time(
        &mut self,
        time: Time,
        within: &mut Within,
        origin: &Origin<'_>,
        resource: &ResourceGroup<'_>,
    ) -> Option<Reason> {
        if !within.said {
            self.says(origin, newest_of(resource));
            *within = Within::of(&self.clock);
            within.said = true;
        }
        within.wrong(time, &self.clock)
    }
}

/// The newest time in a request: end of a span, observation of a log record, time of a data point.
pub(crate) fn newest(request: &Request) -> Option<Time> {
    let resources = RequestView::new(request.signal, &request.bytes).resources();
    resources.flatten().filter_map(|resource| newest_of(&resource)).max()
}

fn newest_of(resource: &ResourceGroup<'_>) -> Option<Time> {
    let mut newest = None;
    for scope in resource.scopes().flatten() {
        for record in scope.records().flatten() {
            let time = match record {
                Record::Span(span) => Some(Time::from_unix_nano(span.end_time_unix_nano)),
                Record::Log(log) => Some(log_time(&log)),
                Record::Metric(metric) => {
                    metric.points().flatten().map(|p| Time::from_unix_nano(p.time_unix_nano)).max()
                }
            };
            newest = newest.max(time);
        }
    }
    newest
}

fn log_time(log: &LogView<'_>) -> Time {
    let time =
        if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano };
    Time::from_unix_nano(time)
}
