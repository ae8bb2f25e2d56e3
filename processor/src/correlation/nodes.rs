//! Nodes whose processors do far more than usual, while services are slow that run there: it is the node, or what
//! eats its processors, that lets them wait.

use tapio_proto::model::Entity;

use super::{
    arises::{AFTER, Arising, BEFORE, OWN_TIME, brief},
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
    units::Homes,
    weights::weights,
};
use crate::{
    story::names,
    streaming::{Busy, Strain},
};

/// The pattern of what is told here.
const NODE: &str = "node_overload";

/// Adds the busy nodes on which services are slow, unless a pod there is to blame; what these services are told of
/// by themselves is then an effect.
pub fn judge(
    measured: &mut Vec<Hypothesis>,
    busy: &[Busy],
    (arising, strained): (&[Arising], &[Strain]),
    (homes, graph): (&Homes, &Graph),
) {
    let w = &weights().requests;
    for busy in busy {
        if strained.iter().any(|strain| homes.has(&strain.service, &busy.node)) {
            continue;
        }
        let slow: Vec<&Arising> = arising
            .iter()
            .filter(|arising| arising.kind == OWN_TIME && homes.has(&arising.service, &busy.node))
            .filter(|arising| {
                arising.onset + BEFORE >= busy.since && arising.onset <= busy.since + AFTER
            })
            .collect();
        let node = Entity::new("Node", "", &busy.node);
        let (metric, now, usual) = &busy.uses;
        let what = format!("{metric} of {} is {}, was {}", busy.node, brief(*now), brief(*usual));
        let told = Told {
            title: format!("{} is slow: node {} is busy", names(slow.iter().map(|a| &a.service)), busy.node),
            mechanism: "what runs on the node waits for its processors, which something else uses that is no pod that is seen".to_owned(),
            reasons: slow.iter().map(|a| a.detail.clone()).collect(),
            what,
            advice: vec![
                format!("see what uses the processors of {0}: kubectl top pod -A --sum --field-selector spec.nodeName={0}; on the node: top", busy.node),
                format!("take it out of service: kubectl cordon {}", busy.node),
            ],
            ..Told::default()
        };
        let confidence = if slow.len() > 1 { w.starves } else { w.part };
        for arising in &slow {
            let workload = graph.workload(&arising.service);
            let own =
                measured.iter_mut().filter(|h| h.workload == workload && h.measured.is_some());
            own.for_each(|h| h.confidence = h.confidence.min(w.second));
            let since = (arising.onset.min(busy.since), confidence);
            measured.push(Hypothesis {
                cause: node.clone(),
                relation: "runs_on".to_owned(),
                told: Some(Box::new(told.clone())),
                ..Hypothesis::by_itself(workload, &arising.service, NODE, since)
            });
        }
    }
}
