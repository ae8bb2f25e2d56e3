//! The configurations in `deploy/` are good, says the program that is to read them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::e2e::{parts, runner::Skipped};

pub(crate) fn tapio() -> Result<(), Skipped> {
    assert_valid(Path::new(env!("CARGO_BIN_EXE_tapio")), "tapio.yaml");
    Ok(())
}

pub(crate) fn collector() -> Result<(), Skipped> {
    assert_valid(&parts::collector()?.join("otelcol"), "collector/to-tapio.yaml");
    Ok(())
}

fn assert_valid(program: &Path, file: &str) {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "deploy", file].iter().collect();
    let mut command = Command::new(program);
    command.arg("validate").arg("--config").arg(format!("file:{}", file.display()));
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", file.display());
}
