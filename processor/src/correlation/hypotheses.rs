//! Reads the judgement of `queries/hypotheses.sql`.

use tapio_proto::model::{Entity, Time};

use super::{CorrelationError, Plans, arises::Arising, weights::weights};
use crate::{kubernetes::Shown, store::Rows};

/// A cause that could explain a workload's failure, and how sure that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The guilty object.
    pub cause: Entity,
    /// How it bears on the workload: `self` or a relation.
    pub relation: String,
    /// The workload where it shows.
    pub workload: Entity,
    /// The service in front of the workload.
    pub service: String,
    /// The pattern; empty without a mechanism.
    pub pattern: String,
    /// Number of the guilty change; none when nothing was changed.
    pub change: Option<i64>,
    /// When the cause happened.
    pub cause_time: Time,
    /// When its first effect was seen.
    pub effect_time: Time,
    /// Share of the pattern's evidence that was seen, 0 to 1.
    pub evidence: f64,
    /// Other changes upstream of the same workload in the half hour before the effect.
    pub rivals: i64,
    /// 0 to 1.
    pub confidence: f64,
    /// What was measured in requests, where that is what the hypothesis stands on.
    pub measured: Option<Box<Arising>>,
    /// Its own words, where it stands on what was read.
    pub told: Option<Box<Told>>,
}

impl Hypothesis {
    /// Is it known only where something is wrong, and not by which mechanism?
    pub(crate) fn is_bare(&self) -> bool {
        self.pattern.is_empty() || self.measured.is_some()
    }

    /// Does this say why, where the other only saw that the same workload is not well? It was read in the
    /// objects as they stand, or it is a change with a known mechanism where the other is measured.
    pub(crate) fn knows_more_than(&self, other: &Hypothesis) -> bool {
        let read =
            self.told.is_some() && other.told.is_none() && self.confidence >= other.confidence;
        let changed = self.change.is_some() && !self.pattern.is_empty() && other.measured.is_some();
        self.workload == other.workload && other.change.is_none() && (read || changed)
    }
}

/// A cause in the words of those who read it: of a release, of objects as they stand, of a provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The story's title.
    pub title: String,
    /// Why the cause has this effect.
    pub mechanism: String,
    /// The cause, as a link of the chain.
    pub what: String,
    /// Identity of the guilty change.
    pub change: Option<String>,
    /// What speaks for it.
    pub reasons: Vec<String>,
    /// What shows it, as it was read in objects.
    pub shown: Vec<Shown>,
    /// What to do, safest first.
    pub advice: Vec<String>,
    /// It lies outside of all that is run here.
    pub outside: bool,
}

impl Hypothesis {
    /// A workload is to blame for itself since then, and nothing was changed.
    pub fn by_itself(
        workload: Entity,
        service: &Entity,
        pattern: &str,
        (since, confidence): (Time, f64),
    ) -> Self {
        Hypothesis {
            cause: workload.clone(),
            relation: "self".to_owned(),
            workload,
            service: service.name.to_string(),
            pattern: pattern.to_owned(),
            change: None,
            cause_time: since,
            effect_time: since,
            evidence: 1.0,
            rivals: 0,
            confidence,
            measured: None,
            told: None,
        }
    }

    /// What is measured in requests says in which service it arises, whoever changed what.
    pub fn measured(arising: &Arising, workload: Entity) -> Self {
        let told = (arising.onset, arising.confidence);
        let measured = Some(Box::new(arising.clone()));
        let itself = Hypothesis::by_itself(workload, &arising.service, arising.pattern, told);
        Hypothesis { measured, ..itself }
    }
}

/// Name of the query that says who is to blame.
pub const QUERY: &str = "hypotheses";

/// All hypotheses, best first.
pub fn judge(plans: &mut Plans) -> Result<Vec<Hypothesis>, CorrelationError> {
    read(&plans.rows(QUERY)?)
}

/// The same; none while the query fails.
pub fn judge_if_well(plans: &mut Plans) -> Result<Vec<Hypothesis>, CorrelationError> {
    plans.rows_if_well(QUERY)?.map_or_else(|| Ok(Vec::new()), |rows| read(&rows))
}

/// Who only knows that something is so stands behind a change that explains the same first effect and is about as
/// sure: it says why.
fn stand_back(all: &mut [Hypothesis]) {
    let w = &weights().judgement;
    let why = |h: &&Hypothesis| h.change.is_some() && !h.pattern.is_empty();
    let why: Vec<(Entity, Time, f64)> =
        all.iter().filter(why).map(|h| (h.workload.clone(), h.effect_time, h.confidence)).collect();
    for bare in all.iter_mut().filter(|h| h.change.is_none() && h.relation == "self") {
        let same = why.iter().filter(|(workload, effect, confidence)| {
            *workload == bare.workload
                && *effect == bare.effect_time
                && *confidence <= bare.confidence
                && confidence + w.surer >= bare.confidence
        });
        let best = same.map(|(_, _, confidence)| *confidence).max_by(f64::total_cmp);
        bare.confidence = best.map_or(bare.confidence, |best| best - w.below_change);
    }
}

fn read(rows: &Rows) -> Result<Vec<Hypothesis>, CorrelationError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        let change = row.int("change")?;
        all.push(Hypothesis {
            cause: Entity::new(
                row.text("cause_kind")?,
                row.text("cause_namespace")?,
                row.text("cause_name")?,
            ),
            relation: row.text("relation")?.to_owned(),
            workload: Entity::new(
                row.text("workload_kind")?,
                row.text("workload_namespace")?,
                row.text("workload_name")?,
            ),
            service: row.text("service")?.to_owned(),
            pattern: row.text("pattern")?.to_owned(),
            change: (change >= 0).then_some(change),
            cause_time: row.time("cause_time")?,
            effect_time: row.time("effect_time")?,
            evidence: row.float("evidence")?,
            rivals: row.int("rivals")?,
            confidence: row.float("confidence")?,
            measured: None,
            told: None,
        });
    }
    stand_back(&mut all);
    all.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    Ok(all)
}
