#!/usr/bin/env python3
"""Makes one recording of two: what happened in two clusters, or twice in one, at the same time.

    merge.py OUT FIRST SECOND [--apart SECONDS] [--rename OLD=NEW]...

The second begins SECONDS after the first, whenever it was recorded: every time in it is shifted. Its ids of
traces, spans, objects and containers become others, so that a recording can be merged with itself, and names
that are not to collide are renamed, as whole words: --rename shop=mall --rename rig-node=rig-node-2
Both end where the one that is shorter ends.
"""
import argparse
import datetime
import os
import re
import subprocess
import sys

NANOS = re.compile(rb'(UnixNano":\s*"?)(\d{16,19})')
CLOCK = re.compile(rb'\b(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)((?:\.\d+)?Z)')
IDS = re.compile(rb'(?<![0-9a-zA-Z.])(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{8}(?=(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))(?![0-9a-zA-Z])')
OTHER = bytes.maketrans(b"0123456789abcdef", b"fedcba9876543210")
UTC = datetime.timezone.utc


def files(folder):
    names = sorted(n for n in os.listdir(folder) if n.endswith((".jsonl", ".jsonl.zst")))
    if not names:
        sys.exit(f"{folder}: no *.jsonl or *.jsonl.zst in it")
    return names


def read(path):
    if not path.endswith(".zst"):
        with open(path, "rb") as file:
            return file.read()
    return subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout


def ends(folder):
    """The first and the last time of a span: when the recording began and ended, in ns."""
    spans = [read(os.path.join(folder, n)) for n in files(folder) if n.startswith("traces")]
    times = [int(at) for text in spans for _, at in NANOS.findall(text)]
    if not times:
        sys.exit(f"{folder}: no spans in it, so it is not known when it began")
    return min(times), max(times)


def begun(line):
    return min((int(at) for _, at in NANOS.findall(line)), default=0)


def moved(text, nanos, names):
    seconds = datetime.timedelta(seconds=nanos // 10**9)

    def clock(match):
        at = datetime.datetime.strptime(match[1].decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return (at + seconds).strftime("%Y-%m-%dT%H:%M:%S").encode() + match[2]

    text = NANOS.sub(lambda m: m[1] + str(int(m[2]) + nanos).encode(), text)
    text = CLOCK.sub(clock, text)
    text = IDS.sub(lambda m: m[0][:1].translate(OTHER) + m[0][1:], text)
    for old, new in names:
        text = re.sub(rb"(?<![\w-])" + re.escape(old) + rb"(?![\w-])", new, text)
    return text


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("out")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--apart", type=int, default=30)
    parser.add_argument("--rename", action="append", default=[])
    args = parser.parse_args()
    names = [tuple(part.encode() for part in pair.split("=", 1)) for pair in args.rename]
    (first, first_end), (second, second_end) = ends(args.first), ends(args.second)
    # Whole seconds: objects have clocks without fractions.
    nanos = ((first - second) // 10**9 + args.apart) * 10**9
    end = min(first_end, second_end + nanos)
    os.makedirs(args.out, exist_ok=True)
    for part, folder in [("first", args.first), ("second", args.second)]:
        for name in files(folder):
            text = read(os.path.join(folder, name))
            text = moved(text, nanos, names) if part == "second" else text
            with open(os.path.join(args.out, f"{part}-{name.removesuffix('.zst')}"), "wb") as file:
                file.writelines(line for line in text.splitlines(True) if begun(line) <= end)


if __name__ == "__main__":
    main()
