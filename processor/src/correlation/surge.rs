//! Users who suddenly ask much more than before: what fails by itself under that is not to blame.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Change, Entity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
    weights::weights,
};
use crate::{
    kubernetes::Cluster,
    story::{Facts, front},
    streaming::{WINDOW, Windows},
};

/// The past that requests are held against.
const PAST: Duration = Duration::from_secs(300);
/// Requests are counted over this, in windows.
const SPAN: usize = 3;
/// The past must have so many of these.
const LEAST_SPANS: usize = 3;
/// The surge is looked for so long before and after the first failure, whose time is not known better.
const AROUND: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(30)];
/// More and more users may have come for so long before it.
const RAMPS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(150)];
/// Fewer requests than these in a span are no surge.
const LEAST: u64 = 30;
/// So many times as much as ever before in the past is a surge; ...
const MORE: u64 = 2;
/// ... and so many times as much is none that failing requests bring about, which are asked again.
const NO_RETRIES: u64 = 4;
/// Who asks more may have been changed so long before.
const CHANGED: Duration = Duration::from_secs(90);

/// What users ask of the first service that they meet.
struct Surge {
    entry: Entity,
    since: Time,
    /// Requests a minute, the most of before and now.
    before: u64,
    now: u64,
}

/// Adds to each workload that fails by itself the users as its cause, where they ask so much more than
/// before.
pub fn judge(
    judged: &mut Vec<Hypothesis>,
    failing: &BTreeMap<Entity, Time>,
    (windows, graph): (&Windows, &Graph),
    (cluster, facts): (&Cluster, &Facts),
) {
    let w = weights();
    let mut surges: BTreeMap<Entity, Option<Surge>> = BTreeMap::new();
    let mut new: BTreeMap<Entity, Hypothesis> = BTreeMap::new();
    for h in judged.iter_mut() {
        let by_itself = h.change.is_none() && h.cause == h.workload && h.told.is_none();
        let here = front(h);
        let measured = h.measured.as_ref().map(|arising| arising.onset);
        let onset = failing.get(&here).copied().or(measured).filter(|_| by_itself);
        let Some(onset) = onset else { continue };
        if h.confidence < w.judgement.worth {
            continue;
        }
        let surge = surges.entry(here).or_insert_with_key(|here| {
            let mut above = graph.upstream(here);
            above.retain(|s| windows.serves(s));
            let entry = above.iter().find(|s| !graph.is_called(s)).or(above.last())?;
            let mut leads = [AROUND[0]].into_iter().chain(RAMPS);
            leads.find_map(|lead| of(entry, windows, onset, lead))
        });
        let Some(surge) = surge else { continue };
        let confidence = h.confidence.max(w.failing.surge);
        h.confidence = h.confidence.min(w.failing.surge - w.judgement.below_change);
        let told = hypothesis(surge, (h, confidence), windows, (cluster, facts));
        let known = new.entry(h.workload.clone()).or_insert_with(|| told.clone());
        if known.confidence < told.confidence {
            *known = told;
        }
    }
    if !new.is_empty() {
        judged.extend(new.into_values());
        judged.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    }
}

/// Does the service get so much more than in each span of the past, since `lead` before `onset` or later?
fn of(entry: &Entity, windows: &Windows, onset: Time, lead: Duration) -> Option<Surge> {
    let from = (onset - lead - PAST).bucket(WINDOW);
    let counts = windows.asked(entry, from, onset + AROUND[1]);
    let at = |time: Time| ((time.0 - from.0) / WINDOW).max(0) as usize;
    let failed = at(onset);
    let start = at(onset - lead);
    let sums = |of: &[u64]| of.iter().sum::<u64>();
    let past: Vec<u64> = counts[..start.min(counts.len())]
        .rchunks_exact(SPAN)
        .map(sums)
        .take_while(|count| *count > 0)
        .collect();
    let most = past.iter().copied().max().filter(|_| past.len() >= LEAST_SPANS)?;
    let now = counts.get(start..)?.windows(SPAN).map(sums).max()?;
    let clear = now > MORE * most && (now - most) as f64 > 4.0 * (now as f64).sqrt();
    if now < LEAST || !clear {
        return None;
    }
    // The first window with more than any of before.
    let more = |count: &u64| SPAN as u64 * count > MORE.max(now / most / 2) * most;
    let first = start + counts.get(start..)?.iter().position(more)?;
    // What is asked more only after requests failed may be asked again because they failed.
    let latest = if now > NO_RETRIES * most { counts.len() } else { failed };
    let minute = |count: u64| count * (60_000_000_000 / (SPAN as u64 * WINDOW as u64));
    (first <= latest).then(|| Surge {
        entry: entry.clone(),
        since: Time(from.0 + first as i64 * WINDOW),
        before: minute(most),
        now: minute(now),
    })
}

/// The users as the cause of what fails by itself; or who asks more inside of the cluster, where that one
/// was changed.
fn hypothesis(
    surge: &Surge,
    (h, confidence): (&Hypothesis, f64),
    windows: &Windows,
    (cluster, facts): (&Cluster, &Facts),
) -> Hypothesis {
    let Surge { entry, since, before, now } = surge;
    let name = &entry.name;
    let what = format!("{name} is asked {now} times a minute, at most {before} before");
    let times = *now as f64 / *before as f64;
    let more = format!("{name} is asked {times:.0} times as much as before");
    let clients = windows.clients(entry, *since);
    let changed = facts
        .changes_between(*since - CHANGED, *since + Duration::from_nanos(WINDOW as u64))
        .filter(|row| !row.path.starts_with("metadata."))
        .find(|row| clients.contains(&row.entity()));
    let mut reasons = vec![what.clone()];
    let mut advice = vec![format!("limit what {name} lets in, and add replicas of {}", h.service)];
    match changed {
        Some(row) => {
            reasons.push(format!("{} asks {name}, and was changed just before", row.entity()));
            if !row.undo.is_empty() {
                advice.insert(0, format!("put the change back: {}", row.undo));
            }
        }
        None => {
            reasons.push("nothing that is known to ask for more was changed before it".to_owned());
            let names: Vec<String> = clients.iter().map(Entity::to_string).collect();
            if !names.is_empty() {
                reasons.push(format!("{name} is asked by {}", names.join(", ")));
            }
        }
    }
    let pattern = &h.pattern;
    if !pattern.is_empty() {
        reasons.push(format!("what it comes to in {}: {}", h.service, pattern.replace('_', " ")));
    }
    let cause = changed.map_or_else(|| entry.clone(), Change::entity);
    let because = changed.map(|_| format!(", because {} {} was changed", cause.kind, cause.name));
    // Whoever asks more is known by its place in the cluster, if it has one there.
    let inside = changed.is_some() && cluster.object(&cause).is_some();
    Hypothesis {
        relation: "calls".to_owned(),
        pattern: "traffic_surge".to_owned(),
        change: changed.map(|row| row.change),
        cause_time: changed.map_or(*since, |row| row.time),
        effect_time: h.effect_time.max(*since),
        evidence: 1.0,
        rivals: 0,
        confidence,
        measured: None,
        told: Some(Box::new(Told {
            title: format!(
                "{} fails under more load than it can carry: {more}{}",
                h.service,
                because.unwrap_or_default()
            ),
            mechanism: what.clone(),
            what,
            change: None,
            reasons,
            advice,
            outside: !inside,
            ..Told::default()
        })),
        cause,
        ..h.clone()
    }
}
