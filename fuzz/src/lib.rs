//! One module for each thing that is fuzzed; `run` takes any bytes and panics when something is wrong.
//!
//! Instrumented builds (`./run`) hand it libFuzzer's inputs; `cargo test` hands it the corpus.

pub mod config;
pub mod json;
pub mod net;
pub mod queue;
pub mod splice;
pub mod views;

use tapio_proto::Signal;

/// The first byte picks the signal, the rest is the input.
fn signal(data: &[u8]) -> Option<(Signal, &[u8])> {
    let (pick, rest) = data.split_first()?;
    Some(([Signal::Traces, Signal::Metrics, Signal::Logs][usize::from(pick % 3)], rest))
}

/// What `prost` makes of a request: written again, so that two can be compared though a number is NaN.
fn prost(signal: Signal, bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    use opentelemetry_proto::tonic::collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    };
    use prost::Message;
    Ok(match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(bytes)?.encode_to_vec(),
        Signal::Metrics => ExportMetricsServiceRequest::decode(bytes)?.encode_to_vec(),
        Signal::Logs => ExportLogsServiceRequest::decode(bytes)?.encode_to_vec(),
        Signal::Profiles => bytes.to_vec(),
    })
}

/// The entry of one target's program: under libFuzzer, or over the files that it is given.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| tapio_fuzz::$name::run(data));

        #[cfg(not(fuzzing))]
        fn main() {
            for path in std::env::args().skip(1) {
                println!("{path}");
                tapio_fuzz::$name::run(&std::fs::read(path).unwrap());
            }
        }
    };
}
