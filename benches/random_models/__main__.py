"""Command line: runs cases, prints those that do not agree, and counts."""

import argparse
import json
import pathlib
import re
import sys
import tempfile

from ..random_cases import BAD, Tally, in_folder, quiet, seeds
from . import __doc__ as about
from . import adapters, decoders, encoder_decoders, encoders, images, page
from .compare import judge
from .draw import Draw

FAMILIES = {
    **decoders.FAMILIES, **encoders.FAMILIES, **encoder_decoders.FAMILIES, **images.FAMILIES, **adapters.FAMILIES
}


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
    """`(verdict, words)` of one case."""
    folder = work / f"{family}-{seed}"

    def found():
        return judge(options.binary, FAMILIES[family](family.removesuffix("-classifier"), Draw(family, seed), folder))

    return in_folder(folder, options.keep, found)


def reason(words):
    """A message of refusal without what differs from case to case."""
    return re.sub(r"^error: CASE\S*: ", "", words).partition(" | ")[0][:200]


def main():
    options = arguments()
    if options.list:
        print("\n".join(FAMILIES))
        return
    if options.page:
        page.write(options.page, options.of, decoders.CONFIGURATIONS)
        return
    names = list(FAMILIES) if options.family == "all" else options.family.split(",")
    for name in names:
        if name not in FAMILIES:
            sys.exit(f"--family {name}: there is no such family; --list prints them")
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="random-models-"))
    quiet()
    tally = Tally(reason)
    for family in names:
        for seed in options.seeds:
            verdict, words = run_case(family, seed, options, work)
            tally.add(family, verdict, words)
            if verdict in BAD:
                again = f"python3 -m benches.random_models --binary {options.binary} --work {work}"
                print(f"{family} {seed} {verdict}: {words}\n    {again} --family {family} --seeds {seed}", flush=True)
        print(tally.line(family), flush=True)
    if options.counts:
        options.counts.write_text(json.dumps({"families": tally.groups, "reasons": tally.reasons}, indent=1) + "\n")
    tally.finish()


if __name__ == "__main__":
    main()
