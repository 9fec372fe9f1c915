#!/usr/bin/env python3
"""kronfluence's EK-FAC influence on a workload folder, from process start to saved scores.

    python benches/rivals/kronfluence_side.py FOLDER [--threads 2] [--precision highest|medium|bf16] [--out DIR]

Reads the checkpoint and the data from disk (see workloads.py). True Fisher (labels sampled afresh in each pass),
f64 eigendecomposition, damping 0.1 x mean, SDPA attention, every linear layer of the blocks. The default batch sizes
are those that were found fastest on W1 (covariance 8, lambda 4, queries 32, training 8) and W3.

precision: `highest` is torch's default f32, `medium` allows oneDNN (on some processors still exact f32, on others
bf16), `bf16` is autocast with bf16 per-example gradients and scores; factors stay f32.

Prints one JSON line for each stage: seconds, peak resident MiB of the stage. `scores` includes the query gradients.
The last line holds the wall seconds since the process started, the peak of all stages and the scores' file.
"""

import side  # first, so that the clock is the process's own

import json
import logging
import os
import warnings

import torch
import torch.nn.functional as F
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
BATCHES = {"language": dict(cov=8, lam=4, query=32, train=8), "mlp": dict(cov=512, lam=512, query=200, train=512)}


class LanguageTask(Task):
    """Next-token cross-entropy summed over all positions; the query's measurement is its loss."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def compute_train_loss(self, batch, model, sample=False):
        ids, = batch
        logits = model(input_ids=ids).logits[:, :-1]
        logits = logits.reshape(-1, logits.shape[-1]).float()
        return F.cross_entropy(logits, sampled(logits) if sample else ids[:, 1:].reshape(-1), reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.layers

    def get_attention_mask(self, batch):
        return None  # no padding


class MlpTask(Task):
    def compute_train_loss(self, batch, model, sample=False):
        x, y = batch
        logits = model(x).float()
        return F.cross_entropy(logits, sampled(logits) if sample else y, reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return None

    def get_attention_mask(self, batch):
        return None


@torch.no_grad()
def sampled(logits):
    return torch.multinomial(F.softmax(logits.detach(), -1), 1).flatten()


class Mlp(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def load_language(folder, spec):
    from transformers import GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    model = GPT2LMHeadModel.from_pretrained(os.path.join(folder, spec["model"]), dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    for module in list(model.modules()):  # kronfluence knows nn.Linear only
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.T.contiguous(), child.bias.data
                setattr(module, name, linear)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    data = []
    for key in ("train", "queries"):
        with open(os.path.join(folder, spec[key])) as file:
            data.append(TensorDataset(torch.tensor([json.loads(line)["input_ids"] for line in file])))
    return model, LanguageTask(layers), *data


def load_mlp(folder, spec):
    with open(os.path.join(folder, spec["model"], "config.json")) as file:
        model = Mlp(json.load(file)["layer_sizes"])
    model.load_state_dict(load_file(os.path.join(folder, spec["model"], "model.safetensors")))
    tensors = [load_file(os.path.join(folder, spec[key])) for key in ("train", "queries")]
    return model, MlpTask(), *[TensorDataset(t["inputs"], t["targets"]) for t in tensors]


def arguments(precision):
    factors, scores = FactorArguments(strategy="ekfac"), ScoreArguments(damping_factor=None)
    if precision == "bf16":
        factors.amp_dtype = scores.amp_dtype = torch.bfloat16
        factors.per_sample_gradient_dtype = scores.per_sample_gradient_dtype = torch.bfloat16
        scores.precondition_dtype = scores.score_dtype = torch.bfloat16
    return factors, scores


def main():
    a, spec, out = side.begin(__doc__, "kronfluence", [f"--batch-{name}" for name in ("cov", "lam", "query", "train")])
    batches = {k: getattr(a, f"batch_{k}") or v for k, v in BATCHES[spec["kind"]].items()}

    model, task, train, queries = (load_language if spec["kind"] == "language" else load_mlp)(a.folder, spec)
    model = prepare_model(model.eval(), task)
    analyzer = Analyzer(analysis_name="bench", model=model, task=task, output_dir=out, disable_tqdm=True, disable_model_save=True, cpu=True)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
    factor_args, score_args = arguments(a.precision)
    stages = side.Stages(precision=a.precision, threads=a.threads, batches=batches)
    stages.run("covariance", lambda: analyzer.fit_covariance_matrices("f", train, per_device_batch_size=batches["cov"], factor_args=factor_args))
    stages.run("eigendecomposition", lambda: analyzer.perform_eigendecomposition("f", factor_args=factor_args))
    stages.run("lambda", lambda: analyzer.fit_lambda_matrices("f", train, per_device_batch_size=batches["lam"], factor_args=factor_args))
    stages.run("scores", lambda: analyzer.compute_pairwise_scores(
        "s", "f", queries, train, per_device_query_batch_size=batches["query"], per_device_train_batch_size=batches["train"], score_args=score_args))
    stages.finish(analyzer.scores_output_dir("s") / "pairwise_scores.safetensors")


if __name__ == "__main__":
    main()
