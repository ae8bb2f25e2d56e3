//! The program as a person meets it at the terminal: commands, mistakes in a configuration, start and stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ports;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use ports::free_port;

/// For anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// `tapio` with its working directory at the configurations of these tests, and no OpenTelemetry variables.
fn tapio(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
    command.args(args).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    tapio(args).output().expect("the program starts")
}

/// Standard error of a command that must fail with exit code 1 and say nothing on standard output.
fn failure(args: &[&str]) -> String {
    told(run(args))
}

fn told(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    stderr
}

// === mistakes ===

/// Scenario: a queue shall be kept where it cannot be kept.
/// Guarantees: the start fails with one line that names the remedy, in the Collector's words where it has them.
#[test]
fn a_storage_that_cannot_be_had_stops_the_start() {
    let taken = std::env::temp_dir().join(format!("tapio-cli-storage-{}", std::process::id()));
    std::fs::create_dir_all(&taken).unwrap();
    let lock = std::fs::File::create(taken.join("tapio.lock")).unwrap();
    lock.lock().unwrap();
    let config_of = |queue: &str, directory: &str, used: &str, tapio: &str| {
        format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0'}}}}}}}}, \
             exporters: {{otlp_grpc: {{endpoint: 'http://127.0.0.1:1', sending_queue: {{{queue}}}}}}}, \
             extensions: {{file_storage: {{directory: '{directory}', timeout: 10ms}}}}, \
             processors: {{tapio: {{{tapio}}}}}, \
             service: {{extensions: [{used}], telemetry: {{metrics: {{level: none}}}}, \
             pipelines: {{traces: {{receivers: [otlp], processors: [tapio], exporters: [otlp_grpc]}}}}}}}}"
        )
    };
    let config = |queue: &str, directory: &str, used: &str| config_of(queue, directory, used, "");
    let taken = taken.to_str().unwrap();
    let cases = [
        (
            config("storage: file_storage", taken, "file_storage"),
            "is in use by another process, which holds tapio.lock in it: give each Tapio a directory of its own",
        ),
        (
            config("storage: file_storage", taken, ""),
            "cannot start pipelines: failed to start \"otlp_grpc\" exporter: no storage client extension found",
        ),
        (
            config("storage: file_storage", "/nonexist", "file_storage"),
            "You can enable the create_directory option to automatically create it",
        ),
        (
            config("storage: file_storage, wait_for_result: true", taken, ""),
            "`wait_for_result` is not supported with a persistent queue configured with `storage`",
        ),
        (
            config_of("", taken, "", "storage: file_storage"),
            "failed to start \"tapio\" processor: no storage client extension found: storage names \"file_storage\"",
        ),
    ];
    for (config, expected) in cases {
        let told = failure(&["--config", &config]);
        let line = told.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
        assert!(line.contains(expected), "{told}");
    }
    std::fs::remove_dir_all(taken).unwrap();
}

/// Scenario: one thing is wrong in the configuration.
/// Guarantees: one line that says where, in the Collector's words; exit code 1; `validate` and the run say the same.
#[test]
fn one_mistake_is_one_line() {
    let cases = [
        (
            "typo.yaml",
            "typo.yaml:5:9: 'receivers' error reading configuration for \"otlp\": 'protocols.grpc' has invalid keys: endpont (did you mean \"endpoint\"?)",
        ),
        (
            "unknown_exporter.yaml",
            "unknown_exporter.yaml:4:3: 'exporters' unknown type: \"jaeger\" for id: \"jaeger\" (valid values: [debug file nop otlp_grpc otlp_http summary]); Tapio has no such exporter: keep a Collector behind it for this one, and send there by otlp_grpc",
        ),
        ("duplicate.yaml", "duplicate.yaml:3:3: mapping key \"otlp\" already defined at line 2"),
        (
            "empty.yaml",
            "empty.yaml:1:1: empty configuration file: service::pipelines: service must have at least one pipeline",
        ),
        (
            "nonexist.yaml",
            "failed to get config: cannot resolve the configuration: cannot retrieve the configuration: unable to read the file file:nonexist.yaml: no such file or directory",
        ),
        (
            "vault:x",
            "failed to get config: cannot resolve the configuration: scheme \"vault\" is not supported for uri \"vault:x\"; use a path, file:, env: or yaml:",
        ),
    ];
    for (config, expected) in cases {
        for command in [vec!["--config", config], vec!["validate", "--config", config]] {
            assert_eq!(failure(&command), format!("Error: {expected}\n"), "{command:?}");
        }
    }
}

#[test]
fn bad_yaml_has_its_place() {
    let text = failure(&["validate", "--config", "bad.yaml"]);
    assert!(text.starts_with("Error: bad.yaml:3:"), "{text}");
    assert!(text.contains("not valid YAML") && text.lines().count() == 1, "{text}");
}

/// Scenario: several things are wrong.
/// Guarantees: all of them are told at once, in the order of the file.
#[test]
fn several_mistakes_are_told_at_once() {
    assert_eq!(
        failure(&["validate", "--config", "wrong_type.yaml"]),
        "Error: 2 problems in the configuration:\n  \
         wrong_type.yaml:4:37: 'receivers' error reading configuration for \"otlp\": 'protocols.grpc.max_recv_msg_size_mib' expected type 'uint32', got unconvertible type 'string'\n  \
         wrong_type.yaml:8:20: 'processors' error reading configuration for \"batch\": 'timeout' time: unknown unit in duration \"5 parsecs\" (expected a number and a unit, such as 200ms, 5s or 1m30s)\n"
    );
    assert_eq!(
        failure(&["validate", "--config", "undefined.yaml"]),
        "Error: 3 problems in the configuration:\n  \
         undefined.yaml:8:16: service::extensions: references extension \"health_check\" which is not configured\n  \
         undefined.yaml:12:20: service::pipelines::traces: references processor \"batch\" which is not configured\n  \
         undefined.yaml:12:43: service::pipelines::traces: references processor \"memory_limiter\" multiple times\n"
    );
    let text = failure(&["validate", "--config", "no_protocol.yaml"]);
    for part in [
        "no_protocol.yaml:2:3: receivers::otlp: must specify at least one protocol when using the OTLP receiver",
        "no_protocol.yaml:4:3: processors::memory_limiter: 'check_interval' must be greater than zero",
        "no_protocol.yaml:6:3: exporters::otlp_grpc: ",
        "no_protocol.yaml:9:5: 'service.pipelines' in \"trases\" id: unknown pipeline signal: \"trases\"",
        "no_protocol.yaml:10:11: service::pipelines::logs: must have at least one receiver",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Scenario: somebody else listens on a port.
/// Guarantees: one line that names the address, the component and its place; exit code 1.
#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    for (variable, place) in [
        ("TEST_GRPC", "good.yaml:3:3: cannot start pipelines: failed to start \"otlp\" receiver: "),
        ("TEST_HTTP", "good.yaml:3:3: cannot start pipelines: failed to start \"otlp\" receiver: "),
        (
            "TEST_HEALTH",
            "good.yaml:16:3: failed to start extensions: failed to start \"health_check\" extension: ",
        ),
        ("TEST_METRICS", "failed to start the page of self metrics: "),
    ] {
        let mut command =
            tapio(&["--config", "good.yaml", "--set", "service.telemetry.logs.level=error"]);
        for other in ["TEST_GRPC", "TEST_HTTP", "TEST_HEALTH", "TEST_METRICS"] {
            command.env(other, free_port().to_string());
        }
        let text = told(command.env(variable, &port).output().expect("the program starts"));
        assert!(text.starts_with(&format!("Error: {place}")), "{variable}: {text}");
        assert!(
            text.contains(&format!("listen tcp 127.0.0.1:{port}: bind: address already in use")),
            "{variable}: {text}"
        );
        assert_eq!(text.lines().count(), 1, "{variable}: {text}");
    }
}

#[test]
fn a_wrong_command_line_is_told_like_other_mistakes() {
    for args in [["--bogus"], ["frobnicate"]] {
        let text = failure(&args);
        assert!(text.starts_with("Error: ") && text.contains(args[0]), "{text}");
        assert!(text.ends_with("Run 'tapio --help' for usage.\n"), "{text}");
    }
}

// === commands ===

/// Guarantees: a command line that was written for a Collector starts: feature gates are taken, those that Tapio
/// cannot obey are told, and the Collector's commands are there.
#[test]
fn the_collectors_flags_and_commands_are_there() {
    let good = "--config=yaml:{receivers: {nop: }, exporters: {nop: }, service: {pipelines: {traces: {receivers: [nop], exporters: [nop]}}}}";
    for gates in [
        &["--feature-gates=service.profilesSupport"][..],
        &["--feature-gates", "-pdata.useProtoPooling,+exporter.PersistRequestContext"],
        &["--feature-gates=nope", "--feature-gates=-another"],
    ] {
        let output = run(&[&["validate", good][..], gates].concat());
        assert!(output.status.success(), "{gates:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let gates = said(&["featuregate"]);
    assert!(gates.starts_with("ID ") && gates.contains("\nservice.profilesSupport "), "{gates}");
    assert_eq!(said(&["featuregate", "service.profilesSupport"]).lines().count(), 2);
    assert!(failure(&["featuregate", "nope"]).contains("feature \"nope\" not found"));
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&["completion", shell]);
        assert!(
            script.contains("print-config") && script.contains("--feature-gates")
                || script.contains("feature-gates"),
            "{script}"
        );
    }
    assert!(
        said(&["help"]).contains("validate") && said(&["help", "validate"]).contains("--config")
    );
}

/// Guarantees: what cannot start for any place it is run at is refused by `validate`, with the remedy, and what a
/// Collector takes is taken.
#[test]
fn validate_refuses_what_cannot_start_and_takes_what_the_collector_takes() {
    let config = |grpc: &str, http: &str, limiter: &str, health: &str, level: &str| {
        format!(
            "--config=yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{{grpc}}}, http: {{{http}}}}}}}}}, \
             processors: {{memory_limiter: {{check_interval: 1s, limit_mib: 1000{limiter}}}}}, exporters: {{nop: }}, \
             extensions: {{health_check: {{{health}}}}}, service: {{extensions: [health_check], \
             telemetry: {{logs: {{level: {level}}}}}, \
             pipelines: {{traces: {{receivers: [otlp], processors: [memory_limiter], exporters: [nop]}}}}}}}}"
        )
    };
    for (config, words) in [
        (
            config("tls: {}", "", "", "", "info"),
            "protocols::grpc: tls: TLS configuration must include both certificate and key",
        ),
        (
            config("endpoint: '127.0.0.1:8888x'", "", "", "", "info"),
            "protocols::grpc: endpoint \"127.0.0.1:8888x\": the port is to be a number",
        ),
        (
            config("", "endpoint: localhost", "", "", "info"),
            "protocols::http: endpoint \"localhost\": missing port",
        ),
        (
            config("", "", "", "auth: {authenticator: x}", "info"),
            "auth: the page of health_check has none in Tapio",
        ),
        (
            config("", "", "", "endpoint: '0.0.0.0:99999'", "info"),
            "the port is to be a number from 0 to 65535",
        ),
        (config("", "", "", "", "loud"), "unrecognized level: \"loud\""),
        (
            config(
                "",
                "",
                ", min_gc_interval_when_soft_limited: 1s, min_gc_interval_when_hard_limited: 2s",
                "",
                "info",
            ),
            "should be larger than",
        ),
    ] {
        let told = failure(&["validate", &config]);
        assert!(told.contains(words), "{words} is not in {told}");
    }
    for config in [
        config(
            "tls: , auth: ",
            "auth: , tls: , cors: {allowed_origins: 'http://a,http://b'}",
            "",
            "",
            "info",
        ),
        config("endpoint: 'x.sock', transport: unix", "endpoint: ':4318'", "", "", "Warning"),
        config(
            "",
            "",
            ", min_gc_interval_when_soft_limited: 10s, min_gc_interval_when_hard_limited: 0s",
            "tls: , auth: , transport: tcp",
            "fatal",
        ),
        config(
            "",
            "",
            "",
            "cors: {allowed_origins: '*'}, response_headers: {a: b}, read_timeout: 1s, read_header_timeout: 1s, write_timeout: 1s, idle_timeout: 1s, include_metadata: true, max_request_body_size: 9",
            "DPANIC",
        ),
    ] {
        let output = run(&["validate", &config]);
        assert!(output.status.success(), "{}: {config}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn validate_is_silent_when_all_is_well() {
    for args in [
        vec!["validate", "--config", "good.yaml"],
        vec!["validate", "--config=file:good.yaml"],
        vec!["validate"],
        vec!["--config", "good.yaml", "validate", "--set=processors.batch.send_batch_size=9"],
        vec!["validate", "--config=good.yaml", "--config=yaml:processors::batch::timeout: 3s"],
    ] {
        let output = run(&args);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn standard_variables_are_checked_too() {
    let validate = |protocol: &str| {
        let mut command = tapio(&["validate"]);
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4999")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        command.output().expect("the program starts")
    };
    for protocol in ["grpc", "http/protobuf", "http/json"] {
        let output = validate(protocol);
        assert!(output.status.success(), "{protocol}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(
        told(validate("carrier-pigeon"))
            .contains("unknown protocol \"carrier-pigeon\"; use grpc, http/protobuf or http/json")
    );
}

#[test]
fn version_and_components_have_the_collectors_form() {
    for flag in ["--version", "-v"] {
        assert_eq!(
            String::from_utf8_lossy(&run(&[flag]).stdout),
            concat!("tapio version ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
    let text = String::from_utf8_lossy(&run(&["components"]).stdout).into_owned();
    assert!(text.starts_with("buildinfo:\n    command: tapio\n    description: "), "{text}");
    for part in [
        "receivers:\n    - name: nop\n",
        "    - name: otlp\n      module: tapio-receiver v0.1.0\n      stability:\n        logs: ",
        "processors:\n    - name: attributes\n",
        "    - name: tapio\n",
        "    - name: otlp_http\n",
        "connectors:\n    - name: forward\n      module: tapio v0.1.0\n      stability:\n        logs-to-logs: Beta\n        logs-to-metrics: Undefined\n",
        "        extension: ",
        "providers:\n    - scheme: env\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

// === a running hop ===

/// A `tapio` that runs, on ports of its own; killed when the test ends before it does.
struct Hop {
    child: Child,
    http: u16,
    health: u16,
    metrics: u16,
    /// Log lines until it was ready.
    start: Vec<String>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Hop {
    fn start() -> Self {
        let (http, health, metrics) = (free_port(), free_port(), free_port());
        let mut child = tapio(&["--config", "good.yaml"])
            .env("TEST_GRPC", free_port().to_string())
            .env("TEST_HTTP", http.to_string())
            .env("TEST_HEALTH", health.to_string())
            .env("TEST_METRICS", metrics.to_string())
            .env_remove("TEST_UNSET")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut hop = Hop { child, http, health, metrics, start: Vec::new(), stderr };
        loop {
            let mut line = String::new();
            let read = hop.stderr.read_line(&mut line).expect("log lines are text");
            assert_ne!(read, 0, "ended before it was ready: {:#?}", hop.start);
            let ready = line.contains("Everything is ready. Begin running and processing data.");
            hop.start.push(line);
            if ready {
                return hop;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Exit code, standard output and the rest of standard error.
    fn wait(mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("text");
        self.stderr.read_to_string(&mut stderr).expect("text");
        (self.child.wait().expect("it ends").code(), stdout, stderr)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status line with headers, and body, of one HTTP request.
fn http(port: u16, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn get(port: u16, path: &str) -> (String, String) {
    http(port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

fn post_logs(port: u16, json: &str) -> (String, String) {
    let length = json.len();
    http(
        port,
        &format!(
            "POST /v1/logs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        ),
    )
}

/// Scenario: a hop starts, gets three log records over HTTP, and is told to stop.
/// Guarantees: milestones in the log, health and metrics pages in the Collector's form, a summary on the terminal,
/// exit code 0.
#[test]
fn a_hop_lives_and_ends_in_order() {
    let hop = Hop::start();
    let log = hop.start.concat();
    for part in [
        "\tinfo\ttapio::service\tStarting tapio...\t{\"Version\":",
        "Starting GRPC server\t{",
        "Starting HTTP server\t{",
        "Starting extensions...",
    ] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    assert!(
        log.contains("\twarn\t")
            && log.contains("unset environment variable \"TEST_UNSET\" at good.yaml:12:"),
        "{log}"
    );
    assert!(log.contains("\"otlp\" alias is deprecated; use \"otlp_grpc\" instead"), "{log}");

    let (head, body) = get(hop.health, "/");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    assert!(
        body.starts_with("{\"status\":\"Server available\",\"upSince\":\"20")
            && body.contains("Z\",\"uptime\":\"")
            && body.ends_with("s\"}"),
        "{body}"
    );

    let records = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"a"}},{"body":{"stringValue":"b"}},{}]}]}]}"#;
    let (head, body) = post_logs(hop.http, records);
    assert!(
        head.starts_with("HTTP/1.1 200") && body == r#"{"partialSuccess":{}}"#,
        "{head}\n{body}"
    );

    assert!(get(hop.metrics, "/other").0.starts_with("HTTP/1.1 404"));
    let (_, page) = get(hop.metrics, "/metrics");
    for line in [
        // Two pipelines take logs, so the exporter sees each record twice.
        "otelcol_exporter_sent_log_records{exporter=\"summary\"} 6",
        "otelcol_receiver_accepted_log_records{receiver=\"otlp\",transport=\"http\"} 3",
        "otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"grpc\"} 0",
        "# TYPE otelcol_process_memory_rss gauge",
        "# TYPE otelcol_process_cpu_seconds counter",
        "tapio_stories_open{processor=\"tapio\"} 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line:?} is not in {page}");
    }
    assert!(
        page.contains("target_info{service_instance_id=\"")
            && page.contains("service_name=\"tapio\""),
        "{page}"
    );

    hop.signal("TERM");
    let started = Instant::now();
    let (code, stdout, stderr) = hop.wait();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(started.elapsed() < PATIENCE);
    assert!(stdout.contains(" 6 log records"), "{stdout}");
    let milestones = [
        "Received signal from OS",
        "Starting shutdown...",
        "Stopping extensions...",
        "Shutdown complete.",
    ];
    let found: Vec<_> = milestones.iter().map(|text| stderr.find(text)).collect();
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{found:?} in {stderr}");
}

/// Scenario: SIGHUP, as service managers send it to make a program read its configuration again.
/// Guarantees: the hop reads it, and stays; SIGINT ends it like SIGTERM.
#[test]
fn a_hangup_reads_the_configuration_again() {
    let mut hop = Hop::start();
    hop.signal("HUP");
    let mut line = String::new();
    while !line.contains("Everything is ready") {
        line.clear();
        assert_ne!(hop.stderr.read_line(&mut line).expect("log lines are text"), 0);
    }
    assert!(get(hop.health, "/").0.starts_with("HTTP/1.1 200"));
    hop.signal("INT");
    assert_eq!(hop.wait().0, Some(0));
}

/// Scenario: `print-config`, in each mode and form.
/// Guarantees: the joined configuration, secrets hidden unless they are asked for; a bad one is refused.
#[test]
fn the_configuration_can_be_printed() {
    let secret = "yaml:exporters::otlp/unused::headers: {authorization: hush}";
    let printed = |more: &[&str]| {
        let base = ["print-config", "--config", "good.yaml", "--config", secret];
        let output = run(&[&base, more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let yaml = printed(&[]);
    assert!(yaml.contains("authorization: \"[REDACTED]\"") && !yaml.contains("hush"), "{yaml}");
    assert!(printed(&["--mode", "unredacted"]).contains("authorization: hush"));
    let json: serde_json::Value = serde_json::from_str(&printed(&["--format=json"])).unwrap();
    assert_eq!(json["exporters"]["otlp/unused"]["headers"]["authorization"], "[REDACTED]");
    assert!(failure(&["print-config", "--config", "typo.yaml"]).contains("typo.yaml:5:9"));
    let unchecked = run(&["print-config", "--validate=false", "--config", "typo.yaml"]);
    assert!(unchecked.status.success());
}
