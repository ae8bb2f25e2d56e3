//! The reduced tables that the queries in `queries/` read: small, replaced whole, and open to
//! anybody who asks in SQL.

use std::sync::Arc;

use tapio_proto::model::{Time, table};

use super::weights::weights;

table! { "windows" =>
    /// What one operation of one service did in one window of [`crate::streaming::WINDOW`].
    #[derive(Clone, Debug)]
    pub struct Window {
        /// Start of the window.
        pub bucket: Time,
        /// Kubernetes namespace or `service.namespace`; may be empty.
        pub namespace: Arc<str>,
        /// `service.name`.
        pub service: Arc<str>,
        /// Span name.
        pub operation: Arc<str>,
        /// `server`, `client`, `producer`, `consumer` or `internal`.
        pub kind: &'static str,
        /// Namespace of the peer; empty for a host outside.
        pub peer_namespace: Arc<str>,
        /// The service or host that a client span called, by its name here; else empty.
        pub peer: Arc<str>,
        /// Spans that ended in the window.
        pub count: i64,
        /// Of them, how many failed.
        pub errors: i64,
        /// How many were looked at to know so: all but in a flood.
        pub looked: i64,
        /// Of those, how many failed.
        pub looked_errors: i64,
        /// Median duration, ms.
        pub p50_ms: f64,
        /// 99th percentile of the duration, ms.
        pub p99_ms: f64,
        /// Sum of the durations, ms.
        pub sum_ms: f64,
        /// Start of the first span that failed; null when none did.
        pub first_error: Option<Time>,
        /// The engine's time when the newest of the spans came in.
        pub arrived: Time,
        /// The same of those that failed; null when none did.
        pub failed: Option<Time>,
        /// False while the service is known to be sick: such windows are no baseline.
        pub calm: bool,
    }
}

table! { "answers" =>
    /// What all operations of one service did in one window: as it says itself, or as its callers do.
    #[derive(Clone, Debug)]
    pub struct Answer {
        /// Start of the window.
        pub bucket: Time,
        /// `error_ratio`: its own spans; `call_errors`: those of its callers.
        pub kind: String,
        /// Namespace of the service; empty for a host outside.
        pub namespace: String,
        /// The service or host.
        pub service: String,
        /// Spans that were looked at.
        pub count: i64,
        /// Of them, how many failed.
        pub errors: i64,
        /// Start of the first span that failed; null when none did.
        pub first_error: Option<Time>,
        /// The engine's time when the newest of those that failed came in; null when none did.
        pub failed: Option<Time>,
        /// False while anybody concerned is known to be sick: such windows are no baseline.
        pub calm: bool,
    }
}

table! { "sums" =>
    /// What the requests of one service came to over a time that ends with a window to which failures came
    /// lately, and in the calm windows before that time.
    #[derive(Clone, Debug)]
    pub struct Sum {
        /// Start of the window.
        pub bucket: Time,
        /// As in `answers`.
        pub kind: String,
        /// Namespace of the service; empty for a host outside.
        pub namespace: String,
        /// The service or host.
        pub service: String,
        /// The engine's time when the newest of those that failed came in.
        pub failed: Time,
        /// The time that is summed up, s: 5, 15, 60 and 300.
        pub span_s: i64,
        /// Spans that were looked at.
        pub count: i64,
        /// Of them, how many failed.
        pub errors: i64,
        /// Spans of the calm windows before.
        pub past_count: i64,
        /// Of them, how many failed.
        pub past_errors: i64,
        /// The least share that failed in the shorter times that end with this window: what fades is less.
        pub still: f64,
    }
}

table! { "levels" =>
    /// A resource of one container at one moment, against its limit.
    #[derive(Clone, Debug)]
    pub struct Level {
        /// When it was measured.
        pub time: Time,
        /// Kind of the workload.
        pub workload_kind: String,
        /// Namespace.
        pub namespace: String,
        /// Name of the workload.
        pub workload_name: String,
        /// Pod.
        pub pod: String,
        /// Container.
        pub container: String,
        /// `memory` or `cpu`.
        pub resource: String,
        /// Working set in bytes, or cores.
        pub value: f64,
        /// The container's limit in the same unit; null when it has none or it is not known.
        pub ceiling: Option<f64>,
    }
}

table! { "reach" =>
    /// An object that can break a workload that is under suspicion now, and how.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Reach {
        /// Kind of the object.
        pub cause_kind: String,
        /// Its namespace.
        pub cause_namespace: String,
        /// Its name.
        pub cause_name: String,
        /// `self`, `calls`, `resolves`, or a relation of the `topology` table.
        pub relation: String,
        /// Kind of the workload.
        pub workload_kind: String,
        /// Its namespace.
        pub workload_namespace: String,
        /// Its name.
        pub workload_name: String,
        /// The service that stands in front of it.
        pub service: String,
    }
}

table! { "fronts" =>
    /// A service that a workload under suspicion runs as.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Front {
        /// Kind of the workload.
        pub workload_kind: String,
        /// Its namespace, and that of the service.
        pub workload_namespace: String,
        /// Its name.
        pub workload_name: String,
        /// The service's name.
        pub service: String,
    }
}

table! { "states" =>
    /// A bad state of an object that holds now.
    #[derive(Clone, Debug)]
    pub struct State {
        /// The type of the event that began it.
        pub kind: String,
        /// Kind of the object.
        pub entity_kind: String,
        /// Its namespace.
        pub entity_namespace: String,
        /// Its name.
        pub entity_name: String,
        /// Kind of the workload that it belongs to; may be empty.
        pub workload_kind: String,
        /// Name of the workload.
        pub workload_name: String,
        /// Since when.
        pub onset: Time,
        /// When it was last told.
        pub last: Time,
        /// How often it was told.
        pub times: i64,
        /// The machine's word, at last.
        pub reason: String,
        /// The machine's sentence, at last.
        pub message: String,
    }
}

table! { "patterns" =>
    /// What a pattern asks of the cause. Texts are regular expressions; an empty one matches all.
    #[derive(Clone, Debug)]
    pub struct PatternRow {
        /// The pattern's name.
        pub pattern: String,
        /// `change`, `state`, `none` or `measured`.
        pub source: String,
        /// Verb of the change, or type of the state.
        pub verb: String,
        /// Kind of the guilty object.
        pub kind: String,
        /// The field that was changed, or the reason and message of the state.
        pub path: String,
        /// What the changed value must have become: `less`, `more`, or empty for whatever.
        pub becomes: String,
        /// How the object bears on the workload.
        pub relation: String,
        /// The longest time from the cause to the first effect, seconds.
        pub within_s: f64,
        /// Confidence before evidence, 0 to 1.
        pub prior: f64,
        /// Was each effect that it requires told lately? Without that it cannot match.
        pub likely: bool,
    }
}

table! { "pattern_needs" =>
    /// One effect that a pattern asks for, or forbids.
    #[derive(Clone, Debug)]
    pub struct NeedRow {
        /// The pattern's name.
        pub pattern: String,
        /// What is to be seen, in words.
        pub need: String,
        /// Type of the event, or kind of the symptom.
        pub kind: String,
        /// The machine's word.
        pub reason: String,
        /// The machine's sentence.
        pub text: String,
        /// Without it the pattern does not match.
        pub required: bool,
        /// With it the pattern does not match.
        pub forbidden: bool,
        /// Share in the evidence.
        pub weight: f64,
    }
}

table! { "params" =>
    /// The one row that carries a run's parameters into the kept plans.
    #[derive(Clone, Debug)]
    pub struct Params {
        /// The event time of this run.
        pub now: Time,
        /// Changes and events before this are not looked at.
        pub lookback: Time,
        /// Windows to which something came at or after this are judged, however old they are.
        pub recent: Time,
        /// Standard errors that a ratio must be above chance.
        pub z: f64,
        /// Items that a past must hold before it can be a baseline.
        pub least: i64,
        /// `patterns.evidence` of `weights.yaml`.
        pub w_evidence: f64,
        /// `patterns.nearness`.
        pub w_nearness: f64,
        /// `patterns.rival`.
        pub w_rival: f64,
        /// `patterns.rival_unchanged`.
        pub w_rival_unchanged: f64,
        /// `patterns.acted_unchanged`.
        pub w_acted_unchanged: f64,
        /// `patterns.direction`.
        pub w_direction: f64,
        /// `patterns.most`.
        pub w_most: f64,
        /// `bare.lasting`.
        pub w_bare_lasting: f64,
        /// `bare.young`.
        pub w_bare_young: f64,
        /// `bare.dies`.
        pub w_bare_dies: f64,
        /// `bare.nearness`.
        pub w_bare_nearness: f64,
        /// `bare.rival`.
        pub w_bare_rival: f64,
        /// `bare.rival_unchanged`.
        pub w_bare_rival_unchanged: f64,
        /// `bare.passed_on`.
        pub w_bare_passed_on: f64,
        /// `bare.most`.
        pub w_bare_most: f64,
    }
}

impl Params {
    /// Those of a run at `now`, with the weights of `weights.yaml`.
    pub fn new(now: Time, lookback: Time, recent: Time, (z, least): (f64, i64)) -> Self {
        let (patterns, bare) = (&weights().patterns, &weights().bare);
        Params {
            now,
            lookback,
            recent,
            z,
            least,
            w_evidence: patterns.evidence,
            w_nearness: patterns.nearness,
            w_rival: patterns.rival,
            w_rival_unchanged: patterns.rival_unchanged,
            w_acted_unchanged: patterns.acted_unchanged,
            w_direction: patterns.direction,
            w_most: patterns.most,
            w_bare_lasting: bare.lasting,
            w_bare_young: bare.young,
            w_bare_dies: bare.dies,
            w_bare_nearness: bare.nearness,
            w_bare_rival: bare.rival,
            w_bare_rival_unchanged: bare.rival_unchanged,
            w_bare_passed_on: bare.passed_on,
            w_bare_most: bare.most,
        }
    }
}
