//! The whole program over real sockets: what comes in goes out, whoever sends and whoever receives.
//!
//! `cargo test -p tapio --test hop [NAME..]` runs the cases whose names contain a NAME. A case that
//! needs a part that is not there (Go for the Collector, the load generator) says `SKIPPED` and why;
//! with `TAPIO_REQUIRE_REAL_PARTS=1` a missing Collector is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod e2e;
mod ports;

use e2e::cases::{
    accounting, collector, deploy, differential, durable, hostile, losses, lossless, pipelines,
    reload, sdk, selfobs, swapped,
};

fn main() -> std::process::ExitCode {
    e2e::runner::run(&[
        ("deployment_sample_of_tapio_is_valid", deploy::tapio),
        ("deployment_sample_of_a_collector_is_valid", deploy::collector),
        ("helm_charts_default_values_run_with_the_program_swapped", swapped::helm_defaults),
        ("a_collectors_gateway_configuration_runs_unchanged", swapped::gateway),
        ("grpc_to_http_bytes_are_equal", lossless::grpc_to_http),
        ("http_to_grpc_bytes_are_equal", lossless::http_to_grpc),
        ("grpc_to_grpc_bytes_are_equal", lossless::grpc_to_grpc),
        ("http_to_http_bytes_are_equal", lossless::http_to_http),
        ("fan_out_keeps_a_queue_for_each_destination", pipelines::fan_out),
        ("stopping_drains_joined_pipelines", pipelines::drained),
        ("headers_setter_tells_the_backend_of_each_sender", pipelines::headers_setter),
        ("k8s_attributes_come_from_passing_objects", pipelines::k8s_attributes),
        ("differential_http", differential::http),
        ("differential_grpc", differential::grpc),
        ("differential_broken_http2", differential::raw),
        ("differential_hop_matrix", differential::matrix),
        ("differential_outgoing_requests", differential::outgoing),
        ("differential_processors", differential::processors),
        ("differential_connectors", differential::connectors),
        ("differential_pieces", differential::pieces),
        ("differential_mistakes", differential::mistakes),
        ("differential_commands", differential::commands),
        ("differential_health_and_refusals", differential::health),
        ("differential_metrics", differential::metrics),
        ("differential_in_all", differential::in_all),
        ("malformed_requests_are_refused_and_counted", hostile::malformed),
        ("large_requests_get_an_answer", hostile::large),
        ("compression_bombs_get_an_answer", hostile::bombs),
        ("invalid_utf8_and_deep_nesting_get_an_answer", hostile::strange),
        ("attacked_memory_stays_bounded_and_good_senders_are_answered", hostile::table),
        ("backend_killed_and_back_loses_nothing_acknowledged", accounting::backend_killed),
        ("stopping_sends_what_is_queued", accounting::stopped_with_a_queue),
        ("reloads_under_load_lose_nothing_acknowledged", reload::under_load),
        ("a_reload_that_cannot_start_gives_way_to_the_one_of_before", reload::changed_receiver),
        ("a_reload_that_corrects_an_address_loses_nothing_acknowledged", reload::corrected_address),
        ("a_reload_is_cut_short_when_told_to_stop", reload::told_to_stop),
        ("traces_sent_to_itself_do_not_loop", selfobs::traces_to_itself),
        ("what_the_analysis_leaves_out_is_told_by_health_and_metrics", selfobs::left_out),
        ("losses_of_what_was_acknowledged_are_none_in_each_row", losses::table),
        ("a_queue_on_disk_survives_a_stop_without_a_backend", durable::stopped_on_disk),
        ("a_queue_on_disk_that_nobody_sends_is_told_of", durable::left_behind),
        ("a_queue_on_disk_of_an_exporter_that_keeps_it_elsewhere_is_told_of", durable::moved),
        ("a_queue_in_memory_is_parked_at_a_stop_and_replayed", durable::stopped_in_memory),
        ("what_is_refused_for_good_is_parked_listed_and_dropped", durable::refused_for_good),
        ("a_full_disk_refuses_and_recovers", durable::disk_full),
        ("flipped_bits_cost_one_record_each_and_all_are_named", durable::flipped),
        ("loadgen_backend_killed_and_back", accounting::loadgen_killed),
        ("loadgen_queue_overflows_behind_batch", accounting::loadgen_overflow),
        ("loadgen_backend_exhausted_and_back", accounting::loadgen_exhausted),
        ("collector_to_collector_100k_items_of_each_signal", collector::grpc_100k),
        ("collector_to_collector_over_http", collector::http),
        ("collector_to_collector_over_http_json", collector::json),
        ("sdk_for_go_sends_every_signal_both_ways", sdk::go),
        ("sdk_for_python_sends_every_signal_both_ways", sdk::python),
        ("sdk_for_javascript_sends_every_signal_both_ways", sdk::javascript),
        ("sdk_to_collector_telemetrygen", collector::telemetrygen),
    ])
}
