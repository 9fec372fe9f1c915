#!/usr/bin/env python3
"""How near `ascribe plan` comes to what then happens, on one workload folder of rivals/workloads.py.

    python benches/plan_accuracy.py FOLDER --ascribe target/release/ascribe --work DIR \\
        [--repeats 3] [--threads 2] [--bound 1.5] [--ascribe-arg=--query-rank=16 ...]

Every repeat asks for the plan and then runs the job, each as a whole process with the same flags. The table has
predicted and actual seconds of each stage (the stage's clock in `run.json`) and of the whole process, peak memory, and
the size of the run folder, as medians, and predicted / actual with its least and greatest over the repeats. Exit status
1 if the whole process is not within the bound in every repeat. Worthless while anything else runs: the load average is
printed for that reason.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time


def flags(a, spec):
    path = lambda key: os.path.join(a.folder, spec[key])
    return ["--model", path("model"), "--train", path("train"), "--queries", path("queries"), "--out", os.path.join(a.work, "run"),
            "--threads", str(a.threads), *a.ascribe_arg]


def plan(a, spec):
    done = subprocess.run([a.ascribe, "plan", *flags(a, spec), "--format", "json"], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    stages = {}
    for stage, seconds in zip(found["cost"]["stages"], found["seconds"]["stages"]):
        stages[stage["stage"]] = stages.get(stage["stage"], 0.0) + seconds
    return {**{f"{name}, s": seconds for name, seconds in stages.items()}, "whole process, s": found["total_seconds"],
            "peak memory, MiB": found["cost"]["memory"] / 2**20, "run folder, MiB": found["cost"]["disk"]["left"] / 2**20}, found["calibration"]["seconds"]


def run(a, spec):
    out = os.path.join(a.work, "run")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    child = subprocess.Popen([a.ascribe, "influence", *flags(a, spec), "--progress", "never", "--quiet"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"the job ended with {child.returncode}")
    with open(os.path.join(out, "run.json")) as file:
        stages = {}
        for stage in json.load(file)["stages"]:
            stages[stage["stage"]] = stages.get(stage["stage"], 0.0) + stage["seconds"]
    size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(out) for name in names)
    return {**{f"{name}, s": seconds for name, seconds in stages.items()}, "whole process, s": seconds,
            "peak memory, MiB": usage.ru_maxrss / 1024, "run folder, MiB": size / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--ascribe", required=True, help="the binary")
    parser.add_argument("--ascribe-arg", action="append", default=[], help="a further argument for both, e.g. --ascribe-arg=--query-rank=16")
    parser.add_argument("--work", required=True, help="scratch folder outside the repository")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bound", type=float, default=1.5, help="factor that the whole process must be within")
    a = parser.parse_args()
    with open(os.path.join(a.folder, "workload.json")) as file:
        spec = json.load(file)
    os.makedirs(a.work, exist_ok=True)
    planned, actual, calibrations, loads = [], [], [], []
    for _ in range(a.repeats):
        loads.append(os.getloadavg()[0])
        found, seconds = plan(a, spec)
        planned.append(found)
        calibrations.append(seconds)
        actual.append(run(a, spec))
    shutil.rmtree(os.path.join(a.work, "run"), ignore_errors=True)
    load = ", ".join(f"{load:.2f}" for load in loads)
    print(f"{spec['name']}, {a.threads} threads, {a.repeats} repeats; load average before each: {load}; "
          f"calibrated in {statistics.median(calibrations):.1f} s\n")
    print("| | planned | actual | planned / actual |\n|---|---|---|---|")
    worst = 1.0
    for row in actual[0]:
        ratios = [p.get(row, 0.0) / x[row] if x[row] else float("nan") for p, x in zip(planned, actual)]
        middle = statistics.median
        print(f"| {row} | {middle([p.get(row, 0.0) for p in planned]):.2f} | {middle([x[row] for x in actual]):.2f} | "
              f"{middle(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] |")
        if row == "whole process, s":
            worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    sys.exit(0 if worst <= a.bound else 1)


if __name__ == "__main__":
    main()
