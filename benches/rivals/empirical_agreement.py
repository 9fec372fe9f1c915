#!/usr/bin/env python3
"""Factors and scores of one ascribe run beside kronfluence's own on the same checkpoint and text: empirical Fisher, f32.

    ascribe influence --model CHECKPOINT --tokenizer TOKENIZER --train TRAIN --queries QUERIES --fisher empirical \
        --add-eos both --max-length 128 --out RUN
    python benches/rivals/empirical_agreement.py CHECKPOINT TOKENIZER TRAIN QUERIES RUN [--max-length 128]

Nothing is random, so that differences are rounding. Prints JSON: relative Frobenius errors of the covariances and of
lambda, the worst over layers, and of the scores the worst query's 1 - Pearson and |slope - 1|. Positions are counted as
kronfluence counts them, by the attention mask.
"""

import argparse
import glob
import json
import os
import sys
import tempfile

import torch
from safetensors import safe_open

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures"))
from generators.kronfluence_reference import LanguageTask, Rows, arguments, linearised  # noqa: E402
from kronfluence.analyzer import Analyzer, prepare_model  # noqa: E402
from kronfluence.arguments import FactorArguments, ScoreArguments  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402


def rows(file, tokenizer, max_length):
    """Text and an end-of-sequence token, cut, padded to the longest."""
    texts = [json.loads(line)["text"] for line in open(file, encoding="utf-8") if line.strip()]
    tokens = [(tokenizer.encode(text, add_special_tokens=True) + [0])[:max_length] for text in texts]
    longest = max(map(len, tokens))
    pad = lambda values, fill: torch.tensor([v + [fill] * (longest - len(v)) for v in values])  # noqa: E731
    columns = dict(input_ids=pad(tokens, 0), attention_mask=pad([[1] * len(t) for t in tokens], 0), labels=pad(tokens, -100))
    return Rows([{k: v[i] for k, v in columns.items()} for i in range(len(tokens))])


def artifact(run, kind):
    found = glob.glob(os.path.join(run, "artifacts", f"{kind}-*.safetensors"))
    assert len(found) == 1, f"{run}: {len(found)} artifacts `{kind}`, expected those of one run"
    with safe_open(found[0], "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "tokenizer", "train", "queries", "run"):
        parser.add_argument(name)
    parser.add_argument("--max-length", type=int, default=128)
    a = parser.parse_args()
    torch.set_num_threads(2)
    file = a.tokenizer if os.path.isfile(a.tokenizer) else os.path.join(a.tokenizer, "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file)
    train, queries = (rows(f, tokenizer, a.max_length) for f in (a.train, a.queries))
    with safe_open(os.path.join(a.run, "scores.safetensors"), "pt") as scores:
        ours, about = scores.get_tensor("scores").double(), scores.metadata()
    layers, n = json.loads(about["layers"]), int(about["train_size"])
    model = linearised(AutoModelForCausalLM.from_pretrained(a.checkpoint, attn_implementation="eager").float().eval())
    names = {name for name, _ in model.named_modules()}
    module = {layer: next(m for m in names if m == layer or m.endswith("." + layer)) for layer in layers}
    task = LanguageTask(list(module.values()))
    with tempfile.TemporaryDirectory() as work:
        analyzer = Analyzer("empirical", model=prepare_model(model, task), task=task, cpu=True, output_dir=work, disable_tqdm=True)
        fit = arguments(FactorArguments, torch.float32, strategy="ekfac", use_empirical_fisher=True)
        analyzer.fit_all_factors("f", train, per_device_batch_size=32, factor_args=fit)
        analyzer.compute_pairwise_scores("s", "f", queries, train, per_device_query_batch_size=32, per_device_train_batch_size=32,
                                         score_args=arguments(ScoreArguments, torch.float32, damping_factor=None))
        theirs = analyzer.load_pairwise_scores("s")["all_modules"].double()
        stored = {**analyzer.load_covariance_matrices("f"), **analyzer.load_lambda_matrices("f")}
    covariance, counts = artifact(a.run, "covariance")
    lambdas, _ = artifact(a.run, "lambda")
    error = lambda x, y: ((x - y).norm() / y.norm()).item()  # noqa: E731
    worst = dict(activation_covariance=0.0, gradient_covariance=0.0, lambda_matrix=0.0)
    shared = {}
    for layer in layers:
        # layers that read one input keep its covariance under the first one's name
        key = (f"{layer}.input" in covariance) and f"{layer}.input"
        theirs_input = stored["activation_covariance"][module[layer]].double() / float(counts["positions"])
        if key:
            worst["activation_covariance"] = max(worst["activation_covariance"], error(covariance[key].double(), theirs_input))
        else:
            shared[layer] = True
        gradient = stored["gradient_covariance"][module[layer]].double() / float(counts["positions"])
        worst["gradient_covariance"] = max(worst["gradient_covariance"], error(covariance[f"{layer}.output"].double(), gradient))
        # eigenvectors have no sign and no order where eigenvalues meet: the sorted spectrum and the sum are compared
        theirs_lambda = stored["lambda_matrix"][module[layer]].double() / float(counts["examples"])
        pair = [x.flatten().sort().values for x in (lambdas[layer].double(), theirs_lambda)]
        worst["lambda_matrix"] = max(worst["lambda_matrix"], error(*pair))
    ours = ours * n
    centre = lambda x: x - x.mean(1, keepdim=True)  # noqa: E731
    x, y = centre(theirs), centre(ours)
    pearson = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    slope = (x * y).sum(1) / (x * x).sum(1)
    print(json.dumps(dict(
        worst, shared_inputs=len(shared), queries=len(theirs), examples=theirs.shape[1],
        one_minus_pearson=(1 - pearson).max().item(), slope_error=(slope - 1).abs().max().item()), indent=1))


if __name__ == "__main__":
    main()
