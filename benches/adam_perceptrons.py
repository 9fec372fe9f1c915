#!/usr/bin/env python3
"""Perceptrons trained by Adam, with what becomes of them when half of the data or 2 % of it is left out: on which damping
the default of runs of Adam rests (docs/validation.md).

  adam_perceptrons.py FOLDER NAME OUT    NAME is concrete-mlp or fashion-mnist-mlp

FOLDER holds `train.safetensors` and `query.safetensors`. OUT gets six checkpoints with the optimizer's states and a
`trajectory.toml`, `subsets` and `outcomes` (100 random halves, SEEDS seeds each) and `removals` (100 times 2 %, same start
and order as the checkpoints, removed examples' slots left empty). Needs torch, numpy, safetensors; minutes on one core.
"""
import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

COUNT, SHARE, TOGETHER = 100, 0.02, 25
SPECS = {
    "concrete-mlp": dict(task="regression", activation=torch.tanh, sizes=[8, 128, 128, 128, 1], batch=32, epochs=40,
                         rate=3e-3, decay=1e-4, seeds=5, name="tanh"),
    "fashion-mnist-mlp": dict(task="classification", activation=torch.relu, sizes=[784, 256, 128, 10], batch=64, epochs=12,
                              rate=1e-3, decay=0.01, seeds=2, name="relu"),
}


def start(sizes, seeds):
    """Weights and biases uniform in ±1/sqrt(inputs), one generator for each model."""
    generators = [torch.Generator().manual_seed(9_001 * seed + 3) for seed in seeds]
    draw = lambda bound, *shape: torch.stack([torch.rand(*shape, generator=g) for g in generators]) * 2 * bound - bound
    return [draw(1 / math.sqrt(i), *shape) for i, o in zip(sizes, sizes[1:]) for shape in ((o, i), (o,))]


def outputs(parameters, x, activation):
    layers = list(zip(parameters[::2], parameters[1::2]))
    for k, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        x = activation(x) if k + 1 < len(layers) else x
    return x


def losses(z, y, task):
    if task == "classification":
        return F.cross_entropy(z.transpose(1, 2), y, reduction="none")
    return 0.5 * (z.squeeze(-1) - y) ** 2


def measured(z, y, task):
    if task == "regression":
        return z.squeeze(-1)
    right = z.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return right - torch.logsumexp(z.scatter(-1, y.unsqueeze(-1), float("-inf")), -1)


def train(x, y, rows, kept, seeds, spec, seen=lambda step, parameters, optimizer: None):
    """AdamW with a linear fall of the rate to 0; each model has its rows, its weights of examples and its seed."""
    per_epoch = len(rows[0]) // spec["batch"]
    steps = per_epoch * spec["epochs"]
    parameters = [p.requires_grad_() for p in start(spec["sizes"], seeds)]
    optimizer = torch.optim.AdamW(parameters, lr=spec["rate"], weight_decay=spec["decay"], fused=True)
    generators = [torch.Generator().manual_seed(7_907 * seed + 11) for seed in seeds]
    rows, step = torch.stack([torch.as_tensor(r) for r in rows]), 0
    for _ in range(spec["epochs"]):
        order = rows.gather(1, torch.stack([torch.randperm(rows.shape[1], generator=g) for g in generators]))
        for k in range(per_epoch):
            picked = order[:, k * spec["batch"] : (k + 1) * spec["batch"]]
            for group in optimizer.param_groups:
                group["lr"] = spec["rate"] * (1 - step / steps)
            loss = losses(outputs(parameters, x[picked], spec["activation"]), y[picked], spec["task"])
            optimizer.zero_grad()
            (loss * kept.gather(1, picked)).mean(1).sum().backward()
            optimizer.step()
            step += 1
            seen(step, parameters, optimizer)
    return [p.detach() for p in parameters]


def main(folder, name, out):
    spec = SPECS[name]
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)

    def data(part):
        tensors = load_file(os.path.join(folder, part + ".safetensors"))
        x = tensors["inputs"]
        return (x.float() / 255 if x.dtype == torch.uint8 else x.float()), tensors["targets"]

    (x, y), (xq, yq) = data("train"), data("query")
    n = len(x)
    steps = n // spec["batch"] * spec["epochs"]
    marks = [round(steps * k / 6) for k in range(1, 7)]
    config = dict(model_type="mlp", activation=spec["name"], task=spec["task"], layer_sizes=spec["sizes"])
    if spec["task"] == "regression":
        config["loss"] = "half_mse"

    def keep(step, parameters, optimizer):
        if step in marks:
            checkpoint = os.path.join(out, f"checkpoint-{step}")
            os.makedirs(checkpoint, exist_ok=True)
            names = [f"layers.{k}.{part}" for k in range(len(parameters) // 2) for part in ("weight", "bias")]
            save_file({key: p.detach()[0].contiguous() for key, p in zip(names, parameters)},
                      os.path.join(checkpoint, "model.safetensors"))
            with open(os.path.join(checkpoint, "config.json"), "w") as file:
                json.dump(config, file)
            # the states of the only model of the stack, for Source
            state = optimizer.state_dict()
            only = lambda value: value[0].clone() if value.ndim > 0 else value
            states = {k: {key: only(value) for key, value in entry.items()} for k, entry in state["state"].items()}
            torch.save({**state, "state": states}, os.path.join(checkpoint, "optimizer.pt"))

    def outcome(parameters):
        count = len(parameters[0])
        return measured(outputs(parameters, xq.expand(count, -1, -1), spec["activation"]), yq.expand(count, -1), spec["task"])

    everything, ones = np.arange(n), torch.ones(1, n)
    full = train(x, y, [everything], ones, [0], spec, keep)
    with torch.no_grad():
        print("training loss", losses(outputs(full, x[None], spec["activation"]), y[None], spec["task"]).mean().item())
    rates = [spec["rate"] * (1 - k / steps) for k in range(steps)]
    lines = ['optimizer = "adamw"', "betas = [0.9, 0.999]", "epsilon = 1e-8", f"weight_decay = {spec['decay']}",
             f"train_examples = {n}", f"batch_size = {spec['batch']}", 'loss_reduction = "mean"', f"learning_rates = {rates}"]
    for mark in marks:
        lines += ["", "[[checkpoint]]", f'path = "checkpoint-{mark}"', f"step = {mark}"]
    with open(os.path.join(out, "trajectory.toml"), "w") as file:
        file.write("\n".join(lines) + "\n")

    measure = "margin" if spec["task"] == "classification" else "prediction"
    draw = np.random.default_rng(77)
    removed = np.zeros((COUNT, n), np.uint8)
    for row in removed:
        row[draw.permutation(n)[: round(SHARE * n)]] = 1
    changed = []
    for at in range(0, COUNT, TOGETHER):
        kept = torch.from_numpy(1 - removed[at : at + TOGETHER]).float()
        changed.append(outcome(train(x, y, [everything] * len(kept), kept, [0] * len(kept), spec)))
        print("removals", at, flush=True)
    save_file({"removed": torch.from_numpy(removed), measure: torch.cat(changed)[:, None].contiguous(),
               "full_" + measure: outcome(full).contiguous()}, os.path.join(out, "removals.safetensors"))

    draw = np.random.default_rng(2026)
    halves = [np.sort(draw.permutation(n)[: n // 2]) for _ in range(COUNT)]
    mask = torch.zeros(COUNT, n, dtype=torch.uint8)
    for row, half in zip(mask, halves):
        row[torch.from_numpy(half)] = 1
    pairs = [(j, seed) for j in range(COUNT) for seed in range(spec["seeds"])]
    found = []
    for at in range(0, len(pairs), TOGETHER):
        part = pairs[at : at + TOGETHER]
        seeds = [1_000 + 10 * j + seed for j, seed in part]
        found.append(outcome(train(x, y, [halves[j] for j, _ in part], torch.ones(len(part), n), seeds, spec)))
        print("halves", at, flush=True)
    found = torch.cat(found).view(COUNT, spec["seeds"], -1)
    save_file({"mask": mask}, os.path.join(out, "subsets.safetensors"))
    save_file({measure: found.mean(1).contiguous(), measure + "_seeds": found.contiguous()},
              os.path.join(out, "outcomes.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
