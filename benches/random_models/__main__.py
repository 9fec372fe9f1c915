"""Command line: runs cases, prints those that do not agree, and counts."""

import argparse
import collections
import json
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
import warnings

import torch
import transformers

from . import __doc__ as about
from . import adapters, decoders, encoder_decoders, encoders, images, page
from .case import NotBuilt
from .compare import judge
from .draw import Draw

FAMILIES = {
    **decoders.FAMILIES, **encoders.FAMILIES, **encoder_decoders.FAMILIES, **images.FAMILIES, **adapters.FAMILIES
}


def seeds(text):
    """`7` is one seed, `0..10` are ten."""
    first, dots, end = text.partition("..")
    return range(int(first), int(end) if dots else int(first) + 1)


def arguments():
    parser = argparse.ArgumentParser(
        prog="python3 -m benches.random_models", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/release/ascribe", help="the command, optimised")
    parser.add_argument("--family", default="all", help="names with commas, or `all`")
    parser.add_argument("--seeds", type=seeds, default=range(10), help="one, or FIRST..END without END")
    parser.add_argument("--work", type=pathlib.Path, help="where folders of cases go [default: a temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all cases")
    parser.add_argument("--counts", type=pathlib.Path, help="write the counts into this file, as JSON")
    parser.add_argument("--page", type=pathlib.Path, help="run nothing: write the counts of --of into this page")
    parser.add_argument("--of", type=pathlib.Path, action="append", default=[], help="a file that --counts wrote; several")
    parser.add_argument("--list", action="store_true", help="print the families")
    return parser.parse_args()


def run_case(family, seed, options, work):
    """`(verdict, words)` of one case; its folder stays if the verdict is WRONG or nothing could be said."""
    folder = work / f"{family}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        case = FAMILIES[family](family.removesuffix("-classifier"), Draw(family, seed), folder)
        verdict, words = judge(options.binary, case)
    except NotBuilt as error:
        verdict, words = "not built", str(error).replace("\n", " ")
    except Exception:
        verdict, words = "failed", traceback.format_exc()
    if verdict not in ("WRONG", "failed") and not options.keep:
        shutil.rmtree(folder)
    return verdict, words.replace(f"{folder}", "CASE")


def reason(words):
    """A message of refusal without what differs from case to case."""
    return re.sub(r"^error: CASE\S*: ", "", words).partition(" | ")[0][:200]


def main():
    options = arguments()
    if options.list:
        print("\n".join(FAMILIES))
        return 0
    if options.page:
        page.write(options.page, options.of, decoders.CONFIGURATIONS)
        return 0
    names = list(FAMILIES) if options.family == "all" else options.family.split(",")
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="random-models-"))
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    counts, reasons = {}, collections.Counter()
    for family in names:
        tally = counts[family] = collections.Counter()
        for seed in options.seeds:
            verdict, words = run_case(family, seed, options, work)
            tally[verdict] += 1
            if verdict in ("refused", "not built"):
                reasons[f"{verdict}: {reason(words)}"] += 1
            if verdict in ("WRONG", "failed"):
                again = f"python3 -m benches.random_models --binary {options.binary} --work {work}"
                print(f"{family} {seed} {verdict}: {words}\n    {again} --family {family} --seeds {seed}", flush=True)
        print(f"{family}: {', '.join(f'{count} {verdict}' for verdict, count in sorted(tally.items()))}", flush=True)
    total = sum(counts.values(), collections.Counter())
    print(f"all: {', '.join(f'{count} {verdict}' for verdict, count in sorted(total.items()))}")
    for words, count in reasons.most_common():
        print(f"{count} times {words}")
    if options.counts:
        options.counts.write_text(json.dumps({"families": counts, "reasons": reasons}, indent=1) + "\n")
    return 1 if total["WRONG"] or total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
