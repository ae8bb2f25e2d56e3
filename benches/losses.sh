#!/usr/bin/env bash
# What is lost of what was acknowledged, row by row: Tapio and a real Collector (built with Go), each span counted, the
# backend away for 30 s. About six minutes. Usage: benches/losses.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LOSSES_FOR=${LOSSES_FOR:-30} LOSSES_PEER=${LOSSES_PEER:-1} cargo test --workspace --locked --test hop -- losses | grep -E '^\||^test '
