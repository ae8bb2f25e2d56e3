//! The story on the telemetry: passing spans and log records of what a story is about carry it.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tapio_proto::{
    Batching, CanBatch, Consumer, Next, Pending, Request, Signal, attr,
    model::{Entity, Story},
    splice::{Decision, encode_attributes, splice},
    view::ResourceView,
};

use crate::analysis::Analysis;

/// Longest value of an attribute that Tapio adds, bytes: Tempo cuts at 2,048.
const LONGEST: usize = 1024;

/// What each service and pod is to be marked with while its story is open; encoded once a story, not
/// once a span.
#[derive(Debug, Default)]
pub struct Marks {
    services: HashMap<(Box<str>, Box<str>), [Bytes; 2]>,
    pods: HashMap<(Box<str>, Box<str>), [Bytes; 2]>,
}

impl Marks {
    /// Marks for the stories that are open now. The surer story wins where two touch one service.
    /// `told` has the services that call themselves otherwise than stories do, and how stories do.
    pub fn of<'a>(
        stories: impl Iterator<Item = &'a Story>,
        told: impl Iterator<Item = (&'a Entity, &'a Entity)>,
    ) -> Self {
        let mut stories: Vec<&Story> = stories.collect();
        stories.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
        let mut marks = Marks::default();
        let key = |namespace: &str, name: &str| (Box::from(namespace), Box::from(name));
        for story in stories {
            let root = story.root_cause.as_ref();
            let last = story.chain.last().map(|link| link.service.as_str());
            for link in story.chain.iter().filter(|l| story.affected.services.contains(&l.service))
            {
                let role = match link.service.as_str() {
                    s if root.is_some_and(|r| r.service == s) => "cause",
                    s if Some(s) == last => "symptom",
                    _ => "effect",
                };
                marks.services.insert(key(&link.namespace, &link.service), encode(story, role));
            }
            for (namespace, pod) in story.affected.pods.iter().filter_map(|p| p.split_once('/')) {
                // Pods of what a node or the resolver takes down did not bring it about.
                let own = root.is_some_and(|r| r.namespace == namespace);
                let role = if own { "cause" } else { "effect" };
                marks.pods.insert(key(namespace, pod), encode(story, role));
            }
        }
        for (told, service) in told {
            if let Some(mark) = marks.services.get(&key(&service.namespace, &service.name)) {
                let mark = mark.clone();
                marks.services.insert(key(&told.namespace, &told.name), mark);
            }
        }
        marks
    }

    /// Is there nothing to mark?
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.pods.is_empty()
    }

    fn find(&self, signal: Signal, resource: &ResourceView<'_>) -> Option<&Bytes> {
        let (mut service, mut namespace, mut pod) = ("", "", "");
        for attribute in resource.attributes().flatten() {
            match attribute.key {
                attr::SERVICE_NAME => service = attribute.value.as_str().unwrap_or_default(),
                attr::K8S_NAMESPACE_NAME => {
                    namespace = attribute.value.as_str().unwrap_or_default()
                }
                attr::SERVICE_NAMESPACE if namespace.is_empty() => {
                    namespace = attribute.value.as_str().unwrap_or_default()
                }
                attr::K8S_POD_NAME => pod = attribute.value.as_str().unwrap_or_default(),
                _ => {}
            }
        }
        let at = usize::from(signal == Signal::Logs);
        let by_service =
            self.services.get(&(namespace.into(), service.into()) as &(Box<str>, Box<str>));
        by_service
            .or_else(|| self.pods.get(&(namespace.into(), pod.into()) as &(Box<str>, Box<str>)))
            .map(|mark| &mark[at])
    }
}

fn encode(story: &Story, role: &str) -> [Bytes; 2] {
    let cause = match &story.root_cause {
        Some(root) => format!("{} {}/{}", root.kind, root.namespace, root.name),
        None => story.reason.clone().unwrap_or_default(),
    };
    let attributes = [
        (attr::STORY_ID, attr::Value::Text(cut(&story.id))),
        (attr::STORY_ROLE, attr::Value::Text(role)),
        (attr::STORY_TITLE, attr::Value::Text(cut(&story.title))),
        (attr::STORY_ROOT_CAUSE, attr::Value::Text(cut(&cause))),
        (attr::STORY_CONFIDENCE, attr::Value::Double(story.confidence)),
    ];
    [Signal::Traces, Signal::Logs].map(|signal| {
        let field = signal.record_attributes_field().unwrap_or_default();
        Bytes::from(encode_attributes(field, &attributes))
    })
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The `tapio` processor in one pipeline.
pub(crate) struct Enricher {
    analysis: Arc<Analysis>,
    next: Next,
}

impl Enricher {
    /// Passes on to `next`.
    pub(crate) fn new(analysis: Arc<Analysis>, next: Next) -> Self {
        Enricher { analysis, next }
    }

    fn enrich(&self, request: Request) -> Request {
        let marks = self.analysis.marks();
        if marks.is_empty() || request.signal.record_attributes_field().is_none() {
            return request;
        }
        let mut marked = 0;
        let spliced = splice(request.signal, &request.bytes, |resource| {
            match marks.find(request.signal, resource) {
                Some(mark) => {
                    marked += 1;
                    Decision::All(mark)
                }
                None => Decision::Nothing,
            }
        });
        match spliced {
            Ok(bytes) => {
                self.analysis.stats().marked_resources.fetch_add(marked, Ordering::Relaxed);
                Request { bytes, ..request }
            }
            // It passed the check at the door; whatever this is, telemetry goes on as it came.
            Err(_) => request,
        }
    }
}

impl Consumer for Enricher {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        self.analysis.tee(&request);
        self.next.consume(self.enrich(request))
    }
}
