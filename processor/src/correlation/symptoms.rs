//! What is wrong, since when, and how long after it was last seen it still counts.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Symptom, Time};

use super::{CorrelationError, Plans};
use crate::streaming::{WINDOW, Windows};

/// A ratio or a latency is over when it has not been judged sick for four windows.
const QUIET: Duration = Duration::from_nanos(4 * WINDOW as u64);

/// Memory that grows into its limit falls with each restart and grows again: one growth, not many.
const GROWTH: &str = "memory_growth";
/// It is over when it has not been seen for this long.
const GROWTH_QUIET: Duration = Duration::from_secs(180);

/// Kinds that are measured on spans, and so end by falling silent.
const MEASURED: [&str; 3] = ["error_ratio", "call_errors", "latency"];

/// A symptom while it lasts.
#[derive(Clone, Debug)]
pub struct Active {
    /// The row of the `symptoms` table.
    pub symptom: Symptom,
    /// Windows or facts that showed it so far.
    pub times: u64,
    /// The workload it is seen on, where the fact itself names one.
    pub workload: Option<Entity>,
    /// Start of the newest window that showed it.
    newest: Time,
    /// It is over when it has not been judged sick for this long.
    quiet: Duration,
}

impl Active {
    /// What it is seen on.
    pub fn entity(&self) -> Entity {
        let s = &self.symptom;
        Entity::new(&s.entity_kind, &s.entity_namespace, &s.entity_name)
    }
}

/// All that is wrong now.
#[derive(Default)]
pub struct Symptoms {
    active: BTreeMap<(String, Entity), Active>,
}

impl Symptoms {
    /// Runs the symptom queries and takes their answers in.
    pub fn judge(
        &mut self,
        plans: &mut Plans,
        windows: &mut Windows,
        now: Time,
    ) -> Result<(), CorrelationError> {
        for query in ["symptoms_errors", "symptoms_latency"] {
            for row in plans.rows(query)?.iter() {
                let (namespace, service) = (row.text("namespace")?, row.text("service")?);
                self.measured(
                    row.text("kind")?,
                    Entity::new("Service", namespace, service),
                    Measure {
                        bucket: row.time("bucket")?,
                        onset: row.time("onset")?,
                        value: row.float("value")?,
                        baseline: row.float("baseline")?,
                        score: row.float("score")?,
                        span: Duration::from_secs_f64(row.float("span_s")?.clamp(0.0, 3600.0)),
                    },
                );
            }
        }
        self.states(plans)?;
        self.resources(plans)?;
        self.end(windows, now);
        self.mark(windows);
        Ok(())
    }

    fn measured(&mut self, kind: &str, entity: Entity, m: Measure) {
        let unit = if kind == "latency" { "ms" } else { "1" };
        let active =
            self.active.entry((kind.to_owned(), entity.clone())).or_insert_with(|| Active {
                symptom: symptom(kind, &entity, m.onset, unit),
                times: 0,
                workload: None,
                newest: Time(i64::MIN),
                quiet: QUIET,
            });
        active.quiet = QUIET.max(m.span);
        if m.bucket > active.newest {
            active.newest = m.bucket;
            active.times += 1;
        }
        let s = &mut active.symptom;
        s.onset = s.onset.min(m.onset);
        s.last = s.last.max(m.bucket + Duration::from_nanos(WINDOW as u64));
        (s.value, s.baseline, s.score) =
            (m.value, if active.times <= 1 { m.baseline } else { s.baseline }, m.score);
    }

    /// States are told anew by each run; what is not told any more is over.
    fn states(&mut self, plans: &mut Plans) -> Result<(), CorrelationError> {
        self.active.retain(|(kind, _), _| MEASURED.contains(&kind.as_str()) || kind == GROWTH);
        for row in plans.rows("symptoms_state")?.iter() {
            let entity = Entity::new(
                row.text("entity_kind")?,
                row.text("entity_namespace")?,
                row.text("entity_name")?,
            );
            let kind = row.text("kind")?;
            let workload = match row.text("workload_name")? {
                "" => None,
                name => Some(Entity::new(row.text("workload_kind")?, &entity.namespace, name)),
            };
            let (reason, message) = (row.text("reason")?, row.text("message")?);
            let mut s = symptom(kind, &entity, row.time("onset")?, "1");
            s.last = row.time("last")?;
            s.value = row.int("times")? as f64;
            s.detail = [reason, message]
                .into_iter()
                .filter(|t| !t.is_empty())
                .collect::<Vec<_>>()
                .join(": ");
            let times = u64::try_from(row.int("times")?).unwrap_or(0);
            let newest = s.last;
            self.active.insert(
                (kind.to_owned(), entity),
                Active { symptom: s, times, workload, newest, quiet: QUIET },
            );
        }
        Ok(())
    }

    fn resources(&mut self, plans: &mut Plans) -> Result<(), CorrelationError> {
        for row in plans.rows("symptoms_resources")?.iter() {
            let kind = row.text("kind")?;
            let entity = Entity::new(
                row.text("workload_kind")?,
                row.text("namespace")?,
                row.text("workload_name")?,
            );
            let mut s = symptom(
                kind,
                &entity,
                row.time("first_time")?,
                if kind == "memory_growth" { "By" } else { "{cpu}" },
            );
            s.last = row.time("last")?;
            (s.value, s.baseline) = (row.float("value")?, row.float("baseline")?);
            s.detail =
                format!("container {}, limit {}", row.text("container")?, row.float("bound")?);
            let workload = Some(entity.clone());
            let newest = s.last;
            let key = (kind.to_owned(), entity);
            if let Some(before) = self.active.get(&key) {
                s.onset = s.onset.min(before.symptom.onset);
            }
            let quiet = GROWTH_QUIET;
            self.active.insert(key, Active { symptom: s, times: 1, workload, newest, quiet });
        }
        Ok(())
    }

    fn end(&mut self, windows: &mut Windows, now: Time) {
        self.active.retain(|(kind, entity), active| {
            let measured = MEASURED.contains(&kind.as_str());
            let over = (measured || kind == GROWTH) && active.symptom.last + active.quiet < now;
            if over && measured {
                windows.well(&entity.namespace, &entity.name);
            }
            !over
        });
    }

    /// Sick windows are no baseline.
    fn mark(&mut self, windows: &mut Windows) {
        for ((kind, entity), active) in &mut self.active {
            if MEASURED.contains(&kind.as_str()) {
                windows.sick(&entity.namespace, &entity.name, active.symptom.onset);
            }
            if kind == "call_errors"
                && let Some(text) = windows.call_error(entity)
            {
                active.symptom.detail = text;
            }
        }
    }

    /// Everything that is wrong now, in order of kind and entity.
    pub fn iter(&self) -> impl Iterator<Item = &Active> {
        self.active.values()
    }

    /// One symptom of an entity.
    pub fn get(&self, kind: &str, entity: &Entity) -> Option<&Active> {
        self.active.get(&(kind.to_owned(), entity.clone()))
    }

    /// Is nothing wrong?
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The `symptoms` table.
    pub fn rows(&self) -> Vec<Symptom> {
        self.active.values().map(|active| active.symptom.clone()).collect()
    }
}

struct Measure {
    bucket: Time,
    onset: Time,
    value: f64,
    baseline: f64,
    score: f64,
    /// Time that it was judged over: with few requests the next one may be as far away.
    span: Duration,
}

fn symptom(kind: &str, entity: &Entity, onset: Time, unit: &str) -> Symptom {
    Symptom {
        kind: kind.to_owned(),
        entity_kind: entity.kind.to_string(),
        entity_namespace: entity.namespace.to_string(),
        entity_name: entity.name.to_string(),
        onset,
        last: onset,
        value: 0.0,
        baseline: 0.0,
        unit: unit.to_owned(),
        score: 0.0,
        detail: String::new(),
    }
}
