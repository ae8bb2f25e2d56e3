//! `tapio demo`: a real incident, played into the hop's own OTLP port.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use arrow::array::Array as _;
use tapio_exporter::{Observer, OtlpGrpcConfig, otlp_grpc};
use tapio_processor::{Analysis, AnalysisConfig, Telling, replay::Recording, story::text};
use tapio_proto::{Consumer as _, Signal, Status, model::Time};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use crate::{
    config::{Config, Sources},
    error::{Error, Result},
    service::{Service, runtime},
    telemetry::logs,
};

/// The recording: tests/recordings/README.md tells what happened.
const RECORDING: [(&str, &[u8]); 3] = [
    ("logs.jsonl.zst", include_bytes!("../../tests/recordings/pool-oom/logs.jsonl.zst")),
    ("metrics.jsonl.zst", include_bytes!("../../tests/recordings/pool-oom/metrics.jsonl.zst")),
    ("traces.jsonl.zst", include_bytes!("../../tests/recordings/pool-oom/traces.jsonl.zst")),
];
/// Seconds of the recording to one of the wall's.
const SPEED: f64 = 12.0;
/// Longest wait for a story to close once the recording is over: it does after 30 s of calm.
const CALM: Duration = Duration::from_secs(60);
/// Where the hop's own default configuration listens.
const DOOR: &str = "127.0.0.1:4317";

/// Watch a real Kubernetes incident come in over OTLP and its story come out
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the hop running at the end, to ask it: tapio stories, tapio story ID, tapio sql "..."
    #[arg(long)]
    stay: bool,
}

impl Args {
    pub(crate) fn run(self, sources: &Sources) -> Result<ExitCode> {
        if !sources.config.is_empty() {
            return Err(Error::new("the demo runs the default configuration; leave --config out, or run `tapio --config` and `tapio replay`"));
        }
        let mut sources = sources.clone();
        // The story is what is to be seen.
        sources.set.extend(["exporters.summary.interval=1h".into(), "service.telemetry.logs.level=warn".into()]);
        let config = Config::new(sources.load_local()?)?;
        logs::init(&config.service.telemetry.logs).map_err(Error::new)?;
        runtime()?.block_on(async {
            let mut service = Service::start(config).await?;
            let outcome = tokio::select! {
                outcome = play(&service, self.stay) => outcome,
                _ = tokio::signal::ctrl_c() => Ok(()),
            };
            service.stop().await;
            outcome.map(|()| ExitCode::SUCCESS)
        })
    }
}

async fn play(service: &Service, stay: bool) -> Result<()> {
    let analysis = service.host().analysis().ok_or_else(|| Error::new("the default configuration has no tapio processor"))?;
    let screen = tokio::spawn(show(Arc::clone(&analysis)));
    say(&format!(
        "A minute of calm, then three of trouble in a small shop on Kubernetes: a real recording, {SPEED:.0} times as fast, into {DOOR}.\n"
    ))?;
    let sent = send().await?;
    say(&format!("\nThe recording is over: {sent} spans, log records and data points. A story closes after 30 s of calm.\n"))?;
    // Ends by itself when the story closes.
    let _ = tokio::time::timeout(CALM, screen).await;
    say(&next(&analysis, stay)?)?;
    if stay {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Plays the recording into the hop's own port, as a Collector would send it.
async fn send() -> Result<usize> {
    let mut config = OtlpGrpcConfig { endpoint: format!("http://{DOOR}"), ..OtlpGrpcConfig::default() };
    config.sending_queue.enabled = false;
    config.retry_on_failure.enabled = false;
    let exporter = otlp_grpc("demo", &config, Arc::new(Silent))?;
    let mut recording = Recording::bundled(&RECORDING)?;
    let start = Instant::now();
    let mut first: Option<Time> = None;
    let mut items = 0;
    while let Some((time, request)) = recording.next_request() {
        let first = *first.get_or_insert(time);
        let offset = time.seconds_since(first) / SPEED;
        tokio::time::sleep_until(start + Duration::from_secs_f64(offset.clamp(0.0, 3600.0))).await;
        items += request.items;
        exporter.consume(request).await.map_err(|status| Error::new(format!("the hop refused the recording: {status}")))?;
    }
    Ok(items)
}

/// Shows stories as they are told, until the first closes.
async fn show(analysis: Arc<Analysis>) -> Result<()> {
    let mut tellings = analysis.watch();
    let mut shown: BTreeSet<(Time, String)> = BTreeSet::new();
    loop {
        let telling = match tellings.recv().await {
            Ok(telling) => telling,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        let (story, evidence) = telling.story();
        match &*telling {
            Telling::Opened(..) => say(&format!(
                "\n{}  story {} opens, confidence {:.2}: {}",
                story.opened.clock(),
                story.id,
                story.confidence,
                story.title
            ))?,
            Telling::Updated(..) | Telling::Merged(..) => {}
            Telling::Resolved(..) => {
                let end = story.resolved.unwrap_or(story.opened);
                say(&format!("\n{}  story {} closes. The whole of it:\n\n{}", end.clock(), story.id, text::render(story, evidence, end, AnalysisConfig::default().threshold)))?;
                return Ok(());
            }
        }
        for fact in evidence {
            if shown.insert(fact.key()) {
                say(&format!("          {}  {}", fact.time.clock(), fact.what))?;
            }
        }
    }
}

/// What to try next, with the id of the story.
fn next(analysis: &Analysis, stay: bool) -> Result<String> {
    let stories = analysis.store().table("stories")?;
    let id = stories.snapshot().iter().rev().find_map(|batch| {
        let ids = batch.column_by_name("id")?.as_any().downcast_ref::<arrow::array::StringArray>()?.clone();
        (!ids.is_empty()).then(|| ids.value(0).to_owned())
    });
    let id = id.unwrap_or_else(|| "ID".to_owned());
    let how = if stay {
        "The hop runs on; in another terminal (Ctrl-C here ends it)"
    } else {
        "To ask it yourself: tapio demo --stay, and in another terminal"
    };
    Ok(format!(
        "{how}:\n  tapio stories\n  tapio story {id} --evidence\n  tapio sql \"select service, sum(errors) as errors, sum(count) as requests from windows where kind = 'server' group by service order by errors desc\"\n"
    ))
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    // A reader that has gone away ends the demo; nobody else is told anything by it.
    writeln!(out, "{text}")?;
    if io::stdout().is_terminal() {
        out.flush()?;
    }
    Ok(())
}

/// The hop's own answers are the measure here, not counters.
struct Silent;

impl Observer for Silent {
    fn sent(&self, _: Signal, _: usize) {}
    fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
    fn enqueue_failed(&self, _: Signal, _: usize) {}
}
