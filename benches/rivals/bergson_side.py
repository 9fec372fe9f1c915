#!/usr/bin/env python3
"""Bergson's EK-FAC influence on a language workload, from process start to saved scores.

    python benches/rivals/bergson_side.py FOLDER [--threads 2] [--precision highest|medium|bf16] [--out DIR]

The steps of its command `bergson ekfac`, on the checkpoint and token ids of workloads.py: query gradients (one a query),
factors (covariances, eigendecompositions in f64, lambda; labels sampled), the damped inverse (0.1 x mean of each layer)
applied to the queries, scores. Same layers as the other sides: the linear layers of the blocks, with bias.

Its batches hold at most as many tokens as the model has positions, which is one example of W1 or W2: a larger
`token_batch_size` is refused by the program itself. A tokenizer must be there although the data are token ids: one
that knows numbers alone is written beside the output.

precision: `highest` is torch's default f32, `medium` lets torch use oneDNN, `bf16` loads the model in bf16.

Prints one JSON line for each stage: seconds, peak resident MiB of the stage; the last line holds the wall seconds since
the process started, the peak of all stages and the folder of scores.
"""

import side  # first, so that the clock is the process's own

import json
import os

from bergson.config.config import (DataConfig, HessianConfig, HessianPipelineConfig, IndexConfig, InversionConfig,
                                   PreprocessConfig, QuerySetConfig, ScoreConfig)
from bergson.hessians import pipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


def write_tokenizer(folder, vocabulary, positions):
    tokenizer = Tokenizer(WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="0", eos_token=str(vocabulary - 1), pad_token="0",
                            model_max_length=positions).save_pretrained(folder)


def main():
    a, spec, out = side.begin(__doc__, "bergson")
    os.makedirs(out)
    model, train, queries = (os.path.abspath(os.path.join(a.folder, spec[key])) for key in ("model", "train", "queries"))
    with open(os.path.join(model, "config.json")) as file:
        config = json.load(file)
    positions = config["n_positions"]
    write_tokenizer(os.path.join(out, "tokenizer"), config["vocab_size"], positions)

    index = IndexConfig(run_path=os.path.join(out, "run"), model=model, tokenizer=os.path.join(out, "tokenizer"),
                        data=DataConfig(dataset=train), include_bias=True, token_batch_size=positions,
                        precision="bf16" if a.precision == "bf16" else "fp32", overwrite=True)
    hessian = HessianConfig(method="kfac", ev_correction=True)
    whole = HessianPipelineConfig(query=QuerySetConfig(dataset=queries, aggregation="none"),
                                  inversion_cfg=InversionConfig(damping_factor=0.1, apply_batch_size=spec["n_queries"]))
    stages = side.Stages(precision=a.precision, threads=a.threads)

    def timed(name, function):
        return lambda *arguments, **options: stages.run(name, lambda: function(*arguments, **options))

    # the steps as the command calls them, with a clock around each
    pipeline.build_query = timed("queries", pipeline.build_query)
    pipeline.approximate_hessians = timed("factors", pipeline.approximate_hessians)
    pipeline.launch_distributed_run = timed("inverse", pipeline.launch_distributed_run)
    pipeline.score_dataset = timed("train scores", pipeline.score_dataset)
    pipeline.hessian_pipeline(index, hessian, ScoreConfig(batch_size=spec["n_train"]), PreprocessConfig(), whole)
    stages.finish(os.path.join(out, "run", "scores"))


if __name__ == "__main__":
    main()
