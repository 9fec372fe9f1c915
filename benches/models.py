#!/usr/bin/env python3
"""Writes docs/models.md: how far each model is from what PyTorch, transformers, PEFT and kronfluence computed of it.

The numbers are measured by the tests, which print one line `measured {...}` a model (tests/support/agreement.rs). This
script runs them, keeps the largest number of each model and figure, and writes the table:

    python3 benches/models.py                          # cargo test, then docs/models.md
    python3 benches/models.py --log lines.txt          # lines of a run that was made before, and no other run
    python3 benches/models.py --log lines.txt --keep   # of some tests: tables of the other sets stay as they are
    python3 benches/models.py --check                  # writes nothing; fails if a model in the table is gone

Rows of `zoo` exist where the folder ../shared/data/zoo does; without it the table has the rows of fixtures/ alone.

`--speed --binary target/release/ascribe --models DIR` measures instead, for each checkpoint folder in DIR with a
`train.jsonl`, tokens per second of `ascribe fit` beside those of PyTorch's forward and backward of the same model, and the
largest memory of both processes. It needs torch, transformers and an optimised binary, and prints a table; figures of an
unoptimised one mean nothing.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
TESTS = ["families", "classifiers", "adapters", "images", "zoo"]
FIGURES = ["logits", "loss", "gradient", "slope", "products", "ekfac"]
SETS = {
    "zoo": "Trained checkpoints of the Trainer, with scores of PyTorch and kronfluence (f32)",
    "families": "Language models with random weights (`fixtures/families`)",
    "classifiers": "Classifiers and reward models of texts (`fixtures/classifiers`)",
    "adapters": "Adapters of PEFT (`fixtures/adapters`)",
    "images": "Classifiers of images (`fixtures/images`)",
    "image-adapters": "Adapters of PEFT over classifiers of images (`fixtures/image-adapters`)",
}


def lines_of_tests():
    """What the tests print."""
    command = ["cargo", "test", "--package", "ascribe", "--test", "suite", "--", "--nocapture"]
    run = subprocess.run(
        [*command, *(f"{test}::" for test in TESTS)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if run.returncode != 0:
        sys.exit(f"the tests failed, so there is nothing to write:\n{run.stdout[-4000:]}")
    return run.stdout


def measured(text):
    """{set: {name: {(dtype, figure): largest number}}}; the number of compared parameters under "optimizer"."""
    found = {}
    # tests run at the same time: a line may stand behind what another test wrote
    for match in re.finditer(r"measured (\{.*?\})", text):
        line = json.loads(match[1])
        row = found.setdefault(line.pop("set"), {}).setdefault(line.pop("name"), {})
        dtype = line.pop("dtype", None)
        for figure, number in line.items():
            key = figure if dtype is None else (dtype, figure)
            row[key] = max(row.get(key, 0.0), number)
    return found


def number(value):
    return "" if value is None else f"{value:.0e}".replace("e-0", "e-")


def page(found, before, keep):
    """The page. Of the page `before` it has what is of no set here (`benches/random_models`), and with `keep` the tables of
    sets of which nothing was measured."""
    parts = {part.split("\n", 1)[0]: part.rstrip("\n") for part in before.split("\n## ")[1:]}
    others = [part for title, part in parts.items() if title not in SETS.values()]
    kept = parts if keep else {}
    out = [
        "# Models and how far they agree",
        "",
        "Each number is the largest relative difference to what another program computed of the same checkpoint, of all",
        "that the tests compare; relative to the largest number of the compared list. `benches/models.py` makes this page",
        "from the lines that the tests print; do not edit it.",
        "",
        "- *loss*: training loss of every example, against transformers (f64 where the zoo or a fixture has it)",
        "- *gradients*: of tracked layers, element by element",
        "- *slopes*: of losses along random directions in which all tracked parameters move at once, those of norms, head and",
        "  embeddings among them, against central differences; relative to the gradient's norm, with steps of 1e-6",
        "- *gradient products*: scores by gradient products of all queries and examples, also layer by layer",
        "- *EK-FAC*: EK-FAC scores of all queries and examples with the data's own labels, against kronfluence, or PyTorch",
        "  where kronfluence does not run (OPT, experts, DeBERTa v2 whose distances share layers); in `fixtures/families`",
        "  against PyTorch, of the blocks' layers and of these with the head and the tables of embeddings",
        "- *optimizer*: number of parameters whose order in an optimizer's state was compared with PyTorch's; what",
        "  Source reads second moments by",
        "",
        "A cell that is empty was not compared. Speeds and memory: [benchmarks](benchmarks.md).",
    ]
    for name, title in SETS.items():
        rows = found.get(name)
        if not rows:
            out += ["", f"## {kept[title]}"] if title in kept else []
            continue
        columns = [(dtype, figure) for dtype in ("F32", "F64") for figure in FIGURES]
        columns = [column for column in columns if any(column in row for row in rows.values())]
        has_order = any("optimizer" in row for row in rows.values())
        words = {"gradient": "gradients", "slope": "slopes", "products": "gradient products", "ekfac": "EK-FAC"}
        heads = [f"{words.get(figure, figure)}, {dtype.lower()}" for dtype, figure in columns]
        heads += ["optimizer"] * has_order
        out += ["", f"## {title}", "", "| model | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for model in sorted(rows):
            cells = [number(rows[model].get(column)) for column in columns]
            cells += [str(rows[model].get("optimizer", ""))] * has_order
            out.append(f"| {model} | " + " | ".join(cells) + " |")
    for part in others:
        out += ["", f"## {part}"]
    return "\n".join(out) + "\n"


def peak_of(command):
    """Wall time and largest resident memory in bytes of one process."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def torch_pass(folder, tokens_of_batch):
    """Forward and backward of a checkpoint over its data, in a process of its own: tokens and seconds on stdout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [json.loads(line)["text"] for line in open(Path(folder) / "train.jsonl") if line.strip()]
    ids = sorted((tokenizer(text)["input_ids"] for text in texts), key=len)
    batches, batch = [], []
    for one in ids:
        if batch and (len(batch) + 1) * len(one) > tokens_of_batch:
            batches.append(batch)
            batch = []
        batch.append(one)
    batches.append(batch)
    start = time.monotonic()
    for batch in batches:
        longest = max(map(len, batch))
        padded = torch.tensor([one + [0] * (longest - len(one)) for one in batch])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in batch])
        labels = padded.masked_fill(mask == 0, -100)
        model(input_ids=padded, attention_mask=mask, labels=labels).loss.backward()
        model.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens": sum(map(len, ids)), "seconds": time.monotonic() - start, "peak": peak}))


def speed(binary, models, tokens_of_batch):
    """A table of tokens a second. `fit` sees the data twice, PyTorch once: both are counted as they are."""
    print("| model | tokens/s of fit | tokens/s of PyTorch | memory of fit / PyTorch's |\n|---|---|---|---|")
    for folder in sorted(path for path in Path(models).iterdir() if (path / "train.jsonl").exists()):
        torch = subprocess.run(
            [sys.executable, __file__, "--torch-pass", folder, "--batch-tokens", str(tokens_of_batch)],
            stdout=subprocess.PIPE, text=True, check=True,
        )
        torch = json.loads(torch.stdout)
        with tempfile.TemporaryDirectory() as out:
            command = [binary, "fit", "--model", folder, "--train", folder / "train.jsonl", "--out", Path(out) / "run"]
            seconds, peak = peak_of([str(part) for part in command])
        own, other = 2 * torch["tokens"] / seconds, torch["tokens"] / torch["seconds"]
        print(f"| {folder.name} | {own:.0f} | {other:.0f} | {peak / torch['peak']:.2f} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--log", type=Path, help="lines that the tests printed")
    arguments.add_argument("--keep", action="store_true", help="keep tables of sets that the log has no line of")
    arguments.add_argument("--check", action="store_true", help="compare with docs/models.md in place of writing it")
    arguments.add_argument("--speed", action="store_true", help="measure speeds in place of agreement")
    arguments.add_argument("--binary", help="an optimised `ascribe`, for --speed")
    arguments.add_argument("--models", help="a folder of checkpoints with a train.jsonl each, for --speed")
    arguments.add_argument("--batch-tokens", type=int, default=2048, help="padded tokens of PyTorch's batches")
    arguments.add_argument("--torch-pass", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.torch_pass:
        return torch_pass(given.torch_pass, given.batch_tokens)
    if given.speed:
        if not (given.binary and given.models):
            arguments.error("--speed needs --binary and --models")
        return speed(given.binary, given.models, given.batch_tokens)
    found = measured(given.log.read_text() if given.log else lines_of_tests())
    if not found:
        sys.exit("no line `measured {...}`: were the tests run with `-- --nocapture`?")
    text = page(found, PAGE.read_text() if PAGE.exists() else "", given.keep)
    if given.check:
        names = lambda text: set(re.findall(r"^\| ([^|]+?) \|", text, re.M))
        gone = names(PAGE.read_text()) - names(text)
        sys.exit(f"measured no more: {', '.join(sorted(gone))}" if gone else 0)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
