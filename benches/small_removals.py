#!/usr/bin/env python3
"""Retrains a small GPT-2 without 2 % of its documents, again and again, from the same start and in the same order.

  small_removals.py full    FOLDER --work W              the run itself, six checkpoints as transformers saves them
  small_removals.py retrain FOLDER --work W [--seconds S] [--part 0/2] one file for each removal; goes on where it stopped
  small_removals.py collect FOLDER --work W --out FILE   what `ascribe evaluate lds --removals` reads

FOLDER holds `train.jsonl` (`text`), `query.jsonl` (`text`), `facts.jsonl` (`prompt`, `completion`) and `tokenizer/`. The
recipe is that of the shared small GPT-2: AdamW, a cosine with a warm-up, batches of 8 documents, ten epochs. The place
of a removed document in its batch stays empty, so that every other document is seen at the same step as in the full
run. A removal takes about four minutes of one core. FILE holds `removed` u8 [J, N] and, for documents and for facts,
the summed loss after each removal and of the full run: `document_loss` f32 [J, 1, Q], `full_document_loss` f32 [1, Q],
`fact_loss`, `full_fact_loss`.
"""
import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH, END = 128, 0
BATCH, EPOCHS, RATE, DECAY, WARMUP, CLIP, BETAS = 8, 10, 3.5e-3, 0.01, 100, 1.0, (0.9, 0.99)
CHECKPOINTS = 6
SHARE, SEED = 0.02, 77


def rows(path):
    return [json.loads(line) for line in open(path)]


def documents(folder, name):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    return [(tokenizer.encode(row["text"]).ids + [END])[:LENGTH] for row in rows(folder / name)]


def facts(folder):
    """Tokens of prompt and completion, and how many are the prompt's."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    length = lambda text: len(tokenizer.encode(text).ids)
    return [(tokenizer.encode(row["prompt"] + row["completion"]).ids, length(row["prompt"])) for row in rows(folder / "facts.jsonl")]


def padded(sequences, starts):
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    labels = torch.full((len(sequences), width), -100)
    for row, (sequence, start) in enumerate(zip(sequences, starts)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        labels[row, start : len(sequence)] = torch.tensor(sequence[start:])
    return ids, labels


def losses(model, sequences, starts):
    """Summed loss of every sequence's targets. Padding is on the right, where a causal model does not look."""
    ids, labels = padded(sequences, starts)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100).sum(1)


def rate(step, total):
    if step < WARMUP:
        return RATE * step / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (total - WARMUP)))


def train(sequences, removed, seed, at=lambda step, total, model: None):
    """The mean is over the tokens of the whole batch, so that a removal takes an example's part of the loss and no more."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=2048, n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=END, eos_token_id=END))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [dict(params=decayed, weight_decay=DECAY), dict(params=others, weight_decay=0.0)], lr=0.0, betas=BETAS, fused=True)
    order_of = torch.Generator().manual_seed(seed)
    in_epoch = len(sequences) // BATCH
    total, step = in_epoch * EPOCHS, 0
    for _ in range(EPOCHS):
        order = torch.randperm(len(sequences), generator=order_of).tolist()
        for place in range(0, in_epoch * BATCH, BATCH):
            batch = order[place : place + BATCH]
            kept = [sequences[i] for i in batch if i not in removed]
            loss = losses(model, kept, [0] * len(kept)).sum() / sum(len(sequences[i]) - 1 for i in batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, total)
            optimizer.step()
            step += 1
            at(step, total, model)
    return model.eval()


@torch.no_grad()
def outcomes(model, folder):
    asked = facts(folder)
    texts = documents(folder, "query.jsonl")
    return (losses(model, texts, [0] * len(texts)).numpy(),
            losses(model, [ids for ids, _ in asked], [start for _, start in asked]).numpy())


def removals(count, population):
    random = np.random.default_rng(SEED)
    return [np.sort(random.permutation(population)[: round(SHARE * population)]) for _ in range(count)]


def store(path, model, folder):
    document, fact = outcomes(model, folder)
    np.savez(path.with_suffix(".part.npz"), document=document, fact=fact)
    os.replace(path.with_suffix(".part.npz"), path)


def full(a):
    sequences = documents(a.folder, "train.jsonl")

    def keep(step, total, model):
        if step % (total // CHECKPOINTS) == 0:
            model.save_pretrained(a.work / f"checkpoint-{step}")

    store(a.work / "full.npz", train(sequences, set(), a.seed, keep), a.folder)


def retrain(a):
    sequences = documents(a.folder, "train.jsonl")
    began = time.time()
    part, parts = map(int, a.part.split("/"))
    for number, removed in enumerate(removals(a.count, len(sequences))):
        path = a.work / f"removal-{number:03d}.npz"
        if number % parts != part or path.exists() or time.time() - began > a.seconds:
            continue
        start = time.time()
        store(path, train(sequences, set(removed.tolist()), a.seed), a.folder)
        print(path.name, f"{time.time() - start:.0f} s", flush=True)


def collect(a):
    population = len(rows(a.folder / "train.jsonl"))
    done = [(removed, np.load(path)) for number, removed in enumerate(removals(a.count, population))
            if (path := a.work / f"removal-{number:03d}.npz").exists()]
    mask = np.zeros((len(done), population), np.uint8)
    for row, (removed, _) in zip(mask, done):
        row[removed] = 1
    whole = np.load(a.work / "full.npz")
    tensors = dict(removed=mask)
    for name in ("document", "fact"):
        tensors[f"{name}_loss"] = np.stack([outcome[name] for _, outcome in done])[:, None].astype(np.float32)
        tensors[f"full_{name}_loss"] = whole[name][None].astype(np.float32)
    save_file({name: torch.from_numpy(tensor).contiguous() for name, tensor in tensors.items()}, str(a.out))
    print(len(done), "removals of", int(mask[0].sum()), "documents")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", choices=["full", "retrain", "collect"])
    p.add_argument("folder", type=Path)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--out", type=Path)
    p.add_argument("--count", type=int, default=32)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=math.inf)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--part", default="0/1", help="which removals this process makes: 0/2 every second one, 1/2 the others")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(a.threads)
    dict(full=full, retrain=retrain, collect=collect)[a.command](a)
