//! Recordings through an engine, and what it leaves behind.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, LazyLock},
};

use arrow::array::{Array, FixedSizeBinaryArray, StringArray};
use tapio_processor::{AnalysisConfig, Engine, Patterns, Telling, replay::Recording, store::Store};
use tapio_proto::{
    Request, check,
    model::{Evidence, Story},
    wire::Fields,
};

/// The incident, played once for all tests that only read what it left.
pub(crate) static INCIDENT: LazyLock<Played> = LazyLock::new(|| whole("pool-oom"));

/// An engine that has taken everything in.
pub(crate) struct Played {
    store: Arc<Store>,
    pub(crate) tellings: Vec<Telling>,
    pub(crate) stories: Vec<(Story, Vec<Evidence>)>,
}

impl Played {
    pub(crate) fn rows(&self, table: &str) -> usize {
        usize::try_from(self.store.table(table).unwrap().stats().rows).unwrap()
    }

    /// Callee and caller of every call in the topology.
    pub(crate) fn calls(&self) -> HashSet<(String, String)> {
        let mut calls = HashSet::new();
        for batch in self.store.table("topology").unwrap().snapshot() {
            let column = |name: &str| {
                let column = batch.column_by_name(name).unwrap();
                column.as_any().downcast_ref::<StringArray>().unwrap().clone()
            };
            let (relation, from, to) = (column("relation"), column("from_name"), column("to_name"));
            let all = (0..relation.len()).filter(|at| relation.value(*at) == "calls");
            calls.extend(all.map(|at| (from.value(at).to_owned(), to.value(at).to_owned())));
        }
        calls
    }

    /// Trace and span ids of all spans in the store, in hex.
    pub(crate) fn spans(&self) -> HashSet<(String, String)> {
        let mut spans = HashSet::new();
        for batch in self.store.table("spans").unwrap().snapshot() {
            let column = |name: &str| {
                let column = batch.column_by_name(name).unwrap();
                column.as_any().downcast_ref::<FixedSizeBinaryArray>().unwrap().clone()
            };
            let (traces, ids) = (column("trace_id"), column("span_id"));
            spans.extend((0..traces.len()).map(|at| (hex(traces.value(at)), hex(ids.value(at)))));
        }
        spans
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One of the repository's recordings.
pub(crate) fn recording(name: &str) -> Recording {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
    Recording::open(&[all.join(name)]).unwrap()
}

/// A recording as it is.
pub(crate) fn whole(name: &str) -> Played {
    let mut recording = recording(name);
    let played = play(|| recording.next_request().map(|(_, request)| request));
    assert_eq!(recording.passed(), [], "every line is taken in");
    played
}

/// These requests through an engine of their own, to the end.
pub(crate) fn play(requests: impl FnMut() -> Option<Request>) -> Played {
    play_with(&AnalysisConfig { workers: 1, ..AnalysisConfig::default() }, requests)
}

/// The same with settings of its own.
pub(crate) fn play_with(
    config: &AnalysisConfig,
    mut requests: impl FnMut() -> Option<Request>,
) -> Played {
    let store = Engine::store(256 << 20).unwrap();
    let engine =
        Engine::new(store.clone(), Arc::new(Patterns::builtin().unwrap())).unwrap().unhurried();
    let mut engine = engine.configured(config);
    let mut tellings = Vec::new();
    while let Some(request) = requests() {
        tellings.extend(engine.ingest(&request));
    }
    tellings.extend(engine.finish());
    assert_eq!(engine.failures, (0, None));
    let stories =
        engine.stories().all().into_iter().map(|(s, e)| (s.clone(), e.to_vec())).collect();
    Played { store, tellings, stories }
}

/// Each resource of a request as a request of its own.
pub(crate) fn resources(request: &Request) -> Vec<Request> {
    let fields = Fields::new(&request.bytes).map(Result::unwrap);
    let single = fields.map(|field| {
        let bytes = request.bytes.slice(field.start..field.end);
        let items = check(request.signal, &bytes).unwrap();
        Request::new(request.signal, bytes, items)
    });
    single.collect()
}
