//! Reads what the Collector's `file` exporter wrote and takes it apart into single items.

use std::{collections::HashMap, fs, path::Path};

use serde_json::Value;

use super::wire::Signal;

/// How often each item occurs; an item is its record with the resource and scope around it.
#[derive(Default)]
pub(crate) struct Items {
    counts: HashMap<String, i64>,
    /// Items in all.
    pub(crate) total: u64,
    /// Items that Tapio itself emitted (scope `tapio...`); these are not among the counts.
    pub(crate) own: u64,
}

impl Items {
    /// The items of one signal in a JSON-lines file. `tapio.*` attributes are left out.
    pub(crate) fn read(file: &Path, signal: Signal) -> Self {
        let (resources, scopes, records) = match signal {
            Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
            Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
            Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        };
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut items = Self::default();
        for line in text.lines().filter(|line| line.starts_with(&format!("{{\"{resources}\""))) {
            let mut line: Value = serde_json::from_str(line).expect("the Collector writes JSON");
            for mut resource in list(&mut line, resources) {
                without_own_attributes(&mut resource["resource"]);
                for mut scope in list(&mut resource, scopes) {
                    let records = list(&mut scope, records);
                    let name = scope["scope"]["name"].as_str().unwrap_or_default();
                    let own = name.starts_with("tapio");
                    let around = format!("{resource} {scope} ");
                    for item in records.into_iter().flat_map(|record| points(record, signal)) {
                        if own {
                            items.own += 1;
                        } else {
                            items.total += 1;
                            *items.counts.entry(around.clone() + &item).or_default() += 1;
                        }
                    }
                }
            }
        }
        items
    }

    /// Fails with counts and one example of each kind unless both hold the same items.
    pub(crate) fn assert_same(mut self, sent: Items, signal: Signal) {
        for (item, count) in sent.counts {
            *self.counts.entry(item).or_default() -= count;
        }
        let total = |sign: i64| self.counts.values().map(|c| (c * sign).max(0)).sum::<i64>();
        let example =
            |sign: i64| self.counts.iter().find(|(_, c)| **c * sign > 0).map(|(item, _)| item);
        let (missing, extra) = (total(-1), total(1));
        println!(
            "    {}: {} in, {} out, {missing} missing, {extra} extra, {} by Tapio itself",
            signal.items_name(),
            sent.total,
            self.total,
            self.own
        );
        assert!(
            missing == 0 && extra == 0,
            "{}: a missing one: {:?}\nan extra one: {:?}",
            signal.items_name(),
            example(-1),
            example(1)
        );
    }
}

/// Takes the list out of the object.
fn list(object: &mut Value, key: &str) -> Vec<Value> {
    match object.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => vec![],
    }
}

/// A span or log record is an item; a metric is as many as it has points.
fn points(mut record: Value, signal: Signal) -> Vec<String> {
    if signal != Signal::Metrics {
        without_own_attributes(&mut record);
        return vec![record.to_string()];
    }
    let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
    let mut items = vec![];
    for kind in kinds {
        if record.get(kind).is_some() {
            for mut point in list(&mut record[kind], "dataPoints") {
                without_own_attributes(&mut point);
                items.push(format!("{record} {point}"));
            }
        }
    }
    items
}

fn without_own_attributes(holder: &mut Value) {
    let Some(Value::Array(attributes)) = holder.get_mut("attributes") else { return };
    attributes.retain(|a| !a["key"].as_str().is_some_and(|key| key.starts_with("tapio.")));
    if attributes.is_empty() {
        holder.as_object_mut().map(|object| object.remove("attributes"));
    }
}
