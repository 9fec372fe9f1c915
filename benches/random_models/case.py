"""A case: a model in a folder, rows, and what PyTorch says of them."""

import copy
import dataclasses
import json
import pathlib
import typing

import torch
import torch.nn.functional as functional

IGNORED = -100
TRAIN, QUERIES = 4, 2


@dataclasses.dataclass
class Case:
    """`loss` takes the model and a row, and gives what ascribe measures of it: a sum over target tokens, or the loss of
    one label. `files` are those that the tracked parameters were stored in."""

    folder: pathlib.Path
    model: torch.nn.Module
    files: list
    rows: dict
    loss: typing.Callable
    options: list = dataclasses.field(default_factory=list)
    # the model whose parameters have the numbers in `files`, where those of `model` were changed since
    stored: torch.nn.Module = None
    # whether a parameter has to be tracked
    is_expected: typing.Callable = None
    # tensors instead of rows: {"train": {"inputs": …, "targets": …}, …}
    tensors: dict = None


def random_rows(row):
    """Training rows and queries of what `row()` draws."""
    return {name: [row() for _ in range(count)] for name, count in (("train", TRAIN), ("queries", QUERIES))}


def write_rows(case):
    """The files of the two arguments `--train` and `--queries`."""
    from safetensors.torch import save_file

    written = []
    for name, rows in case.rows.items():
        if case.tensors:
            path = case.folder / f"{name}.safetensors"
            save_file(case.tensors[name], path)
        else:
            path = case.folder / f"{name}.jsonl"
            lines = [json.dumps({"id": f"{name}-{place}", **row}) for place, row in enumerate(rows)]
            path.write_text("\n".join(lines) + "\n")
        written.append(path)
    return written


def losses_and_scores(case, names, double):
    """PyTorch's loss of every query and `gradient · gradient / N` of every query and training row, over the parameters
    `names`; `[Q]` and `[Q, N]` in f64."""
    model = copy.deepcopy(case.model)
    model = model.double() if double else model.float()
    for module in model.modules():
        # GPT-2's attention in 32 bits refuses f64, which needs none
        if double and hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False
    parameters = dict(model.named_parameters())

    def gradient(row):
        model.zero_grad()
        loss = case.loss(model, row)
        loss.backward()
        parts = [parameters[name] for name in names]
        zeros = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
        return loss.item(), torch.cat([part.flatten().double() for part in zeros])

    train = [gradient(row)[1] for row in case.rows["train"]]
    asked = [gradient(row) for row in case.rows["queries"]]
    scores = torch.stack([torch.stack([query @ one for one in train]) for _, query in asked]) / len(train)
    return torch.tensor([loss for loss, _ in asked], dtype=torch.float64), scores


def loss_of_next_tokens(model, row):
    ids = torch.tensor([row["input_ids"]])
    labels = torch.tensor(row.get("labels", row["input_ids"]))
    logits = model(input_ids=ids).logits[0]
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=IGNORED)


def loss_of_label(logits, target, problem):
    """transformers' loss of one row of logits, `[1, classes]`."""
    if problem == "regression":
        return functional.mse_loss(logits.flatten(), torch.tensor([target]).flatten().to(logits.dtype))
    if problem == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits[0], torch.tensor(target).to(logits.dtype))
    return functional.cross_entropy(logits, torch.tensor([target]))
