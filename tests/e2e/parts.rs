//! Real parts that are built, not imitated: the Collector and telemetrygen (Go), the SDKs, the load generator.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::runner::Skipped;

/// Where `otelcol`, `telemetrygen` and the sender with the SDK are.
pub(crate) fn collector() -> Result<&'static Path, Skipped> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = cache().join("collector");
        // The trailing slash makes `go build` write into the folder.
        for (name, package) in [("otelcol", "."), ("sdk", "./sdk"), ("", "tool")] {
            let output = format!("{}/{name}", folder.display());
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

/// The OpenTelemetry SDKs: what runs the sender of each language, its arguments still to come.
pub(crate) fn sdk(language: &str) -> Result<Command, Skipped> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
    match language {
        "go" => Ok(Command::new(collector()?.join("sdk"))),
        "python" => {
            let folder = cache().join("python");
            let python = folder.join("bin/python3");
            let wanted = sources.join("requirements.txt");
            install("python", &folder, &wanted, || {
                build(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
                let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
                build(Command::new(&python).args(pip).arg(&wanted))
            })?;
            let mut command = Command::new(&python);
            command.arg(sources.join("send.py"));
            Ok(command)
        }
        "js" => {
            let folder = cache().join("node");
            let wanted = sources.join("package.json");
            install("js", &folder, &wanted, || {
                let io = |error: std::io::Error| error.to_string();
                fs::create_dir_all(&folder).map_err(io)?;
                fs::copy(&wanted, folder.join("package.json")).map_err(io)?;
                let npm = ["install", "--no-audit", "--no-fund", "--silent"];
                build(Command::new("npm").args(npm).current_dir(&folder))
            })?;
            // Modules are looked for where the program lies.
            let program = folder.join("send.mjs");
            fs::copy(sources.join("send.mjs"), &program).expect("the cache is writable");
            let mut command = Command::new("node");
            command.arg(program);
            Ok(command)
        }
        other => panic!("no SDK for {other}"),
    }
}

/// Installs once for each content of `wanted`.
fn install(
    name: &str,
    folder: &Path,
    wanted: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), Skipped> {
    let text = fs::read_to_string(wanted).expect("it is in the tree");
    let done = folder.join("installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == text) {
        return Ok(());
    }
    match install() {
        Ok(()) => fs::write(done, text).expect("the cache is writable"),
        Err(why) if env::var_os("TAPIO_REQUIRE_REAL_PARTS").is_some_and(|v| v == "1") => {
            panic!("TAPIO_REQUIRE_REAL_PARTS=1, but the SDK for {name} cannot be installed: {why}")
        }
        Err(why) => return Err(Skipped(format!("no OpenTelemetry SDK for {name}: {why}"))),
    }
    Ok(())
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
