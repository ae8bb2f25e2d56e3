//! Spans to windows: counts, errors and a latency histogram per (service, operation, kind, peer) and
//! window, who calls whom, and a failing span of each service to show for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use tapio_proto::model::{Entity, Row as _, Time};

use super::WINDOW;
use crate::{
    correlation::{
        identity::{Identity, Meant},
        rows::Window,
    },
    kubernetes::Cluster,
};

/// Windows kept: half an hour of past to compare with.
const KEEP: usize = 360;
/// Cells kept over all windows; over it the oldest windows go (about 100 B a cell).
const MOST_CELLS: usize = 400_000;
/// Distinct services, operations and peers told apart; what comes after them is `(other)`.
const MOST_NAMES: usize = 20_000;
/// Span ids remembered to find a parent in another service, in each of two generations.
const MOST_SPAN_IDS: usize = 100_000;
/// Error texts remembered for each callee.
const MOST_TEXTS: usize = 16;
/// Who answered at an address longer ago than this before its newest call answers there no more.
const ANSWERED: Duration = Duration::from_secs(900);
/// Buckets of the latency histogram: four to each doubling from 1 us, up to about 20 min.
const BUCKETS: usize = 120;

/// Index of a service in [`Windows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u32);

/// `opentelemetry.proto.trace.v1.Span.SpanKind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum SpanKind {
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

impl SpanKind {
    /// From the enum on the wire; what is out of range is internal.
    pub fn from_wire(kind: i64) -> Self {
        match kind {
            2 => SpanKind::Server,
            3 => SpanKind::Client,
            4 => SpanKind::Producer,
            5 => SpanKind::Consumer,
            _ => SpanKind::Internal,
        }
    }

    fn name(self) -> &'static str {
        match self {
            SpanKind::Internal => "internal",
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
        }
    }
}

/// What a window needs of a span.
#[derive(Clone, Copy, Debug)]
pub struct SpanFact<'a> {
    /// Whose span it is.
    pub service: ServiceId,
    /// Span name.
    pub operation: &'a str,
    /// Span kind.
    pub kind: SpanKind,
    /// `server.address`, `peer.service` or the like of a client span; else empty.
    pub peer: &'a str,
    /// Start.
    pub start: Time,
    /// End.
    pub end: Time,
    /// Status is error, or a server answered 5xx.
    pub failed: bool,
    /// Status message, else `error.type`, else the HTTP status; what the caller saw.
    pub error: &'a str,
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// 8 bytes, or none.
    pub parent_span_id: &'a [u8],
}

/// One of the operator's own spans, to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// The span.
    pub span_id: [u8; 8],
    /// When it started.
    pub start: Time,
}

/// A caller and what it calls, by service name as far as it is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallEdge {
    /// Namespace of the caller.
    pub namespace: Arc<str>,
    /// The caller.
    pub caller: Arc<str>,
    /// What it calls: a service, or the address that the caller names.
    pub callee: Arc<str>,
    /// Namespace of the service that answered; none for an address.
    pub answered: Option<Arc<str>>,
}

/// An address that a service calls, and whom it means.
struct Peer {
    /// When it was last called.
    last: Time,
    /// Services whose spans followed on these calls, and when last.
    answered: BTreeMap<ServiceId, Time>,
    /// Whom it means; none until that was asked.
    meant: Option<Meant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    service: ServiceId,
    kind: SpanKind,
    operation: u32,
    peer: u32,
}

#[derive(Clone)]
struct Cell {
    count: u32,
    errors: u32,
    sum_ns: u64,
    first_error: Option<Time>,
    histogram: Box<[u16; BUCKETS]>,
}

#[derive(Default)]
struct Slot {
    cells: HashMap<Key, Cell>,
    batch: Option<RecordBatch>,
}

/// The accumulators over spans.
#[derive(Default)]
pub struct Windows {
    names: Names,
    services: Vec<(Arc<str>, Arc<str>)>,
    service_ids: HashMap<(Arc<str>, Arc<str>), ServiceId>,
    /// What each service is called here; for each of `services`.
    called: Vec<(Arc<str>, Arc<str>)>,
    peers: HashMap<(ServiceId, Arc<str>), Peer>,
    slots: BTreeMap<Time, Slot>,
    cells: usize,
    calls: BTreeMap<CallEdge, Time>,
    parents: Parents,
    texts: HashMap<(ServiceId, u32), BTreeMap<Box<str>, u64>>,
    samples: HashMap<ServiceId, Sample>,
    sick: BTreeMap<(Arc<str>, Arc<str>), Time>,
    /// Windows that went because the limit on cells was reached.
    pub evicted: u64,
}

impl Windows {
    /// The index of a service; the same for the same names.
    pub fn service(&mut self, namespace: &str, name: &str) -> ServiceId {
        let key = (Arc::from(namespace), Arc::from(name));
        if let Some(id) = self.service_ids.get(&key) {
            return *id;
        }
        if self.services.len() >= MOST_NAMES {
            return ServiceId(0);
        }
        let id = ServiceId(u32::try_from(self.services.len()).unwrap_or_default());
        self.services.push(key.clone());
        self.called.push(key.clone());
        self.service_ids.insert(key, id);
        id
    }

    /// Asks anew what each service is called and whom each address means. What was once known of an
    /// address stays: a pod that is gone was still whom its callers meant.
    pub fn name(&mut self, identity: &Identity, cluster: &Cluster) {
        let mut changed = false;
        for (told, called) in self.services.iter().zip(&mut self.called) {
            let service = identity.service(&told.0, &told.1);
            if (&service.namespace, &service.name) != (&called.0, &called.1) {
                *called = (service.namespace, service.name);
                changed = true;
            }
        }
        let oldest = self.slots.first_key_value().map(|(bucket, _)| *bucket).unwrap_or_default();
        self.peers.retain(|_, peer| peer.last >= oldest);
        for ((caller, address), peer) in &mut self.peers {
            let (namespace, _) = &self.called[caller.0 as usize];
            peer.answered.retain(|_, last| *last + ANSWERED >= peer.last);
            let one = peer.answered.first_key_value().filter(|_| peer.answered.len() == 1);
            let one = one.map(|(id, _)| &self.called[id.0 as usize]);
            let one = one.map(|(namespace, name)| Entity::new("Service", namespace, name));
            let meant = identity.address(address, namespace, one, cluster);
            let forgotten = peer.answered.len() <= 1
                && matches!((&peer.meant, &meant), (Some(Meant::Inside(_)), Meant::Outside(_)));
            if !forgotten && peer.meant.as_ref() != Some(&meant) {
                changed = true;
                peer.meant = Some(meant);
            }
        }
        if changed {
            self.slots.values_mut().for_each(|slot| slot.batch = None);
        }
    }

    /// Whom an address means that this service calls.
    fn meant(&self, caller: ServiceId, address: &Arc<str>) -> Meant {
        let known = self.peers.get(&(caller, address.clone())).and_then(|peer| peer.meant.clone());
        known.unwrap_or_else(|| Meant::Outside(Entity::new("Service", "", address)))
    }

    /// A service by its name here.
    fn entity(&self, service: ServiceId) -> Entity {
        let (namespace, name) = &self.called[service.0 as usize];
        Entity::new("Service", namespace, name)
    }

    /// The services that are called so here.
    fn ids(&self, namespace: &str, name: &str) -> impl Iterator<Item = ServiceId> {
        let called = self.called.iter().enumerate();
        called
            .filter(move |(_, called)| *called.0 == *namespace && *called.1 == *name)
            .filter_map(|(at, _)| u32::try_from(at).ok().map(ServiceId))
    }

    /// Adds one span.
    pub fn add(&mut self, span: &SpanFact<'_>) {
        let key = Key {
            service: span.service,
            kind: span.kind,
            operation: self.names.id(span.operation),
            peer: self.names.id(span.peer),
        };
        let slot = self.slots.entry(span.end.bucket(WINDOW)).or_default();
        slot.batch = None;
        let cells = &mut self.cells;
        let cell = slot.cells.entry(key).or_insert_with(|| {
            *cells += 1;
            Cell {
                count: 0,
                errors: 0,
                sum_ns: 0,
                first_error: None,
                histogram: Box::new([0; BUCKETS]),
            }
        });
        let nanos = u64::try_from(span.end.0.saturating_sub(span.start.0)).unwrap_or(0);
        cell.count = cell.count.saturating_add(1);
        cell.sum_ns = cell.sum_ns.saturating_add(nanos);
        let bucket = &mut cell.histogram[bucket_of(nanos)];
        *bucket = bucket.saturating_add(1);
        if span.failed {
            cell.errors = cell.errors.saturating_add(1);
            cell.first_error =
                Some(cell.first_error.map_or(span.start, |first| first.min(span.start)));
            self.keep_failure(span, key.peer);
        }
        self.link(span);
        self.shrink();
    }

    fn keep_failure(&mut self, span: &SpanFact<'_>, peer: u32) {
        if span.kind == SpanKind::Client && !span.peer.is_empty() {
            let texts = self.texts.entry((span.service, peer)).or_default();
            if let Some(count) = texts.get_mut(span.error) {
                *count += 1;
            } else if texts.len() < MOST_TEXTS {
                texts.insert(span.error.into(), 1);
            }
        }
        if let (Ok(trace_id), Ok(span_id)) = (span.trace_id.try_into(), span.span_id.try_into()) {
            self.samples.insert(span.service, Sample { trace_id, span_id, start: span.start });
        }
    }

    /// Who calls whom: by the address that the client names, and by a parent in another service.
    fn link(&mut self, span: &SpanFact<'_>) {
        let (namespace, caller) = self.services[span.service.0 as usize].clone();
        let address = self.names.text(self.names.id_of(span.peer));
        let calls = matches!(span.kind, SpanKind::Client | SpanKind::Producer);
        if calls && !span.peer.is_empty() {
            let known = (span.service, address.clone());
            if self.peers.len() < MOST_NAMES || self.peers.contains_key(&known) {
                let fresh = || Peer { last: span.end, answered: BTreeMap::new(), meant: None };
                let peer = self.peers.entry(known).or_insert_with(fresh);
                peer.last = peer.last.max(span.end);
            }
            if span.kind == SpanKind::Client {
                let callee = address.clone();
                let edge = CallEdge { namespace, caller, callee, answered: None };
                self.calls.insert(edge, span.end);
            }
        }
        let Some((caller, callee, address)) = self.parents.pair(span, address) else { return };
        if caller == callee {
            return;
        }
        if let Some(peer) = address.and_then(|address| self.peers.get_mut(&(caller, address))) {
            peer.answered.insert(callee, span.end);
        }
        let (namespace, caller) = self.services[caller.0 as usize].clone();
        let (answered, callee) = self.services[callee.0 as usize].clone();
        let edge = CallEdge { namespace, caller, callee, answered: Some(answered) };
        self.calls.insert(edge, span.end);
    }

    fn shrink(&mut self) {
        while self.slots.len() > KEEP || (self.cells > MOST_CELLS && self.slots.len() > 1) {
            if let Some((_, slot)) = self.slots.pop_first() {
                self.cells -= slot.cells.len();
                self.evicted += 1;
            }
        }
    }

    /// Windows of a sick service are no baseline, from `since` until [`Windows::well`].
    pub fn sick(&mut self, namespace: &str, service: &str, since: Time) {
        let since = since.bucket(WINDOW);
        let key = (Arc::from(namespace), Arc::from(service));
        if self.sick.get(&key).is_none_or(|known| since < *known) {
            self.sick.insert(key, since);
            for (_, slot) in self.slots.range_mut(since..) {
                slot.batch = None;
            }
        }
    }

    /// The service is well again; windows that are made from now on count as its past.
    pub fn well(&mut self, namespace: &str, service: &str) {
        self.sick.remove(&(Arc::from(namespace), Arc::from(service)));
    }

    /// Start of the newest window.
    pub fn newest(&self) -> Option<Time> {
        self.slots.last_key_value().map(|(time, _)| *time)
    }

    /// Calls seen since `since`: a service by its name here, and whom it calls.
    pub fn calls(&self, since: Time) -> Vec<(Entity, Meant)> {
        let edges = self.calls.iter().filter(|(_, last)| **last >= since);
        let meant = edges.filter_map(|(edge, _)| {
            let id = |namespace: &Arc<str>, name: &Arc<str>| {
                self.service_ids.get(&(namespace.clone(), name.clone())).copied()
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

    /// The error that callers of a service or host see most often.
    pub fn call_error(&self, peer: &Entity) -> Option<String> {
        let mut texts: BTreeMap<&str, u64> = BTreeMap::new();
        for ((caller, address), counts) in &self.texts {
            if self.meant(*caller, &self.names.text(*address)).entity() == peer {
                for (text, count) in counts {
                    *texts.entry(text).or_default() += count;
                }
            }
        }
        // A caller that gave up waiting says nothing of why; prefer what names a reason.
        let vague =
            |text: &str| text.is_empty() || text.contains("context") || text.contains("canceled");
        let best = texts
            .iter()
            .max_by_key(|(text, count)| (!vague(text), **count, std::cmp::Reverse(**text)))?;
        (!best.0.is_empty()).then(|| (*best.0).to_owned())
    }

    /// A failing span of the service.
    pub fn sample(&self, namespace: &str, service: &str) -> Option<Sample> {
        let samples = self.ids(namespace, service).filter_map(|id| self.samples.get(&id));
        samples.max_by_key(|sample| sample.start).copied()
    }

    /// Requests served and failed by (service, operation) from `from` on, for the impact.
    pub fn served(
        &self,
        namespace: &str,
        service: &str,
        from: Time,
        to: Time,
    ) -> Vec<(Arc<str>, u64, u64)> {
        let ids: BTreeSet<ServiceId> = self.ids(namespace, service).collect();
        let mut by_operation: BTreeMap<Arc<str>, (u64, u64)> = BTreeMap::new();
        for (_, slot) in self.slots.range(from.bucket(WINDOW)..=to) {
            for (key, cell) in &slot.cells {
                if ids.contains(&key.service)
                    && matches!(key.kind, SpanKind::Server | SpanKind::Consumer)
                {
                    let entry = by_operation.entry(self.names.text(key.operation)).or_default();
                    entry.0 += u64::from(cell.count);
                    entry.1 += u64::from(cell.errors);
                }
            }
        }
        by_operation.into_iter().map(|(name, (count, errors))| (name, count, errors)).collect()
    }

    /// The `windows` table: one batch a window, made anew only where the window changed.
    pub fn publish(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut batches = Vec::with_capacity(self.slots.len());
        let mut slots = std::mem::take(&mut self.slots);
        let made = slots.iter_mut().try_for_each(|(bucket, slot)| {
            batches.push(self.batch(*bucket, slot)?);
            Ok(())
        });
        self.slots = slots;
        made.map(|()| batches)
    }

    fn batch(&self, bucket: Time, slot: &mut Slot) -> Result<RecordBatch, ArrowError> {
        let batch = match slot.batch.take() {
            Some(batch) => batch,
            None => {
                let mut rows: Vec<Window> = Vec::with_capacity(slot.cells.len());
                for (key, cell) in &slot.cells {
                    let service = &self.called[key.service.0 as usize];
                    let address = self.names.text(key.peer);
                    let peer = match &*address {
                        "" => (address.clone(), address),
                        _ => {
                            let peer = self.meant(key.service, &address);
                            (peer.entity().namespace.clone(), peer.entity().name.clone())
                        }
                    };
                    // Who goes on well without a sick callee still has calls that fail.
                    let well = |who| self.sick.get(who).is_none_or(|since| bucket < *since);
                    let calm = well(service) && (peer.1.is_empty() || well(&peer));
                    rows.push(cell.row(bucket, key, service, &peer, &self.names, calm));
                }
                rows.sort_by(|a, b| {
                    (&a.namespace, &a.service, &a.operation, &a.kind, &a.peer_namespace, &a.peer)
                        .cmp(&(
                            &b.namespace,
                            &b.service,
                            &b.operation,
                            &b.kind,
                            &b.peer_namespace,
                            &b.peer,
                        ))
                        .then((a.count, a.errors).cmp(&(b.count, b.errors)))
                        .then(a.sum_ms.total_cmp(&b.sum_ms))
                });
                Window::batch(&rows)?
            }
        };
        slot.batch = Some(batch.clone());
        Ok(batch)
    }
}

impl Cell {
    fn row(
        &self,
        bucket: Time,
        key: &Key,
        service: &(Arc<str>, Arc<str>),
        peer: &(Arc<str>, Arc<str>),
        names: &Names,
        calm: bool,
    ) -> Window {
        Window {
            bucket,
            namespace: service.0.to_string(),
            service: service.1.to_string(),
            operation: names.text(key.operation).to_string(),
            kind: key.kind.name().to_owned(),
            peer_namespace: peer.0.to_string(),
            peer: peer.1.to_string(),
            count: i64::from(self.count),
            errors: i64::from(self.errors),
            p50_ms: self.quantile_ms(0.5),
            p99_ms: self.quantile_ms(0.99),
            sum_ms: self.sum_ns as f64 / 1e6,
            first_error: self.first_error,
            calm,
        }
    }

    /// Upper bound of the histogram bucket in which the quantile lies, ms: within 19 %.
    fn quantile_ms(&self, q: f64) -> f64 {
        let total: u64 = self.histogram.iter().map(|n| u64::from(*n)).sum();
        let wanted = ((total as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        for (i, n) in self.histogram.iter().enumerate() {
            below += u64::from(*n);
            if below >= wanted {
                return 2f64.powf((i + 1) as f64 / 4.0) / 1e3;
            }
        }
        0.0
    }
}

fn bucket_of(nanos: u64) -> usize {
    let micros = (nanos as f64 / 1e3).max(1.0);
    ((micros.log2() * 4.0) as usize).min(BUCKETS - 1)
}

/// Strings told apart by number.
struct Names {
    texts: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
}

impl Default for Names {
    fn default() -> Self {
        let other: Arc<str> = "(other)".into();
        Names { texts: vec![other.clone()], ids: HashMap::from([(other, 0)]) }
    }
}

impl Names {
    fn id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        if self.texts.len() >= MOST_NAMES {
            return 0;
        }
        let id = u32::try_from(self.texts.len()).unwrap_or_default();
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.ids.insert(text, id);
        id
    }

    fn id_of(&self, text: &str) -> u32 {
        self.find(text).unwrap_or_default()
    }

    fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    fn text(&self, id: u32) -> Arc<str> {
        self.texts.get(id as usize).unwrap_or(&self.texts[0]).clone()
    }
}

/// Finds the service of a span's parent, whichever of the two comes first.
#[derive(Default)]
struct Parents {
    seen: Generations,
    awaited: Generations,
}

/// A map that forgets its older half when it is full.
#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 8], (ServiceId, Option<Arc<str>>)>,
    old: HashMap<[u8; 8], (ServiceId, Option<Arc<str>>)>,
}

impl Generations {
    fn put(&mut self, id: [u8; 8], service: ServiceId, address: Option<Arc<str>>) {
        if self.young.len() >= MOST_SPAN_IDS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, (service, address));
    }

    fn get(&self, id: &[u8; 8]) -> Option<(ServiceId, Option<Arc<str>>)> {
        self.young.get(id).or_else(|| self.old.get(id)).cloned()
    }
}

impl Parents {
    /// Caller and callee, when this span closes such a pair, and the address at which the caller asked.
    /// What is told to a broker is answered by another.
    fn pair(
        &mut self,
        span: &SpanFact<'_>,
        address: Arc<str>,
    ) -> Option<(ServiceId, ServiceId, Option<Arc<str>>)> {
        let id: [u8; 8] = span.span_id.try_into().ok()?;
        match span.kind {
            SpanKind::Client | SpanKind::Producer => {
                let asks = span.kind == SpanKind::Client && !span.peer.is_empty();
                let address = asks.then_some(address);
                self.seen.put(id, span.service, address.clone());
                self.awaited.get(&id).map(|(callee, _)| (span.service, callee, address))
            }
            SpanKind::Server | SpanKind::Consumer => {
                let parent: [u8; 8] = span.parent_span_id.try_into().ok()?;
                if parent == [0; 8] {
                    return None;
                }
                if let Some((caller, address)) = self.seen.get(&parent) {
                    return Some((caller, span.service, address));
                }
                self.awaited.put(parent, span.service, None);
                None
            }
            SpanKind::Internal => None,
        }
    }
}
