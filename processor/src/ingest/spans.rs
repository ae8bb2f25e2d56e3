//! Spans into the engine: its windows, its requests, and whom each pod and version serves.

use tapio_proto::{
    Signal,
    columns::SpanTold,
    model::Time,
    view::{Records, RequestView, SpanView},
};

use super::{FEW, Origin};
use crate::{
    correlation::versions::Minute,
    engine::Engine,
    requests::Part,
    streaming::{Served, Server, ServiceId, SpanFact, SpanKind, Traces},
    validator::{AHEAD, Reason, Within},
};

/// A span that is looked at.
struct Looked<'a> {
    span: SpanView<'a>,
    /// How many of its scope it stands for, itself included.
    stands_for: u32,
    /// All spans of its trace are looked at.
    whole: bool,
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
            let took =
                span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) as f64 / 1e6;
            minute.ms += took;
            minute.squares += took * took;
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
}
