#!/usr/bin/env python3
"""Speed and memory of one family: `ascribe fit` beside PyTorch's forward and backward of the same model.

    python3 benches/family_speed.py --list
    python3 benches/family_speed.py --binary target/release/ascribe --row qwen2
    python3 benches/family_speed.py --binary target/release/ascribe --row qwen2.5-0.5b --repeats 3 --threads 2
    python3 benches/family_speed.py --binary target/release/ascribe --row bert --operations

Each row is made on the spot: a model of the given shape with random weights, saved by transformers (a network of plain
PyTorch: with the description that ascribe reads), and random data, of which every example has the same length, so that
neither side pads. PyTorch runs forward and backward of the trained parameters in batches of the same size, each side in a
process of its own, in turn, `--repeats` times. One line of a table comes out:

    row, positions a second of fit's covariance and Lambda passes, of PyTorch's pass, their ratio, what the ratio would be
    if both computed equally fast, peak memory of both and its ratio

What it would be is PyTorch's operations, counted by its own counter, over the mean of those of fit's passes, which are
what `ascribe plan` says: forward, gradients of activations, and the curvature's products, in place of gradients of
weights. With --operations that number is all that is printed, and nothing is timed. A pass of `fit` is a forward and a backward pass with the curvature's work beside it; it makes two, each counted by itself.
Eigendecompositions depend on no data and are not in the rates. A position is a token of a text, and of an image a patch or
pixel, as `--batch-tokens` counts them. Times of a busy machine mean nothing. It needs torch, transformers, safetensors, and
peft for adapters.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8, vocab_size=4096,
             max_position_embeddings=512)
GROUPED = dict(WIDTH, num_key_value_heads=4)
EXPERTS = dict(GROUPED, moe_intermediate_size=256, num_experts=8, num_experts_per_tok=2)
ENCODER = dict(WIDTH, num_labels=4)
CAUSAL, TEXTS, MASKED, PAIRS, IMAGES, PLAIN = "causal", "texts", "masked", "pairs", "images", "plain"

# row: (class of the model, model_type, settings, examples, length of an example or size of an image)
ROWS = {
    "gpt2": (CAUSAL, "gpt2", dict(n_embd=256, n_layer=4, n_head=8, vocab_size=4096, n_positions=512), 128, 256),
    **{kind: (CAUSAL, kind, GROUPED, 128, 256)
       for kind in ["llama", "qwen2", "qwen3", "mistral", "phi3", "olmo", "olmo2", "olmo3", "smollm3"]},
    **{kind: (CAUSAL, kind, dict(GROUPED, head_dim=32, query_pre_attn_scalar=32, sliding_window=128), 128, 256)
       for kind in ["gemma", "gemma2", "gemma3_text"]},
    "gpt_neox": (CAUSAL, "gpt_neox", WIDTH, 128, 256),
    "gptj": (CAUSAL, "gptj", dict(n_embd=256, n_layer=4, n_head=8, rotary_dim=16, vocab_size=4096, n_positions=512), 128, 256),
    "opt": (CAUSAL, "opt", dict(hidden_size=256, ffn_dim=1024, num_hidden_layers=4, num_attention_heads=8, vocab_size=4096,
                                max_position_embeddings=512, word_embed_proj_dim=256), 128, 256),
    "mixtral": (CAUSAL, "mixtral", dict(GROUPED, num_local_experts=8, num_experts_per_tok=2, intermediate_size=256), 64, 256),
    "qwen2_moe": (CAUSAL, "qwen2_moe", dict(EXPERTS, shared_expert_intermediate_size=256), 64, 256),
    "qwen3_moe": (CAUSAL, "qwen3_moe", dict(EXPERTS, head_dim=32), 64, 256),
    "olmoe": (CAUSAL, "olmoe", dict(EXPERTS, intermediate_size=256), 64, 256),
    "qwen2-classifier": (TEXTS, "qwen2", dict(GROUPED, num_labels=4, pad_token_id=0), 128, 256),
    **{kind: (TEXTS, kind, ENCODER, 128, 256) for kind in ["bert", "roberta", "xlm-roberta", "modernbert"]},
    "deberta-v2": (TEXTS, "deberta-v2", dict(ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
                                             position_buckets=64, norm_rel_ebd="layer_norm", position_biased_input=False,
                                             type_vocab_size=0), 64, 256),
    "distilbert": (TEXTS, "distilbert", dict(dim=256, hidden_dim=1024, n_layers=4, n_heads=8, vocab_size=4096, num_labels=4),
                   128, 256),
    "bert-masked": (MASKED, "bert", WIDTH, 128, 256),
    "t5": (PAIRS, "t5", dict(d_model=256, d_kv=32, d_ff=1024, num_layers=4, num_heads=8, vocab_size=4096,
                             decoder_start_token_id=0), 128, 256),
    "vit": (IMAGES, "vit", dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
                                image_size=64, patch_size=8, num_labels=10), 256, 64),
    "resnet": (IMAGES, "resnet", dict(embedding_size=32, hidden_sizes=[64, 128, 256], depths=[2, 2, 2], layer_type="basic",
                                      num_labels=10), 128, 64),
    "cnn": (PLAIN, "cnn", {}, 256, 32),
    "qwen2-lora": (CAUSAL, "qwen2", GROUPED, 128, 256),
    # published shapes
    "qwen2.5-0.5b": (CAUSAL, "qwen2", dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                                           num_key_value_heads=2, vocab_size=151936, max_position_embeddings=512,
                                           tie_word_embeddings=True), 8, 256),
    "qwen2.5-0.5b-lora": (CAUSAL, "qwen2", dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                                                num_attention_heads=14, num_key_value_heads=2, vocab_size=151936,
                                                max_position_embeddings=512, tie_word_embeddings=True), 8, 256),
    "pythia-160m": (CAUSAL, "gpt_neox", dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                             num_attention_heads=12, vocab_size=50304, max_position_embeddings=512), 16, 256),
    "bert-base": (TEXTS, "bert", dict(num_labels=2), 32, 256),
    "vit-b-16": (IMAGES, "vit", dict(num_labels=1000), 32, 224),
    "resnet-50": (IMAGES, "resnet", dict(num_labels=1000), 32, 224),
}


def plain():
    """A ResNet-9 of plain PyTorch, and what ascribe reads of it."""
    import torch

    spec = importlib.util.spec_from_file_location("images", ROOT / "fixtures/generators/images.py")
    images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(images)
    nn = torch.nn

    def unit(inputs, outputs, *more):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), *more)

    model = nn.Sequential(
        unit(3, 64), unit(64, 128, nn.MaxPool2d(2)), images.Residual(nn.Sequential(unit(128, 128), unit(128, 128))),
        unit(128, 256, nn.MaxPool2d(2)), unit(256, 256, nn.MaxPool2d(2)),
        images.Residual(nn.Sequential(unit(256, 256), unit(256, 256))), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    )
    config = dict(model_type="cnn", num_channels=3, image_size=[32, 32], num_labels=10,
                  problem_type="single_label_classification", modules=images.described(model, ""))
    return model, config


def model_of(row, **more):
    """The model with random weights, as it is before an adapter lies over it."""
    import torch
    from transformers import AutoConfig
    import transformers

    kind, model_type, settings, *_ = ROWS[row]
    torch.manual_seed(0)
    if kind == PLAIN:
        return plain()[0]
    if "vocab_size" in settings:
        # those of the class may lie beyond this vocabulary
        settings = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2) | settings
    config = AutoConfig.for_model(model_type, **settings)
    classes = {CAUSAL: "AutoModelForCausalLM", TEXTS: "AutoModelForSequenceClassification", MASKED: "AutoModelForMaskedLM",
               PAIRS: "AutoModelForSeq2SeqLM", IMAGES: "AutoModelForImageClassification"}
    return getattr(transformers, classes[kind]).from_config(config, **more)


def adapted(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def data_of(row):
    """Inputs and targets of all examples, as tensors."""
    import torch

    kind, _, settings, examples, size = ROWS[row]
    torch.manual_seed(1)
    if kind in (IMAGES, PLAIN):
        return torch.randn(examples, 3, size, size), torch.randint(0, settings.get("num_labels", 10), (examples,))
    ids = torch.randint(5, settings.get("vocab_size", 30000), (examples, size))
    if kind == TEXTS:
        return ids, torch.randint(0, settings["num_labels"], (examples,))
    if kind == MASKED:
        return ids, ids.masked_fill(torch.rand(ids.shape) > 0.15, -100)
    return ids, ids if kind == CAUSAL else torch.randint(5, settings["vocab_size"], (examples, size // 2))


def write(row, folder):
    """The checkpoint and its data: paths that `ascribe fit` takes."""
    from safetensors.torch import save_file

    kind = ROWS[row][0]
    model, (inputs, targets) = model_of(row).eval(), data_of(row)
    checkpoint = folder / "model"
    if kind == PLAIN:
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(plain()[1]))
        save_file(model.state_dict(), checkpoint / "model.safetensors")
    else:
        model.save_pretrained(checkpoint)
    arguments = []
    if row.endswith("-lora"):
        adapted(model).save_pretrained(folder / "adapter")
        arguments, checkpoint = ["--base", str(checkpoint)], folder / "adapter"
    if kind in (IMAGES, PLAIN):
        data = folder / "train.safetensors"
        save_file({"inputs": inputs, "targets": targets}, data)
    else:
        data = folder / "train.jsonl"
        keys = {CAUSAL: None, TEXTS: "label", MASKED: "labels", PAIRS: "labels"}[kind]
        with open(data, "w") as file:
            for one, target in zip(inputs.tolist(), targets.tolist()):
                file.write(json.dumps({"input_ids": one} | ({keys: target} if keys else {})) + "\n")
    return ["--model", str(checkpoint), "--train", str(data), *arguments]


def positions_of(row):
    """Positions of an example, as ascribe counts them."""
    kind, model_type, settings, _, size = ROWS[row]
    if kind == PAIRS:
        return size + size // 2
    if model_type == "vit":
        return (size // settings.get("patch_size", 16)) ** 2 + 1
    return size * size if kind in (IMAGES, PLAIN) else size


def of_torch(row, **more):
    """PyTorch's forward and backward of some examples, as a function of them, and all examples."""
    import torch

    kind = ROWS[row][0]
    model, data = model_of(row, **more).eval(), data_of(row)
    model = adapted(model).eval() if row.endswith("-lora") else model

    def step(some, wanted):
        if kind in (IMAGES, PLAIN):
            logits = model(some) if kind == PLAIN else model(pixel_values=some).logits
            loss = torch.nn.functional.cross_entropy(logits, wanted)
        else:
            loss = model(input_ids=some, labels=wanted).loss
        loss.backward()
        model.zero_grad()

    return step, data


def torch_pass(row, batch, threads):
    """Forward and backward over all examples, in this process: seconds and peak memory on stdout."""
    import torch

    torch.set_num_threads(threads)
    step, (inputs, targets) = of_torch(row)
    step(inputs[:batch], targets[:batch])
    start = time.monotonic()
    for first in range(0, len(inputs), batch):
        step(inputs[first : first + batch], targets[first : first + batch])
    seconds = time.monotonic() - start
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def torch_operations(row):
    """Operations of forward and backward of all examples, on stdout."""
    from torch.utils.flop_counter import FlopCounterMode

    # its counter does not know fused attention on a CPU
    more = {} if ROWS[row][0] == PLAIN else dict(attn_implementation="eager")
    step, (inputs, targets) = of_torch(row, **more)
    with FlopCounterMode(display=False) as counter:
        step(inputs[:1], targets[:1])
    print(json.dumps({"operations": counter.get_total_flops() * len(inputs)}))


def at_equal_speed(row, binary, arguments, folder, examples):
    """PyTorch's operations over the mean of those of fit's passes."""
    command = [sys.executable, __file__, "--torch-operations", row, "--examples", str(examples)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    other = json.loads(run.stdout.splitlines()[-1])["operations"]
    command = [binary, "plan", *arguments, "--out", str(folder), "--format", "json"]
    plan = json.loads(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    own = {stage["stage"]: sum(work["flop"] for work in stage["work"]) for stage in plan["cost"]["stages"]}
    return 2 * other / (own["covariance"] + own["lambda"])


def fit(binary, arguments, folder, threads):
    """Seconds of the covariance and the Lambda pass, and the process's peak memory."""
    command = [binary, "fit", *arguments, "--out", str(folder), "--threads", str(threads), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed")
    stages = json.loads((folder / "run.json").read_text())["stages"]
    seconds = {stage["stage"]: stage["seconds"] for stage in stages}
    return seconds["covariance"], seconds["lambda"], usage.ru_maxrss * 1024


def count(row, binary):
    """The row and its ratio at equal speed."""
    with tempfile.TemporaryDirectory() as scratch:
        ratio = at_equal_speed(row, binary, write(row, Path(scratch)), Path(scratch) / "run", ROWS[row][3])
    return f"| {row} | {ratio:.2f} |"


def measure(row, binary, repeats, threads, tokens):
    """One line of the table: medians."""
    examples, positions = ROWS[row][3], positions_of(row)
    batch = max(1, min(examples, tokens // positions))
    own, other = [], []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = write(row, Path(scratch))
        for n in range(repeats):
            command = [sys.executable, __file__, "--torch-pass", row, "--batch", str(batch), "--threads", str(threads),
                       "--examples", str(examples)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            other.append(json.loads(run.stdout.splitlines()[-1]))
            own.append(fit(binary, arguments, Path(scratch) / f"run-{n}", threads))
        equal = at_equal_speed(row, binary, arguments, Path(scratch) / "planned", examples)
    rate = lambda seconds: examples * positions / statistics.median(seconds)
    covariance, lambda_, torch = (rate(seconds) for seconds in (
        [one[0] for one in own], [one[1] for one in own], [one["seconds"] for one in other]))
    peak, of_torch = statistics.median(one[2] for one in own), statistics.median(one["peak"] for one in other)
    both = 2 / (1 / covariance + 1 / lambda_)
    return (f"| {row} | {covariance:.0f} | {lambda_:.0f} | {torch:.0f} | {both / torch:.2f} | {equal:.2f} | {peak / 2**20:.0f} "
            f"| {of_torch / 2**20:.0f} | {peak / of_torch:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="names of the rows")
    parser.add_argument("--row", choices=ROWS, help="the one to measure")
    parser.add_argument("--binary", help="an optimised `ascribe`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--examples", type=int, help="fewer examples than the row has, to try the script")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="positions of a batch of PyTorch's")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--operations", action="store_true", help="count operations, and time nothing")
    parser.add_argument("--torch-operations", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--torch-pass", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.examples:
        for row, (*shape, _, size) in ROWS.items():
            ROWS[row] = (*shape, given.examples, size)
    if given.list:
        return print("\n".join(ROWS))
    if given.torch_pass:
        return torch_pass(given.torch_pass, given.batch, given.threads)
    if given.torch_operations:
        return torch_operations(given.torch_operations)
    if not (given.row and given.binary):
        parser.error("--row and --binary are needed")
    if given.operations:
        return print(count(given.row, given.binary))
    print("| row | covariance, positions/s | Lambda | PyTorch | fit / PyTorch | at equal speed | peak MiB | PyTorch's | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(measure(given.row, given.binary, given.repeats, given.threads, given.batch_tokens))


if __name__ == "__main__":
    main()
