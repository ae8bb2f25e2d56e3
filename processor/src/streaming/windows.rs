//! Spans to windows: counts, errors and a latency histogram per (service, operation, kind, peer) and
//! window, who calls whom, and a failing span of each service to show for it.

mod clients;
mod counted;
mod counts;
mod histogram;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use tapio_proto::model::{Entity, Row as _, Time};

use clients::Clients;
pub use counted::Counted;
pub use counts::Count;
use histogram::Histogram;

use super::{Map, WINDOW, cut, names::Names, parents::Parents, texts::Texts};
use crate::{
    correlation::{
        identity::{Identity, Meant},
        rows::{Answer, Sum, Window},
    },
    kubernetes::Cluster,
};

/// Windows kept: half an hour of past to compare with, and those that go with them.
const KEEP: usize = 360;
/// Windows to which nothing comes any more are published as one, and go as one: what reads them pays for each
/// batch of rows, however small.
const TOGETHER: usize = 12;
/// Windows to which more may still come.
const LATE: Duration = Duration::from_secs(60);
/// The time that they cover where there is one after the other.
pub const KEPT: Duration = Duration::from_nanos(KEEP as u64 * WINDOW as u64);
/// What was usual before a bout is what was usual for so long.
const PAST: Duration = Duration::from_secs(86_400);
/// Cells kept over all windows; over it the oldest windows go (about 100 B a cell).
const MOST_CELLS: usize = 400_000;
/// Services, operations and peers told apart, each; operations and peers over it are `(other)`, services
/// are left out.
const MOST_NAMES: usize = 20_000;
/// Bytes of a name that tell it from others.
const LONGEST_NAME: usize = 256;
/// Calls kept.
const MOST_CALLS: usize = 100_000;
/// Who answered at an address longer ago than this before its newest call answers there no more.
const ANSWERED: Duration = Duration::from_secs(900);

/// Index of a service in [`Windows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub(super) u32);

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
    /// The engine's time when it came in.
    pub arrived: Time,
    /// Spans that it stands for, itself included.
    pub weight: u32,
    /// Its trace is one of those in which parents are looked for.
    pub followed: bool,
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

/// A call as a span shows it: the client's, of an address, or the server's, of a caller at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Asked(ServiceId, u32),
    Answered { caller: ServiceId, callee: ServiceId, address: Option<u32> },
}

#[derive(Clone)]
struct Cell {
    count: u32,
    /// Spans looked at.
    looked: u32,
    sum_ns: u64,
    /// When the newest of its spans came in.
    arrived: Time,
    took: Histogram,
    /// Most have none.
    failures: Option<Box<Failures>>,
}

/// The spans of a cell that failed.
#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    /// Of them, those looked at.
    looked: u32,
    /// When the first of them began.
    first: Time,
    /// When the newest of them came in.
    arrived: Time,
}

#[derive(Default)]
struct Slot {
    cells: Map<Key, Cell>,
    /// Its rows, while nothing new came and it is not among those that are published together.
    published: Option<Published>,
    /// Its rows are among those that are published together, as they are.
    together: bool,
}

impl Slot {
    /// Its rows are to be made anew.
    fn unpublish(&mut self) {
        (self.published, self.together) = (None, false);
    }
}

/// Windows by their start.
#[derive(Default)]
struct Slots {
    each: BTreeMap<Time, Slot>,
    /// Those that are published together, by the start of the time that they share.
    together: BTreeMap<Time, Published>,
}

/// What one window came to, or several.
#[derive(Clone)]
struct Published {
    /// Rows of `windows`.
    windows: RecordBatch,
    /// Rows of `answers`.
    answers: RecordBatch,
    /// The same rows by window, to be summed up.
    short: Vec<(Time, Arc<[sums::Short]>)>,
}

impl Slots {
    /// The time that a window shares with those that it is published and goes with.
    fn shared(bucket: Time) -> Range<Time> {
        let span = TOGETHER as i64 * WINDOW;
        let start = bucket.bucket(span);
        start..start + Duration::from_nanos(span as u64)
    }

    /// Takes the oldest out, with those that share its time, but never the newest of all.
    fn pop(&mut self) -> BTreeMap<Time, Slot> {
        let (Some((first, _)), Some((newest, _))) =
            (self.each.first_key_value(), self.each.last_key_value())
        else {
            return BTreeMap::new();
        };
        let end = Slots::shared(*first).end.min(*newest);
        let rest = self.each.split_off(&end);
        self.together = self.together.split_off(&end);
        std::mem::replace(&mut self.each, rest)
    }

    fn cells(&self) -> usize {
        self.each.values().map(|slot| slot.cells.len()).sum()
    }

    fn unpublish(&mut self) {
        self.each.values_mut().for_each(Slot::unpublish);
    }
}

/// The name of what there is no room for.
const OTHER: &str = "(other)";

/// Since when a service was sick, and until when.
type Sick = BTreeMap<(Arc<str>, Arc<str>), Vec<(Time, Option<Time>)>>;

/// The accumulators over spans.
pub struct Windows {
    operations: Names<Arc<str>>,
    addresses: Names<Arc<str>>,
    services: Names<(Arc<str>, Arc<str>)>,
    /// What each service is called here; for each of `services`.
    called: Vec<(Arc<str>, Arc<str>)>,
    peers: Map<(ServiceId, Arc<str>), Peer>,
    slots: Slots,
    /// Of windows that went, those who were well then and are sick since.
    past: Slots,
    cells: usize,
    answering: sums::Answering,
    calls: BTreeMap<CallEdge, Time>,
    /// The window in which a call, by its numbers, was last entered in `peers` and `calls`.
    entered: Map<Call, Time>,
    parents: Parents,
    texts: Map<(ServiceId, u32), Texts>,
    samples: Map<ServiceId, Sample>,
    sick: Sick,
    /// When the newest failure came in, and the newest span.
    failed: Time,
    heard: Time,
    /// Services that failed more of late than is usual, as of what was published last.
    erring: BTreeSet<Entity>,
    clients: Clients,
    /// Over how long metrics count a service's requests, and when they last did.
    cadence: Map<ServiceId, (Duration, Time)>,
    /// Windows that went because the limit on cells was reached.
    pub evicted: u64,
}

impl Default for Windows {
    fn default() -> Self {
        let other: Arc<str> = OTHER.into();
        let mut windows = Windows {
            operations: Names::new(MOST_NAMES),
            addresses: Names::new(MOST_NAMES),
            services: Names::new(MOST_NAMES),
            called: Vec::new(),
            peers: Map::default(),
            slots: Slots::default(),
            past: Slots::default(),
            cells: 0,
            answering: sums::Answering::default(),
            calls: BTreeMap::new(),
            entered: Map::default(),
            parents: Parents::default(),
            texts: Map::default(),
            samples: Map::default(),
            sick: Sick::new(),
            failed: Time::default(),
            heard: Time::default(),
            erring: BTreeSet::new(),
            clients: Clients::default(),
            cadence: Map::default(),
            evicted: 0,
        };
        // The number of all that there is no room for is 0, for good.
        for names in [&mut windows.operations, &mut windows.addresses] {
            names.id(&other, Time(i64::MAX));
        }
        windows
    }
}

impl Windows {
    /// The index of a service that sends at `now`; the same for the same names while it is in the windows.
    /// None when there are too many.
    pub fn service(&mut self, namespace: &str, name: &str, now: Time) -> Option<ServiceId> {
        let short = |text| Arc::from(cut(text, LONGEST_NAME));
        let key = (short(namespace), short(name));
        let known = self.services.find(&key).is_some();
        if !known && self.services.is_full(now) {
            let oldest = self.oldest().unwrap_or(now);
            let gone: BTreeSet<u32> = self.services.sweep(oldest, now).iter().copied().collect();
            let here = |id: &ServiceId| !gone.contains(&id.0);
            self.texts.retain(|(service, _), _| here(service));
            self.samples.retain(|service, _| here(service));
            self.clients.retain(here);
            self.cadence.retain(|service, _| here(service));
            self.peers.retain(|(service, _), _| here(service));
            self.peers
                .values_mut()
                .for_each(|peer| peer.answered.retain(|service, _| here(service)));
            self.parents = Parents::default();
            self.entered.clear();
        }
        let id = self.services.id(&key, now)?;
        match self.called.get_mut(id as usize) {
            Some(_) if known => {}
            Some(called) => *called = key,
            None => self.called.push(key),
        }
        Some(ServiceId(id))
    }

    /// Start of the oldest window.
    fn oldest(&self) -> Option<Time> {
        let both = [&self.past, &self.slots];
        both.iter().filter_map(|slots| slots.each.first_key_value()).map(|(at, _)| *at).min()
    }

    fn operation(&mut self, name: &str, now: Time) -> u32 {
        let name = cut(name, LONGEST_NAME);
        if let Some(id) = self.operations.used(name, now) {
            return id;
        }
        if self.operations.is_full(now) {
            let oldest = self.oldest().unwrap_or(now);
            self.operations.sweep(oldest, now);
        }
        self.operations.id(&name.into(), now).unwrap_or_default()
    }

    fn address(&mut self, name: &str, now: Time) -> u32 {
        let name = cut(name, LONGEST_NAME);
        if let Some(id) = self.addresses.used(name, now) {
            return id;
        }
        if self.addresses.is_full(now) {
            let oldest = self.oldest().unwrap_or(now);
            let gone: BTreeSet<u32> = self.addresses.sweep(oldest, now).iter().copied().collect();
            self.texts.retain(|(_, address), _| !gone.contains(address));
            self.parents = Parents::default();
            self.entered.clear();
        }
        self.addresses.id(&name.into(), now).unwrap_or_default()
    }

    /// The address of a number.
    fn addressed(&self, id: u32) -> Arc<str> {
        self.addresses.name(id).cloned().unwrap_or_else(|| OTHER.into())
    }

    /// A service as it calls itself.
    fn told(&self, service: ServiceId) -> (Arc<str>, Arc<str>) {
        self.services.name(service.0).cloned().unwrap_or_else(|| (OTHER.into(), OTHER.into()))
    }

    /// Asks anew what each service is called and whom each address means. What was once known of an
    /// address stays: a pod that is gone was still whom its callers meant.
    pub fn name(&mut self, identity: &Identity, cluster: &Cluster) {
        let mut changed = false;
        for (id, called) in (0..).zip(&mut self.called) {
            let Some(told) = self.services.name(id) else { continue };
            let service = identity.service(&told.0, &told.1);
            if (&service.namespace, &service.name) != (&called.0, &called.1) {
                *called = (service.namespace, service.name);
                changed = true;
            }
        }
        let oldest = self.oldest().unwrap_or_default();
        self.clients.name(identity, oldest);
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
            self.unpublish();
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
        self.heard = self.heard.max(span.arrived);
        let key = Key {
            service: span.service,
            kind: span.kind,
            operation: self.operation(span.operation, span.arrived),
            peer: self.address(span.peer, span.arrived),
        };
        let window = span.end.bucket(WINDOW);
        let slot = match self.slots.each.last_entry() {
            Some(newest) if *newest.key() == window => newest.into_mut(),
            _ => self.slots.each.entry(window).or_default(),
        };
        slot.unpublish();
        let cells = &mut self.cells;
        let cell = slot.cells.entry(key).or_insert_with(|| {
            *cells += 1;
            Cell::new(span.arrived)
        });
        let nanos = u64::try_from(span.end.0.saturating_sub(span.start.0)).unwrap_or(0);
        cell.count = cell.count.saturating_add(span.weight);
        cell.looked = cell.looked.saturating_add(1);
        cell.sum_ns = cell.sum_ns.saturating_add(nanos.saturating_mul(span.weight.into()));
        cell.arrived = cell.arrived.max(span.arrived);
        cell.took.add(nanos, span.weight);
        if span.failed {
            let fresh = Failures { count: 0, looked: 0, first: span.start, arrived: span.arrived };
            let failures = cell.failures.get_or_insert_with(|| Box::new(fresh));
            failures.count = failures.count.saturating_add(span.weight);
            failures.looked = failures.looked.saturating_add(1);
            failures.first = failures.first.min(span.start);
            failures.arrived = failures.arrived.max(span.arrived);
            self.failed = self.failed.max(span.arrived);
            self.keep_failure(span, key.peer);
        }
        self.link(span, key.peer);
        self.shrink();
    }

    fn keep_failure(&mut self, span: &SpanFact<'_>, peer: u32) {
        if span.kind == SpanKind::Client && !span.peer.is_empty() {
            self.texts.entry((span.service, peer)).or_default().add(span.error, span.end);
        }
        if let (Ok(trace_id), Ok(span_id)) = (span.trace_id.try_into(), span.span_id.try_into()) {
            self.samples.insert(span.service, Sample { trace_id, span_id, start: span.start });
        }
    }

    /// Who calls whom: by the address that the client names, and by a parent in another service.
    fn link(&mut self, span: &SpanFact<'_>, peer: u32) {
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

    fn shrink(&mut self) {
        while self.slots.each.len() > KEEP + TOGETHER
            || (self.cells > MOST_CELLS && self.slots.each.len() > 1)
        {
            if self.cells > MOST_CELLS && self.past.each.len() > 1 {
                self.cells -= self.past.cells();
                self.past.pop();
                self.cells += self.past.cells();
                continue;
            }
            let gone = self.slots.pop();
            let Some((oldest, _)) = self.slots.each.first_key_value() else { return };
            let oldest = *oldest;
            self.calls.retain(|_, last| *last >= oldest);
            self.sick.retain(|_, bouts| {
                bouts.retain(|(_, until)| until.is_none_or(|until| until >= oldest));
                !bouts.is_empty()
            });
            self.cells -= gone.values().map(|slot| slot.cells.len()).sum::<usize>();
            self.evicted += gone.len() as u64;
            self.remember(gone);
        }
    }

    /// Of windows that go, keeps what is the past of those that are sick since later, or were lately: a bout
    /// may last longer than windows are kept, and would be the usual then.
    fn remember(&mut self, gone: BTreeMap<Time, Slot>) {
        if self.sick.is_empty() && self.past.each.is_empty() {
            return;
        }
        let mut past = std::mem::take(&mut self.past);
        self.cells -= past.cells();
        for (bucket, slot) in gone {
            // What comes late for one that went says little.
            past.each.entry(bucket).or_insert(slot);
        }
        let all = past.each.len();
        past.each.retain(|bucket, slot| {
            if *bucket + PAST < self.heard {
                return false;
            }
            let had = slot.cells.len();
            slot.cells.retain(|key, _| self.is_past(*bucket, key));
            if slot.cells.len() < had {
                slot.unpublish();
            }
            !slot.cells.is_empty()
        });
        if past.each.len() < all {
            past.together.clear();
        }
        while past.each.len() > KEEP {
            past.pop();
        }
        self.cells += past.cells();
        self.past = past;
    }

    /// Does the cell belong to one who was well then and is known to be sick since?
    fn is_past(&self, bucket: Time, key: &Key) -> bool {
        let sick_since = |who: &(Arc<str>, Arc<str>)| {
            let bouts = self.sick.get(who);
            bouts.is_some_and(|bouts| bouts.iter().all(|(since, _)| bucket < *since))
        };
        let address = self.addressed(key.peer);
        sick_since(&self.called[key.service.0 as usize])
            || (!address.is_empty() && {
                let peer = self.meant(key.service, &address);
                sick_since(&(peer.entity().namespace.clone(), peer.entity().name.clone()))
            })
    }

    /// Services that failed more requests of late than is usual for them, be it too few to be proven.
    pub fn erring(&self) -> &BTreeSet<Entity> {
        &self.erring
    }

    /// When the newest span came in.
    pub fn heard(&self) -> Time {
        self.heard
    }

    /// Did any failure come in since then?
    pub fn failed_since(&self, since: Time) -> bool {
        self.failed >= since
    }

    /// Windows of a sick service are no baseline, from `since` until [`Windows::well`].
    pub fn sick(&mut self, namespace: &str, service: &str, since: Time) {
        let since = since.bucket(WINDOW);
        let bouts = self.sick.entry((Arc::from(namespace), Arc::from(service))).or_default();
        let known = match bouts.last_mut() {
            Some((from, None)) => {
                let known = *from;
                *from = known.min(since);
                known
            }
            _ => {
                bouts.push((since, None));
                Time(i64::MAX)
            }
        };
        if since < known {
            for (_, slot) in self.slots.each.range_mut(since..) {
                slot.unpublish();
            }
        }
    }

    /// The service is well again since `since`: later windows count as its past, whenever they come in.
    pub fn well(&mut self, namespace: &str, service: &str, since: Time) {
        let key = (Arc::from(namespace), Arc::from(service));
        let open = self.sick.get_mut(&key).and_then(|bouts| bouts.last_mut());
        if let Some(bout) = open.filter(|bout| bout.1.is_none()) {
            bout.1 = Some(since);
            for (_, slot) in self.slots.each.range_mut(since.bucket(WINDOW)..) {
                slot.unpublish();
            }
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

    /// The error that callers of a service or host saw most often since then.
    pub fn call_error(&self, peer: &Entity, since: Time) -> Option<String> {
        let mut texts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for ((caller, address), told) in &self.texts {
            if self.meant(*caller, &self.addressed(*address)).entity() == peer {
                for (kind, text) in told.since(since) {
                    let known = texts.entry(kind).or_insert((0, &text.example));
                    *known = (known.0 + text.count, known.1.min(&text.example));
                }
            }
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
        for (_, slot) in self.slots.each.range(from.bucket(WINDOW)..=to.max(from)) {
            for (key, cell) in &slot.cells {
                if ids.contains(&key.service)
                    && matches!(key.kind, SpanKind::Server | SpanKind::Consumer)
                {
                    let operation = self.operations.name(key.operation);
                    let operation = operation.cloned().unwrap_or_else(|| OTHER.into());
                    let entry = by_operation.entry(operation).or_default();
                    entry.0 += u64::from(cell.count);
                    entry.1 += u64::from(cell.errors());
                }
            }
        }
        by_operation.into_iter().map(|(name, (count, errors))| (name, count, errors)).collect()
    }

    /// Does a service send spans of its own?
    pub fn hears(&self, service: &Entity) -> bool {
        self.ids(&service.namespace, &service.name).next().is_some()
    }

    /// All rows are made anew.
    fn unpublish(&mut self) {
        self.past.unpublish();
        self.slots.unpublish();
    }

    /// The tables `windows` and `answers`, made anew only where windows changed; and `sums` for the windows to
    /// which failures came at `recent` or later.
    pub fn publish(
        &mut self,
        since: Option<Time>,
        recent: Time,
    ) -> Result<[Vec<RecordBatch>; 3], ArrowError> {
        if self.answering.is_full() {
            self.answering = sums::Answering::default();
            self.unpublish();
        }
        let mut slots = std::mem::take(&mut self.slots);
        let mut past = std::mem::take(&mut self.past);
        let mut all = Vec::new();
        let made = [&mut past, &mut slots]
            .into_iter()
            .try_for_each(|slots| self.publish_slots(slots, since, &mut all));
        (self.slots, self.past) = (slots, past);
        made?;
        let short = all.iter().flat_map(|published| &published.short);
        let sums = self.answering.sums(short.map(|(bucket, rows)| (*bucket, &**rows)), recent);
        self.erring = sums.iter().filter(|sum| sums::errs(sum)).map(sums::service).collect();
        let sums = Sum::batch(&sums)?;
        let (windows, answers) =
            all.into_iter().map(|published| (published.windows, published.answers)).unzip();
        Ok([windows, answers, vec![sums]])
    }

    /// Adds what these windows came to, those that are `since` then or later.
    fn publish_slots(
        &mut self,
        slots: &mut Slots,
        since: Option<Time>,
        all: &mut Vec<Published>,
    ) -> Result<(), ArrowError> {
        let Slots { each, together } = slots;
        together.retain(|start, _| each.range(Slots::shared(*start)).next().is_some());
        let mut next = since.map_or(Time(i64::MIN), |since| since.bucket(WINDOW));
        while let Some((bucket, _)) = each.range(next..).next() {
            let shared = Slots::shared(*bucket);
            next = shared.end;
            let mut those: Vec<(Time, &mut Slot)> =
                each.range_mut(shared.clone()).map(|(bucket, slot)| (*bucket, slot)).collect();
            if shared.end + LATE <= self.heard {
                let known = together.get(&shared.start);
                let known = known.filter(|_| those.iter().all(|(_, slot)| slot.together));
                let published = match known {
                    Some(known) => known.clone(),
                    None => self.published(&those)?,
                };
                for (_, slot) in &mut those {
                    (slot.published, slot.together) = (None, true);
                }
                together.insert(shared.start, published.clone());
                all.push(published);
                continue;
            }
            for (bucket, slot) in those {
                let published = match slot.published.take() {
                    Some(published) => published,
                    None => self.published(&[(bucket, slot)])?,
                };
                all.push(published.clone());
                slot.published = Some(published);
            }
        }
        Ok(())
    }

    /// What these windows came to.
    fn published(&mut self, slots: &[(Time, &mut Slot)]) -> Result<Published, ArrowError> {
        let (mut windows, mut all, mut short) = (Vec::new(), Vec::new(), Vec::new());
        for (bucket, slot) in slots {
            let rows = self.rows(*bucket, slot);
            let answers = answers(&rows);
            short.push((*bucket, answers.iter().map(|row| self.answering.short(row)).collect()));
            windows.extend(rows);
            all.extend(answers);
        }
        Ok(Published { windows: Window::batch(&windows)?, answers: Answer::batch(&all)?, short })
    }

    /// The rows of one window.
    fn rows(&self, bucket: Time, slot: &Slot) -> Vec<Window> {
        let other: Arc<str> = OTHER.into();
        let mut rows: Vec<Window> = Vec::with_capacity(slot.cells.len());
        for (key, cell) in &slot.cells {
            let service = &self.called[key.service.0 as usize];
            let address = self.addressed(key.peer);
            let operation = self.operations.name(key.operation).unwrap_or(&other).clone();
            let peer = match &*address {
                "" => (address.clone(), address),
                _ => {
                    let peer = self.meant(key.service, &address);
                    (peer.entity().namespace.clone(), peer.entity().name.clone())
                }
            };
            // Who goes on well without a sick callee still has calls that fail.
            let well = |who| {
                let mut bouts = self.sick.get(who).into_iter().flatten();
                !bouts.any(|(since, until)| {
                    *since <= bucket && until.is_none_or(|until| bucket < until)
                })
            };
            let calm = well(service) && (peer.1.is_empty() || well(&peer));
            rows.push(cell.row(bucket, key, service.clone(), peer, operation, calm));
        }
        rows.sort_by(|a, b| {
            (&a.namespace, &a.service, &a.operation, &a.kind, &a.peer_namespace, &a.peer)
                .cmp(&(&b.namespace, &b.service, &b.operation, &b.kind, &b.peer_namespace, &b.peer))
                .then((a.count, a.errors).cmp(&(b.count, b.errors)))
                .then(a.sum_ms.total_cmp(&b.sum_ms))
        });
        rows
    }
}

/// The windows of all operations of a service as one, and those of its callers.
fn answers(rows: &[Window]) -> Vec<Answer> {
    let mut answers: BTreeMap<(&str, &str, &str), Answer> = BTreeMap::new();
    for row in rows {
        let (kind, namespace, service) = match row.kind {
            "server" | "consumer" => ("error_ratio", &row.namespace, &row.service),
            "client" | "producer" if !row.peer.is_empty() => {
                ("call_errors", &row.peer_namespace, &row.peer)
            }
            _ => continue,
        };
        let answer = answers.entry((kind, namespace, service)).or_insert_with(|| Answer {
            bucket: row.bucket,
            kind: kind.to_owned(),
            namespace: namespace.to_string(),
            service: service.to_string(),
            count: 0,
            errors: 0,
            first_error: row.first_error,
            failed: row.failed,
            calm: true,
        });
        answer.count += row.looked;
        answer.errors += row.looked_errors;
        answer.first_error = answer.first_error.into_iter().chain(row.first_error).min();
        answer.failed = answer.failed.max(row.failed);
        answer.calm &= row.calm;
    }
    answers.into_values().collect()
}

impl Cell {
    /// Of a window to which something came first at this time.
    fn new(arrived: Time) -> Self {
        let took = Histogram::default();
        Cell { count: 0, looked: 0, sum_ns: 0, arrived, took, failures: None }
    }

    /// Spans that failed.
    fn errors(&self) -> u32 {
        self.failures.as_ref().map_or(0, |failures| failures.count)
    }

    fn row(
        &self,
        bucket: Time,
        key: &Key,
        (namespace, service): (Arc<str>, Arc<str>),
        (peer_namespace, peer): (Arc<str>, Arc<str>),
        operation: Arc<str>,
        calm: bool,
    ) -> Window {
        let failures = self.failures.as_ref();
        Window {
            bucket,
            namespace,
            service,
            operation,
            kind: key.kind.name(),
            peer_namespace,
            peer,
            count: i64::from(self.count),
            errors: i64::from(self.errors()),
            looked: i64::from(self.looked),
            looked_errors: failures.map_or(0, |failures| i64::from(failures.looked)),
            p50_ms: self.took.quantile_ms(0.5),
            p99_ms: self.took.quantile_ms(0.99),
            sum_ms: self.sum_ns as f64 / 1e6,
            first_error: failures.map(|failures| failures.first),
            arrived: self.arrived,
            failed: failures.map(|failures| failures.arrived),
            calm,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn second(s: i64) -> Time {
        Time(s * 1_000_000_000)
    }

    /// A server span of `a`, which failed, at this second.
    fn failed(windows: &mut Windows, at: i64) {
        let service = windows.service("shop", "a", second(at)).unwrap();
        windows.add(&SpanFact {
            service,
            operation: "GET /",
            kind: SpanKind::Server,
            peer: "",
            start: second(at),
            end: second(at),
            failed: true,
            error: "boom",
            trace_id: &[1; 16],
            span_id: &[1; 8],
            parent_span_id: &[],
            arrived: second(at),
            weight: 1,
            followed: true,
        });
    }

    #[test]
    fn what_failed_before_is_not_shown_for_what_fails_now() {
        let mut windows = Windows::default();
        failed(&mut windows, 100);
        assert_eq!(windows.sample("shop", "a", second(200)), None);
        assert!(windows.sample("shop", "a", second(100)).is_some());
    }

    #[test]
    fn windows_of_a_bout_that_is_over_stay_no_baseline_whatever_comes_late() {
        let calm = |windows: &mut Windows, bucket: i64| {
            let mut slot = windows.slots.each.remove(&second(bucket)).unwrap();
            let published = windows.published(&[(second(bucket), &mut slot)]).unwrap();
            let column = published.windows.column_by_name("calm").unwrap();
            column.as_any().downcast_ref::<arrow::array::BooleanArray>().unwrap().value(0)
        };
        let mut windows = Windows::default();
        windows.sick("shop", "a", second(100));
        windows.well("shop", "a", second(120));
        [95, 100, 115, 120].into_iter().for_each(|at| failed(&mut windows, at));
        let baseline = [95, 100, 115, 120].map(|at| calm(&mut windows, at));
        assert_eq!(baseline, [true, false, false, true]);
    }

    /// Rows of `windows`, as text, and the batches that they are in.
    fn rows(windows: &mut Windows) -> (String, usize) {
        let [rows, ..] = windows.publish(None, Time::default()).unwrap();
        (arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string(), rows.len())
    }

    #[test]
    fn windows_that_are_published_together_are_the_same_and_what_comes_late_is_among_them() {
        let mut windows = Windows::default();
        (0..60).for_each(|at| failed(&mut windows, 600 + at * 5));
        let (together, batches) = rows(&mut windows);
        // Of five minutes the last one, and the minute in which more may come, stand alone.
        assert_eq!(batches, 3 + 24, "{together}");
        assert_eq!(rows(&mut windows), (together.clone(), batches));
        windows.slots.unpublish();
        windows.slots.together.clear();
        assert_eq!(rows(&mut windows), (together.clone(), batches));
        failed(&mut windows, 700);
        let (late, again) = rows(&mut windows);
        assert!(late != together && again == batches);
        // They go together, and the newest stay.
        (60..60 + 400).for_each(|at| failed(&mut windows, 600 + at * 5));
        let kept = windows.slots.each.len();
        assert!((KEEP..=KEEP + TOGETHER).contains(&kept), "{kept}");
        assert_eq!(windows.evicted as usize % TOGETHER, 0);
        rows(&mut windows);
        assert!(windows.slots.together.len() <= KEEP / TOGETHER + 1);
    }
}
