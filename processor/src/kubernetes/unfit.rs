//! What does not fit what: pods and nodes, claims and volumes, probes and ports.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    standing::storage,
    value::{at, list, number, plain, text},
};

/// Why no node takes a pod, by the scheduler's own words (in lower case): what most nodes lack. What keeps
/// pods off the control plane is meant.
pub(super) fn why(said: &str, spec: &Value) -> Option<&'static str> {
    let reasons = said.split_once("available:").map_or(said, |(_, reasons)| reasons);
    let reasons = reasons.split("preemption:").next().unwrap_or(reasons);
    let mut found: Option<(i64, &'static str)> = None;
    for reason in reasons.split(", ") {
        let reason = reason.trim().trim_end_matches('.');
        let count = reason.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if reason.contains("control-plane") || reason.contains("role.kubernetes.io/master") {
            continue;
        }
        let has = |part: &[&str]| at(spec, part).is_some();
        let pattern = if reason.contains("insufficient cpu") {
            "cpu_capacity_mismatch"
        } else if reason.contains("insufficient memory") {
            "memory_capacity_mismatch"
        } else if reason.contains("insufficient") || reason.contains("too many pods") {
            "failed_scheduling"
        } else if reason.contains("anti-affinity") || reason.contains("topology spread") {
            "pod_anti_affinity_conflict"
        } else if reason.contains("volume node affinity") {
            "volume_in_other_zone"
        } else if reason.contains("affinity") || reason.contains("selector") {
            if has(&["nodeSelector"]) { "node_selector_mismatch" } else { "node_affinity_mismatch" }
        } else if reason.contains("unschedulable") {
            "node_cordon_mismatch"
        } else if reason.contains("taint") || reason.contains("tolerate") {
            if reason.contains("unschedulable") {
                "node_cordon_mismatch"
            } else {
                "taint_toleration_mismatch"
            }
        } else if reason.contains("free ports") {
            "host_port_taken"
        } else if reason.contains("persistentvolumeclaim") {
            "claim_unbound"
        } else {
            continue;
        };
        if found.is_none_or(|(most, _)| count > most) {
            found = Some((count, pattern));
        }
    }
    found.map(|(_, pattern)| pattern)
}

/// Why no volume fits a claim: of the one that lacks least, what it lacks.
pub(super) fn claim(
    claim: &Value,
    of: &Entity,
    volumes: &[&Value],
    classes: &[&str],
) -> (&'static str, String) {
    let class = text(claim, &["spec", "storageClassName"]);
    let asked = text(claim, &["spec", "volumeName"]);
    let wanted = storage(claim, &["spec", "resources", "requests", "storage"]).unwrap_or(0.0);
    let labels = at(claim, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
    let mut best: Option<Vec<(&'static str, String)>> = None;
    let mut fits_none = false;
    for volume in volumes {
        let name = text(volume, &["metadata", "name"]);
        if !asked.is_empty() && name != asked {
            continue;
        }
        let mut lacks = Vec::new();
        let other = text(volume, &["spec", "claimRef", "name"]);
        if !other.is_empty() && other != &*of.name {
            lacks.push(("pv_binding_occupied", format!("volume {name} belongs to claim {other}")));
        }
        if text(volume, &["status", "phase"]) == "Released" {
            let why = format!(
                "volume {name} is Released: its claimRef still holds a claim that was deleted; if its data may be used, free it: kubectl patch pv {name} --type=merge -p '{{\"spec\":{{\"claimRef\":null}}}}'"
            );
            lacks.push(("pv_binding_occupied", why));
        }
        let theirs = text(volume, &["spec", "storageClassName"]);
        if theirs != class {
            lacks.push((
                "pvc_storage_class_mismatch",
                format!("it asks for class {class:?}, volume {name} has {theirs:?}"),
            ));
        }
        let size = storage(volume, &["spec", "capacity", "storage"]).unwrap_or(f64::MAX);
        if size < wanted {
            lacks.push((
                "pvc_capacity_mismatch",
                format!("volume {name} is smaller than it asks for"),
            ));
        }
        let modes = list(volume, &["spec", "accessModes"]);
        if list(claim, &["spec", "accessModes"]).iter().any(|mode| !modes.contains(mode)) {
            lacks.push((
                "pvc_access_mode_mismatch",
                format!("volume {name} has not the access mode that it asks for"),
            ));
        }
        let has = |(key, value): (&String, &Value)| {
            at(volume, &["metadata", "labels"]).and_then(|l| l.get(key)) == Some(value)
        };
        if !labels.into_iter().flatten().all(has) {
            lacks.push((
                "pvc_selector_mismatch",
                format!("volume {name} has not the labels that it selects"),
            ));
        }
        // What belongs to somebody else, and would not fit anyway, is no volume for it.
        if lacks.len() > 1 && !other.is_empty() && other != &*of.name && asked.is_empty() {
            fits_none = true;
            continue;
        }
        if !lacks.is_empty() && best.as_ref().is_none_or(|best| lacks.len() < best.len()) {
            best = Some(lacks);
        }
    }
    if let Some(lack) =
        best.filter(|lacks| lacks.len() == 1 || classes.contains(&class) || class.is_empty())
        && let Some(first) = lack.into_iter().next()
    {
        return first;
    }
    if !class.is_empty() && !classes.contains(&class) {
        return ("pvc_storage_class_mismatch", format!("there is no storage class {class}"));
    }
    let modes: Vec<&str> =
        list(claim, &["spec", "accessModes"]).iter().filter_map(Value::as_str).collect();
    let size = text(claim, &["spec", "resources", "requests", "storage"]);
    let why = match fits_none || volumes.is_empty() {
        true => {
            format!("no volume fits it: it asks for {size}, {}, class {class:?}", modes.join(", "))
        }
        false => "no volume fits it".to_owned(),
    };
    ("claim_unbound", why)
}

/// What of a probe does not fit its container.
pub(super) fn probe(part: &str, probe: &Value, container: &Value, said: &str) -> &'static str {
    let live = part != "readinessProbe";
    let of = |path: &[&str]| at(probe, path).map(plain);
    let port = of(&["httpGet", "port"])
        .or_else(|| of(&["tcpSocket", "port"]))
        .or_else(|| of(&["grpc", "port"]));
    let ports = list(container, &["ports"]);
    let has = |port: &str| {
        ports.iter().any(|p| {
            text(p, &["name"]) == port
                || number(p, &["containerPort"]).map(|n| n.to_string()).as_deref() == Some(port)
        })
    };
    let wrong_port = port.as_deref().is_some_and(|port| !ports.is_empty() && !has(port));
    let protocol = [
        "malformed http",
        "server gave http response to https",
        "first record does not look like a tls",
        "eof",
        "statuscode: 4",
        "unimplemented",
        "connection reset",
        "http2",
    ]
    .iter()
    .any(|word| said.contains(word));
    match (live, wrong_port, protocol) {
        (true, true, _) => "liveness_probe_incorrect_port",
        (false, true, _) => "readiness_probe_incorrect_port",
        (true, false, true) => "liveness_probe_incorrect_protocol",
        (false, false, true) => "readiness_probe_incorrect_protocol",
        (true, false, false) => "liveness_probe_incorrect_timing",
        (false, false, false) => "readiness_probe_wrong",
    }
}

/// A port of a Service that the pods behind it do not have.
pub(super) fn port(service: &Value, spec: &Value) -> Option<(&'static str, String)> {
    let declared: Vec<&Value> = list(spec, &["containers"])
        .iter()
        .flat_map(|container| list(container, &["ports"]))
        .collect();
    if declared.is_empty() {
        return None;
    }
    for port in list(service, &["spec", "ports"]) {
        let target = at(port, &["targetPort"]).or_else(|| at(port, &["port"])).map(plain)?;
        let same = |p: &&&Value| {
            text(p, &["name"]) == target
                || number(p, &["containerPort"]).map(|n| n.to_string()).as_deref() == Some(&target)
        };
        let protocol = |value: &Value| match text(value, &["protocol"]) {
            "" => "TCP".to_owned(),
            other => other.to_owned(),
        };
        let behind: Vec<&&Value> = declared.iter().filter(same).collect();
        let Some(first) = behind.first() else {
            let what = format!("no container has its target port {target}");
            return Some(("service_port_mapping_mismatch", what));
        };
        if behind.iter().all(|p| protocol(p) != protocol(port)) {
            let what = format!("port {target} speaks {}, not {}", protocol(first), protocol(port));
            return Some(("service_protocol_mismatch", what));
        }
    }
    None
}

/// The Services that a route leads to, with the port that it names.
pub(super) fn backends(value: &Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut add = |name: &str, port: Option<&Value>| {
        if !name.is_empty() {
            out.push((name.to_owned(), port.cloned().unwrap_or(Value::Null)));
        }
    };
    let default = at(value, &["spec", "defaultBackend", "service"]);
    let paths = list(value, &["spec", "rules"])
        .iter()
        .flat_map(|rule| list(rule, &["http", "paths"]))
        .filter_map(|path| at(path, &["backend", "service"]));
    for service in default.into_iter().chain(paths) {
        let port = at(service, &["port", "number"]).or_else(|| at(service, &["port", "name"]));
        add(text(service, &["name"]), port);
    }
    for rule in list(value, &["spec", "rules"]) {
        for backend in list(rule, &["backendRefs"]) {
            add(text(backend, &["name"]), at(backend, &["port"]));
        }
    }
    for part in ["http", "tcp", "tls"] {
        for route in list(value, &["spec", part]).iter().flat_map(|rule| list(rule, &["route"])) {
            let to = ["destination", "host"];
            add(text(route, &to), at(route, &["destination", "port", "number"]));
        }
    }
    out
}
