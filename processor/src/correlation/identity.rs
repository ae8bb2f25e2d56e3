//! Who is who: one answer to which workload a service runs as, under which names a workload is known,
//! and whom an address means.
//!
//! A service is called by its `service.name`; its namespace is that of its workload as soon as that is
//! known. Everything that compares services - windows, symptoms, the call graph, `reach` - has its names
//! from here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use crate::kubernetes::Cluster;

/// Services remembered.
const MOST_SERVICES: usize = 20_000;
/// Workloads remembered of one service.
const MOST_HOMES: usize = 8;
/// A workload that a service has not been seen on for this long is its workload no more.
const STALE: Duration = Duration::from_secs(900);

/// Brought up to date as often at least, for what time alone changes.
const AT_LEAST: Duration = Duration::from_secs(60);

/// Several for each.
pub type Many = Arc<BTreeMap<Entity, Vec<Entity>>>;

/// What telemetry told of where a service runs.
#[derive(Debug, Default)]
struct Sighting {
    /// Spans come by this name.
    spans: bool,
    /// Its resource names a Kubernetes namespace.
    placed: bool,
    /// The pod or host that it was last seen on, where no namespace goes with it.
    pod: Arc<str>,
    /// The workloads that it was seen on.
    homes: BTreeMap<Entity, Time>,
    last: Time,
}

/// What a resource says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claim<'a> {
    /// `service.name`.
    pub service: &'a str,
    /// The Kubernetes namespace, else `service.namespace`; may be empty.
    pub namespace: &'a str,
    /// The namespace is Kubernetes' own.
    pub placed: bool,
    /// Kind and name of the workload.
    pub workload: Option<(&'static str, &'a str)>,
    /// The pod's name; without one the host's, which in a container is the same.
    pub pod: &'a str,
    /// Spans say so, and what these are called is what addresses mean.
    pub spans: bool,
}

/// Whom an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A service that is known here.
    Inside(Entity),
    /// A host that is none.
    Outside(Entity),
}

impl Meant {
    /// The name under which it is kept.
    pub fn entity(&self) -> &Entity {
        match self {
            Meant::Inside(entity) | Meant::Outside(entity) => entity,
        }
    }
}

/// Services, their workloads and their addresses.
#[derive(Debug, Default)]
pub struct Identity {
    sightings: BTreeMap<Entity, Sighting>,
    /// As telemetry calls a service, to what it is called here.
    services: BTreeMap<Entity, Entity>,
    /// Services that send telemetry, as they are called here, by name.
    speaking: BTreeMap<Arc<str>, BTreeSet<Entity>>,
    /// Those of them, by the names of their telemetry, of which only metrics and logs tell; none are needed where
    /// there are no spans at all.
    untraced: Option<BTreeSet<Entity>>,
    /// A service's workloads, the likeliest first.
    homes: Many,
    /// A workload's services, the one that speaks for it first.
    fronts: Many,
    ips: BTreeMap<IpAddr, Entity>,
    /// Kubernetes Services, and the workloads that each selects, or did when it last selected any.
    selected: BTreeMap<Entity, Vec<Entity>>,
    /// Telemetry told something new since the answers were brought up to date, of which state of the
    /// cluster, and when.
    news: bool,
    version: Option<u64>,
    refreshed: Time,
}

impl Identity {
    /// Takes in what a resource says of itself.
    pub fn saw(&mut self, claim: &Claim<'_>, cluster: &Cluster, now: Time) {
        if claim.service.is_empty() {
            return;
        }
        let service = Entity::new("Service", claim.namespace, claim.service);
        if !self.sightings.contains_key(&service) && self.sightings.len() >= MOST_SERVICES {
            self.sightings.retain(|_, seen| seen.last + STALE >= now);
            if self.sightings.len() >= MOST_SERVICES {
                return;
            }
        }
        self.news |= !self.sightings.contains_key(&service);
        let seen = self.sightings.entry(service).or_default();
        seen.last = now;
        self.news |= claim.placed && !seen.placed || claim.spans && !seen.spans;
        seen.placed |= claim.placed;
        seen.spans |= claim.spans;
        let home = match claim.workload {
            _ if !claim.placed => None,
            Some((kind, name)) => Some(Entity::new(kind, claim.namespace, name)),
            None => cluster.workload_of(claim.namespace, claim.pod),
        };
        match home {
            Some(home) => self.news |= seen.stays(home, now),
            None if *seen.pod != *claim.pod => {
                seen.pod = claim.pod.into();
                self.news = true;
            }
            None => {}
        }
    }

    /// Brings the answers up to date with the cluster, if there is anything new.
    pub fn refresh(&mut self, cluster: &Cluster, now: Time) {
        let version = Some(cluster.version());
        let fresh = (self.refreshed..self.refreshed + AT_LEAST).contains(&now);
        if self.version == version && !self.news && fresh {
            return;
        }
        if self.version != version {
            self.ips = cluster.addresses();
        }
        (self.version, self.news, self.refreshed) = (version, false, now);
        self.selected.extend(cluster.selected());
        self.selected.retain(|service, _| cluster.object(service).is_some());
        let selected = &self.selected;
        let mut names = None;
        (self.services, self.speaking) = Default::default();
        let mut all: BTreeMap<Entity, Vec<Entity>> = BTreeMap::new();
        let mut fronts: BTreeMap<Entity, Vec<Entity>> = BTreeMap::new();
        // By spans first: a workload that these tell of may go by another name in its logs and metrics.
        let mut order: Vec<(&Entity, &mut Sighting)> = self.sightings.iter_mut().collect();
        order.sort_by_key(|(_, seen)| !seen.spans);
        let traced = order.first().is_some_and(|(_, seen)| seen.spans);
        let mut by_spans: BTreeMap<Entity, Entity> = BTreeMap::new();
        let mut untraced = BTreeSet::new();
        for (told, seen) in order {
            if seen.homes.is_empty() && !seen.placed {
                let pod = cluster.pod_named(&seen.pod);
                if let Some(home) = pod.and_then(|p| cluster.workload_of(&p.namespace, &p.name)) {
                    seen.stays(home, now);
                }
            }
            let mut homes = seen.now();
            if homes.is_empty() {
                // By name: in its own namespace, else where there is just one of that name.
                let names = names.get_or_insert_with(|| cluster.running());
                let within = seen.placed || cluster.has_namespace(&told.namespace);
                homes = by_name(names, &told.name, within.then_some(&*told.namespace));
            }
            if traced && !seen.spans {
                match homes.iter().find_map(|home| by_spans.get(home)) {
                    Some(same) => {
                        self.services.insert(told.clone(), same.clone());
                        continue;
                    }
                    // It may be any of those that spans tell of.
                    None if homes.is_empty() => continue,
                    None => untraced.insert(told.clone()),
                };
            }
            let job = |home: &Entity| matches!(&*home.kind, "Job" | "CronJob");
            homes.sort_by_key(|home| (job(home), home.name != told.name, home.clone()));
            let service = match homes.first() {
                Some(home) if !seen.placed => {
                    Entity { namespace: home.namespace.clone(), ..told.clone() }
                }
                _ => told.clone(),
            };
            for home in selected.get(&service).into_iter().flatten() {
                if !homes.contains(home) {
                    homes.push(home.clone());
                }
            }
            if seen.spans {
                let homes = homes.iter().map(|home| (home.clone(), service.clone()));
                by_spans.extend(homes);
            }
            self.speaking.entry(service.name.clone()).or_default().insert(service.clone());
            let known = all.entry(service.clone()).or_default();
            homes.retain(|home| !known.contains(home));
            known.extend(homes);
            self.services.insert(told.clone(), service);
        }
        self.untraced = traced.then_some(untraced);
        for (service, homes) in selected {
            all.entry(service.clone()).or_insert_with(|| homes.clone());
        }
        for (service, homes) in &all {
            for home in homes {
                fronts.entry(home.clone()).or_default().push(service.clone());
            }
        }
        let speaking = &self.speaking;
        for (home, fronts) in &mut fronts {
            // The name that people know it by: what speaks, and what is called like the workload.
            fronts.sort_by_key(|front| {
                let silent = !speaking.get(&front.name).is_some_and(|all| all.contains(front));
                let like = front.name.contains(&*home.name);
                (silent, front.name != home.name, !like, front.clone())
            });
        }
        (self.homes, self.fronts) = (Arc::new(all), Arc::new(fronts));
    }

    /// What a service is called here, that its telemetry calls so.
    pub fn service(&self, namespace: &str, name: &str) -> Entity {
        let told = Entity::new("Service", namespace, name);
        self.services.get(&told).cloned().unwrap_or(told)
    }

    /// Do only metrics and logs tell of the service, by the name that these have for it?
    pub fn is_untraced(&self, namespace: &str, name: &str) -> bool {
        let told = || Entity::new("Service", namespace, name);
        self.untraced.as_ref().is_none_or(|untraced| untraced.contains(&told()))
    }

    /// Does the service send telemetry?
    fn speaks(&self, service: &Entity) -> bool {
        self.speaking.get(&service.name).is_some_and(|all| all.contains(service))
    }

    /// The workloads that run as a service, the likeliest first.
    pub fn workloads(&self, service: &Entity) -> &[Entity] {
        self.homes.get(service).map_or(&[], Vec::as_slice)
    }

    /// The services that a workload runs as, the one that speaks for it first.
    pub fn fronts(&self, workload: &Entity) -> &[Entity] {
        self.fronts.get(workload).map_or(&[], Vec::as_slice)
    }

    /// All of both: workloads by service, services by workload.
    pub fn all(&self) -> (Many, Many) {
        (Arc::clone(&self.homes), Arc::clone(&self.fronts))
    }

    /// What a service is called by its own telemetry, for each name that it has here.
    pub fn told(&self) -> impl Iterator<Item = (&Entity, &Entity)> {
        self.services.iter().filter(|(told, service)| told != service)
    }

    /// The workload of the pod that has this address.
    pub fn workload_at(&self, address: &IpAddr) -> Option<&Entity> {
        self.ips.get(address).filter(|owner| &*owner.kind != "Service")
    }

    /// Whom an address means, asked from a namespace. The cluster's objects are believed before the
    /// names of services, and these before who answered (`answered`, as called here).
    pub fn address(
        &self,
        address: &str,
        namespace: &str,
        answered: Option<Entity>,
        cluster: &Cluster,
    ) -> Meant {
        let host = host(address);
        if let Ok(ip) = host.parse::<IpAddr>() {
            let owner = self.ips.get(&ip.to_canonical()).cloned();
            let owner = owner.map(|owner| match &*owner.kind {
                "Service" => self.voice(&owner),
                _ => self.front(&owner),
            });
            return owner
                .or(answered)
                .map_or_else(|| Meant::Outside(Entity::new("Service", "", host)), Meant::Inside);
        }
        let (places, certain) = places(host, namespace);
        let mut places = places.into_iter().map(|(ns, name)| Entity::new("Service", ns, name));
        let found = places.find_map(|service| match cluster.object(&service) {
            Some(object) => Some(match object.pointer("/spec/externalName") {
                Some(elsewhere) => Meant::Outside(Entity::new(
                    "Service",
                    "",
                    elsewhere.as_str().unwrap_or_default().trim_end_matches('.'),
                )),
                None => Meant::Inside(self.voice(&service)),
            }),
            None => self.speaks(&service).then_some(Meant::Inside(service)),
        });
        let whole = || Entity::new("Service", namespace, host);
        // Where no cluster is seen a name is a name, whichever namespace it is asked from.
        let alone = || {
            let (_, name) = certain.or((!host.contains('.')).then_some((namespace, host)))?;
            let all = self.speaking.get(name).filter(|all| all.len() == 1)?;
            all.first().filter(|_| cluster.is_empty()).cloned()
        };
        found
            .or_else(|| self.speaks(&whole()).then(|| Meant::Inside(whole())))
            .or_else(|| answered.map(Meant::Inside))
            .or_else(|| alone().map(Meant::Inside))
            .unwrap_or_else(|| {
                let (ns, name) = certain.unwrap_or(match host.contains('.') {
                    true => ("", host),
                    false => (namespace, host),
                });
                Meant::Outside(Entity::new("Service", ns, name))
            })
    }

    /// The service that speaks for a workload.
    fn front(&self, workload: &Entity) -> Entity {
        let first = self.fronts(workload).first().cloned();
        first.unwrap_or_else(|| Entity::new("Service", &workload.namespace, &workload.name))
    }

    /// The service that speaks behind a Kubernetes Service: itself, unless all behind it runs as one
    /// other.
    fn voice(&self, service: &Entity) -> Entity {
        if self.speaks(service) {
            return service.clone();
        }
        let mut voices: BTreeSet<Entity> =
            self.workloads(service).iter().map(|home| self.front(home)).collect();
        match (voices.pop_first(), voices.is_empty()) {
            (Some(voice), true) => voice,
            _ => service.clone(),
        }
    }
}

impl Sighting {
    /// True when that is new.
    fn stays(&mut self, home: Entity, now: Time) -> bool {
        if self.homes.len() >= MOST_HOMES && !self.homes.contains_key(&home) {
            let oldest = self.homes.iter().min_by_key(|(_, last)| **last);
            if let Some(oldest) = oldest.map(|(home, _)| home.clone()) {
                self.homes.remove(&oldest);
            }
        }
        self.homes.insert(home, now).is_none()
    }

    /// The workloads it was seen on of late: counted from its own newest, so that silence forgets none.
    fn now(&self) -> Vec<Entity> {
        let newest = self.homes.values().max().copied().unwrap_or_default();
        let late = self.homes.iter().filter(|(_, last)| **last + STALE >= newest);
        late.map(|(home, _)| home.clone()).collect()
    }
}

/// The workloads of a name in this namespace, or where only one namespace has any: as they declare it,
/// else as they are called, else as they are labelled.
fn by_name(
    names: &[BTreeMap<Arc<str>, BTreeSet<Entity>>],
    name: &str,
    namespace: Option<&str>,
) -> Vec<Entity> {
    let within = |home: &&Entity| namespace.is_none_or(|ns| *home.namespace == *ns);
    let mut known = names.iter().filter_map(|names| {
        let homes: Vec<Entity> = names.get(name)?.iter().filter(within).cloned().collect();
        (!homes.is_empty()).then_some(homes)
    });
    let homes = known.next().unwrap_or_default();
    let alone =
        homes.iter().all(|home| homes.first().is_some_and(|f| f.namespace == home.namespace));
    if alone { homes } else { Vec::new() }
}

/// The host in an address as clients write it: without scheme, port, brackets and the root's dot.
fn host(address: &str) -> &str {
    let address = address.rsplit('/').next().unwrap_or(address);
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => match address.split_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => address,
        },
    };
    host.trim_end_matches('.')
}

/// Namespace and name of a Service.
type Place<'a> = (&'a str, &'a str);

/// Namespace and name of the Services that a host name can mean, asked from a namespace, the way the
/// cluster's resolver searches; and the one that it must mean, where the name says so itself.
fn places<'a>(host: &'a str, namespace: &'a str) -> (Vec<Place<'a>>, Option<Place<'a>>) {
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        // service.namespace.svc[.cluster.local], and with the pod of a headless Service before it
        [name, ns, "svc", ..] | [_, name, ns, "svc", ..] => (vec![(ns, name)], Some((ns, name))),
        [name] => (vec![(namespace, name)], None),
        [first, second] => (vec![(second, first), (namespace, second)], None),
        [_, name, ns] => (vec![(ns, name)], None),
        _ => (Vec::new(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Verb;
    use serde_json::{Value, json};

    const NOW: Time = Time(1_795_316_400_000_000_000);

    fn object(cluster: &mut Cluster, kind: &str, path: &str, rest: Value) {
        let (namespace, name) = path.split_once('/').unwrap();
        let mut object = json!({"kind": kind, "metadata": {"namespace": namespace, "name": name,
            "uid": format!("{kind} {path}"), "resourceVersion": "1"}});
        let fields = rest.as_object().unwrap().clone();
        object.as_object_mut().unwrap().extend(fields);
        cluster.observe(Verb::Listed, object, NOW, &mut Vec::new());
    }

    fn deployment(cluster: &mut Cluster, path: &str, app: &str, env: Value) {
        let template = json!({"metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"name": "main", "env": env}]}});
        object(cluster, "Deployment", path, json!({"spec": {"template": template}}));
    }

    /// Deployment payment-v2 in `shop` and in `test`, behind the Service payment, with a pod in `shop`.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (namespace, ip) in [("shop", "10.96.0.7"), ("test", "10.96.0.8")] {
            deployment(&mut cluster, &format!("{namespace}/payment-v2"), "pay", json!([]));
            let spec = json!({"selector": {"app": "pay"}, "clusterIP": ip});
            object(&mut cluster, "Service", &format!("{namespace}/payment"), json!({"spec": spec}));
        }
        let owner =
            json!({"kind": "ReplicaSet", "name": "payment-v2-7d9c5b8f6d", "controller": true});
        let pod = json!({"kind": "Pod", "status": {"podIP": "10.0.0.9"}, "spec": {"containers": []},
            "metadata": {"namespace": "shop", "name": POD, "ownerReferences": [owner]}});
        cluster.observe(Verb::Listed, pod, NOW, &mut Vec::new());
        cluster
    }

    fn home(namespace: &str, name: &str) -> Entity {
        Entity::new("Deployment", namespace, name)
    }

    fn service(namespace: &str, name: &str) -> Entity {
        Entity::new("Service", namespace, name)
    }

    fn knowing(cluster: &Cluster, claims: &[Claim<'_>]) -> Identity {
        let mut identity = Identity::default();
        claims.iter().for_each(|claim| identity.saw(claim, cluster, NOW));
        identity.refresh(cluster, NOW);
        identity
    }

    fn placed<'a>(service: &'a str, pod: &'a str) -> Claim<'a> {
        Claim { service, namespace: "shop", placed: true, workload: None, pod, spans: true }
    }

    const POD: &str = "payment-v2-7d9c5b8f6d-x2x4z";

    #[test]
    fn whatever_way_a_service_is_addressed_it_is_the_one_that_speaks() {
        let cluster = cluster();
        let identity = knowing(&cluster, &[placed("pay-svc", POD)]);
        let pay = service("shop", "pay-svc");
        assert_eq!(identity.workloads(&pay), [home("shop", "payment-v2")]);
        let fronts = [pay.clone(), service("shop", "payment")];
        assert_eq!(identity.fronts(&home("shop", "payment-v2")), fronts);
        let from = |namespace, address| identity.address(address, namespace, None, &cluster);
        for address in [
            "payment",
            "payment:8080",
            "payment.shop",
            "payment.shop.svc",
            "10.0.0.9",
            "payment.shop.svc.cluster.local.",
            "dns:///payment.shop:80",
            "p-0.payment.shop.svc.c.d",
            "10.96.0.7",
            "[::ffff:10.96.0.7]:80",
            "pay-svc",
        ] {
            assert_eq!(from("shop", address), Meant::Inside(pay.clone()), "{address}");
        }
        let test = Meant::Inside(service("test", "payment"));
        assert_eq!((from("test", "payment"), from("shop", "payment.test")), (test.clone(), test));
        for address in ["api.payment.com", "8.8.8.8", "10.0.0.10"] {
            assert_eq!(from("shop", address), Meant::Outside(service("", address)));
        }
        assert_eq!(from("shop", "redis"), Meant::Outside(service("shop", "redis")));
        assert_eq!(from("a", "x.shop.svc"), Meant::Outside(service("shop", "x")));
        let answered = identity.address("172.16.0.1", "shop", Some(pay.clone()), &cluster);
        assert_eq!(answered, Meant::Inside(pay));
    }

    #[test]
    fn a_service_without_a_namespace_has_its_one_pods_or_its_one_names() {
        let mut cluster = cluster();
        let declared = json!([{"name": "OTEL_SERVICE_NAME", "value": "billing"}]);
        deployment(&mut cluster, "back/worker", "worker", declared);
        deployment(&mut cluster, "back/mail", "mail", json!([]));
        let bare = |service, namespace, pod| Claim { service, namespace, pod, ..Claim::default() };
        let identity = knowing(
            &cluster,
            &[
                bare("by-pod", "", POD),
                bare("billing", "", "some-host"),
                bare("mail", "team-a", ""),
                bare("payment", "", ""),
                bare("unknown", "", ""),
            ],
        );
        let home_of = |told: (&str, &str)| {
            let service = identity.service(told.0, told.1);
            (service.path(), identity.workloads(&service).first().map(Entity::path))
        };
        let found = |service: &str, home: &str| (service.to_owned(), Some(home.to_owned()));
        assert_eq!(home_of(("", "by-pod")), found("shop/by-pod", "shop/payment-v2"));
        assert_eq!(home_of(("", "billing")), found("back/billing", "back/worker"));
        assert_eq!(home_of(("team-a", "mail")), found("back/mail", "back/mail"));
        assert_eq!(home_of(("", "payment")), ("payment".to_owned(), None), "there are two");
        assert_eq!(home_of(("", "unknown")), ("unknown".to_owned(), None));
    }

    #[test]
    fn one_workload_runs_as_many_services_and_one_service_on_many_workloads() {
        let mut cluster = cluster();
        deployment(&mut cluster, "shop/canary", "canary", json!([]));
        let canary = Claim { workload: Some(("Deployment", "canary")), ..placed("pay-svc", "") };
        let identity = knowing(&cluster, &[placed("pay-svc", POD), placed("refunds", POD), canary]);
        let names: Vec<_> =
            identity.fronts(&home("shop", "payment-v2")).iter().map(|f| &*f.name).collect();
        assert_eq!(names, ["pay-svc", "refunds", "payment"]);
        let homes = [home("shop", "canary"), home("shop", "payment-v2")];
        assert_eq!(identity.workloads(&service("shop", "pay-svc")), homes);
    }

    #[test]
    fn without_a_cluster_names_are_services() {
        let cluster = Cluster::default();
        let bare = |service| Claim { service, ..Claim::default() };
        let identity = knowing(&cluster, &[bare("cart"), bare("pay")]);
        let from = |address| identity.address(address, "", None, &cluster);
        assert_eq!(from("cart"), Meant::Inside(service("", "cart")));
        assert_eq!(from("cart.shop.svc.cluster.local"), Meant::Inside(service("", "cart")));
        assert_eq!(from("pay.example.com"), Meant::Outside(service("", "pay.example.com")));
    }

    #[test]
    fn a_service_that_selects_nothing_any_more_still_means_who_was_behind_it() {
        let mut cluster = cluster();
        let mut identity = knowing(&cluster, &[placed("pay-svc", POD)]);
        let value = json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "payment",
            "uid": "Service shop/payment", "resourceVersion": "2"}, "spec": {"selector": {"app": "x"}}});
        cluster.observe(Verb::Modified, value, NOW, &mut Vec::new());
        identity.refresh(&cluster, NOW);
        let meant = identity.address("payment", "shop", None, &cluster);
        assert_eq!(meant, Meant::Inside(service("shop", "pay-svc")));
        assert!(identity.fronts(&home("shop", "payment-v2")).contains(&service("shop", "payment")));
    }

    /// Guarantees: where spans come, metrics and logs speak for workloads of which these tell nothing; of one that
    /// they know they go by its name, and what has no place could be any. Without spans they speak for all.
    #[test]
    fn what_sends_no_spans_is_known_by_its_metrics_and_logs() {
        let mut cluster = cluster();
        deployment(&mut cluster, "shop/mail", "mail", json!([]));
        let hearsay = |service, workload| {
            let workload = Some(("Deployment", workload));
            Claim { spans: false, workload, ..placed(service, "") }
        };
        let bare = Claim { service: "somebody", ..Claim::default() };
        let said = [hearsay("pay-metrics", "payment-v2"), hearsay("mailer", "mail"), bare];
        let alone = knowing(&cluster, &said);
        assert!(["pay-metrics", "mailer"].iter().all(|name| alone.is_untraced("shop", name)));
        assert_eq!(alone.workloads(&service("shop", "pay-metrics")), [home("shop", "payment-v2")]);

        let both = [&said[..], &[placed("pay-svc", POD)]].concat();
        let identity = knowing(&cluster, &both);
        assert_eq!(identity.service("shop", "pay-metrics"), service("shop", "pay-svc"));
        assert!(!identity.is_untraced("shop", "pay-metrics"));
        assert!(identity.is_untraced("shop", "mailer"));
        assert_eq!(identity.workloads(&service("shop", "mailer")), [home("shop", "mail")]);
        assert!(!identity.is_untraced("", "somebody"));
        assert!(!identity.speaks(&service("", "somebody")));
    }
}
