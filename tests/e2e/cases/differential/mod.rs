//! One configuration, the same requests, two programs: what a real Collector answers, sends and says,
//! Tapio answers, sends and says. Where it does otherwise, DIFFERENCES.md has it by name with the reason,
//! and a difference that is none any more fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;

use crate::e2e::{
    backend::{Backend, Inbox},
    parts,
    program::{Program, folder, free_port},
    runner::Skipped,
};

mod commands;
mod grpc;
mod health;
mod http;
mod matrix;
mod metrics;
mod mistakes;
mod outgoing;
mod pieces;
mod processors;
mod raw;

pub(crate) use self::{
    commands::commands,
    grpc::grpc,
    health::health,
    http::http,
    matrix::matrix,
    metrics::metrics,
    mistakes::mistakes,
    outgoing::outgoing,
    pieces::pieces,
    processors::{connectors, processors},
    raw::raw,
};

const LISTED: &str = include_str!("../../../../DIFFERENCES.md");

/// What is compared, over all groups of cases.
static LEDGER: Mutex<Ledger> = Mutex::new(Ledger::new());

struct Ledger {
    groups: usize,
    equal: usize,
    listed: usize,
    /// Rows of the list that were met, and the cases that should differ by them and do not.
    met: BTreeSet<String>,
}

impl Ledger {
    const fn new() -> Self {
        Ledger { groups: 0, equal: 0, listed: 0, met: BTreeSet::new() }
    }
}

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().expect("no case panics while it holds the lock")
}

/// The names of DIFFERENCES.md: the first cell of each row has one or more, and `*` stands for anything.
fn listed() -> Vec<&'static str> {
    let rows = LISTED.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split_once(" | ").expect("a row has cells").0);
    cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|name| !name.is_empty()).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|i| tail.is_char_boundary(i) && matches(rest, &tail[i..]))
        }),
    }
}

/// One group of comparisons.
struct Group {
    equal: usize,
    listed: usize,
    wrong: String,
}

impl Group {
    fn new() -> Self {
        Group { equal: 0, listed: 0, wrong: String::new() }
    }

    /// One case: each of its facets - name, the Collector's, Tapio's - is equal, or listed as
    /// `case:facet` and unequal. A text for people is a case of its own.
    fn case(&mut self, name: &str, facets: &[(&str, String, String)]) {
        let (texts, rest): (Vec<_>, Vec<_>) = facets.iter().partition(|(facet, theirs, ours)| {
            *facet == "message" && !(theirs.is_empty() && ours.is_empty())
        });
        self.compare(name, &rest);
        if !texts.is_empty() {
            self.compare(name, &texts);
        }
    }

    fn compare(&mut self, name: &str, facets: &[&(&str, String, String)]) {
        let mut equal = true;
        for (facet, theirs, ours) in facets {
            let facet = format!("{name}:{facet}");
            let row = listed().into_iter().find(|row| matches(row, &facet));
            match (theirs == ours, row) {
                (true, None) => {}
                // What a `*` covers need not all differ; that some of it does is looked at in the end.
                (true, Some(row)) if row.contains('*') => {}
                (true, Some(row)) => {
                    self.wrong(format!("{facet} is listed as {row}, and both say {ours:.300}"));
                }
                (false, Some(row)) => {
                    equal = false;
                    ledger().met.insert(row.to_owned());
                }
                (false, None) => {
                    self.wrong(format!(
                        "{facet}\n    Collector {theirs:.1500}\n    Tapio     {ours:.1500}"
                    ));
                }
            }
        }
        if equal { self.equal += 1 } else { self.listed += 1 }
    }

    fn wrong(&mut self, what: String) {
        writeln!(self.wrong, "{what}").expect("writing to memory");
    }

    /// Tells, and fails if anything was not as listed.
    fn end(self) {
        println!("    {} equal, {} differ as listed", self.equal, self.listed);
        assert!(self.wrong.is_empty(), "not alike:\n{}", self.wrong);
        let mut ledger = ledger();
        ledger.groups += 1;
        ledger.equal += self.equal;
        ledger.listed += self.listed;
    }
}

/// The sum of all groups, and whether each row of the list was met.
pub(crate) fn in_all() -> Result<(), Skipped> {
    const GROUPS: usize = 12;
    parts::collector()?;
    let ledger = ledger();
    let cases = ledger.equal + ledger.listed;
    println!(
        "differential: {cases} cases, {} equal, {} differ as listed",
        ledger.equal, ledger.listed
    );
    if ledger.groups == GROUPS {
        let stale: Vec<_> = listed().into_iter().filter(|row| !ledger.met.contains(*row)).collect();
        assert!(stale.is_empty(), "DIFFERENCES.md lists what is met nowhere: {stale:?}");
    } else {
        println!("    {} of {GROUPS} groups ran to their end", ledger.groups);
    }
    Ok(())
}

/// Where one of the two listens, and what it sends to.
struct Ports {
    grpc: u16,
    http: u16,
    metrics: u16,
    health: u16,
    backend: u16,
}

/// One of the two programs.
struct Twin {
    name: &'static str,
    program: Program,
    ports: Ports,
    inbox: Inbox,
    _backend: Backend,
}

/// The Collector and Tapio, in this order.
fn programs() -> Result<[(&'static str, std::path::PathBuf); 2], Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    Ok([("Collector", otelcol), ("Tapio", env!("CARGO_BIN_EXE_tapio").into())])
}

/// Starts both with a configuration that is the same but for its ports. JSON is YAML.
async fn pair(case: &str, make: impl Fn(&Ports) -> Value) -> Result<[Twin; 2], Skipped> {
    let folder = folder(&format!("differential_{case}"));
    let [theirs, ours] = programs()?;
    Ok([start(&folder, theirs, &make).await, start(&folder, ours, &make).await])
}

async fn start(
    folder: &Path,
    (name, program): (&'static str, std::path::PathBuf),
    make: &impl Fn(&Ports) -> Value,
) -> Twin {
    let inbox = Inbox::default();
    let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
    let [grpc, http, metrics, health] = [free_port(), free_port(), free_port(), free_port()];
    let ports = Ports { grpc, http, metrics, health, backend: backend.port };
    let config = make(&ports);
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, config.to_string()).expect("the case's folder is writable");
    let mut command = Command::new(program);
    command.arg("--config").arg(&file);
    let mut program = Program::start(name, command, folder);
    // What the configuration has a port for.
    let text = config.to_string();
    for port in [grpc, http, metrics, health] {
        if text.contains(&port.to_string()) {
            program.listens(port).await;
        }
    }
    Twin { name, program, ports, inbox, _backend: backend }
}

/// Both results of the same question.
async fn both<T>([theirs, ours]: &[Twin; 2], ask: impl AsyncFn(&Twin) -> T) -> [T; 2] {
    [ask(theirs).await, ask(ours).await]
}

/// Facets of the two sides side by side; one that only one side has is empty on the other.
fn facets(
    [theirs, ours]: [BTreeMap<&'static str, String>; 2],
) -> Vec<(&'static str, String, String)> {
    let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).copied().collect();
    let of = |side: &BTreeMap<_, String>, name| side.get(name).cloned().unwrap_or_default();
    names.into_iter().map(|name| (name, of(&theirs, name), of(&ours, name))).collect()
}

/// Headers that say something, in a fixed order.
fn shown(headers: &::http::HeaderMap) -> String {
    let skip = [
        "date",
        "content-length",
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-accept-encoding",
    ];
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !skip.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines.join("; ")
}
