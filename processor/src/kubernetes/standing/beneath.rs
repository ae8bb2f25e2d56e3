//! Of two workloads that are not well, the one that the other cannot reach is the cause.

use std::{collections::BTreeMap, net::IpAddr};

use tapio_proto::model::Entity;

use super::{Finding, Shown, network::names, words};
use crate::{correlation::weights::weights, kubernetes::cluster::Cluster};

/// Makes a finding an effect of another.
pub(super) fn follows(found: &mut Finding, cause: &Finding, what: String) {
    let (time, on) = match found.shown.first() {
        Some(shown) => (shown.time, shown.on.clone()),
        None => (found.since, found.workload.clone()),
    };
    found.shown = vec![Shown { time, on, what: what.clone() }];
    found.what = what;
    (found.object, found.pattern) = (cause.object.clone(), cause.pattern.clone());
    (found.known, found.effect) = (false, true);
    found.title.clear();
    found.confidence = cause.confidence - weights().standing.below;
}

impl Cluster {
    /// Whoever complains of what is not well itself is only an effect of that.
    pub(super) fn beneath(&self, out: &mut [Finding]) {
        let w = weights();
        let addresses = self.addresses();
        let below: Vec<Option<usize>> = out
            .iter()
            .map(|found| {
                let asked = self.asked(found, &addresses);
                let guilty = |(_, other): &(usize, &Finding)| {
                    other.workload != found.workload
                        && other.confidence >= w.judgement.worth
                        && asked.iter().any(|(service, workloads)| {
                            other.object == *service && other.complaints.is_empty()
                                || workloads.contains(&other.workload)
                        })
                };
                let guilty = out.iter().enumerate().filter(guilty);
                guilty
                    .max_by(|(_, a), (_, b)| a.confidence.total_cmp(&b.confidence))
                    .map(|(at, _)| at)
            })
            .collect();
        for at in 0..out.len() {
            let mut seen = vec![at];
            while let Some(next) = below[seen[seen.len() - 1]].filter(|next| !seen.contains(next)) {
                seen.push(next);
            }
            let (root, first) = (seen[seen.len() - 1], seen.get(1).copied());
            // Of two that complain of each other nothing is known.
            let Some(first) = first.filter(|_| below[root].is_none()) else { continue };
            let (asked, cause) = (out[first].workload.clone(), out[root].clone());
            let found = &mut out[at];
            let what = format!(
                "{} does not reach {}: {}",
                found.workload.path(),
                asked.path(),
                found
                    .complaints
                    .iter()
                    .flat_map(|text| words::unreached(text))
                    .next()
                    .map(|line| words::sentence(line, 0, 0))
                    .unwrap_or_default()
            );
            follows(found, &cause, what);
        }
    }

    /// The Services that a finding's workload complains of, with the workloads behind them.
    fn asked(
        &self,
        found: &Finding,
        addresses: &BTreeMap<IpAddr, Entity>,
    ) -> Vec<(Entity, Vec<Entity>)> {
        let mut services: Vec<Entity> = Vec::new();
        for line in found.complaints.iter().flat_map(|text| words::unreached(text)) {
            services.extend(self.spoken(line, &found.workload.namespace, addresses));
            if words::unresolved(line) {
                services.extend(self.resolver());
            }
        }
        services
            .into_iter()
            .map(|service| {
                let workloads = match &*service.kind {
                    "Service" => self.workloads_of(&service),
                    _ => vec![service.clone()],
                };
                (service, workloads)
            })
            .collect()
    }

    /// The Services, and the workloads by their pods' addresses, of which a text speaks that was said in a
    /// namespace.
    pub(super) fn spoken(
        &self,
        text: &str,
        namespace: &str,
        addresses: &BTreeMap<IpAddr, Entity>,
    ) -> Vec<Entity> {
        let lower = text.to_lowercase();
        let named = |service: &&Entity| {
            let far = &*service.namespace != namespace;
            let path = format!("{}.{}", service.name, service.namespace);
            names(&lower, if far { &path } else { &service.name })
        };
        let ips = text
            .split(|c: char| !c.is_ascii_hexdigit() && c != '.')
            .filter_map(|word| word.parse::<IpAddr>().ok());
        let by_ip = ips.filter_map(|ip| addresses.get(&ip));
        self.objects.of_kind("Service").filter(named).chain(by_ip).cloned().collect()
    }
}
