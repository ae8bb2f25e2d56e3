//! What metrics of requests are called by those who write them, and by which attributes they say more: the one
//! place where that is written down.

use super::super::SpanKind;

/// On which side of a request a metric is measured, and who is who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// By the service that answers.
    Served,
    /// By the service that asks; the other side is an attribute.
    Asked,
    /// By the service that sends a message.
    Sent,
    /// By the service that takes one.
    Taken,
    /// As the attribute with the span's kind says.
    ByKind,
    /// By a proxy beside either, as `reporter` says.
    Mesh,
    /// By a proxy before the service that `service` names.
    Ingress,
}

/// What a metric tells of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// How many there were and how long they took.
    Both,
    /// How many there were.
    Counts,
    /// How long they took; another metric counts them.
    Durations,
}

/// A metric of requests.
#[derive(Debug)]
pub struct Known {
    /// Its name with `_` for `.`, without a unit and without `_total`, `_count`, `_sum`.
    name: &'static str,
    /// Which requests: of two metrics of the same ones that a service sends the one with the lower rank is
    /// taken; the empty protocol is all of them.
    protocol: &'static str,
    rank: u8,
    /// Who measures.
    pub side: Side,
    /// What it tells.
    pub tells: Tells,
    /// Seconds in one of its unit, where neither its name nor its unit says it.
    seconds: f64,
}

macro_rules! known {
    ($($rank:literal $protocol:literal $name:literal $side:ident $tells:ident $seconds:literal;)*) => {
        &[$(Known {
            name: $name,
            protocol: $protocol,
            rank: $rank,
            side: Side::$side,
            tells: Tells::$tells,
            seconds: $seconds,
        }),*]
    };
}

/// All there are: rank, protocol, name, side, what it tells, seconds in its unit.
const KNOWN: &[Known] = known! {
    // Semantic conventions of OpenTelemetry, as they are and as Prometheus spells them.
    0 "http" "http_server_request_duration" Served Both 1.0;
    0 "http" "http_client_request_duration" Asked Both 1.0;
    0 "rpc" "rpc_server_call_duration" Served Both 1.0;
    0 "rpc" "rpc_client_call_duration" Asked Both 1.0;
    0 "db" "db_client_operation_duration" Asked Both 1.0;
    0 "messaging" "messaging_process_duration" Taken Both 1.0;
    0 "messaging" "messaging_client_operation_duration" Sent Both 1.0;
    // The same before they were stable.
    1 "http" "http_server_duration" Served Both 1e-3;
    1 "http" "http_client_duration" Asked Both 1e-3;
    1 "rpc" "rpc_server_duration" Served Both 1e-3;
    1 "rpc" "rpc_client_duration" Asked Both 1e-3;
    1 "messaging" "messaging_publish_duration" Sent Both 1.0;
    // The Collector's spanmetrics connector, now and before, and Tempo's metrics generator.
    2 "" "traces_span_metrics_calls" ByKind Counts 1.0;
    2 "" "traces_span_metrics_duration" ByKind Durations 1e-3;
    3 "" "calls" ByKind Counts 1.0;
    3 "" "duration" ByKind Durations 1e-3;
    4 "" "traces_spanmetrics_calls" ByKind Counts 1.0;
    4 "" "traces_spanmetrics_latency" ByKind Durations 1.0;
    // Micrometer.
    5 "http" "http_server_requests" Served Both 1.0;
    5 "http" "http_client_requests" Asked Both 1.0;
    // Interceptors of gRPC for Prometheus.
    6 "rpc" "grpc_server_handled" Served Counts 1.0;
    6 "rpc" "grpc_server_handling" Served Durations 1.0;
    6 "rpc" "grpc_client_handled" Asked Counts 1.0;
    6 "rpc" "grpc_client_handling" Asked Durations 1.0;
    // Meshes and proxies.
    7 "" "istio_requests" Mesh Counts 1.0;
    7 "" "istio_request_duration" Mesh Durations 1e-3;
    8 "" "nginx_ingress_controller_requests" Ingress Counts 1.0;
    8 "" "nginx_ingress_controller_request_duration" Ingress Durations 1.0;
    // The habit of those who count by hand.
    9 "http" "http_request_duration" Served Both 1.0;
    10 "http" "http_requests" Served Counts 1.0;
};

/// Which part of a metric a sum is, where Prometheus' histograms come as sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The metric itself.
    Whole,
    /// How many values there were.
    Count,
    /// Their sum.
    Sum,
}

/// A metric that is known.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its row.
    pub known: &'static Known,
    /// The number of the row.
    pub row: u8,
    /// Which part of it this is.
    pub part: Part,
    /// Seconds in one of its unit.
    pub seconds: f64,
}

impl Metric {
    /// The metric of requests that has this name, and that unit.
    pub fn of(name: &str, unit: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('.', "_");
        let name = name.strip_suffix("_total").unwrap_or(&name);
        let (name, part) = match name.rsplit_once('_') {
            Some((name, "count")) => (name, Part::Count),
            Some((name, "sum")) => (name, Part::Sum),
            _ => (name, Part::Whole),
        };
        let (name, said) = match name.rsplit_once('_') {
            Some((name, "seconds")) => (name, Some(1.0)),
            Some((name, "milliseconds" | "ms")) => (name, Some(1e-3)),
            _ => (name, None),
        };
        let row = KNOWN.iter().position(|known| known.name == name)?;
        let known = KNOWN.get(row)?;
        let by_unit = match unit {
            "s" | "seconds" => Some(1.0),
            "ms" | "milliseconds" => Some(1e-3),
            "us" => Some(1e-6),
            "ns" => Some(1e-9),
            _ => None,
        };
        let seconds = said.or(by_unit).unwrap_or(known.seconds);
        Some(Metric { known, row: row as u8, part, seconds })
    }

    /// Does the other row count requests that this one counts, and come first?
    pub fn gives_way(&self, other: u8) -> bool {
        KNOWN.get(usize::from(other)).is_some_and(|other| {
            let (mine, theirs) = (self.known.protocol, other.protocol);
            other.rank < self.known.rank && (mine == theirs || mine.is_empty() || theirs.is_empty())
        })
    }
}

/// What attributes of a point say; the resource's own are not among them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Labels<'a> {
    service: &'a str,
    namespace: &'a str,
    kind: &'a str,
    span: &'a str,
    route: &'a str,
    method: &'a str,
    rpc: [&'a str; 2],
    peer: &'a str,
    reporter: &'a str,
    source: [&'a str; 2],
    destination: [&'a str; 2],
    /// The Kubernetes Service that is asked, and its namespace.
    asked: [&'a str; 2],
    error: &'a str,
    outcome: &'a str,
    status: &'a str,
    code: Option<i64>,
    grpc: &'a str,
    grpc_code: Option<i64>,
}

/// Whose requests a point counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose<'a> {
    /// Namespace and name of the service; empty for what the resource says.
    pub service: [&'a str; 2],
    /// As of spans of the same requests.
    pub kind: SpanKind,
    /// Who is asked, for those who ask.
    pub peer: String,
}

impl<'a> Labels<'a> {
    /// Takes an attribute in; `number` is its value where that is a number.
    pub fn take(&mut self, key: &str, text: &'a str, number: Option<i64>) {
        let place = match key {
            "service.name" | "service_name" => &mut self.service,
            "service.namespace" | "service_namespace" | "k8s.namespace.name" => &mut self.namespace,
            "span.kind" | "span_kind" => &mut self.kind,
            "span.name" | "span_name" => &mut self.span,
            "http.route" | "http_route" | "uri" | "route" | "handler" | "path" => &mut self.route,
            "http.request.method"
            | "http_request_method"
            | "http.method"
            | "http_method"
            | "method" => &mut self.method,
            "db.operation.name"
            | "db_operation_name"
            | "messaging.destination.name"
            | "messaging_destination_name" => &mut self.span,
            "rpc.service" | "rpc_service" | "grpc_service" => &mut self.rpc[0],
            "rpc.method" | "rpc_method" | "grpc_method" => &mut self.rpc[1],
            "server.address" | "server_address" | "peer.service" | "peer_service"
            | "net.peer.name" | "net_peer_name" | "client.name" | "client_name" => &mut self.peer,
            "reporter" => &mut self.reporter,
            "source_workload" => &mut self.source[1],
            "source_workload_namespace" => &mut self.source[0],
            "destination_workload" => &mut self.destination[1],
            "destination_workload_namespace" => &mut self.destination[0],
            "destination_service_name" | "service" | "exported_service" => &mut self.asked[1],
            "destination_service_namespace" | "namespace" | "exported_namespace" => {
                &mut self.asked[0]
            }
            "error.type" | "error_type" => &mut self.error,
            "outcome" => &mut self.outcome,
            "http.response.status_code"
            | "http_response_status_code"
            | "http.status_code"
            | "http_status_code"
            | "status_code"
            | "status.code"
            | "status"
            | "code"
            | "response_code" => {
                self.code = number.or_else(|| text.parse().ok()).or(self.code);
                &mut self.status
            }
            "rpc.grpc.status_code"
            | "rpc_grpc_status_code"
            | "rpc.response.status_code"
            | "rpc_response_status_code"
            | "grpc_code"
            | "grpc_response_status" => {
                self.grpc_code = number.or_else(|| text.parse().ok()).or(self.grpc_code);
                &mut self.grpc
            }
            _ => return,
        };
        if !text.is_empty() {
            *place = text;
        }
    }

    /// Whose requests they are; none where the attributes do not say it.
    pub fn whose(&self, side: Side) -> Option<Whose<'a>> {
        let own = [self.namespace, self.service];
        let of = |service, kind, peer: &str| Some(Whose { service, kind, peer: peer.to_owned() });
        let named = |[namespace, name]: [&str; 2]| match namespace {
            "" => name.to_owned(),
            namespace => format!("{name}.{namespace}"),
        };
        let known = |name: &str| !matches!(name, "" | "unknown");
        match side {
            Side::Served => of(["", ""], SpanKind::Server, ""),
            Side::Asked => of(["", ""], SpanKind::Client, self.peer),
            Side::Sent => of(["", ""], SpanKind::Producer, self.peer),
            Side::Taken => of(["", ""], SpanKind::Consumer, ""),
            Side::ByKind => match self.kind.strip_prefix("SPAN_KIND_").unwrap_or(self.kind) {
                "SERVER" | "Server" | "server" => of(own, SpanKind::Server, ""),
                "CONSUMER" | "Consumer" | "consumer" => of(own, SpanKind::Consumer, ""),
                "CLIENT" | "Client" | "client" => of(own, SpanKind::Client, self.peer),
                "PRODUCER" | "Producer" | "producer" => of(own, SpanKind::Producer, self.peer),
                _ => None,
            },
            Side::Mesh => match self.reporter {
                "destination" if known(self.destination[1]) => {
                    of(self.destination, SpanKind::Server, "")
                }
                "source" if known(self.source[1]) && known(self.asked[1]) => {
                    of(self.source, SpanKind::Client, &named(self.asked))
                }
                _ => None,
            },
            Side::Ingress if known(self.asked[1]) => {
                of(["", ""], SpanKind::Client, &named(self.asked))
            }
            Side::Ingress => None,
        }
    }

    /// What is asked for, as a span of it would be called.
    pub fn operation(&self) -> String {
        match (self.span, self.method, self.route, self.rpc) {
            ("", _, _, [service, method]) if !method.is_empty() => format!("{service}/{method}"),
            ("", "", route, _) => route.to_owned(),
            ("", method, "", _) => method.to_owned(),
            ("", method, route, _) => format!("{method} {route}"),
            (span, ..) => span.to_owned(),
        }
    }

    /// Did these requests fail? Then why, as far as it is said. A refusal that is the asker's fault (4xx) is
    /// none of who answers.
    pub fn failed(&self) -> Option<&'a str> {
        // Of an old error of gRPC the name, of HTTP the number; 0 is a proxy that had no answer.
        let by_code = |code: i64| code >= 500 || code == 0 && !self.reporter.is_empty();
        let by_name = |status: &str| {
            status.len() == 3 && status.starts_with('5')
                || status.to_ascii_uppercase().ends_with("ERROR")
                    && !status.eq_ignore_ascii_case("CLIENT_ERROR")
        };
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's.
        let by_grpc = match self.grpc_code {
            Some(code) => matches!(code, 2 | 4 | 12..=15),
            None => {
                let name = self.grpc.to_ascii_uppercase().replace('_', "");
                let server = [
                    "UNKNOWN",
                    "DEADLINEEXCEEDED",
                    "UNIMPLEMENTED",
                    "INTERNAL",
                    "UNAVAILABLE",
                    "DATALOSS",
                ];
                server.contains(&&*name)
            }
        };
        let by_error = match self.error.parse::<i64>() {
            Ok(code) => code >= 500,
            Err(_) => !self.error.is_empty() && !self.code.is_some_and(|c| (100..500).contains(&c)),
        };
        let fails = self.code.map_or_else(|| by_name(self.status), by_code)
            || by_name(self.outcome)
            || by_grpc
            || by_error;
        let said = [self.error, self.status, self.grpc, self.outcome];
        fails.then(|| said.into_iter().find(|said| !said.is_empty()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels<'a>(all: &[(&str, &'a str)]) -> Labels<'a> {
        let mut labels = Labels::default();
        all.iter().for_each(|(key, text)| labels.take(key, text, text.parse().ok()));
        labels
    }

    /// Guarantees: the same metric is known as OpenTelemetry and as Prometheus spell it, in its unit; others,
    /// and what is only near them, are not.
    #[test]
    fn names_are_known_however_they_are_spelt() {
        for (name, unit, part, seconds) in [
            ("http.server.request.duration", "s", Part::Whole, 1.0),
            ("http_server_request_duration_seconds", "", Part::Whole, 1.0),
            ("http.server.duration", "ms", Part::Whole, 1e-3),
            ("http_server_requests_seconds_count", "1", Part::Count, 1.0),
            ("http_server_requests_seconds_sum", "s", Part::Sum, 1.0),
            ("http.server.requests", "milliseconds", Part::Whole, 1e-3),
            ("traces.span.metrics.duration", "s", Part::Whole, 1.0),
            ("duration_milliseconds", "", Part::Whole, 1e-3),
            ("calls_total", "", Part::Whole, 1.0),
            ("istio_request_duration_milliseconds", "", Part::Whole, 1e-3),
        ] {
            let metric = Metric::of(name, unit).unwrap();
            assert_eq!((metric.part, metric.seconds), (part, seconds), "{name}");
        }
        for name in [
            "http.server.active_requests",
            "http_server_requests_seconds_max",
            "http_server_requests_seconds_bucket",
            "process_cpu_seconds_total",
            "",
        ] {
            assert!(Metric::of(name, "s").is_none(), "{name}");
        }
    }

    /// Guarantees: of two metrics of the same requests one is taken, and of different requests both.
    #[test]
    fn one_of_two_that_count_the_same_gives_way() {
        let row = |name| Metric::of(name, "").unwrap();
        let gives_way = |a, b| row(a).gives_way(row(b).row);
        assert!(gives_way("http.server.duration", "http.server.request.duration"));
        assert!(gives_way("calls", "http.server.request.duration"));
        assert!(gives_way("http_requests_total", "calls"));
        assert!(!gives_way("http.server.request.duration", "calls"));
        assert!(!gives_way("rpc.server.duration", "http.server.request.duration"));
        assert!(!gives_way("duration", "calls"));
    }

    /// Guarantees: what fails is the server's fault, by whichever word; what the asker did wrong is none.
    #[test]
    fn failures_are_told_from_refusals() {
        for (all, why) in [
            (&[("http.response.status_code", "500"), ("error.type", "500")][..], "500"),
            (&[("status", "503"), ("outcome", "SERVER_ERROR")][..], "503"),
            (&[("code", "5xx")][..], "5xx"),
            (&[("status.code", "STATUS_CODE_ERROR")][..], "STATUS_CODE_ERROR"),
            (&[("rpc.grpc.status_code", "14")][..], "14"),
            (&[("grpc_code", "Unavailable")][..], "Unavailable"),
            (&[("error.type", "java.net.ConnectException")][..], "java.net.ConnectException"),
            (&[("reporter", "source"), ("response_code", "0")][..], "0"),
        ] {
            assert_eq!(labels(all).failed(), Some(why), "{all:?}");
        }
        for all in [
            &[("http.response.status_code", "404"), ("error.type", "404")][..],
            &[("http.response.status_code", "429"), ("error.type", "TooMany")][..],
            &[("status", "401"), ("outcome", "CLIENT_ERROR")][..],
            &[("status.code", "STATUS_CODE_UNSET")][..],
            &[("rpc.grpc.status_code", "5")][..],
            &[("grpc_code", "NotFound")][..],
            &[("grpc_code", "OK")][..],
            &[][..],
        ] {
            assert_eq!(labels(all).failed(), None, "{all:?}");
        }
    }

    /// Guarantees: requests are those of who answers, or of who asks, as the metric measures them.
    #[test]
    fn requests_are_those_of_the_side_that_measures() {
        let mesh = |reporter| {
            let all = [
                ("source_workload", "web"),
                ("source_workload_namespace", "shop"),
                ("destination_workload", "cart-v2"),
                ("destination_workload_namespace", "shop"),
                ("destination_service_name", "cart"),
                ("destination_service_namespace", "shop"),
            ];
            let mut labels = labels(&all);
            labels.take("reporter", reporter, None);
            labels.whose(Side::Mesh)
        };
        let whose =
            |service, kind, peer: &str| Some(Whose { service, kind, peer: peer.to_owned() });
        assert_eq!(mesh("destination"), whose(["shop", "cart-v2"], SpanKind::Server, ""));
        assert_eq!(mesh("source"), whose(["shop", "web"], SpanKind::Client, "cart.shop"));
        assert_eq!(mesh("waypoint"), None);
        let asks = labels(&[("server.address", "cart"), ("http.request.method", "GET")]);
        assert_eq!(asks.whose(Side::Asked), whose(["", ""], SpanKind::Client, "cart"));
        assert_eq!(asks.operation(), "GET");
        let span = labels(&[("span.kind", "SPAN_KIND_INTERNAL"), ("service.name", "a")]);
        assert_eq!(span.whose(Side::ByKind), None);
    }
}
