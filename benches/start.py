#!/usr/bin/env python3
"""How long `ascribe` takes until it answers `--help`, until it begins the first batch, and until that batch is done.

    python benches/start.py target/release/ascribe [REPEATS] [MODEL TRAIN QUERIES]

Without a model it is the tiny GPT-2 of the fixtures. The times of events are taken where they arrive, from
`--progress json`. Prints the median of all repeats and [least, most], in milliseconds.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "gpt2-tiny")


def help_answered(ascribe):
    start = time.perf_counter()
    subprocess.run([ascribe, "--help"], capture_output=True, check=True)
    return {"--help": time.perf_counter() - start}


def job(ascribe, model, train, queries):
    """Seconds from the start of the process to its plan, first pass, first finished batch, and end."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        command = [ascribe, "influence", "--model", model, "--train", train, "--queries", queries,
                   "--out", os.path.join(scratch, "run"), "--progress", "json"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            now = time.perf_counter() - start
            event = json.loads(line).get("event")
            name = {"plan": "plan", "started": "first pass begins", "advanced": "first batch is done"}.get(event)
            found.setdefault(name, now)
        if process.wait() != 0:
            sys.exit("ascribe failed")
        found["results on disk"] = time.perf_counter() - start
    return found


def main():
    ascribe, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    files = sys.argv[3:6] or [FIXTURE, *(os.path.join(FIXTURE, name) for name in ("documents.jsonl", "queries.jsonl"))]
    rows = {}
    for _ in range(repeats):
        for name, seconds in {**help_answered(ascribe), **job(ascribe, *files)}.items():
            rows.setdefault(name, []).append(1e3 * seconds)
    for name in ("--help", "plan", "first pass begins", "first batch is done", "results on disk"):
        milliseconds = rows.get(name)
        if milliseconds:
            print(f"{name}: {statistics.median(milliseconds):.0f} [{min(milliseconds):.0f}, {max(milliseconds):.0f}]")


if __name__ == "__main__":
    main()
