//! What must survive Tapio: the lossless list (L1-L31), one test each.
//!
//! Each request goes through three doors: the splice that touches nothing, the splice that marks every
//! record and is undone, and JSON and back. L29 and L30 need sockets and are tested with the hop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use tapio_proto::{
    Signal, WireError, attr, check, json,
    splice::{Decision, encode_attributes, splice},
    view::RequestView,
    wire::{
        Fault, Fields, Value, put_fixed32_field as fixed32, put_fixed64_field as fixed64,
        put_len_field as len, put_message as msg, put_varint_field as varint, zigzag,
    },
};

const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

// --- building requests ---

fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A request with one resource, one scope and one record, whose fields are given.
fn record(record: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes(|out| msg(out, 1, |group| msg(group, 2, |scope| msg(scope, 2, record))))
}

/// A metric with one data point: `data` is 5 gauge, 7 sum, 9 histogram, 10 exponential, 11 summary.
fn point(data: u32, point: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    record(|metric| msg(metric, data, |data| msg(data, 1, point)))
}

/// A `KeyValue` in the field `number` with a string value.
fn kv(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    out.extend_from_slice(&encode_attributes(number, &[(key, attr::Value::Text(value))]));
}

// --- the doors ---

fn ours(signal: Signal) -> Vec<u8> {
    let attributes = [
        (attr::STORY_ID, attr::Value::Text("story-1")),
        (attr::STORY_TITLE, attr::Value::Text(&"why ".repeat(50))),
        (attr::STORY_CONFIDENCE, attr::Value::Double(0.8)),
    ];
    encode_attributes(signal.record_attributes_field().unwrap_or(1), &attributes)
}

/// Takes `extra` from the end of each message at `depth` messages below the request.
fn undo(bytes: &[u8], depth: u32, extra: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in Fields::new(bytes) {
        let field = field.unwrap();
        let nested = if depth == 1 { field.number == 1 } else { field.number == 2 };
        match field.value {
            // Groups are field 1 of a request; scopes and records are field 2 of what they are in.
            Value::Len(inner) if nested && depth < 3 => {
                len(&mut out, field.number, &undo(inner, depth + 1, extra))
            }
            Value::Len(inner) if nested => {
                len(&mut out, field.number, inner.strip_suffix(extra).unwrap())
            }
            _ => out.extend_from_slice(&bytes[field.start..field.end]),
        }
    }
    out
}

/// The request comes out of the splices as it went in; the number of its items.
fn splices(signal: Signal, request: &[u8]) -> usize {
    let whole = Bytes::copy_from_slice(request);
    let items = check(signal, &whole).unwrap();
    let untouched = splice(signal, &whole, |_| Decision::Nothing).unwrap();
    assert_eq!(untouched.as_ptr(), whole.as_ptr(), "nothing to do, nothing to copy");
    let extra = ours(signal);
    if signal.record_attributes_field().is_some() {
        let marked = splice(signal, &whole, |_| Decision::All(&extra)).unwrap();
        assert_eq!(check(signal, &marked), Ok(items));
        assert_eq!(undo(&marked, 1, &extra), request, "but for what was added, the same bytes");
        let again = splice(signal, &marked, |_| Decision::All(&extra)).unwrap();
        assert_eq!(again, marked, "a second hop adds nothing");
    }
    items
}

/// All three doors.
fn survives(signal: Signal, request: &[u8]) {
    splices(signal, request);
    let text = json::from_proto(signal, request).unwrap();
    let back = json::to_proto(signal, text.as_bytes()).unwrap();
    assert_eq!(&back[..], request, "{text}");
}

/// The text of a request in JSON.
fn text(signal: Signal, request: &[u8]) -> String {
    json::from_proto(signal, request).unwrap()
}

// --- the list ---

#[test]
fn l01_unknown_fields_survive_at_every_level() {
    /// Unknown to OTLP, in all wire types.
    fn odd(out: &mut Vec<u8>) {
        varint(out, 9_001, u64::MAX);
        fixed64(out, 9_002, 1);
        len(out, 9_003, b"\xff\x00not text");
        fixed32(out, 9_004, 2);
        // Group 9_005 { 1: 1 }.
        out.extend_from_slice(&[0xeb, 0xb2, 0x04, 0x08, 0x01, 0xec, 0xb2, 0x04]);
    }
    let any = |out: &mut Vec<u8>| {
        len(out, 1, b"x");
        odd(out);
    };
    for signal in SIGNALS {
        let attributes = signal.record_attributes_field().unwrap_or(12);
        let request = bytes(|out| {
            odd(out);
            msg(out, 1, |group| {
                msg(group, 1, |resource| {
                    msg(resource, 1, |kv| {
                        len(kv, 1, b"k");
                        msg(kv, 2, any);
                        odd(kv);
                    });
                    odd(resource);
                });
                odd(group);
                msg(group, 2, |scope| {
                    msg(scope, 1, odd);
                    odd(scope);
                    msg(scope, 2, |record| {
                        odd(record);
                        msg(record, attributes, |kv| msg(kv, 2, any));
                        odd(record);
                    });
                    odd(scope);
                });
            });
            odd(out);
        });
        splices(signal, &request);
        // They have no name in JSON; what has one is still there.
        assert!(text(signal, &request).contains(r#"{"key":"k","value":{"stringValue":"x"}}"#));
    }
}

#[test]
fn l02_entity_refs_survive() {
    for signal in SIGNALS {
        survives(
            signal,
            &bytes(|out| {
                msg(out, 1, |group| {
                    msg(group, 1, |resource| {
                        msg(resource, 3, |entity| {
                            len(entity, 1, b"https://schema");
                            len(entity, 2, b"service");
                            len(entity, 3, b"service.name");
                            len(entity, 3, b"service.namespace");
                            len(entity, 4, b"service.version");
                        });
                    });
                });
            }),
        );
    }
}

#[test]
fn l03_schema_urls_survive() {
    for signal in SIGNALS {
        survives(
            signal,
            &bytes(|out| {
                msg(out, 1, |group| {
                    msg(group, 2, |scope| {
                        msg(scope, 2, |_| {});
                        len(scope, 3, b"https://opentelemetry.io/schemas/1.44.0");
                    });
                    len(group, 3, b"https://opentelemetry.io/schemas/1.0.0");
                });
            }),
        );
    }
}

#[test]
fn l04_scopes_survive_and_absent_is_not_empty() {
    for signal in SIGNALS {
        let absent = bytes(|out| msg(out, 1, |group| msg(group, 2, |scope| msg(scope, 2, |_| {}))));
        let empty = bytes(|out| {
            msg(out, 1, |group| {
                msg(group, 2, |scope| {
                    msg(scope, 1, |_| {});
                    msg(scope, 2, |_| {});
                });
            });
        });
        assert_ne!(absent, empty);
        survives(signal, &absent);
        survives(signal, &empty);
        survives(
            signal,
            &bytes(|out| {
                msg(out, 1, |group| {
                    msg(group, 2, |scope| {
                        msg(scope, 1, |scope| {
                            len(scope, 1, b"lib");
                            len(scope, 2, b"1.2");
                            kv(scope, 3, "a", "b");
                            varint(scope, 4, 7);
                        });
                        msg(scope, 2, |_| {});
                    });
                });
            }),
        );
    }
}

#[test]
fn l05_groups_keep_their_number_and_order() {
    for signal in SIGNALS {
        // The same resource twice, the same scope twice, a scope before the resource.
        let group = |out: &mut Vec<u8>| {
            msg(out, 1, |group| {
                msg(group, 1, |resource| kv(resource, 1, "service.name", "cart"));
                for _ in 0..2 {
                    msg(group, 2, |scope| {
                        msg(scope, 1, |scope| len(scope, 1, b"lib"));
                        msg(scope, 2, |_| {});
                        msg(scope, 2, |_| {});
                    });
                }
            });
        };
        survives(signal, &bytes(|out| (0..2).for_each(|_| group(out))));
        survives(
            signal,
            &bytes(|out| {
                msg(out, 1, |group| {
                    msg(group, 2, |scope| msg(scope, 2, |_| {}));
                    msg(group, 1, |resource| kv(resource, 1, "service.name", "cart"));
                });
            }),
        );
    }
}

#[test]
fn l06_attributes_keep_order_and_duplicates() {
    for (signal, number) in [(Signal::Traces, 9), (Signal::Logs, 6)] {
        survives(
            signal,
            &record(|record| {
                for (key, value) in [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1"), ("c", "")] {
                    kv(record, number, key, value);
                }
                // Neither key nor value.
                msg(record, number, |_| {});
            }),
        );
    }
}

#[test]
fn l07_every_kind_of_value_survives() {
    survives(
        Signal::Logs,
        &record(|log| {
            msg(log, 5, |body| {
                msg(body, 5, |array| {
                    msg(array, 1, |_| {});
                    msg(array, 1, |any| len(any, 1, b""));
                    msg(array, 1, |any| len(any, 1, "ü\u{0}\"\\😀".as_bytes()));
                    msg(array, 1, |any| varint(any, 2, 0));
                    msg(array, 1, |any| varint(any, 2, 1));
                    msg(array, 1, |any| varint(any, 3, 0));
                    msg(array, 1, |any| varint(any, 3, i64::MIN as u64));
                    msg(array, 1, |any| fixed64(any, 4, 0));
                    msg(array, 1, |any| len(any, 7, b""));
                    msg(array, 1, |any| len(any, 7, b"\x00\xff\xfe"));
                    msg(array, 1, |any| msg(any, 5, |_| {}));
                    msg(array, 1, |any| msg(any, 6, |_| {}));
                    msg(array, 1, |any| {
                        msg(any, 6, |map| {
                            kv(map, 1, "twice", "a");
                            kv(map, 1, "twice", "b");
                            msg(map, 1, |kv| len(kv, 1, b"no value"));
                            msg(map, 1, |kv| {
                                msg(kv, 2, |any| {
                                    msg(any, 5, |array| msg(array, 1, |any| varint(any, 3, 1)))
                                })
                            });
                        });
                    });
                });
            });
        }),
    );
}

#[test]
fn l08_dropped_counts_survive() {
    survives(
        Signal::Traces,
        &record(|span| {
            varint(span, 10, 1);
            msg(span, 11, |event| varint(event, 4, 2));
            varint(span, 12, 3);
            msg(span, 13, |link| varint(link, 5, 4));
            varint(span, 14, u64::from(u32::MAX));
        }),
    );
    survives(Signal::Logs, &record(|log| varint(log, 7, 5)));
    survives(
        Signal::Logs,
        &bytes(|out| msg(out, 1, |group| msg(group, 1, |resource| varint(resource, 2, 6)))),
    );
}

#[test]
fn l09_trace_state_survives() {
    survives(
        Signal::Traces,
        &record(|span| {
            len(span, 3, b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
            msg(span, 13, |link| len(link, 3, b"a=b"));
        }),
    );
}

#[test]
fn l10_all_bits_of_flags_survive() {
    survives(
        Signal::Traces,
        &record(|span| {
            msg(span, 13, |link| fixed32(link, 6, 0xdead_beef));
            fixed32(span, 16, u32::MAX);
        }),
    );
    survives(Signal::Logs, &record(|log| fixed32(log, 8, 0x8000_0301)));
}

#[test]
fn l11_an_empty_parent_is_not_a_zero_one() {
    survives(Signal::Traces, &record(|span| len(span, 4, &[0; 8])));
    // Empty on the wire is kept by the splice; JSON says it by leaving it out.
    let empty = record(|span| len(span, 4, b""));
    splices(Signal::Traces, &empty);
    let back = json::to_proto(Signal::Traces, text(Signal::Traces, &empty).as_bytes()).unwrap();
    assert_eq!(&back[..], &record(|_| {}));
}

#[test]
fn l12_event_name_and_times_survive() {
    survives(
        Signal::Logs,
        &record(|log| {
            fixed64(log, 11, 1_700_000_000_123_456_789);
            len(log, 12, b"tapio.story.opened");
        }),
    );
    // A time of 0 written out.
    splices(Signal::Logs, &record(|log| fixed64(log, 1, 0)));
    splices(Signal::Traces, &record(|span| fixed64(span, 7, 0)));
}

#[test]
fn l13_a_severity_out_of_the_enum_survives() {
    for severity in [25, 1000, i32::MIN] {
        survives(
            Signal::Logs,
            &record(|log| {
                varint(log, 2, i64::from(severity) as u64);
                len(log, 3, b"NOTICE");
            }),
        );
    }
}

#[test]
fn l14_a_kind_and_a_status_out_of_the_enum_survive() {
    for number in [6, 99, -1_i32] {
        survives(
            Signal::Traces,
            &record(|span| {
                varint(span, 6, i64::from(number) as u64);
                msg(span, 15, |status| varint(status, 3, i64::from(number) as u64));
            }),
        );
    }
}

#[test]
fn l15_exemplars_survive() {
    for (data, exemplars) in [(5, 5), (9, 8), (10, 11)] {
        survives(
            Signal::Metrics,
            &point(data, |point| {
                msg(point, exemplars, |exemplar| {
                    fixed64(exemplar, 2, 5);
                    fixed64(exemplar, 3, 1.5f64.to_bits());
                    len(exemplar, 4, &[1; 8]);
                    len(exemplar, 5, &[2; 16]);
                    kv(exemplar, 7, "user", "u1");
                });
                msg(point, exemplars, |exemplar| fixed64(exemplar, 6, -3i64 as u64));
            }),
        );
    }
}

#[test]
fn l16_exponential_histograms_survive() {
    survives(
        Signal::Metrics,
        &point(10, |point| {
            varint(point, 6, zigzag(-10));
            fixed64(point, 7, 3);
            msg(point, 8, |buckets| {
                varint(buckets, 1, zigzag(-200));
                len(buckets, 2, &[1, 0, 0xac, 0x02]);
            });
            msg(point, 9, |buckets| varint(buckets, 1, zigzag(i32::MIN)));
            fixed64(point, 14, 1e-9f64.to_bits());
        }),
    );
}

#[test]
fn l17_optional_zero_is_not_absent() {
    for (data, fields) in [(9, [5, 11, 12]), (10, [5, 12, 13])] {
        let zero = point(data, |point| fields.iter().for_each(|number| fixed64(point, *number, 0)));
        let absent = point(data, |_| {});
        assert_ne!(zero, absent);
        survives(Signal::Metrics, &zero);
        survives(Signal::Metrics, &absent);
    }
}

#[test]
fn l18_numbers_keep_type_and_bits() {
    for value in [
        0.0,
        -0.0,
        0.1,
        f64::MIN_POSITIVE / 4.0,
        f64::MAX,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        survives(Signal::Metrics, &point(5, |point| fixed64(point, 4, value.to_bits())));
    }
    for value in [0, 1, -1, i64::MAX, i64::MIN] {
        survives(Signal::Metrics, &point(7, |point| fixed64(point, 6, value as u64)));
    }
    // A NaN with a payload keeps it in protobuf; JSON has one NaN.
    splices(Signal::Metrics, &point(5, |point| fixed64(point, 4, 0x7ff8_0000_0000_0bad)));
}

#[test]
fn l19_what_a_metric_says_of_itself_survives() {
    survives(
        Signal::Metrics,
        &record(|metric| {
            len(metric, 1, b"requests");
            len(metric, 2, b"how many");
            len(metric, 3, b"{request}");
            msg(metric, 7, |sum| {
                msg(sum, 1, |_| {});
                varint(sum, 2, 2);
                varint(sum, 3, 1);
            });
            kv(metric, 12, "prometheus.type", "counter");
        }),
    );
    // Temporality 0 and not monotonic, written out.
    splices(
        Signal::Metrics,
        &record(|metric| {
            msg(metric, 7, |sum| {
                varint(sum, 2, 0);
                varint(sum, 3, 0);
            });
        }),
    );
}

#[test]
fn l20_data_point_flags_and_start_survive() {
    for (data, flags) in [(5, 8), (9, 10), (10, 10), (11, 8)] {
        survives(
            Signal::Metrics,
            &point(data, |point| {
                fixed64(point, 3, 9);
                varint(point, flags, 0xffff_ffff);
            }),
        );
        splices(Signal::Metrics, &point(data, |point| fixed64(point, 2, 0)));
    }
}

#[test]
fn l21_summaries_survive() {
    survives(
        Signal::Metrics,
        &point(11, |point| {
            fixed64(point, 4, 10);
            fixed64(point, 5, 12.5f64.to_bits());
            msg(point, 6, |_| {});
            msg(point, 6, |quantile| {
                fixed64(quantile, 1, 0.99f64.to_bits());
                fixed64(quantile, 2, (-3.0f64).to_bits());
            });
        }),
    );
}

#[test]
fn l22_empty_envelopes_survive() {
    for signal in SIGNALS {
        survives(signal, b"");
        survives(signal, &bytes(|out| msg(out, 1, |_| {})));
        survives(signal, &bytes(|out| msg(out, 1, |group| msg(group, 2, |_| {}))));
        survives(signal, &record(|_| {}));
    }
    survives(Signal::Metrics, &record(|metric| msg(metric, 5, |_| {})));
    survives(Signal::Metrics, &point(5, |_| {}));
}

#[test]
fn l23_the_legacy_field_survives() {
    for signal in SIGNALS {
        let request = bytes(|out| {
            msg(out, 1, |group| {
                msg(group, 2, |scope| msg(scope, 2, |_| {}));
                // instrumentation_library_spans and the like of OTLP before 0.15.
                msg(group, 1000, |library| {
                    msg(library, 1, |scope| len(scope, 1, b"lib"));
                    msg(library, 2, |_| {});
                });
            });
        });
        splices(signal, &request);
    }
}

#[test]
fn l24_integers_beyond_doubles_survive_json() {
    for value in [(1u64 << 53) + 1, i64::MAX as u64, u64::MAX] {
        survives(
            Signal::Logs,
            &record(|log| {
                fixed64(log, 1, value);
                msg(log, 5, |body| varint(body, 3, value));
            }),
        );
    }
    let bare =
        br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":9007199254740993}]}]}]}"#;
    let want = record(|log| fixed64(log, 1, 9_007_199_254_740_993));
    assert_eq!(&json::to_proto(Signal::Logs, bare).unwrap()[..], want);
}

#[test]
fn l25_text_that_is_not_utf8_is_refused() {
    let fields = [
        (Signal::Traces, record(|span| len(span, 5, b"\xff"))),
        (Signal::Traces, record(|span| len(span, 5, b"eight ascii bytes and then \xc3"))),
        (Signal::Traces, record(|span| msg(span, 9, |kv| len(kv, 1, b"\xed\xa0\x80")))),
        (Signal::Logs, record(|log| msg(log, 5, |any| len(any, 1, b"ok \xc0\x80")))),
        (Signal::Metrics, record(|metric| len(metric, 3, b"\xf8"))),
    ];
    for (signal, request) in fields {
        let error = check(signal, &request).unwrap_err();
        assert!(matches!(error, WireError { what: Fault::Utf8(_), .. }), "{error}");
        assert!(json::from_proto(signal, &request).is_err());
    }
}

#[test]
fn l26_an_attribute_of_4_mib_survives() {
    let large = "x".repeat(4 << 20);
    survives(Signal::Traces, &record(|span| kv(span, 9, "large", &large)));
    survives(Signal::Logs, &record(|log| msg(log, 5, |body| len(body, 1, large.as_bytes()))));
}

#[test]
fn l27_a_request_of_100_000_spans_survives() {
    let request = bytes(|out| {
        msg(out, 1, |group| {
            msg(group, 2, |scope| {
                for i in 0..100_000u64 {
                    msg(scope, 2, |span| {
                        len(span, 2, &i.to_be_bytes());
                        len(span, 5, b"GET /");
                    });
                }
            });
        });
    });
    assert_eq!(splices(Signal::Traces, &request), 100_000);
    survives(Signal::Traces, &request);
}

#[test]
fn l28_string_indices_outside_profiles_are_no_error() {
    survives(
        Signal::Traces,
        &record(|span| {
            msg(span, 9, |kv| {
                msg(kv, 2, |any| varint(any, 8, 3));
                varint(kv, 3, 2);
            });
        }),
    );
}

#[test]
fn l31_profiles_pass_unread() {
    let request = bytes(|out| {
        msg(out, 1, |group| {
            msg(group, 2, |scope| {
                msg(scope, 2, |profile| len(profile, 5, b"\xff not what we know"))
            })
        });
        len(out, 2, b"\xff\xff");
        varint(out, 77, 1);
        // A group that is no message inside.
        len(out, 1, b"\x00\x01");
    });
    let whole = Bytes::from(request);
    assert_eq!(check(Signal::Profiles, &whole), Ok(0));
    assert_eq!(RequestView::new(Signal::Profiles, &whole).resources().count(), 0);
    let out = splice(Signal::Profiles, &whole, |_| Decision::All(b"never")).unwrap();
    assert_eq!(out.as_ptr(), whole.as_ptr());
    assert!(check(Signal::Profiles, &whole[..whole.len() - 1]).is_err());
}
