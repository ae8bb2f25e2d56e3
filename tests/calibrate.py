#!/usr/bin/env python3
"""How sure the stories may be: fits what they say to what turned out to be true.

    calibrate.py SHARED STORIES [--write]     (STORIES holds what Tapio told, as <set>/<case>.jsonl,
                                               with the weights as they stand now)

A story's confidence is put together from its evidence. What it is worth is seen where the truth is known: for each
family of patterns in processor/weights.yaml its distance from 0.7, on the scale of logits, is stretched by a factor
fitted by penalised likelihood: with little to learn from it stays 1, as it does where it does not help with services
that it was not fitted to; and what is a hypothesis stays one. What names no pattern is told as it is, and fits
nothing. Prints Brier score and reliability as told and by cross-validation over services: what is said of a service
was learnt from the others only. `--write` puts the factors fitted to all into the weights.
"""
import argparse
import math
import os
import re
import sys
import zlib

WEIGHTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "processor", "weights.yaml")
FOLDS = 5
PENALTY = 10.0      # of a factor's distance from 1, squared
TURN = 0.7          # what is told as a story, not as a hypothesis
LEAST, MOST = 0.02, 0.97
ENTRY = re.compile(r"^[A-Z]\d+_")       # of the failure catalogue
FACTOR = re.compile(r"( *- family: (\w+)\n *patterns: \[([^\]]*)\]\n *stretch: )([\d.]+)")


def logit(p):
    p = min(max(p, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))


def sigma(x):
    return 1 / (1 + math.exp(-x))


def said(stretch, confidence):
    told = sigma(logit(TURN) + stretch * (logit(confidence) - logit(TURN)))
    return min(max(told, LEAST), MOST)


def raw(stretch, confidence):
    return sigma(logit(TURN) + (logit(confidence) - logit(TURN)) / stretch)


def fit(pairs):
    """The likeliest factor for (confidence, right), by Newton's method."""
    stretch = 1.0
    for _ in range(50):
        slope, bend = PENALTY * (stretch - 1), PENALTY
        for confidence, right in pairs:
            x = logit(confidence) - logit(TURN)
            p = sigma(logit(TURN) + stretch * x)
            slope, bend = slope + (p - right) * x, bend + p * (1 - p) * x * x
        step = slope / bend
        stretch = min(max(stretch - step, 0.2), 3.0)
        if abs(step) < 1e-9:
            break
    return stretch


def gather(shared, told):
    """(set, story, right, service) of each fault of which something was said, and of each false story."""
    sys.path.insert(0, os.path.join(shared, "rca"))
    import score as sc
    aliases, rows = sc.Aliases(), []
    for name, root in (("incidents", "incidents/dev"), ("nezha", "rca/nezha"), ("petshop", "rca/petshop")):
        cases = sc.load_cases(os.path.join(shared, root))
        given = sc.stories_of(os.path.join(told, name), cases)
        for case, _, truths, recording in cases:
            stories, used, control = given.get(case, []), set(), truths[0].get("control")
            for truth in truths if not control else []:
                low, high = sc.window(truth, recording)
                mine = []
                for at, story in enumerate(stories):
                    opened = sc.parse_time(story.get("opened"))
                    if at not in used and opened is not None and low <= opened <= high:
                        mine.append(story)
                        used.add(at)
                mine.sort(key=lambda s: (-s["confidence"], sc.parse_time(s["opened"])))
                if mine:
                    row = sc.score_truth(truth, mine, recording, aliases)
                    rows.append((name, mine[0], float(row["correct"]), (truth.get("root_cause") or {}).get("service", "")))
            for at, story in enumerate(stories):
                if at not in used and not (control and story["confidence"] < sc.SPEAKS_UP):
                    rows.append((name, story, 0.0, (story.get("root_cause") or {}).get("service", "")))
    return rows


def brier(rows):
    return sum((confidence - right) ** 2 for *_, confidence, right in rows) / max(len(rows), 1)


def reliability(title, pairs):
    print(f"\n{title}: n {len(pairs)}, Brier {brier(pairs):.3f}")
    print("| said | n | on average | came true |\n|---|---|---|---|")
    edges = [0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.01]
    for low, high in zip(edges, edges[1:]):
        part = [(c, r) for c, r in pairs if low <= c < high]
        if part:
            on_average, came = (sum(x[i] for x in part) / len(part) for i in (0, 1))
            print(f"| {low:.1f}-{min(high, 1.0):.1f} | {len(part)} | {on_average:.2f} | {came:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared")
    parser.add_argument("stories")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with open(WEIGHTS) as file:
        weights = file.read()
    families = {m[2]: (set(m[3].replace(",", " ").split()), float(m[4])) for m in FACTOR.finditer(weights)}
    other = next(name for name, (patterns, _) in families.items() if not patterns)
    told, learnt, by_family = [], [], {}
    for name, story, right, service in gather(args.shared, args.stories):
        pattern = ENTRY.sub("", (story.get("root_cause") or {}).get("pattern") or "")
        family = next((f for f, (patterns, _) in families.items() if pattern in patterns), other)
        told.append((name, story["confidence"], right))
        if not pattern:
            learnt.append(told[-1])
            continue
        plain = raw(families[family][1], story["confidence"])
        by_family.setdefault(family, []).append((plain, right, zlib.crc32(service.encode()) % FOLDS, name))
    fitted = {}
    for family, rows in by_family.items():
        plain, held_out = ([(n, c, r) for c, r, _, n in rows], [])
        for fold in range(FOLDS):
            stretch = fit([(c, r) for c, r, f, _ in rows if f != fold])
            held_out += [(name, said(stretch, c), r) for c, r, f, name in rows if f == fold]
        helps = brier(held_out) < brier(plain)
        learnt += held_out if helps else plain
        fitted[family] = fit([(c, r) for c, r, _, _ in rows]) if helps else 1.0
    for name in ["all"] + sorted({name for name, _, _ in told}):
        reliability(f"{name}, as told", [(c, r) for n, c, r in told if name in ("all", n)])
        reliability(f"{name}, learnt from other services", [(c, r) for n, c, r in learnt if name in ("all", n)])
    print()
    for family, stretch in sorted(fitted.items()):
        shown = ", ".join(f"{c} -> {said(stretch, c):.2f}" for c in (0.5, 0.65, 0.75, 0.85, 0.9))
        print(f"{family}: stretch {stretch:.2f} from {len(by_family[family])} stories, was {families[family][1]:.2f}; {shown}")
    if args.write:
        with open(WEIGHTS, "w") as file:
            file.write(FACTOR.sub(lambda m: f"{m[1]}{fitted.get(m[2], float(m[4])):.2f}", weights))


if __name__ == "__main__":
    main()
