#!/usr/bin/env python3
"""Holds the scorer's verdict on the development recordings against what must come out right.

    incidents.py SCORE.json STORIES    (score.py DIR STORIES --json SCORE.json; STORIES holds <case>.jsonl)

A fault: the guilty object first, its type, the chain in its true order. A control: no story that speaks up.
"""
import json
import os
import sys

FAULTS = ["pool-oom-1", "bad-image-1", "crash-config-1", "readiness-broken-1"]
CONTROLS = ["none-1", "benign-rollout-1"]
SPEAKS_UP = 0.4     # the scorer's own bound


def fault(rows, case):
    row = rows.get(case)
    if not row or not row["stories"]:
        return "no story"
    wrong = {
        "object": row.get("object_rank") == 1,
        "type": row.get("type_exact") is True,
        "order": row.get("order") == 1.0,
    }
    return ", ".join(f"{name} is wrong" for name, right in wrong.items() if not right)


def control(stories, case):
    path = os.path.join(stories, f"{case}.jsonl")
    last = {}
    with open(path) as lines:
        for number, line in enumerate(lines):
            story = json.loads(line)
            last[story.get("id", number)] = story
    loud = [s for s in last.values() if float(s.get("confidence") or 0) >= SPEAKS_UP]
    return "; ".join(f"a story of {s['confidence']}: {s.get('title')}" for s in loud)


def main(score, stories):
    with open(score) as file:
        rows = {row["case"]: row for row in json.load(file)["cases"]}
    verdicts = {case: fault(rows, case) for case in FAULTS} | {case: control(stories, case) for case in CONTROLS}
    for case, why in verdicts.items():
        print(f"test incident {case} ... {'FAILED: ' + why if why else 'ok'}")
    failed = sum(1 for why in verdicts.values() if why)
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(verdicts) - failed} passed; {failed} failed; 0 ignored")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
