//! Releases, flags and providers against what fails: which of them could have brought it about.
//!
//! A release is suspected where its own service fails soon after it while nothing that the service asks
//! failed first; more so where the service logs errors that it never logged, where these speak of what the
//! release touched, and where its version fails more than the one before beside it. A version that fails no
//! more than the other beside it is cleared. A provider that says that it is not well explains the failure
//! of those whose calls to it fail.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
    symptoms::Symptoms,
    versions::{Minute, Slower, Verdict, Versions},
    weights::weights,
};
use crate::{
    kubernetes::{Alert, Kind, Provider, Release},
    story::Facts,
    streaming::Windows,
};

/// Releases remembered, alerts and providers each as well.
const MOST: usize = 2_000;
/// Steps remembered of one deployment.
const MOST_STEPS: usize = 64;
/// A release so long ago is not looked at.
const LOOKBACK: Duration = Duration::from_secs(2 * 3600);
/// A failure may seem to begin so long before its cause: clocks, and windows that begin at their start.
const SLACK: Duration = Duration::from_secs(15);
/// What began within this time of each other began together.
const TOGETHER: Duration = Duration::from_secs(2);
/// An alert that is not taken back is over after this.
const ALERT: Duration = Duration::from_secs(900);
/// A status page may say so long after the failure what it knows.
const LATE: Duration = Duration::from_secs(1800);
/// Requests so long before the failure show that a service is looked at.
const RECENT: Duration = Duration::from_secs(60);
/// A pattern that is outside of all that is known here.
pub const OUTSIDE: &str = "external_dependency_down";

/// All that is known of them.
#[derive(Debug, Default)]
pub struct Releases {
    all: VecDeque<Known>,
    alerts: BTreeMap<(String, String, String), Alert>,
    providers: BTreeMap<String, Trouble>,
    versions: Versions,
}

#[derive(Debug)]
struct Known {
    release: Release,
    /// When each of its steps was told.
    steps: Vec<Time>,
    /// When it was taken back.
    undone: Option<Time>,
    /// It takes another one back.
    undoes: bool,
    words: BTreeSet<String>,
}

/// A provider that is not well.
#[derive(Debug)]
struct Trouble {
    since: Time,
    until: Option<Time>,
    text: String,
}

/// What the releases are held against.
pub struct Scene<'a> {
    /// Event time.
    pub now: Time,
    /// What fails, and since when.
    pub failing: &'a BTreeMap<Entity, Time>,
    /// Where trouble arises by the requests themselves.
    pub roots: &'a BTreeMap<Entity, Time>,
    /// New versions that are slower than those beside them.
    pub slower: &'a [Slower],
    /// What is wrong.
    pub symptoms: &'a Symptoms,
    /// Who calls whom.
    pub graph: &'a Graph,
    /// Events of late.
    pub facts: &'a Facts,
    /// The spans' windows.
    pub windows: &'a Windows,
}

impl Releases {
    /// Takes a release in, or a further step of one.
    pub fn release(&mut self, release: Release) {
        let same = |known: &&mut Known| known.release.change == release.change;
        if let Some(known) = self.all.iter_mut().find(same) {
            if known.steps.len() < MOST_STEPS {
                known.steps.push(release.time);
            }
            if release.is_undoing() {
                known.undone.get_or_insert(release.time);
            }
            return;
        }
        // Back to what was before: the one before is taken back.
        let versions = &self.versions;
        let back = |known: &&mut Known| {
            let old = &known.release;
            known.undone.is_none()
                && old.kind == release.kind
                && old.service == release.service
                && match old.kind {
                    Kind::Commit => {
                        let title = release.name.to_lowercase();
                        let short: String = old.id.chars().take(7).collect();
                        title.starts_with("revert")
                            && (title.contains(&old.name.to_lowercase())
                                || short.len() == 7 && release.words.contains(&short))
                    }
                    Kind::Flag => old.name == release.name && old.before == release.version,
                    Kind::Deployment => {
                        !release.version.is_empty()
                            && match &*old.before {
                                "" => {
                                    old.version != release.version
                                        && versions.had_served(&release, old.time)
                                }
                                before => before == release.version,
                            }
                    }
                }
        };
        let undone = self.all.iter_mut().rev().find(back);
        let undoes = undone.is_some();
        if let Some(known) = undone {
            known.undone = Some(release.time);
        }
        if self.all.len() == MOST {
            self.all.pop_front();
        }
        let undone = release.is_undoing().then_some(release.time);
        let words = words(&release.words);
        self.all.push_back(Known { steps: vec![release.time], undone, undoes, words, release });
    }

    /// Takes an alert in.
    pub fn alert(&mut self, alert: Alert) {
        let key = (alert.namespace.clone(), alert.service.clone(), alert.name.clone());
        if alert.resolved {
            self.alerts.remove(&key);
        } else if self.alerts.len() < MOST || self.alerts.contains_key(&key) {
            self.alerts.entry(key).or_insert(alert);
        }
    }

    /// Takes in what a provider says.
    pub fn provider(&mut self, said: Provider) {
        let room = self.providers.len() < MOST || self.providers.contains_key(&said.name);
        match self.providers.get_mut(&said.name) {
            Some(known) if !said.bad => {
                known.until.get_or_insert(said.time);
            }
            Some(known) if known.until.is_none() => {}
            _ if said.bad && room => {
                let trouble = Trouble { since: said.time, until: None, text: said.text };
                self.providers.insert(said.name, trouble);
            }
            _ => {}
        }
    }

    /// Counts requests that a version of a service served.
    pub fn served(&mut self, of: (&str, &str, &str), minute: Minute) {
        self.versions.served(of, minute);
    }

    /// The new versions that are slower than those that serve beside them; `service` knows what a namespace and a
    /// name are called here.
    pub fn slower(&self, now: Time, service: impl Fn(&str, &str) -> Entity) -> Vec<Slower> {
        let lately = self.all.iter().filter(|known| {
            let r = &known.release;
            r.kind == Kind::Deployment
                && known.undone.is_none()
                && !known.undoes
                && r.time + LOOKBACK >= now
        });
        lately
            .filter_map(|known| {
                let r = &known.release;
                self.versions.slower(service(&r.namespace, &r.service), r, now)
            })
            .collect()
    }

    /// What alerts say is wrong: the service as it is told, since when, and in words.
    pub fn alerts(&mut self, now: Time) -> impl Iterator<Item = &Alert> {
        self.alerts.retain(|_, alert| alert.time + ALERT >= now);
        self.alerts.values()
    }

    /// Is there anything to hold against a failure?
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.providers.is_empty()
    }

    /// Who could have brought about what fails now.
    pub fn judge(&self, scene: &Scene<'_>) -> Vec<Hypothesis> {
        let mut out = Vec::new();
        // All that could fail those who fail.
        let mut below: BTreeMap<Entity, BTreeSet<&Entity>> = BTreeMap::new();
        for failing in scene.failing.keys().filter(|s| scene.graph.outside(s).is_none()) {
            for service in scene.graph.downstream(failing) {
                below.entry(service).or_default().insert(failing);
            }
        }
        for root in scene.roots.keys() {
            below.entry(root.clone()).or_default().insert(root);
        }
        for (service, users) in &below {
            out.extend(self.suspects(service, users, scene));
        }
        out.extend(self.troubles(&below, scene));
        out
    }

    /// The releases of one service, and of no service said, against it.
    fn suspects(
        &self,
        service: &Entity,
        users: &BTreeSet<&Entity>,
        scene: &Scene<'_>,
    ) -> Vec<Hypothesis> {
        let own = scene.failing.get(service).or_else(|| scene.roots.get(service));
        let Some(onset) = own.or_else(|| users.iter().filter_map(|s| scene.failing.get(*s)).min())
        else {
            return Vec::new();
        };
        let onset = *onset;
        let ours = |known: &&Known| {
            let r = &known.release;
            *r.service == *service.name
                && (r.namespace.is_empty()
                    || service.namespace.is_empty()
                    || *r.namespace == *service.namespace)
        };
        // Who turns flags for all says so by its own name.
        let is_nobodys = |r: &Release| {
            let elsewhere = Entity::new("Service", &service.namespace, &r.service);
            r.service.is_empty() || r.kind == Kind::Flag && !scene.graph.knows(&elsewhere)
        };
        let nobodys =
            |known: &&Known| is_nobodys(&known.release) && self.speaks_of(known, &service.name);
        let timely = |known: &&Known| {
            known.release.time <= onset + SLACK
                && known.release.time + LOOKBACK >= onset
                && known.undone.is_none_or(|at| at > onset)
                && !known.undoes
        };
        let all: Vec<&Known> =
            self.all.iter().filter(|k| (ours(k) || nobodys(k)) && timely(k)).collect();
        if all.is_empty() {
            return Vec::new();
        }
        let workload = scene.graph.workload(service);
        let logged: Vec<&str> = scene
            .facts
            .around(&workload, &service.name, all[0].release.time - SLACK, scene.now)
            .into_iter()
            .filter(|e| e.r#type == "log.error")
            .map(|e| e.message.as_str())
            .collect();
        let seen = self.evidence(service, &logged, onset, scene);
        let measured = ["error_ratio", "latency", "call_errors"]
            .iter()
            .any(|kind| scene.symptoms.get(kind, service).is_some())
            || scene.roots.contains_key(service);
        let deeper = scene
            .graph
            .downstream(service)
            .iter()
            .flat_map(|s| std::iter::once(s).chain(scene.graph.hosts(s)))
            .filter(|s| *s != service && !scene.graph.downstream(s).contains(service))
            .find(|s| {
                scene.roots.contains_key(*s)
                    || scene.failing.get(*s).is_some_and(|at| *at <= onset + TOGETHER)
            })
            .cloned();
        let looked_at = scene
            .windows
            .served(&service.namespace, &service.name, onset - RECENT, scene.now)
            .iter()
            .any(|(_, count, _)| *count > 0);
        let mut found: Vec<Hypothesis> = Vec::new();
        // What is deployed says all of its commits.
        let deployed: BTreeSet<i64> = all
            .iter()
            .filter(|k| k.release.kind == Kind::Deployment)
            .flat_map(|k| self.range(k).into_iter().map(|c| c.release.change))
            .collect();
        let newest =
            all.iter().filter(|k| k.release.kind != Kind::Commit).map(|k| k.release.time).max();
        for known in &all {
            let r = &known.release;
            if deployed.contains(&r.change) {
                continue;
            }
            let range = self.range(known);
            let (likeness, guilty) = best(known, &range, &seen, &self.all);
            let acts = known.steps.iter().copied().filter(|at| *at <= onset + SLACK).max();
            let acts = acts.unwrap_or(r.time);
            let lag = onset.seconds_since(acts).max(0.0);
            let from = onset.min(r.time + SLACK);
            let verdict = self.versions.verdict(service, &r.version, from);
            let w = &weights().releases;
            let base = match (measured, deeper.is_some()) {
                (true, false) => w.fails,
                (true, true) => w.fails_deeper,
                (false, true) => w.only_deeper,
                // Its requests are seen, and they are well.
                (false, false) if looked_at => w.well,
                (false, false) => w.unmeasured,
            };
            let more = w.soon * (-lag / 300.0).exp()
                + if logged.is_empty() { 0.0 } else { w.new_errors }
                + w.likeness * likeness;
            let stays = w.late_share + (1.0 - w.late_share) * (-lag / 900.0).exp();
            let mut confidence = base * stays + more * base / w.fails;
            if r.kind == Kind::Commit {
                confidence *= w.commit_factor;
            }
            // A later one of the same service is the nearer.
            if newest.is_some_and(|at| at > r.time) && likeness < 0.3 {
                confidence *= w.older_factor;
            }
            match verdict {
                Verdict::Worse => confidence += w.worse,
                Verdict::Cleared => confidence = confidence.min(w.cleared),
                Verdict::Unknown => {}
            }
            if is_nobodys(r) {
                confidence -= w.nobodys;
            }
            let confidence = confidence.min(w.most).max(0.0);
            let mut told = told(known, guilty, service, &workload, (verdict, deeper.as_ref()));
            let beside = scene.slower.iter().filter(|slower| slower.service == *service);
            told.reasons.extend(beside.map(|slower| slower.text.clone()));
            let cause = match r.kind {
                Kind::Flag => Entity::new("FeatureFlag", &workload.namespace, &r.name),
                _ => workload.clone(),
            };
            found.push(Hypothesis {
                cause,
                relation: "self".to_owned(),
                workload: workload.clone(),
                service: service.name.to_string(),
                pattern: if r.kind == Kind::Flag { "bad_flag" } else { "bad_release" }.to_owned(),
                change: Some(r.change),
                cause_time: acts.min(onset),
                effect_time: onset,
                evidence: likeness,
                rivals: i64::try_from(all.len() - 1).unwrap_or(0),
                confidence,
                measured: None,
                told: Some(Box::new(told)),
            });
        }
        found
    }

    /// Does a change that names no service speak of this one?
    fn speaks_of(&self, known: &Known, service: &str) -> bool {
        let name = words(service);
        let mentions = |known: &Known| !name.is_empty() && name.is_subset(&known.words);
        mentions(known)
            // A flag of nobody may be anybody's.
            || known.release.kind == Kind::Flag
    }

    /// The commits that came with a deployment: those since the one before, or of its revision.
    fn range(&self, known: &Known) -> Vec<&Known> {
        let r = &known.release;
        if r.kind != Kind::Deployment {
            return Vec::new();
        }
        let ours = |other: &&Known| {
            other.release.kind == Kind::Deployment
                && other.release.service == r.service
                && other.release.time < r.time
        };
        let since = self.all.iter().filter(ours).map(|other| other.release.time).max();
        let since = since.unwrap_or(r.time - Duration::from_secs(24 * 3600));
        let commits = self.all.iter().filter(|c| c.release.kind == Kind::Commit);
        commits
            .filter(|c| {
                let within = c.release.time > since && c.release.time <= r.time + SLACK;
                let its = if c.release.service.is_empty() {
                    words(&r.service).is_subset(&c.words)
                } else {
                    c.release.service == r.service
                };
                same_revision(&c.release.id, &r.id) || (within && its)
            })
            .collect()
    }

    /// The words of what was seen to fail.
    fn evidence(
        &self,
        service: &Entity,
        logged: &[&str],
        onset: Time,
        scene: &Scene<'_>,
    ) -> BTreeSet<String> {
        let mut seen: BTreeSet<String> = logged.iter().flat_map(|line| words(line)).collect();
        let served =
            scene.windows.served(&service.namespace, &service.name, onset - SLACK, scene.now);
        for (operation, _, failed) in served {
            if failed > 0 {
                seen.extend(words(&operation));
            }
        }
        for on in std::iter::once(service).chain(scene.graph.callees(service)) {
            let texts = scene.windows.call_error(on, onset - SLACK);
            seen.extend(texts.iter().flat_map(|text| words(text)));
        }
        for kind in ["error_ratio", "call_errors", "latency", "alert"] {
            if let Some(active) = scene.symptoms.get(kind, service) {
                seen.extend(words(&active.symptom.detail));
            }
        }
        for name in words(&service.name) {
            seen.remove(&name);
        }
        seen
    }

    /// Providers that are not well, against those whose calls to them fail.
    fn troubles(
        &self,
        below: &BTreeMap<Entity, BTreeSet<&Entity>>,
        scene: &Scene<'_>,
    ) -> Vec<Hypothesis> {
        let mut out = Vec::new();
        for (provider, trouble) in &self.providers {
            let name = words(provider);
            if name.is_empty() {
                continue;
            }
            for (service, users) in below {
                let onset = scene.failing.get(service);
                let onset =
                    onset.or_else(|| users.iter().filter_map(|s| scene.failing.get(*s)).min());
                let Some(onset) = onset.copied() else { continue };
                let during = trouble.since <= onset + LATE
                    && trouble.until.is_none_or(|until| until + SLACK >= onset);
                if !during || trouble.since + LOOKBACK < onset {
                    continue;
                }
                let is_it = |host: &&Entity| !words(&host.name).is_disjoint(&name);
                let hosts: Vec<&Entity> = scene.graph.hosts(service).filter(is_it).collect();
                let fails = |host: &&Entity| {
                    scene.failing.contains_key(*host)
                        || scene.windows.call_error(host, onset - SLACK).is_some()
                };
                let workload = scene.graph.workload(service);
                let lines = scene.facts.around(&workload, &service.name, onset - SLACK, scene.now);
                let mentioned = lines
                    .iter()
                    .filter(|e| e.r#type == "log.error")
                    .any(|e| !words(&e.message).is_disjoint(&name));
                let w = &weights().providers;
                let confidence = match (hosts.is_empty(), hosts.iter().any(fails), mentioned) {
                    (false, true, _) => w.calls_fail,
                    (_, _, true) => w.errors_name,
                    // Calls to it are seen, and they are well.
                    (false, false, false) => continue,
                    // It is not known who calls it.
                    (true, ..) if scene.failing.contains_key(service) => w.unknown_caller,
                    _ => continue,
                };
                let who = &service.name;
                out.push(Hypothesis {
                    cause: Entity::new("Service", "", provider),
                    relation: "calls".to_owned(),
                    workload,
                    service: service.name.to_string(),
                    pattern: OUTSIDE.to_owned(),
                    change: None,
                    cause_time: trouble.since.min(onset),
                    effect_time: onset,
                    evidence: 1.0,
                    rivals: 0,
                    confidence,
                    measured: None,
                    told: Some(Box::new(Told {
                        title: format!("{who} fails because {provider}, which is not run here, is not well"),
                        mechanism: format!("{provider} says: {}", trouble.text),
                        what: trouble.text.clone(),
                        change: None,
                        reasons: vec![format!("{provider} says itself that it is not well: {}", trouble.text)],
                        advice: vec![format!(
                            "follow the status page of {provider}; let {who} do without it, or queue and retry, until it is well"
                        )],
                        outside: true,
                        ..Told::default()
                    })),
                });
            }
        }
        out
    }
}

/// Of a release and the commits that came with it the one that speaks most of what fails, how much (0 to 1).
fn best<'a>(
    known: &'a Known,
    range: &[&'a Known],
    seen: &BTreeSet<String>,
    all: &VecDeque<Known>,
) -> (f64, &'a Known) {
    let likeness = |of: &Known| {
        let shared = of.words.intersection(seen).filter(|word| {
            // What every change speaks of tells nothing.
            let others = all.iter().filter(|k| k.words.contains(*word)).count();
            others <= 1 + all.len() / 3
        });
        let n = shared.count() as f64;
        n / (n + 2.0)
    };
    // Without a word of it the commit that the deployment names.
    let head = range.iter().find(|c| same_revision(&c.release.id, &known.release.id));
    let mut found = (likeness(known), head.copied().unwrap_or(known));
    for commit in range {
        let like = likeness(commit);
        if like > found.0 {
            found = (like, commit);
        }
    }
    found
}

fn told(
    known: &Known,
    guilty: &Known,
    service: &Entity,
    workload: &Entity,
    (verdict, deeper): (Verdict, Option<&Entity>),
) -> Told {
    let (r, g) = (&known.release, &guilty.release);
    let who = &service.name;
    let short = |id: &str| id.chars().take(12).collect::<String>();
    let (title, what, mechanism, advice) = match r.kind {
        Kind::Flag => (
            format!("{who} fails since feature flag {} was turned {}", r.name, r.version),
            format!("feature flag {} {} -> {}", r.name, r.before, r.version),
            "the flag leads into code that fails".to_owned(),
            format!("turn feature flag {} back to {}", r.name, r.before),
        ),
        Kind::Commit => (
            format!("{who} fails since commit {}", short(&r.id)),
            format!("commit {}: {}", short(&r.id), r.name),
            "the change of the code has a fault".to_owned(),
            format!("revert commit {} ({}) and deploy", short(&r.id), r.name),
        ),
        Kind::Deployment => {
            let before = if r.before.is_empty() {
                "the version before".to_owned()
            } else {
                r.before.clone()
            };
            let back = match &*workload.kind {
                "Deployment" | "StatefulSet" | "DaemonSet" => format!(
                    "roll {who} back to {before}: kubectl -n {} rollout undo {}/{}",
                    workload.namespace,
                    workload.kind.to_lowercase(),
                    workload.name
                ),
                _ => format!("roll {who} back to {before}"),
            };
            (
                format!("{who} fails since version {} was deployed", r.version),
                format!("version {} -> {} deployed ({})", r.before, r.version, r.id),
                "the new version has a fault that the one before had not".to_owned(),
                back,
            )
        }
    };
    let mut reasons = Vec::new();
    if g.kind == Kind::Commit && r.kind == Kind::Deployment {
        reasons.push(format!("it brought commit {}: {}", short(&g.id), g.name));
    }
    if verdict == Verdict::Worse {
        reasons.push(format!("version {} does worse than the one beside it", r.version));
    }
    if let Some(deeper) = deeper {
        reasons.push(format!("against it: {} fails as early", deeper.name));
    }
    let mut advice = vec![advice];
    if g.kind == Kind::Commit && r.kind == Kind::Deployment {
        advice.push(format!("then mend or revert {} ({})", short(&g.id), g.name));
    }
    Told {
        title,
        mechanism,
        what,
        change: Some(g.id.clone()).filter(|id| !id.is_empty()),
        reasons,
        advice,
        outside: false,
        ..Told::default()
    }
}

fn same_revision(a: &str, b: &str) -> bool {
    !a.is_empty()
        && (a == b || (a.len().min(b.len()) >= 7 && (a.starts_with(b) || b.starts_with(a))))
}

/// The words of a text that say something, in lower case: names of code are cut where they are joined.
fn words(text: &str) -> BTreeSet<String> {
    const COMMON: [&str; 49] = [
        "about",
        "added",
        "adds",
        "after",
        "also",
        "before",
        "body",
        "change",
        "changed",
        "changes",
        "code",
        "com",
        "const",
        "data",
        "error",
        "errors",
        "exception",
        "fail",
        "failed",
        "fails",
        "feature",
        "file",
        "files",
        "from",
        "func",
        "function",
        "import",
        "into",
        "java",
        "line",
        "main",
        "message",
        "method",
        "null",
        "public",
        "request",
        "requests",
        "response",
        "return",
        "server",
        "service",
        "services",
        "string",
        "that",
        "this",
        "true",
        "update",
        "value",
        "with",
    ];
    let mut all = BTreeSet::new();
    for part in text.split(|c: char| !c.is_alphanumeric()) {
        let mut word = String::new();
        let mut lower = false;
        for c in part.chars().chain(['_']) {
            if c == '_' || (c.is_uppercase() && lower) {
                let digits = word.bytes().all(|b| b.is_ascii_digit());
                if word.len() >= 3 && !digits && !COMMON.contains(&&*word) {
                    all.insert(std::mem::take(&mut word));
                }
                word.clear();
            }
            lower = c.is_lowercase();
            if c != '_' {
                word.extend(c.to_lowercase());
            }
        }
    }
    all
}
