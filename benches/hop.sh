#!/usr/bin/env bash
# CPU of the whole process per span, over real sockets: a Collector and Tapio in turn, so that the ratio means something
# on a busy machine. Usage: benches/hop.sh TAPIO OTELCOL [ROUNDS=3]. LOADGEN names the load generator's binary, and
# TAPIO_SHARED the folder with its tools (default ../shared beside the repository).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tapio=$1 otelcol=$2 rounds=${3:-3}
tools=${TAPIO_SHARED:-$here/../../shared}/tools/hop
[ -x "$tools/measure.sh" ] || { echo "SKIPPED: no load generator at $tools (TAPIO_SHARED)" >&2; exit 0; }
: "${LOADGEN:?the binary of the load generator}"
OUT=$(mktemp -d)
export OUT LOADGEN
trap 'rm -rf "$OUT"' EXIT
"$tools/measure.sh" header
for _ in $(seq "$rounds"); do
	for kind in trace logs; do
		KIND=$kind "$tools/measure.sh" collector 24317 24417 "$otelcol" --config "$tools/otelcol/passthrough.yaml"
		KIND=$kind "$tools/measure.sh" tapio 24317 24417 "$tapio" --config "$here/hop.yaml"
	done
done
