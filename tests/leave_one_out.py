#!/usr/bin/env python3
"""What is told of a fault of which no pattern knows: each recording again, without the pattern that tells it.

    leave_one_out.py TAPIO RECORDINGS STORIES    (STORIES holds what TAPIO tells with all patterns, as <case>.jsonl)

The surest story must still blame the guilty object, as a guess: with a confidence of at most 0.6.
"""
import json
import os
import subprocess
import sys

GUESS = 0.6
AT_LEAST = 10       # patterns; fewer would show little


def surest(lines):
    stories = {}
    for number, line in enumerate(lines):
        story = json.loads(line)
        stories[story.get("id", number)] = story
    return max(stories.values(), key=lambda story: story["confidence"], default={})


def blamed(root):
    return tuple((root or {}).get(key) or "" for key in ("kind", "namespace", "name"))


def without(tapio, recording, pattern):
    command = [tapio, "replay", "--format", "json", "--without", pattern, recording]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        return {"title": run.stderr.strip(), "confidence": 1}
    return surest(run.stdout.splitlines())


def main(tapio, recordings, stories):
    tried, passed, failed = set(), 0, 0
    for case in sorted(os.listdir(recordings)):
        recording = os.path.join(recordings, case)
        try:
            with open(os.path.join(recording, "truth.json")) as file:
                guilty = json.load(file).get("root_cause")
        except FileNotFoundError:
            continue
        if not guilty:
            continue
        with open(os.path.join(stories, f"{case}.jsonl")) as lines:
            pattern = (surest(lines).get("root_cause") or {}).get("pattern")
        if not pattern:
            print(f"test leave one out {case} ... FAILED: no pattern tells it")
            failed += 1
            continue
        tried.add(pattern)
        story = without(tapio, recording, pattern)
        found, confidence = blamed(story.get("root_cause")), story.get("confidence", 0)
        right = found == blamed(guilty) and confidence <= GUESS
        told = f"{'/'.join(found)} {confidence:.2f} {(story.get('root_cause') or {}).get('pattern', '')}".rstrip()
        print(f"test leave one out {case} without {pattern} ... {'ok' if right else 'FAILED: ' + told + ': ' + str(story.get('title'))}")
        passed, failed = passed + right, failed + (not right)
    if len(tried) < AT_LEAST:
        print(f"test leave one out ... FAILED: {len(tried)} patterns tried, expected {AT_LEAST}")
        failed += 1
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed; 0 ignored")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
