//! What both tell about themselves: the families of the metrics' page, their help, type and labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Group, Ports, Twin, pair};
use crate::e2e::{
    client::{self, Grpc},
    program::block_on,
    runner::Skipped,
    wire::{Signal, record, request},
};

/// Metrics that the Collector makes when they first count something, and Tapio at its start, so that an
/// alert has a zero to compare with.
const BEFORE_THE_FIRST: &[&str] = &[
    "otelcol_exporter_enqueue_failed_",
    "otelcol_exporter_send_failed_",
    "otelcol_processor_batch_batch_size_trigger_send",
    "otelcol_processor_refused_",
];

/// The family and what is told of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    help: String,
    kind: String,
    /// Sets of label names, one for each way in which its series are labelled.
    labels: BTreeSet<Vec<String>>,
    /// Of a histogram.
    bounds: BTreeSet<String>,
}

type Page = BTreeMap<String, Family>;

fn read(text: &str) -> Page {
    let mut page = Page::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help has a text");
            family = name.to_owned();
            page.entry(family.clone()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a kind");
            page.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').expect("labels end").0;
            let names = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            let names: Vec<_> = names.collect();
            let family = page.entry(family.clone()).or_default();
            let bound = names.iter().find(|(name, _)| *name == "le");
            family.bounds.extend(bound.map(|(_, bound)| bound.trim_end_matches('"').to_owned()));
            let mut names: Vec<_> = names.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.sort();
            family.labels.insert(names);
        }
    }
    page
}

fn fan_out(ports: &Ports, (level, without): (&str, bool)) -> Value {
    let at = format!("127.0.0.1:{}", ports.backend);
    let pipeline = json!({
        "receivers": ["otlp"], "processors": ["memory_limiter", "resource", "batch"],
        "exporters": ["otlp_grpc", "otlp_http", "otlp_grpc/dead", "otlp_http/dead", "debug"],
    });
    json!({
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": format!("127.0.0.1:{}", ports.grpc)},
            "http": {"endpoint": format!("127.0.0.1:{}", ports.http)},
        }}},
        "processors": {
            "batch": {"timeout": "20ms"},
            "memory_limiter": {"check_interval": "1s", "limit_mib": 2000},
            "resource": {"attributes": [{"key": "a", "value": "b", "action": "insert"}]},
        },
        "exporters": {
            "otlp_grpc": {"endpoint": at, "tls": {"insecure": true}},
            "otlp_http": {"endpoint": format!("http://{at}")},
            "otlp_grpc/dead": {
                "endpoint": "127.0.0.1:9", "tls": {"insecure": true}, "retry_on_failure": {"enabled": false},
            },
            "otlp_http/dead": {
                "endpoint": "http://127.0.0.1:9", "retry_on_failure": {"enabled": false},
            },
            "debug": {},
        },
        "service": {
            "telemetry": {"metrics": {"level": level, "readers": [{"pull": {"exporter": {"prometheus": {
                "host": "127.0.0.1", "port": ports.metrics, "without_scope_info": without,
                "without_type_suffix": without, "without_units": without,
            }}}}]}},
            "pipelines": {"traces": pipeline, "metrics": pipeline, "logs": pipeline},
        },
    })
}

impl Twin {
    /// The same load for both: every signal over both transports, and one request that nobody can read.
    async fn load(&self) {
        let mut grpc = Grpc::connect(self.ports.grpc).await.expect("it listens");
        for signal in Signal::ALL {
            let body = || request((0..20).map(|number| record(signal, number)));
            let reply = grpc.export(signal, body()).await.expect("it answers");
            assert_eq!(reply.code, 0, "{}: {}", self.name, reply.message);
            let reply = client::post(self.ports.http, signal, body()).await.expect("it answers");
            assert_eq!(reply.status, 200, "{}", self.name);
        }
        let json = [("content-type", "application/json")];
        let reply = client::http("POST", self.ports.http, "/v1/traces", &json, "{bad".into()).await;
        assert_eq!(reply.expect("it answers").status, 400);
        let reply = client::http("PUT", self.ports.http, "/nowhere", &[], "x".into()).await;
        assert_eq!(reply.expect("it answers").status, 404);
    }

    /// The page, once each exporter has counted each signal, as sent or as failed.
    async fn page(&self) -> Page {
        for _ in 0..500 {
            let reply =
                client::http("GET", self.ports.metrics, "/metrics", &[], Bytes::new()).await;
            let text = String::from_utf8_lossy(&reply.expect("the page answers").body).into_owned();
            let counts = |name: &str, exporter: &str| {
                let of = format!("exporter=\"{exporter}\"");
                text.lines().any(|line| {
                    line.starts_with(name) && line.contains(&of) && !line.ends_with(" 0")
                })
            };
            let items = ["spans", "metric_points", "log_records"];
            let counted = |what: &str, exporter: &str| {
                items
                    .iter()
                    .all(|item| counts(&format!("otelcol_exporter_{what}_{item}"), exporter))
            };
            if ["otlp_grpc", "otlp_http"].iter().all(|exporter| {
                counted("sent", exporter) && counted("send_failed", &format!("{exporter}/dead"))
            }) {
                return read(&text);
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not count what was sent:\n{}", self.name, self.program.tail())
    }
}

/// Guarantees: at every level and in both styles each family of a Collector's page is on Tapio's with
/// the same help, type and labels, and there is none that is neither the Collector's nor Tapio's own.
pub(crate) fn metrics() -> Result<(), Skipped> {
    block_on(async {
        let mut group = Group::new();
        for style in [("basic", true), ("normal", true), ("normal", false), ("detailed", true)] {
            let name = format!("{}{}", style.0, if style.1 { "" } else { "_suffixes" });
            let twins =
                pair(&format!("metrics_{name}"), |ports: &Ports| fan_out(ports, style)).await?;
            for twin in &twins {
                twin.load().await;
            }
            let [theirs, ours] = [twins[0].page().await, twins[1].page().await];
            compare(&mut group, &name, &theirs, &ours);
        }
        group.end();
        Ok(())
    })
}

fn compare(group: &mut Group, level: &str, theirs: &Page, ours: &Page) {
    for (family, their) in theirs {
        let our = ours.get(family);
        // What the Collector's series carry must be there; more is no harm.
        let labels = |labels: &BTreeSet<Vec<String>>| match our {
            Some(our) if their.labels.is_subset(&our.labels) => "as the Collector's".to_owned(),
            _ => format!("{labels:?}"),
        };
        let of = |one: Option<&Family>| {
            one.map_or("absent".to_owned(), |one| {
                let labels = labels(&one.labels);
                format!("{} {} {labels} {:?}", one.kind, one.help, one.bounds)
            })
        };
        let name = format!("metrics/{level}/{family}");
        group.case(&name, &[("family", of(Some(their)), of(our))]);
    }
    let early = |name: &str| BEFORE_THE_FIRST.iter().any(|start| name.starts_with(start));
    let extra = ours.keys().filter(|name| {
        !theirs.contains_key(*name)
            && !name.starts_with("tapio_")
            && !name.contains("profile_samples")
            && !early(name)
    });
    let extra: Vec<_> = extra.cloned().collect();
    let name = format!("metrics/{level}/families_beside_them");
    group.case(&name, &[("names", String::new(), extra.join(" "))]);
}
