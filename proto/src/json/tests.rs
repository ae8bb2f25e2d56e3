#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::check;

fn round(signal: Signal, json: &str) -> String {
    let bytes = to_proto(signal, json.as_bytes()).unwrap();
    check(signal, &bytes).unwrap();
    from_proto(signal, &bytes).unwrap()
}

#[test]
fn what_is_written_reads_back_to_the_same_bytes() {
    let json = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"a","value":{"intValue":"9223372036854775807"}},{"key":"b","value":{"bytesValue":"AQID"}},{"key":"c","value":{}}]},"scopeSpans":[{"scope":{},"spans":[{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"x","kind":9,"startTimeUnixNano":"18446744073709551615","attributes":[{"key":"d","value":{"doubleValue":"NaN"}},{"key":"e","value":{"doubleValue":-0.0}},{"key":"f","value":{"arrayValue":{"values":[{"stringValue":""},{}]}}}],"status":{},"flags":4294967295}]}]}]}"#;
    assert_eq!(round(Signal::Traces, json), json);
}

#[test]
fn numbers_may_be_strings_and_names_snake_case_and_enums_words() {
    let lenient = r#"{"resource_logs":[{"scope_logs":[{"log_records":[{"time_unix_nano":5,"severityNumber":"SEVERITY_NUMBER_ERROR","body":{"int_value":7},"unknown":{"a":[1]}}]}]}]}"#;
    let strict = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"5","severityNumber":17,"body":{"intValue":"7"}}]}]}]}"#;
    assert_eq!(round(Signal::Logs, lenient), strict);
}

#[test]
fn packed_numbers_and_unset_optionals_keep_their_meaning() {
    let json = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"h","histogram":{"dataPoints":[{"count":"3","sum":0.0,"bucketCounts":["1","2"],"explicitBounds":[1.5]}],"aggregationTemporality":2}},{"name":"e","exponentialHistogram":{"dataPoints":[{"scale":-3,"positive":{"offset":-7,"bucketCounts":["300","0"]}}]}},{"name":"g","gauge":{"dataPoints":[{"asInt":"-4"},{"asDouble":0.0}]}}]}]}]}"#;
    assert_eq!(round(Signal::Metrics, json), json);
}

#[test]
fn bad_json_says_where() {
    for (json, says) in [
        (r#"{"resourceSpans":[{"resource":5}]}"#, "expected an object (Resource)"),
        (r#"{"resourceSpans":{}}"#, "an array for `resourceSpans`"),
        (r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xy"}]}]}]}"#, "no hexadecimal id"),
        ("{bad", "line 1 column 2"),
    ] {
        let error = to_proto(Signal::Traces, json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let json = format!("{}{}{}", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":"#, r#"{"arrayValue":{"values":["#.repeat(100_000), "");
    assert!(to_proto(Signal::Logs, json.as_bytes()).is_err());
}
