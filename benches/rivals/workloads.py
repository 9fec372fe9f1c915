#!/usr/bin/env python3
"""Writes the checkpoint and data of a workload, for both sides to read from disk.

    python benches/rivals/workloads.py W1 FOLDER [--train N] [--queries N]

W1  GPT-2, 4 layers, width 256, 4 heads, 4,096 tokens, 256 positions; 256 training sequences, 32 queries
W2  GPT-2 small: 12 layers, width 768, 12 heads, 50,257 tokens, 512 positions; 64 training sequences, 16 queries
W3  MLP 784-256-128-10, ReLU; 6,000 training examples, 200 queries

Weights and data are random (seed 0, 1, 2): speed does not depend on them. FOLDER becomes
    workload.json   model/   train.jsonl queries.jsonl (`input_ids`; every token after the first is a target)
                             or train.safetensors query.safetensors (`inputs`, `targets`)
"""

import argparse
import json
import os

import torch
from safetensors.torch import save_file

LANGUAGE = {
    "W1": dict(shape=dict(n_layer=4, n_embd=256, n_head=4, vocab_size=4096, n_positions=256), train=256, queries=32),
    "W2": dict(shape=dict(n_layer=12, n_embd=768, n_head=12, vocab_size=50257, n_positions=512), train=64, queries=16),
}
MLP = {"W3": dict(layer_sizes=[784, 256, 128, 10], train=6000, queries=200)}


def write_language(name, folder, n_train, n_queries):
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    shape = LANGUAGE[name]["shape"]
    model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(os.path.join(folder, "model"))
    files = {}
    for key, file, count, seed in (("train", "train.jsonl", n_train, 1), ("queries", "queries.jsonl", n_queries, 2)):
        ids = torch.randint(0, shape["vocab_size"], (count, shape["n_positions"]), generator=torch.Generator().manual_seed(seed))
        with open(os.path.join(folder, file), "w") as out:
            for n, row in enumerate(ids.tolist()):
                out.write(json.dumps(dict(id=f"{key}-{n}", input_ids=row), separators=(",", ":")) + "\n")
        files[key] = file
    return files


def write_mlp(name, folder, n_train, n_queries):
    sizes = MLP[name]["layer_sizes"]
    torch.manual_seed(0)
    weights = {}
    for k, (i, o) in enumerate(zip(sizes[:-1], sizes[1:])):
        layer = torch.nn.Linear(i, o)
        weights[f"layers.{k}.weight"], weights[f"layers.{k}.bias"] = layer.weight.detach(), layer.bias.detach()
    os.makedirs(os.path.join(folder, "model"), exist_ok=True)
    save_file(weights, os.path.join(folder, "model", "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(folder, "model", "config.json"), "w") as file:
        json.dump(dict(model_type="mlp", activation="relu", task="classification", layer_sizes=sizes), file, indent=2)
    files = {}
    for key, file, count, seed in (("train", "train.safetensors", n_train, 1), ("queries", "query.safetensors", n_queries, 2)):
        g = torch.Generator().manual_seed(seed)
        save_file(dict(inputs=torch.rand(count, sizes[0], generator=g), targets=torch.randint(0, sizes[-1], (count,), generator=g)),
                  os.path.join(folder, file))
        files[key] = file
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*LANGUAGE, *MLP])
    parser.add_argument("folder")
    parser.add_argument("--train", type=int, help="fewer training examples")
    parser.add_argument("--queries", type=int, help="fewer queries")
    a = parser.parse_args()
    spec = {**LANGUAGE, **MLP}[a.name]
    n_train, n_queries = a.train or spec["train"], a.queries or spec["queries"]
    os.makedirs(a.folder, exist_ok=True)
    files = (write_language if a.name in LANGUAGE else write_mlp)(a.name, a.folder, n_train, n_queries)
    with open(os.path.join(a.folder, "workload.json"), "w") as file:
        json.dump(dict(name=a.name, kind="language" if a.name in LANGUAGE else "mlp", model="model", **files,
                       n_train=n_train, n_queries=n_queries), file, indent=2)
        file.write("\n")
    print(f"{a.name}: {n_train} training examples, {n_queries} queries in {a.folder}")


if __name__ == "__main__":
    main()
