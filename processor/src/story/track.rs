//! Stories over time: they open, grow, change their mind, and resolve.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{Entity, Evidence, Story, Time};

use super::{
    again::{History, jobs_before},
    assemble::{Failure, Plot, View, assemble},
    group::{Group, front},
};
use crate::{
    correlation::{
        hypotheses::Hypothesis,
        suspects::{failing, sick},
        weights::weights,
    },
    streaming::Count,
};

/// A story is over when nothing of it has been wrong for this long.
const WELL_FOR: Duration = Duration::from_secs(30);
/// A story may find its root this long after it opened; measurements come every so often.
const SETTLES: Duration = Duration::from_secs(30);
/// What is measured in services that call each other within this time is one incident.
const NEAR: Duration = Duration::from_secs(90);
/// What is seen to begin so long after the like was last seen is another incident.
const AGAIN: Duration = Duration::from_secs(60);
/// What services promise is asked again after this long.
const ASKED: Duration = Duration::from_secs(60);
/// Resolved stories that are kept.
const MOST_RESOLVED: usize = 1_000;

/// What became of a story.
#[derive(Clone, Debug)]
pub enum Telling {
    /// It can be told for the first time.
    Opened(Box<Story>, Vec<Evidence>),
    /// It says something else than before.
    Updated(Box<Story>, Vec<Evidence>),
    /// What failed works again.
    Resolved(Box<Story>, Vec<Evidence>),
    /// Another story tells of what fails, and this one ends.
    Merged(Box<Story>, Vec<Evidence>),
}

impl Telling {
    /// The story and its evidence.
    pub fn story(&self) -> (&Story, &[Evidence]) {
        match self {
            Telling::Opened(s, e)
            | Telling::Updated(s, e)
            | Telling::Resolved(s, e)
            | Telling::Merged(s, e) => (s, e),
        }
    }

    /// Does the story end with it?
    pub fn is_last(&self) -> bool {
        matches!(self, Telling::Resolved(..) | Telling::Merged(..))
    }

    /// `opened`, `updated`, `resolved` or `merged`.
    pub fn name(&self) -> &'static str {
        match self {
            Telling::Opened(..) => "opened",
            Telling::Updated(..) => "updated",
            Telling::Resolved(..) => "resolved",
            Telling::Merged(..) => "merged",
        }
    }
}

struct Thread {
    id: String,
    opened: Time,
    last_bad: Time,
    /// When what is measured of its root was last seen to be bad.
    measured: Option<Time>,
    hypotheses: Vec<Hypothesis>,
    siblings: BTreeMap<Entity, Hypothesis>,
    failures: BTreeMap<Entity, Failure>,
    workloads: BTreeSet<Entity>,
    told: Option<(Story, Vec<Evidence>)>,
    /// CronJobs that ran shortly before it.
    jobs: BTreeSet<Entity>,
    /// The story to which all that still fails of it belongs by now.
    into: Option<String>,
}

/// All stories, open ones first told first.
#[derive(Default)]
pub struct Stories {
    open: Vec<Thread>,
    resolved: Vec<(Story, Vec<Evidence>)>,
    history: History,
}

impl Stories {
    /// Takes in what is wrong now, and says which stories that changes.
    pub fn update(&mut self, groups: Vec<Group>, view: &View<'_>) -> Vec<Telling> {
        // Which story each failing service belongs to now, and each workload that shows what another story blames.
        let mut theirs: BTreeMap<Entity, String> = BTreeMap::new();
        let mut shows: BTreeMap<Entity, String> = BTreeMap::new();
        for group in groups {
            let find = |is: &dyn Fn(&Thread) -> bool| self.open.iter().position(is);
            let same = find(&|thread| thread.has_root_of(&group));
            let same = same.or_else(|| find(&|thread| thread.is_of(&group)));
            let at = match same.or_else(|| find(&|thread| thread.is_near(&group, view))) {
                Some(at) => at,
                None => {
                    let thread = Thread::new(&group, view, &self.ids());
                    self.open.push(thread);
                    self.open.len() - 1
                }
            };
            let id = &self.open[at].id;
            theirs.extend(group.services.keys().map(|s| (s.clone(), id.clone())));
            shows.extend(group.siblings.iter().map(|s| (s.workload.clone(), id.clone())));
            self.open[at].take(group, view);
        }
        // Of two stories of one root it is the newer that goes on, and of what shows in others as well the one
        // that tells of them.
        let mut roots: BTreeMap<Entity, String> = self
            .open
            .iter()
            .filter_map(|t| Some((t.hypotheses.first()?.workload.clone(), t.id.clone())))
            .collect();
        roots.extend(shows);
        let still: Vec<bool> =
            self.open.iter_mut().map(|thread| thread.keep(view, &theirs, &roots)).collect();
        self.count(view);
        let mut tellings = Vec::new();
        let mut at = 0;
        for still in still {
            let thread = &mut self.open[at];
            let over = !still && thread.last_bad + WELL_FOR <= view.now;
            if let Some(telling) = thread.tell(view, over, &self.history) {
                tellings.push(telling);
            }
            if over {
                let thread = self.open.remove(at);
                let known = thread.told.as_ref().filter(|_| thread.into.is_none());
                if let Some((story, _)) = known {
                    self.history.remember(story, thread.jobs);
                }
                self.resolved.extend(thread.told);
                if self.resolved.len() > MOST_RESOLVED {
                    self.resolved.remove(0);
                }
            } else {
                at += 1;
            }
        }
        tellings
    }

    /// Takes in what [`Stories::unsaved`] gave before a restart; how many lines it could not read.
    pub(crate) fn recall(&mut self, history: &str) -> usize {
        self.history.recall(history)
    }

    /// The incidents that are over, as JSON lines, if one was added since this was asked last.
    pub(crate) fn unsaved(&mut self) -> Option<String> {
        self.history.unsaved()
    }

    /// How requests went to all that fails, and what it promised.
    fn count(&mut self, view: &View<'_>) {
        for thread in &mut self.open {
            for (service, failure) in &mut thread.failures {
                if failure.promise.as_ref().is_none_or(|(asked, _)| *asked + ASKED < view.now) {
                    failure.promise = Some((view.now, view.importance.promise(service, view)));
                }
                let objective = failure.promise.as_ref().and_then(|(_, p)| p.objective.as_ref());
                let within = objective.and_then(|objective| objective.within);
                failure.count.aim(failure.since, thread.last_bad, within);
            }
        }
        let failures = self.open.iter_mut().flat_map(|thread| &mut thread.failures);
        view.windows.count(failures.map(|(s, failure)| (s, &mut failure.count)), view.now);
    }

    fn ids(&self) -> BTreeSet<String> {
        self.open
            .iter()
            .map(|t| t.id.clone())
            .chain(self.resolved.iter().map(|(s, _)| s.id.clone()))
            .collect()
    }

    /// Is any story open?
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Stories with their evidence, by the time they opened.
    pub fn all(&self) -> Vec<(&Story, &[Evidence])> {
        let open = self.open.iter().filter_map(|t| t.told.as_ref());
        let mut all: Vec<_> =
            self.resolved.iter().chain(open).map(|(s, e)| (s, e.as_slice())).collect();
        all.sort_by(|a, b| (a.0.opened, &a.0.id).cmp(&(b.0.opened, &b.0.id)));
        all
    }

    /// Stories that are open.
    pub fn open(&self) -> impl Iterator<Item = &Story> {
        self.open.iter().filter_map(|t| t.told.as_ref().map(|(s, _)| s))
    }
}

impl Thread {
    fn new(group: &Group, view: &View<'_>, taken: &BTreeSet<String>) -> Self {
        let now = view.now;
        let first = group.hypotheses.first();
        let on = first.map(|h| h.workload.to_string());
        let on =
            on.or_else(|| group.services.keys().next().map(Entity::to_string)).unwrap_or_default();
        let since = first
            .map(|h| h.effect_time)
            .or_else(|| group.services.values().min().copied())
            .unwrap_or(now);
        Thread {
            id: id(&on, since, taken),
            // A pass that was due before a hole sees what came after it.
            opened: now.max(since),
            last_bad: now,
            measured: None,
            hypotheses: Vec::new(),
            siblings: BTreeMap::new(),
            failures: BTreeMap::new(),
            workloads: BTreeSet::new(),
            told: None,
            jobs: jobs_before(since.min(now), view),
            into: None,
        }
    }

    /// Does the group blame what this story blames?
    fn has_root_of(&self, group: &Group) -> bool {
        let roots = self.hypotheses.first().zip(group.hypotheses.first());
        roots.is_some_and(|(mine, new)| {
            (mine.workload == new.workload
                || (mine.cause == new.cause && mine.change == new.change))
                && !self.was_over(new)
        })
    }

    /// Did what is measured now begin when this was well again? Then it is another incident, on the same
    /// service though it be.
    fn was_over(&self, new: &Hypothesis) -> bool {
        new.measured.as_ref().is_some_and(|arising| {
            let again = |last| arising.begun && new.effect_time > last + AGAIN;
            new.effect_time > self.last_bad || self.measured.is_some_and(again)
        })
    }

    /// Is it measured near where this one is, and since about as long? Where time is lost shows first
    /// where most requests pass.
    fn is_near(&self, group: &Group, view: &View<'_>) -> bool {
        let roots = self.hypotheses.first().zip(group.hypotheses.first());
        roots.is_some_and(|(mine, new)| {
            let (a, b) = (front(mine), front(new));
            let apart = (mine.effect_time.0 - new.effect_time.0).unsigned_abs();
            mine.measured.is_some()
                && new.measured.is_some()
                && u128::from(apart) <= NEAR.as_nanos()
                && (view.graph.downstream(&a).contains(&b)
                    || view.graph.downstream(&b).contains(&a))
        })
    }

    /// Does the group tell of the same failure, though it blames another object? Where both know a
    /// mechanism, only what was under way when this story opened can have been what it is about; what
    /// broke later is an incident of its own, even if the same users meet it.
    fn is_of(&self, group: &Group) -> bool {
        let touches = group.services.keys().any(|s| self.failures.contains_key(s))
            || group.hypotheses.first().is_some_and(|h| self.workloads.contains(&h.workload));
        let two = match (self.hypotheses.first(), group.hypotheses.first()) {
            (Some(mine), Some(new)) => {
                !mine.pattern.is_empty()
                    && !new.pattern.is_empty()
                    && new.effect_time > self.opened + SETTLES
            }
            _ => false,
        };
        let over = group.hypotheses.first().is_some_and(|new| self.was_over(new));
        touches && !two && !over
    }

    /// Takes the group in; the root changes only for one that is clearly surer, and who is failed from outside is
    /// none.
    fn take(&mut self, group: Group, view: &View<'_>) {
        let innocent = |mine: &Hypothesis| {
            mine.is_bare() && group.failed_from_outside.contains(&mine.workload)
        };
        if group.hypotheses.is_empty() && self.hypotheses.first().is_some_and(innocent) {
            self.hypotheses.clear();
            self.siblings.clear();
        }
        let change_of_mind = match (self.hypotheses.first(), group.hypotheses.first()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(mine), Some(new)) => {
                (mine.cause == new.cause
                    && mine.change == new.change
                    && (new.confidence >= mine.confidence || new.measured.is_some()))
                    || new.confidence > mine.confidence + weights().judgement.surer
                    || new.knows_more_than(mine)
            }
        };
        if change_of_mind {
            let same = |mine: &Hypothesis, new: &Hypothesis| {
                mine.cause == new.cause && mine.change == new.change
            };
            if !self
                .hypotheses
                .first()
                .zip(group.hypotheses.first())
                .is_some_and(|(mine, new)| same(mine, new))
            {
                self.siblings.clear();
            }
            self.hypotheses = group.hypotheses;
        } else if let (Some(mine), Some(new)) =
            (self.hypotheses.first_mut(), group.hypotheses.first())
            && (&mine.workload, &mine.cause, mine.change) == (&new.workload, &new.cause, new.change)
        {
            // Of the names of a workload the one that fails, which shows later.
            mine.service.clone_from(&new.service);
        }
        if let Some(best) = self.hypotheses.first() {
            let mine = group
                .siblings
                .into_iter()
                .filter(|s| s.cause == best.cause && s.workload != best.workload);
            self.siblings.extend(mine.map(|s| (s.workload.clone(), s)));
            self.siblings.remove(&best.workload);
        }
        let measured = self.hypotheses.first().and_then(|best| best.measured.as_ref());
        self.measured = self.measured.max(measured.map(|arising| arising.last));
        self.workloads.extend(self.siblings.keys().cloned());
        self.workloads.extend(self.hypotheses.first().map(|h| h.workload.clone()));
        self.workloads.extend(group.services.keys().map(|s| view.graph.workload(s)));
        for service in group.services.keys() {
            self.failures.entry(service.clone()).or_insert_with(|| Failure {
                since: view.now,
                within: None,
                until: view.now,
                kind: String::new(),
                baseline: 0.0,
                worst: 0.0,
                detail: String::new(),
                sample: None,
                count: Count::default(),
                promise: None,
            });
        }
    }

    /// Brings what is known of its services and of its workload up to now.
    ///
    /// A service that by now fails because of another story (`theirs`) does not keep this one open. True
    /// while one of its own fails: what comes late or seldom was last seen some time ago.
    fn keep(
        &mut self,
        view: &View<'_>,
        theirs: &BTreeMap<Entity, String>,
        roots: &BTreeMap<Entity, String>,
    ) -> bool {
        let failing = failing(view.symptoms);
        let mut still = false;
        for (service, failure) in &mut self.failures {
            if !failing.contains_key(service) {
                continue;
            }
            match theirs.get(service).filter(|id| **id != self.id) {
                Some(other) => self.into = Some(other.clone()),
                None => {
                    still = true;
                    self.last_bad = self.last_bad.max(failure.refresh(service, view));
                }
            }
        }
        let sick = sick(view.symptoms, view.graph);
        if let Some(best) = self.hypotheses.first()
            && roots.get(&best.workload).is_none_or(|id| *id == self.id)
            && (sick.contains_key(&best.workload)
                || self.siblings.keys().any(|w| sick.contains_key(w)))
        {
            self.last_bad = view.now;
            self.into = None;
            // A caller that starts to fail while the cause lasts belongs to the story.
            for service in view.graph.upstream(&front(best)) {
                if failing.contains_key(&service) && !self.failures.contains_key(&service) {
                    self.workloads.insert(view.graph.workload(&service));
                }
            }
        }
        if still {
            self.into = None;
        }
        still
    }

    fn tell(&mut self, view: &View<'_>, over: bool, history: &History) -> Option<Telling> {
        let plot = Plot {
            id: &self.id,
            opened: self.opened,
            resolved: over.then_some(self.last_bad),
            into: self.into.as_deref().filter(|_| over),
            hypotheses: &self.hypotheses,
            siblings: &self.siblings,
            failures: &self.failures,
            last_bad: self.last_bad,
        };
        let (mut story, evidence) = assemble(&plot, view);
        if let Some(again) = history.again(&story, &self.jobs) {
            story.kinds.extend(again.kinds);
            story.narrative.push_str(&format!(" It is the {}.", again.words));
            (story.again, story.earlier) = (Some(again.words), again.earlier);
        }
        let before = self.told.replace((story.clone(), evidence.clone()));
        match before {
            None => Some(Telling::Opened(Box::new(story), evidence)),
            Some(_) if story.merged_into.is_some() => {
                Some(Telling::Merged(Box::new(story), evidence))
            }
            Some(_) if over => Some(Telling::Resolved(Box::new(story), evidence)),
            Some((old, seen)) if says_more(&old, &story) || seen.len() != evidence.len() => {
                Some(Telling::Updated(Box::new(story), evidence))
            }
            Some(_) => None,
        }
    }
}

impl Failure {
    /// Takes the symptoms of the service in; returns when it was last seen failing.
    fn refresh(&mut self, service: &Entity, view: &View<'_>) -> Time {
        let mut last = self.until;
        for kind in ["error_ratio", "latency", "call_errors", "log_errors", "alert"] {
            let Some(active) = view.symptoms.get(kind, service) else { continue };
            let s = &active.symptom;
            last = last.max(s.last.min(view.now));
            let says = matches!(kind, "call_errors" | "log_errors" | "alert");
            if says && !s.detail.is_empty() {
                self.detail = s.detail.clone();
            }
            // Errors of its own say more than slowness, and both say more than what callers see.
            let rank = |kind: &str| match kind {
                "error_ratio" => 5,
                "latency" => 4,
                "log_errors" => 3,
                "call_errors" => 2,
                "alert" => 1,
                _ => 0,
            };
            if rank(kind) > rank(&self.kind) {
                self.kind = kind.to_owned();
                self.baseline = s.baseline;
                self.worst = s.value;
                self.since = if self.sample.is_none() && self.until == self.since {
                    s.onset
                } else {
                    self.since.min(s.onset)
                };
            }
            if kind == self.kind {
                self.since = self.since.min(s.onset);
                self.within = s.onset_within_s;
                self.worst = self.worst.max(s.value);
            }
        }
        self.until = last;
        let sample = view.windows.sample(&service.namespace, &service.name, self.since);
        self.sample = sample.or(self.sample);
        last
    }
}

/// Is the difference worth telling? Figures that only grow are not.
fn says_more(old: &Story, new: &Story) -> bool {
    old.root_cause.as_ref().map(|r| (&r.kind, &r.name, &r.pattern))
        != new.root_cause.as_ref().map(|r| (&r.kind, &r.name, &r.pattern))
        || old.affected.services != new.affected.services
        || old.incomplete.is_empty() != new.incomplete.is_empty()
        || old.chain.len() != new.chain.len()
        || (old.confidence - new.confidence).abs() >= 0.05
}

/// Six hex digits from what fails and since when (FNV-1a); the same in every replay.
fn id(on: &str, since: Time, taken: &BTreeSet<String>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let second = since.0.div_euclid(1_000_000_000);
    for byte in on.bytes().chain(second.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    loop {
        let id = format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0x00ff_ffff);
        if !taken.contains(&id) {
            return id;
        }
        hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}
