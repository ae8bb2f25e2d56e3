//! What ends a command: a text for the person at the terminal, after `Error: `.

use std::fmt;

/// Any failure, as the text that will be shown. Like `anyhow`, it is no `std::error::Error` itself, so
/// that `?` takes every one.
#[derive(Debug)]
pub(crate) struct Error(String);

/// What commands return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What happened, where, what was expected, what to do.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Error(error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
