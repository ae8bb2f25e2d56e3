#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio_proto::{
    Signal, check,
    view::{Record, RequestView},
};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let signal = Signal::ALL[usize::from(first % 4)];
    let Ok(items) = check(signal, bytes) else { return };
    let mut seen = 0;
    for resource in RequestView::new(signal, bytes).resources() {
        for scope in resource.expect("checked").scopes() {
            for record in scope.expect("checked").records() {
                seen += match record.expect("checked") {
                    Record::Metric(metric) => {
                        metric.points().map(|point| point.expect("checked")).count()
                    }
                    Record::Span(_) | Record::Log(_) => 1,
                };
            }
        }
    }
    assert!(seen <= items);
});
