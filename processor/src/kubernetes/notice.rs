//! What others tell of the world beside objects: releases, commits and flags, alerts, a provider's
//! status, units of systemd.

use serde_json::Value;
use tapio_proto::model::{Entity, Severity, Time};

use super::{
    cluster::Cluster,
    fact::{Fact, Happened},
    record::Record,
    redact,
    value::{cut, plain},
};

/// Names of the records that are notices and no application's logs.
pub(super) const NAMES: [&str; 3] = ["alert", "external.status", "systemd.unit.status"];
/// Characters kept of the words of a release: title, files, message, diff.
const MAX_WORDS: usize = 16_000;
/// Characters kept of a notice's text.
const MAX_TEXT: usize = 500;

/// What kind of change a release is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A version of a service is rolled out.
    #[default]
    Deployment,
    /// Code was committed.
    Commit,
    /// A feature flag was turned.
    Flag,
}

/// A deployment, a commit or the turn of a flag, as far as it is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Release {
    /// Number of the change in the `changes` table.
    pub change: i64,
    /// What it is.
    pub kind: Kind,
    /// Namespace of its service; may be empty.
    pub namespace: String,
    /// The service; empty where it is not said.
    pub service: String,
    /// The deployment's name, the commit's title, the flag's key.
    pub name: String,
    /// Its identity: revision, else deployment id, else the flag's key.
    pub id: String,
    /// Id of the deployment.
    pub deployment: String,
    /// Version that it brings; what a flag is turned to.
    pub version: String,
    /// Version before; what the flag was.
    pub before: String,
    /// When this was said.
    pub time: Time,
    /// `started`, `in_progress`, `succeeded`, `rolled_back` ...
    pub status: String,
    /// Files that a commit touches.
    pub files: String,
    /// All of its words: title, message, files, diff.
    pub words: String,
}

impl Release {
    /// What is the same in all steps of one deployment.
    pub(super) fn key(&self) -> &str {
        if self.deployment.is_empty() { &self.id } else { &self.deployment }
    }

    /// Was it taken back by this?
    pub fn is_undoing(&self) -> bool {
        let said = self.status.to_lowercase();
        ["rolled", "revert", "abort", "fail"].iter().any(|word| said.contains(word))
    }
}

/// Somebody is told that something is wrong, or that it is well again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alert {
    /// Name of the rule.
    pub name: String,
    /// Namespace of the service; may be empty.
    pub namespace: String,
    /// The service; empty where it is not said.
    pub service: String,
    /// Since when it is wrong.
    pub time: Time,
    /// It is well again.
    pub resolved: bool,
    /// In words.
    pub text: String,
}

/// What a provider says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provider {
    /// Who.
    pub name: String,
    /// When it said so.
    pub time: Time,
    /// It is not well.
    pub bad: bool,
    /// In words.
    pub text: String,
}

/// Texts of a record, wherever they stand.
struct Said<'a>(&'a Record);

impl Said<'_> {
    fn of(&self, key: &str) -> String {
        self.0.attributes.get(key).map(plain).unwrap_or_default()
    }

    fn resource(&self, key: &str) -> String {
        self.0.resource.get(key).map(plain).unwrap_or_default()
    }

    fn first(&self, keys: &[&str]) -> String {
        let found = keys.iter().map(|key| self.of(key)).chain([self.resource("service.name")]);
        found.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    fn namespace(&self) -> String {
        let both = ["k8s.namespace.name", "service.namespace"].map(|key| self.resource(key));
        both.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// The body, if it is a text; else the texts in it.
    fn body(&self) -> String {
        match &self.0.body {
            Value::String(text) => text.clone(),
            Value::Object(fields) => {
                let texts = fields.values().filter(|value| !value.is_null());
                texts.map(plain).collect::<Vec<_>>().join("; ")
            }
            _ => String::new(),
        }
    }

    fn text(&self) -> String {
        cut(&redact::text(&self.body()), MAX_TEXT)
    }
}

/// Reads a record of a change with this event name.
pub(super) fn release(record: &Record, name: &str, time: Time) -> Release {
    let said = Said(record);
    let of = |key: &str| said.of(key);
    let either =
        |all: [String; 3]| all.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let service = said.first(&["service.name"]);
    let mut release = Release {
        namespace: said.namespace(),
        service,
        time,
        deployment: of("deployment.id"),
        ..Release::default()
    };
    match name {
        "deployment" => {
            release.name = of("deployment.name");
            if release.service.is_empty() {
                release.service = release.name.clone();
            }
            release.version = of("service.version");
            release.id =
                either([of("vcs.ref.head.revision"), of("deployment.id"), release.version.clone()]);
            release.status = of("deployment.status");
            release.words = said.text();
        }
        "vcs.commit" => {
            release.kind = Kind::Commit;
            let inside = |key: &str| record.body.get(key).map(plain).unwrap_or_default();
            release.id = of("vcs.ref.head.revision");
            release.name = either([of("vcs.change.title"), inside("message"), said.body()]);
            release.name = cut(release.name.lines().next().unwrap_or_default(), MAX_TEXT);
            release.files =
                either([of("vcs.change.files"), inside("files_changed"), String::new()]);
            let words = [&*of("vcs.change.title"), &*release.files, &*said.body()].join("\n");
            release.words = cut(&words, MAX_WORDS);
        }
        _ => {
            release.kind = Kind::Flag;
            release.name = of("feature_flag.key");
            release.id = release.name.clone();
            let turn = of("feature_flag.change");
            let (old, new) = turn.split_once("->").unwrap_or(("", &turn));
            (release.before, release.version) = (old.trim().to_owned(), new.trim().to_owned());
            release.words = format!("{} {}", release.name, said.text());
        }
    }
    release
}

impl Cluster {
    /// An alert, a provider's status or a unit's state. False when it is none after all.
    pub(super) fn notice(&mut self, record: &Record, seen: Time, out: &mut Vec<Fact>) -> bool {
        let said = Said(record);
        let time = record.time.unwrap_or(seen);
        match &*record.event_name {
            "alert" => {
                if !record.attributes.keys().any(|key| key.starts_with("alert.")) {
                    return false;
                }
                let state = ["alert.status", "alert.state"].map(|key| said.of(key).to_lowercase());
                let name = said.first(&["alert.name", "alert.rule", "alert.title", "alert.id"]);
                let service = ["alert.service", "alert.service.name", "alert.labels.service"];
                let told = said.first(&["alert.summary", "alert.description", "alert.message"]);
                let text = said.text();
                out.push(Fact::Alert(Alert {
                    service: said.first(&[&service[..], &["service.name"]].concat()),
                    namespace: said.namespace(),
                    resolved: state.iter().any(|s| s.contains("resolved") || s == "ok"),
                    text: if text.is_empty() { cut(&told, MAX_TEXT) } else { text },
                    name,
                    time,
                }));
            }
            "external.status" => {
                let keys = ["external.provider", "external.name", "external.service", "provider"];
                let status = ["external.status", "external.state", "external.indicator", "status"]
                    .map(|key| said.of(key))
                    .join(" ");
                let text = said.text();
                let title = ["external.title", "external.message", "external.summary"]
                    .map(|key| said.of(key))
                    .join(" ");
                out.push(Fact::Provider(Provider {
                    name: said.first(&keys),
                    bad: is_bad(if status.trim().is_empty() { &text } else { &status }),
                    text: cut(format!("{} {text}", title.trim()).trim(), MAX_TEXT),
                    time,
                }));
            }
            _ => {
                let either = |keys: [&str; 3]| {
                    let found = keys.map(|key| [said.of(key), said.resource(key)]);
                    found.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
                };
                let node = either(["k8s.node.name", "host.name", "host.id"]);
                let unit = said.of("systemd.unit");
                if node.is_empty() || unit.is_empty() {
                    return true;
                }
                let state = said.of("systemd.unit.active_state");
                let entity = Entity::new("Node", "", &node);
                let good = matches!(&*state, "active" | "reloading" | "activating");
                let turn = self.units.entry(&format!("{node} {unit}"));
                if std::mem::replace(turn, !good) != good {
                    return true;
                }
                let (what, severity) = match good {
                    true => ("unit.active", Severity::Info),
                    false => ("unit.failed", Severity::Error),
                };
                let message = said.text();
                let reason = format!("{unit} {state}");
                let fact = self.event(Happened {
                    source: "systemd",
                    time,
                    reason: &reason,
                    message: &message,
                    node: &node,
                    ..Happened::new(what, severity, &entity, seen)
                });
                out.push(fact);
            }
        }
        true
    }
}

/// Does a status page say by these words that something is wrong?
fn is_bad(status: &str) -> bool {
    const BAD: [&str; 11] = [
        "outage",
        "degraded",
        "incident",
        "major",
        "minor",
        "critical",
        "down",
        "disruption",
        "investigating",
        "identified",
        "elevated",
    ];
    const GOOD: [&str; 5] = ["resolved", "operational", "all systems", "completed", "scheduled"];
    let status = status.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| status.contains(word));
    says(&BAD) && !says(&GOOD)
}
