#!/usr/bin/env python3
"""Eigendecompositions of a run folder's own covariances: torch's (MKL) beside those that ascribe did.

    ascribe fit --curvature kfac --threads 2 ... --out RUN
    python benches/rivals/eigh.py RUN [THREADS]

torch decomposes them one after the other in f64 with its default driver on as many threads as the run had; ascribe's
seconds are the stage's in RUN/run.json, with reading covariances and writing eigenvectors. Prints both by size and the
ratio.
"""
import glob
import json
import os
import sys
import time

import torch
from safetensors import safe_open


def main():
    run = sys.argv[1]
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    by_size = {}
    for file in glob.glob(os.path.join(run, "artifacts", "covariance-*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                triangle = tensors.get_tensor(name)
                n = int((2 * triangle.numel()) ** 0.5)
                matrix = torch.zeros(n, n, dtype=torch.float64)
                row, column = torch.tril_indices(n, n)
                matrix[row, column] = triangle
                matrix[column, row] = triangle
                start = time.perf_counter()
                torch.linalg.eigh(matrix)
                count, seconds = by_size.get(n, (0, 0.0))
                by_size[n] = count + 1, seconds + time.perf_counter() - start
    for n, (count, seconds) in sorted(by_size.items()):
        print(f"torch: {count} of {n}: {seconds:.2f} s")
    theirs = sum(seconds for _, seconds in by_size.values())
    stages = json.load(open(os.path.join(run, "run.json")))["stages"]
    ours = sum(stage["seconds"] for stage in stages if stage["stage"] == "eigendecomposition")
    print(f"torch {theirs:.2f} s, ascribe {ours:.2f} s: {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
