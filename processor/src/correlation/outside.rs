//! What lies outside of all that is run here, and is to blame.

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::model::Entity;

use super::{
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
};
use crate::{
    patterns::Patterns,
    story::{fill, front},
};

/// Says of causes that are hosts outside that they are: nothing here can be put back, and who runs it must be asked.
/// What those who call it log of it (`by_words`) is the same once more.
pub fn mark(
    judged: &mut Vec<Hypothesis>,
    patterns: &Patterns,
    graph: &Graph,
    by_words: impl Fn(&Hypothesis) -> bool,
) {
    let is_outside = |h: &&mut Hypothesis| h.told.is_none() && graph.outside(&h.cause).is_some();
    let hosts: BTreeSet<Entity> =
        judged.iter_mut().filter(is_outside).map(|h| h.cause.clone()).collect();
    if hosts.is_empty() {
        return;
    }
    judged.retain(|h| {
        let here = front(h);
        h.change.is_some() || !by_words(h) || !graph.hosts(&here).any(|host| hosts.contains(host))
    });
    for h in judged.iter_mut().filter(is_outside) {
        let Some(pattern) = patterns.get(&h.pattern) else { continue };
        let host = &h.cause.name;
        let named = ["object", "name", "service", "workload", "workload_name"];
        let values = BTreeMap::from(named.map(|key| (key, host.to_string())));
        let title = fill(&pattern.title, &values);
        h.told = Some(Box::new(Told {
            title: format!("{title}; {host} is outside of the cluster"),
            mechanism: fill(&pattern.mechanism, &values),
            what: title,
            advice: vec![format!(
                "ask whoever runs {host}; if it can be done without for a while, switch it off"
            )],
            outside: true,
            ..Told::default()
        }));
    }
}
