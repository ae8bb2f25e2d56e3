//! What must hold for the repository itself: its dependencies, their licences, its levels.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, process::Command, sync::LazyLock};

use serde_json::Value;

/// Crates that are large, or whose types cross ours: a second version would be compiled, or not fit.
const ONE_VERSION: &[&str] = &[
    "arrow",
    "arrow-array",
    "datafusion",
    "h2",
    "http",
    "hyper",
    "object_store",
    "prost",
    "rustls",
    "sqlparser",
    "tokio",
    "tonic",
];

/// TLS is rustls with ring; nothing needs cmake or a system OpenSSL.
const UNWANTED: &[&str] =
    &["aws-lc-rs", "aws-lc-sys", "cmake", "native-tls", "openssl", "openssl-sys"];

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Licences that are accepted for one crate: it is used unchanged, or only while building.
const EXCEPTIONS: &[(&str, &str)] = &[("x509-certificate", "MPL-2.0"), ("tiny-keccak", "CC0-1.0")];

/// A crate of a level may import those before it.
const LEVELS: &[&[&str]] = &[
    &["tapio-proto"],
    &["tapio-bpf", "tapio-receiver"],
    &["tapio-processor"],
    &["tapio-exporter"],
    &["tapio"],
];

/// What `cargo metadata` says of the lock file's packages.
static PACKAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, it started this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("the packages are a list").clone()
});

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

#[test]
fn one_version_of_each_big_crate() {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in PACKAGES.iter().filter(|p| ONE_VERSION.contains(&text(p, "name"))) {
        versions.entry(text(package, "name")).or_default().push(text(package, "version"));
    }
    assert!(versions.contains_key("datafusion") && versions.contains_key("hyper"), "{versions:?}");
    versions.retain(|_, versions| versions.len() > 1);
    assert!(
        versions.is_empty(),
        "more than one version of {versions:?}; `cargo tree -i NAME@VERSION` says why"
    );
}

#[test]
fn no_second_tls_and_no_cmake() {
    let found: Vec<_> =
        PACKAGES.iter().map(|p| text(p, "name")).filter(|n| UNWANTED.contains(n)).collect();
    assert!(found.is_empty(), "{found:?}; `cargo tree -i NAME` says who wants it");
}

#[test]
fn licences_are_known() {
    let allowed = |name: &str, licence: &str| {
        LICENCES.contains(&licence) || EXCEPTIONS.contains(&(name, licence))
    };
    let unknown: Vec<_> = PACKAGES
        .iter()
        .filter(|package| {
            let name = text(package, "name");
            // Each part joined by AND must offer one that is allowed.
            !text(package, "license").split(" AND ").all(|part| {
                let part = part.trim_matches(['(', ')']);
                part.split(" OR ")
                    .flat_map(|p| p.split('/'))
                    .any(|l| allowed(name, l.trim().trim_matches(['(', ')'])))
            })
        })
        .map(|package| {
            format!(
                "{} {}: {:?}",
                text(package, "name"),
                text(package, "version"),
                text(package, "license")
            )
        })
        .collect();
    assert!(unknown.is_empty(), "licences that nobody has agreed to:\n{}", unknown.join("\n"));
}

#[test]
fn running_and_testing_share_one_build() {
    let features = |selection: &[&str]| -> BTreeMap<String, String> {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--prefix", "none", "--format", "{p}|{f}"])
            .args(selection)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs, it started this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
        lines.map(|(package, features)| (package.to_owned(), features.to_owned())).collect()
    };
    let running = features(&["--edges", "normal,build"]);
    let testing = features(&["--edges", "normal,build,dev", "--workspace"]);
    assert!(running.len() > 100, "{running:?}");
    let differing: Vec<_> = running
        .iter()
        .filter(|(package, features)| testing.get(*package) != Some(features))
        .map(|(package, features)| format!("{package}: {features} / {:?}", testing.get(package)))
        .collect();
    assert!(
        differing.is_empty(),
        "these and all that stands on them are built twice, as the features differ when running and testing:\n{}",
        differing.join("\n")
    );
}

#[test]
fn crates_import_only_lower_levels() {
    let level = |name: &str| LEVELS.iter().position(|level| level.contains(&name));
    let mut seen = 0;
    for package in PACKAGES.iter() {
        let Some(own) = level(text(package, "name")) else { continue };
        seen += 1;
        let dependencies = package["dependencies"].as_array().expect("the dependencies are a list");
        for dependency in dependencies.iter().filter(|d| d["kind"].is_null()) {
            let name = text(dependency, "name");
            assert!(
                level(name).is_none_or(|l| l < own),
                "{} imports {name}",
                text(package, "name")
            );
        }
    }
    assert!(seen >= 5, "only {seen} crates of ours among the packages");
}
