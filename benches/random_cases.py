"""What the packages of random cases share: their seeds, the life of a case's folder, and how verdicts are counted."""

import collections
import shutil
import sys
import traceback
import warnings

import torch
import transformers

# verdicts that make the exit status 1, and whose folders are kept
BAD = ("WRONG", "failed")


class NotBuilt(Exception):
    """The tool that a case is built with refused what was drawn."""


def seeds(text):
    """`7` is one seed, `0..10` are ten."""
    first, dots, end = text.partition("..")
    return range(int(first), int(end) if dots else int(first) + 1)


def quiet():
    """Lets the tools that cases are built with say nothing, on one thread."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)


def in_folder(folder, keep, judge):
    """`(verdict, words)` of what `judge()` finds in an empty folder, which stays if the verdict is bad or `keep` is set."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        verdict, words = judge()
    except NotBuilt as error:
        verdict, words = "not built", str(error).replace("\n", " ")
    except Exception:
        verdict, words = "failed", traceback.format_exc()
    if verdict not in BAD and not keep:
        shutil.rmtree(folder)
    return verdict, words.replace(f"{folder}", "CASE")


class Tally:
    """Verdicts, by group, and why cases were refused or not built."""

    def __init__(self, reason):
        """`reason` makes of the words of a refusal what does not differ from case to case."""
        self.reason = reason
        self.groups, self.reasons = {}, collections.Counter()

    def add(self, group, verdict, words):
        self.groups.setdefault(group, collections.Counter())[verdict] += 1
        if verdict in ("refused", "not built"):
            self.reasons[f"{verdict}: {self.reason(words)}"] += 1

    def line(self, group):
        """The counts of a group in one line."""
        return f"{group}: {_words(self.groups[group])}"

    def finish(self):
        """Prints the counts of all groups together and the reasons, and ends the program."""
        total = sum(self.groups.values(), collections.Counter())
        print(f"all: {_words(total)}")
        for words, count in self.reasons.most_common():
            print(f"{count} times {words}")
        sys.exit(1 if any(total[verdict] for verdict in BAD) else 0)


def _words(counts):
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
