//! Configuration: the program's own reader, taken in as modules.
#![allow(dead_code, unused_imports)]

#[path = "../../src/config/decode.rs"]
mod decode;
#[path = "../../src/config/expand.rs"]
mod expand;
#[path = "../../src/config/node.rs"]
mod node;
#[path = "../../src/config/problem.rs"]
mod problem;
#[path = "../../src/config/show.rs"]
mod show;
#[path = "../../src/config/suggest.rs"]
mod suggest;
#[path = "../../src/config/yaml.rs"]
mod yaml;

use node::Node;
use tapio_exporter::{FileStorageConfig, OtlpGrpcConfig, OtlpHttpConfig};
use tapio_receiver::OtlpConfig;

/// Any text is a tree or a problem with a place; a tree, expanded, shown and read again is the same, and
/// whatever it holds is a component's configuration or what is wrong with it.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files are the machine's, not the input's.
    if text.contains("file:") {
        return;
    }
    let mut root = match yaml::parse("fuzz.yaml", text) {
        Ok(root) => root,
        Err(problem) => return assert!(!problem.text.contains('\n'), "one line: {problem:?}"),
    };
    let (mut warnings, mut problems) = (expand::Warnings::new(), problem::Problems::default());
    let lookup = |name: &str| (name.len() % 2 == 0).then(|| format!("{{{name}: [1, '${{X}}']}}"));
    expand::expand(&mut root, &lookup, &mut warnings, &mut problems);
    let shown = show::yaml(&root, false);
    let again = yaml::parse("shown.yaml", &shown).expect("what is shown can be read");
    assert_eq!(show::json(&again, false), show::json(&root, false), "{shown}");
    show::yaml(&root, true);
    let mut merged = root.clone();
    merged.merge(again);
    decode_all(&root);
    for (_, node) in root.entries() {
        decode_all(node);
    }
}

fn decode_all(node: &Node) {
    let _ = decode::decode::<OtlpConfig>(node);
    let _ = decode::decode::<OtlpGrpcConfig>(node);
    let _ = decode::decode::<OtlpHttpConfig>(node);
    let _ = decode::decode::<FileStorageConfig>(node);
}
