//! Cutting requests into pieces: each item once, in its order, with all that stands around it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    metrics::v1::{Metric, metric::Data},
};
use proptest::prelude::*;
use prost::Message;
use tapio_proto::{
    Most, Signal, check,
    split::{Piece, Splitter},
    wire::{put_len_field, put_message, put_varint_field},
};

fn pieces(signal: Signal, request: &[u8], most: Most) -> Vec<Piece> {
    let mut splitter = Splitter::new(signal, &Bytes::copy_from_slice(request)).unwrap();
    let mut left = check(signal, request).unwrap();
    assert_eq!(splitter.items(), left);
    let mut pieces = Vec::new();
    while let Some(piece) = splitter.next(most) {
        left -= piece.items;
        assert_eq!(splitter.items(), left);
        pieces.push(piece);
    }
    assert!(splitter.is_done() && left == 0);
    pieces
}

/// Each item with everything around it, as prost writes it; what has no items is there by itself.
fn items(signal: Signal, request: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    macro_rules! walk {
        ($request:ident, $groups:ident, $scopes:ident, $records:ident, $items:expr) => {
            for group in $request::decode(request).unwrap().$groups {
                let around_group = vec![
                    group.resource.map(|resource| resource.encode_to_vec()).unwrap_or_default(),
                    group.schema_url.into_bytes(),
                ];
                if group.$scopes.is_empty() {
                    out.push(around_group.clone());
                }
                for scope in group.$scopes {
                    let mut around = around_group.clone();
                    around.push(scope.scope.map(|scope| scope.encode_to_vec()).unwrap_or_default());
                    around.push(scope.schema_url.into_bytes());
                    if scope.$records.is_empty() {
                        out.push(around.clone());
                    }
                    for record in scope.$records {
                        for item in $items(record) {
                            out.push([&around[..], &item].concat());
                        }
                    }
                }
            }
        };
    }
    let whole = |bytes: Vec<u8>| vec![vec![bytes]];
    match signal {
        Signal::Traces => {
            walk!(
                ExportTraceServiceRequest,
                resource_spans,
                scope_spans,
                spans,
                |span: opentelemetry_proto::tonic::trace::v1::Span| { whole(span.encode_to_vec()) }
            );
        }
        Signal::Logs => {
            walk!(
                ExportLogsServiceRequest,
                resource_logs,
                scope_logs,
                log_records,
                |log: opentelemetry_proto::tonic::logs::v1::LogRecord| {
                    whole(log.encode_to_vec())
                }
            );
        }
        _ => {
            walk!(ExportMetricsServiceRequest, resource_metrics, scope_metrics, metrics, points);
        }
    }
    out
}

/// Each data point of a metric, and the metric without points.
fn points(mut metric: Metric) -> Vec<Vec<Vec<u8>>> {
    fn taken<P: Message>(points: &mut Vec<P>) -> Vec<Vec<u8>> {
        points.drain(..).map(|point| point.encode_to_vec()).collect()
    }
    let points = match &mut metric.data {
        None => vec![],
        Some(Data::Gauge(data)) => taken(&mut data.data_points),
        Some(Data::Sum(data)) => taken(&mut data.data_points),
        Some(Data::Histogram(data)) => taken(&mut data.data_points),
        Some(Data::ExponentialHistogram(data)) => taken(&mut data.data_points),
        Some(Data::Summary(data)) => taken(&mut data.data_points),
    };
    let around = metric.encode_to_vec();
    match points.is_empty() {
        true => vec![vec![around]],
        false => points.into_iter().map(|point| vec![around.clone(), point]).collect(),
    }
}

fn request() -> impl Strategy<Value = (Signal, Vec<u8>)> {
    prop_oneof![
        common::traces().prop_map(|request| (Signal::Traces, request.encode_to_vec())),
        common::logs().prop_map(|request| (Signal::Logs, request.encode_to_vec())),
        common::metrics().prop_map(|request| (Signal::Metrics, request.encode_to_vec())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Guarantees: all items in their order, each once and with what stood around it; each piece but the
    /// last is full.
    #[test]
    fn by_items(requests in prop::collection::vec(request(), 1..4), most in 1..8_usize) {
        let signal = requests[0].0;
        // Merged, as they are when they were batched before.
        let bytes = requests.into_iter().filter(|(other, _)| *other == signal).map(|(_, bytes)| bytes);
        let whole = bytes.collect::<Vec<_>>().concat();
        let pieces = pieces(signal, &whole, Most::Items(most));
        for piece in &pieces {
            prop_assert_eq!(check(signal, &piece.bytes), Ok(piece.items));
        }
        if let Some((last, others)) = pieces.split_last() {
            prop_assert!(others.iter().all(|piece| piece.items == most) && last.items <= most);
        }
        let all: Vec<_> = pieces.iter().flat_map(|piece| items(signal, &piece.bytes)).collect();
        prop_assert_eq!(all, items(signal, &whole));
    }

    /// Guarantees: the same by bytes, and a piece that is larger is a single item, or has none.
    #[test]
    fn by_bytes((signal, whole) in request(), most in 0..600_usize) {
        let pieces = pieces(signal, &whole, Most::Bytes(most));
        for piece in &pieces {
            prop_assert_eq!(check(signal, &piece.bytes), Ok(piece.items));
            // What has no items is not cut.
            let single = piece.items == 0 || items(signal, &piece.bytes).len() == 1;
            prop_assert!(piece.bytes.len() <= most || single);
        }
        let all: Vec<_> = pieces.iter().flat_map(|piece| items(signal, &piece.bytes)).collect();
        prop_assert_eq!(all, items(signal, &whole));
    }

    /// Guarantees: a piece by bytes is as full as it can be: with the first item of the next it would be too large.
    #[test]
    fn no_piece_by_bytes_is_cut_short(spans in prop::collection::vec(0..300_usize, 1..40), most in 40..400_usize) {
        let whole = traces(&spans);
        let pieces = pieces(Signal::Traces, &whole, Most::Bytes(most));
        let mut from = 0;
        for piece in &pieces {
            let to = from + piece.items;
            prop_assert_eq!(&piece.bytes, &traces(&spans[from..to]));
            if to < spans.len() {
                prop_assert!(traces(&spans[from..=to]).len() > most);
            }
            from = to;
        }
    }

    #[test]
    fn broken_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), (signal, mut cut) in request()) {
        cut.truncate(at.index(cut.len() + 1));
        for bytes in [bytes, cut] {
            if check(signal, &bytes).is_ok() {
                pieces(signal, &bytes, Most::Items(1));
            } else if let Ok(mut splitter) = Splitter::new(signal, &bytes.into()) {
                while splitter.next(Most::Items(1)).is_some() {}
            }
        }
    }
}

/// One scope with spans whose names have these lengths.
fn traces(spans: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(&mut out, 1, |group| {
        put_message(group, 1, |resource| put_varint_field(resource, 2, 7));
        put_message(group, 2, |scope| {
            for name in spans {
                put_message(scope, 2, |span| put_len_field(span, 5, "n".repeat(*name).as_bytes()));
            }
        });
    });
    out
}

/// Scenario: a sum of 25 points, with unknown fields around and between everything, tags and lengths longer than
/// need be, and the metric's name, temporality and monotonicity behind the points.
/// Guarantees: three pieces, each with all of that, each point byte for byte.
#[test]
fn everything_around_the_points_of_a_metric_is_in_each_piece() {
    let point = |out: &mut Vec<u8>, n: u64| {
        put_message(out, 1, |point| {
            put_varint_field(point, 8, n);
            put_len_field(point, 800, b"of the point");
        });
    };
    let around_points = |out: &mut Vec<u8>| {
        put_varint_field(out, 2, 2);
        put_varint_field(out, 3, 1);
        put_len_field(out, 700, b"of the sum");
    };
    let around_sum = |out: &mut Vec<u8>| {
        put_len_field(out, 600, b"of the metric");
        put_len_field(out, 1, b"requests");
        put_len_field(out, 3, b"1");
    };
    let around_metrics = |out: &mut Vec<u8>| {
        put_message(out, 1, |scope| put_len_field(scope, 1, b"meter"));
        put_len_field(out, 3, b"https://schema/scope");
        put_len_field(out, 500, b"of the scope");
    };
    let around_scopes = |out: &mut Vec<u8>| {
        put_message(out, 1, |resource| put_varint_field(resource, 2, 3));
        put_len_field(out, 3, b"https://schema/resource");
        put_len_field(out, 400, b"of the group");
    };
    let build = |numbers: std::ops::Range<u64>, first: bool| {
        let mut out = Vec::new();
        let mut sum = Vec::new();
        // All around comes first in a piece; in the request the points come before it.
        if !first {
            around_points(&mut sum);
        }
        numbers.for_each(|n| point(&mut sum, n));
        if first {
            around_points(&mut sum);
        }
        put_len_field(&mut out, 300, b"of the request");
        put_message(&mut out, 1, |group| {
            around_scopes(group);
            put_message(group, 2, |scope| {
                around_metrics(scope);
                put_message(scope, 2, |metric| {
                    if first {
                        // Field 7 with a tag of two bytes and a length of four.
                        metric.extend_from_slice(&[0xba, 0x00]);
                        let len = sum.len() as u32;
                        metric.extend_from_slice(&[
                            len as u8 | 0x80,
                            (len >> 7) as u8 | 0x80,
                            0x80,
                            0,
                        ]);
                        metric.extend_from_slice(&sum);
                        around_sum(metric);
                    } else {
                        around_sum(metric);
                        put_len_field(metric, 7, &sum);
                    }
                });
            });
        });
        out
    };
    let whole = build(0..25, true);
    assert_eq!(check(Signal::Metrics, &whole), Ok(25));
    let pieces = pieces(Signal::Metrics, &whole, Most::Items(10));
    let expected = [build(0..10, false), build(10..20, false), build(20..25, false)];
    assert_eq!(pieces.iter().map(|piece| piece.items).collect::<Vec<_>>(), [10, 10, 5]);
    assert!(pieces.iter().zip(&expected).all(|(piece, expected)| piece.bytes == expected));
    // The messages that prost knows, too.
    let all: Vec<_> = pieces.iter().flat_map(|p| items(Signal::Metrics, &p.bytes)).collect();
    assert_eq!(all, items(Signal::Metrics, &whole));
}

/// Scenario: groups and scopes of which some fit whole, some do not, some have no items.
/// Guarantees: what fits is copied as it is; what has no items is in one piece.
#[test]
fn what_fits_is_not_taken_apart() {
    let scope = |out: &mut Vec<u8>, name: &str, spans: usize| {
        put_message(out, 2, |scope| {
            (0..spans)
                .for_each(|n| put_message(scope, 2, |span| put_varint_field(span, 6, n as u64)));
            put_message(scope, 1, |scope| put_len_field(scope, 1, name.as_bytes()));
        });
    };
    let mut whole = Vec::new();
    put_message(&mut whole, 1, |group| scope(group, "a", 2));
    put_message(&mut whole, 1, |_| ());
    put_message(&mut whole, 1, |group| {
        scope(group, "b", 1);
        scope(group, "none", 0);
        scope(group, "c", 3);
    });
    let first = whole.len();
    put_message(&mut whole, 1, |group| put_len_field(group, 3, b"no scope"));
    let pieces = pieces(Signal::Traces, &whole, Most::Items(3));
    assert_eq!(pieces.iter().map(|piece| piece.items).collect::<Vec<_>>(), [3, 3]);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    put_message(&mut one, 1, |group| scope(group, "a", 2));
    put_message(&mut one, 1, |_| ());
    put_message(&mut one, 1, |group| {
        scope(group, "b", 1);
        scope(group, "none", 0);
    });
    put_message(&mut two, 1, |group| {
        put_message(group, 2, |scope| {
            put_message(scope, 1, |scope| put_len_field(scope, 1, b"c"));
            (0..3).for_each(|n| put_message(scope, 2, |span| put_varint_field(span, 6, n)));
        });
    });
    two.extend_from_slice(&whole[first..]);
    assert_eq!(pieces[0].bytes, one);
    assert_eq!(pieces[1].bytes, two);
}

/// Scenario: a resource of 1 MiB and 10,000 spans, one by one: 10 GiB of pieces.
/// Guarantees: at 64 times the request and 64 MiB the rest is one piece.
#[test]
fn what_is_around_is_not_repeated_without_end() {
    let mut whole = Vec::new();
    put_message(&mut whole, 1, |group| {
        put_message(group, 1, |resource| put_len_field(resource, 900, &vec![0; 1 << 20]));
        put_message(group, 2, |scope| (0..10_000).for_each(|_| put_message(scope, 2, |_| ())));
    });
    let mut splitter = Splitter::new(Signal::Traces, &whole.clone().into()).unwrap();
    let (mut sum, mut items, mut last) = (0, 0, 0);
    while let Some(piece) = splitter.next(Most::Items(1)) {
        sum += piece.bytes.len();
        items += piece.items;
        last = piece.items;
    }
    assert_eq!(items, 10_000);
    assert!(last > 9_000 && sum < 66 * whole.len() + (64 << 20), "{last} {sum}");
}

#[test]
fn a_clone_goes_on_from_the_same_place() {
    let whole: Bytes = traces(&[1; 25]).into();
    let mut splitter = Splitter::new(Signal::Traces, &whole).unwrap();
    splitter.next(Most::Items(7)).unwrap();
    let (mut one, mut other) = (splitter.clone(), splitter);
    assert_eq!(one.next(Most::Items(5)).unwrap().bytes, other.next(Most::Items(5)).unwrap().bytes);
    assert_eq!(one.next(Most::Items(99)).unwrap().items, 13);
    assert!(one.is_done() && !other.is_done());
}

#[test]
fn profiles_have_no_pieces() {
    let bytes = Bytes::from_static(b"\x0a\x00\x0a\x00");
    let mut splitter = Splitter::new(Signal::Profiles, &bytes).unwrap();
    assert!(splitter.is_done() && splitter.next(Most::Items(1)).is_none());
}
