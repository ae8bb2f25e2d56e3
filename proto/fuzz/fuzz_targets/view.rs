#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio_proto::{
    Signal,
    columns::{LogColumns, MetricColumns, SpanColumns},
    view::{Record, RequestView},
};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let signal = Signal::ALL[usize::from(first % 4)];
    let (mut spans, mut logs, mut metrics) =
        (SpanColumns::default(), LogColumns::default(), MetricColumns::default());
    for resource in RequestView::new(signal, bytes).resources().flatten() {
        let origin = resource.resource();
        for scope in resource.scopes().flatten() {
            scope.attributes().for_each(drop);
            for record in scope.records().flatten() {
                match record {
                    Record::Span(span) => {
                        span.events().flatten().for_each(|event| event.attributes().for_each(drop));
                        span.links().flatten().for_each(|link| link.attributes().for_each(drop));
                        spans.push(&origin, &span);
                    }
                    Record::Log(log) => logs.push(&origin, &log),
                    Record::Metric(metric) => {
                        metric.points().flatten().for_each(|p| metrics.push(&origin, &metric, &p));
                    }
                }
            }
        }
    }
    let rows = (spans.len(), logs.len(), metrics.len());
    let batches = (spans.finish(), logs.finish(), metrics.finish());
    assert_eq!(rows, (batches.0.num_rows(), batches.1.num_rows(), batches.2.num_rows()));
});
