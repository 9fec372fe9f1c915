"""Command line: runs cases, prints those that do not agree, and counts."""

import argparse
import os
import pathlib
import re
import tempfile

# nothing is fetched
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets

from ..random_cases import BAD, Tally, in_folder, quiet, seeds
from ..random_models.draw import Draw
from . import __doc__ as about
from .reading import judge
from .training import Trained


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
    folder, draw = work / f"case-{seed}", Draw("data", seed)
    return in_folder(folder, options.keep, lambda: judge(options.binary, Trained(draw, folder), draw, options.careless))


def reason(words):
    """A message of refusal without what differs from case to case."""
    message = words.partition(" || ")[0]
    return re.sub(r"\d+", "N", re.sub(r"`[^`]*`|CASE\S*", "…", message))[:150]


def main():
    options = arguments()
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="random-data-"))
    quiet()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    tally = Tally(reason)
    for seed in options.seeds:
        verdict, words = run_case(seed, options, work)
        tally.add("data", verdict, words)
        if verdict in BAD or options.verbose:
            again = f"python3 -m benches.random_data --binary {options.binary} --work {work}"
            again += " --careless" if options.careless else ""
            print(f"{seed} {verdict}: {words}\n    {again} --seeds {seed}", flush=True)
    tally.finish()


if __name__ == "__main__":
    main()
