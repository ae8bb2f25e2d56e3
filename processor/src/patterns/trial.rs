//! A pattern's own tests: what happens in a small cluster that was well, and what must be blamed for it.
//! The facts are those that the engine's own readers tell, the judgement is `queries/hypotheses.sql`.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tapio_proto::model::{Change, Entity, Event, Row as _, Severity, Symptom, Time};

use super::{Pattern, Patterns};
use crate::{
    correlation::{
        CorrelationError, Plans,
        hypotheses::{self, Hypothesis},
        rows::{Front, NeedRow, Params, PatternRow, Reach},
        states::States,
        suspects::{self, Graph},
        symptoms::SILENCE,
    },
    kubernetes::{Cluster, Fact, Verb},
    store::Store,
};

/// When a test's time begins; the cluster was well for ten minutes before.
const START: Time = Time(1_800_000_000_000_000_000);
const WELL: Duration = Duration::from_secs(600);
/// How long after its last step a test is judged.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest test.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// What is measured on a service or its workload, and told by no log or object.
pub(super) const MEASURED: [&str; 7] =
    ["error_ratio", "latency", "own_time", "call_errors", "memory_growth", "cpu_at_limit", SILENCE];
/// The same of a pod that takes the processors of its node.
const TAKES: &str = "cpu_taken";
/// Memory of the tables of a test, bytes.
const STORE: usize = 8 << 20;

/// One test of a pattern.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What is tried, in words.
    pub say: String,
    /// The guilty object, `Kind namespace/name`; left out, the pattern must not match.
    #[serde(default)]
    pub blames: String,
    /// Objects that are there beside those of the small cluster.
    #[serde(default)]
    pub given: Vec<Value>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens: exactly one of `set`, `delete`, `waits`, `dies`, `condition`, `event`,
/// `log` and `symptom`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Time from the start: `90s`, `10m`.
    pub at: String,
    /// The object that it happens to: `Kind namespace/name`, `Node name`.
    pub on: String,
    /// Somebody writes this into it, as `kubectl patch` would.
    pub set: Option<Value>,
    /// Somebody deletes it.
    pub delete: bool,
    /// Its container waits, for this reason.
    pub waits: Option<String>,
    /// Its container ends, for this reason.
    pub dies: Option<String>,
    /// A condition of it changes: `Ready=False`.
    pub condition: Option<String>,
    /// A Kubernetes Event of that reason about it.
    pub event: Option<String>,
    /// The other object that the Event is about: `Pod batch/job-1`.
    pub related: Option<String>,
    /// It logs this line, as an error unless `info`.
    pub log: Option<String>,
    /// The line is not an error, the Event is no warning.
    pub info: bool,
    /// A measured symptom: `error_ratio`, `latency`, `own_time`, `call_errors`, `memory_growth`, `cpu_at_limit`; of a pod
    /// `cpu_taken`: its workload takes the processors of the node.
    pub symptom: Option<String>,
    /// The reason of a condition.
    pub reason: String,
    /// The message that comes with it.
    pub text: String,
}

/// A test that could not be run or did not end as it should, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrialError(String);

impl From<CorrelationError> for TrialError {
    fn from(error: CorrelationError) -> Self {
        TrialError(error.to_string())
    }
}

impl From<crate::store::StoreError> for TrialError {
    fn from(error: crate::store::StoreError) -> Self {
        TrialError(error.to_string())
    }
}

impl From<arrow::error::ArrowError> for TrialError {
    fn from(error: arrow::error::ArrowError) -> Self {
        TrialError(error.to_string())
    }
}

/// Where tests are run: one store and one kept plan for all of them.
pub struct Bench {
    store: std::sync::Arc<Store>,
    plans: Plans,
    patterns: Patterns,
    world: Vec<Value>,
}

impl Bench {
    /// A bench on which all these patterns compete.
    pub fn new(patterns: Patterns) -> Result<Self, TrialError> {
        let store = std::sync::Arc::new(crate::engine::scratch(STORE)?);
        let (mut rows, needs) = patterns.rows();
        rows.iter_mut().for_each(|row| row.likely = true);
        store.table(PatternRow::TABLE)?.replace(vec![PatternRow::batch(&rows)?])?;
        store.table(NeedRow::TABLE)?.replace(vec![NeedRow::batch(&needs)?])?;
        let plans = Plans::new(&store)?;
        let world = serde_saphyr::from_str(include_str!("../../patterns/world/world.yaml"))
            .map_err(|error| TrialError(format!("the small cluster: {error}")))?;
        Ok(Bench { store, plans, patterns, world })
    }

    /// Runs one test of a pattern.
    pub fn run(&mut self, pattern: &Pattern, trial: &Trial) -> Result<(), TrialError> {
        let told = self.judge(trial)?;
        let of_it: Vec<_> = told.iter().filter(|h| h.pattern == pattern.id).collect();
        let named = |h: &Hypothesis| match h.pattern.as_str() {
            "" => format!("{} ({:.2}, no pattern)", h.cause, h.confidence),
            id => format!("{} ({:.2}, {id})", h.cause, h.confidence),
        };
        if trial.blames.is_empty() {
            return match of_it.first() {
                None => Ok(()),
                Some(h) => Err(TrialError(format!(
                    "it blames {}, expected no match: narrow 'see' or add what tells it apart to 'unless'",
                    named(h)
                ))),
            };
        }
        let wanted = entity(&trial.blames)?;
        if !of_it.iter().any(|h| h.cause == wanted) {
            let found = told.first().map_or("nothing".to_owned(), named);
            return Err(TrialError(format!(
                "it does not blame {}; the best told is {found}: compare 'cause' and each required effect with the steps",
                trial.blames
            )));
        }
        match told.first() {
            Some(best) if best.cause == wanted && best.pattern == pattern.id => Ok(()),
            Some(best) => Err(TrialError(format!("{} is told instead", named(best)))),
            None => Ok(()),
        }
    }

    /// What is told of a test's steps, best first.
    pub fn judge(&mut self, trial: &Trial) -> Result<Vec<Hypothesis>, TrialError> {
        let scene = self.scene(trial)?;
        if scene.told().next().is_none() {
            return Err(TrialError(
                "its steps tell nothing bad: an object of the small cluster must get worse"
                    .to_owned(),
            ));
        }
        scene.publish(&self.store)?;
        Ok(hypotheses::judge(&mut self.plans)?)
    }

    /// Kind, reason and text of what a test's steps tell.
    #[cfg(test)]
    pub(super) fn facts(&self, trial: &Trial) -> Result<Vec<(String, String, String)>, TrialError> {
        Ok(self.scene(trial)?.told().collect())
    }

    fn scene(&self, trial: &Trial) -> Result<Scene, TrialError> {
        let mut scene = Scene::new(&self.world);
        for object in &trial.given {
            scene.observe(Verb::Listed, object.clone(), START - WELL);
        }
        for (n, step) in trial.steps.iter().enumerate() {
            scene.step(step).map_err(|error| TrialError(format!("step {}: {error}", n + 1)))?;
        }
        Ok(scene)
    }

    /// The patterns that compete.
    pub fn patterns(&self) -> &Patterns {
        &self.patterns
    }
}

/// The small cluster, and what happened in it.
struct Scene {
    cluster: Cluster,
    now: Time,
    changes: Vec<Change>,
    events: Vec<Event>,
    symptoms: Vec<Symptom>,
    states: States,
    sick: BTreeSet<Entity>,
}

impl Scene {
    fn new(world: &[Value]) -> Self {
        let mut scene = Scene {
            cluster: Cluster::default(),
            now: START - WELL,
            changes: Vec::new(),
            events: Vec::new(),
            symptoms: Vec::new(),
            states: States::default(),
            sick: BTreeSet::new(),
        };
        for object in world {
            scene.observe(Verb::Listed, object.clone(), START - WELL);
        }
        scene
    }

    fn observe(&mut self, verb: Verb, mut object: Value, at: Time) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.entry("creationTimestamp").or_insert_with(|| json!(at.to_string()));
        }
        let mut facts = Vec::new();
        self.cluster.observe(verb, object, at, &mut facts);
        self.take(facts);
    }

    fn take(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            match fact {
                Fact::Change(rows) => self.changes.extend(rows),
                Fact::Event(event) => self.happened(event),
                Fact::Gone(entity, _) => self.states.gone(&entity),
                Fact::EdgeBegin(..)
                | Fact::EdgeEnd(..)
                | Fact::Release(_)
                | Fact::Alert(_)
                | Fact::Provider(_) => {}
            }
        }
    }

    fn happened(&mut self, event: Event) {
        if event.severity != "info" && !event.workload_name.is_empty() {
            self.sick.insert(Entity::new(
                &event.workload_kind,
                &event.entity_namespace,
                &event.workload_name,
            ));
        }
        self.states.event(&event);
        self.events.push(event);
    }

    fn step(&mut self, step: &Step) -> Result<(), TrialError> {
        let after =
            super::seconds(&step.at).filter(|s| *s <= LONGEST.as_secs_f64()).ok_or_else(|| {
                TrialError(format!("at {:?}: expected a time such as 0s, 90s or 2h", step.at))
            })?;
        let at = START + Duration::from_secs_f64(after);
        self.now = self.now.max(at);
        let on = entity(&step.on)?;
        let patch = |state: Value| json!({"status": {"containerStatuses": [state]}});
        if let Some(set) = &step.set {
            self.patch(&on, set, at);
        } else if step.delete {
            let object = self.cluster.object(&on).cloned();
            let object = object.ok_or_else(|| {
                TrialError(format!("{} is not there to be deleted: add it to 'given'", step.on))
            })?;
            self.observe(Verb::Deleted, object, at);
        } else if let Some(reason) = &step.waits {
            let waiting = json!({"reason": reason, "message": step.text});
            self.patch(
                &on,
                &patch(json!({"name": "main", "state": {"waiting": waiting, "terminated": null}})),
                at,
            );
        } else if let Some(reason) = &step.dies {
            let code = if reason == "OOMKilled" { 137 } else { 1 };
            let end = json!({"reason": reason, "message": step.text, "exitCode": code, "finishedAt": at.to_string()});
            self.patch(
                &on,
                &patch(json!({"name": "main", "state": {"terminated": end, "waiting": null}})),
                at,
            );
        } else if let Some((kind, status)) = step.condition.as_ref().and_then(|c| c.split_once('='))
        {
            let condition = json!({"type": kind, "status": status, "reason": step.reason,
                "message": step.text, "lastTransitionTime": at.to_string()});
            let mut conditions = self.cluster.object(&on).map_or_else(Vec::new, |object| {
                object["status"]["conditions"].as_array().cloned().unwrap_or_default()
            });
            conditions.retain(|known| known["type"] != *kind);
            conditions.push(condition);
            self.patch(&on, &json!({"status": {"conditions": conditions}}), at);
        } else if let Some(reason) = &step.event {
            let reference = |of: &Entity| json!({"kind": &*of.kind, "namespace": &*of.namespace, "name": &*of.name});
            let related = step.related.as_deref().map(entity).transpose()?;
            self.observe(
                Verb::Added,
                json!({"kind": "Event", "reason": reason, "message": step.text,
                    "related": related.as_ref().map(reference),
                    "type": if step.info { "Normal" } else { "Warning" },
                    "metadata": {"name": format!("e{}", self.events.len()), "namespace": &*on.namespace},
                    "lastTimestamp": at.to_string(),
                    "involvedObject": reference(&on)}),
                at,
            );
        } else if let Some(line) = &step.log {
            let workload = self.workload(&on);
            let severity = if step.info { Severity::Info } else { Severity::Error };
            let what = if step.info { "log.new" } else { "log.error" };
            self.happened(Event {
                id: -(self.events.len() as i64) - 1,
                message: line.clone(),
                ..Event::new(("logs", what), severity, (&on, Some(&workload)), at)
            });
        } else if step.symptom.as_deref() == Some(TAKES) {
            let (node, ..) = self.cluster.place(&on.namespace, &on.name).ok_or_else(|| {
                TrialError(format!("{} is no pod on a node whose cores are known", step.on))
            })?;
            let mut facts = Vec::new();
            let takes = (&self.workload(&on), &node);
            self.cluster.takes_cpu(takes, at, &step.text, at, &mut facts);
            self.take(facts);
        } else if let Some(kind) = &step.symptom {
            if !MEASURED.contains(&kind.as_str()) {
                return Err(TrialError(format!(
                    "symptom {kind:?}: expected one of {}, {TAKES}",
                    MEASURED.join(", ")
                )));
            }
            self.sick.insert(self.workload(&on));
            self.symptoms.push(symptom(kind, &on, at, &step.text));
        } else {
            return Err(TrialError(
                "nothing happens: expected 'set', 'delete', 'waits', 'dies', 'condition', 'event', 'log' or 'symptom'".to_owned(),
            ));
        }
        Ok(())
    }

    /// Kind, reason and text of all that can be an effect.
    fn told(&self) -> impl Iterator<Item = (String, String, String)> {
        let acts = |e: &&Event| {
            e.severity != "info" || matches!(e.r#type.as_str(), "log.new" | "container.started")
        };
        let events = self.events.iter().filter(acts);
        let events = events.map(|e| (e.r#type.clone(), e.reason.clone(), e.message.clone()));
        let symptoms = self.symptoms.iter().flat_map(|s| {
            let callee = (s.entity_kind == "Service").then(|| format!("callee.{}", s.kind));
            let kinds = std::iter::once(s.kind.clone()).chain(callee);
            kinds.map(|kind| (kind, String::new(), s.detail.clone()))
        });
        events.chain(symptoms)
    }

    fn patch(&mut self, on: &Entity, with: &Value, at: Time) {
        let known = self.cluster.object(on).filter(|_| self.cluster.exists(on)).cloned();
        let verb = if known.is_some() { Verb::Modified } else { Verb::Added };
        let mut object = known.unwrap_or_else(|| {
            json!({"kind": &*on.kind, "metadata": {"name": &*on.name, "namespace": &*on.namespace}})
        });
        merge(&mut object, with);
        self.observe(verb, object, at);
    }

    fn workload(&self, on: &Entity) -> Entity {
        match &*on.kind {
            "Pod" => self.cluster.workload_of(&on.namespace, &on.name),
            "Service" => self.cluster.workloads_of(on).into_iter().next(),
            _ => None,
        }
        .unwrap_or_else(|| on.clone())
    }

    /// Fills the tables that the judgement reads.
    fn publish(mut self, store: &Store) -> Result<(), TrialError> {
        let now = self.now + PATIENCE;
        let last = |symptom: Symptom| Symptom { last: now, ..symptom };
        let open = self.states.rows().into_iter().map(|state| {
            let on = Entity::new(&state.entity_kind, &state.entity_namespace, &state.entity_name);
            symptom(&state.kind, &on, state.onset, &state.message)
        });
        let symptoms: Vec<_> = self.symptoms.drain(..).chain(open).map(last).collect();
        let sick = self.sick.iter().map(|workload| (workload.clone(), START)).collect();
        let (mut reach, mut fronts) =
            suspects::reach(&Default::default(), &sick, &Graph::default(), &self.cluster);
        for workload in &self.sick {
            for service in self.cluster.services_of(workload) {
                fronts.push(Front {
                    workload_kind: workload.kind.to_string(),
                    workload_namespace: workload.namespace.to_string(),
                    workload_name: workload.name.to_string(),
                    service: service.name.to_string(),
                });
            }
        }
        fronts.sort();
        fronts.dedup();
        // In the small cluster `web` calls `db`.
        let callers: Vec<Reach> = reach
            .iter()
            .filter(|row| row.relation == "self" && row.workload_name == "web")
            .map(|row| Reach {
                cause_kind: "Service".to_owned(),
                cause_namespace: "shop".to_owned(),
                cause_name: "db".to_owned(),
                relation: "calls".to_owned(),
                ..row.clone()
            })
            .collect();
        reach.extend(callers);
        let params = Params::new(now, now - LONGEST, now - PATIENCE, (4.0, 30));
        macro_rules! fill {
            ($type:ty, $rows:expr) => {
                store.table(<$type>::TABLE)?.replace(vec![<$type>::batch(&$rows)?])?
            };
        }
        fill!(Change, self.changes);
        fill!(Event, self.events);
        fill!(Symptom, symptoms);
        fill!(Reach, reach);
        fill!(Front, fronts);
        fill!(Params, [params]);
        Ok(())
    }
}

fn symptom(kind: &str, on: &Entity, at: Time, text: &str) -> Symptom {
    Symptom {
        kind: kind.to_owned(),
        entity_kind: on.kind.to_string(),
        entity_namespace: on.namespace.to_string(),
        entity_name: on.name.to_string(),
        onset: at,
        onset_within_s: None,
        last: at,
        value: 1.0,
        baseline: 0.0,
        unit: "1".to_owned(),
        score: 10.0,
        detail: text.to_owned(),
    }
}

/// `Kind namespace/name`, or `Kind name` of what is in no namespace.
fn entity(text: &str) -> Result<Entity, TrialError> {
    let wrong = || {
        TrialError(format!(
            "{text:?}: expected an object such as 'Deployment shop/web' or 'Node node-1'"
        ))
    };
    let (kind, path) = text.split_once(' ').ok_or_else(wrong)?;
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    if kind.is_empty() || name.is_empty() || name.contains([' ', '/']) {
        return Err(wrong());
    }
    Ok(Entity::new(kind, namespace, name))
}

/// JSON merge patch (RFC 7386), but lists of named things are merged by name, as Kubernetes' own
/// strategic merge patch does.
fn merge(into: &mut Value, with: &Value) {
    let named = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    if let (Value::Array(known), Value::Array(new)) = (&mut *into, with)
        && !new.is_empty()
        && new.iter().all(|value| named(value).is_some())
    {
        for value in new {
            match known.iter_mut().find(|known| named(known) == named(value)) {
                Some(known) => merge(known, value),
                None => known.push(value.clone()),
            }
        }
        return;
    }
    let Value::Object(fields) = with else {
        *into = with.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(known) = into.as_object_mut() else { return };
    for (key, value) in fields {
        if value.is_null() {
            known.shift_remove(key);
        } else {
            merge(known.entry(key).or_insert(Value::Null), value);
        }
    }
}
