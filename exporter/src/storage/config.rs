//! `extensions: file_storage:`, with the Collector's keys and defaults.

use std::{fs, path::PathBuf};

use serde::Deserialize;
use tapio_proto::transport::GoDuration;

use crate::net::ConfigError;

/// `extensions: file_storage:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileStorageConfig {
    /// Where everything is kept. For one process only.
    pub directory: PathBuf,
    /// How long to wait for another process to give the directory free.
    pub timeout: GoDuration,
    /// Accepted for the Collector's sake: what is acknowledged is on disk, always.
    pub fsync: bool,
    /// Make `directory`.
    pub create_directory: bool,
    /// Of a directory that is made, in octal.
    pub directory_permissions: String,
    /// Accepted for the Collector's sake: a damaged record is set aside and the rest goes on.
    pub recreate: bool,
    /// Accepted for the Collector's sake: segments are deleted when all in them is delivered.
    pub compaction: CompactionConfig,
    /// Bound of each queue on disk, whatever `queue_size` allows. Tapio's own key.
    pub max_mib: u64,
    /// Bound of each exporter's dead letters. Tapio's own key.
    pub dead_letters_max_mib: u64,
}

/// `compaction:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactionConfig {
    #[doc(hidden)]
    pub on_start: bool,
    #[doc(hidden)]
    pub on_rebound: bool,
    #[doc(hidden)]
    pub directory: PathBuf,
    #[doc(hidden)]
    pub rebound_needed_threshold_mib: i64,
    #[doc(hidden)]
    pub rebound_trigger_threshold_mib: i64,
    #[doc(hidden)]
    pub max_transaction_size: i64,
    #[doc(hidden)]
    pub check_interval: GoDuration,
    #[doc(hidden)]
    pub cleanup_on_start: bool,
}

impl Default for FileStorageConfig {
    fn default() -> Self {
        FileStorageConfig {
            directory: "/var/lib/otelcol/file_storage".into(),
            timeout: GoDuration::from_secs(1),
            fsync: false,
            create_directory: false,
            directory_permissions: "0750".into(),
            recreate: false,
            compaction: CompactionConfig::default(),
            max_mib: 4096,
            dead_letters_max_mib: 512,
        }
    }
}

impl Default for CompactionConfig {
    fn default() -> Self {
        CompactionConfig {
            on_start: false,
            on_rebound: false,
            directory: "/var/lib/otelcol/file_storage".into(),
            rebound_needed_threshold_mib: 100,
            rebound_trigger_threshold_mib: 10,
            max_transaction_size: 65_536,
            check_interval: GoDuration::from_secs(5),
            cleanup_on_start: false,
        }
    }
}

impl FileStorageConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, why: String| Err(ConfigError::new(key, why));
        match fs::metadata(&self.directory) {
            Ok(about) if !about.is_dir() => {
                return fail(
                    "directory",
                    format!("{} is not a directory", self.directory.display()),
                );
            }
            Err(error) if !self.create_directory => {
                return fail(
                    "directory",
                    format!(
                        "directory must exist: stat {}: {error}. You can enable the create_directory option to automatically create it",
                        self.directory.display()
                    ),
                );
            }
            _ => {}
        }
        if self.compaction.max_transaction_size < 0 {
            return fail(
                "compaction",
                "max transaction size for compaction cannot be less than 0".into(),
            );
        }
        if self.compaction.on_rebound && self.compaction.check_interval.is_zero() {
            return fail(
                "compaction",
                "compaction check interval must be positive when rebound compaction is set".into(),
            );
        }
        if self.max_mib == 0 || self.dead_letters_max_mib == 0 {
            return fail("max_mib", "`max_mib` and `dead_letters_max_mib` must be positive".into());
        }
        self.mode().map(drop)
    }

    /// The permissions of a directory that is made.
    pub(super) fn mode(&self) -> Result<u32, ConfigError> {
        let fail = |why: &str| ConfigError::new("directory_permissions", why);
        let mode = u32::from_str_radix(&self.directory_permissions, 8).map_err(|_| {
            fail("directory_permissions value must be a valid octal representation of file permissions")
        })?;
        match mode & !0o777 {
            0 => Ok(mode),
            _ => Err(fail("directory_permissions contain invalid bits for file access")),
        }
    }
}
