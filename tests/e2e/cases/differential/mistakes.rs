//! What is wrong in a configuration, in the same words.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{Group, programs};
use crate::e2e::{program::folder, runner::Skipped};

/// Scenario: configurations with one mistake each.
/// Guarantees: both programs refuse them with these words.
pub(crate) fn mistakes() -> Result<(), Skipped> {
    let [theirs, ours] = programs()?;
    let folder = folder("differential_mistakes");
    let base = |change: &dyn Fn(&mut Value)| {
        let mut config = json!({
            "receivers": {"nop": {}}, "exporters": {"nop": {}},
            "service": {"pipelines": {"traces": {"receivers": ["nop"], "exporters": ["nop"]}}},
        });
        change(&mut config);
        config
    };
    let attributes = |body: Value| {
        base(&|config| {
            config["processors"] = json!({"attributes": body});
            config["service"]["pipelines"]["traces"]["processors"] = json!(["attributes"]);
        })
    };
    let action = |action: Value| attributes(json!({"actions": [action]}));
    let include = |properties: Value| {
        attributes(json!({"include": properties, "actions": [{"key": "a", "action": "delete"}]}))
    };
    let pipelines = |connectors: Value, pipelines: Value| {
        base(&|config| {
            config["connectors"] = connectors.clone();
            config["service"]["pipelines"] = pipelines.clone();
        })
    };
    let plain = |from: &str, to: &str| json!({"receivers": [from], "exporters": [to]});
    let of_key = "error with key \"a\" (0-th action): error creating AttrProc";
    let mistakes = [
        (attributes(json!({})), "processors::attributes: missing required field \"actions\"".to_owned()),
        (base(&|config| {
            config["processors"] = json!({"resource": {"attributes": []}});
            config["service"]["pipelines"]["traces"]["processors"] = json!(["resource"]);
        }), "processors::resource: missing required field \"attributes\"".to_owned()),
        (action(json!({"action": "insert", "value": 1})), "error creating AttrProc due to missing required field \"key\" at the 0-th action".to_owned()),
        (action(json!({"action": "delete"})), "error creating AttrProc due to missing required field (at least one of \"key\" and \"pattern\" have to be used) at the 0-th action".to_owned()),
        (action(json!({"key": "a", "action": "insert"})), format!("{of_key}. Either field \"value\", \"from_attribute\", \"from_context\", or \"default_value\" must be specified")),
        (action(json!({"key": "a", "action": "insert", "value": 1, "from_attribute": "b"})), format!("{of_key} due to multiple value sources being set")),
        (action(json!({"key": "a", "action": "insert", "value": 1, "pattern": "b"})), format!("{of_key}. Action \"insert\" does not use the \"pattern\" field. This must not be specified")),
        (action(json!({"key": "a", "action": "hash", "converted_type": "int"})), format!("{of_key}. Action \"hash\" does not use the \"converted_type\" field. This must not be specified")),
        (action(json!({"key": "a", "action": "delete", "value": 1})), format!("{of_key}. Action \"delete\" does not use \"value\" or \"from_attribute\" field. These must not be specified")),
        (action(json!({"key": "a", "action": "hash", "pattern": "("})), format!("{of_key}. Field \"pattern\" has invalid pattern: \"(\"")),
        (action(json!({"key": "a", "action": "extract"})), format!("{of_key} due to missing required field \"pattern\" for action \"extract\"")),
        (action(json!({"key": "a", "action": "extract", "pattern": "x", "value": 1})), format!("{of_key}. Action \"extract\" does not use a value source field. These must not be specified")),
        (action(json!({"key": "a", "action": "extract", "pattern": "x"})), format!("{of_key}. Field \"pattern\" contains no named matcher groups")),
        (action(json!({"key": "a", "action": "extract", "pattern": "(?P<a>x)(y)"})), format!("{of_key}. Field \"pattern\" contains at least one unnamed matcher group")),
        (action(json!({"key": "a", "action": "convert", "value": 1})), format!("{of_key}. Action \"convert\" does not use value sources or \"pattern\" field. These must not be specified")),
        (action(json!({"key": "a", "action": "convert"})), format!("{of_key} due to missing required field \"converted_type\" for action \"convert\"")),
        (action(json!({"key": "a", "action": "convert", "converted_type": "float"})), format!("{of_key} due to invalid value \"float\" in field \"converted_type\" for action \"convert\"")),
        (action(json!({"key": "a", "action": "rename"})), format!("{of_key} due to unsupported action \"rename\"")),
        (action(json!({"key": "a", "actoin": "insert"})), "has invalid keys: actoin".to_owned()),
        (include(json!({"match_type": "strict"})), "failed to create \"attributes\" processor, in pipeline \"traces\": at least one of \"attributes\", \"libraries\",  or \"resources\" field must be specified".to_owned()),
        (include(json!({"match_type": "strict", "log_bodies": ["a"]})), "failed to create \"attributes\" processor, in pipeline \"traces\": log_bodies should not be specified for trace spans".to_owned()),
        (include(json!({"match_type": "strict", "metric_names": ["a"]})), "metric_names should not be specified for trace spans".to_owned()),
        (include(json!({"services": ["a"]})), "error creating service name filters: unrecognized match_type: '', valid types are: [regexp strict]".to_owned()),
        (include(json!({"match_type": "regexp", "attributes": [{"key": "a", "value": 1}]})), "error creating attribute filters: match_type=regexp for \"a\" only supports Str, but found Int".to_owned()),
        (include(json!({"match_type": "strict", "resources": [{"key": ""}]})), "error creating resource filters: can't have empty key in the list of attributes".to_owned()),
        (include(json!({"match_type": "strict", "attributes": [{"name": "a"}]})), "has invalid keys: name".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/in": plain("nop", "forward")})), "connector \"forward\" used as exporter in [traces/in] pipeline but not used in any supported receiver pipeline".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/out": plain("forward", "nop")})), "failed to build pipelines: connector \"forward\" used as receiver in [traces/out] pipeline but not used in any supported exporter pipeline".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/in": plain("nop", "forward"), "traces/out": plain("forward", "nop"), "logs/out": plain("forward", "nop")})), "connector \"forward\" used as receiver in [logs/out] pipeline but not used in any supported exporter pipeline".to_owned()),
        (pipelines(json!({"nop": {}}), json!({"traces": plain("nop", "nop")})), "'connectors' unknown type: \"nop\" for id: \"nop\" (valid values: [forward])".to_owned()),
        (pipelines(json!({}), json!({"traces": plain("nop", "forward")})), "service::pipelines::traces: references exporter \"forward\" which is not configured".to_owned()),
        (pipelines(json!({"forward": {"key": 1}}), json!({"traces": plain("nop", "nop")})), "has invalid keys: key".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces": {"receivers": ["nop"], "processors": ["forward"], "exporters": ["nop"]}})), "service::pipelines::traces: references processor \"forward\" which is not configured".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces": {"receivers": ["nop", "forward"], "exporters": ["forward"]}})), "failed to build pipelines: cycle detected: connector \"forward\" (traces to traces) -> connector \"forward\" (traces to traces)".to_owned()),
    ];
    let mut group = Group::new();
    for (i, (config, words)) in mistakes.iter().enumerate() {
        let file = folder.join(format!("{i}.yaml"));
        fs::write(&file, config.to_string()).expect("the case's folder is writable");
        let [theirs, ours] = [&theirs, &ours].map(|(name, program)| {
            let mut command = Command::new(program);
            command.arg("validate").arg(format!("--config=file:{}", file.display()));
            let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}"));
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            // Tapio also tells file, line and column, and several mistakes at once.
            let said = if text.contains(words.as_str()) { words.clone() } else { text };
            format!("{:?}: {said}", output.status.code())
        });
        assert!(theirs.ends_with(words.as_str()), "the Collector does not say {words}: {theirs}");
        group.case(&format!("mistakes/{words:.60}"), &[("told", theirs, ours)]);
    }
    group.end();
    Ok(())
}
