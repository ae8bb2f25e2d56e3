#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    check,
    wire::{put_len_field, put_message, put_varint_field},
};

fn round(signal: Signal, json: &str) -> String {
    let bytes = to_proto(signal, json.as_bytes()).unwrap();
    check(signal, &bytes).unwrap();
    from_proto(signal, &bytes).unwrap()
}

/// A log record with this body.
fn body(any_value: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{any_value}}}]}}]}}]}}"#)
}

#[test]
fn what_is_written_reads_back_to_the_same_text() {
    let json = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"a","value":{"intValue":"9223372036854775807"}},{"key":"b","value":{"bytesValue":"AQID"}},{"key":"c","value":{}}]},"scopeSpans":[{"scope":{},"spans":[{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"x","kind":9,"startTimeUnixNano":"18446744073709551615","attributes":[{"key":"d","value":{"doubleValue":"NaN"}},{"key":"e","value":{"doubleValue":-0.0}},{"key":"f","value":{"arrayValue":{"values":[{"stringValue":""},{}]}}}],"status":{},"flags":4294967295}]}]}]}"#;
    assert_eq!(round(Signal::Traces, json), json);
    let json = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"h","histogram":{"dataPoints":[{"count":"3","sum":0.0,"bucketCounts":["1","2"],"explicitBounds":[1.5]}],"aggregationTemporality":2}},{"name":"e","exponentialHistogram":{"dataPoints":[{"scale":-3,"positive":{"offset":-7,"bucketCounts":["300","0"]}}]}},{"name":"g","gauge":{"dataPoints":[{"asInt":"-4"},{"asDouble":0.0}]}}]}]}]}"#;
    assert_eq!(round(Signal::Metrics, json), json);
    let json = r#"{"resourceProfiles":[{"scopeProfiles":[{"profiles":[{"samples":[{"attributeIndices":[1,-1],"values":["7"]}],"profileId":"AQ=="}]}]}],"dictionary":{"stringTable":["","cpu"]}}"#;
    assert_eq!(round(Signal::Profiles, json), json);
}

#[test]
fn numbers_may_be_texts_and_names_snake_case_and_enums_words() {
    let lenient = r#" { "resource_logs" : [ {"scope_logs":[{"log_records":[{"time_unix_nano":5,"severityNumber":"SEVERITY_NUMBER_ERROR",
        "body":{"int_value":7},"flags":"3","unknown":{"a":[1,{"b":[]},"\"}",null,-1.5e3,true]},"traceId":"","event_name":null}]}]}]}"#;
    let strict = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"5","severityNumber":17,"body":{"intValue":"7"},"flags":3}]}]}]}"#;
    assert_eq!(round(Signal::Logs, lenient), strict);
}

#[test]
fn numbers_are_exact() {
    for (read, written) in [
        (r#"{"intValue":9007199254740993}"#, r#"{"intValue":"9007199254740993"}"#),
        (r#"{"intValue":"-9223372036854775808"}"#, r#"{"intValue":"-9223372036854775808"}"#),
        (r#"{"intValue":1e3}"#, r#"{"intValue":"1000"}"#),
        (r#"{"doubleValue":1e-320}"#, r#"{"doubleValue":1e-320}"#),
        (r#"{"doubleValue":"0.1"}"#, r#"{"doubleValue":0.1}"#),
        (r#"{"doubleValue":5e-324}"#, r#"{"doubleValue":5e-324}"#),
        (r#"{"doubleValue":1.7976931348623157e308}"#, r#"{"doubleValue":1.7976931348623157e308}"#),
        (r#"{"doubleValue":"-Infinity"}"#, r#"{"doubleValue":"-Infinity"}"#),
    ] {
        assert_eq!(round(Signal::Logs, &body(read)), body(written));
    }
    for bad in [
        r#"{"intValue":9223372036854775808}"#,
        r#"{"intValue":1.5}"#,
        r#"{"intValue":"x"}"#,
        r#"{"intValue":1e30}"#,
        r#"{"doubleValue":"inf"}"#,
        r#"{"doubleValue":1e999}"#,
        r#"{"boolValue":1}"#,
    ] {
        assert!(to_proto(Signal::Logs, body(bad).as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn escapes_are_read_and_written() {
    let json = body(r#"{"stringValue":"\u00e4\ud83d\ude00\/\b\f\n\r\t\"\\\u0001 \ud83d"}"#);
    let want = body("{\"stringValue\":\"ä😀/\\u0008\\u000c\\n\\r\\t\\\"\\\\\\u0001 \u{fffd}\"}");
    assert_eq!(round(Signal::Logs, &json), want);
    assert_eq!(
        round(Signal::Logs, &body(r#"{"\u0073tringValue":"x"}"#)),
        body(r#"{"stringValue":"x"}"#)
    );
    assert_eq!(
        round(Signal::Logs, &body(r#"{"bytesValue":"-_8"}"#)),
        body(r#"{"bytesValue":"+/8="}"#)
    );
}

#[test]
fn bad_json_says_where_and_what_was_expected() {
    for (json, says) in [
        (
            r#"{"resourceSpans":[{"resource":5}]}"#,
            "JSON line 1 column 31: resourceSpans[0].resource: expected an object, found '5'",
        ),
        (
            r#"{"resourceSpans":{}}"#,
            "JSON line 1 column 18: resourceSpans: expected an array, found '{'",
        ),
        (
            "{\"resourceSpans\":[{},\n{\"scopeSpans\":[{\"spans\":[{\"traceId\":\"xy\"}]}]}]}",
            "JSON line 2 column 37: resourceSpans[1].scopeSpans[0].spans[0].traceId: expected an id in hex",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"BAD"}]}]}]}"#,
            "spans[0].kind: expected a number or a name of the enum, found \"BAD\"",
        ),
        ("{bad", "JSON line 1 column 2: expected a key in quotes, found 'b'"),
        ("", "JSON line 1 column 1: unexpected end of the text: expected an object"),
        ("{} x", "unexpected text after the JSON value"),
        (r#"{"a":1,}"#, "expected a value after `,`"),
        (r#"{"resourceSpans":[1"#, "expected an object"),
        ("{\"a\":\"x\ny\"}", "control character"),
        (r#"{"a":01}"#, "expected a number"),
        (r#"{"a":"\x"}"#, "unknown escape"),
    ] {
        let error = to_proto(Signal::Traces, json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{json}: {error}");
    }
    let error = to_proto(Signal::Traces, b"{\"a\":\"\xff\"}").unwrap_err().to_string();
    assert_eq!(error, "JSON line 1 column 7: invalid UTF-8");
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for open in [r#"{"arrayValue":{"values":["#, r#"{"unknown":["#, "[", r#"{"a":"#] {
        let json = body(&open.repeat(100_000));
        let error = to_proto(Signal::Logs, json.as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains("nested too deep") || error.contains("expected an object"),
            "{error}"
        );
    }
}

/// Guarantees: what is deep costs no more than it is long, in time and in memory, both ways.
#[test]
fn what_is_deep_and_long_is_passed_over_once() {
    let (levels, long) = (140, 4 << 20);
    let text = format!(r#"{{"stringValue":"{}"}}"#, "x".repeat(long));
    let open = r#"{"arrayValue":{"values":["#.repeat(levels);
    let json = body(&format!("{open}{text}{}", "]}}".repeat(levels)));
    let started = std::time::Instant::now();
    let bytes = to_proto(Signal::Logs, json.as_bytes()).unwrap();
    assert_eq!(check(Signal::Logs, &bytes), Ok(1));
    assert_eq!(from_proto(Signal::Logs, &bytes).unwrap(), json);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());

    // Each value comes in two parts, an array and an empty one, which are one array.
    let mut value = Vec::new();
    put_len_field(&mut value, 1, "y".repeat(long).as_bytes());
    for _ in 0..levels {
        let mut outer = Vec::new();
        put_message(&mut outer, 5, |array| put_len_field(array, 1, &value));
        put_len_field(&mut outer, 5, &[]);
        value = outer;
    }
    let mut request = Vec::new();
    put_message(&mut request, 1, |group| {
        put_message(group, 2, |scope| put_message(scope, 2, |log| put_len_field(log, 5, &value)))
    });
    assert_eq!(check(Signal::Logs, &request), Ok(1));
    let json = from_proto(Signal::Logs, &request).unwrap();
    assert!(json.len() < long + levels * 40, "{}", json.len());
}

#[test]
fn a_message_in_parts_is_one() {
    let mut request = Vec::new();
    put_message(&mut request, 1, |group| {
        put_message(group, 1, |resource| put_varint_field(resource, 2, 7));
        put_message(group, 1, |resource| {
            put_message(resource, 1, |kv| put_len_field(kv, 1, b"a"));
        });
        put_message(group, 1, |resource| {
            put_message(resource, 1, |kv| put_len_field(kv, 1, b"b"));
            put_varint_field(resource, 2, 9);
        });
    });
    assert_eq!(
        from_proto(Signal::Logs, &request).unwrap(),
        r#"{"resourceLogs":[{"resource":{"droppedAttributesCount":9,"attributes":[{"key":"a"},{"key":"b"}]}}]}"#
    );
}

#[test]
fn the_signal_is_told_by_the_first_known_member() {
    for (json, signal) in [
        (r#"{"resourceSpans":[]}"#, Some(Signal::Traces)),
        (r#" {"resource_metrics" : []}"#, Some(Signal::Metrics)),
        (r#"{"x":{"resourceSpans":[]},"resourceLogs":[{"broken"#, Some(Signal::Logs)),
        (r#"{"resourceProfiles":[]}"#, Some(Signal::Profiles)),
        (r#"{"resourceLogs2":[]}"#, None),
        (r#"["resourceLogs"]"#, None),
        ("", None),
        ("not json", None),
    ] {
        assert_eq!(signal_of(json.as_bytes()), signal, "{json}");
    }
}
