//! Requests as protobuf: the check at the door, the views and the columns, beside `prost`.

use tapio_proto::{
    Signal, check,
    columns::{LogColumns, MetricColumns, SpanColumns, SpanTold},
    view::{Attributes, PointValue, Record, RequestView},
};

/// Whatever it is, it is walked to its end; what passes the check is well-formed for all that read it.
pub fn run(data: &[u8]) {
    let Some((signal, bytes)) = crate::signal(data) else { return };
    let checked = check(signal, bytes);
    let walked = walk(signal, bytes);
    if let Ok(items) = checked {
        assert!(walked.whole, "what passes the check can be read to its end");
        assert_eq!(walked.items, items, "the view sees what the check counts");
        crate::prost(signal, bytes).expect("prost takes what passes the check");
    }
    assert_eq!(walked.rows, walked.items);
}

struct Walked {
    whole: bool,
    items: usize,
    rows: usize,
}

fn walk(signal: Signal, bytes: &[u8]) -> Walked {
    let (mut whole, mut items) = (true, 0);
    let (mut spans, mut logs, mut metrics) =
        (SpanColumns::default(), LogColumns::default(), MetricColumns::default());
    macro_rules! each {
        ($iterator:expr) => {
            $iterator.filter_map(|one| {
                whole &= one.is_ok();
                one.ok()
            })
        };
    }
    let resources: Vec<_> = each!(RequestView::new(signal, bytes).resources()).collect();
    for group in resources {
        let resource = group.resource();
        whole &= attributes(resource.attributes());
        spans.resource(&resource);
        logs.resource(&resource);
        metrics.resource(&resource);
        let scopes: Vec<_> = each!(group.scopes()).collect();
        for scope in scopes {
            whole &= attributes(scope.attributes());
            let records: Vec<_> = each!(scope.records()).collect();
            for record in records {
                match record {
                    Record::Span(span) => {
                        items += 1;
                        whole &= attributes(span.attributes());
                        for event in each!(span.events()).collect::<Vec<_>>() {
                            whole &= attributes(event.attributes());
                        }
                        for link in each!(span.links()).collect::<Vec<_>>() {
                            whole &= attributes(link.attributes());
                        }
                        spans.push(&span, &SpanTold::by(&span), 1);
                    }
                    Record::Log(log) => {
                        items += 1;
                        whole &= attributes(log.attributes());
                        let mut text = String::new();
                        if let Some(body) = &log.body {
                            body.write_json(&mut text, 1 << 10);
                        }
                        logs.push(&log, 1);
                    }
                    Record::Metric(metric) => {
                        whole &= attributes(metric.metadata());
                        for point in each!(metric.points()).collect::<Vec<_>>() {
                            items += 1;
                            whole &= attributes(point.attributes());
                            match &point.value {
                                PointValue::Histogram(value) => {
                                    value.bucket_counts().for_each(drop);
                                    value.explicit_bounds().for_each(drop);
                                }
                                PointValue::ExponentialHistogram(value) => {
                                    value.positive.bucket_counts().for_each(drop);
                                    value.negative.bucket_counts().for_each(drop);
                                }
                                PointValue::Summary(value) => {
                                    value.quantiles().for_each(drop);
                                }
                                _ => {}
                            }
                            metrics.push(&metric, &point);
                        }
                    }
                }
            }
        }
    }
    let rows = spans.finish().num_rows() + logs.finish().num_rows() + metrics.finish().num_rows();
    Walked { whole, items, rows }
}

fn attributes(list: Attributes<'_>) -> bool {
    let mut text = String::new();
    let mut whole = true;
    for pair in list {
        match pair {
            Ok(pair) => pair.value.write_json(&mut text, 1 << 10),
            Err(_) => whole = false,
        }
    }
    whole
}
