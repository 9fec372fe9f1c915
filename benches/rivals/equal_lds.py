#!/usr/bin/env python3
"""How long until scores predict retraining as well: ascribe with parts of the data for its curvature, beside kronfluence.

    python benches/rivals/equal_lds.py FOLDER --ascribe target/release/ascribe --work DIR \\
        [--fit-examples all auto 0.03125] [--repeats 3] [--threads 2] [--batches 32 8 64 32]

FOLDER is a small GPT-2 with what retraining it without halves of its documents left: `checkpoint-2520/`, `tokenizer/`,
`train.jsonl` and `query.jsonl` (`text`), `subsets.safetensors` (`mask` [J, N], 1 = kept) and `outcomes.safetensors`
(`query_loss` [J, Q]). Each side is a whole process, from its start to scores on disk, in turn; EK-FAC of every linear layer
of the blocks at the last checkpoint, labels drawn by each side, damping 0.1 of the mean eigenvalue. kronfluence pads each
batch to its longest document, in the order of lengths, which is its fastest; its batch sizes (covariance, lambda, queries,
training) are `--batches`, by default the fastest of five that were tried. Prints a Markdown table: seconds, processor seconds, the linear datamodeling score (the mean over
queries of Spearman's correlation over subsets), and kronfluence's seconds over ascribe's within one repeat.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

LENGTH, END = 128, 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ascribe")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--fit-examples", nargs="+", default=["all", "auto", "0.03125"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs=4, default=[32, 8, 64, 32])
    parser.add_argument("--kronfluence-side", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def documents(folder, name):
    """The texts' tokens as training saw them, with an end token, cut."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    with open(folder / name) as file:
        texts = [json.loads(line)["text"] for line in file]
    return [(tokenizer.encode(text).ids + [END])[:LENGTH] for text in texts]


def kronfluence_side(a):
    """Writes `scores` [Q, N] f32; positive: a proponent."""
    import numpy as np
    import torch
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.utils.dataset import DataLoaderKwargs
    from safetensors.torch import load_file, save_file
    from kronfluence_side import LanguageTask, load_language

    class PaddedTask(LanguageTask):
        def compute_train_loss(self, batch, model, sample=False):
            ids, mask = batch
            width = int(mask.sum(1).max())
            ids, mask = ids[:, :width], mask[:, :width]
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].reshape(-1, 2048)
            labels = torch.where(mask[:, 1:].bool(), ids[:, 1:], -100).reshape(-1)
            if sample:
                with torch.no_grad():
                    drawn = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
                labels = torch.where(labels == -100, -100, drawn)
            return torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)

        def get_attention_mask(self, batch):
            mask = batch[1]
            return mask[:, : int(mask.sum(1).max())]

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    rows, orders = [], []
    for name in ("train.jsonl", "query.jsonl"):
        sequences = documents(a.folder, name)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        ids, mask = torch.zeros(len(order), LENGTH, dtype=torch.long), torch.zeros(len(order), LENGTH, dtype=torch.long)
        for row, i in enumerate(order):
            ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
            mask[row, : len(sequences[i])] = 1
        rows.append(torch.utils.data.TensorDataset(ids, mask))
        orders.append(np.array(order))
    # what `load_language` reads beside the model is replaced
    (a.work / "none.jsonl").write_text('{"input_ids": [1]}\n')
    spec = dict(model=str(a.folder.resolve() / "checkpoint-2520"), train="none.jsonl", queries="none.jsonl")
    model, task, _, _ = load_language(str(a.work), spec)
    task = PaddedTask(task.layers)
    out = a.work / "kronfluence"
    shutil.rmtree(out, ignore_errors=True)
    analyzer = Analyzer(analysis_name="equal", model=prepare_model(model.eval(), task), task=task, output_dir=str(out),
                        disable_tqdm=True, disable_model_save=True, cpu=True)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
    factors, scores = FactorArguments(strategy="ekfac"), ScoreArguments(damping_factor=None)
    covariance, lambdas, queries, train = a.batches
    analyzer.fit_covariance_matrices("f", rows[0], per_device_batch_size=covariance, factor_args=factors)
    analyzer.perform_eigendecomposition("f", factor_args=factors)
    analyzer.fit_lambda_matrices("f", rows[0], per_device_batch_size=lambdas, factor_args=factors)
    analyzer.compute_pairwise_scores("s", "f", rows[1], rows[0], per_device_query_batch_size=queries,
                                     per_device_train_batch_size=train, score_args=scores)
    found = load_file(str(analyzer.scores_output_dir("s") / "pairwise_scores.safetensors"))["all_modules"]
    in_order = torch.zeros_like(found)
    in_order[torch.tensor(orders[1])[:, None], torch.tensor(orders[0])] = found
    save_file({"scores": in_order}, str(a.work / "kronfluence.safetensors"))


def run(command, name, work):
    """`(seconds, processor seconds)` of a whole process."""
    from compare import run_process
    seconds, usage = run_process(command, str(work / f"{name}.out"), str(work / f"{name}.err"))
    return seconds, usage.ru_utime + usage.ru_stime


def lds(scores, folder):
    """The mean over queries of Spearman's correlation of measured and predicted losses over the subsets."""
    import numpy as np
    from safetensors.numpy import load_file
    kept = load_file(folder / "subsets.safetensors")["mask"].astype(np.float64)
    losses = load_file(folder / "outcomes.safetensors")["query_loss"].astype(np.float64)
    predicted = -kept @ load_file(scores)["scores"].astype(np.float64).T
    ranks = lambda x: x.argsort(0).argsort(0).astype(np.float64)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ranks(predicted).T, ranks(losses).T)]))


def ascribe(a, part):
    """`(scores, figures)` of one run with a part of the data for the curvature."""
    out = a.work / f"ascribe-{part}"
    shutil.rmtree(out, ignore_errors=True)
    folder = a.folder
    command = [a.ascribe, "influence", "--model", folder / "checkpoint-2520", "--tokenizer", folder / "tokenizer", "--train",
               folder / "train.jsonl", "--queries", folder / "query.jsonl", "--add-eos", "both", "--max-length", LENGTH, "--threads",
               a.threads, "--fit-examples", part, "--quiet", "--out", out]
    return out / "scores.safetensors", run([str(word) for word in command], f"ascribe-{part}", a.work)


def main():
    a = arguments()
    a.work.mkdir(parents=True, exist_ok=True)
    if a.kronfluence_side:
        return kronfluence_side(a)
    own = [sys.executable, __file__, str(a.folder), "--work", str(a.work), "--threads", str(a.threads), "--kronfluence-side",
           "--batches", *map(str, a.batches)]
    rows = {}
    for repeat in range(a.repeats):
        rival = run(own, "kronfluence", a.work)
        rows.setdefault("kronfluence", []).append((*rival, lds(a.work / "kronfluence.safetensors", a.folder), 1.0))
        for part in a.fit_examples:
            scores, figures = ascribe(a, part)
            rows.setdefault(f"ascribe, `--fit-examples {part}`", []).append(
                (*figures, lds(scores, a.folder), rival[0] / figures[0]))
    print(f"load {os.getloadavg()}, {a.threads} threads, {a.repeats} repeats: medians [least, most]\n")
    print("| | seconds | processor seconds | LDS | kronfluence's seconds over it |\n|---|---:|---:|---:|---:|")
    for name, runs in rows.items():
        cell = lambda k, digits: (lambda x: f"{statistics.median(x):.{digits}f} [{min(x):.{digits}f}, {max(x):.{digits}f}]")([r[k] for r in runs])
        print(f"| {name} | {cell(0, 1)} | {cell(1, 1)} | {runs[0][2]:.3f} | {cell(3, 2)} |")


if __name__ == "__main__":
    main()
