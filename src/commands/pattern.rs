//! `tapio pattern`: the failure patterns as they are read: listed, explained, tried.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use tapio_processor::{Bench, Effect, Pattern, Patterns};

use crate::{
    config::Sources,
    doors::table::print,
    error::{Error, Result},
};

/// The families of the failure catalogue, by the letter of its entries.
const FAMILIES: [(&str, &str); 7] = [
    ("A", "Something was changed"),
    ("B", "Memory, CPU and node pressure"),
    ("C", "Scheduling and admission"),
    ("D", "Nodes and control plane"),
    ("E", "Network and service routing"),
    ("F", "Start-up, images and storage"),
    ("G", "Probes, dependencies and application"),
];

/// List, explain or test the failure patterns: the built-in ones and your own
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// One line for each pattern, by family
    List {
        /// Folders with patterns (*.yaml) beside the built-in ones
        #[arg(long, value_name = "FOLDER")]
        patterns: Vec<PathBuf>,
    },
    /// What a pattern looks for, what tells it from its look-alikes, what it says and advises
    Explain {
        /// Folders with patterns (*.yaml) beside the built-in ones
        #[arg(long, value_name = "FOLDER")]
        patterns: Vec<PathBuf>,
        /// The pattern's id
        id: String,
    },
    /// Run the patterns' own tests, all patterns competing: the built-in ones, or those of files and folders
    Test {
        /// Files or folders with patterns (*.yaml)
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        match self.what {
            What::List { patterns } => {
                let patterns = with(&patterns)?;
                patterns.replaced().iter().for_each(|line| eprintln!("{line}"));
                print(&list(&patterns))?;
            }
            What::Explain { patterns, id } => {
                let patterns = with(&patterns)?;
                let pattern = patterns.find(&id).ok_or_else(|| {
                    Error::new(format!("no pattern {id:?}: 'tapio pattern list' names them"))
                })?;
                print(&explain(pattern))?;
            }
            What::Test { paths } => {
                let (text, failed) = test(&paths)?;
                print(&text)?;
                if failed > 0 {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The built-in patterns and those of these files and folders.
fn with(paths: &[PathBuf]) -> Result<Patterns> {
    let mut patterns = Patterns::builtin()?;
    for path in paths {
        patterns.add_path(path)?;
    }
    Ok(patterns)
}

fn list(patterns: &Patterns) -> String {
    let mut out = String::new();
    let families = FAMILIES.iter().map(|(letter, name)| (Some(*letter), *name));
    for (letter, name) in families.chain([(None, "Others")]) {
        let mut all: Vec<_> = patterns.iter().filter(|p| family(&p.catalogue) == letter).collect();
        if all.is_empty() {
            continue;
        }
        all.sort_by_key(|p| (p.catalogue.len(), p.catalogue.clone(), p.id.clone()));
        let _ = writeln!(out, "{name}");
        for pattern in all {
            let _ = writeln!(out, "  {:28} {:4} {}", pattern.id, pattern.catalogue, pattern.mechanism);
        }
    }
    out
}

/// The letter of the family that an entry of the catalogue belongs to.
fn family(entry: &str) -> Option<&'static str> {
    FAMILIES.iter().map(|(letter, _)| *letter).find(|letter| entry.starts_with(letter))
}

fn explain(pattern: &Pattern) -> String {
    let mut out = format!("{} ({})\n{}\n", pattern.id, pattern.catalogue, pattern.mechanism);
    let cause = &pattern.cause;
    let source = format!("{:?}", cause.source).to_lowercase();
    let _ = write!(out, "\nCause\n  {source}");
    for (key, text) in [
        ("of", &cause.kind),
        ("verb", &cause.verb),
        ("at", &cause.path),
        ("which bears on the workload as", &cause.relation),
    ] {
        if !text.is_empty() {
            let _ = write!(out, ", {key} /{text}/");
        }
    }
    let _ = writeln!(out, "; first effect within {}, prior {}", pattern.within, pattern.prior);
    let effect = |out: &mut String, effect: &Effect| {
        let must = if effect.required { " (must be seen)" } else { "" };
        let _ = write!(out, "  {}{must}\n     ", effect.what);
        for (key, text) in
            [("type", &effect.r#type), ("reason", &effect.reason), ("text", &effect.text)]
        {
            if !text.is_empty() {
                let _ = write!(out, " {key} /{text}/");
            }
        }
        out.push('\n');
    };
    out.push_str("\nWhat is to be seen\n");
    pattern.see.iter().for_each(|e| effect(&mut out, e));
    if !pattern.unless.is_empty() {
        out.push_str("\nWhat tells it from its look-alikes: it is not this pattern when\n");
        pattern.unless.iter().for_each(|e| effect(&mut out, e));
    }
    let _ = writeln!(out, "\nWhat is told\n  {}, because ...", pattern.title);
    out.push_str("\nDo\n");
    for (n, remedy) in pattern.r#do.iter().enumerate() {
        let _ = writeln!(out, "  {}. {}", n + 1, remedy.say);
        if !remedy.run.is_empty() {
            let _ = writeln!(out, "     {}", remedy.run);
        }
    }
    if !pattern.prevent.is_empty() {
        let _ = writeln!(out, "\nPrevent\n  {}", pattern.prevent);
    }
    if !pattern.tests.is_empty() {
        out.push_str("\nTests\n");
        for trial in &pattern.tests {
            let kind = if trial.blames.is_empty() { "must not match" } else { &*trial.blames };
            let _ = writeln!(out, "  {} -> {kind}", trial.say);
        }
    }
    out
}

/// A line for each test, and how many failed.
fn test(paths: &[PathBuf]) -> Result<(String, usize)> {
    let mut bench = Bench::new(with(paths)?)?;
    let mut chosen = Patterns::default();
    for path in paths {
        chosen.add_path(path)?;
    }
    if paths.is_empty() {
        chosen = bench.patterns().clone();
    }
    let (mut out, mut run, mut failed, mut untested) = (String::new(), 0, 0, 0);
    for pattern in chosen.iter() {
        if pattern.tests.is_empty() {
            untested += 1;
            let why = match pattern.is_measured() {
                true => "what requests measure is tried over recordings, with 'tapio replay'",
                false => "it has no 'tests', so nothing shows that it blames whom it should",
            };
            writeln!(out, "none  {}: {why}", pattern.id)?;
        }
        for trial in &pattern.tests {
            run += 1;
            match bench.run(pattern, trial) {
                Ok(()) => writeln!(out, "ok    {}: {}", pattern.id, trial.say)?,
                Err(why) => {
                    failed += 1;
                    writeln!(out, "FAIL  {}: {}: {why}", pattern.id, trial.say)?;
                }
            }
        }
    }
    let untested = match untested {
        0 => String::new(),
        count => format!(", {count} untested"),
    };
    writeln!(out, "{run} tests, {failed} failed{untested}")?;
    Ok((out, failed))
}
