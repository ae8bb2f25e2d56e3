//! `tapio queue`: what waits on disk, and what is to become of dead letters.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tapio_exporter::{
    FileStorageConfig, Holding, ask_replay, collectors_files, drop_dead_letters, holdings, set_aside,
};
use tapio_proto::model::Time;

use crate::{
    config::{ComponentId, Sources, decode},
    doors::table::{harmless, print},
    error::{Error, Result},
    extensions::COLLECTORS_REMEDY,
};

/// Show what exporters keep on disk; send dead letters again or delete them
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// The directory of the file_storage; without it those of the configuration
    #[arg(long, value_name = "FOLDER", global = true)]
    directory: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the queues on disk, the dead letters with the reasons why, and what cannot be read
    List,
    /// Put dead letters back into the queue: at once where Tapio runs, else when it starts
    Replay {
        /// Of this exporter only
        exporter: Option<String>,
    },
    /// Delete dead letters
    Drop {
        /// Of this exporter
        #[arg(required_unless_present = "all")]
        exporter: Option<String>,
        /// Of all exporters
        #[arg(long, conflicts_with = "exporter")]
        all: bool,
    },
}

impl Args {
    pub(crate) fn run(self, sources: &Sources) -> Result<ExitCode> {
        let directories = match self.directory {
            Some(directory) => BTreeSet::from([directory]),
            None => configured(sources)?,
        };
        let mut text = String::new();
        match self.what {
            What::List => {
                for directory in &directories {
                    text.push_str(&list(directory)?);
                }
            }
            What::Replay { exporter } => {
                for (directory, held) in dead(&directories, exporter.as_deref())? {
                    let asked = ask_replay(&directory, &held.exporter);
                    asked.map_err(|error| told(&directory, &error))?;
                    text.push_str(&format!(
                        "{}: {} requests ({} items) go back into the queue within seconds where a Tapio runs whose exporter of this name has its sending_queue and this directory, else when one starts.\n",
                        held.exporter, held.requests, held.items
                    ));
                }
            }
            What::Drop { exporter, .. } => {
                for (directory, held) in dead(&directories, exporter.as_deref())? {
                    let (requests, items) = drop_dead_letters(&directory, &held.exporter)
                        .map_err(|error| told(&directory, &error))?;
                    text.push_str(&format!(
                        "{}: deleted {requests} requests ({items} items).\n",
                        held.exporter
                    ));
                }
            }
        }
        if text.is_empty() {
            text.push_str("Nothing is on disk.\n");
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The directories of the configuration's storages.
fn configured(sources: &Sources) -> Result<BTreeSet<PathBuf>> {
    let loaded = sources.load()?;
    let mut found = BTreeSet::new();
    for (key, body) in loaded.root.get("extensions").map(|node| node.entries()).unwrap_or_default() {
        if ComponentId::parse(&key.text).is_ok_and(|id| id.kind() == "file_storage") {
            let config = decode::<FileStorageConfig>(body).map_err(|wrong| {
                let first = wrong.into_iter().next();
                Error::new(first.map_or_else(String::new, |(place, text)| format!("{place}: {text}")))
            })?;
            found.insert(config.directory);
        }
    }
    match found.is_empty() {
        true => Err(Error::new(
            "the configuration has no file_storage extension; name its directory with --directory, or the configuration with --config",
        )),
        false => Ok(found),
    }
}

fn held(directory: &Path) -> Result<Vec<Holding>> {
    holdings(directory).map_err(|error| told(directory, &error))
}

fn told(directory: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("{}: {error}", directory.display()))
}

/// The dead letters that there are, of one exporter or of all.
fn dead(directories: &BTreeSet<PathBuf>, exporter: Option<&str>) -> Result<Vec<(PathBuf, Holding)>> {
    let mut found = Vec::new();
    for directory in directories {
        let holdings = held(directory)?.into_iter();
        let dead = holdings.filter(|held| held.signal.is_none() && held.requests > 0);
        let wanted = dead.filter(|held| exporter.is_none_or(|wanted| wanted == held.exporter));
        found.extend(wanted.map(|held| (directory.clone(), held)));
    }
    match exporter {
        Some(exporter) if found.is_empty() => Err(Error::new(format!(
            "\"{exporter}\" has no dead letters; `tapio queue list` shows who has"
        ))),
        _ => Ok(found),
    }
}

/// One line for each queue and each store of dead letters, the reasons below.
fn list(directory: &Path) -> Result<String> {
    let mut text = String::new();
    for held in held(directory)?.into_iter().filter(|held| held.requests > 0) {
        let kind = held.signal.map_or("dead letters", |signal| signal.name());
        let oldest = held.oldest.map_or_else(String::new, |ms| {
            format!(", the oldest of {}", Time::from_unix_nano(ms.saturating_mul(1_000_000)))
        });
        let replay = if held.replay_asked { ", to be replayed" } else { "" };
        text.push_str(&format!(
            "{}  {kind}: {} requests, {} items, {} KiB{oldest}{replay}\n",
            harmless(&held.exporter, false),
            held.requests,
            held.items,
            held.bytes.div_ceil(1024)
        ));
        for (reason, requests) in &held.reasons {
            text.push_str(&format!("    {requests}: {}\n", harmless(reason, false)));
        }
    }
    let unreadable = set_aside(directory).map_err(|error| told(directory, &error))?;
    for (exporter, folder, files, bytes) in unreadable {
        text.push_str(&format!(
            "{}  damaged records that were set aside: {files} files, {} KiB, in {}\n",
            harmless(&exporter, false),
            bytes.div_ceil(1024),
            harmless(&folder.display().to_string(), false)
        ));
    }
    for file in collectors_files(directory).map_err(|error| told(directory, &error))? {
        let file = file.display().to_string();
        text.push_str(&format!(
            "{}: of a Collector's file_storage; Tapio does not read it. {COLLECTORS_REMEDY}\n",
            harmless(&file, false)
        ));
    }
    Ok(text)
}
