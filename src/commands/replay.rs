//! `tapio replay`: recordings through the engine, in event time.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tapio_processor::{AnalysisConfig, Engine, Patterns, replay::Recording, store::Store, story::text};
use tapio_proto::model::Story;

use crate::{
    config::Sources,
    doors::table::print,
    error::{Error, Result},
};

/// Memory for the tables of a replay, bytes.
const STORE: usize = 1 << 30;

/// Tell the stories in recordings: OTLP JSON lines (*.jsonl, *.jsonl.zst), as the Collector's file exporter writes them
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the stories are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folders with patterns (*.yaml) beside the built-in ones
    #[arg(long, value_name = "FOLDER")]
    patterns: Vec<PathBuf>,
    /// Patterns (their ids) that are left out: what would be told without them
    #[arg(long, value_name = "PATTERN")]
    without: Vec<String>,
    /// Files, or folders that are searched in depth
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// What an SRE reads
    Text,
    /// One JSON object a line for each story
    Json,
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        let (engine, _) = play(&self.paths, &self.patterns, &self.without)?;
        let mut out = String::new();
        let stories = engine.stories().all();
        let threshold = AnalysisConfig::default().threshold;
        for (story, evidence) in &stories {
            match self.format {
                Format::Text => out += &text::render(story, evidence, engine.clock(), threshold),
                Format::Json => out += &serde_json::to_string(&entered(story, engine.patterns()))?,
            }
            out.push('\n');
        }
        if self.format == Format::Text && stories.is_empty() {
            out += "No story: nothing in these recordings fails more than it used to.\n";
        }
        print(&out)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The story with Tapio's patterns by their entries in the failure catalogue, by which others know
/// them; users' own keep the names that their users gave them.
fn entered(story: &Story, patterns: &Patterns) -> Story {
    let mut story = story.clone();
    let root = story.root_cause.iter_mut().map(|root| &mut root.pattern);
    for name in root.chain(story.hypotheses.iter_mut().map(|h| &mut h.pattern)) {
        if let Some(pattern) = patterns.get(name).filter(|pattern| !patterns.is_own(&pattern.id)) {
            *name = pattern.entry();
        }
    }
    story
}

/// The store as a replay of these recordings leaves it.
pub(crate) fn load(paths: &[PathBuf], patterns: &[PathBuf]) -> Result<Arc<Store>> {
    Ok(play(paths, patterns, &[])?.1)
}

/// Plays recordings to their end. What is passed over is told on standard error, a line each.
fn play(
    paths: &[PathBuf],
    folders: &[PathBuf],
    without: &[String],
) -> Result<(Engine, Arc<Store>)> {
    let mut patterns = Patterns::builtin()?;
    for folder in folders {
        patterns.add_folder(folder)?;
    }
    patterns.replaced().iter().for_each(|line| eprintln!("{line}"));
    let mut out = Vec::new();
    for name in without {
        let pattern = patterns.find(name).ok_or_else(|| {
            Error::new(format!(
                "--without {name:?}: no such pattern; 'tapio pattern list' names them"
            ))
        })?;
        out.push(pattern.id.clone());
    }
    let patterns = patterns.without(&out);
    let mut recording = Recording::open(paths)?;
    let store = Engine::store(STORE)?;
    let mut engine = Engine::new(Arc::clone(&store), Arc::new(patterns))?.unhurried();
    let bar = bar(recording.progress().1);
    let mut requests = 0_u64;
    while let Some((_, request)) = recording.next_request() {
        engine.ingest(&request);
        requests += 1;
        bar.set_position(recording.progress().0);
        for line in recording.passed() {
            bar.suspend(|| eprintln!("{line}"));
        }
    }
    engine.finish();
    bar.finish_and_clear();
    for line in recording.passed() {
        eprintln!("{line}");
    }
    if requests == 0 {
        return Err(Error::new(format!(
            "no OTLP requests in {}: expected *.jsonl or *.jsonl.zst as the Collector's file exporter writes them",
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        )));
    }
    if let (failed @ 1.., Some(why)) = &engine.failures {
        eprintln!("{failed} passes of the correlation failed; the last one: {why}");
    }
    Ok((engine, store))
}

/// A bar on standard error when that is a terminal, and nothing otherwise.
fn bar(length: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {elapsed}") {
        bar.set_style(style);
    }
    bar
}
