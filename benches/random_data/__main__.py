"""Command line: runs cases, prints those that do not agree, and counts."""

import argparse
import collections
import os
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
import warnings

# nothing is fetched
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import transformers

from ..random_models.__main__ import seeds
from ..random_models.draw import Draw
from . import __doc__ as about
from . import training
from .reading import judge


def arguments():
    parser = argparse.ArgumentParser(
        prog="python3 -m benches.random_data", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/release/ascribe", help="the command, optimised")
    parser.add_argument("--seeds", type=seeds, default=range(30), help="one, or FIRST..END without END")
    parser.add_argument("--careless", action="store_true", help="leave out flags by chance")
    parser.add_argument("--work", type=pathlib.Path, help="where folders of cases go [default: a temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all cases")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    return parser.parse_args()


def run_case(seed, options, work):
    """`(verdict, words)` of one case."""
    folder = training.folder_of(work, seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = Draw("data", seed)
    try:
        verdict, words = judge(options.binary, training.Trained(draw, folder), draw, options.careless)
    except training.NotBuilt as error:
        verdict, words = "not built", str(error).replace("\n", " ")
    except Exception:
        verdict, words = "failed", traceback.format_exc()
    if verdict not in ("WRONG", "failed") and not options.keep:
        shutil.rmtree(folder)
    return verdict, words.replace(f"{folder}", "CASE")


def reason(words):
    """A message of refusal without what differs from case to case."""
    message = words.partition(" || ")[0]
    return re.sub(r"\d+", "N", re.sub(r"`[^`]*`|CASE\S*", "…", message))[:150]


def main():
    options = arguments()
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="random-data-"))
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    torch.set_num_threads(1)
    tally, reasons = collections.Counter(), collections.Counter()
    for seed in options.seeds:
        verdict, words = run_case(seed, options, work)
        tally[verdict] += 1
        if verdict in ("refused", "not built"):
            reasons[f"{verdict}: {reason(words)}"] += 1
        if verdict in ("WRONG", "failed") or options.verbose:
            again = f"python3 -m benches.random_data --binary {options.binary} --work {work}"
            again += " --careless" if options.careless else ""
            print(f"{seed} {verdict}: {words}\n    {again} --seeds {seed}", flush=True)
    print(f"all: {', '.join(f'{count} {verdict}' for verdict, count in sorted(tally.items()))}")
    for words, count in reasons.most_common():
        print(f"{count} times {words}")
    return 1 if tally["WRONG"] or tally["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
