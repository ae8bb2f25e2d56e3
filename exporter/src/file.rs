//! The `file` exporter: OTLP JSON lines, one request a line, as the Collector's writes them.

use std::{
    fs, io,
    io::{Seek, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use tapio_proto::{Accepted, Code, Consumer, Pending, Request, Status, json};

use crate::net::ConfigError;

/// `exporters: file:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The file; its folder must exist unless `create_directory`.
    pub path: PathBuf,
    /// Write behind what is there; otherwise it is emptied at the start.
    pub append: bool,
    /// Make the folder.
    pub create_directory: bool,
    /// Only `json`.
    pub format: Format,
}

/// `format:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// OTLP JSON lines.
    #[default]
    Json,
}

/// Writes each request as a line. A request is acknowledged when its line was handed to the
/// operating system.
pub struct File {
    path: PathBuf,
    file: Arc<Mutex<fs::File>>,
}

impl File {
    /// Opens the file.
    pub fn open(config: &FileConfig) -> Result<File, ConfigError> {
        let path = &config.path;
        if path.as_os_str().is_empty() {
            return Err(ConfigError::new("path", "must be non-empty"));
        }
        let fail = |error: io::Error| {
            ConfigError::new("path", format!("open {}: {error}", path.display()))
        };
        if let Some(folder) = path.parent().filter(|_| config.create_directory) {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(!config.append)
            .open(path)
            .map_err(fail)?;
        Ok(File { path: path.clone(), file: Arc::new(Mutex::new(file)) })
    }
}

impl Consumer for File {
    fn consume(&self, request: Request) -> Pending<'_> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        Box::pin(async move {
            // Encoding and disk both take their time: not on the threads that serve sockets.
            let written = tokio::task::spawn_blocking(move || {
                let mut line = json::from_proto(request.signal, &request.bytes)
                    .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
                line.push('\n');
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                append(&mut file, line.as_bytes()).map_err(|error| {
                    Status::new(Code::Unavailable, format!("write {}: {error}", path.display()))
                })
            });
            match written.await {
                Ok(Ok(())) => Ok(Accepted::default()),
                Ok(Err(status)) => Err(status),
                Err(_) => Err(Status::new(Code::Internal, "writing was interrupted")),
            }
        })
    }
}

/// All of the line or nothing of it: a full disk must not leave half a line for readers.
fn append(file: &mut fs::File, line: &[u8]) -> io::Result<()> {
    let end = file.seek(io::SeekFrom::End(0))?;
    let written = file.write_all(line);
    if written.is_err()
        && let Err(error) = file.set_len(end)
    {
        tracing::warn!(%error, "could not take back an incomplete line");
    }
    written
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}
