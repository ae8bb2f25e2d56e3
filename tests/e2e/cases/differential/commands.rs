//! The command line: exit codes, and the core of what is said; configurations that `validate` takes and
//! those that it does not.

use std::{collections::BTreeSet, fs, process::Command};

use super::{Group, programs};
use crate::e2e::{program::folder, runner::Skipped};

const GOOD: &str = "receivers: {otlp: {protocols: {grpc: }}}
exporters: {otlp_grpc: {endpoint: 'localhost:1'}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp_grpc]}}}
";

/// Configurations, and words that both say of them; none when they are good.
fn configurations() -> Vec<(&'static str, String, &'static str)> {
    let with = |old: &str, new: &str| {
        assert!(GOOD.contains(old), "{old}");
        GOOD.replace(old, new)
    };
    let exporter =
        |keys: &str| with("endpoint: 'localhost:1'", &format!("endpoint: 'localhost:1', {keys}"));
    let grpc = |keys: &str| with("{grpc: }", &format!("{{grpc: {{{keys}}}}}"));
    let http = |keys: &str| with("{grpc: }", &format!("{{http: {{{keys}}}}}"));
    let to_http = |keys: &str| {
        with(
            "otlp_grpc: {endpoint: 'localhost:1'",
            &format!("otlp_http: {{endpoint: 'http://localhost:1', {keys}"),
        )
        .replace("[otlp_grpc]", "[otlp_http]")
    };
    let processor = |kind: &str, keys: &str| {
        with("exporters: {otlp", &format!("processors: {{{kind}: {{{keys}}}}}\nexporters: {{otlp"))
            .replace("receivers: [otlp]", &format!("receivers: [otlp], processors: [{kind}]"))
    };
    let telemetry = |keys: &str| with("service: {", &format!("service: {{telemetry: {{{keys}}}, "));
    let health = |keys: &str| {
        with(
            "service: {",
            &format!(
                "extensions: {{health_check: {{{keys}}}}}\nservice: {{extensions: [health_check], "
            ),
        )
    };
    vec![
        ("good", GOOD.to_owned(), ""),
        ("old_names", with("otlp_grpc:", "otlp:").replace("[otlp_grpc]", "[otlp]"), ""),
        ("unused", with("receivers: {", "receivers: {nop: , "), ""),
        ("unused_certificate", with("exporters: {", "exporters: {otlp_grpc/x: {endpoint: 'a:1', tls: {ca_file: nowhere.pem}}, "), ""),
        ("certificate", exporter("tls: {ca_file: nowhere.pem}"), ""),
        ("server_certificate", grpc("tls: {cert_file: nowhere.pem, key_file: nowhere.pem}"), ""),
        ("named", with("traces:", "traces/a.b-c:"), ""),
        ("null_sections", format!("{GOOD}processors:\nextensions:\nconnectors:\n"), ""),
        ("default_value", with("'localhost:1'", "'${env:NOPE_TAPIO:-localhost}:1'"), ""),
        ("unset", grpc("max_recv_msg_size_mib: '${env:NOPE_TAPIO}'"), ""),
        ("dollars", exporter("headers: {a: 'b$$c'}"), ""),
        ("grpc_keys", grpc("endpoint: '0.0.0.0:1', transport: tcp4, max_recv_msg_size_mib: 8, max_concurrent_streams: 16, read_buffer_size: 1024, write_buffer_size: 1024, include_metadata: true, keepalive: {server_parameters: {max_connection_idle: 11s, max_connection_age: 12s, max_connection_age_grace: 13s, time: 30s, timeout: 5s}, enforcement_policy: {min_time: 10s, permit_without_stream: true}}"), ""),
        ("http_keys", http("endpoint: '0.0.0.0:1', max_request_body_size: 5, include_metadata: true, response_headers: {a: b}, compression_algorithms: [gzip, zstd], read_timeout: 1s, read_header_timeout: 1s, write_timeout: 1s, idle_timeout: 1s, keep_alives_enabled: true, traces_url_path: /t, metrics_url_path: /m, logs_url_path: /l, cors: {allowed_origins: ['*'], allowed_headers: [x], max_age: 7}"), ""),
        ("http_middlewares", http("middlewares: []"), ""),
        ("grpc_middlewares", grpc("middlewares: []"), ""),
        ("server_tls_keys", grpc("tls: {cert_pem: x, key_pem: y, client_ca_file: z, client_ca_file_reload: true, reload_interval: 1h, min_version: '1.2', max_version: '1.3', cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256], curve_preferences: [X25519], include_system_ca_certs_pool: true}"), ""),
        ("to_grpc_keys", exporter("compression: zstd, headers: {a: b}, keepalive: {time: 20s, timeout: 5s, permit_without_stream: true}, read_buffer_size: 1, write_buffer_size: 1, wait_for_ready: true, balancer_name: pick_first, authority: a, timeout: 3s, middlewares: []"), ""),
        ("client_tls_keys", exporter("tls: {insecure: false, insecure_skip_verify: true, ca_pem: x, cert_file: a, key_file: b, min_version: '1.2', max_version: '1.3', cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256], curve_preferences: [P256], reload_interval: 1h, server_name_override: y, include_system_ca_certs_pool: true}"), ""),
        ("to_http_keys", to_http("traces_endpoint: 'http://a/b', encoding: json, compression: zstd, compression_params: {level: 3}, headers: {a: b}, timeout: 3s, proxy_url: 'http://p:1', read_buffer_size: 1, write_buffer_size: 1, max_idle_conns: 1, max_idle_conns_per_host: 1, max_conns_per_host: 1, idle_conn_timeout: 1s, disable_keep_alives: true, http2_read_idle_timeout: 1s, http2_ping_timeout: 1s, force_attempt_http2: false, cookies: {enabled: true}, middlewares: []"), ""),
        ("retry_keys", exporter("retry_on_failure: {enabled: true, initial_interval: 1s, randomization_factor: 0.1, multiplier: 2, max_interval: 5s, max_elapsed_time: 0s}"), ""),
        ("queue_keys", exporter("sending_queue: {enabled: true, num_consumers: 2, queue_size: 7, sizer: items, block_on_overflow: true, wait_for_result: false}"), ""),
        ("queue_batch", exporter("sending_queue: {batch: {flush_timeout: 1s, min_size: 10, max_size: 20, sizer: items}}"), ""),
        ("queue_batch_bytes", exporter("sending_queue: {queue_size: 100000, sizer: bytes, batch: {min_size: 1000, max_size: 2000}}"), ""),
        ("queue_batch_default", exporter("sending_queue: {batch: {}}"), ""),
        ("queue_batch_partition", exporter("sending_queue: {batch: {partition: {metadata_keys: [a]}}}"), ""),
        ("batch_keys", processor("batch", "timeout: 1s, send_batch_size: 7, send_batch_max_size: 9, metadata_keys: [a], metadata_cardinality_limit: 7"), ""),
        ("limiter_keys", processor("memory_limiter", "check_interval: 1s, limit_percentage: 80, spike_limit_percentage: 20"), ""),
        ("telemetry_keys", telemetry("logs: {level: debug, encoding: json, development: true, disable_caller: true, disable_stacktrace: true, sampling: {enabled: true, initial: 1, thereafter: 2, tick: 3s}, output_paths: [stdout], error_output_paths: [stderr], initial_fields: {a: b}}, metrics: {level: detailed}, resource: {service.name: mine, a: b}, traces: {propagators: [tracecontext, b3]}"), ""),
        ("telemetry_readers", telemetry("metrics: {level: normal, readers: [{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8889}}}}, {periodic: {interval: 5000, timeout: 1000, exporter: {otlp: {protocol: http/protobuf, endpoint: 'http://x:1'}}}}]}"), ""),
        ("health_keys", health("endpoint: '0.0.0.0:13133', path: /x, response_body: {healthy: a, unhealthy: b}, check_collector_pipeline: {enabled: false, interval: 5m, exporter_failure_threshold: 5}"), ""),
        ("health_tls", health("tls: {cert_file: a, key_file: b}"), ""),
        ("several", format!("{}\nconnectors: {{forward: }}\n", GOOD.replace("service: {pipelines: {", "service: {pipelines: {logs/a: {receivers: [otlp], exporters: [forward]}, logs/b: {receivers: [forward], exporters: [otlp_grpc]}, ")), ""),

        ("headers_as_list", exporter("headers: [{name: a, value: b}, {name: c, value: d}]"), ""),
        ("response_headers_as_list", http("response_headers: [{name: a, value: b}]"), ""),
        ("unix_socket", with("localhost:1", "unix:///run/otlp.sock"), ""),
        ("any_host", with("localhost:1", ":1"), ""),
        ("balancers", exporter("balancer_name: round_robin"), ""),
        ("levels", to_http("compression: gzip, compression_params: {level: 9}"), ""),
        ("file_keys", with("exporters: {", "exporters: {file: {path: x, rotation: {max_megabytes: 1, max_days: 2, max_backups: 3, localtime: true}, compression: zstd, format: proto, flush_interval: 2s}, "), ""),
        ("debug_keys", with("exporters: {", "exporters: {debug: {verbosity: Detailed, sampling_initial: 1, sampling_thereafter: 2, use_internal_logger: false, output_paths: [stdout], sending_queue: {queue_size: 3}}, "), ""),
        ("client_curves", exporter("tls: {curve_preferences: [X25519MLKEM768, P521]}"), ""),

        ("no_port", with("localhost:1", "localhost"), "missing port in address"),
        ("grpc_path", with("localhost:1", "https://localhost:1/path"), "invalid port \"1/path\""),
        ("balancer", exporter("balancer_name: bogus"), "invalid balancer_name: bogus"),
        ("level", to_http("compression: gzip, compression_params: {level: 10}"), "unsupported parameters {Level:10} for compression type \"gzip\""),
        ("level_of_none", to_http("compression: snappy, compression_params: {level: 1}"), "unsupported parameters {Level:1} for compression type \"snappy\""),
        ("headers_twice", exporter("headers: [{name: a, value: b}, {name: a, value: d}]"), "duplicate keys in map-style list: [a]"),
        ("file_append", with("exporters: {", "exporters: {file: {path: x, append: true, rotation: {max_days: 1}}, "), "append and rotation enabled at the same time is not supported"),
        ("debug_outputs", with("exporters: {", "exporters: {debug: {output_paths: [stdout]}, "), "output_paths is not supported when use_internal_logger is true"),
        ("unknown_key", grpc("endpont: x"), "has invalid keys: endpont"),
        ("unknown_key_deep", exporter("sending_queue: {batch: {min: 1}}"), "has invalid keys: min"),
        ("unknown_section", format!("{GOOD}procesors: {{}}\n"), "has invalid keys: procesors"),
        ("unknown_component", processor("banana", ""), "'processors' unknown type: \"banana\" for id: \"banana\" (valid values: ["),
        ("unknown_extension", with("service: {", "extensions: {banana: }\nservice: {"), "'extensions' unknown type: \"banana\" for id: \"banana\" (valid values: ["),
        ("unknown_signal", with("traces:", "trases:"), "unknown pipeline signal: \"trases\""),
        ("bad_name", with("otlp_grpc:", "otlp_grpc/ :"), "in \"otlp_grpc/\" id: the part after / should not be empty"),
        ("bad_id", with("otlp_grpc:", "otlp-grpc:"), "invalid character"),
        ("wrong_type", grpc("max_recv_msg_size_mib: many"), "'max_recv_msg_size_mib' expected type 'int', got unconvertible type 'string'"),
        ("bad_duration", exporter("timeout: 5 parsecs"), "time: unknown unit"),
        ("bad_transport", grpc("transport: carrier"), "unsupported transport type \"carrier\""),
        ("bad_compression", exporter("compression: rar"), "unsupported compression type \"rar\""),
        ("bad_level", telemetry("metrics: {level: high}"), "unknown metrics level \"high\""),
        ("bad_log_level", telemetry("logs: {level: loud}"), "unrecognized level: \"loud\""),
        ("bad_sizer", exporter("sending_queue: {sizer: meters}"), "invalid sizer: \"meters\""),
        ("undefined_processor", with("receivers: [otlp]", "receivers: [otlp], processors: [batch]"), "service::pipelines::traces: references processor \"batch\" which is not configured"),
        ("undefined_extension", with("service: {", "service: {extensions: [health_check], "), "service::extensions: references extension \"health_check\" which is not configured"),
        ("twice", processor("batch", "").replace("[batch]", "[batch, batch]"), "service::pipelines::traces: references processor \"batch\" multiple times"),
        ("no_receivers", with("receivers: [otlp], ", ""), "service::pipelines::traces: must have at least one receiver"),
        ("no_exporters", with(", exporters: [otlp_grpc]", ""), "service::pipelines::traces: must have at least one exporter"),
        ("no_pipelines", with("{pipelines: {traces: {receivers: [otlp], exporters: [otlp_grpc]}}}", "{}"), "service::pipelines: service must have at least one pipeline"),
        ("no_exporters_section", GOOD.lines().filter(|line| !line.starts_with("exporters")).collect::<Vec<_>>().join("\n"), "no exporter configuration specified in config"),
        ("no_receivers_section", GOOD.lines().filter(|line| !line.starts_with("receivers")).collect::<Vec<_>>().join("\n"), "no receiver configuration specified in config"),
        ("empty", String::new(), "empty configuration file"),
        ("no_protocols", with("{grpc: }", "{}"), "receivers::otlp: must specify at least one protocol when using the OTLP receiver"),
        ("no_endpoint", with("endpoint: 'localhost:1'", ""), "exporters::otlp_grpc: requires a non-empty \"endpoint\""),
        ("no_endpoint_http", to_http("").replace("endpoint: 'http://localhost:1', ", ""), "exporters::otlp_http: at least one endpoint must be specified"),
        ("batch_sizes", processor("batch", "send_batch_max_size: 5"), "processors::batch: send_batch_max_size must be greater or equal to send_batch_size"),
        ("batch_keys_twice", processor("batch", "metadata_keys: [a, A]"), "processors::batch: duplicate entry in metadata_keys: \"a\" (case-insensitive)"),
        ("limiter_empty", processor("memory_limiter", ""), "processors::memory_limiter: 'check_interval' must be greater than zero"),
        ("limiter_no_limit", processor("memory_limiter", "check_interval: 1s"), "processors::memory_limiter: 'limit_mib' or 'limit_percentage' must be greater than zero"),
        ("limiter_spike", processor("memory_limiter", "check_interval: 1s, limit_mib: 5, spike_limit_mib: 6"), "processors::memory_limiter: 'spike_limit_mib' must be smaller than 'limit_mib'"),
        ("retry_times", exporter("retry_on_failure: {initial_interval: 10s, max_elapsed_time: 1s}"), "exporters::otlp_grpc::retry_on_failure: 'max_elapsed_time' must not be less than 'initial_interval'"),
        ("retry_factor", exporter("retry_on_failure: {randomization_factor: 2}"), "'randomization_factor' must be within [0, 1]"),
        ("queue_size", exporter("sending_queue: {queue_size: 0}"), "`queue_size` must be positive"),
        ("queue_consumers", exporter("sending_queue: {num_consumers: 0}"), "`num_consumers` must be positive"),
        ("queue_batch_sizes", exporter("sending_queue: {batch: {min_size: 20, max_size: 10}}"), "exporters::otlp_grpc::sending_queue: batch: `max_size` (10) must be greater or equal to `min_size` (20)"),
        ("queue_batch_too_large", exporter("sending_queue: {queue_size: 10, sizer: items, batch: {min_size: 20, sizer: items}}"), "`min_size` must be less than or equal to `queue_size`"),
        ("queue_batch_flush", exporter("sending_queue: {batch: {flush_timeout: 0s}}"), "`flush_timeout` must be positive"),
        ("bad_yaml", "receivers: [".to_owned(), "not valid YAML"),
        ("not_a_map", "[1, 2]".to_owned(), ""),
    ]
}

/// Guarantees: `validate` takes what the Collector's takes, refuses what it refuses with its words, and
/// the rest of the command line ends with its codes.
pub(crate) fn commands() -> Result<(), Skipped> {
    let programs = programs()?;
    let folder = folder("differential_commands");
    let mut group = Group::new();
    let mut run = |name: &str, arguments: &[&str], words: &str| {
        let [theirs, ours] = [&programs[0], &programs[1]].map(|(_, program)| {
            let output = Command::new(program).args(arguments).current_dir(&folder).output();
            output.expect("it starts")
        });
        let told = |output: &std::process::Output| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            // Tapio also tells file, line and column, and what to do about it.
            match !words.is_empty() && text.contains(words) {
                true => words.to_owned(),
                false if output.status.success() && words.is_empty() => String::new(),
                false => text,
            }
        };
        let code = |output: &std::process::Output| format!("{:?}", output.status.code());
        group.case(
            &format!("commands/{name}"),
            &[("exit", code(&theirs), code(&ours)), ("told", told(&theirs), told(&ours))],
        );
        [theirs, ours].map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (name, text, words) in configurations() {
        let file = folder.join(format!("{name}.yaml"));
        fs::write(file, text).expect("the case's folder is writable");
        run(&format!("validate/{name}"), &["validate", &format!("--config={name}.yaml")], words);
    }
    for (name, arguments, words) in [
        ("no_config", &["validate"][..], "at least one config flag must be provided"),
        (
            "missing_file",
            &["validate", "--config=nowhere.yaml"],
            "cannot resolve the configuration: cannot retrieve the configuration: unable to read the file file:nowhere.yaml",
        ),
        (
            "unknown_scheme",
            &["validate", "--config=vault:x"],
            "scheme \"vault\" is not supported for uri \"vault:x\"",
        ),
        ("unknown_command", &["frobnicate"], "unknown command \"frobnicate\" for"),
        ("unknown_flag", &["--bogus"], "unknown flag: --bogus"),
        ("two_files", &["validate", "--config=good.yaml", "--config=file:named.yaml"], ""),
        ("set", &["validate", "--config=good.yaml", "--set=exporters.otlp_grpc.timeout=2s"], ""),
        (
            "set_wrong",
            &["validate", "--config=good.yaml", "--set=exporters.otlp_grpc.tmeout=2s"],
            "has invalid keys: tmeout",
        ),
        ("env", &["validate", "--config=env:NOPE_TAPIO"], ""),
        ("version", &["--version"], ""),
        ("help", &["--help"], ""),
        ("print_config", &["print-config", "--config=good.yaml"], ""),
    ] {
        run(name, arguments, words);
    }
    // The shape of what `components` tells: its keys at every level, not what this build consists of.
    let [theirs, ours] = run("components", &["components"], "").map(|yaml| {
        let keys =
            yaml.lines().filter_map(|line| line.trim_start_matches([' ', '-']).split_once(':'));
        let keys: BTreeSet<_> = keys.map(|(key, _)| key.to_owned()).collect();
        let wanted = [
            "buildinfo",
            "command",
            "description",
            "version",
            "receivers",
            "processors",
            "exporters",
            "connectors",
            "extensions",
            "providers",
            "name",
            "module",
            "stability",
            "logs",
            "metrics",
            "traces",
            "extension",
            "scheme",
            "logs-to-logs",
        ];
        wanted.into_iter().filter(|key| keys.contains(*key)).collect::<Vec<_>>().join(" ")
    });
    group.case("commands/components_shape", &[("keys", theirs, ours)]);
    group.end();
    Ok(())
}
