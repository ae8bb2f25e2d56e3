//! What is wrong, since when, and how long after it was last seen it still counts.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Symptom, Time};

use super::{
    CorrelationError, Plans,
    arises::{Arising, OWN_TIME, STEPS, WAY_TIME},
    fills::{self, FILLING},
    silence,
    standing::STANDING,
    versions::Slower,
};
use crate::{
    kubernetes::{Alert, Finding},
    requests::LOST,
    streaming::{Complaint, Filling, Silent, Vessel, WINDOW, Windows, Worse},
};

/// The queries, by the names of their files.
const ERRORS: &str = "symptoms_errors";
const LATENCY: &str = "symptoms_latency";
const WAITS: &str = "symptoms_waits";
const STATE: &str = "symptoms_state";
const RESOURCES: &str = "symptoms_resources";

/// A ratio or a latency is over when it has not been judged sick for four windows, or for as long as it
/// takes to be judged.
const QUIET: Duration = Duration::from_nanos(4 * WINDOW as u64);
/// For so long a window that was judged and is over is not judged again, should more come to it.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Memory that grows into its limit falls with each restart and grows again: one growth, not many.
const GROWTH: &str = "memory_growth";
/// It is over when it has not been seen for this long.
const GROWTH_QUIET: Duration = Duration::from_secs(180);

/// When nobody has sent a span for this long, nothing is seen.
const BLIND: Duration = Duration::from_secs(10);

/// A service that was asked steadily is asked no more. That alone is no failure: those who ask may have gone.
pub const SILENCE: &str = "silence";

/// Kinds that are measured on spans or counted in logs, and so end by falling silent.
const MEASURED: [&str; 4] = ["error_ratio", "call_errors", "latency", "log_errors"];

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
    /// When the newest of what showed it came in, and for how long nothing had been seen by then.
    came: Time,
    unseen: Duration,
    /// The shortest time over which it shows.
    span: Duration,
}

impl Active {
    /// One that a query tells anew each time.
    fn told(symptom: Symptom, times: u64, workload: Option<Entity>) -> Self {
        let newest = symptom.last;
        let unseen = Duration::ZERO;
        Active { symptom, times, workload, newest, came: newest, unseen, span: Duration::ZERO }
    }

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
    /// Until when those lasted that are over.
    over: BTreeMap<(String, Entity), Time>,
    /// For how long nothing was seen, so far, and when something last was.
    unseen: Duration,
    heard: Time,
}

impl Symptoms {
    /// Runs the symptom queries and takes their answers in.
    pub fn judge(
        &mut self,
        plans: &mut Plans,
        windows: &mut Windows,
        (now, recent): (Time, Time),
    ) -> Result<(), CorrelationError> {
        let errors = windows.failed_since(recent).then_some(ERRORS);
        let waits = windows.waited_since(recent).then_some(WAITS);
        let measured: Vec<&str> = errors.into_iter().chain([LATENCY]).chain(waits).collect();
        plans.run_ahead(&[&*measured, &[STATE, RESOURCES]].concat());
        for query in measured {
            let Some(rows) = plans.rows_if_well(query)? else { continue };
            for row in rows.iter() {
                let entity = Entity::new("Service", row.text("namespace")?, row.text("service")?);
                // What others say of one whose requests are counted is not asked for.
                if query == WAITS && windows.tells_of(&entity) {
                    continue;
                }
                self.measured(
                    row.text("kind")?,
                    entity,
                    Measure {
                        bucket: row.time("bucket")?,
                        onset: row.time("onset")?,
                        came: row.time("failed")?,
                        span: Duration::from_secs(row.int("span_s")?.unsigned_abs()),
                        within: row.float("within_s")?,
                        value: row.float("value")?,
                        baseline: row.float("baseline")?,
                        score: row.float("score")?,
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
        let key = (kind.to_owned(), entity.clone());
        if !self.active.contains_key(&key) && self.over.get(&key).is_some_and(|at| m.bucket < *at) {
            return;
        }
        let unseen = self.unseen;
        let active = self.active.entry(key).or_insert_with(|| Active {
            symptom: symptom(kind, &entity, m.onset, unit),
            times: 0,
            workload: None,
            newest: Time(i64::MIN),
            came: m.came,
            unseen,
            span: m.span,
        });
        if m.bucket > active.newest {
            active.newest = m.bucket;
            active.times += 1;
        }
        if m.came > active.came {
            (active.came, active.unseen) = (m.came, unseen);
        }
        let s = &mut active.symptom;
        // The longer the sum the less exactly it knows where it began.
        if m.span <= active.span {
            (s.onset, active.span) = (s.onset.min(m.onset), m.span);
            s.onset_within_s = Some(m.within);
        }
        s.last = s.last.max(m.bucket + Duration::from_nanos(WINDOW as u64));
        (s.value, s.baseline, s.score) =
            (m.value, if active.times <= 1 { m.baseline } else { s.baseline }, m.score);
    }

    /// Takes in what services tell of themselves by metrics: one interval is already a sum over many
    /// requests, and it lasts until the next two have come or are missing.
    pub fn worse(&mut self, all: &[Worse]) {
        for worse in all {
            let (from, to) = worse.during;
            let length = Duration::from_secs_f64(to.seconds_since(from).max(1.0));
            let measure = Measure {
                bucket: from,
                onset: from,
                came: to,
                span: length * 2 + QUIET,
                within: length.as_secs_f64(),
                value: worse.value,
                baseline: worse.baseline,
                score: worse.score,
            };
            self.measured(worse.kind, worse.service.clone(), measure);
            if let Some(active) =
                self.active.get_mut(&(worse.kind.to_owned(), worse.service.clone()))
            {
                active.times = active.times.max(2);
                active.symptom.last = active.symptom.last.max(to);
            }
        }
    }

    /// Takes in of whom more errors are logged than ever.
    pub fn complain(&mut self, all: &[Complaint]) {
        for complaint in all {
            let kind = complaint.voice.kind();
            let measure = Measure {
                bucket: complaint.last.bucket(WINDOW),
                onset: complaint.onset,
                came: complaint.last,
                span: complaint.span,
                within: complaint.within(),
                value: complaint.share.0,
                baseline: complaint.share.1,
                score: complaint.score,
            };
            self.measured(kind, complaint.service.clone(), measure);
            let known = self.active.get_mut(&(kind.to_owned(), complaint.service.clone()));
            if let Some(active) = known {
                active.symptom.detail.clone_from(&complaint.says);
            }
        }
    }

    /// States are told anew by each run; what is not told any more is over.
    fn states(&mut self, plans: &mut Plans) -> Result<(), CorrelationError> {
        let Some(rows) = plans.rows_if_well(STATE)? else { return Ok(()) };
        self.active.retain(|(kind, _), _| {
            MEASURED.contains(&kind.as_str())
                || [GROWTH, STANDING, FILLING, SILENCE].contains(&&**kind)
        });
        for row in rows.iter() {
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
            self.active.insert((kind.to_owned(), entity), Active::told(s, times, workload));
        }
        Ok(())
    }

    /// Takes in what arises in requests now; what does not any more is over.
    pub fn arise(&mut self, all: &[Arising]) {
        self.active.retain(|(kind, _), _| ![OWN_TIME, WAY_TIME, STEPS].contains(&kind.as_str()));
        for arising in all {
            let unit = if arising.kind == STEPS { "1" } else { "ms" };
            let mut s = symptom(arising.kind, &arising.service, arising.onset, unit);
            s.last = arising.last;
            (s.value, s.baseline, s.score) = (arising.value, arising.baseline, arising.score);
            s.detail = arising.detail.clone();
            let key = (arising.kind.to_owned(), arising.service.clone());
            self.active.insert(key, Active::told(s, arising.times, None));
        }
    }

    /// Takes in which versions are slower than those beside them; where time is lost of their services' own is known
    /// better.
    pub fn beside(&mut self, all: &[Slower], now: Time) {
        for slower in all {
            let mut s = symptom(OWN_TIME, &slower.service, slower.since, "ms");
            (s.last, s.baseline, s.value) = (now, slower.ms.0, slower.ms.1);
            s.detail.clone_from(&slower.text);
            let key = (OWN_TIME.to_owned(), slower.service.clone());
            self.active.entry(key).or_insert_with(|| Active::told(s, 1, None));
        }
    }

    /// Takes in who is asked no more; who is asked again is well.
    pub fn fall_silent(&mut self, all: &[Silent], now: Time) {
        self.active.retain(|(kind, _), _| kind != SILENCE);
        for silent in all {
            let mut s = symptom(SILENCE, &silent.service, silent.since, "s");
            (s.last, s.value, s.baseline) =
                (now, now.seconds_since(silent.since), 1.0 / silent.usual);
            s.onset_within_s = Some(silent.within);
            s.detail = silence::words(silent);
            let key = (SILENCE.to_owned(), silent.service.clone());
            self.active.insert(key, Active::told(s, 1, None));
        }
    }

    /// Takes in what is wrong as it stands; what does not any more is over.
    pub fn stand(&mut self, all: &[Finding], now: Time) {
        self.active.retain(|(kind, _), _| kind != STANDING);
        for found in all {
            let mut s = symptom(STANDING, &found.workload, found.since, "1");
            (s.last, s.value, s.detail) = (now, 1.0, found.what.clone());
            let key = (STANDING.to_owned(), found.workload.clone());
            let workload = Some(found.workload.clone());
            self.active.entry(key).or_insert_with(|| Active::told(s, 1, workload));
        }
    }

    /// Takes in what fills: memory that grows, and with `bearer` those of which it is time to tell; what does not
    /// any more is over.
    pub fn fill(&mut self, all: &[Filling], bearer: impl Fn(&Filling) -> Entity) {
        self.active.retain(|(kind, _), _| kind != FILLING);
        for filling in all {
            let on = bearer(filling);
            let mut tell = |kind: &str| {
                let mut s = symptom(kind, &on, filling.since, "1");
                (s.last, s.value, s.baseline) = (filling.last, filling.share, filling.from);
                s.detail = fills::words(filling);
                let key = (kind.to_owned(), on.clone());
                if let Some(before) = self.active.get(&key) {
                    s.onset = s.onset.min(before.symptom.onset);
                    s.last = s.last.max(before.symptom.last);
                }
                self.active.insert(key, Active::told(s, 1, Some(on.clone())));
            };
            if filling.vessel == Vessel::Memory {
                tell(GROWTH);
            }
            if fills::is_soon(filling) {
                tell(FILLING);
            }
        }
    }

    /// Takes in what alerts say; what none says any more is over.
    pub fn alerted<'a>(&mut self, all: impl Iterator<Item = (Entity, &'a Alert)>, now: Time) {
        self.active.retain(|(kind, _), _| kind != "alert");
        for (service, alert) in all {
            let mut s = symptom("alert", &service, alert.time, "1");
            (s.last, s.value) = (now, 1.0);
            s.detail = format!("{}: {}", alert.name, alert.text);
            let key = ("alert".to_owned(), service);
            let known = self.active.entry(key).or_insert_with(|| Active::told(s, 2, None));
            known.symptom.onset = known.symptom.onset.min(alert.time);
        }
    }

    fn resources(&mut self, plans: &mut Plans) -> Result<(), CorrelationError> {
        let Some(rows) = plans.rows_if_well(RESOURCES)? else { return Ok(()) };
        for row in rows.iter() {
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
            let key = (kind.to_owned(), entity);
            if let Some(before) = self.active.get(&key) {
                s.onset = s.onset.min(before.symptom.onset);
            }
            self.active.insert(key, Active::told(s, 1, workload));
        }
        Ok(())
    }

    /// Ends what is not seen any more. While nobody sends spans nothing ends by falling silent: that is a
    /// hole in what is seen, and no health; unless it has lasted so long that nothing is known any more.
    fn end(&mut self, windows: &mut Windows, now: Time) {
        let hole = |from: Time, to: Time| {
            let silent = Duration::from_nanos(to.0.saturating_sub(from.0).max(0).unsigned_abs());
            silent.saturating_sub(BLIND)
        };
        let heard = windows.heard();
        if self.heard != Time::default() {
            self.unseen += hole(self.heard, heard);
        }
        self.heard = heard;
        let unseen = self.unseen + hole(heard, now);
        let over = &mut self.over;
        over.retain(|_, at| *at + REMEMBERED >= now);
        self.active.retain(|(kind, entity), active| {
            if kind == GROWTH {
                return active.symptom.last + GROWTH_QUIET >= now;
            }
            let blind = unseen.saturating_sub(active.unseen);
            let known = if blind > LOST { Duration::ZERO } else { blind };
            let ends = active.came + active.span.max(QUIET) + known < now;
            if !MEASURED.contains(&kind.as_str()) || !ends {
                return true;
            }
            // What is counted once a minute is not over within it.
            if active.came + active.span.max(QUIET) + known + windows.cadence(entity) >= now {
                return true;
            }
            windows.well(&entity.namespace, &entity.name, active.symptom.last);
            over.insert((kind.clone(), entity.clone()), active.symptom.last);
            false
        });
    }

    /// Sick windows are no baseline.
    fn mark(&mut self, windows: &mut Windows) {
        for ((kind, entity), active) in &mut self.active {
            if MEASURED.contains(&kind.as_str()) {
                windows.sick(&entity.namespace, &entity.name, active.symptom.onset);
            }
            if kind == "call_errors"
                && let Some(text) = windows.call_error(entity, active.symptom.onset)
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
    came: Time,
    span: Duration,
    /// How far from its onset it may have begun, s.
    within: f64,
    value: f64,
    baseline: f64,
    score: f64,
}

fn symptom(kind: &str, entity: &Entity, onset: Time, unit: &str) -> Symptom {
    Symptom {
        kind: kind.to_owned(),
        entity_kind: entity.kind.to_string(),
        entity_namespace: entity.namespace.to_string(),
        entity_name: entity.name.to_string(),
        onset,
        onset_within_s: None,
        last: onset,
        value: 0.0,
        baseline: 0.0,
        unit: unit.to_owned(),
        score: 0.0,
        detail: String::new(),
    }
}
