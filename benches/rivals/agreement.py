#!/usr/bin/env python3
"""How far two sides' scores agree: Spearman over training examples, mean over queries.

    python benches/rivals/agreement.py RUN_FOLDER PAIRWISE_SCORES.safetensors

Looks in ascribe's run folder for a tensor of the shape of kronfluence's score matrix; prints JSON, `null` if there is
none. (A process of its own: a parent that has loaded torch would show in the peak memory of its later children.)
"""

import json
import os
import statistics
import sys

from safetensors import safe_open
from scipy.stats import spearmanr


def main(folder, kronfluence_scores):
    with safe_open(kronfluence_scores, "pt") as file:
        theirs = file.get_tensor("all_modules").float()
    for base, _, files in sorted(os.walk(folder)):
        for name in sorted(f for f in files if f.endswith(".safetensors")):
            with safe_open(os.path.join(base, name), "pt") as file:
                for key in file.keys():
                    if tuple(file.get_slice(key).get_shape()) == tuple(theirs.shape):
                        rho = [spearmanr(x, y).statistic for x, y in zip(file.get_tensor(key).float(), theirs)]
                        return dict(tensor=f"{name}: {key}", spearman=round(statistics.mean(rho), 4))
    return None


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
