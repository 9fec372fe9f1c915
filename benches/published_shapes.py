#!/usr/bin/env python3
"""Agreement with PyTorch at the shapes of published models, with random weights.

    python3 benches/published_shapes.py --binary target/release/ascribe              # a line of a table for each shape
    python3 benches/published_shapes.py --binary target/release/ascribe bert-base

The rows of benches/family_speed.py that have the shapes of Qwen2.5-0.5B, Pythia-160M, BERT-base, ViT-B/16 and ResNet-50:
their losses at one query, and the products of its gradient with those of three examples over all tracked layers, of
`ascribe influence --curvature identity` in f32 beside PyTorch in f64; each the largest difference over the largest number.
The second pair of numbers is how far PyTorch's own f32 is from its f64. It needs torch, transformers and safetensors, and of
memory 16 bytes for each parameter of the model and 8 for each tracked one.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import family_speed
from random_models import case as cases
from random_models import compare

SHAPES = ["pythia-160m", "bert-base", "vit-b-16", "resnet-50", "qwen2.5-0.5b"]
EXAMPLES, QUERIES = 3, 1


def losses_and_products(model, losses, names):
    """The losses of the queries, which come last, and products of their gradients with the others' over `names`."""
    parameters = dict(model.named_parameters())

    def gradient(place):
        model.zero_grad()
        loss = losses(model, place)
        loss.backward()
        return loss.item(), [parameters[name].grad.detach().clone() for name in names]

    asked = [gradient(EXAMPLES + q) for q in range(QUERIES)]
    products = torch.zeros(QUERIES, EXAMPLES, dtype=torch.float64)
    for n in range(EXAMPLES):
        own = gradient(n)[1]
        for q, (_, of_query) in enumerate(asked):
            products[q, n] = sum((a.double() * b.double()).sum() for a, b in zip(own, of_query)) / EXAMPLES
    return torch.tensor([loss for loss, _ in asked], dtype=torch.float64), products


def measure(row, binary):
    family_speed.ROWS[row] = (*family_speed.ROWS[row][:3], EXAMPLES + QUERIES, family_speed.ROWS[row][4])
    kind = family_speed.ROWS[row][0]
    inputs, targets = family_speed.data_of(row)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        family_speed.write(row, folder)
        model = family_speed.model_of(row).eval()
        files = list((folder / "model").glob("*.safetensors"))
        lines = [] if kind == family_speed.IMAGES else (folder / "train.jsonl").read_text().splitlines()
        paths = []
        for name, part in (("train", slice(0, EXAMPLES)), ("queries", slice(EXAMPLES, None))):
            if kind == family_speed.IMAGES:
                path = folder / f"{name}.safetensors"
                save_file({"inputs": inputs[part].clone(), "targets": targets[part].clone()}, path)
            else:
                path = folder / f"{name}.jsonl"
                path.write_text("\n".join(lines[part]) + "\n")
            paths.append(path)
        command = [binary, "influence", "--model", folder / "model", "--train", paths[0], "--queries", paths[1], "--measure",
                   "loss", "--curvature", "identity", "--out", folder / "run", "--quiet"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        with safe_open(folder / "run" / "scores.safetensors", "pt") as file:
            scores, losses = file.get_tensor("scores").double(), file.get_tensor("measurements").double()
            layers = json.loads(file.metadata()["layers"])
        case = cases.Case(folder=folder, model=model, files=files, rows={}, loss=None)
        names = compare.parameters_of(layers, case)

    def loss(model, place):
        dtype = next(model.parameters()).dtype
        if kind == family_speed.IMAGES:
            logits = model(pixel_values=inputs[place : place + 1].to(dtype)).logits
            return torch.nn.functional.cross_entropy(logits, targets[place : place + 1])
        logits = model(input_ids=inputs[place : place + 1]).logits
        if kind == family_speed.CAUSAL:
            return torch.nn.functional.cross_entropy(logits[0, :-1], targets[place, 1:], reduction="sum")
        return torch.nn.functional.cross_entropy(logits, targets[place : place + 1])

    rounded = losses_and_products(model, loss, names)
    exact = losses_and_products(model.double(), loss, names)
    differences = [compare.relative(found, want) for pair in ((losses, scores), rounded) for found, want in zip(pair, exact)]
    parameters = sum(part.numel() for part in model.parameters())
    return f"| {row} | {parameters / 1e6:.0f} | {len(layers)} | " + " | ".join(f"{one:.0e}" for one in differences) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="an optimised `ascribe`")
    parser.add_argument("rows", nargs="*", default=SHAPES, metavar="ROW", help=f"of {', '.join(SHAPES)}; all by default")
    given = parser.parse_args()
    print("| shape | parameters, millions | tracked layers | loss | gradient products | loss, PyTorch's f32 | gradient products, PyTorch's f32 |")
    print("|---|---|---|---|---|---|---|")
    for row in given.rows:
        print(measure(row, given.binary), flush=True)


if __name__ == "__main__":
    main()
