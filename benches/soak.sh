#!/usr/bin/env bash
# A long run against a backend that fails at random: what is acknowledged and lost, and whether memory stays flat.
# Usage: benches/soak.sh TAPIO [MINUTES=30] [SPANS_A_SECOND=50000] [SEED=1]. LOADGEN names the load generator's binary.
# Ends with 1 when a span that was acknowledged never arrived, or memory still grew after the first five minutes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tapio=$1 minutes=${2:-30} rate=${3:-50000} seed=${4:-1}
: "${LOADGEN:?the binary of the load generator}"
out=$(mktemp -d)
hop='' sink=''
trap 'kill $hop $sink 2>/dev/null || true; rm -rf "$out"' EXIT

# Well for half a minute or so, then ill for up to twenty seconds in one of the ways in which backends are.
plan=$(python3 - "$((minutes * 60))" "$seed" <<'PY'
import random, sys
left, chance = int(sys.argv[1]), random.Random(int(sys.argv[2]))
steps = []
while left > 60:
    well, ill = chance.randint(15, 45), chance.randint(2, 20)
    how = chance.choice(["closed", "dead", "unavailable", "exhausted", "exhausted=500", "slow=200"])
    steps += [f"ok@{well}", f"{how}@{ill}"]
    left -= well + ill
print(",".join(steps + ["ok"]))
PY
)
echo "plan: $plan"
"$LOADGEN" sink 24417 --mode "$plan" --count-unique "$out/delivered" >"$out/sink.log" 2>&1 & sink=$!
"$tapio" --config "$here/soak.yaml" >"$out/hop.log" 2>&1 & hop=$!
for _ in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/24317) 2>/dev/null && break; sleep 0.1; done
"$LOADGEN" send http://127.0.0.1:24317 trace 100 8 "$rate" "$((minutes * 60))" none --count-unique "$out/sent" >"$out/send.log" 2>&1 & send=$!
while kill -0 "$send" 2>/dev/null; do
	awk -v s="$SECONDS" '/^VmRSS/{print s, $2/1024}' "/proc/$hop/status" >>"$out/rss"
	sleep 1
done
sleep 30 # what the queue still holds
kill "$hop"; wait "$hop" || true
kill "$sink"; wait "$sink" || true
cat "$out/send.log"
code=0
"$LOADGEN" check "$out/sent" "$out/delivered" || code=1
python3 - "$out/rss" <<'PY' || code=1
import sys
rows = [tuple(map(float, line.split())) for line in open(sys.argv[1])]
start = rows[0][0]
late = [(s / 60, mib) for s, mib in rows if s - start >= min(300, (rows[-1][0] - start) / 3)]
n = len(late)
mean_t, mean_m = sum(t for t, _ in late) / n, sum(m for _, m in late) / n
slope = sum((t - mean_t) * (m - mean_m) for t, m in late) / sum((t - mean_t) ** 2 for t, _ in late)
print(f"RSS MiB: start {rows[0][1]:.0f}, peak {max(m for _, m in rows):.0f}, after five minutes {mean_m:.0f} on average, "
      f"end {rows[-1][1]:.0f}, slope {slope:+.2f} a minute")
sys.exit(slope > 1.0)
PY
exit $code
