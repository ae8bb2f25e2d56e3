//! Who in the cluster asks a service and sends no spans of it: known by the address that the service's own
//! spans name.

use std::{collections::BTreeSet, net::IpAddr};

use tapio_proto::model::{Entity, Time};

use super::{ServiceId, Windows};
use crate::{correlation::identity::Identity, streaming::Map};

/// Clients kept, over all services.
const MOST: usize = 10_000;

/// Clients without spans, by the service and the address that they ask it from.
#[derive(Default)]
pub(super) struct Clients {
    seen: Map<(ServiceId, IpAddr), (Entity, Time)>,
}

impl Clients {
    /// A service is asked from an address; what is no pod's is left out.
    pub(super) fn saw(&mut self, service: ServiceId, address: &str, identity: &Identity, at: Time) {
        let Ok(address) = address.parse::<IpAddr>() else { return };
        let address = address.to_canonical();
        if let Some((_, last)) = self.seen.get_mut(&(service, address)) {
            *last = at.max(*last);
        } else if self.seen.len() < MOST
            && let Some(workload) = identity.workload_at(&address)
        {
            self.seen.insert((service, address), (workload.clone(), at));
        }
    }

    /// Whose an address is now; who has not asked since `oldest` goes.
    pub(super) fn name(&mut self, identity: &Identity, oldest: Time) {
        self.seen.retain(|_, (_, last)| *last >= oldest);
        for ((_, address), (workload, _)) in &mut self.seen {
            match identity.workload_at(address) {
                Some(now) if now != workload => *workload = now.clone(),
                _ => {}
            }
        }
    }

    /// Only these services are left.
    pub(super) fn retain(&mut self, here: impl Fn(&ServiceId) -> bool) {
        self.seen.retain(|(service, _), _| here(service));
    }

    /// Workloads that asked any of these services at `since` or later.
    pub(super) fn of(&self, services: &BTreeSet<ServiceId>, since: Time) -> BTreeSet<Entity> {
        let lately = self
            .seen
            .iter()
            .filter(|((service, _), (_, last))| services.contains(service) && *last >= since);
        lately.map(|(_, (workload, _))| workload.clone()).collect()
    }
}

impl Windows {
    /// A service is asked from this address, by one who sends no span of it.
    pub fn asked_from(&mut self, service: ServiceId, address: &str, identity: &Identity, at: Time) {
        self.clients.saw(service, address, identity, at);
    }

    /// Workloads that ask a service since then and send no spans of it.
    pub fn clients(&self, service: &Entity, since: Time) -> BTreeSet<Entity> {
        let ids: BTreeSet<ServiceId> = self.ids(&service.namespace, &service.name).collect();
        self.clients.of(&ids, since)
    }
}
