#!/usr/bin/env bash
# What Tapio finds in the development sets, and what two naive baselines find, in one run.
#
#   TAPIO_SHARED=... benches/accuracy.sh TAPIO [OUT]
#
# Prints the scorer's tables, and how sure the stories were against what turned out to be true. OUT keeps what was
# told, as <set>/<recording>.jsonl. Wants Python 3.10; what the baselines need comes from PyPI into the user's cache.
set -euo pipefail
TAPIO=$(realpath "$1")
SHARED=$(realpath "${TAPIO_SHARED:?the folder with rca/ and incidents/}")
OUT=${2:-$(mktemp -d)}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
HERE=$(dirname "$(realpath "$0")")
PYTHON=${XDG_CACHE_HOME:-$HOME/.cache}/tapio/accuracy
[ -x "$PYTHON/bin/python" ] || python3 -m venv "$PYTHON"
"$PYTHON/bin/python" -c 'import numpy, zstandard' 2>/dev/null || "$PYTHON/bin/pip" install -q numpy zstandard
cd "$SHARED/rca"
score() { "$PYTHON/bin/python" score.py "$@"; }

for set in incidents nezha petshop; do
	data=$set; [ "$set" = incidents ] && data=../incidents/dev
	printf '\n== %s: Tapio\n' "$set"
	score --run "$OUT/$set" "$data" -- "$TAPIO" replay --format json {} 2>"$OUT/$set.log"
	score "$data" "$OUT/$set"
	for baseline in zscore 'zscore --told' latest-change; do
		printf '\n== %s: %s\n' "$set" "$baseline"
		# shellcheck disable=SC2086
		if "$PYTHON/bin/python" baseline.py $baseline "$data" >"$OUT/$set.baseline" 2>"$OUT/$set.baseline.log"; then
			score "$data" "$OUT/$set.baseline"
		else
			echo "does not run on this set: $(tail -1 "$OUT/$set.baseline.log")"
		fi
	done
done
printf '\n== calibration\n'
"$PYTHON/bin/python" "$HERE/../tests/calibrate.py" "$SHARED" "$OUT"
