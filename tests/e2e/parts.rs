//! Real parts that are built, not imitated: the Collector and telemetrygen (Go), the load generator.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::runner::Skipped;

/// Where `otelcol` and `telemetrygen` are.
pub(crate) fn collector() -> Result<&'static Path, Skipped> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = cache().join("collector");
        for (output, package) in [(folder.join("otelcol"), "."), (folder.clone(), "tool")] {
            // The trailing slash makes `go build` write into the folder.
            let output =
                format!("{}{}", output.display(), if package == "tool" { "/" } else { "" });
            build(
                Command::new("go")
                    .args(["build", "-p=2", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
                    .args([&output, package])
                    .env("CGO_ENABLED", "0")
                    .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/collector")),
            )?;
        }
        Ok(folder)
    });
    match built {
        Ok(folder) => Ok(folder),
        Err(why) if env::var_os("TAPIO_REQUIRE_REAL_PARTS").is_some_and(|v| v == "1") => {
            panic!("TAPIO_REQUIRE_REAL_PARTS=1, but the Collector cannot be built: {why}")
        }
        Err(why) => Err(Skipped(format!("no real Collector: {why}; install Go 1.25 or newer"))),
    }
}

/// The load generator of the shared tools, where they lie beside the repository.
pub(crate) fn loadgen() -> Result<PathBuf, Skipped> {
    let shared = env::var_os("TAPIO_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let manifest = shared.join("tools/loadgen/Cargo.toml");
    if !manifest.is_file() {
        return Err(Skipped("no load generator beside the repository (TAPIO_SHARED)".into()));
    }
    let target = cache().join("loadgen");
    build(
        Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
            .arg(&manifest)
            .env("CARGO_TARGET_DIR", &target),
    )
    .unwrap_or_else(|why| panic!("the load generator is there but cannot be built: {why}"));
    Ok(target.join("release/loadgen"))
}

/// Builds are kept here between runs.
fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("tapio")
}

fn build(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{name} build failed ({}): {}", output.status, text.trim()))
}
