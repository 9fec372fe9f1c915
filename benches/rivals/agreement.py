#!/usr/bin/env python3
"""How far two sides' scores agree: Spearman over training examples, mean over queries.

    python benches/rivals/agreement.py RUN_FOLDER SCORES

SCORES is kronfluence's file of pairwise scores or Bergson's folder of scores. Looks in ascribe's run folder for a tensor
of the shape of their matrix; prints JSON, `null` if there is none. (A process of its own: a parent that has loaded
torch would show in the peak memory of its later children.)
"""

import json
import os
import statistics
import sys

import numpy as np
import torch
from safetensors import safe_open
from scipy.stats import spearmanr


def rival_scores(path):
    """`[queries, train]`."""
    if not os.path.isdir(path):
        with safe_open(path, "pt") as file:
            return file.get_tensor("all_modules").float()
    with open(os.path.join(path, "info.json")) as file:
        info = json.load(file)
    rows = np.memmap(os.path.join(path, "scores.bin"), dtype=np.dtype(info["dtype"]), mode="r", shape=(info["num_rows"],))
    return torch.tensor(np.stack([rows[f"score_{q}"].astype(np.float32) for q in range(info["num_scores"])]))


def main(folder, path):
    theirs = rival_scores(path)
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
