//! Requests into the engine: rows for the store, accumulators, facts. One walk over the bytes.

use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::datatypes::SchemaRef;
use tapio_proto::{
    Request, Signal, attr,
    columns::{LogColumns, MetricColumns, SpanColumns, SpanTold},
    model::{Change, Entity, Event, Row as _, Severity, Time},
    view::{
        LogView, MetricKind, MetricView, PointView, Record, Records, RequestView, ResourceGroup,
        ResourceView, SpanView,
    },
};

use crate::{
    correlation::{
        CorrelationError,
        identity::{Claim, Meant},
        releases::Minute,
    },
    engine::Engine,
    requests::{Line, Part},
    store::Store,
    streaming::{
        Content, Gauge, Labels, Meaning, Metric, Named, Resource, Served, Server, ServiceId,
        SpanFact, SpanKind, Traces, Vessel, Voice, hosts, said, signature, template, vessel,
    },
    validator::{AHEAD, Quarantine, Reason, Within, wrong_point},
};

/// Of each scope so many records are looked at, whatever else there is.
const FEW: usize = 16;
/// The least severity of a warning.
const WARNING: u8 = 13;
/// Lines kept as they are of a cluster that is told of once.
const MOST_SAID: usize = 1_000;
/// Characters of a log line that are kept as a fact.
const LINE: usize = 300;

/// Calls between services, as the Collector's servicegraph connector and others count them.
const SERVICE_GRAPH: &str = "traces_service_graph_request_total";

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

/// A span that is looked at.
struct Looked<'a> {
    span: SpanView<'a>,
    /// How many of its scope it stands for, itself included.
    stands_for: u32,
    /// All spans of its trace are looked at.
    whole: bool,
}

/// Who says a line, as far as that is known.
struct Speaker {
    service: Entity,
    /// The service as which it fails: where it does not name itself, that of its workload.
    voice: Entity,
    workload: Option<Entity>,
    /// Of the workload, or else of the service.
    name: String,
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

    /// Who sends, as far as that is known.
    fn sender(&self) -> &'a str {
        let workload = self.workload.map_or("", |(_, name)| name);
        let names = [self.service, self.pod, workload, self.host];
        names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
    }
}

impl Engine {
    /// Takes spans in, each of which stands for `weight` of its kind.
    pub(crate) fn spans(&mut self, bytes: &[u8], weight: u32) {
        let mut spans = Vec::with_capacity(FEW);
        for resource in RequestView::new(Signal::Traces, bytes).resources().flatten() {
            let view = resource.resource();
            let origin = Origin::of(&view);
            self.columns.spans.resource(&view);
            self.sighted.insert("traces");
            self.saw(&origin, true);
            for scope in resource.scopes().flatten() {
                self.look(scope.records(), &mut spans);
            }
            let end = |span: &SpanView<'_>| Time::from_unix_nano(span.end_time_unix_nano);
            self.says(&origin, spans.iter().map(|looked| end(&looked.span)).max());
            let now = self.clock();
            let service = self.windows.service(origin.namespace, origin.service, now);
            let number = self.requests.service(origin.namespace, origin.service, now);
            self.versions(&origin, &spans);
            self.serves(&origin, &spans, weight);
            let sender = origin.sender();
            let nobody = if sender.is_empty() {
                Some(Reason::NoSource)
            } else {
                service.is_none().then_some(Reason::TooManyServices)
            };
            let within = Within::of(&self.clock);
            for looked in &spans {
                let (span, end) = (&looked.span, end(&looked.span));
                let wrong = nobody.or_else(|| self.wrong_span(span, end, within));
                match (wrong, service) {
                    (None, Some(service)) => self.span(service, number, looked, end, weight),
                    (Some(wrong), _) => {
                        let items = weight.saturating_mul(looked.stands_for);
                        self.quarantine((Signal::Traces, wrong), end, sender, span.name, items);
                    }
                    (None, None) => {}
                }
            }
            spans.clear();
        }
    }

    /// What is wrong with a span but for who sent it. A span ahead is wrong however far: its end is where
    /// the windows would go on.
    fn wrong_span(&self, span: &SpanView<'_>, end: Time, within: Within) -> Option<Reason> {
        if span.end_time_unix_nano < span.start_time_unix_nano && span.end_time_unix_nano > 0 {
            return Some(Reason::EndsBeforeStart);
        }
        if within.holds(end) {
            return None;
        }
        let ahead = end > self.clock() + AHEAD && self.clock() > Time::default();
        if ahead { Some(Reason::Ahead) } else { within.wrong(end, &self.clock) }
    }

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

    /// The spans of a scope that are looked at: in a flood whole traces, one of two, four, eight, and a few
    /// of each scope besides, so that nobody is drowned by another.
    fn look<'a>(&mut self, mut records: Records<'a>, spans: &mut Vec<Looked<'a>>) {
        let before = spans.len();
        let shift = self.flood.shift(self.clock.now());
        let (mut few, mut passed) = (FEW, 0);
        loop {
            let mut whole = true;
            let span = records.next_span(|trace_id| {
                whole = Traces::holds(trace_id, shift);
                let wanted = whole || few > 0;
                passed += u32::from(!wanted);
                wanted
            });
            let Some(span) = span else { break };
            few = few.saturating_sub(1);
            self.sampled += u64::from(passed);
            spans.push(Looked { span, stands_for: 1 + std::mem::take(&mut passed), whole });
        }
        if let Some(last) = spans.last_mut() {
            last.stands_for += passed;
            self.sampled += u64::from(passed);
        }
        self.flood.took((spans.len() - before) as u64);
    }

    /// Counts what each version of a service serves.
    fn versions(&mut self, origin: &Origin<'_>, spans: &[Looked<'_>]) {
        if origin.version.is_empty() || origin.service.is_empty() {
            return;
        }
        let served = spans.iter().filter(|looked| looked.span.kind == 2);
        let mut minute: Option<Minute> = None;
        for span in served.map(|looked| &looked.span) {
            let end = Time::from_unix_nano(span.end_time_unix_nano);
            let minute = minute.get_or_insert_with(|| Minute::of(end));
            minute.count += 1;
            minute.errors += u64::from(span.status_code == 2);
            let took = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            minute.ms += took as f64 / 1e6;
        }
        if let Some(minute) = minute {
            self.releases.served((origin.namespace, origin.service, origin.version), minute);
        }
    }

    /// Counts what each pod serves.
    fn serves(&mut self, origin: &Origin<'_>, spans: &[Looked<'_>], weight: u32) {
        if origin.pod.is_empty() || origin.service.is_empty() {
            return;
        }
        let (mut served, mut last) = (Served::default(), Time::default());
        for looked in spans {
            let span = &looked.span;
            let kind = SpanKind::from_wire(i64::from(span.kind));
            if !matches!(kind, SpanKind::Server | SpanKind::Consumer) {
                continue;
            }
            let took = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            let times = weight.saturating_mul(looked.stands_for);
            served.add(took, span.status_code == 2, times);
            last = last.max(Time::from_unix_nano(span.end_time_unix_nano));
        }
        if served.count > 0 {
            let Origin { namespace, service, pod, node, .. } = *origin;
            self.instances.served(Server { namespace, service, pod, node }, last, served);
        }
    }

    /// Keeps what its request needs of a span.
    fn part(&mut self, service: u32, span: &SpanView<'_>, kind: SpanKind, now: Time) {
        if !self.requests.wants(span.trace_id, now) {
            return;
        }
        let (Ok(id), Some(operation)) =
            (span.span_id.try_into(), self.requests.number(span.name, now))
        else {
            return;
        };
        let part = Part {
            id,
            parent: span.parent_span_id.try_into().unwrap_or_default(),
            service,
            operation,
            kind,
            start: Time::from_unix_nano(span.start_time_unix_nano),
            end: Time::from_unix_nano(span.end_time_unix_nano),
        };
        self.requests.span(span.trace_id, part, now);
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

    fn span(
        &mut self,
        service: ServiceId,
        number: Option<u32>,
        looked: &Looked<'_>,
        end: Time,
        weight: u32,
    ) {
        let span = &looked.span;
        let weight = weight.saturating_mul(looked.stands_for);
        let told = SpanTold::by(span);
        // Where no kind is said, one that names whom it asks is a call, and the first of a request serves.
        let kind = match span.kind {
            0 if !told.peer().is_empty() => SpanKind::Client,
            0 if span.parent_span_id.is_empty() => SpanKind::Server,
            kind => SpanKind::from_wire(i64::from(kind)),
        };
        let calls = matches!(kind, SpanKind::Client | SpanKind::Producer);
        if kind == SpanKind::Server && span.parent_span_id.is_empty() && !told.client.is_empty() {
            self.windows.asked_from(service, told.client, &self.identity, end);
        }
        let refused = kind == SpanKind::Server && told.http_status.is_some_and(|code| code >= 500);
        let failed = span.status_code == 2 || refused;
        let error =
            if span.status_message.is_empty() { told.error_type } else { span.status_message };
        let arrived = self.clock();
        self.measures.spans(service, kind, arrived);
        // A row of each span that failed, and of the traces that are followed.
        let followed = looked.whole && self.traces.takes(span.trace_id, arrived);
        if failed {
            self.columns.spans.push(span, &told, weight);
        } else if followed {
            let stands_for = weight.saturating_mul(self.traces.weight());
            self.columns.spans.push(span, &told, stands_for);
        }
        if let Some(number) = number.filter(|_| followed) {
            self.part(number, span, kind, arrived);
        }
        self.windows.add(&SpanFact {
            service,
            operation: span.name,
            kind,
            peer: if calls { told.peer() } else { "" },
            start: Time::from_unix_nano(span.start_time_unix_nano),
            end,
            failed,
            error,
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            arrived,
            weight,
            followed,
        });
    }

    /// Learns where a service runs, from its spans or from what else it sends.
    fn saw(&mut self, origin: &Origin<'_>, spans: bool) {
        self.homes.saw(origin.namespace, origin.service, origin.node);
        let claim = Claim { spans, ..origin.claim() };
        self.identity.saw(&claim, &self.cluster, self.clock());
    }

    /// Takes log records in.
    pub(crate) fn logs(&mut self, bytes: &[u8]) {
        let mut facts = Vec::new();
        for resource in RequestView::new(Signal::Logs, bytes).resources().flatten() {
            let (mut newest, mut lines) = (None, false);
            let view = resource.resource();
            let origin = Origin::of(&view);
            let mut within = Within::of(&self.clock);
            let mut speaker = None;
            self.columns.logs.resource(&view);
            for scope in resource.scopes().flatten() {
                let every = 1_u32 << self.lines.shift(self.clock.now());
                let (mut looked, mut passed) = (0, 0);
                let mut records = scope.records();
                // Objects and events are news each by itself.
                let few = if scope.name().contains("k8s") || scope.name() == "tapio.change" {
                    usize::MAX
                } else {
                    FEW
                };
                loop {
                    // In a flood a few are looked at for themselves, and whatever is bad.
                    if looked >= few && passed + 1 < every && records.pass_below(WARNING) {
                        passed += 1;
                        self.sampled += 1;
                        continue;
                    }
                    let log = match records.next() {
                        Some(Ok(Record::Log(log))) => log,
                        Some(_) => continue,
                        None => break,
                    };
                    let time = log_time(&log);
                    newest = newest.max(Some(time));
                    let refused = self.cluster.losses().refused;
                    if self.cluster.log_record(&view, scope.name(), &log, &mut facts) {
                        if self.cluster.losses().refused > refused {
                            let why = (Signal::Logs, Reason::TooLarge);
                            self.quarantine(why, time, origin.sender(), log.event_name, 1);
                        }
                        // One event or release shows no cluster; its objects do.
                        if !self.cluster.is_empty() {
                            self.sighted.insert("kubernetes");
                        }
                        continue;
                    }
                    lines = true;
                    looked += 1;
                    let good = log.severity_number < i32::from(WARNING);
                    let others = if good { std::mem::take(&mut passed) } else { 0 };
                    if !within.holds(time)
                        && let Some(wrong) = self.wrong_time(time, &mut within, &origin, &resource)
                    {
                        let text = log.body.and_then(|body| body.as_str()).unwrap_or_default();
                        let why = (Signal::Logs, wrong);
                        self.quarantine(why, time, origin.sender(), text, 1 + others);
                        continue;
                    }
                    self.columns.logs.push(&log, 1 + others);
                    if speaker.is_none() {
                        self.saw(&origin, false);
                    }
                    let speaker = speaker.get_or_insert_with(|| self.speaker(&origin));
                    self.line(&origin, speaker, &log, (time, 1 + others));
                }
                self.lines.took(looked as u64);
            }
            if lines {
                self.sighted.insert("logs");
            }
            if !within.said {
                self.says(&origin, newest);
            }
        }
        self.take(facts);
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

    /// Who says what comes from there.
    fn speaker(&self, origin: &Origin<'_>) -> Speaker {
        let service = self.identity.service(origin.namespace, origin.service);
        let namespace = if origin.placed { origin.namespace } else { &*service.namespace };
        let workload = match origin.workload {
            Some((kind, name)) => Some(Entity::new(kind, namespace, name)),
            None => self
                .cluster
                .workload_of(namespace, origin.pod)
                .or_else(|| self.identity.workloads(&service).first().cloned()),
        };
        let name = match &workload {
            Some(workload) => workload.to_string(),
            None => service.path(),
        };
        let voice = match &workload {
            Some(workload) if service.name.is_empty() => {
                let front = self.identity.fronts(workload).first().cloned();
                front.unwrap_or_else(|| Entity::new("Service", namespace, &workload.name))
            }
            _ => service.clone(),
        };
        Speaker { service, voice, workload, name }
    }

    /// Counts a line for what it tells of its service, and of those whom it names in an error.
    fn complaint(
        &mut self,
        speaker: &Speaker,
        body: &str,
        (time, lines): (Time, u32),
        error: bool,
    ) {
        let voice = &speaker.voice;
        if voice.name.is_empty() {
            return;
        }
        self.complaints.add(voice, Voice::Own, (time, lines), error.then_some(body));
        for host in if error { hosts(body) } else { Vec::new() } {
            let meant = self.identity.address(host, &voice.namespace, None, &self.cluster);
            if let Meant::Inside(callee) = meant
                && callee != *voice
            {
                self.complaints.add(&callee, Voice::Others, (time, lines), Some(body));
                self.complaints.calls(voice, &callee, time);
            }
        }
    }

    /// A line that its service has not said before is a fact.
    fn line(
        &mut self,
        origin: &Origin<'_>,
        speaker: &Speaker,
        log: &LogView<'_>,
        (time, lines): (Time, u32),
    ) {
        let Some((body, severity)) = said(log) else { return };
        let body = &*body;
        let template = template(body);
        let error = severity == Severity::Error;
        self.request_line(origin, log, (&template, body), error);
        self.complaint(speaker, body, (time, lines), error);
        // Of a cluster of which no more is told than what there is, its errors are told as well.
        let snapshot = error
            && !self.cluster.is_empty()
            && self.cluster.is_snapshot()
            && !self.sighted.contains("traces");
        let since = self.began.filter(|_| error);
        let new = self.templates.is_new(&speaker.name, &template, since, time);
        if !(new || snapshot && self.said < MOST_SAID) {
            return;
        }
        self.said += usize::from(!new);
        let Speaker { service, workload, .. } = speaker;
        let namespace = if origin.placed { origin.namespace } else { &*service.namespace };
        let on = match (workload, origin.pod) {
            (_, pod) if !pod.is_empty() => Entity::new("Pod", namespace, pod),
            (Some(workload), _) => workload.clone(),
            (None, _) => service.clone(),
        };
        self.found(Event {
            id: 0,
            time,
            observed: time,
            r#type: match severity {
                _ if !new => "log.said",
                Severity::Info => "log.new",
                _ => "log.error",
            }
            .to_owned(),
            source: "logs".to_owned(),
            severity: severity.name().to_owned(),
            reason: String::new(),
            message: body.chars().take(LINE).collect(),
            entity_kind: on.kind.to_string(),
            entity_namespace: on.namespace.to_string(),
            entity_name: on.name.to_string(),
            workload_kind: workload.as_ref().map(|w| w.kind.to_string()).unwrap_or_default(),
            workload_name: workload.as_ref().map(|w| w.name.to_string()).unwrap_or_default(),
            container: origin.container.to_owned(),
            node: origin.node.to_owned(),
            value: None,
            count: 1,
        });
    }

    /// Keeps what its request needs of a log line.
    fn request_line(
        &mut self,
        origin: &Origin<'_>,
        log: &LogView<'_>,
        (template, body): (&str, &str),
        error: bool,
    ) {
        let now = self.clock();
        let Ok(span) = log.span_id.try_into() else { return };
        if log.trace_id.len() != 16 || !self.requests.wants(log.trace_id, now) {
            return;
        }
        let kind = if error { signature(body, template) } else { template.to_owned() };
        let named = error && kind != template;
        let service = self.requests.service(origin.namespace, origin.service, now);
        let template = self.requests.template(&kind, body, now);
        if let (Some(service), Some(template)) = (service, template) {
            let line = Line { span, service, template, error, named };
            self.requests.line(log.trace_id, line, now);
        }
    }

    /// Takes data points in.
    pub(crate) fn points(&mut self, bytes: &[u8]) {
        let mut facts = Vec::new();
        for resource in RequestView::new(Signal::Metrics, bytes).resources().flatten() {
            let mut newest = None;
            let view = resource.resource();
            let origin = Origin::of(&view);
            let mut within = Within::of(&self.clock);
            let mut sender = None;
            self.columns.metrics.resource(&view);
            if !origin.pod.is_empty() && !origin.node.is_empty() {
                let service = match origin.service {
                    "" => self.cluster.bearer(origin.namespace, origin.pod).map(|w| w.name),
                    name => Some(name.into()),
                };
                let service = service.unwrap_or_default();
                self.homes.saw(origin.namespace, &service, origin.node);
            }
            for scope in resource.scopes().flatten() {
                for record in scope.records().flatten() {
                    let Record::Metric(metric) = record else { continue };
                    self.cluster.metric(&view, &metric, &mut facts);
                    let named = self.strains.named(metric.name);
                    if named.node {
                        self.node(&origin, &metric);
                    }
                    let resource_kind = Resource::of_metric(metric.name);
                    let vessel = vessel(metric.name);
                    let requests =
                        Metric::of(metric.name, metric.unit).filter(|_| is_count(&metric));
                    let gain = metric.temporality == 1;
                    let meaning = Meaning::of(metric.name, metric.unit, gain);
                    let strain = strain_of(&metric, meaning, origin.container, named);
                    let meaning =
                        meaning.filter(|_| !origin.service.is_empty() && origin.pod.is_empty());
                    for point in metric.points().flatten() {
                        let time = Time::from_unix_nano(point.time_unix_nano);
                        newest = newest.max(Some(time));
                        let mut wrong = wrong_point(metric.name, &point);
                        if wrong.is_none() && !within.holds(time) {
                            wrong = self.wrong_time(time, &mut within, &origin, &resource);
                        }
                        if let Some(wrong) = wrong {
                            let why = (Signal::Metrics, wrong);
                            self.quarantine(why, time, origin.sender(), metric.name, 1);
                            continue;
                        }
                        if let Some(requests) = &requests {
                            let sender = *sender.get_or_insert_with(|| self.sender(&view));
                            self.requests_counted(&origin, requests, (sender, gain), &point);
                        }
                        if let (Some(meaning), Some(value)) = (meaning, point.value.as_f64()) {
                            let service = Entity::new("Service", origin.namespace, origin.service);
                            if is_mean(&point) {
                                self.series.add(&service, meaning, time, value);
                            }
                        } else if metric.name.starts_with(SERVICE_GRAPH) {
                            self.call(&origin, &point);
                        }
                        self.columns.metrics.push(&metric, &point);
                        if let (Some((gauge, scale)), Some(value)) = (&strain, point.value.as_f64())
                        {
                            let counts = metric.is_monotonic && metric.temporality == 2;
                            self.strain(&origin, gauge, (time, value * scale, counts), &point);
                        }
                        if let (Some(of), Some(value)) = (vessel, point.value.as_f64()) {
                            self.fills((&origin, &view), of, &point, (time, value));
                        }
                        if let (Some(kind), Some(value)) = (resource_kind, point.value.as_f64()) {
                            self.grows(&origin, kind, time, value);
                            self.levels.add(
                                origin.namespace,
                                origin.pod,
                                origin.container,
                                kind,
                                time,
                                value,
                            );
                        }
                    }
                }
            }
            if newest.is_some() {
                self.sighted.insert("metrics");
            }
            if !within.said {
                self.says(&origin, newest);
            }
        }
        self.take(facts);
    }
}

/// What a gauge says of how a pod strains, and in which unit; answers of one statistic by itself.
fn strain_of(
    metric: &MetricView<'_>,
    meaning: Option<Meaning>,
    container: &str,
    named: Named,
) -> Option<(Gauge, f64)> {
    match meaning {
        Some(Meaning::Latency(scale)) => Some((Gauge::Answer(metric.name.to_owned()), scale)),
        Some(Meaning::Wait) => Some((Gauge::Wait(metric.name.to_owned()), 1.0)),
        _ => Gauge::of_cpu(metric.name, container)
            .or_else(|| Some(Gauge::of_use(named.want?, metric.name, container)))
            .map(|gauge| (gauge, 1.0)),
    }
}

/// May a metric count?
fn is_count(metric: &MetricView<'_>) -> bool {
    match metric.kind {
        MetricKind::Sum => metric.is_monotonic,
        MetricKind::Histogram | MetricKind::ExponentialHistogram | MetricKind::Summary => true,
        _ => false,
    }
}

impl Engine {
    /// What tells a resource from others.
    fn sender(&self, resource: &ResourceView<'_>) -> u64 {
        self.measures.identity(resource.attributes())
    }

    /// Counts the requests that a metric tells of, of services whose spans do not come: these tell more, and may
    /// go by another name of the same service.
    fn requests_counted(
        &mut self,
        origin: &Origin<'_>,
        metric: &Metric,
        sender: (u64, bool),
        point: &PointView<'_>,
    ) {
        let mut labels = Labels::default();
        for attribute in point.attributes().flatten() {
            let text = attribute.value.as_str().unwrap_or_default();
            labels.take(attribute.key, text, attribute.value.as_int());
        }
        let Some(mut whose) = labels.whose(metric.known.side) else { return };
        let placed = origin.placed || !whose.service[0].is_empty();
        let own = match (origin.service, origin.workload) {
            ("", Some((_, name))) => name,
            (name, _) => name,
        };
        let by_label = !whose.service[1].is_empty();
        for (said, else_) in whose.service.iter_mut().zip([origin.namespace, own]) {
            *said = if said.is_empty() { else_ } else { *said };
        }
        let [namespace, name] = whose.service;
        if name.is_empty() {
            return;
        }
        let now = self.clock();
        // What a label names need not be where the metric was measured.
        let here = name == origin.service || !by_label;
        let claim = Claim {
            service: name,
            namespace,
            placed,
            workload: origin.workload.filter(|_| here),
            pod: if here { origin.claim().pod } else { "" },
            spans: false,
        };
        self.identity.saw(&claim, &self.cluster, now);
        if !self.identity.is_untraced(namespace, name) {
            return;
        }
        let Some(service) = self.windows.service(namespace, name, now) else { return };
        let counts = self.measures.counts(metric, (service, whose.kind), now);
        let Some(gain) = self.measures.gain(metric, sender, point, now).filter(|_| counts) else {
            return;
        };
        let ended = (&*labels.operation(), labels.failed());
        self.windows.add_counted(&gain.counted(service, &whose, ended, now));
    }

    /// Keeps how full a vessel is.
    fn fills(
        &mut self,
        (origin, resource): (&Origin<'_>, &ResourceView<'_>),
        of: (Vessel, Content),
        point: &PointView<'_>,
        (time, value): (Time, f64),
    ) {
        let said = |keys: &[&str]| {
            let all = resource.attributes().flatten().chain(point.attributes().flatten());
            let mut named = all.filter(|attribute| keys.contains(&attribute.key));
            named.find_map(|attribute| attribute.value.as_str()).unwrap_or_default()
        };
        let in_use = said(&["state", "db.client.connection.state", "db_client_connection_state"]);
        if !matches!(in_use, "" | "used") {
            return;
        }
        let instance = match origin.pod {
            "" => said(&["service.instance.id", "host.name"]),
            pod => pod,
        };
        match of.0 {
            Vessel::NodeDisk | Vessel::NodeMemory if !origin.node.is_empty() => {
                self.fills.add(of, (&Entity::new("Node", "", origin.node), "", ""), time, value);
            }
            Vessel::Volume => {
                // Others share the disk of their node.
                let claim = said(&["k8s.persistentvolumeclaim.name"]);
                let workload = self.cluster.bearer(origin.namespace, origin.pod);
                if let Some(workload) = workload.filter(|_| !claim.is_empty()) {
                    self.fills.add(of, (&workload, instance, claim), time, value);
                }
            }
            Vessel::Pool | Vessel::Files if !origin.service.is_empty() => {
                let service = self.identity.service(origin.namespace, origin.service);
                let pool = said(&[
                    "db.client.connection.pool.name",
                    "db_client_connection_pool_name",
                    "pool.name",
                    "pool_name",
                    "pool",
                ]);
                self.saw(origin, false);
                self.fills.add(of, (&service, instance, pool), time, value);
            }
            _ => {}
        }
    }

    /// Keeps how full the memory of a container is, where its limit and its workload are known.
    fn grows(&mut self, origin: &Origin<'_>, kind: Resource, time: Time, value: f64) {
        let (namespace, pod, container) = (origin.namespace, origin.pod, origin.container);
        if kind != Resource::Memory || pod.is_empty() {
            return;
        }
        let limit = self.cluster.memory_limit(namespace, pod, container);
        let Some(limit) = limit.filter(|limit| *limit > 0.0) else { return };
        if let Some(workload) = self.cluster.bearer(namespace, pod) {
            self.fills.share(&workload, pod, container, time, value / limit);
        }
    }

    /// Keeps what the processors of a node do.
    fn node(&mut self, origin: &Origin<'_>, metric: &MetricView<'_>) {
        if !origin.pod.is_empty() {
            return;
        }
        let node = if origin.node.is_empty() { origin.host } else { origin.node };
        if node.is_empty() {
            return;
        }
        let gauge = Gauge::Node(metric.name.to_owned());
        for point in metric.points().flatten() {
            let idle = point.attributes().flatten().any(|attribute| {
                matches!(attribute.key, "state" | "mode" | "cpu.mode")
                    && attribute.value.as_str().is_some_and(|state| state != "user")
            });
            if let Some(value) = point.value.as_f64().filter(|_| !idle && !metric.is_monotonic) {
                let time = Time::from_unix_nano(point.time_unix_nano);
                self.strains.add_node(node, &gauge, (time, value));
            }
        }
    }

    /// Keeps a point of what a pod uses, or of how long it takes to answer: in the mean, or for the slower ones. Who
    /// scrapes others names them by attributes of the point.
    fn strain(
        &mut self,
        origin: &Origin<'_>,
        gauge: &Gauge,
        (time, value, counts): (Time, f64, bool),
        point: &PointView<'_>,
    ) {
        let uses = matches!(gauge, Gauge::Used(..));
        let (mut namespace, mut pod, mut container) = (origin.namespace, origin.pod, "");
        for attribute in point.attributes().flatten() {
            let text = attribute.value.as_str().unwrap_or_default();
            match attribute.key {
                "quantile" | "percentile" if attribute.value.as_f64() == Some(0.9) => {}
                "namespace" | attr::K8S_NAMESPACE_NAME if uses => namespace = text,
                "pod" | "pod_name" | attr::K8S_POD_NAME if uses => pod = text,
                "container" | "container_name" if uses => container = text,
                "quantile" | "percentile" => return,
                _ if uses => {}
                _ => return,
            }
        }
        // The sandbox that holds a pod's network does nothing itself.
        if container == "POD" {
            return;
        }
        let named = if pod == origin.pod { origin.service } else { "" };
        let service = match (named, origin.workload) {
            ("", Some((_, name))) if pod == origin.pod => Entity::new("Service", namespace, name),
            ("", _) if pod.is_empty() => return,
            ("", _) => match self.cluster.bearer(namespace, pod) {
                Some(workload) => Entity::new("Service", namespace, &workload.name),
                None => return,
            },
            (name, _) => Entity::new("Service", namespace, name),
        };
        let gauge = match gauge {
            Gauge::Used(want, name) if !container.is_empty() => {
                Gauge::Used(*want, format!("{name} {container}"))
            }
            other => other.clone(),
        };
        self.strains.add((&service, pod), gauge, (time, value), counts);
    }

    /// Learns a call from a point of a service graph.
    fn call(&mut self, origin: &Origin<'_>, point: &PointView<'_>) {
        let (mut caller, mut callee) = (None, None);
        for attribute in point.attributes().flatten() {
            let name = attribute.value.as_str().filter(|name| !name.is_empty());
            match attribute.key {
                "client" => caller = name,
                "server" => callee = name,
                _ => {}
            }
        }
        if let (Some(caller), Some(callee)) = (caller, callee) {
            let service = |name: &str| Entity::new("Service", origin.namespace, name);
            self.series.calls(service(caller), service(callee));
        }
    }
}

/// Is this the mean or the sum, where a metric comes as several statistics?
fn is_mean(point: &PointView<'_>) -> bool {
    point.attributes().flatten().all(|attribute| match attribute.key {
        "statistic" | "stat" => attribute.value.as_str().is_some_and(|name| {
            ["average", "avg", "mean", "sum"].iter().any(|mean| name.eq_ignore_ascii_case(mean))
        }),
        "quantile" | "percentile" => false,
        _ => true,
    })
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

#[cfg(test)]
mod tests;
