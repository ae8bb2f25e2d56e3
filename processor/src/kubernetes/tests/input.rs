//! The shapes in which facts arrive.

use serde_json::{Value, json};
use tapio_proto::{
    Signal,
    model::Time,
    view::{self, RequestView},
};

use super::{
    super::{Cluster, Fact, Limits, Record, Verb},
    Test, at, changes, events, object, warning,
};

#[test]
fn events_are_told_by_count_and_chatter_is_not() {
    let mut test = Test::new();
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Warning", "Unhealthy"), "03:10:00.5"),
        ["probe.failed Unhealthy 03:10:00"]
    );
    assert_eq!(
        test.events(Verb::Modified, warning(1, "03:10:00", "Warning", "Unhealthy"), "03:10:09"),
        [""; 0]
    );
    let told = events(&test.see(
        Verb::Modified,
        warning(2, "03:10:20", "Warning", "Unhealthy"),
        "03:10:21",
    ));
    assert_eq!(
        (told[0].count, &*told[0].container, &*told[0].workload_name, &*told[0].source),
        (2, "cart", "cart", "k8s.events")
    );
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Normal", "Pulled"), "03:10:00"),
        [""; 0]
    );
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Normal", "Killing"), "03:10:00"),
        ["k8s.event Killing 03:10:00"]
    );
}

/// Events of a metric point of pod `p`, container `c`, at this second.
fn point(
    cluster: &mut Cluster,
    name: &str,
    value: f64,
    second: i64,
    attribute: (&str, &str),
) -> Vec<String> {
    let resource = |key: &str| {
        let value = match key {
            "k8s.namespace.name" => "shop",
            "k8s.pod.name" => "p-0",
            "k8s.container.name" => "c",
            "k8s.deployment.name" => "d",
            "k8s.node.name" => "n",
            "k8s.container.status.last_terminated_reason" => "OOMKilled",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let of_point = |key: &str| (key == attribute.0).then(|| attribute.1.to_owned());
    let (time, mut out) = (Time(second * 1_000_000_000), Vec::new());
    cluster.metric_point(name, (&resource, &of_point), value, (time, time), &mut out);
    events(&out).into_iter().map(|event| format!("{} {}", event.r#type, event.reason)).collect()
}

#[test]
fn metrics_of_both_generations_are_facts_by_their_turns() {
    for (restarts, desired, available) in [
        ("k8s.container.restarts", "k8s.deployment.desired", "k8s.deployment.available"),
        (
            "k8s.container.restart.count",
            "k8s.deployment.pod.desired",
            "k8s.deployment.pod.available",
        ),
    ] {
        let mut cluster = Cluster::default();
        let mut see =
            |name: &str, value, second| point(&mut cluster, name, value, second, ("", ""));
        assert_eq!(see(restarts, 3.0, 1), [""; 0]);
        assert_eq!(see(restarts, 3.0, 2), [""; 0]);
        assert_eq!(see(restarts, 4.0, 3), ["container.terminated OOMKilled"]);
        assert_eq!(
            (see("k8s.container.ready", 1.0, 1), see("k8s.container.ready", 0.0, 2)),
            (vec![], vec!["pod.not_ready ".into()])
        );
        assert_eq!((see(desired, 2.0, 1), see(available, 2.0, 1)), (vec![], vec![]));
        assert_eq!(
            (see(available, 1.0, 2), see(available, 2.0, 3)),
            (vec!["deployment.unavailable ".into()], vec!["deployment.available ".into()])
        );
        see("k8s.container.memory_limit", 1024.0, 4);
        assert_eq!(cluster.memory_limit("shop", "p-0", "c"), Some(1024.0));
    }
    let mut cluster = Cluster::default();
    let mut node = |value, second| {
        point(&mut cluster, "k8s.node.condition", value, second, ("condition", "Ready"))
    };
    assert_eq!((node(1.0, 1), node(0.0, 2)), (vec![], vec!["node.not_ready ".into()]));
    let mut new = |status, second| {
        let mut told = point(
            &mut cluster,
            "k8s.container.status.reason",
            status,
            second,
            ("k8s.container.status.reason", "CrashLoopBackOff"),
        );
        told.pop()
    };
    assert_eq!(
        (new(0.0, 1), new(1.0, 2)),
        (None, Some("container.waiting CrashLoopBackOff".into()))
    );
}

#[test]
fn changes_from_outside_are_rows_and_application_logs_are_not() {
    let record = |scope: &str, event: &str, attributes: Value| Record {
        scope: scope.into(),
        event_name: event.into(),
        observed: Some(at("03:00:00")),
        resource: json!({"service.name": "cart"}).as_object().unwrap().clone(),
        attributes: attributes.as_object().unwrap().clone(),
        ..Record::default()
    };
    let (mut cluster, mut out) = (Cluster::default(), Vec::new());
    assert!(!cluster.record(record("shop", "", json!({"a": "b"})), &mut out));
    assert!(!cluster.record(record("tapio.change", "alert", json!({})), &mut out));
    let step = || {
        record(
            "tapio.change",
            "deployment",
            json!({"deployment.id": "d-1", "service.version": "1.4.2", "user.name": "ann"}),
        )
    };
    assert!(cluster.record(step(), &mut out) && cluster.record(step(), &mut out));
    assert!(cluster.record(
        record(
            "tapio.change",
            "feature_flag.change",
            json!({"feature_flag.key": "f", "feature_flag.change": "off->on"})
        ),
        &mut out
    ));
    let rows = changes(&out);
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&*rows[0].entity_kind, &*rows[0].entity_name, &*rows[0].revision, &*rows[0].actor),
        ("Deployment", "cart", "d-1", "ann")
    );
    assert_eq!(
        (&*rows[1].path, rows[1].old.as_deref(), rows[1].new.as_deref()),
        ("feature_flag.f", Some("off"), Some("on"))
    );
}

#[test]
fn the_collectors_event_receiver_says_the_same_as_the_object() {
    let record = Record {
        severity: "Warning".into(),
        time: Some(at("03:10:00")),
        observed: Some(at("03:10:01")),
        resource: json!({"k8s.object.kind": "Pod", "k8s.object.name": "cart-5f4ddbf799-ddmxg", "k8s.namespace.name": "shop", "k8s.object.fieldpath": "spec.containers{cart}"}).as_object().unwrap().clone(),
        attributes: json!({"k8s.event.reason": "Unhealthy", "k8s.event.uid": "u-Unhealthy", "k8s.event.count": 1}).as_object().unwrap().clone(),
        body: json!("Readiness probe failed"),
        ..Record::default()
    };
    let (mut by_receiver, mut by_object) = (Vec::new(), Vec::new());
    assert!(Cluster::default().record(record.clone(), &mut by_receiver));
    Cluster::default().observe(
        Verb::Added,
        warning(1, "03:10:00", "Warning", "Unhealthy"),
        at("03:10:01"),
        &mut by_object,
    );
    assert_eq!(by_receiver, by_object);
    let mut both = Cluster::default();
    both.observe(
        Verb::Added,
        warning(1, "03:10:00", "Warning", "Unhealthy"),
        at("03:10:01"),
        &mut Vec::new(),
    );
    let mut out = Vec::new();
    both.record(record, &mut out);
    assert_eq!(out, []);
}

#[test]
fn odd_objects_are_survived_and_what_is_kept_is_bounded() {
    let mut test = Test(Cluster::new(Limits { objects: 10, bytes: 1 << 20 }));
    for odd in [
        json!(null),
        json!([]),
        json!({"kind": "Pod"}),
        json!({"kind": 1, "metadata": []}),
        json!({"kind": "Pod", "metadata": {"name": "x"}, "spec": [], "status": "é"}),
        json!({"kind": "EndpointSlice", "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "é"}}, "endpoints": [1, null, {"addresses": [2]}]}),
        json!({"kind": "Event", "regarding": 7}),
        json!({"kind": "Deployment", "metadata": {"name": "-", "managedFields": [{"time": "x", "fieldsV1": {"k:{": {}}}]}}),
    ] {
        for verb in [Verb::Listed, Verb::Added, Verb::Modified, Verb::Deleted] {
            test.see(verb, odd.clone(), "03:00:00");
        }
    }
    for i in 0..100 {
        test.see(
            Verb::Listed,
            object("ConfigMap", &format!("c{i}"), i, "01:00:00", json!({})),
            "03:00:00",
        );
    }
    assert_eq!(test.0.len(), 10);
    assert!(test.0.losses().forgotten >= 90);
}

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut out = vec![number << 3 | 2];
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

/// An `AnyValue` of this JSON.
fn any(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => field(1, text.as_bytes()),
        Value::Array(values) => {
            field(5, &values.iter().flat_map(|value| field(1, &any(value))).collect::<Vec<u8>>())
        }
        Value::Object(fields) => field(
            6,
            &fields.iter().flat_map(|(key, value)| pair(1, key, value)).collect::<Vec<u8>>(),
        ),
        _ => Vec::new(),
    }
}

fn pair(number: u8, key: &str, value: &Value) -> Vec<u8> {
    field(number, &[field(1, key.as_bytes()), field(2, &any(value))].concat())
}

/// Sends a log record with this body through the views, as the `k8s_objects` receiver would.
fn through_the_wire(
    cluster: &mut Cluster,
    attribute: &str,
    body: &[u8],
    out: &mut Vec<Fact>,
) -> Vec<bool> {
    let observed = [&[11 << 3 | 1][..], &at("03:00:00").0.to_le_bytes()].concat();
    let record = [observed, field(5, body), pair(6, attribute, &json!("configmaps"))].concat();
    let request = field(1, &field(2, &field(2, &record)));
    let mut told = Vec::new();
    for group in RequestView::new(Signal::Logs, &request).resources().flatten() {
        for scope in group.scopes().flatten() {
            for record in scope.records().flatten() {
                if let view::Record::Log(log) = record {
                    told.push(cluster.log_record(&group.resource(), scope.name(), &log, out));
                }
            }
        }
    }
    told
}

#[test]
fn a_record_on_the_wire_is_an_object_or_an_application_log() {
    let (mut cluster, mut out) = (Cluster::default(), Vec::new());
    let pulled = object("ConfigMap", "pool", 1, "01:00:00", json!({"data": {"a": "1"}}));
    let watched = json!({"type": "MODIFIED", "object": object("ConfigMap", "pool", 2, "02:59:59", json!({"data": {"a": "2"}}))});
    assert_eq!(
        through_the_wire(&mut cluster, "k8s.resource.name", &any(&pulled), &mut out),
        [true]
    );
    assert_eq!(out, []);
    assert_eq!(
        through_the_wire(&mut cluster, "k8s.resource.name", &any(&watched), &mut out),
        [true]
    );
    let rows = changes(&out);
    assert_eq!(
        (&*rows[0].path, rows[0].new.as_deref(), rows[0].observed),
        ("data.a", Some("2"), at("03:00:00"))
    );
    assert_eq!(through_the_wire(&mut cluster, "log.file.name", &any(&pulled), &mut out), [false]);
}

#[test]
fn what_is_too_deep_to_be_an_object_is_refused_and_counted() {
    let mut deep = any(&json!("x"));
    for _ in 0..1000 {
        deep = field(5, &field(1, &deep));
    }
    let (mut cluster, mut out) = (Cluster::default(), Vec::new());
    assert_eq!(through_the_wire(&mut cluster, "k8s.resource.name", &deep, &mut out), [true]);
    assert_eq!((out.len(), cluster.losses().refused, cluster.is_empty()), (0, 1, true));
}
