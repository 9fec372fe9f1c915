"""What the rivals' sides share: their arguments, torch's settings, and a clock and a memory mark around each stage."""

import machine  # before torch, so that the clock is the process's own

import argparse
import json
import os
import shutil
import time

import torch


def begin(doc, program, options=()):
    """`(arguments, workload, folder)`: torch set as the arguments say, the folder for what PROGRAM writes not there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["highest", "medium", "bf16"], default="highest")
    parser.add_argument("--out", help=f"where {program} writes (default: in FOLDER); replaced if there")
    for option in options:
        parser.add_argument(option, type=int)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest" if a.precision == "bf16" else a.precision)
    with open(os.path.join(a.folder, "workload.json")) as file:
        spec = json.load(file)
    out = a.out or os.path.join(a.folder, program)
    shutil.rmtree(out, ignore_errors=True)
    return a, spec, out


class Stages:
    """Prints a JSON line for the time until now, for each stage, and for the whole."""

    def __init__(self, **about):
        self.peaks = [machine.peak_mib()]
        self._say("load", machine.seconds_since_start(), self.peaks[0], **about)

    def run(self, name, step):
        machine.reset_peak()
        start = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - start
        self.peaks.append(machine.peak_mib())
        self._say(name, seconds, self.peaks[-1])
        return result

    def finish(self, scores):
        self._say("total", machine.seconds_since_start(), max(self.peaks), scores=str(scores))

    @staticmethod
    def _say(stage, seconds, peak, **more):
        print(json.dumps(dict(stage=stage, seconds=round(seconds, 3), peak_mib=round(peak), **more)), flush=True)
