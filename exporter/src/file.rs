//! The `file` exporter: a record for each request, as the Collector's writes them.

use std::{
    fs,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Deserialize;
use tapio_proto::{
    Accepted, Code, Consumer, Pending, Request, Status, json,
    model::Time,
    transport::{Compression, GoDuration},
};

use crate::net::ConfigError;

/// `exporters: file:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The file; its folder must exist unless `create_directory`.
    pub path: PathBuf,
    /// Write behind what is there; otherwise it is emptied at the start, unless there is a `rotation`.
    pub append: bool,
    /// Make the folder.
    pub create_directory: bool,
    /// Of a request.
    pub format: Format,
    /// Of each request by itself.
    pub compression: FileCompression,
    /// Begin a new file now and then.
    pub rotation: Option<Rotation>,
    /// Accepted for the Collector's sake: nothing waits to be written.
    pub flush_interval: GoDuration,
}

/// `format:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// OTLP JSON lines; compressed they are like `proto`.
    #[default]
    Json,
    /// Protobuf, each with its length before it in four bytes, the highest first.
    Proto,
}

/// `compression:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileCompression {
    /// As is.
    #[default]
    #[serde(rename = "")]
    None,
    /// A frame for each request, with its length before it.
    Zstd,
}

/// `rotation:` A file that is full is renamed to `NAME-TIME.EXTENSION`, and a new one begun.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// A file that would be larger is full; 0 is 100.
    pub max_megabytes: u64,
    /// Files that became full longer ago are removed; 0 keeps them.
    pub max_days: u64,
    /// Of those that are full so many are kept, the newest; 0 keeps all.
    pub max_backups: usize,
    /// Accepted for the Collector's sake: the names have the time in UTC.
    pub localtime: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { max_megabytes: 100, max_days: 0, max_backups: 100, localtime: false }
    }
}

impl FileConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, why| Err(ConfigError::new(key, why));
        if self.path.as_os_str().is_empty() {
            return fail("path", "must be non-empty");
        }
        if self.append && self.rotation.is_some() {
            return fail("append", "append and rotation enabled at the same time is not supported");
        }
        if self.append && self.compression != FileCompression::None {
            return fail(
                "append",
                "append and compression enabled at the same time is not supported",
            );
        }
        Ok(())
    }
}

/// Writes a record for each request. A request is acknowledged when its record was handed to the
/// operating system.
pub struct File {
    format: Format,
    compression: FileCompression,
    target: Arc<Mutex<Target>>,
}

/// The file that is written now.
struct Target {
    path: PathBuf,
    file: fs::File,
    rotation: Option<Rotation>,
}

impl File {
    /// Opens the file.
    pub fn open(config: &FileConfig) -> Result<File, ConfigError> {
        config.check()?;
        let path = &config.path;
        let fail = |error: io::Error| {
            ConfigError::new("path", format!("open {}: {error}", path.display()))
        };
        if let Some(folder) = path.parent().filter(|_| config.create_directory) {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(!config.append && config.rotation.is_none())
            .open(path)
            .map_err(fail)?;
        if config.rotation.as_ref().is_some_and(|rotation| rotation.localtime) {
            tracing::warn!(
                path = %path.display(),
                "rotation::localtime has no effect: files that are full are named by their time in UTC."
            );
        }
        let target = Target { path: path.clone(), file, rotation: config.rotation.clone() };
        target.tidy();
        let (format, compression) = (config.format, config.compression);
        Ok(File { format, compression, target: Arc::new(Mutex::new(target)) })
    }
}

impl Consumer for File {
    fn consume(&self, request: Request) -> Pending<'_> {
        let (format, compression) = (self.format, self.compression);
        let target = Arc::clone(&self.target);
        Box::pin(async move {
            // Encoding and disk both take their time: not on the threads that serve sockets.
            let written = tokio::task::spawn_blocking(move || {
                let record = record(&request, format, compression)?;
                let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
                target.append(&record).map_err(|error| {
                    let path = target.path.display();
                    Status::new(Code::Unavailable, format!("write {path}: {error}"))
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

/// What is written of a request: a line, or bytes with their length before them.
fn record(
    request: &Request,
    format: Format,
    compression: FileCompression,
) -> Result<Vec<u8>, Status> {
    let invalid = |error: String| Status::new(Code::InvalidArgument, error);
    let body = match format {
        Format::Json => json::from_proto(request.signal, &request.bytes)
            .map_err(|error| invalid(error.to_string()))?
            .into(),
        Format::Proto => request.bytes.clone(),
    };
    let body: Bytes = match compression {
        FileCompression::None => body,
        FileCompression::Zstd => Compression::Zstd
            .compress(&body, None)
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?,
    };
    let line = format == Format::Json && compression == FileCompression::None;
    let mut record = Vec::with_capacity(body.len() + 4);
    if !line {
        let len = u32::try_from(body.len())
            .map_err(|_| invalid("a request of 4 GiB has no length in four bytes".to_owned()))?;
        record.extend_from_slice(&len.to_be_bytes());
    }
    record.extend_from_slice(&body);
    if line {
        record.push(b'\n');
    }
    Ok(record)
}

impl Target {
    /// All of the record or nothing of it: a full disk must not leave half of one for readers.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let mut end = self.file.seek(io::SeekFrom::End(0))?;
        let most =
            self.rotation.as_ref().map_or(u64::MAX, |rotation| match rotation.max_megabytes {
                0 => Rotation::default().max_megabytes << 20,
                megabytes => megabytes.saturating_mul(1 << 20),
            });
        // A record that is larger than a file may be has one for itself.
        if end > 0 && end.saturating_add(record.len() as u64) > most {
            match self.rotate() {
                Ok(()) => {
                    end = 0;
                    self.tidy();
                }
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "Beginning a new file failed. The full one is written on.");
                }
            }
        }
        let written = self.file.write_all(record);
        if written.is_err()
            && let Err(error) = self.file.set_len(end)
        {
            tracing::warn!(%error, "could not take back an incomplete record");
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut time = now();
        let mut full = self.full(time);
        while full.exists() {
            time = time + Duration::from_millis(1);
            full = self.full(time);
        }
        fs::rename(&self.path, &full)?;
        match fs::OpenOptions::new().create_new(true).write(true).open(&self.path) {
            Ok(file) => {
                self.file = file;
                Ok(())
            }
            Err(error) => {
                fs::rename(&full, &self.path)?;
                Err(error)
            }
        }
    }

    /// The name of a file that became full then.
    fn full(&self, time: Time) -> PathBuf {
        let (before, after) = around(&self.path);
        self.path.with_file_name(format!("{before}{}{after}", stamp(time)))
    }

    /// Removes the files that are full and too many, or too old.
    fn tidy(&self) {
        let Some(rotation) = &self.rotation else { return };
        let (before, after) = around(&self.path);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let Ok(entries) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return };
        let mut full: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let stamp = name.strip_prefix(&before)?.strip_suffix(&after)?;
                is_stamp(stamp).then(|| (stamp.to_owned(), entry.path()))
            })
            .collect();
        full.sort_unstable_by(|a, b| b.cmp(a));
        let most = if rotation.max_backups == 0 { usize::MAX } else { rotation.max_backups };
        let days = Duration::from_secs(rotation.max_days.saturating_mul(86_400));
        let oldest = (rotation.max_days > 0).then(|| {
            let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(days);
            stamp(at(since))
        });
        for (number, (stamp, path)) in full.into_iter().enumerate() {
            let old = oldest.as_ref().is_some_and(|oldest| stamp < *oldest);
            if (number >= most || old)
                && let Err(error) = fs::remove_file(&path)
            {
                let path = path.display();
                tracing::warn!(%path, %error, "A file that is due to go could not be removed.");
            }
        }
    }
}

/// What comes before and after the time in the name of a file that is full.
fn around(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|_| format!(".{}", text(path.extension())));
    (format!("{}-", text(path.file_stem())), extension.unwrap_or_default())
}

/// `2026-01-02T15-04-05.000`
fn stamp(time: Time) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').replace(':', "-");
    if text.contains('.') { text } else { format!("{text}.000") }
}

fn is_stamp(text: &str) -> bool {
    let form = b"0000-00-00T00-00-00.000";
    text.len() == form.len()
        && text.bytes().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *form,
        })
}

fn now() -> Time {
    at(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn at(since: Duration) -> Time {
    Time::from_unix_nano(u64::try_from(since.as_millis()).unwrap_or(0).saturating_mul(1_000_000))
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("format", &self.format).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tapio_proto::Signal;

    use super::*;

    /// A folder of its own for a test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tapio-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn open(path: &Path, more: serde_json::Value) -> File {
        let mut config = serde_json::json!({"path": path});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        File::open(&serde_json::from_value(config).unwrap()).unwrap()
    }

    /// A request of traces with a schema URL of so many bytes.
    fn request(len: usize) -> Request {
        let mut resource = vec![0x1a];
        tapio_proto::wire::put_varint(&mut resource, len as u64);
        resource.resize(resource.len() + len, b'x');
        let mut bytes = vec![0x0a];
        tapio_proto::wire::put_varint(&mut bytes, resource.len() as u64);
        bytes.extend_from_slice(&resource);
        Request::new(Signal::Traces, bytes.into(), 0)
    }

    /// Guarantees: in `proto`, and compressed, each request has its length before it, and reads back as it was.
    #[tokio::test]
    async fn records_have_their_length_before_them() {
        let folder = folder("records");
        for (number, config) in [
            serde_json::json!({"format": "proto"}),
            serde_json::json!({"format": "proto", "compression": "zstd"}),
            serde_json::json!({"compression": "zstd"}),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.join(format!("{number}.bin"));
            let file = open(&path, config.clone());
            for len in [10, 3000] {
                file.consume(request(len)).await.unwrap();
            }
            let written = fs::read(&path).unwrap();
            let mut rest = &written[..];
            for len in [10, 3000] {
                let (prefix, after) = rest.split_first_chunk::<4>().unwrap();
                let (body, after) = after.split_at(u32::from_be_bytes(*prefix) as usize);
                rest = after;
                let mut body = Bytes::copy_from_slice(body);
                if config.get("compression").is_some() {
                    body = Compression::Zstd.decompress(body, 1 << 20).unwrap();
                }
                match config.get("format") {
                    Some(_) => assert_eq!(body, request(len).bytes),
                    None => {
                        let json = json::from_proto(Signal::Traces, &request(len).bytes).unwrap();
                        assert_eq!(body, json.as_bytes());
                    }
                }
            }
            assert!(rest.is_empty());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    /// Guarantees: a file that is full is renamed and none is larger; what was there at the start is kept; of
    /// the full ones as many stay as are wanted, the newest; no record is cut or lost; other files stay.
    #[tokio::test]
    async fn files_are_rotated() {
        let folder = folder("rotated");
        let path = folder.join("out.v1.json");
        fs::write(&path, "before\n").unwrap();
        fs::write(folder.join("out.v1-other.json"), "").unwrap();
        fs::write(folder.join("out.v1-2001-01-01T00-00-00.000.json"), "old\n").unwrap();
        let rotation = serde_json::json!({"rotation": {"max_megabytes": 1, "max_backups": 2}});
        let file = open(&path, rotation);
        for _ in 0..7 {
            file.consume(request(400 << 10)).await.unwrap();
        }
        file.consume(request(2 << 20)).await.unwrap();
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&"out.v1-other.json".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("2001")), "{names:?}");
        let lines: Vec<_> = names
            .iter()
            .map(|name| fs::read_to_string(folder.join(name)).unwrap().lines().count())
            .collect();
        // Two a file of 400 KiB: "before" with two, two, two, one; and the large one by itself.
        assert_eq!(lines.iter().sum::<usize>(), 2 + 1 + 1, "{names:?} {lines:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    /// Guarantees: what is older than `max_days` goes, by the time in its name.
    #[test]
    fn old_files_go() {
        let folder = folder("old");
        let path = folder.join("out.json");
        let yesterday = SystemTime::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(86_000);
        let young = folder.join(format!("out-{}.json", stamp(at(yesterday))));
        let old = folder.join("out-2001-01-01T00-00-00.000.json");
        fs::write(&young, "").unwrap();
        fs::write(&old, "").unwrap();
        let config = serde_json::json!({"rotation": {"max_days": 1, "localtime": true}});
        drop(open(&path, config));
        assert!(young.exists() && !old.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    /// Guarantees: what the Collector refuses is refused, in its words.
    #[test]
    fn what_cannot_be_is_refused() {
        for (config, why) in [
            (serde_json::json!({}), "must be non-empty"),
            (
                serde_json::json!({"path": "x", "append": true, "rotation": {}}),
                "append and rotation",
            ),
            (
                serde_json::json!({"path": "x", "append": true, "compression": "zstd"}),
                "append and compression",
            ),
        ] {
            let config: FileConfig = serde_json::from_value(config).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let gzip = serde_json::json!({"path": "x", "compression": "gzip"});
        assert!(serde_json::from_value::<FileConfig>(gzip).is_err());
    }
}
