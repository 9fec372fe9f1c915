"""What ascribe makes of a run's raw file, and whether the trainer made the same."""

import subprocess

import torch
from safetensors import safe_open

from . import training
from .texts import is_conversation
from .tokenizers import PACKAGE, TEMPLATES

# of the largest score; sums of a few thousand products in f32
TOLERANCE = 1e-4


def flags(trained):
    """What docs/data.md says of such a run: what its record does not say, or asks for."""
    found, settings = [], trained.settings
    if not is_conversation(trained.rows.form):
        found += [["--add-eos", "train"]]
    if settings.get("packing_strategy") == "wrapped":
        found += [["--pack", f"{settings['max_length']}:1000:keep"]]
    elif settings["max_length"]:
        found += [["--max-length", str(settings["max_length"])]]
    if trained.settings.get("completion_only_loss") is False and trained.rows.form == "prompt-completion":
        found += [["--loss-on", "all"]]
    own = training_template(trained)
    if own:
        found += [["--chat-template", str(own)]]
    return found


def training_template(trained):
    """TRL's own template in place of one without marks, if it has one."""
    if not trained.settings.get("assistant_only_loss") or "chat_template_path" in trained.settings:
        return None
    path = PACKAGE / f"{trained.template}_training.jinja"
    has_marks = "{% generation %}" in TEMPLATES[trained.template]
    return path if path.exists() and not has_marks else None


def judge(binary, trained, draw, careless):
    """`(verdict, words)`."""
    chosen = [flag for flag in flags(trained) if not careless or draw.chance(0.5)]
    is_run = draw.chance(0.4) and len(list(trained.run.glob("checkpoint-*"))) > 1
    where = ["--run", trained.run] if is_run else ["--model", trained.checkpoint]
    out = trained.folder / "run"
    command = [binary, "influence", *where, "--train", trained.raw, "--queries", trained.queries, "--out", out]
    command += ["--curvature", "identity", "--measure", "loss", "--threads", "1", *sum(chosen, [])]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    (trained.folder / "command.txt").write_text(" ".join(str(part) for part in command) + "\n")
    said = f"{trained.words()} {' '.join(sum(chosen, []))}"
    if process.returncode != 0:
        message = process.stderr[max(process.stderr.rfind("error:"), 0) :].strip().replace("\n", " | ")
        is_refused = message.startswith("error:") and "panicked" not in process.stderr
        return ("refused" if is_refused else "WRONG"), f"{message} || {said}"
    with safe_open(out / "scores.safetensors", "pt") as file:
        found = file.get_tensor("scores").double()
    difference = differs(found, training.scores(trained))
    if difference is None:
        return "agreed", said
    kinds = ("warning", "note", "tokens", "train", "loss")
    plan = [line.strip() for line in process.stderr.splitlines() if line.startswith(kinds)]
    # what is read otherwise than the trainer recorded; with all flags only that for which there is no flag
    is_named = any("scores are of the examples as they are read" in line for line in plan)
    is_warned = any(line.startswith("warning") for line in plan)
    verdict = "announced" if is_named or careless and is_warned else "WRONG"
    return verdict, f"{difference} || {said}\n      " + "\n      ".join(plan)


def differs(found, expected):
    """How scores differ, in words. The order of examples is the file's; packing whole examples has another, so that
    columns are compared as a set."""
    largest = expected.abs().max().clamp_min(1e-12)
    columns, left = list(expected.T), []
    nothing = [column for column in columns if column.abs().max() == 0]
    for column in found.T:
        same = ((column - other).abs().max() <= TOLERANCE * largest for other in columns)
        place = next((at for at, is_same in enumerate(same) if is_same), None)
        if place is None:
            left.append(column)
        else:
            columns.pop(place)
    # an example without a target changes no weight, and ascribe leaves it out
    columns = [column for column in columns if column.abs().max() > 0]
    if not left and not columns:
        return None
    scale = ""
    if found.shape == expected.shape and torch.isfinite(found).all():
        ratio = (found * expected).sum() / (expected * expected).sum()
        scale = f", ratio {ratio:.4f}, in order {(found - expected).abs().max() / largest:.1e}"
    return f"{len(left)} of {found.shape[1]} columns are not among {expected.shape[1]} ({len(nothing)} of zeros){scale}"
