#!/usr/bin/env bash
# The speed table: CPU of the whole process per item over real sockets, a Collector and Tapio in turn, so that the ratio
# means something on a busy machine. Usage: benches/hop.sh TAPIO OTELCOL [ROUNDS=1]. LOADGEN names the load generator's
# binary, TAPIO_SHARED the folder with its tools (default ../shared beside the repository), SECS the time of a row (12).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tapio=$1 otelcol=$2 rounds=${3:-1}
tools=${TAPIO_SHARED:-$here/../../shared}/tools/hop
[ -x "$tools/measure.sh" ] || { echo "SKIPPED: no load generator at $tools (TAPIO_SHARED)" >&2; exit 0; }
: "${LOADGEN:?the binary of the load generator}"
OUT=$(mktemp -d)
export OUT LOADGEN
trap 'rm -rf "$OUT"' EXIT
peer=$tools/otelcol/passthrough.yaml

# tee: the analysis on. pass: without it. gzip: compressed on both sides. disk: acknowledged when it is on the disk.
cp "$here/hop.yaml" "$OUT/tee.yaml"
sed '/^ *processors:/d; /^ *tapio:/d' "$here/hop.yaml" >"$OUT/pass.yaml"
sed 's/compression: none/compression: gzip/' "$OUT/pass.yaml" >"$OUT/gzip.yaml"
sed "s/enabled: false/storage: file_storage/; /^ *retry_on_failure:/,+1d; s|^service:|extensions:\n  file_storage:\n    directory: $OUT/queue\n    create_directory: true\n&\n  extensions: [file_storage]|" \
	"$OUT/pass.yaml" >"$OUT/disk.yaml"

row() { # NAME CONFIG [KEY=VALUE..]
	local name=$1 config=$2 program=$tapio
	shift 2
	case $name in collector*) program=$otelcol ;; esac
	env "$@" "$tools/measure.sh" "$name" 24317 24417 "$program" --config "$config"
}
direct() { # the latency of the sender and the backend alone
	"$LOADGEN" sink 24417 >/dev/null & local sink=$!
	sleep 0.3
	"$LOADGEN" send http://127.0.0.1:24417 trace 100 8 10000 "${SECS:-12}" none | sed -nE 's/^accepted.*(ack latency.*)/direct, 10,000 spans a second: \1/p'
	kill $sink && wait $sink 2>/dev/null || true
}

"$tools/measure.sh" header
for _ in $(seq "$rounds"); do
	for kind in trace logs; do
		row collector "$peer" KIND=$kind
		row pass "$OUT/pass.yaml" KIND=$kind
		row tee "$OUT/tee.yaml" KIND=$kind
	done
	row disk "$OUT/disk.yaml" KIND=trace
	row collector-gzip "$peer" KIND=trace COMP=gzip OUT_COMPRESSION=gzip
	row gzip "$OUT/gzip.yaml" KIND=trace COMP=gzip
	row collector "$peer" KIND=trace N=100 RATE=10000
	row tee "$OUT/tee.yaml" KIND=trace N=100 RATE=10000
	direct
done
