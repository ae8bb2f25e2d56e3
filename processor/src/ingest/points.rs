//! Data points into the engine: requests that are counted, what pods and nodes use, and what fills.

use tapio_proto::{
    Signal, attr,
    model::{Entity, Time},
    view::{MetricKind, MetricView, PointView, Record, RequestView, ResourceView},
};

use super::Origin;
use crate::{
    correlation::identity::Claim,
    engine::Engine,
    streaming::{Content, Gauge, Labels, Meaning, Metric, Named, Resource, Vessel, vessel},
    validator::{Within, wrong_point},
};

/// Calls between services, as the Collector's servicegraph connector and others count them.
const SERVICE_GRAPH: &str = "traces_service_graph_request_total";

/// What the points of a metric are read as, by its name and unit.
struct Reading {
    /// It tells of a node's processors.
    node: bool,
    requests: Option<Metric>,
    /// Its points are what was gained since the last ones.
    gain: bool,
    /// Its points are edges between services.
    calls: bool,
    /// How its service does, where nothing closer is told.
    meaning: Option<Meaning>,
    /// How a pod strains, and the factor to the unit of the gauge.
    strain: Option<(Gauge, f64)>,
    /// Points only grow while their sender lives.
    counts: bool,
    vessel: Option<(Vessel, Content)>,
    resource: Option<Resource>,
}

impl Engine {
    /// Takes data points in.
    pub(crate) fn points(&mut self, bytes: &[u8]) {
        let mut facts = Vec::new();
        for resource in RequestView::new(Signal::Metrics, bytes).resources().flatten() {
            let mut newest = None;
            let view = resource.resource();
            let origin = Origin::of(&view);
            let mut within = Within::of(&self.clock);
            let mut sender = None;
            self.columns.metrics.resource(&view);
            if !origin.pod.is_empty() && !origin.node.is_empty() {
                let service = match origin.service {
                    "" => self.cluster.bearer(origin.namespace, origin.pod).map(|w| w.name),
                    name => Some(name.into()),
                };
                let service = service.unwrap_or_default();
                self.homes.saw(origin.namespace, &service, origin.node);
            }
            for scope in resource.scopes().flatten() {
                for record in scope.records().flatten() {
                    let Record::Metric(metric) = record else { continue };
                    self.cluster.metric(&view, &metric, &mut facts);
                    let reading = self.reading(&origin, &metric);
                    if reading.node {
                        self.node(&origin, &metric);
                    }
                    for point in metric.points().flatten() {
                        let time = Time::from_unix_nano(point.time_unix_nano);
                        newest = newest.max(Some(time));
                        let mut wrong = wrong_point(metric.name, &point);
                        if wrong.is_none() && !within.holds(time) {
                            wrong = self.wrong_time(time, &mut within, &origin, &resource);
                        }
                        if let Some(wrong) = wrong {
                            let why = (Signal::Metrics, wrong);
                            self.quarantine(why, time, origin.sender(), metric.name, 1);
                            continue;
                        }
                        if let Some(requests) = &reading.requests {
                            let sender = *sender.get_or_insert_with(|| self.sender(&view));
                            self.requests_counted(
                                &origin,
                                requests,
                                (sender, reading.gain),
                                &point,
                            );
                        }
                        if reading.calls {
                            self.call(&origin, &point);
                        }
                        self.columns.metrics.push(&metric, &point);
                        if let Some(value) = point.value.as_f64() {
                            self.gauge((&origin, &view), &reading, &point, (time, value));
                        }
                    }
                }
            }
            if newest.is_some() {
                self.sighted.insert("metrics");
            }
            if !within.said {
                self.says(&origin, newest);
            }
        }
        self.take(facts);
    }

    /// What a metric of this origin is read as.
    fn reading(&mut self, origin: &Origin<'_>, metric: &MetricView<'_>) -> Reading {
        let named = self.strains.named(metric.name);
        let gain = metric.temporality == 1;
        let meaning = Meaning::of(metric.name, metric.unit, gain);
        let strain = strain_of(metric, meaning, origin.container, named);
        let meaning = meaning.filter(|_| !origin.service.is_empty() && origin.pod.is_empty());
        Reading {
            node: named.node,
            requests: Metric::of(metric.name, metric.unit).filter(|_| is_count(metric)),
            gain,
            calls: meaning.is_none() && metric.name.starts_with(SERVICE_GRAPH),
            meaning,
            strain,
            counts: metric.is_monotonic && metric.temporality == 2,
            vessel: vessel(metric.name),
            resource: Resource::of_metric(metric.name),
        }
    }

    /// Takes a value in as whatever its metric is read as.
    fn gauge(
        &mut self,
        (origin, resource): (&Origin<'_>, &ResourceView<'_>),
        reading: &Reading,
        point: &PointView<'_>,
        (time, value): (Time, f64),
    ) {
        if let Some(meaning) = reading.meaning.filter(|_| is_mean(point)) {
            let service = Entity::new("Service", origin.namespace, origin.service);
            self.series.add(&service, meaning, time, value);
        }
        if let Some((gauge, scale)) = &reading.strain {
            self.strain(origin, gauge, (time, value * scale, reading.counts), point);
        }
        if let Some(of) = reading.vessel {
            self.fills((origin, resource), of, point, (time, value));
        }
        if let Some(kind) = reading.resource {
            self.grows(origin, kind, time, value);
            let Origin { namespace, pod, container, .. } = *origin;
            self.levels.add(namespace, pod, container, kind, time, value);
        }
    }

    /// What tells a resource from others.
    fn sender(&self, resource: &ResourceView<'_>) -> u64 {
        self.measures.identity(resource.attributes())
    }

    /// Counts the requests that a metric tells of, of services whose spans do not come: these tell more, and may
    /// go by another name of the same service.
    fn requests_counted(
        &mut self,
        origin: &Origin<'_>,
        metric: &Metric,
        sender: (u64, bool),
        point: &PointView<'_>,
    ) {
        let mut labels = Labels::default();
        for attribute in point.attributes().flatten() {
            let text = attribute.value.as_str().unwrap_or_default();
            labels.take(attribute.key, text, attribute.value.as_int());
        }
        let Some(mut whose) = labels.whose(metric.known.side) else { return };
        let placed = origin.placed || !whose.service[0].is_empty();
        let own = match (origin.service, origin.workload) {
            ("", Some((_, name))) => name,
            (name, _) => name,
        };
        let by_label = !whose.service[1].is_empty();
        for (said, else_) in whose.service.iter_mut().zip([origin.namespace, own]) {
            *said = if said.is_empty() { else_ } else { *said };
        }
        let [namespace, name] = whose.service;
        if name.is_empty() {
            return;
        }
        let now = self.clock();
        // What a label names need not be where the metric was measured.
        let here = name == origin.service || !by_label;
        let claim = Claim {
            service: name,
            namespace,
            placed,
            workload: origin.workload.filter(|_| here),
            pod: if here { origin.claim().pod } else { "" },
            spans: false,
        };
        self.identity.saw(&claim, &self.cluster, now);
        if !self.identity.is_untraced(namespace, name) {
            return;
        }
        let Some(service) = self.windows.service(namespace, name, now) else { return };
        let counts = self.measures.counts(metric, (service, whose.kind), now);
        let Some(gain) = self.measures.gain(metric, sender, point, now).filter(|_| counts) else {
            return;
        };
        let ended = (&*labels.operation(), labels.failed());
        self.windows.add_counted(&gain.counted(service, &whose, ended, now));
    }

    /// Keeps how full a vessel is.
    fn fills(
        &mut self,
        (origin, resource): (&Origin<'_>, &ResourceView<'_>),
        of: (Vessel, Content),
        point: &PointView<'_>,
        (time, value): (Time, f64),
    ) {
        let said = |keys: &[&str]| {
            let all = resource.attributes().flatten().chain(point.attributes().flatten());
            let mut named = all.filter(|attribute| keys.contains(&attribute.key));
            named.find_map(|attribute| attribute.value.as_str()).unwrap_or_default()
        };
        let in_use = said(&["state", "db.client.connection.state", "db_client_connection_state"]);
        if !matches!(in_use, "" | "used") {
            return;
        }
        let instance = match origin.pod {
            "" => said(&["service.instance.id", "host.name"]),
            pod => pod,
        };
        match of.0 {
            Vessel::NodeDisk | Vessel::NodeMemory if !origin.node.is_empty() => {
                self.fills.add(of, (&Entity::new("Node", "", origin.node), "", ""), time, value);
            }
            Vessel::Volume => {
                // Others share the disk of their node.
                let claim = said(&["k8s.persistentvolumeclaim.name"]);
                let workload = self.cluster.bearer(origin.namespace, origin.pod);
                if let Some(workload) = workload.filter(|_| !claim.is_empty()) {
                    self.fills.add(of, (&workload, instance, claim), time, value);
                }
            }
            Vessel::Pool | Vessel::Files if !origin.service.is_empty() => {
                let service = self.identity.service(origin.namespace, origin.service);
                let pool = said(&[
                    "db.client.connection.pool.name",
                    "db_client_connection_pool_name",
                    "pool.name",
                    "pool_name",
                    "pool",
                ]);
                self.saw(origin, false);
                self.fills.add(of, (&service, instance, pool), time, value);
            }
            _ => {}
        }
    }

    /// Keeps how full the memory of a container is, where its limit and its workload are known.
    fn grows(&mut self, origin: &Origin<'_>, kind: Resource, time: Time, value: f64) {
        let (namespace, pod, container) = (origin.namespace, origin.pod, origin.container);
        if kind != Resource::Memory || pod.is_empty() {
            return;
        }
        let limit = self.cluster.memory_limit(namespace, pod, container);
        let Some(limit) = limit.filter(|limit| *limit > 0.0) else { return };
        if let Some(workload) = self.cluster.bearer(namespace, pod) {
            self.fills.share(&workload, pod, container, time, value / limit);
        }
    }

    /// Keeps what the processors of a node do.
    fn node(&mut self, origin: &Origin<'_>, metric: &MetricView<'_>) {
        if !origin.pod.is_empty() {
            return;
        }
        let node = if origin.node.is_empty() { origin.host } else { origin.node };
        if node.is_empty() {
            return;
        }
        let gauge = Gauge::Node(metric.name.to_owned());
        for point in metric.points().flatten() {
            let idle = point.attributes().flatten().any(|attribute| {
                matches!(attribute.key, "state" | "mode" | "cpu.mode")
                    && attribute.value.as_str().is_some_and(|state| state != "user")
            });
            if let Some(value) = point.value.as_f64().filter(|_| !idle && !metric.is_monotonic) {
                let time = Time::from_unix_nano(point.time_unix_nano);
                self.strains.add_node(node, &gauge, (time, value));
            }
        }
    }

    /// Keeps a point of what a pod uses, or of how long it takes to answer: in the mean, or for the slower ones. Who
    /// scrapes others names them by attributes of the point.
    fn strain(
        &mut self,
        origin: &Origin<'_>,
        gauge: &Gauge,
        (time, value, counts): (Time, f64, bool),
        point: &PointView<'_>,
    ) {
        let uses = matches!(gauge, Gauge::Used(..));
        let (mut namespace, mut pod, mut container) = (origin.namespace, origin.pod, "");
        for attribute in point.attributes().flatten() {
            let text = attribute.value.as_str().unwrap_or_default();
            match attribute.key {
                "quantile" | "percentile" if attribute.value.as_f64() == Some(0.9) => {}
                "namespace" | attr::K8S_NAMESPACE_NAME if uses => namespace = text,
                "pod" | "pod_name" | attr::K8S_POD_NAME if uses => pod = text,
                "container" | "container_name" if uses => container = text,
                "quantile" | "percentile" => return,
                _ if uses => {}
                _ => return,
            }
        }
        // The sandbox that holds a pod's network does nothing itself.
        if container == "POD" {
            return;
        }
        let named = if pod == origin.pod { origin.service } else { "" };
        let service = match (named, origin.workload) {
            ("", Some((_, name))) if pod == origin.pod => Entity::new("Service", namespace, name),
            ("", _) if pod.is_empty() => return,
            ("", _) => match self.cluster.bearer(namespace, pod) {
                Some(workload) => Entity::new("Service", namespace, &workload.name),
                None => return,
            },
            (name, _) => Entity::new("Service", namespace, name),
        };
        let gauge = match gauge {
            Gauge::Used(want, name) if !container.is_empty() => {
                Gauge::Used(*want, format!("{name} {container}"))
            }
            other => other.clone(),
        };
        self.strains.add((&service, pod), gauge, (time, value), counts);
    }

    /// Learns a call from a point of a service graph.
    fn call(&mut self, origin: &Origin<'_>, point: &PointView<'_>) {
        let (mut caller, mut callee) = (None, None);
        for attribute in point.attributes().flatten() {
            let name = attribute.value.as_str().filter(|name| !name.is_empty());
            match attribute.key {
                "client" => caller = name,
                "server" => callee = name,
                _ => {}
            }
        }
        if let (Some(caller), Some(callee)) = (caller, callee) {
            let service = |name: &str| Entity::new("Service", origin.namespace, name);
            self.series.calls(service(caller), service(callee));
        }
    }
}

/// What a gauge says of how a pod strains, and in which unit; answers of one statistic by itself.
fn strain_of(
    metric: &MetricView<'_>,
    meaning: Option<Meaning>,
    container: &str,
    named: Named,
) -> Option<(Gauge, f64)> {
    match meaning {
        Some(Meaning::Latency(scale)) => Some((Gauge::Answer(metric.name.to_owned()), scale)),
        Some(Meaning::Wait) => Some((Gauge::Wait(metric.name.to_owned()), 1.0)),
        _ => Gauge::of_cpu(metric.name, container)
            .or_else(|| Some(Gauge::of_use(named.want?, metric.name, container)))
            .map(|gauge| (gauge, 1.0)),
    }
}

/// May a metric count?
fn is_count(metric: &MetricView<'_>) -> bool {
    match metric.kind {
        MetricKind::Sum => metric.is_monotonic,
        MetricKind::Histogram | MetricKind::ExponentialHistogram | MetricKind::Summary => true,
        _ => false,
    }
}

/// Is this the mean or the sum, where a metric comes as several statistics?
fn is_mean(point: &PointView<'_>) -> bool {
    point.attributes().flatten().all(|attribute| match attribute.key {
        "statistic" | "stat" => attribute.value.as_str().is_some_and(|name| {
            ["average", "avg", "mean", "sum"].iter().any(|mean| name.eq_ignore_ascii_case(mean))
        }),
        "quantile" | "percentile" => false,
        _ => true,
    })
}
