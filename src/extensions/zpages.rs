//! The `zpages` extension: what runs, as small pages for people.

use std::{fmt::Write, sync::Arc};

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    components::{Context, Host, Stop},
    telemetry::{Page, Reply, serve},
};

/// Its keys are the Collector's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Zpages {
    /// `host:port`.
    endpoint: String,
    expvar: Option<IgnoredAny>,
}

impl Default for Zpages {
    fn default() -> Self {
        Zpages { endpoint: "127.0.0.1:55679".into(), expvar: None }
    }
}

impl Zpages {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.endpoint.is_empty() {
            return Err("\"endpoint\" is required when using the \"zpages\" extension".into());
        }
        Ok(())
    }
}

pub(crate) async fn start(config: Zpages, context: Context) -> Result<Stop, String> {
    if config.expvar.is_some() {
        tracing::warn!(extension = %context.id, "expvar has no effect in Tapio: it shows the variables of a Go program");
    }
    let page: Page = Arc::new(move |uri| reply(uri.path(), &context.host));
    let (address, stop) = serve(&config.endpoint, page).await?;
    tracing::info!(endpoint = %address, "Starting zPages extension");
    Ok(stop)
}

fn reply(path: &str, host: &Host) -> Reply {
    match path.trim_end_matches('/') {
        "/debug/servicez" => service(host),
        "/debug/pipelinez" => pipelines(host),
        "/debug/extensionz" => {
            let rows = host.health.seen().extensions.into_iter().map(|id| vec![id]).collect();
            page("Extensions", &table(&["FullName"], rows))
        }
        // Tapio has no gates: what it does, it does.
        "/debug/featurez" => {
            page("Feature Gates", &table(&["ID", "Enabled", "Description", "Stage"], Vec::new()))
        }
        _ => Reply::not_found(),
    }
}

fn service(host: &Host) -> Reply {
    let seen = host.health.seen();
    let started = seen.started.elapsed().unwrap_or_default();
    let rows = [
        ("Command", "tapio".to_owned()),
        ("Description", env!("CARGO_PKG_DESCRIPTION").to_owned()),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Uptime", format!("{}s", started.as_secs())),
        ("State", format!("{:?}", seen.state)),
        ("OS", std::env::consts::OS.to_owned()),
        ("Architecture", std::env::consts::ARCH.to_owned()),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let links: String = ["pipelinez", "extensionz", "featurez"]
        .iter()
        .map(|name| format!("<p><a href=\"/debug/{name}\">{name}</a></p>\n"))
        .collect();
    page("Service tapio", &format!("{}{links}", table(&["Name", "Value"], rows)))
}

fn pipelines(host: &Host) -> Reply {
    let mut pipelines = host.health.seen().pipelines;
    pipelines.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = pipelines
        .into_iter()
        .map(|pipeline| {
            let signal = pipeline.name.split('/').next().unwrap_or_default().to_owned();
            vec![
                pipeline.name.clone(),
                signal,
                pipeline.receivers.join(", "),
                pipeline.processors.join(" \u{2192} "),
                pipeline.exporters.join(", "),
            ]
        })
        .collect();
    page(
        "Pipelines",
        &table(&["FullName", "InputType", "Receivers", "Processors", "Exporters"], rows),
    )
}

fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut out = String::from("<table>\n<tr>");
    // Writing to a string does not fail.
    for head in heads {
        let _ = write!(out, "<th align=\"left\">{head}</th>");
    }
    out += "</tr>\n";
    for row in rows {
        out += "<tr>";
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escaped(&cell));
        }
        out += "</tr>\n";
    }
    out + "</table>\n"
}

fn page(title: &str, body: &str) -> Reply {
    Reply::html(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n<h2>{title}</h2>\n{body}</body></html>\n"
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Running;

    #[test]
    fn pages_show_what_runs_and_names_are_text() {
        let host = Host::default();
        let pipeline = Running {
            name: "traces".into(),
            receivers: vec!["otlp/<script>".into()],
            processors: vec!["memory_limiter".into(), "batch".into()],
            exporters: vec!["debug".into()],
        };
        host.health.runs(vec![pipeline], vec!["zpages".into()]);
        let body = |path| reply(path, &host).body;
        assert!(body("/debug/pipelinez").contains("otlp/&lt;script&gt;"));
        assert!(body("/debug/pipelinez").contains("memory_limiter \u{2192} batch"));
        assert!(body("/debug/extensionz").contains("<td>zpages</td>"));
        assert!(body("/debug/servicez").contains(env!("CARGO_PKG_VERSION")));
        assert_eq!(reply("/debug/featurez", &host).status, 200);
        assert_eq!(reply("/", &host).status, 404);
    }
}
