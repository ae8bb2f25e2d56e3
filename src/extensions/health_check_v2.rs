//! The `healthcheckv2` extension: one page with the state of the whole, of a pipeline, or of every
//! component.
//!
//! A component starts, runs and stops with the whole; what fails while it runs is told by metrics, not
//! here; but for an analysis that leaves a query or a pattern out. So `component_health` is accepted, and there is nothing that it could include.

use std::{sync::Arc, time::SystemTime};

use http::{StatusCode, Uri};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};
use tapio_proto::{model::Time, transport::GoDuration};
use tapio_receiver::check_endpoint;

use super::HealthCheck;
use crate::{
    components::{Context, Host, Stop},
    telemetry::{Page, Reply, State, serve},
};

/// Its keys are the Collector's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HealthCheckV2 {
    /// Without it, the extension is `health_check` under another name.
    use_v2: bool,
    http: Option<HttpPages>,
    grpc: Option<IgnoredAny>,
    component_health: Option<ComponentHealth>,
    endpoint: Option<String>,
    path: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpPages {
    /// `host:port`.
    endpoint: String,
    status: PageAt,
    config: PageAt,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PageAt {
    enabled: Option<bool>,
    path: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ComponentHealth {
    include_permanent_errors: bool,
    include_recoverable_errors: bool,
    recovery_duration: Option<GoDuration>,
}

impl Default for HttpPages {
    fn default() -> Self {
        HttpPages {
            endpoint: "127.0.0.1:13133".into(),
            status: PageAt::default(),
            config: PageAt::default(),
        }
    }
}

impl HealthCheckV2 {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.use_v2 {
            return self.first().check();
        }
        if self.grpc.is_some() {
            return Err(
                "grpc: the gRPC health service is not in Tapio; use http, and probe its path"
                    .into(),
            );
        }
        let Some(http) = &self.http else {
            return Err("must be configured for at least one protocol: http".into());
        };
        if http.endpoint.is_empty() {
            return Err("http: endpoint required".into());
        }
        check_endpoint(&http.endpoint).map_err(|why| format!("http: {why}"))?;
        let paths = [&http.status.path, &http.config.path];
        if paths.into_iter().flatten().any(|path| !path.starts_with('/')) {
            return Err("http: path must start with /".into());
        }
        Ok(())
    }

    /// The extension that this was before `use_v2`.
    fn first(&self) -> HealthCheck {
        HealthCheck::at(self.endpoint.clone(), self.path.clone())
    }
}

impl HttpPages {
    fn reply(&self, uri: &Uri, host: &Host) -> Reply {
        let path = uri.path();
        if self.status.is(path, "/status", true) {
            return status(uri, host);
        }
        if self.config.is(path, "/config", false) {
            let running = host.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            return Reply::json(StatusCode::OK, running.clone());
        }
        Reply::not_found()
    }
}

impl PageAt {
    fn is(&self, path: &str, usual: &str, enabled: bool) -> bool {
        self.enabled.unwrap_or(enabled) && path == self.path.as_deref().unwrap_or(usual)
    }
}

fn status(uri: &Uri, host: &Host) -> Reply {
    let seen = host.health.seen();
    let (code, name) = match seen.state {
        State::Ok => (StatusCode::OK, "StatusOK"),
        State::Starting => (StatusCode::SERVICE_UNAVAILABLE, "StatusStarting"),
        State::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "StatusStopping"),
    };
    let one = || {
        let mut one = Map::new();
        one.insert("healthy".into(), (seen.state == State::Ok).into());
        one.insert("status".into(), name.into());
        one.insert("status_time".into(), time(seen.since.wall).into());
        one
    };
    let with = |kinds: &[(&str, &[String])]| {
        let mut components = Map::new();
        for (kind, ids) in kinds {
            components.extend(ids.iter().map(|id| {
                let mut one = one();
                // What runs, though with less than it should, is no reason for a restart.
                if let Some(error) = (*kind == "processor").then(|| host.ails(id)).flatten() {
                    one.insert("status".into(), "StatusRecoverableError".into());
                    one.insert("error".into(), error.into());
                }
                (format!("{kind}:{id}"), Value::Object(one))
            }));
        }
        let mut whole = one();
        whole.insert("components".into(), Value::Object(components));
        whole
    };
    let pipelines = seen.pipelines.iter().map(|pipeline| {
        let components = with(&[
            ("receiver", &pipeline.receivers),
            ("processor", &pipeline.processors),
            ("exporter", &pipeline.exporters),
        ]);
        (pipeline.name.clone(), components)
    });
    let query = |key: &str| {
        let pairs = uri.query().unwrap_or_default().split('&');
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(name, _)| *name == key)
    };
    let verbose = query("verbose").is_some_and(|(_, value)| value != "false");
    let wanted = query("pipeline").map(|(_, name)| name.replace("%2F", "/").replace("%2f", "/"));
    let mut body = match wanted {
        None => {
            let mut body = one();
            if verbose {
                let mut components: Map<String, Value> = pipelines
                    .map(|(name, components)| (format!("pipeline:{name}"), components.into()))
                    .collect();
                components
                    .insert("extensions".into(), with(&[("extension", &seen.extensions)]).into());
                body.insert("components".into(), components.into());
            }
            body
        }
        Some(wanted) => match pipelines.into_iter().find(|(name, _)| *name == wanted) {
            Some((_, components)) if verbose => components,
            Some(_) => one(),
            None => return Reply::not_found(),
        },
    };
    body.insert("start_time".into(), time(seen.started).into());
    Reply::json(code, json!(body).to_string())
}

fn time(time: SystemTime) -> String {
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
    Time::from_unix_nano(nanos).to_string()
}

pub(crate) async fn start(config: HealthCheckV2, context: Context) -> Result<Stop, String> {
    if !config.use_v2 {
        return super::health_check(config.first(), context).await;
    }
    let ComponentHealth { include_permanent_errors, include_recoverable_errors, recovery_duration } =
        config.component_health.clone().unwrap_or_default();
    if include_permanent_errors || include_recoverable_errors || recovery_duration.is_some() {
        tracing::warn!(
            extension = %context.id,
            "component_health changes nothing: what fails while a component runs is told by metrics (otelcol_exporter_send_failed_*), and a restart would not mend it."
        );
    }
    let http = config.http.unwrap_or_default();
    let endpoint = http.endpoint.clone();
    let page: Page = Arc::new(move |uri| http.reply(uri, &context.host));
    let (address, stop) = serve(&endpoint, page).await?;
    tracing::info!(endpoint = %address, "Starting healthcheckv2 extension");
    Ok(stop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::Running;

    fn get(host: &Host, uri: &str) -> (u16, Value) {
        let reply = HttpPages::default().reply(&uri.parse().unwrap(), host);
        (reply.status.as_u16(), serde_json::from_str(&reply.body).unwrap_or_default())
    }

    fn host() -> Host {
        let host = Host::default();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let pipeline = Running {
            name: "traces/a".into(),
            receivers: names(&["otlp"]),
            processors: names(&["batch"]),
            exporters: names(&["otlp_grpc/b"]),
        };
        host.health.runs(vec![pipeline], names(&["healthcheckv2"]));
        host
    }

    #[test]
    fn the_state_of_the_whole_is_a_status_and_a_body() {
        let host = host();
        assert_eq!(get(&host, "/status").0, 503);
        assert_eq!(get(&host, "/status").1["status"], "StatusStarting");
        host.health.set(State::Ok);
        let (status, body) = get(&host, "/status");
        assert_eq!(
            (status, &body["healthy"], &body["status"]),
            (200, &true.into(), &"StatusOK".into())
        );
        assert!(body["start_time"].is_string() && body.get("components").is_none(), "{body}");
        host.health.set(State::Stopping);
        assert_eq!(get(&host, "/status").0, 503);
    }

    #[test]
    fn pipelines_and_components_are_told_to_who_asks() {
        let host = host();
        host.health.set(State::Ok);
        let body = get(&host, "/status?verbose").1;
        let components = &body["components"]["pipeline:traces/a"]["components"];
        for id in ["receiver:otlp", "processor:batch", "exporter:otlp_grpc/b"] {
            assert_eq!(components[id]["healthy"], true, "{id} in {body}");
        }
        assert_eq!(
            body["components"]["extensions"]["components"]["extension:healthcheckv2"]["status"],
            "StatusOK"
        );
        assert_eq!(get(&host, "/status?pipeline=traces%2Fa").0, 200);
        assert_eq!(get(&host, "/status?pipeline=logs").0, 404);
        assert_eq!(get(&host, "/config").0, 404, "it is not on by default");
    }
}
