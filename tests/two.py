#!/usr/bin/env python3
"""Two incidents at once are two stories: one for each object to blame, and none besides.

    two.py STORIES 'KIND NAMESPACE/NAME'...     (tapio replay --format json MERGED > STORIES; see merge.py)
"""
import json
import sys


def root(story):
    cause = story["root_cause"]
    return f"{cause['kind']} {cause['namespace']}/{cause['name']}" if cause else "nobody"


def main(path, *expected):
    with open(path) as lines:
        told = sorted(root(json.loads(line)) for line in lines if line.strip())
    right = told == sorted(expected)
    print(f"test two incidents at once ... {'ok' if right else 'FAILED: told are ' + ', '.join(told)}")
    print(f"test result: {'ok. 1 passed; 0 failed' if right else 'FAILED. 0 passed; 1 failed'}; 0 ignored")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
