//! Log records into the engine: Kubernetes' objects and events, changes, and what services say.

use tapio_proto::{
    Signal,
    model::{Entity, Event, Severity, Time},
    view::{LogView, Record, RequestView},
};

use super::{FEW, Origin, log_time};
use crate::{
    correlation::{
        identity::{Identity, Meant},
        suspects::is_domain,
    },
    engine::Engine,
    kubernetes::Cluster,
    requests::Line,
    streaming::{Voice, hosts, said, signature, template},
    validator::{Reason, Within},
};

/// The least severity of a warning.
const WARNING: u8 = 13;
/// Lines kept as they are of a cluster that is told of once.
const MOST_SAID: usize = 1_000;
/// Characters of a log line that are kept as a fact.
const LINE: usize = 300;

/// Who says a line, as far as that is known.
struct Speaker {
    service: Entity,
    /// The service as which it fails: where it does not name itself, that of its workload.
    voice: Entity,
    workload: Option<Entity>,
    /// Of the workload, or else of the service.
    name: String,
}

impl Engine {
    /// Takes log records in.
    pub(crate) fn logs(&mut self, bytes: &[u8]) {
        let mut facts = Vec::new();
        for resource in RequestView::new(Signal::Logs, bytes).resources().flatten() {
            let (mut newest, mut lines) = (None, false);
            let view = resource.resource();
            let origin = Origin::of(&view);
            let mut within = Within::of(&self.clock);
            let mut speaker = None;
            self.columns.logs.resource(&view);
            for scope in resource.scopes().flatten() {
                let every = 1_u32 << self.lines.shift(self.clock.now());
                let (mut looked, mut passed) = (0, 0);
                let mut records = scope.records();
                // Objects and events are news each by itself.
                let few = if scope.name().contains("k8s") || scope.name() == "tapio.change" {
                    usize::MAX
                } else {
                    FEW
                };
                loop {
                    // In a flood a few are looked at for themselves, and whatever is bad.
                    if looked >= few && passed + 1 < every && records.pass_below(WARNING) {
                        passed += 1;
                        self.sampled += 1;
                        continue;
                    }
                    let log = match records.next() {
                        Some(Ok(Record::Log(log))) => log,
                        Some(_) => continue,
                        None => break,
                    };
                    let time = log_time(&log);
                    newest = newest.max(Some(time));
                    let refused = self.cluster.losses().refused;
                    if self.cluster.log_record(&view, scope.name(), &log, &mut facts) {
                        if self.cluster.losses().refused > refused {
                            let why = (Signal::Logs, Reason::TooLarge);
                            self.quarantine(why, time, origin.sender(), log.event_name, 1);
                        }
                        // One event or release shows no cluster; its objects do.
                        if !self.cluster.is_empty() {
                            self.sighted.insert("kubernetes");
                        }
                        continue;
                    }
                    lines = true;
                    looked += 1;
                    let good = log.severity_number < i32::from(WARNING);
                    let others = if good { std::mem::take(&mut passed) } else { 0 };
                    if !within.holds(time)
                        && let Some(wrong) = self.wrong_time(time, &mut within, &origin, &resource)
                    {
                        let text = log.body.and_then(|body| body.as_str()).unwrap_or_default();
                        let why = (Signal::Logs, wrong);
                        self.quarantine(why, time, origin.sender(), text, 1 + others);
                        continue;
                    }
                    self.columns.logs.push(&log, 1 + others);
                    if speaker.is_none() {
                        self.saw(&origin, false);
                    }
                    let speaker = speaker.get_or_insert_with(|| self.speaker(&origin));
                    self.line(&origin, speaker, &log, (time, 1 + others));
                }
                self.lines.took(looked as u64);
            }
            if lines {
                self.sighted.insert("logs");
            }
            if !within.said {
                self.says(&origin, newest);
            }
        }
        self.take(facts);
    }

    /// Who says what comes from there.
    fn speaker(&self, origin: &Origin<'_>) -> Speaker {
        let service = self.identity.service(origin.namespace, origin.service);
        let namespace = if origin.placed { origin.namespace } else { &*service.namespace };
        let workload = match origin.workload {
            Some((kind, name)) => Some(Entity::new(kind, namespace, name)),
            None => self
                .cluster
                .workload_of(namespace, origin.pod)
                .or_else(|| self.identity.workloads(&service).first().cloned()),
        };
        let name = match &workload {
            Some(workload) => workload.to_string(),
            None => service.path(),
        };
        let voice = match &workload {
            Some(workload) if service.name.is_empty() => {
                let front = self.identity.fronts(workload).first().cloned();
                front.unwrap_or_else(|| Entity::new("Service", namespace, &workload.name))
            }
            _ => service.clone(),
        };
        Speaker { service, voice, workload, name }
    }

    /// Counts a line for what it tells of its service, and of those whom it names in an error.
    fn complaint(
        &mut self,
        speaker: &Speaker,
        body: &str,
        (time, lines): (Time, u32),
        error: bool,
    ) {
        let voice = &speaker.voice;
        if voice.name.is_empty() {
            return;
        }
        self.complaints.add(voice, Voice::Own, (time, lines), error.then_some(body));
        for host in if error { hosts(body) } else { Vec::new() } {
            let meant = self.identity.address(host, &voice.namespace, None, &self.cluster);
            let named = match meant {
                Meant::Inside(callee) => (callee != *voice).then_some(callee),
                Meant::Outside(named) => beyond(named, body, host),
            };
            if let Some(callee) = named {
                self.complaints.add(&callee, Voice::Others, (time, lines), Some(body));
                self.complaints.calls(voice, &callee, time);
            }
        }
    }

    /// A line that its service has not said before is a fact.
    fn line(
        &mut self,
        origin: &Origin<'_>,
        speaker: &Speaker,
        log: &LogView<'_>,
        (time, lines): (Time, u32),
    ) {
        let Some((body, severity)) = said(log) else { return };
        let body = &*body;
        let template = template(body);
        let error = severity == Severity::Error;
        self.request_line(origin, log, (&template, body), error);
        self.complaint(speaker, body, (time, lines), error);
        // Of a cluster of which no more is told than what there is, its errors are told as well.
        let snapshot = error && self.cluster.is_snapshot() && !self.sighted.contains("traces");
        let since = self.began.filter(|_| error);
        let new = self.templates.is_new(&speaker.name, &template, since, time);
        if !(new || snapshot && self.said < MOST_SAID) {
            return;
        }
        self.said += usize::from(!new);
        let Speaker { service, workload, .. } = speaker;
        let namespace = if origin.placed { origin.namespace } else { &*service.namespace };
        let on = match (workload, origin.pod) {
            (_, pod) if !pod.is_empty() => Entity::new("Pod", namespace, pod),
            (Some(workload), _) => workload.clone(),
            (None, _) => service.clone(),
        };
        let what = match severity {
            _ if !new => "log.said",
            Severity::Info => "log.new",
            _ => "log.error",
        };
        self.found(Event {
            message: body.chars().take(LINE).collect(),
            container: origin.container.to_owned(),
            node: origin.node.to_owned(),
            ..Event::new(("logs", what), severity, (&on, workload.as_ref()), time)
        });
    }

    /// Keeps what its request needs of a log line.
    fn request_line(
        &mut self,
        origin: &Origin<'_>,
        log: &LogView<'_>,
        (template, body): (&str, &str),
        error: bool,
    ) {
        let now = self.clock();
        let Ok(span) = log.span_id.try_into() else { return };
        if log.trace_id.len() != 16 || !self.requests.wants(log.trace_id, now) {
            return;
        }
        let kind = if error { signature(body, template) } else { template.to_owned() };
        let named = error && kind != template;
        let service = self.requests.service(origin.namespace, origin.service, now);
        let template = self.requests.template(&kind, body, now);
        if let (Some(service), Some(template)) = (service, template) {
            let line = Line { span, service, template, error, named };
            self.requests.line(log.trace_id, line, now);
        }
    }
}

/// Does a line speak of a request to a host outside of what runs here?
pub(crate) fn asked_beyond(line: &str, identity: &Identity, cluster: &Cluster) -> bool {
    hosts(line).into_iter().any(|host| match identity.address(host, "", None, cluster) {
        Meant::Outside(named) => beyond(named, line, host).is_some(),
        Meant::Inside(_) => false,
    })
}

/// The host outside that a line names as `host`, if it speaks of a request to it: files have names like hosts.
fn beyond(named: Entity, line: &str, host: &str) -> Option<Entity> {
    let before = |at: usize| line[..at].ends_with("://") || line[..at].ends_with("lookup ");
    let asks = |(at, _)| before(at) || line[at + host.len()..].starts_with(":443");
    (is_domain(&named) && line.match_indices(host).any(asks)).then_some(named)
}
