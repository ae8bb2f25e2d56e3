//! Failure patterns as their users meet them: `tapio pattern`, and a pattern of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// A pattern that a team writes for its own shop: narrower than the built-in one.
const OWN: &str = r#"id: shop_pool_too_large
catalogue: SHOP-7
cause: { source: change, verb: modified, kind: ConfigMap, path: 'pool\.json', relation: uses_config }
within: 10m
prior: 0.7
see:
  - { what: the kernel kills the container at its memory limit, type: 'container\.terminated', reason: OOMKilled, required: true }
title: "{workload} has more connections than memory"
mechanism: each connection of the pool takes a megabyte
do:
  - { say: put the pool back, run: "{undo}" }
tests:
  - say: a larger pool
    blames: ConfigMap shop/web-config
    steps:
      - { at: 0s, on: ConfigMap shop/web-config, set: { data: { pool.json: '200' } } }
      - { at: 20s, on: Pod shop/web-1, dies: OOMKilled }
  - say: another key
    steps:
      - { at: 0s, on: ConfigMap shop/web-config, set: { data: { app.yaml: x } } }
      - { at: 20s, on: Pod shop/web-1, dies: OOMKilled }
"#;

fn tapio(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.output().expect("the program starts")
}

fn told(args: &[&str]) -> String {
    let output = tapio(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder of a user's own, with this pattern in it.
fn folder(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("own.yaml"), text).unwrap();
    folder
}

/// The one story of the recorded incident, as JSON.
fn story(more: &[&str]) -> serde_json::Value {
    let recording = "tests/recordings/pool-oom";
    let lines = told(&[&["replay", "--format", "json", recording], more].concat());
    let mut stories: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(stories.len(), 1, "{lines}");
    stories.remove(0)
}

/// Guarantees: a pattern in a folder of the user's own is tried, listed, explained and told by the
/// program as it is, without a rebuild; and a hop takes it by its configuration.
#[test]
fn a_pattern_of_the_users_own_works_without_a_rebuild() {
    let folder = folder("own", OWN);
    let folder = folder.to_str().unwrap();
    assert!(told(&["pattern", "test", folder]).ends_with("2 tests, 0 failed\n"));
    assert!(told(&["pattern", "list", "--patterns", folder]).contains("shop_pool_too_large"));
    let explained = told(&["pattern", "explain", "--patterns", folder, "shop_pool_too_large"]);
    assert!(explained.contains("each connection of the pool takes a megabyte"), "{explained}");
    let story = story(&["--patterns", folder]);
    assert_eq!(story["root_cause"]["pattern"], "shop_pool_too_large", "{story}");
    assert_eq!(story["root_cause"]["name"], "inventory-pool");
    let title = story["title"].as_str().unwrap();
    assert!(title.contains("shop/inventory has more connections than memory"), "{title}");
    let key = format!("yaml:processors::tapio::patterns: [{folder:?}]");
    told(&["validate", "--config", "tests/config/good.yaml", "--config", &key]);
}

/// Guarantees: without the pattern of its kind the incident is still told, with the right object, and
/// as a guess: never above 0.6.
#[test]
fn what_no_pattern_explains_is_a_guess_at_the_right_object() {
    let story = story(&["--without", "config_change_memory_growth"]);
    assert_eq!(story["root_cause"]["kind"], "ConfigMap", "{story}");
    assert_eq!(story["root_cause"]["name"], "inventory-pool");
    assert!(story["confidence"].as_f64().unwrap() <= 0.6, "{story}");
}

/// Guarantees: a malformed pattern is refused with file, line, column and what was expected, by the
/// commands and by a hop's configuration; a failing test ends with an exit code of 1 and its reason.
#[test]
fn a_malformed_pattern_is_refused_where_it_is_wrong() {
    for (name, from, to, says) in [
        ("range", "prior: 0.7", "prior: 7", "own.yaml:5:1: prior \"7\": expected 0 to 1"),
        ("key", "within: 10m", "with: 10m", "own.yaml:4:1: unknown field"),
        ("regex", "OOMKilled, req", "'(', req", "own.yaml:7:96: reason \"(\": expected a regular"),
        ("yaml", "within: 10m", "within: [", "own.yaml:"),
        ("blank", "SHOP-7", "''", "own.yaml:2:1: catalogue \"\": expected the entry"),
    ] {
        let bad = OWN.replacen(from, to, 1);
        assert_ne!(bad, OWN);
        let folder = folder(name, &bad);
        let folder = folder.to_str().unwrap();
        let key = format!("yaml:processors::tapio::patterns: [{folder:?}]");
        for args in [
            &["pattern", "test", folder][..],
            &["replay", "--patterns", folder, "tests/recordings/healthy"],
            &["validate", "--config", "tests/config/good.yaml", "--config", &key],
        ] {
            let output = tapio(args);
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
            assert!(stderr.contains(says), "{args:?}: {stderr}");
        }
    }
    let wrong =
        folder("wrong", &OWN.replace("dies: OOMKilled }\n  - say", "dies: Error }\n  - say"));
    let output = tapio(&["pattern", "test", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FAIL  shop_pool_too_large: a larger pool: it does not blame"), "{text}");
    assert!(text.ends_with("2 tests, 1 failed\n"), "{text}");
}

/// Guarantees: a pattern that nothing tries is named and counted as such; it is no failure.
#[test]
fn a_pattern_without_tests_is_counted_as_untested() {
    let bare = folder("bare", OWN.split("tests:").next().unwrap());
    let text = told(&["pattern", "test", bare.to_str().unwrap()]);
    assert!(text.starts_with("none  shop_pool_too_large: it has no 'tests'"), "{text}");
    assert!(text.ends_with("\n0 tests, 0 failed, 1 untested\n"), "{text}");
}

/// Guarantees: a folder without patterns, and two files that would silently replace each other, are
/// refused in one line that names them; by the commands and by a hop's configuration.
#[test]
fn a_folder_that_cannot_be_meant_is_refused() {
    let empty = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("empty");
    fs::create_dir_all(&empty).unwrap();
    let twice = folder("twice", OWN);
    fs::write(twice.join("other.yaml"), OWN).unwrap();
    for (folder, says) in [
        (&empty, vec!["no *.yaml in this folder"]),
        (&twice, vec!["own.yaml:1:1: id \"shop_pool_too_large\": ", "other.yaml has it too"]),
    ] {
        let folder = folder.to_str().unwrap();
        let key = format!("yaml:processors::tapio::patterns: [{folder:?}]");
        for args in [
            &["pattern", "test", folder][..],
            &["pattern", "list", "--patterns", folder],
            &["replay", "--patterns", folder, "tests/recordings/healthy"],
            &["validate", "--config", "tests/config/good.yaml", "--config", &key],
        ] {
            let output = tapio(args);
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
            assert!(says.iter().all(|says| stderr.contains(says)), "{args:?}: {stderr}");
            assert!(stderr.contains(folder), "{args:?}: {stderr}");
        }
        let output = tapio(&["pattern", "test", folder]);
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}

/// Guarantees: a user's pattern may stand in place of a built-in one, and it is said that it does.
#[test]
fn a_pattern_in_place_of_a_built_in_one_is_told_of() {
    let own = folder("instead", &OWN.replace("shop_pool_too_large", "config_change_memory_growth"));
    let own = own.to_str().unwrap();
    for args in [
        &["pattern", "list", "--patterns", own][..],
        &["replay", "--patterns", own, "tests/recordings/pool-oom"],
    ] {
        let output = tapio(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        let says = "own.yaml: \"config_change_memory_growth\" in place of the built-in one";
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    }
    let story = story(&["--patterns", own]);
    assert!(story["title"].as_str().unwrap().contains("more connections than memory"), "{story}");
}

/// Guarantees: a running hop takes the patterns of its configuration, and its log says which of the
/// built-in ones they replace.
#[test]
fn a_running_hop_says_which_patterns_it_replaced() {
    let own = folder("hop", &OWN.replace("shop_pool_too_large", "oom_killed"));
    let config = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:0'}}}}}}}}
processors: {{tapio: {{patterns: [{own:?}]}}}}
exporters: {{summary: {{interval: 1h}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], processors: [tapio], exporters: [summary]}}}}
"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
    command.arg("--config").arg(format!("yaml:{config}"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut hop = command.spawn().expect("the program starts");
    let lines = BufReader::new(hop.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut log = Vec::new();
    for line in lines {
        let ready = line.contains("Everything is ready");
        log.push(line);
        if ready {
            break;
        }
    }
    hop.kill().unwrap();
    hop.wait().unwrap();
    let log = log.join("\n");
    assert!(log.contains("own.yaml: \"oom_killed\" in place of the built-in one"), "{log}");
    assert!(log.contains("Everything is ready"), "{log}");
}

/// Guarantees: the list has a line for every pattern, and no more.
#[test]
fn every_pattern_is_listed_under_its_family() {
    let list = told(&["pattern", "list"]);
    let lines = list.lines().filter(|line| line.starts_with("  ")).count();
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/processor/patterns")).unwrap();
    let yaml = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "yaml");
    assert_eq!(lines, files.map(Result::unwrap).filter(yaml).count(), "{list}");
    assert!(!list.contains("\nOthers\n"), "{list}");
}
