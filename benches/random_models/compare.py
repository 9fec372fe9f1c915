"""What ascribe says of a case, and whether PyTorch says the same."""

import json
import re
import subprocess

import torch
from safetensors import safe_open

from . import case as cases

# of the largest number of the list: 30 times what PyTorch's own f32 differs from its f64, and not less than this.
# Sums of a few thousand products of numbers rounded at 6e-8 differ by about 1e-6 where nothing cancels.
LOSS_FLOOR, SCORE_FLOOR, OWN_ROUNDING = 1e-5, 1e-4, 30.0


def run_ascribe(binary, case):
    """`(results, message)`: `results` is None if the job was refused."""
    train, queries = cases.write_rows(case)
    out = case.folder / "run"
    command = [binary, "influence", "--model", case.folder, "--train", train, "--queries", queries, "--measure", "loss"]
    command += ["--curvature", "identity", "--out", out, "--quiet", "--threads", "1", *case.options]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if process.returncode != 0:
        return None, process.stderr.strip()
    with safe_open(out / "scores.safetensors", "pt") as file:
        return {
            "scores": file.get_tensor("scores").double(),
            "losses": file.get_tensor("measurements").double(),
            "layers": json.loads(file.metadata()["layers"]),
        }, process.stderr.strip()


def judge(binary, case):
    """`(verdict, words)`; verdicts are `agreed`, `refused` and `WRONG`."""
    results, message = run_ascribe(binary, case)
    if results is None:
        refused = message.startswith("error:") and "panicked" not in message
        return ("refused" if refused else "WRONG"), message.replace("\n", " | ")
    names = parameters_of(results["layers"], case)
    expected = [name for name, part in case.model.named_parameters() if case.is_expected(name, part)]
    missing = sorted(set(expected) - set(names))
    losses, scores = cases.losses_and_scores(case, names, double=True)
    own_losses, own_scores = cases.losses_and_scores(case, names, double=False)
    loss_error, score_error = relative(results["losses"], losses), relative(results["scores"], scores)
    loss_bound = LOSS_FLOOR + OWN_ROUNDING * relative(own_losses, losses)
    score_bound = SCORE_FLOOR + OWN_ROUNDING * relative(own_scores, scores)
    words = f"loss {loss_error:.1e} (bound {loss_bound:.1e}), scores {score_error:.1e} (bound {score_bound:.1e})"
    words += f", {len(results['layers'])} layers, {len(names)} parameters"
    if missing:
        words += f", not tracked: {', '.join(missing)}"
    is_right = loss_error <= loss_bound and score_error <= score_bound and not missing
    return ("agreed" if is_right else "WRONG"), words


def relative(found, expected):
    """Largest difference as a share of the largest expected number; not finite counts as infinite."""
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return error.item() if error.isfinite() else float("inf")


def parameters_of(layers, case):
    """The names of the model's parameters that ascribe tracked.

    A layer is called as its tensors are in the file, which is not always how the module is called in memory, so a
    parameter is known by its numbers, which are random. Experts that are one parameter in memory are known by a part.
    """
    parameters = dict((case.stored or case.model).named_parameters())
    stored = {}
    for path in case.files:
        with safe_open(path, "pt") as file:
            stored.update({name: file.get_tensor(name).float() for name in file.keys()})
    found = {}
    for layer in layers:
        tensors = [stored[name] for name in (f"{layer}.weight", f"{layer}.bias", layer) if name in stored]
        tensors = tensors or parts_of_experts(layer, stored)
        if not tensors:
            raise LookupError(f"layer {layer} is in no file")
        for tensor in tensors:
            name = next((name for name, parameter in parameters.items() if is_within(tensor, parameter)), None)
            if name is None:
                raise LookupError(f"no parameter has the numbers of layer {layer}")
            found[name] = None
    return list(found)


def parts_of_experts(layer, stored):
    """The tensor of all experts of which a layer is one: `…experts.3.down_proj` in `…experts.down_proj`."""
    joined = re.sub(r"\.experts\.\d+\.", ".experts.", layer)
    halves = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
    head, _, last = joined.rpartition(".")
    return [stored[name] for name in (joined, f"{head}.{halves.get(last, last)}") if name in stored][:1]


def is_within(tensor, parameter):
    """Whether the tensor is the parameter, or an expert's part of it."""
    if tensor.shape == parameter.shape:
        return torch.equal(tensor, parameter)
    if parameter.dim() != 3 or tensor.dim() != 2:
        return False
    if parameter.shape[1] % tensor.shape[0] or parameter.shape[2] != tensor.shape[1]:
        return False
    parts = parameter.reshape(-1, *tensor.shape)
    return bool((parts == tensor).all(dim=(1, 2)).any())


def is_inside_blocks(name, parameter):
    """Weights of layers of blocks: they have two dimensions or more, and a number in the name."""
    is_embedding = "relative_attention_bias" in name
    return parameter.dim() > 1 and not is_embedding and any(part.isdigit() for part in name.split("."))
