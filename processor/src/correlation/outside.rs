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
/// What those who call it log of it is the same once more.
pub fn mark(judged: &mut Vec<Hypothesis>, patterns: &Patterns, graph: &Graph) {
    let by_words = |h: &Hypothesis| patterns.by_words(&h.pattern);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tapio_proto::model::Time;

    use super::*;

    /// Guarantees: the certificate of a host outside is told as what is not run here, once, and not as the trouble of
    /// who logs that it met it.
    #[test]
    fn the_certificate_of_a_host_outside_is_told_once() {
        let host = Entity::new("Service", "", "quotes.fx.example");
        let rates = Entity::new("Service", "bank", "rates");
        let mut graph = Graph::default();
        graph.calls(&rates, &host);
        let of =
            |on: &Entity, pattern| Hypothesis::by_itself(on.clone(), on, pattern, (Time(0), 0.6));
        let mut judged =
            vec![of(&host, "certificate_expired"), of(&rates, "certificate_expired_logged")];
        let patterns = Patterns::builtin().unwrap();
        mark(&mut judged, &patterns, &graph);
        let [only] = &judged[..] else { panic!("{judged:?}") };
        let told = only.told.as_ref().unwrap();
        assert!(told.outside && told.title.contains("quotes.fx.example has expired"), "{told:?}");
    }
}
