//! What is remembered of incidents that are over, in a file, so that a restart forgets none.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
};

use crate::story::Stories;

/// The file: JSON lines, a thousand at most, replaced whole and synced.
pub(crate) struct History {
    path: PathBuf,
    /// The last write failed; that is told once.
    failing: bool,
}

impl History {
    /// Gives `stories` what the file holds. A file that does not read is told, and no reason to stop.
    pub(crate) fn open(path: PathBuf, stories: &mut Stories) -> Self {
        match fs::read_to_string(&path) {
            Ok(text) => match stories.recall(&text) {
                0 => {}
                lines => tracing::warn!(
                    lines,
                    path = %path.display(),
                    "Lines of the history of incidents could not be read and are left out"
                ),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                %error,
                path = %path.display(),
                "The history of incidents could not be read: none is told as recurring until it recurs"
            ),
        }
        History { path, failing: false }
    }

    /// Writes down what is new.
    pub(crate) fn keep(&mut self, stories: &mut Stories) {
        let Some(text) = stories.unsaved() else { return };
        let written = self.replace(&text);
        if let Err(error) = &written
            && !self.failing
        {
            tracing::warn!(
                %error,
                path = %self.path.display(),
                "The history of incidents could not be written; it is tried again after the next one"
            );
        }
        self.failing = written.is_err();
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}
