//! The story as telemetry: a trace with a time line, and log records, as OTLP requests.
//!
//! The trace's root span is the story, from its cause to when it could be told; each piece of evidence
//! is a child span where it happened, linked to one of the operator's own spans where there is one. A
//! span is sent once: the root with the opening, evidence when it comes, the end with the resolution.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tapio_proto::{
    Request, Signal, attr,
    model::{Evidence, Story, Time},
    splice::encode_attributes,
    wire::{put_fixed64_field, put_len_field, put_varint_field},
};

use super::Telling;

/// `service.name` of what Tapio itself says.
const SERVICE: &str = "tapio";
/// Longest attribute value, bytes: Tempo cuts at 2,048.
const LONGEST: usize = 2000;
/// Length of a span for what happened at one moment, ns: short, yet wide enough to be clicked.
const MOMENT: i64 = 1_000_000_000;
/// Stories whose evidence is remembered as sent.
const MOST_STORIES: usize = 10_000;

/// Which evidence of which story has been sent.
#[derive(Default)]
pub struct Sent {
    evidence: HashMap<String, HashSet<(Time, String)>>,
}

impl Sent {
    /// The requests that a telling makes: a trace of what is new, and one log record.
    pub fn requests(&mut self, telling: &Telling) -> Vec<Request> {
        let (story, evidence) = telling.story();
        if self.evidence.len() >= MOST_STORIES && !self.evidence.contains_key(&story.id) {
            self.evidence.clear();
        }
        let sent = self.evidence.entry(story.id.clone()).or_default();
        let fresh: Vec<&Evidence> = evidence.iter().filter(|e| sent.insert(e.key())).collect();
        let mut spans = Vec::new();
        let mut count = 0;
        if matches!(telling, Telling::Opened(..)) {
            put_len_field(&mut spans, 2, &root_span(story));
            count += 1;
        }
        for evidence in &fresh {
            put_len_field(&mut spans, 2, &evidence_span(story, evidence));
            count += 1;
        }
        if let (true, Some(resolved)) = (telling.is_last(), story.resolved) {
            put_len_field(&mut spans, 2, &end_span(story, telling.name(), resolved));
            count += 1;
        }
        let mut requests = Vec::new();
        if count > 0 {
            requests.push(request(Signal::Traces, &spans, count));
        }
        let mut records = Vec::new();
        put_len_field(&mut records, 2, &log_record(telling, story, evidence));
        requests.push(request(Signal::Logs, &records, 1));
        requests
    }
}

/// Resource and scope around records.
fn request(signal: Signal, records: &[u8], items: usize) -> Request {
    let resource = encode_attributes(
        1,
        &[
            (attr::SERVICE_NAME, attr::Value::Text(SERVICE)),
            ("service.version", attr::Value::Text(env!("CARGO_PKG_VERSION"))),
        ],
    );
    let mut scope = Vec::new();
    put_len_field(&mut scope, 1, b"tapio.story");
    put_len_field(&mut scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
    let mut scopes = Vec::new();
    put_len_field(&mut scopes, 1, &scope);
    scopes.extend_from_slice(records);
    let mut group = Vec::new();
    put_len_field(&mut group, 1, &resource);
    put_len_field(&mut group, 2, &scopes);
    let mut bytes = Vec::new();
    put_len_field(&mut bytes, 1, &group);
    Request::new(signal, Bytes::from(bytes), items)
}

fn root_span(story: &Story) -> Vec<u8> {
    let start = story
        .root_cause
        .as_ref()
        .map(|r| r.time)
        .or_else(|| story.chain.first().map(|l| l.time))
        .unwrap_or(story.opened);
    let mut span =
        Span::new(story, root_id(story), None, &story.title, start.min(story.opened), story.opened);
    span.texts(&describe(story));
    span.status_error();
    span.done()
}

fn evidence_span(story: &Story, evidence: &Evidence) -> Vec<u8> {
    let id = span_id(&[
        &story.id,
        &evidence.role,
        &evidence.entity_name,
        &evidence.what,
        &evidence.time.to_string(),
    ]);
    let end = Time(evidence.time.0.saturating_add(MOMENT));
    let mut span = Span::new(story, id, Some(root_id(story)), &evidence.what, evidence.time, end);
    let entity =
        format!("{} {}/{}", evidence.entity_kind, evidence.entity_namespace, evidence.entity_name);
    span.texts(&[
        (attr::STORY_ID, story.id.clone()),
        (attr::STORY_ROLE, evidence.role.clone()),
        ("tapio.entity", entity),
        ("tapio.evidence.source", evidence.source.clone()),
        ("tapio.evidence.dimension", evidence.dimension.clone()),
    ]);
    if let (Some(trace), Some(span_id)) =
        (unhex::<16>(&evidence.trace_id), unhex::<8>(&evidence.span_id))
    {
        let mut link = Vec::new();
        put_len_field(&mut link, 1, &trace);
        put_len_field(&mut link, 2, &span_id);
        put_len_field(&mut span.bytes, 13, &link);
    }
    span.done()
}

fn end_span(story: &Story, name: &str, end: Time) -> Vec<u8> {
    let id = span_id(&[&story.id, name]);
    let mut span = Span::new(story, id, Some(root_id(story)), name, story.opened.min(end), end);
    span.texts(&describe(story));
    span.done()
}

fn log_record(telling: &Telling, story: &Story, evidence: &[Evidence]) -> Vec<u8> {
    let time = match telling {
        Telling::Opened(..) => story.opened,
        Telling::Updated(..) => {
            evidence.iter().map(|e| e.time).max().unwrap_or(story.opened).max(story.opened)
        }
        Telling::Resolved(..) | Telling::Merged(..) => story.resolved.unwrap_or(story.opened),
    };
    let mut record = Vec::new();
    put_fixed64_field(&mut record, 1, time.0 as u64);
    put_fixed64_field(&mut record, 11, time.0 as u64);
    let (number, text) = if telling.is_last() { (9, "INFO") } else { (17, "ERROR") };
    put_varint_field(&mut record, 2, number);
    put_len_field(&mut record, 3, text.as_bytes());
    let mut body = Vec::new();
    put_len_field(&mut body, 1, story.narrative.as_bytes());
    put_len_field(&mut record, 5, &body);
    for (key, value) in describe(story) {
        record.extend(encode_attributes(6, &[(key, attr::Value::Text(cut(&value)))]));
    }
    record.extend(encode_attributes(
        6,
        &[(attr::STORY_CONFIDENCE, attr::Value::Double(story.confidence))],
    ));
    put_len_field(&mut record, 9, &trace_id(story));
    put_len_field(&mut record, 10, &root_id(story));
    put_len_field(&mut record, 12, format!("tapio.story.{}", telling.name()).as_bytes());
    record
}

/// What the root span, the end and every log record say of the story.
fn describe(story: &Story) -> Vec<(&'static str, String)> {
    let mut texts =
        vec![(attr::STORY_ID, story.id.clone()), (attr::STORY_TITLE, story.title.clone())];
    match &story.root_cause {
        Some(root) => {
            texts.push((
                attr::STORY_ROOT_CAUSE,
                format!("{} {}/{}", root.kind, root.namespace, root.name),
            ));
            texts.push(("tapio.story.pattern", root.pattern.clone()));
            texts.extend(root.change.clone().map(|change| ("tapio.story.change", change)));
        }
        None => texts.extend(story.reason.clone().map(|reason| (attr::STORY_ROOT_CAUSE, reason))),
    }
    texts.extend(story.merged_into.clone().map(|into| ("tapio.story.merged_into", into)));
    texts.push(("tapio.story.services", story.affected.services.join(", ")));
    let kinds: Vec<&str> = story.kinds.iter().map(|kind| kind.name()).collect();
    if !kinds.is_empty() {
        texts.push(("tapio.story.kinds", kinds.join(", ")));
    }
    let impact = super::impact::lines(&story.impact);
    if !impact.is_empty() {
        texts.push(("tapio.story.impact", impact.join("; ")));
    }
    texts.extend(story.again.clone().map(|again| ("tapio.story.again", again)));
    texts.push((
        "tapio.story.chain",
        story
            .chain
            .iter()
            .map(|l| format!("{} {}: {}", l.kind, l.name, l.what))
            .collect::<Vec<_>>()
            .join(" -> "),
    ));
    texts.push(("tapio.story.incomplete", story.incomplete.join("; ")));
    texts.push(("tapio.story.do", story.recommendations.join("; ")));
    texts.push(("tapio.story.narrative", story.narrative.clone()));
    texts.retain(|(_, text)| !text.is_empty());
    texts
}

struct Span {
    bytes: Vec<u8>,
}

impl Span {
    fn new(
        story: &Story,
        id: [u8; 8],
        parent: Option<[u8; 8]>,
        name: &str,
        start: Time,
        end: Time,
    ) -> Self {
        let mut bytes = Vec::new();
        put_len_field(&mut bytes, 1, &trace_id(story));
        put_len_field(&mut bytes, 2, &id);
        if let Some(parent) = parent {
            put_len_field(&mut bytes, 4, &parent);
        }
        put_len_field(&mut bytes, 5, cut(name).as_bytes());
        put_varint_field(&mut bytes, 6, 1); // SPAN_KIND_INTERNAL
        put_fixed64_field(&mut bytes, 7, start.0 as u64);
        put_fixed64_field(&mut bytes, 8, end.0 as u64);
        bytes.extend(encode_attributes(
            9,
            &[(attr::STORY_CONFIDENCE, attr::Value::Double(story.confidence))],
        ));
        Span { bytes }
    }

    fn texts(&mut self, texts: &[(&str, String)]) {
        for (key, value) in texts {
            self.bytes.extend(encode_attributes(9, &[(key, attr::Value::Text(cut(value)))]));
        }
    }

    fn status_error(&mut self) {
        let mut status = Vec::new();
        put_varint_field(&mut status, 3, 2); // STATUS_CODE_ERROR
        put_len_field(&mut self.bytes, 15, &status);
    }

    fn done(self) -> Vec<u8> {
        self.bytes
    }
}

/// Id of the story's trace: from its id and when it opened, so that a replay makes the same trace.
pub fn trace_id(story: &Story) -> [u8; 16] {
    let opened = story.opened.to_string();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&span_id(&["trace", &story.id, &opened]));
    id[8..].copy_from_slice(&span_id(&["trace, second half", &story.id, &opened]));
    id
}

fn root_id(story: &Story) -> [u8; 8] {
    span_id(&["root", &story.id])
}

/// FNV-1a over the parts, never zero.
fn span_id(parts: &[&str]) -> [u8; 8] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash.max(1).to_be_bytes()
}

fn unhex<const N: usize>(text: &Option<String>) -> Option<[u8; N]> {
    let text = text.as_deref()?;
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
