//! The story as telemetry.

use tapio_processor::story::otlp::Sent;
use tapio_proto::{
    Request, Signal, check,
    view::{Attributes, LogView, Record, RequestView, SpanView},
};

use crate::played::{INCIDENT, hex};

/// Guarantees: the story leaves as OTLP that any receiver takes: one trace with a root span, evidence
/// beneath it linked to the operator's own spans, and log records that carry the event's name; no
/// attribute is longer than Tempo keeps.
#[test]
fn the_story_leaves_as_a_trace_and_log_records() {
    let mut sent = Sent::default();
    let requests: Vec<Request> =
        INCIDENT.tellings.iter().flat_map(|telling| sent.requests(telling)).collect();
    let mut seen = Seen::default();
    for request in &requests {
        seen.request(request);
    }
    assert_eq!(seen.roots, 1);
    assert!(seen.children >= 8, "{} evidence spans", seen.children);
    assert_eq!(seen.traces.len(), 1, "spans and log records of one story are one trace");
    assert_eq!(seen.events[0], "tapio.story.opened");
    assert_eq!(seen.events.len(), INCIDENT.tellings.len());
    let own = INCIDENT.spans();
    assert!(!seen.links.is_empty());
    assert!(seen.links.iter().all(|link| own.contains(link)), "a link leads nowhere");
    let mut ids = seen.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), seen.ids.len(), "a span is sent once");
}

/// What a backend sees of a story.
#[derive(Default)]
struct Seen {
    roots: usize,
    children: usize,
    ids: Vec<Vec<u8>>,
    links: Vec<(String, String)>,
    events: Vec<String>,
    traces: std::collections::BTreeSet<Vec<u8>>,
}

impl Seen {
    fn request(&mut self, request: &Request) {
        assert_eq!(check(request.signal, &request.bytes).unwrap(), request.items);
        assert!(matches!(request.signal, Signal::Traces | Signal::Logs));
        for group in RequestView::new(request.signal, &request.bytes).resources() {
            let group = group.unwrap();
            let service = group.resource().attribute("service.name").unwrap();
            assert_eq!(service.as_str(), Some("tapio"));
            for scope in group.scopes() {
                for record in scope.unwrap().records() {
                    match record.unwrap() {
                        Record::Span(span) => self.span(&span),
                        Record::Log(log) => self.log(&log),
                        Record::Metric(_) => panic!("a story is no metric"),
                    }
                }
            }
        }
    }

    fn span(&mut self, span: &SpanView<'_>) {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        self.roots += usize::from(span.parent_span_id.is_empty());
        self.children += usize::from(!span.parent_span_id.is_empty());
        self.ids.push(span.span_id.to_vec());
        self.traces.insert(span.trace_id.to_vec());
        let links = span.links().map(Result::unwrap);
        self.links.extend(links.map(|link| (hex(link.trace_id), hex(link.span_id))));
        fits(span.attributes());
    }

    fn log(&mut self, log: &LogView<'_>) {
        self.events.push(log.event_name.to_owned());
        self.traces.insert(log.trace_id.to_vec());
        fits(log.attributes());
    }
}

fn fits(attributes: Attributes<'_>) {
    for attribute in attributes.map(Result::unwrap) {
        let length = attribute.value.as_str().map_or(0, str::len);
        assert!(length < 2048, "{}: {length} bytes", attribute.key);
    }
}
