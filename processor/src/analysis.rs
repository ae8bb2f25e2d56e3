//! The live side: a tee that never blocks the hop, the engine on a thread of its own, and what it
//! tells, back onto the passing telemetry and out beside it.

use std::{
    num::NonZero,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use tapio_proto::{Next, Request, Signal, model::Time};
use tokio::sync::{broadcast, mpsc as tokio_mpsc};

use crate::{
    Engine, Patterns, Telling,
    correlation::{CorrelationError, breaker::Isolated},
    enrich::{Enricher, Marks},
    history::History,
    kubernetes::Directory,
    pressure::{Pressure, Resolution},
    store::Store,
    story::{Importance, otlp},
    validator::Reason,
};

/// Requests that may wait for the engine, whatever their size.
const QUEUE: usize = 4096;
/// Tellings that may wait to be sent.
const TELLINGS: usize = 256;
/// Silence after which the engine's clock goes on by itself.
const SILENCE: Duration = Duration::from_millis(500);
/// What comes in small pieces is taken in together: with nothing left to do the engine's thread sleeps for
/// so long before it waits, and who passes telemetry on need not wake it each time.
const REST: Duration = Duration::from_millis(20);
/// Tries to hand a story to the pipeline, one second apart.
const TRIES: u32 = 5;

/// What the analysis may use.
#[derive(Clone, Debug)]
pub struct AnalysisConfig {
    /// Bytes of the store's ring tables together.
    pub store_bytes: usize,
    /// Bytes of requests that wait for the engine; what comes on top is not analysed, only counted.
    pub tee_bytes: usize,
    /// Longest pass of the correlation; one that takes longer is cut and made again on a smaller window.
    pub pass_budget: Duration,
    /// Items taken in before what they changed is shown: marks, figures, pods. It waits for none.
    pub batch_items: usize,
    /// Events, and rows of changes, that causes are looked for in; over it the oldest go.
    pub buffer_events: usize,
    /// Queries of one pass that may run at once.
    pub workers: usize,
    /// Below this confidence a story is told as a hypothesis.
    pub threshold: f64,
    /// What services promise, and what they are worth.
    pub importance: Importance,
    /// Where incidents that are over are remembered; without it only until the process ends.
    pub history: Option<PathBuf>,
}

impl Default for AnalysisConfig {
    fn default() -> Self {
        AnalysisConfig {
            store_bytes: 192 << 20,
            tee_bytes: 64 << 20,
            pass_budget: Duration::from_secs(5),
            batch_items: 100,
            buffer_events: 65_536,
            workers: 8,
            threshold: 0.7,
            importance: Importance::default(),
            history: None,
        }
    }
}

/// Figures of the analysis, since the start.
#[derive(Debug, Default)]
pub struct AnalysisStats {
    /// Requests that the engine took in.
    pub analysed: AtomicU64,
    /// Items of requests that were not analysed because the engine was behind.
    pub dropped_items: AtomicU64,
    /// Spans and log records that were not looked at in a flood, and that others stand for.
    pub sampled_items: AtomicU64,
    /// Items that the engine could make nothing of, by [`Reason`].
    pub quarantined_items: [AtomicU64; Reason::ALL.len()],
    /// Bytes that wait for the engine now.
    pub waiting_bytes: AtomicUsize,
    /// Passes of the queries.
    pub passes: AtomicU64,
    /// How long they took together, in microseconds.
    pub passes_us: AtomicU64,
    /// Passes of the queries that failed.
    pub failed_passes: AtomicU64,
    /// Passes that took longer than they may, and were made again on a smaller window.
    pub cut_passes: AtomicU64,
    /// How much of the past passes look at now, in seconds.
    pub lookback_seconds: AtomicU64,
    /// Resources whose spans or log records were marked with a story.
    pub marked_resources: AtomicU64,
    /// Stories opened.
    pub stories_opened: AtomicU64,
    /// Stories that are open now.
    pub stories_open: AtomicUsize,
    /// Tellings that could not be handed to a pipeline.
    pub tellings_lost: AtomicU64,
}

/// One analysis for the whole program; every pipeline's `tapio` processor feeds it.
pub struct Analysis {
    tee: mpsc::SyncSender<(Request, u32)>,
    tee_bytes: usize,
    sampling: Mutex<Sampling>,
    store: Arc<Store>,
    marks: Arc<RwLock<Arc<Marks>>>,
    stats: Arc<AnalysisStats>,
    pressure: Arc<Pressure>,
    told: broadcast::Sender<Arc<Telling>>,
    outlets: Arc<Mutex<Vec<(Signal, Next)>>>,
    directory: Fed,
    isolated: Arc<Mutex<Vec<Isolated>>>,
    notice: Notice,
}

/// Is told kind and name of what is left out for the first time.
type Notice = Arc<Mutex<Option<Box<dyn Fn(&'static str, &str) + Send>>>>;

/// The directory that the engine's cluster is shown in, if there is one.
type Fed = Arc<Mutex<Option<Arc<Directory>>>>;

impl Analysis {
    /// Starts the engine's thread, and the task that sends its stories on the current runtime. Under
    /// `pressure` it looks less closely, in steps, and its store holds half of what it did.
    ///
    /// Of the machine's cores one is left to the hop, however many workers there may be.
    pub fn start(
        mut config: AnalysisConfig,
        patterns: Arc<Patterns>,
        pressure: Arc<Pressure>,
    ) -> Result<Arc<Self>, CorrelationError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        config.workers = config.workers.min(cores.saturating_sub(1)).max(1);
        let store = Engine::store(config.store_bytes)?;
        patterns.publish(&store)?;
        let (tee, inbox) = mpsc::sync_channel(QUEUE);
        let (tee_bytes, budget) = (config.tee_bytes, config.pass_budget);
        let (out, tellings) = tokio_mpsc::channel(TELLINGS);
        let analysis = Arc::new(Analysis {
            tee,
            tee_bytes,
            sampling: Mutex::default(),
            store,
            marks: Arc::default(),
            stats: Arc::default(),
            pressure,
            told: broadcast::channel(TELLINGS).0,
            outlets: Arc::default(),
            directory: Arc::default(),
            isolated: Arc::default(),
            notice: Arc::default(),
        });
        let worker = Worker {
            config,
            store: analysis.store.clone(),
            pressure: analysis.pressure.clone(),
            pressed: analysis.pressure.times(),
            inbox,
            out,
            marks: analysis.marks.clone(),
            stats: analysis.stats.clone(),
            told: analysis.told.clone(),
            directory: analysis.directory.clone(),
            resolution: Resolution::Full,
            isolated: analysis.isolated.clone(),
            notice: analysis.notice.clone(),
        };
        thread::Builder::new()
            .name("tapio-engine".to_owned())
            .spawn(move || worker.start(patterns, budget))
            .map_err(|e| {
                CorrelationError::Query(crate::store::QueryError {
                    query: "engine".to_owned(),
                    message: format!("no thread: {e}"),
                })
            })?;
        tokio::spawn(send(tellings, analysis.outlets.clone(), analysis.stats.clone()));
        Ok(analysis)
    }

    /// The `tapio` processor of one pipeline: passes everything on to `next`, marked where a story is
    /// open, and sends stories out by it.
    pub fn processor(self: &Arc<Self>, signal: Signal, next: Next) -> Next {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner).push((signal, next.clone()));
        Arc::new(Enricher::new(self.clone(), next))
    }

    /// Forgets the pipelines that stories were sent by: they are about to be exchanged.
    pub fn detach(&self) {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Shows the pods that the engine knows in `directory` from now on.
    pub fn feed(&self, directory: &Arc<Directory>) {
        directory.promise();
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
    }

    /// Gives the engine a look at a request. Never waits: of spans that are more than it can look at some
    /// stand for the others; what else it has no room for is counted.
    pub fn tee(&self, request: &Request) {
        let size = request.bytes.len();
        let resolution = self.pressure.resolution();
        if resolution == Resolution::Paused {
            self.stats.dropped_items.fetch_add(request.items as u64, Ordering::Relaxed);
            return;
        }
        let waiting = self.stats.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let weight = match request.signal {
            Signal::Traces => {
                let mut sampling = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
                // Where memory is short they are as many as where the room is nearly full.
                let room = self.tee_bytes;
                let taken = if resolution == Resolution::Full { 0 } else { room / 8 * 6 };
                sampling.weight(request.items, waiting.max(taken), room)
            }
            // Objects, changes and points are news each by itself.
            _ => Some(1),
        };
        let Some(weight) = weight else {
            self.stats.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.stats.sampled_items.fetch_add(request.items as u64, Ordering::Relaxed);
            return;
        };
        let full = waiting + size > self.tee_bytes;
        if full || self.tee.try_send((request.clone(), weight)).is_err() {
            self.stats.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.stats.dropped_items.fetch_add(request.items as u64, Ordering::Relaxed);
        }
    }

    /// What passing telemetry is to be marked with now.
    pub fn marks(&self) -> Arc<Marks> {
        self.marks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tables.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Figures for the program's own metrics.
    pub fn stats(&self) -> &AnalysisStats {
        &self.stats
    }

    /// Queries and patterns that fail, and are left out.
    pub fn isolated(&self) -> Vec<Isolated> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `notice` with kind and name of what is left out for the first time.
    pub fn on_isolated(&self, notice: impl Fn(&'static str, &str) + Send + 'static) {
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(notice));
    }

    /// How closely telemetry is looked at now.
    pub fn resolution(&self) -> Resolution {
        self.pressure.resolution()
    }

    /// Stories as they are told; a reader that falls far behind misses some.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Telling>> {
        self.told.subscribe()
    }
}

/// Which requests of spans are looked at when not all can be.
#[derive(Debug, Default)]
struct Sampling {
    /// Requests since the last that was looked at, and spans that nobody stands for yet.
    passed: u32,
    spans: usize,
}

impl Sampling {
    /// How many each span of this request stands for; none if it is not to be looked at. Up to half of
    /// the room all are, then every second, fourth, eighth. What does not divide goes to the next.
    fn weight(&mut self, items: usize, waiting: usize, room: usize) -> Option<u32> {
        let every = match waiting.saturating_mul(8) / room.max(1) {
            0..4 => 1,
            4 => 2,
            5 => 4,
            6 => 8,
            _ => 16,
        };
        self.spans = self.spans.saturating_add(items);
        self.passed += 1;
        if self.passed < every || items == 0 {
            return None;
        }
        let weight = self.spans / items;
        self.spans -= weight * items;
        self.passed = 0;
        Some(u32::try_from(weight).unwrap_or(u32::MAX))
    }
}

struct Worker {
    config: AnalysisConfig,
    store: Arc<Store>,
    pressure: Arc<Pressure>,
    /// How often pressure had begun at the last look.
    pressed: u64,
    inbox: mpsc::Receiver<(Request, u32)>,
    out: tokio_mpsc::Sender<Arc<Telling>>,
    marks: Arc<RwLock<Arc<Marks>>>,
    stats: Arc<AnalysisStats>,
    told: broadcast::Sender<Arc<Telling>>,
    directory: Fed,
    resolution: Resolution,
    isolated: Arc<Mutex<Vec<Isolated>>>,
    notice: Notice,
}

impl Worker {
    /// Makes an engine when there is something to look at, for its plans take 15 MiB, and runs it.
    fn start(self, patterns: Arc<Patterns>, budget: Duration) {
        let Ok(first) = self.inbox.recv() else { return };
        match Engine::new(self.store.clone(), patterns)
            .map(|engine| engine.configured(&self.config))
        {
            Ok(engine) => self.run(engine.with_pass_budget(budget), first),
            // The queries are the program's own: this is a fault of it, and no reason to lose telemetry.
            Err(error) => tracing::error!(%error, "no analysis; telemetry flows on"),
        }
    }

    fn run(mut self, mut engine: Engine, first: (Request, u32)) {
        let path = self.config.history.take();
        let mut history = path.map(|path| History::open(path, &mut engine.stories));
        let mut first = Some(first);
        let mut heard = Instant::now();
        let mut clock = Time::default();
        loop {
            self.give_way(&mut engine);
            let tellings = match first.take().map_or_else(|| self.next(), Ok) {
                Ok(first) => {
                    let tellings = self.batch(&mut engine, first);
                    (heard, clock) = (Instant::now(), engine.clock());
                    tellings
                }
                // Nothing comes: event time goes on as fast as the wall's, from where it stood.
                Err(RecvTimeoutError::Timeout) if clock != Time::default() => {
                    engine.advance(clock + heard.elapsed())
                }
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(directory) = &*self.directory.lock().unwrap_or_else(PoisonError::into_inner)
            {
                directory.refresh(&engine.cluster, engine.clock());
            }
            let sampled = std::mem::take(&mut engine.sampled);
            self.stats.sampled_items.fetch_add(sampled, Ordering::Relaxed);
            let (passes, took) = engine.made();
            self.stats.passes.store(passes, Ordering::Relaxed);
            self.stats.passes_us.store(took.as_micros() as u64, Ordering::Relaxed);
            let (cuts, lookback) = engine.cuts();
            self.stats.cut_passes.store(cuts, Ordering::Relaxed);
            self.stats.lookback_seconds.store(lookback.as_secs(), Ordering::Relaxed);
            let quarantined = engine.columns.quarantine.take_counts();
            for (all, new) in self.stats.quarantined_items.iter().zip(quarantined) {
                all.fetch_add(new, Ordering::Relaxed);
            }
            self.stats.failed_passes.store(engine.failures.0, Ordering::Relaxed);
            self.isolate(&engine);
            if let Some(error) = engine.failures.1.take() {
                tracing::warn!(error, "a correlation pass failed; telemetry flows on");
            }
            self.tell(&engine, tellings);
            if let Some(history) = &mut history {
                history.keep(&mut engine.stories);
            }
        }
    }

    /// The next request, or that none came for long.
    fn next(&self) -> Result<(Request, u32), RecvTimeoutError> {
        match self.inbox.try_recv() {
            Ok(next) => Ok(next),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {
                thread::sleep(REST);
                self.inbox.recv_timeout(SILENCE)
            }
        }
    }

    /// Takes in a request, and of those that wait behind it as many as make a batch.
    fn batch(&self, engine: &mut Engine, first: (Request, u32)) -> Vec<Telling> {
        let (mut tellings, mut items, mut next) = (Vec::new(), 0, Some(first));
        while let Some((request, weight)) = next {
            self.stats.waiting_bytes.fetch_sub(request.bytes.len(), Ordering::Relaxed);
            tellings.extend(engine.ingest_sample(&request, weight));
            self.stats.analysed.fetch_add(1, Ordering::Relaxed);
            items += request.items.max(1);
            let more = items < self.config.batch_items;
            next = if more { self.inbox.try_recv().ok() } else { None };
        }
        tellings
    }

    fn give_way(&mut self, engine: &mut Engine) {
        let times = self.pressure.times();
        if std::mem::replace(&mut self.pressed, times) != times {
            self.store.shrink();
            tracing::warn!(
                "Memory is short: the tables of the analysis hold half of what they did."
            );
        }
        let resolution = self.pressure.resolution();
        let before = std::mem::replace(&mut self.resolution, resolution);
        if before != resolution {
            engine.resolve(resolution);
            let (from, to) = (before.name(), resolution.name());
            tracing::warn!(from, to, "The analysis looks at telemetry in another resolution");
        }
    }

    /// Tells what is left out because it fails, when that changes.
    fn isolate(&self, engine: &Engine) {
        let isolated = engine.isolated();
        let mut shown = self.isolated.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown == isolated {
            return;
        }
        for new in isolated.iter().filter(|new| shown.iter().all(|old| old.name != new.name)) {
            let (part, name, error) = (new.part.name(), &new.name, &new.error);
            tracing::warn!(
                part,
                name,
                error,
                "It fails and is left out; the analysis goes on without it"
            );
            if let Some(notice) = &*self.notice.lock().unwrap_or_else(PoisonError::into_inner) {
                notice(part, name);
            }
        }
        *shown = isolated;
    }

    fn tell(&self, engine: &Engine, tellings: Vec<Telling>) {
        if tellings.is_empty() {
            return;
        }
        let marks = Arc::new(Marks::of(engine.stories().open(), engine.identity.told()));
        self.stats.stories_open.store(engine.stories().open().count(), Ordering::Relaxed);
        *self.marks.write().unwrap_or_else(PoisonError::into_inner) = marks;
        for telling in tellings {
            if matches!(telling, Telling::Opened(..)) {
                self.stats.stories_opened.fetch_add(1, Ordering::Relaxed);
            }
            let telling = Arc::new(telling);
            // Nobody may be watching; that is no failure.
            let _ = self.told.send(telling.clone());
            if self.out.try_send(telling).is_err() {
                self.stats.tellings_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sends each story down the pipelines that have a `tapio` processor: traces and logs each their own.
async fn send(
    mut tellings: tokio_mpsc::Receiver<Arc<Telling>>,
    outlets: Arc<Mutex<Vec<(Signal, Next)>>>,
    stats: Arc<AnalysisStats>,
) {
    let mut sent = otlp::Sent::default();
    while let Some(telling) = tellings.recv().await {
        let requests = sent.requests(&telling);
        let outlets = outlets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for request in requests {
            for (_, next) in outlets.iter().filter(|(signal, _)| *signal == request.signal) {
                if !hand_over(next, &request).await {
                    stats.tellings_lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

async fn hand_over(next: &Next, request: &Request) -> bool {
    for attempt in 1..=TRIES {
        match next.consume(request.clone()).await {
            Ok(_) => return true,
            Err(status) if attempt == TRIES || !status.is_retryable() => {
                tracing::warn!(error = %status, signal = request.signal.name(), "a story could not be sent");
                return false;
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn spans_that_are_looked_at_stand_for_all_of_them() {
        let (mut sampling, mut stood_for, mut looked_at) = (Sampling::default(), 0, 0);
        let sizes = [512, 3, 100, 700, 1, 64];
        let mut sent = 0;
        for (n, items) in sizes.iter().cycle().take(6_000).enumerate() {
            sent += items;
            // The room fills up, is nearly full for a while, and is free again.
            let waiting = [0, 55, 70, 80, 95, 60, 10][n * 7 / 6_000];
            if let Some(weight) = sampling.weight(*items, waiting, 100) {
                stood_for += items * weight as usize;
                looked_at += 1;
            }
        }
        assert_eq!(stood_for + sampling.spans, sent);
        assert!(sampling.spans < 700, "{} are still to be stood for", sampling.spans);
        assert!((1_700..4_000).contains(&looked_at), "{looked_at}");
        assert_eq!(sampling.weight(0, 0, 100), None, "nothing to look at");
    }

    #[test]
    fn a_batch_is_as_many_items_as_asked_for_and_waits_for_none() {
        let store = Engine::store(1 << 20).unwrap();
        let patterns = Arc::new(Patterns::builtin().unwrap());
        let mut engine = Engine::new(store.clone(), patterns).unwrap();
        let (tee, inbox) = mpsc::sync_channel(QUEUE);
        let worker = Worker {
            config: AnalysisConfig { batch_items: 100, ..AnalysisConfig::default() },
            store,
            pressure: Arc::default(),
            pressed: 0,
            inbox,
            out: tokio_mpsc::channel(1).0,
            marks: Arc::default(),
            stats: Arc::default(),
            told: broadcast::channel(1).0,
            directory: Arc::default(),
            resolution: Resolution::Full,
            isolated: Arc::default(),
            notice: Arc::default(),
        };
        let request = || (Request::new(Signal::Logs, bytes::Bytes::new(), 30), 1);
        (0..5).for_each(|_| tee.send(request()).unwrap());
        let mut analysed = || {
            let first = worker.inbox.try_recv().unwrap();
            worker.batch(&mut engine, first);
            worker.stats.analysed.load(Ordering::Relaxed)
        };
        assert_eq!((analysed(), analysed()), (4, 5));
    }
}
