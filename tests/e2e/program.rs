//! Programs under test: started with files of their own, watched, stopped, never left behind.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, time::sleep};

use super::client;
pub(crate) use crate::ports::free_port;

/// A folder for one case's files, empty at its start and kept after it for whoever has to look.
pub(crate) fn folder(case: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hop").join(case);
    match fs::remove_dir_all(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{}: {error}", folder.display()),
    }
    fs::create_dir_all(&folder).expect("the target directory is writable");
    folder
}

/// Runs a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only memory and threads")
        .block_on(future)
}

/// A child process whose output goes to a file; killed when dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Program {
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("the case's folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Waits until something listens on the port.
    pub(crate) async fn listens(&mut self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            self.assert_alive();
            assert!(
                Instant::now() < deadline,
                "{} does not listen on {port}:\n{}",
                self.name,
                self.tail()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("the child is ours") {
            panic!("{} ended with {status}:\n{}", self.name, self.tail());
        }
    }

    /// The most memory it ever had resident, in MiB.
    pub(crate) fn peak_rss_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_else(|error| panic!("{} is gone ({error}):\n{}", self.name, self.tail()));
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib =
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok());
        kib.map(|kib: u64| kib / 1024).expect("the kernel writes VmHWM")
    }

    pub(crate) fn assert_peak_rss_below(&self, mib: u64) {
        let peak = self.peak_rss_mib();
        println!("    {}: peak RSS {peak} MiB, bound {mib}", self.name);
        assert!(peak < mib, "{} had {peak} MiB resident, more than {mib}", self.name);
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&mut self, name: &str) {
        self.assert_alive();
        let kill = format!("kill -{name} {}", self.child.id());
        let kill = Command::new("sh").args(["-c", &kill]).status();
        assert!(kill.is_ok_and(|status| status.success()), "{} cannot be signalled", self.name);
    }

    /// SIGKILL: no chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.assert_alive();
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal("TERM");
        self.ends(limit).await
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not end in {limit:?}:\n{}",
                self.name,
                self.tail()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops and expects exit code 0.
    pub(crate) async fn stop_well(&mut self) {
        let status = self.stop(Duration::from_secs(60)).await;
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.tail());
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is ours")
    }

    /// The end of its output.
    pub(crate) fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Tapio with one pipeline for each signal.
pub(crate) struct Tapio {
    pub(crate) program: Program,
    pub(crate) grpc: u16,
    pub(crate) http: u16,
    metrics: u16,
}

/// A configuration of Tapio on ports of its own, to be started more than once.
pub(crate) struct Setup {
    /// What is run; Tapio, unless it is compared with something.
    pub(crate) program: PathBuf,
    folder: PathBuf,
    file: PathBuf,
    ports: [u16; 3],
}

impl Setup {
    /// `otlp` in front, `processors` between and the given exporter behind; `extensions` is a map in
    /// flow style whose keys are all in use.
    pub(crate) fn new(
        folder: &Path,
        processors: &str,
        exporter: (&str, &str),
        extensions: &[(&str, &str)],
    ) -> Self {
        let ports @ [grpc, http, metrics] = [free_port(), free_port(), free_port()];
        let (id, body) = exporter;
        let pipeline =
            format!("{{receivers: [otlp], processors: [{processors}], exporters: [{id}]}}");
        let declared: String = processors
            .split(", ")
            .filter(|name| !name.is_empty())
            .map(|name| format!("  {name}:\n"))
            .collect();
        let names: Vec<_> = extensions.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let bodies: String =
            extensions.iter().map(|(name, body)| format!("  {name}: {body}\n")).collect();
        let config = format!(
            "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
processors:
{declared}exporters:
  {id}: {body}
extensions:
{bodies}service:
  extensions: [{names}]
  telemetry:
    metrics:
      readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}}}}}}}}}]
  pipelines:
    traces: {pipeline}
    metrics: {pipeline}
    logs: {pipeline}
"
        );
        let file = folder.join("tapio.yaml");
        fs::write(&file, config).expect("the case's folder is writable");
        let program = env!("CARGO_BIN_EXE_tapio").into();
        Self { program, folder: folder.to_owned(), file, ports }
    }

    /// Starts and waits until it takes requests; `name` is the log's. `before` is a command line that
    /// ends by running what follows it.
    pub(crate) async fn run(&self, name: &str, before: &[&str]) -> Tapio {
        let mut command = match before {
            [] => Command::new(&self.program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        command.arg("--config").arg(&self.file).current_dir(&self.folder);
        let mut program = Program::start(name, command, &self.folder);
        for port in self.ports {
            program.listens(port).await;
        }
        let [grpc, http, metrics] = self.ports;
        Tapio { program, grpc, http, metrics }
    }

    pub(crate) fn grpc(&self) -> u16 {
        self.ports[0]
    }

    /// Runs `tapio queue` on the configuration; what it printed.
    pub(crate) fn queue(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
        command.arg("queue").args(arguments).arg("--config").arg(&self.file);
        let output = command.current_dir(&self.folder).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let trouble = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "tapio queue {arguments:?}: {trouble}");
        text
    }
}

impl Tapio {
    /// Starts with `otlp` in front, `processors` between and the given exporter behind, and waits
    /// until it takes requests. `exporter` is the exporter's id and its body in flow style.
    pub(crate) async fn start(folder: &Path, processors: &str, exporter: (&str, &str)) -> Self {
        Setup::new(folder, processors, exporter, &[]).run("tapio", &[]).await
    }

    /// A counter's sum for each value of a label, without zeros.
    pub(crate) async fn counts_by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for line in self.page().await.lines().filter(|line| line.starts_with(name)) {
            let value = line.split(&format!("{label}=\"")).nth(1).and_then(|v| v.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            if let (Some(value), Some(count)) = (value, count)
                && count > 0.0
            {
                *sums.entry(value.to_owned()).or_default() += count as u64;
            }
        }
        sums
    }

    async fn page(&self) -> String {
        let page = client::http("GET", self.metrics, "/metrics", &[], Bytes::new()).await;
        String::from_utf8_lossy(&page.expect("the metrics page answers").body).into_owned()
    }

    /// The sum of a counter over its labels; 0 when it is not there.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let text = self.page().await;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter_map(|rest| rest.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
        values.sum::<f64>() as u64
    }
}
