//! What becomes of acknowledged spans when backend or hop misbehave: a table, counted span by span.
//!
//! `LOSSES_FOR=30` makes the backend's absence 30 s long instead of 5, `LOSSES_PEER=1` runs the same rows
//! with a real Collector as well. `benches/losses.sh` does both and prints only the table.

use std::{
    env, fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::durable::{Load, SPANS};
use crate::e2e::{
    backend::{Answer, Backend, Inbox},
    parts,
    program::{Setup, Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Message, span_numbers},
};

const KILLS: usize = 20;
/// MiB that may be resident in any row, dev profile, analysis on.
const RSS_BOUND: u64 = 512;
const STORAGE: (&str, &str) = ("file_storage", "{directory: storage, create_directory: true}");

/// What happens while the load goes on.
enum Step {
    Wait(Duration),
    /// Nothing listens, open connections are cut.
    Gone,
    Back,
    Answers(Answer),
    /// SIGTERM; and started again.
    Stop,
    /// SIGKILL under load, again and again, now and then without a backend.
    Kills,
}

struct Row {
    name: &'static str,
    processors: &'static str,
    queue: &'static str,
    /// With the extension, for the queue or for dead letters.
    storage: bool,
    /// How long the backend takes for an answer.
    delay: Duration,
    steps: Vec<Step>,
}

fn rows() -> Vec<Row> {
    let away = env::var("LOSSES_FOR").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let away = Step::Wait(Duration::from_secs(away));
    let seconds = |n| Step::Wait(Duration::from_secs(n));
    let away_again = match &away {
        Step::Wait(time) => Step::Wait(*time),
        _ => seconds(5),
    };
    let row = |name, queue, steps| Row {
        name,
        processors: "",
        queue,
        storage: queue.contains("storage"),
        delay: Duration::ZERO,
        steps,
    };
    let refusing = |code, wait: Option<Message>| {
        let details = wait.map(|wait| {
            let any = Message::new()
                .bytes(1, "type.googleapis.com/google.rpc.RetryInfo")
                .message(2, Message::new().message(1, wait));
            Message::new().varint(1, code).bytes(2, "not now").message(3, any).0
        });
        let answer = Answer::grpc(code as i32, "not now", details.as_deref());
        vec![
            seconds(1),
            Step::Answers(answer),
            seconds(4),
            Step::Answers(Answer::default()),
            seconds(1),
        ]
    };
    let millis = |n: u64| Message::new().varint(2, n * 1_000_000);
    let partial = Message::new().message(1, Message::new().varint(1, 7).bytes(2, "seven were bad"));
    vec![
        row("backend away", "{}", vec![seconds(1), Step::Gone, away, Step::Back, seconds(1)]),
        row(
            "backend away, queue on disk",
            "{storage: file_storage}",
            vec![seconds(1), Step::Gone, away_again, Step::Back, seconds(1)],
        ),
        Row {
            delay: Duration::from_millis(50),
            ..row("backend takes 50 ms", "{num_consumers: 4}", vec![seconds(4)])
        },
        row("UNAVAILABLE for 4 s", "{}", refusing(14, None)),
        row("RESOURCE_EXHAUSTED with RetryInfo, 4 s", "{}", refusing(8, Some(millis(300)))),
        row("RESOURCE_EXHAUSTED without RetryInfo, 4 s", "{}", refusing(8, None)),
        row("partial success", "{}", vec![Step::Answers(Answer::taken(&partial.0)), seconds(3)]),
        Row {
            processors: "batch",
            ..row(
                "batch in front of a full queue",
                "{queue_size: 10}",
                vec![seconds(1), Step::Gone, seconds(3), Step::Back, seconds(1)],
            )
        },
        Row {
            storage: true,
            ..row(
                "SIGTERM while the backend is away, queue in memory",
                "{}",
                vec![seconds(1), Step::Gone, seconds(2), Step::Stop, Step::Back],
            )
        },
        row(
            "SIGTERM while the backend is away, queue on disk",
            "{storage: file_storage}",
            vec![seconds(1), Step::Gone, seconds(2), Step::Stop, Step::Back],
        ),
        row(
            "SIGTERM while the backend is away, queue on disk, requests cut",
            "{storage: file_storage, batch: {min_size: 7, max_size: 7, flush_timeout: 50ms}}",
            vec![seconds(1), Step::Gone, seconds(2), Step::Stop, Step::Back],
        ),
        row(
            "killed -9 twenty times, queue on disk, requests cut",
            "{storage: file_storage, num_consumers: 4, queue_size: 2000, batch: {min_size: 7, max_size: 7, flush_timeout: 50ms}}",
            vec![Step::Kills],
        ),
        row(
            "killed -9 twenty times, queue on disk",
            "{storage: file_storage, num_consumers: 4, queue_size: 2000}",
            vec![Step::Kills],
        ),
    ]
}

/// Counts arrivals of each span, and keeps nothing else of them.
struct Counter {
    arrivals: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Counter {
    fn start(inbox: Inbox) -> Self {
        let (arrivals, stop) = <(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>)>::default();
        let task = tokio::spawn({
            let (arrivals, stop) = (arrivals.clone(), stop.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    for received in inbox.take().into_iter().filter(|received| received.taken) {
                        let numbers = span_numbers(&received.message);
                        let mut arrivals = arrivals.lock().unwrap();
                        for number in numbers {
                            let number = number as usize;
                            if arrivals.len() <= number {
                                arrivals.resize(number + 1, 0);
                            }
                            arrivals[number] = arrivals[number].saturating_add(1);
                        }
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        Counter { arrivals, stop, task }
    }

    /// Spans of these requests that never came, and arrivals beyond the first.
    fn missing(&self, acked: &[u64]) -> (usize, usize) {
        let arrivals = self.arrivals.lock().unwrap();
        let spans = acked.iter().flat_map(|first| *first..first + SPANS);
        let lost = spans.filter(|n| arrivals.get(*n as usize).is_none_or(|times| *times == 0));
        let twice = arrivals.iter().map(|times| usize::from(times.saturating_sub(1))).sum();
        (lost.count(), twice)
    }
}

struct Scene<'a> {
    setup: &'a Setup,
    hop: Tapio,
    runs: usize,
    inbox: Inbox,
    backend: Option<Backend>,
    delay: Duration,
    port: u16,
    peak: u64,
    ours: bool,
}

impl Scene<'_> {
    async fn gone(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.kill().await;
        }
    }

    async fn back(&mut self) {
        if self.backend.is_none() {
            self.backend = Some(Backend::start(self.port, self.inbox.clone(), self.delay).await);
        }
    }

    fn look(&mut self) {
        self.peak = self.peak.max(self.hop.program.peak_rss_mib());
    }

    async fn again(&mut self) {
        self.runs += 1;
        self.hop = self.setup.run(&format!("hop{}", self.runs), &[]).await;
    }

    async fn step(&mut self, step: &Step, load: &Load) {
        match step {
            Step::Wait(time) => sleep(*time).await,
            Step::Gone => self.gone().await,
            Step::Back => self.back().await,
            Step::Answers(answer) => self.inbox.answer(answer.clone()),
            Step::Stop => {
                self.look();
                self.hop.program.stop(Duration::from_secs(60)).await;
                self.again().await;
            }
            Step::Kills => {
                // What does not take more within the time is killed all the same.
                let some = async || drop(timeout(Duration::from_secs(30), load.more(60)).await);
                for round in 0..KILLS {
                    some().await;
                    if round % 3 == 2 {
                        self.gone().await;
                        some().await;
                    }
                    self.look();
                    self.hop.program.kill();
                    self.again().await;
                    self.back().await;
                }
                some().await;
            }
        }
    }
}

/// Guarantees: in no row is a span missing that was acknowledged, and memory stays bounded.
pub(crate) fn table() -> Result<(), Skipped> {
    let mut hops = vec![("Tapio", env!("CARGO_BIN_EXE_tapio").into())];
    if env::var_os("LOSSES_PEER").is_some() {
        hops.push(("Collector", parts::collector()?.join("otelcol")));
    }
    println!(
        "| hop | row | acked | refused requests | not answered | LOST of acked | twice | peak RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut wrong = vec![];
    for row in rows() {
        for (name, program) in &hops {
            let ours = *name == "Tapio";
            // A Collector that was killed does not always start again.
            if !ours && row.steps.iter().any(|step| matches!(step, Step::Kills)) {
                continue;
            }
            let (lost, peak, line) = block_on(run(&row, program.clone(), ours));
            println!("| {name} | {} | {line} |", row.name);
            if ours && (lost > 0 || peak >= RSS_BOUND) {
                wrong.push(format!("{}: {lost} lost, {peak} MiB", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

async fn run(row: &Row, program: std::path::PathBuf, ours: bool) -> (usize, u64, String) {
    let name: String =
        row.name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let folder = folder(&format!("losses_{name}"));
    let (inbox, port) = (Inbox::default(), free_port());
    let exporter = format!(
        "{{endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}, compression: none, timeout: 2s, \
         retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0s}}, \
         sending_queue: {}}}",
        row.queue
    );
    let extensions = if row.storage { &[STORAGE][..] } else { &[] };
    let processors = match (row.processors, ours) {
        ("", true) => "tapio".to_owned(),
        (processors, true) => format!("{processors}, tapio"),
        (processors, false) => processors.to_owned(),
    };
    let mut setup = Setup::new(&folder, &processors, ("otlp_grpc", &exporter), extensions);
    setup.program = program;
    let hop = setup.run("hop", &[]).await;
    let backend = Backend::start(port, inbox.clone(), row.delay).await;
    let counter = Counter::start(inbox.clone());
    let mut scene = Scene {
        setup: &setup,
        hop,
        runs: 0,
        inbox,
        backend: Some(backend),
        delay: row.delay,
        port,
        peak: 0,
        ours,
    };
    let load = Load::start(scene.hop.grpc);
    for step in &row.steps {
        scene.step(step, &load).await;
    }
    let (refused, unknown) =
        (load.refused.load(Ordering::Relaxed), load.unknown.load(Ordering::Relaxed));
    let acked = load.stop().await;
    assert!(acked.len() > 50, "only {} requests were acknowledged", acked.len());
    if scene.ours && row.storage && fs::exists(folder.join("storage")).unwrap_or(false) {
        // What a stop had to set aside.
        setup.queue(&["replay"]);
    }
    // Go's gRPC waits up to two minutes before it connects again.
    let patience = Duration::from_secs(if ours { 12 } else { 130 });
    let (lost, twice) = settled(&counter, &acked, patience).await;
    scene.look();
    let peak = scene.peak;
    scene.hop.program.stop(Duration::from_secs(60)).await;
    counter.stop.store(true, Ordering::Relaxed);
    counter.task.await.expect("it counts to the end");
    let line = format!(
        "{} | {refused} | {unknown} | {lost} | {twice} | {peak}",
        acked.len() as u64 * SPANS
    );
    (lost, peak, line)
}

/// Waits until nothing is missing, or nothing has come for a while.
async fn settled(counter: &Counter, acked: &[u64], patience: Duration) -> (usize, usize) {
    let mut last = (usize::MAX, Instant::now());
    loop {
        let (lost, twice) = counter.missing(acked);
        if lost != last.0 {
            last = (lost, Instant::now());
        }
        if lost == 0 || last.1.elapsed() > patience {
            return (lost, twice);
        }
        sleep(Duration::from_millis(200)).await;
    }
}
