//! One pod, or the pods of one node, against their twins: those of the same service that do well.
//!
//! What is wrong with some pods only is wrong with these, or with the node that they stand on, and not with the
//! code, the settings or the callees that all of them share. A rollout is held against the same measure: where
//! pods that it did not touch fail as much as the new ones, it is not what broke them.

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::model::{Entity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
    symptoms::Symptoms,
    weights::weights,
};
use crate::{
    kubernetes::Cluster,
    story::{Facts, front, names},
    streaming::{Served, Twin},
};

/// The patterns of what is told here.
pub const POD: &str = "pod_unlike_its_twins";
/// The same of a node.
pub const NODE: &str = "node_unlike_others";
/// Requests that a pod must have served to be judged.
const LEAST: u32 = 10;
/// Requests that those that do well must have served together.
const LEAST_WELL: u32 = 30;
/// Of the failures of the sick, what the well may have.
const WELL: f64 = 0.15;
/// How far from luck the difference must be, in standard deviations.
const Z: f64 = 4.0;
/// So many times as long as the well, and as before, must the sick take.
const SLOWER: f64 = 2.0;
/// Old pods that fail so much as the new ones do, or more, fail alike.
const ALIKE: f64 = 0.5;
/// Services of one node that are told of in numbers.
const MOST_NAMED: usize = 4;
/// Requests and time for which new pods must have done well to be cleared of what came later.
const PROVEN: u32 = 50;
const PROVEN_FOR: f64 = 60.0;

/// A service of whose pods some do badly and the others do not.
#[derive(Clone, Debug)]
struct Split {
    service: Entity,
    slow: bool,
    sick: Vec<Twin>,
    well: Vec<Twin>,
}

/// The pods of a service: those that do badly against those that do well, if there are both.
fn split(service: &Entity, twins: &[Twin]) -> Option<Split> {
    split_by(service, false, twins).or_else(|| split_by(service, true, twins))
}

fn split_by(service: &Entity, slow: bool, twins: &[Twin]) -> Option<Split> {
    let judged: Vec<&Twin> = twins.iter().filter(|twin| twin.since.count >= LEAST).collect();
    let badness = |twin: &Twin| if slow { twin.since.took() } else { twin.since.rate() };
    let worst = judged.iter().map(|twin| badness(twin)).fold(0.0, f64::max);
    let best = judged.iter().map(|twin| badness(twin)).fold(f64::INFINITY, f64::min);
    let bar = if slow { (worst * best).sqrt() } else { worst / 2.0 };
    let (sick, well): (Vec<Twin>, Vec<Twin>) =
        judged.into_iter().cloned().partition(|twin| badness(twin) >= bar);
    if sick.is_empty() || well.is_empty() {
        return None;
    }
    let (bad, good) = (together(&sick), together(&well));
    if good.count < LEAST_WELL {
        return None;
    }
    let apart = if slow {
        let least = sick.iter().map(badness).fold(f64::INFINITY, f64::min);
        let most = well.iter().map(badness).fold(0.0, f64::max);
        // One that always took longer is no sicker than it was.
        let slowed = |twin: &Twin| {
            twin.before.count < LEAST || twin.since.took() >= SLOWER * twin.before.took()
        };
        least >= SLOWER * most && bad.slower_than(&good) >= Z && sick.iter().all(slowed)
    } else {
        let all = bad.plus(good);
        let expected = all.rate() * f64::from(good.count);
        let deviation = (expected * (1.0 - all.rate())).sqrt().max(1.0);
        bad.errors >= LEAST / 2
            && good.rate() <= WELL * bad.rate()
            && expected - f64::from(good.errors) >= Z * deviation
    };
    apart.then(|| Split { service: service.clone(), slow, sick, well })
}

fn together<'a>(twins: impl IntoIterator<Item = &'a Twin>) -> Served {
    twins.into_iter().fold(Served::default(), |sum, twin| sum.plus(twin.since))
}

/// Do the pods of a service on a node fail, and those elsewhere not? Where others say that it is the node, a few
/// requests are enough.
fn is_split_by(node: &Entity, twins: &[Twin], node_of: &impl Fn(&Twin) -> Option<Entity>) -> bool {
    let (here, elsewhere): (Vec<&Twin>, Vec<&Twin>) =
        twins.iter().partition(|twin| node_of(twin).as_ref() == Some(node));
    let (bad, good) = (together(here), together(elsewhere));
    bad.errors >= LEAST / 2 && good.count >= LEAST && good.rate() <= WELL * bad.rate()
}

/// What the pods of services say: a node whose pods do badly in several services, or one pod.
pub fn judge(
    twins: &BTreeMap<Entity, Vec<Twin>>,
    failing: &BTreeMap<Entity, Time>,
    graph: &Graph,
    cluster: &Cluster,
) -> Vec<Hypothesis> {
    let w = &weights().twins;
    let splits: Vec<Split> =
        twins.iter().filter_map(|(service, twins)| split(service, twins)).collect();
    let node_of = |twin: &Twin| match &*twin.node {
        "" => cluster.node_of(&twin.pod),
        node => Some(Entity::new("Node", "", node)),
    };
    let mut by_node: BTreeMap<Entity, Vec<&Split>> = BTreeMap::new();
    let mut alone: Vec<&Split> = Vec::new();
    for split in &splits {
        let nodes: BTreeSet<Option<Entity>> = split.sick.iter().map(node_of).collect();
        let elsewhere = |node: &Entity| {
            split.well.iter().all(|twin| node_of(twin).is_some_and(|other| other != *node))
        };
        match nodes.first() {
            Some(Some(node)) if nodes.len() == 1 && elsewhere(node) => {
                by_node.entry(node.clone()).or_default().push(split);
            }
            _ => alone.push(split),
        }
    }
    let mut out = Vec::new();
    for (node, on) in by_node {
        // One that asks another of them may only pass on what that one does.
        let first = |split: &&Split| {
            let below = graph.downstream(&split.service);
            !on.iter().any(|other| other.service != split.service && below.contains(&other.service))
        };
        let roots = on.iter().copied().filter(first).count();
        let pods: usize = on.iter().map(|split| split.sick.len()).sum();
        if on.len() < 2 && pods < 2 {
            alone.extend(on);
            continue;
        }
        let confidence = if roots > 1 { w.node } else { w.node_alone };
        let names = names(on.iter().map(|split| &split.service));
        let does = match &on[..] {
            [one] => one.does(),
            several if several.iter().all(|split| split.slow) => "are slow",
            _ => "fail",
        };
        let also = twins.iter().filter(|(service, twins)| {
            roots > 1
                && on.iter().all(|split| split.service != **service)
                && is_split_by(&node, twins, &node_of)
        });
        let services =
            on.iter().map(|split| &split.service).chain(also.map(|(service, _)| service));
        let numbers: Vec<String> = on.iter().map(|split| split.numbers()).collect();
        for service in services {
            let Some(onset) = failing.get(service) else { continue };
            out.push(hypothesis(service, &node, NODE, graph, (*onset, confidence), Told {
                title: format!("{names} {does} only on node {}", node.name),
                what: numbers[0].clone(),
                reasons: numbers.iter().take(MOST_NAMED).cloned().collect(),
                mechanism: "their pods on other nodes do well with the same code, settings and callees, so what is wrong is the node: its processor, memory, disk or network".to_owned(),
                advice: vec![
                    format!("look at the node: kubectl describe node {}", node.name),
                    format!("take it out of service: kubectl cordon {0} && kubectl drain {0} --ignore-daemonsets --delete-emptydir-data", node.name),
                ],
                ..Told::default()
            }));
        }
    }
    for split in alone {
        let ([one], Some(onset)) = (&split.sick[..], failing.get(&split.service)) else { continue };
        // One that asks a service that does badly may be the one whose connections lead to that one's sick pod.
        let below = graph.downstream(&split.service);
        if below.iter().any(|other| *other != split.service && failing.contains_key(other)) {
            continue;
        }
        out.push(hypothesis(&split.service, &one.pod, POD, graph, (*onset, w.pod), Told {
            what: split.numbers(),
            reasons: vec![split.numbers()],
            title: format!("{} {} only in pod {}", split.service.name, split.does(), one.pod.name),
            mechanism: "its twins do well with the same code, settings and callees, so what is wrong is this pod, or where it stands".to_owned(),
            advice: vec![
                format!("look at it, and keep its log: kubectl -n {0} describe pod {1}; kubectl -n {0} logs {1} --tail=100", one.pod.namespace, one.pod.name),
                format!("have it replaced: kubectl -n {} delete pod {}", one.pod.namespace, one.pod.name),
            ],
            ..Told::default()
        }));
    }
    out
}

impl Split {
    fn does(&self) -> &'static str {
        if self.slow { "is slow" } else { "fails" }
    }

    /// The sick and the well in numbers.
    fn numbers(&self) -> String {
        let (bad, good) = (together(&self.sick), together(&self.well));
        let name = |twins: &[Twin]| match twins {
            [one] => one.pod.name.to_string(),
            several => format!("{} pods", several.len()),
        };
        let (sick, well) = (name(&self.sick), name(&self.well));
        if self.slow {
            let ms = |served: &Served| served.took() / 1e6;
            return format!("{sick}: {:.0} ms a request; {well}: {:.0} ms", ms(&bad), ms(&good));
        }
        format!(
            "{sick}: {:.0} % of {} requests fail; {well}: {} of {}",
            100.0 * bad.rate(),
            bad.count,
            good.errors,
            good.count
        )
    }
}

fn hypothesis(
    service: &Entity,
    cause: &Entity,
    pattern: &str,
    graph: &Graph,
    since: (Time, f64),
    told: Told,
) -> Hypothesis {
    let relation = if &*cause.kind == "Node" { "runs_on" } else { "self" };
    Hypothesis {
        cause: cause.clone(),
        relation: relation.to_owned(),
        told: Some(Box::new(told)),
        ..Hypothesis::by_itself(graph.workload(service), service, pattern, since)
    }
}

/// How sure it can be at most that a rollout broke its pods, where the pods themselves speak against it.
fn most_of_rollout(twins: &[Twin], rollout: Time, effect: Time) -> Option<f64> {
    let w = &weights().twins;
    let (new, old): (Vec<&Twin>, Vec<&Twin>) = twins.iter().partition(|twin| twin.first >= rollout);
    let (of_new, of_old) = (together(new.iter().copied()), together(old));
    let enough = of_new.count >= LEAST_WELL && of_old.count >= LEAST_WELL;
    if enough && of_old.rate() >= ALIKE * of_new.rate() {
        return Some(w.alike);
    }
    let before = new.iter().fold(Served::default(), |sum, twin| sum.plus(twin.before));
    let last = new.iter().map(|twin| twin.first).max()?;
    let proven = effect.seconds_since(last) >= PROVEN_FOR
        && of_old.count == 0
        && before.count >= PROVEN
        && before.errors == 0;
    proven.then_some(w.proven)
}

/// Holds what else was judged against the twins: a rollout whose new pods do no worse than those that it did
/// not touch, or did well until something else came, is not so sure; nor is what blames all of a service of
/// which only some pods do badly.
pub fn hold(
    judged: &mut Vec<Hypothesis>,
    told: Vec<Hypothesis>,
    twins: &BTreeMap<Entity, Vec<Twin>>,
    (facts, symptoms): (&Facts, &Symptoms),
) {
    let between = &weights().judgement;
    for h in judged.iter_mut() {
        let Some(change) = h.change else { continue };
        let of_pods = h.relation.ends_with("_at_start")
            || facts.rows_of(change).iter().any(|row| row.path.contains("template"));
        let Some(twins) = twins.get(&front(h)).filter(|_| of_pods) else { continue };
        if symptoms.get("error_ratio", &front(h)).is_none() {
            continue;
        }
        if let Some(most) = most_of_rollout(twins, h.cause_time, h.effect_time) {
            h.confidence = h.confidence.min(most);
        }
    }
    for new in told {
        let same = |h: &&mut Hypothesis| h.workload == new.workload;
        let change = judged.iter().filter(|h| h.workload == new.workload && h.change.is_some());
        // New pods that do badly beside old ones are what a rollout looks like.
        let enough = if new.pattern == POD { between.worth } else { new.confidence };
        if change.map(|h| h.confidence).any(|confidence| confidence >= enough) {
            continue;
        }
        for h in judged.iter_mut().filter(same) {
            if h.measured.is_some()
                || h.change.is_none() && h.told.is_none() && h.cause == h.workload
            {
                h.confidence = h.confidence.min(new.confidence - between.below_change);
            }
        }
        judged.push(new);
    }
    judged.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn second(s: i64) -> Time {
        Time(1_800_000_000_000_000_000 + s * 1_000_000_000)
    }

    fn service(name: &str) -> Entity {
        Entity::new("Service", "town", name)
    }

    /// A pod that serves since a second; before and since the onset requests of so many ms, of which so many fail.
    fn twin(
        pod: &str,
        node: &str,
        first: i64,
        before: (u32, u32, u64),
        since: (u32, u32, u64),
    ) -> Twin {
        let served = |(count, errors, ms): (u32, u32, u64)| {
            let mut served = Served::default();
            served.add(ms * 1_000_000, false, count - errors);
            served.add(ms * 1_000_000, true, errors);
            served
        };
        Twin {
            pod: Entity::new("Pod", "town", pod),
            node: node.into(),
            first: second(first),
            before: served(before),
            since: served(since),
        }
    }

    const WELL: (u32, u32, u64) = (200, 0, 10);

    fn twins_of(sick: (u32, u32, u64)) -> Vec<Twin> {
        vec![
            twin("a", "n1", 0, WELL, sick),
            twin("b", "n2", 0, WELL, WELL),
            twin("c", "n3", 0, WELL, WELL),
        ]
    }

    fn split_of(name: &str, slow: bool, sick: (u32, u32, u64)) -> Option<Split> {
        split_by(&service(name), slow, &twins_of(sick))
    }

    /// Guarantees: pods that fail or become slow while their twins do well are told from them, and not where all
    /// do about as badly, where there is too little to judge by, or where one was always slower.
    #[test]
    fn the_sick_are_told_from_the_well() {
        let split = split_of("shop", false, (100, 40, 10)).unwrap();
        assert_eq!(split.sick.iter().map(|twin| &*twin.pod.name).collect::<Vec<_>>(), ["a"]);
        assert_eq!(split.numbers(), "a: 40 % of 100 requests fail; 2 pods: 0 of 400");
        assert!(split_of("shop", true, (100, 0, 50)).is_some());
        assert!(split_of("shop", false, (100, 3, 10)).is_none(), "luck");
        assert!(split_of("shop", true, (100, 0, 15)).is_none(), "hardly slower");
        let alike =
            vec![twin("a", "n1", 0, WELL, (100, 40, 10)), twin("b", "n2", 0, WELL, (100, 25, 10))];
        assert!(super::split(&service("shop"), &alike).is_none());
        let always =
            vec![twin("a", "n1", 0, (200, 0, 50), (200, 0, 50)), twin("b", "n2", 0, WELL, WELL)];
        assert!(super::split(&service("shop"), &always).is_none());
    }

    /// Guarantees: one pod that fails alone is blamed, a node where pods of two services fail that do well
    /// elsewhere, and less surely where one of the two asks the other.
    #[test]
    fn a_pod_or_its_node_is_blamed() {
        let (graph, cluster) = (Graph::default(), Cluster::default());
        let failing =
            ["shop", "bank", "post", "mill"].map(|name| (service(name), second(300))).into();
        let one = BTreeMap::from([(service("shop"), twins_of((100, 40, 10)))]);
        let [pod] = &judge(&one, &failing, &graph, &cluster)[..] else { panic!("one") };
        assert_eq!((&*pod.cause.kind, &*pod.cause.name, &*pod.pattern), ("Pod", "a", POD));
        let mut two = one;
        two.insert(service("bank"), twins_of((100, 0, 90)));
        // A third has few requests and is told with them.
        let few = |node, since| twin(node, node, 0, WELL, since);
        two.insert(service("post"), vec![few("n1", (12, 12, 10)), few("n2", (12, 0, 10))]);
        two.insert(service("mill"), vec![few("n1", (12, 12, 10)), few("n2", (12, 9, 10))]);
        let told = judge(&two, &failing, &graph, &cluster);
        let names: Vec<&str> = told.iter().map(|h| &*h.service).collect();
        assert_eq!(names, ["bank", "shop", "post"]);
        let w = &weights().twins;
        assert!(
            told.iter()
                .all(|h| *h.cause.name == *"n1" && h.pattern == NODE && h.confidence == w.node)
        );
        let mut graph = Graph::default();
        graph.calls(&service("shop"), &service("bank"));
        assert!(
            judge(&two, &failing, &graph, &cluster).iter().all(|h| h.confidence == w.node_alone)
        );
    }

    /// Guarantees: a rollout is not told surely where the pods that it did not touch fail as the new ones do, nor
    /// where the new ones did well for a while; it is where only the new ones fail.
    #[test]
    fn rollouts_are_held_against_their_pods() {
        let (w, none) = (&weights().twins, (0, 0, 0));
        let most = |twins: &[Twin], effect| most_of_rollout(twins, second(200), second(effect));
        let new = twin("new", "n1", 210, none, (100, 60, 10));
        let well = twin("old", "n2", 0, WELL, WELL);
        let sick = twin("old", "n2", 0, WELL, (100, 55, 10));
        assert_eq!(most(&[new.clone(), well], 215), None);
        assert_eq!(most(&[new.clone(), sick], 215), Some(w.alike));
        assert_eq!(most(&[new], 215), None);
        let proven = twin("new", "n1", 210, WELL, (100, 60, 10));
        let gone = twin("old", "n2", 0, WELL, none);
        assert_eq!(most(&[proven.clone(), gone.clone()], 390), Some(w.proven));
        assert_eq!(most(&[proven, gone], 240), None);
    }
}
