#!/usr/bin/env bash
# For each recording of a fault: what is told of it, and what without the pattern that tells it.
#
#     leave_one_out.sh TAPIO FOLDER...      (folders with one recording each)
#
# Without its pattern the object must stay right, and the confidence at most 0.6.
set -euo pipefail
tapio=$1
shift
best() { # of the stories, the surest
    "$tapio" replay --format json "${@:2}" "$1" 2>/dev/null | python3 -c '
import json, sys
stories = [json.loads(line) for line in sys.stdin]
story = max(stories, key=lambda s: s["confidence"], default={})
root = story.get("root_cause") or {}
print(root.get("pattern") or "-", "/".join(root.get(k) or "" for k in ("kind", "namespace", "name")) or "-", round(story.get("confidence", 0), 2))'
}
right=0 all=0
for recording in "$@"; do
    read -r pattern object confidence < <(best "$recording")
    [ "$pattern" = - ] && continue
    read -r other found guess < <(best "$recording" --without "$pattern")
    verdict=$(python3 -c "import sys; print('ok' if sys.argv[1] == sys.argv[2] and float(sys.argv[3]) <= 0.6 else 'WRONG')" "$object" "$found" "$guess")
    all=$((all + 1))
    [ "$verdict" = ok ] && right=$((right + 1))
    printf '%-5s %-22s %-30s %s %s  without it: %s %s %s\n' "$verdict" "$(basename "$recording")" "$pattern" "$object" "$confidence" "$found" "$guess" "$other"
done
echo "$right of $all right without their pattern"
