#!/usr/bin/env python3
"""ascribe and its rivals side by side on one workload folder, alternately, each as a whole process.

    python benches/rivals/compare.py FOLDER --ascribe target/release/ascribe --work DIR --report report.md \\
        [--repeats 3] [--threads 2] [--precision highest medium] [--bergson highest] [--ascribe-arg=--dtype=bf16 ...]

FOLDER comes from workloads.py. Every repeat measures the matrix-product rate (calibrate.py), then runs each side
once, the order turned round in every other repeat. `--precision` and `--bergson` name the rivals: kronfluence and
Bergson at each of these settings. The report is a Markdown file: machine, versions, medians with [least, most], and
ratios rival/ascribe, where [least, most] are of the ratios within one repeat. All single figures go to DIR/runs.json,
and a run that is there already is kept: an interrupted comparison goes on with the next repeat.

Stages: ascribe's come from `stages` in the run folder's `run.json`, a rival's from its `_side.py`. kronfluence
computes query gradients inside its score stage, so ascribe's `queries` and `scores` are added up, and Bergson's too;
Bergson times its factors as one, so that they have a row of their own. `start and load` is what remains of the whole
process. Peak memory is that of the process: ascribe's from wait4, a rival's the greatest of its stages (it resets the
kernel's own mark).
"""

import machine
from minimal_work import minimal_work

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
FACTORS = ("covariance", "eigendecomposition", "lambda")
STAGES = (*FACTORS, "scores")


def run_process(command, stdout, stderr):
    """`(wall seconds, resource usage)` of a child; an error shows the end of what it said."""
    start = time.perf_counter()
    with open(stdout, "wb") as out, open(stderr, "wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode != 0:
        with open(stderr, errors="replace") as err:
            sys.exit(f"{' '.join(command)}\nended with {child.returncode}:\n{err.read()[-3000:]}")
    return seconds, usage


def run_ascribe(a, spec, work):
    out = os.path.join(work, "ascribe")
    shutil.rmtree(out, ignore_errors=True)
    path = lambda key: os.path.join(a.folder, spec[key])
    command = [a.ascribe, "influence", "--model", path("model"), "--train", path("train"), "--queries", path("queries"), "--out", out,
               "--threads", str(a.threads), "--progress", "json", *a.ascribe_arg]
    seconds, usage = run_process(command, os.path.join(work, "ascribe.out"), os.path.join(work, "ascribe.err"))
    peak = usage.ru_maxrss / 1024
    with open(os.path.join(out, "run.json")) as file:
        stages = {}
        for stage in json.load(file)["stages"]:
            name = "scores" if stage["stage"] == "queries" else stage["stage"]
            stages[name] = stages.get(name, 0.0) + stage["seconds"]
    stages["factors"] = sum(stages.get(name, 0.0) for name in FACTORS)
    return dict(total=seconds, peak_mib=peak, stages=stages)


def run_rival(a, program, precision, work):
    """Runs `PROGRAM_side.py`, which says a JSON line for each stage among whatever else its libraries print."""
    name = f"{program}-{precision}"
    command = [sys.executable, os.path.join(HERE, program + "_side.py"), a.folder, "--threads", str(a.threads), "--precision", precision,
               "--out", os.path.join(work, name)]
    log = os.path.join(work, name + ".out")
    seconds, _ = run_process(command, log, os.path.join(work, name + ".err"))
    with open(log) as file:
        lines = {line["stage"]: line for line in map(json.loads, (line for line in file if line.startswith('{"stage"')))}
    stages = {stage: line["seconds"] for stage, line in lines.items()}
    if program == "bergson":
        stages["scores"] = stages["queries"] + stages["inverse"] + stages["train scores"]
    else:
        stages["factors"] = sum(stages[stage] for stage in FACTORS)
    return dict(total=seconds, peak_mib=lines["total"]["peak_mib"], scores=lines["total"]["scores"], stages=stages)


def rivals(a):
    """`(name, program, precision)` of each rival that was asked for."""
    return ([(f"kronfluence {p}", "kronfluence", p) for p in a.precision]
            + [(f"Bergson {p}", "bergson", p) for p in a.bergson])


def calibrate(a):
    done = subprocess.run([sys.executable, os.path.join(HERE, "calibrate.py"), "--threads", str(a.threads), "--seconds", "0.2"],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def agreement(work, rival_scores):
    done = subprocess.run([sys.executable, os.path.join(HERE, "agreement.py"), os.path.join(work, "ascribe"), rival_scores],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


# ------------------------------------------------------------------ report


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def figures(side):
    """Rows of the table for one run."""
    stages = side["stages"]
    rest = side["total"] - stages["factors"] - stages["scores"]
    rows = {name: stages.get(name) for name in (*FACTORS, "factors", "scores")}
    rows["factors, together"] = rows.pop("factors")
    rows["queries and scores"] = rows.pop("scores")
    return {**rows, "start and load": rest, "whole job": side["total"], "peak MiB": side["peak_mib"]}


def report(a, spec, runs):
    names = ["ascribe"] + [name for name, _, _ in rivals(a)]
    table = {name: [figures(run[name]) for run in runs] for name in names}
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "kronfluence", "transformers", *(["bergson"] if a.bergson else [])))
    ascribe = subprocess.run([a.ascribe, "--version"], capture_output=True, text=True).stdout.strip()
    calibrations = [run["calibration"] for run in runs]
    name = ", ".join([spec["name"], *(["one thread"] if a.threads == 1 else []), *(f"`{flag}`" for flag in a.ascribe_arg)])
    lines = [
        f"# {name}: {spec['n_train']} training examples, {spec['n_queries']} queries", "",
        f"- {machine.cpu_model()}; {' '.join(machine.cpu_flags())}; {platform.system()} {platform.release()}",
        f"- {ascribe}{' with ' + ' '.join(a.ascribe_arg) if a.ascribe_arg else ''}; {versions}; Python {platform.python_version()}",
        f"- {a.threads} threads, {len(runs)} repeats, sides alternating; load average before each repeat: "
        + ", ".join(str(c["load_before"]) for c in calibrations),
        "- matrix products of torch, best of three shapes, GFLOP/s (error against f64): " + "; ".join(
            f"{mode} {spread([c[mode]['best'] for c in calibrations], 0)} ({calibrations[0][mode]['error']:.0e})" for mode in ("highest", "medium", "bf16")),
    ]
    for name in names[1:]:
        found = runs[-1].get("agreement", {}).get(name)
        lines.append(f"- agreement of scores with {name}: " + (
            f"Spearman {found['spearman']} (mean over queries; each side drew its own labels; sign as each side defines it)" if found else "not compared"))
    lines += ["", "Seconds, median [least, most]; ratios are the rival's / ascribe's.", "",
              "| | " + " | ".join(names + [f"ratio to {name}" for name in names[1:]]) + " |", "|---" * (2 * len(names)) + "|"]
    for row in table["ascribe"][0]:
        digits = 0 if row == "peak MiB" else 2
        columns = {name: [t[row] for t in table[name]] for name in names}
        cells = [spread(v, digits) if None not in v else "-" for v in columns.values()]
        for name in names[1:]:
            pairs = list(zip(columns[name], columns["ascribe"]))
            good = all(x is not None and y for x, y in pairs) and row != "start and load"
            if good:
                middle = statistics.median(columns[name]) / statistics.median(columns["ascribe"])
                ratios = [x / y for x, y in pairs]
                cells.append(f"{middle:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
            else:
                cells.append("-")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    best = max(statistics.median([c[mode]["best"] for c in calibrations]) for mode in ("highest", "medium"))
    lines += ["", f"ascribe's share of the best f32 product rate above ({best:.0f} GFLOP/s), counting the least arithmetic "
              "(minimal_work.py); eigendecompositions are in f64:", "",
              "| | TFLOP | GFLOP/s | share | positions/s |", "|---|---|---|---|---|"]
    for stage, (flop, positions) in minimal_work(a.folder, spec).items():
        seconds = statistics.median([run["ascribe"]["stages"].get(stage, float("nan")) for run in runs])
        rate = "-" if positions is None else f"{positions / seconds:,.0f}"
        lines.append(f"| {stage} | {flop / 1e12:.3f} | {flop / seconds / 1e9:.0f} | {flop / seconds / 1e9 / best:.0%} | {rate} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--ascribe", required=True, help="the binary")
    parser.add_argument("--ascribe-arg", action="append", default=[], help="a further argument for ascribe, e.g. --ascribe-arg=--dtype=bf16")
    parser.add_argument("--work", required=True, help="scratch folder outside the repository")
    parser.add_argument("--report", required=True, help="the Markdown file to write")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="*", choices=["highest", "medium", "bf16"], default=["highest", "medium"])
    parser.add_argument("--bergson", nargs="+", choices=["highest", "medium", "bf16"], default=[], help="language workloads only")
    a = parser.parse_args()
    with open(os.path.join(a.folder, "workload.json")) as file:
        spec = json.load(file)
    os.makedirs(a.work, exist_ok=True)
    log = os.path.join(a.work, "runs.json")
    setting = dict(workload=spec, threads=a.threads, precision=a.precision, bergson=a.bergson, ascribe=a.ascribe, ascribe_arg=a.ascribe_arg, cpu=machine.cpu_model())
    runs = []
    if os.path.exists(log):
        with open(log) as file:
            saved = json.load(file)
        if saved["setting"] != setting:
            sys.exit(f"{log} holds runs of another setting: name another --work or delete it")
        runs = saved["runs"]
    while len(runs) < a.repeats:
        run = dict(calibration=calibrate(a))
        sides = {"ascribe": lambda: run_ascribe(a, spec, a.work)}
        sides.update({name: lambda program=program, p=p: run_rival(a, program, p, a.work) for name, program, p in rivals(a)})
        order = list(sides) if len(runs) % 2 == 0 else list(sides)[::-1]
        for name in order:
            run[name] = sides[name]()
            print(f"repeat {len(runs) + 1}, {name}: {run[name]['total']:.1f} s, {run[name]['peak_mib']:.0f} MiB", file=sys.stderr, flush=True)
        run["agreement"] = {name: agreement(a.work, run[name]["scores"]) for name, _, _ in rivals(a)}
        runs.append(run)
        with open(log + ".new", "w") as file:
            json.dump(dict(setting=setting, runs=runs), file, indent=1)
        os.replace(log + ".new", log)
    with open(a.report, "w") as file:
        file.write(report(a, spec, runs[:a.repeats]))
    print(a.report)


if __name__ == "__main__":
    main()
