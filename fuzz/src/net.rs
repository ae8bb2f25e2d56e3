//! Stands where the exporter's module of this name stands, for the storage that is taken in as a module.

/// As the exporter's.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl ConfigError {
    /// As the exporter's.
    pub fn new(key: &'static str, why: impl Into<String>) -> Self {
        ConfigError(format!("{key}: {}", why.into()))
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
