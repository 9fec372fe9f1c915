#!/usr/bin/env python3
"""The best matrix-product rates torch reaches here, to print beside every timing.

    python benches/rivals/calibrate.py [--threads 2] [--seconds 0.5]

GFLOP/s (a multiply-add counts as 2) of f32 at both precision settings and of bf16, and the error of each against f64:
`medium` is exact f32 on some processors and bf16 on others, and the error tells which. One JSON line.
"""

import machine

import argparse
import json
import statistics
import time

import torch

SHAPES = {"forward": (16384, 256, 1024), "covariance": (768, 8192, 768), "square": (2048, 2048, 2048)}  # m, k, n
MODES = {"highest": torch.float32, "medium": torch.float32, "bf16": torch.bfloat16}


def rate(m, k, n, dtype, seconds):
    """Median GFLOP/s of repeated products within the given time, after one to warm up."""
    a, b, out = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.empty(m, n, dtype=dtype)
    torch.mm(a, b, out=out)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - start)
    return 2e-9 * m * k * n / statistics.median(times)


def error(dtype):
    a, b = torch.randn(512, 1024), torch.randn(1024, 512)
    exact = a.double() @ b.double()
    return ((a.to(dtype) @ b.to(dtype)).double() - exact).norm().item() / exact.norm().item()


def measure(threads, seconds):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    result = dict(load_before=machine.load_average(), threads=threads)
    for mode, dtype in MODES.items():
        torch.set_float32_matmul_precision("highest" if mode == "bf16" else mode)
        rates = {name: round(rate(*shape, dtype, seconds), 1) for name, shape in SHAPES.items()}
        result[mode] = dict(rates, best=max(rates.values()), error=float(f"{error(dtype):.1e}"))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each shape and mode")
    arguments = parser.parse_args()
    print(json.dumps(dict(cpu=machine.cpu_model(), flags=machine.cpu_flags(), torch=torch.__version__,
                          **measure(arguments.threads, arguments.seconds))))
