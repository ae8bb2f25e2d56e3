//! Who calls whom, what callers were told when it failed, and a failing span of each service to show for it.

use std::{collections::BTreeMap, sync::Arc};

use tapio_proto::model::{Entity, Time};

use super::{CallEdge, MOST_NAMES, Peer, Sample, ServiceId, SpanFact, SpanKind, Windows};
use crate::{
    correlation::identity::Meant,
    streaming::{WINDOW, texts::Texts},
};

/// Calls kept.
const MOST_CALLS: usize = 100_000;

/// A call as a span shows it: the client's, of an address, or the server's, of a caller at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Asked(ServiceId, u32),
    Answered { caller: ServiceId, callee: ServiceId, address: Option<u32> },
}

impl Windows {
    pub(super) fn keep_failure(&mut self, span: &SpanFact<'_>, peer: u32) {
        if span.kind == SpanKind::Client && !span.peer.is_empty() {
            self.texts.entry((span.service, peer)).or_default().add(span.error, span.end);
        }
        if let (Ok(trace_id), Ok(span_id)) = (span.trace_id.try_into(), span.span_id.try_into()) {
            self.samples.insert(span.service, Sample { trace_id, span_id, start: span.start });
        }
    }

    /// Who calls whom: by the address that the client names, and by a parent in another service.
    pub(super) fn link(&mut self, span: &SpanFact<'_>, peer: u32) {
        let calls = matches!(span.kind, SpanKind::Client | SpanKind::Producer);
        if calls && !span.peer.is_empty() && self.enters(Call::Asked(span.service, peer), span.end)
        {
            let address = self.addressed(peer);
            let known = (span.service, address.clone());
            if self.peers.len() < MOST_NAMES || self.peers.contains_key(&known) {
                let fresh = || Peer { last: span.end, answered: BTreeMap::new(), meant: None };
                let peer = self.peers.entry(known).or_insert_with(fresh);
                peer.last = peer.last.max(span.end);
            }
            if span.kind == SpanKind::Client {
                let (namespace, caller) = self.told(span.service);
                let edge = CallEdge { namespace, caller, callee: address, answered: None };
                self.call(edge, span.end);
            }
        }
        if !span.followed {
            return;
        }
        let Some((caller, callee, address)) = self.parents.pair(span, peer) else { return };
        if caller == callee || !self.enters(Call::Answered { caller, callee, address }, span.end) {
            return;
        }
        let address = address.map(|address| self.addressed(address));
        if let Some(peer) = address.and_then(|address| self.peers.get_mut(&(caller, address))) {
            peer.answered.insert(callee, span.end);
        }
        let ((namespace, caller), (answered, callee)) = (self.told(caller), self.told(callee));
        let edge = CallEdge { namespace, caller, callee, answered: Some(answered) };
        self.call(edge, span.end);
    }

    /// Is this call to be entered? Once in each window: what it is called at costs more than counting it.
    fn enters(&mut self, call: Call, at: Time) -> bool {
        let window = at.bucket(WINDOW);
        if self.entered.len() >= MOST_CALLS {
            self.entered.clear();
        }
        self.entered.insert(call, window) != Some(window)
    }

    fn call(&mut self, edge: CallEdge, at: Time) {
        if self.calls.len() < MOST_CALLS || self.calls.contains_key(&edge) {
            let last = self.calls.entry(edge).or_insert(at);
            *last = at.max(*last);
        }
    }

    /// Calls seen since `since`: a service by its name here, and whom it calls.
    pub fn calls(&self, since: Time) -> Vec<(Entity, Meant)> {
        let edges = self.calls.iter().filter(|(_, last)| **last >= since);
        let meant = edges.filter_map(|(edge, _)| {
            let id = |namespace: &Arc<str>, name: &Arc<str>| {
                self.services.find(&(namespace.clone(), name.clone())).map(ServiceId)
            };
            let caller = id(&edge.namespace, &edge.caller)?;
            let callee = match &edge.answered {
                Some(namespace) => Meant::Inside(self.entity(id(namespace, &edge.callee)?)),
                None => self.meant(caller, &edge.callee),
            };
            Some((self.entity(caller), callee))
        });
        meant.collect()
    }

    /// How many errors the callers of a service or host saw since then.
    pub fn call_errors(&self, peer: &Entity, since: Time) -> u64 {
        self.told_of(peer).flat_map(|told| told.since(since)).map(|(_, text)| text.count).sum()
    }

    /// What each caller of a service or host was told by it where it failed.
    fn told_of<'a>(&'a self, peer: &'a Entity) -> impl Iterator<Item = &'a Texts> {
        let of_it = move |((caller, address), _): &(&(ServiceId, u32), &Texts)| {
            self.meant(*caller, &self.addressed(*address)).entity() == peer
        };
        self.texts.iter().filter(of_it).map(|(_, told)| told)
    }

    /// The error that callers of a service or host saw most often since then.
    pub fn call_error(&self, peer: &Entity, since: Time) -> Option<String> {
        let mut texts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for (kind, text) in self.told_of(peer).flat_map(|told| told.since(since)) {
            let known = texts.entry(kind).or_insert((0, &text.example));
            *known = (known.0 + text.count, known.1.min(&text.example));
        }
        // A caller that gave up waiting says nothing of why; prefer what names a reason.
        let vague =
            |text: &str| text.is_empty() || text.contains("context") || text.contains("canceled");
        let (_, best) = texts
            .into_values()
            .max_by_key(|(count, text)| (!vague(text), *count, std::cmp::Reverse(*text)))?;
        (!best.is_empty()).then(|| best.to_owned())
    }

    /// A span of the service that failed since then.
    pub fn sample(&self, namespace: &str, service: &str, since: Time) -> Option<Sample> {
        let samples = self.ids(namespace, service).filter_map(|id| self.samples.get(&id));
        let samples = samples.filter(|sample| sample.start >= since);
        samples.max_by_key(|sample| sample.start).copied()
    }
}
