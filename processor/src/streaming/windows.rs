//! Spans to windows: counts, errors and a latency histogram per (service, operation, kind, peer) and
//! window, who calls whom, and a failing span of each service to show for it.

mod bouts;
mod clients;
mod counted;
mod counts;
mod histogram;
mod links;
mod published;
mod pulse;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use clients::Clients;
pub use counted::Counted;
pub use counts::Count;
use histogram::Histogram;
use links::Call;
use published::Published;
use pulse::Pulses;
pub use pulse::Silent;

use super::{Map, WINDOW, cut, names::Names, parents::Parents, texts::Texts};
use crate::{
    correlation::identity::{Identity, Meant},
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
/// Cells kept over all windows; over it the oldest windows go (about 100 B a cell).
const MOST_CELLS: usize = 400_000;
/// Services, operations and peers told apart, each; operations and peers over it are `(other)`, services
/// are left out.
const MOST_NAMES: usize = 20_000;
/// Bytes of a name that tell it from others.
const LONGEST_NAME: usize = 256;
/// A call that takes longer may be one too long, ns. What is told is from 50 ms on, by buckets.
const WAITS: u64 = 40_000_000;
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

    /// Its rows are among those that are published together, and nothing more is awaited.
    fn join(&mut self) {
        if !self.together {
            self.cells.shrink_to_fit();
            self.cells.values_mut().for_each(|cell| cell.took.shrink());
        }
        (self.published, self.together) = (None, true);
    }
}

/// Windows by their start.
#[derive(Default)]
struct Slots {
    each: BTreeMap<Time, Slot>,
    /// Those that are published together, by the start of the time that they share.
    together: BTreeMap<Time, Published>,
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
    /// Who waited for whom, by the number of the address, and when the newest such call came in.
    waited: Map<(ServiceId, u32), Time>,
    /// Services that failed more of late than is usual, as of what was published last.
    erring: BTreeSet<Entity>,
    clients: Clients,
    pulses: Pulses,
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
            waited: Map::default(),
            erring: BTreeSet::new(),
            clients: Clients::default(),
            pulses: Pulses::default(),
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
            self.pulses.retain(here);
            self.cadence.retain(|service, _| here(service));
            self.peers.retain(|(service, _), _| here(service));
            self.peers
                .values_mut()
                .for_each(|peer| peer.answered.retain(|service, _| here(service)));
            self.parents = Parents::default();
            self.entered.clear();
            self.waited.clear();
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
            self.waited.clear();
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
        match span.kind {
            SpanKind::Server | SpanKind::Consumer => {
                self.pulses.beat(span.service, span.end, span.weight);
            }
            SpanKind::Client | SpanKind::Producer if nanos > WAITS && !span.peer.is_empty() => {
                self.waited.insert((span.service, key.peer), span.arrived);
            }
            _ => {}
        }
        self.link(span, key.peer);
        self.shrink();
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

    /// Have several waited since then for one that tells nothing of itself?
    pub fn waited_since(&mut self, since: Time) -> bool {
        self.waited.retain(|_, last| *last >= since);
        let mut asked: BTreeMap<Entity, Entity> = BTreeMap::new();
        self.waited.keys().any(|(caller, address)| {
            let callee = self.meant(*caller, &self.addressed(*address)).entity().clone();
            let caller = self.entity(*caller);
            let first = asked.entry(callee.clone()).or_insert_with(|| caller.clone());
            *first != caller && !self.tells_of(&callee)
        })
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
            let slot = windows.slots.each.remove(&second(bucket)).unwrap();
            windows.rows(second(bucket), &slot)[0].calm
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
