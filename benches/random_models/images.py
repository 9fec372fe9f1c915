"""ViT and ResNet; images are tensors of random numbers."""

import torch
import transformers

from . import case as cases
from . import saved
from .compare import is_inside_blocks


def vit(draw, channels):
    size = draw.one(8, 12, (8, 12))
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=draw.one(1, 2), num_attention_heads=draw.one(2, 4),
        intermediate_size=draw.one(20, 32), hidden_act=draw.one("gelu", "relu"), layer_norm_eps=draw.one(1e-12, 1e-3),
        image_size=size, patch_size=draw.one(2, 4), num_channels=channels, qkv_bias=draw.one(True, False),
    )
    return transformers.ViTForImageClassification, config, size if isinstance(size, tuple) else (size, size)


def resnet(draw, channels):
    kind, stages = draw.one("basic", "bottleneck"), draw.one(1, 2, 3)
    widths = {"basic": [8, 16, 16], "bottleneck": [8, 16, 32]}[kind]
    config = transformers.ResNetConfig(
        num_channels=channels, embedding_size=8, hidden_sizes=widths[:stages], depths=[draw.one(1, 2) for _ in range(stages)],
        layer_type=kind, hidden_act=draw.one("relu", "gelu"), downsample_in_first_stage=draw.one(True, False),
        downsample_in_bottleneck=draw.one(True, False),
    )
    return transformers.ResNetForImageClassification, config, draw.one((16, 16), (20, 24))


def classifier(family, draw, folder):
    channels = draw.one(1, 3)
    kind, config, size = {"vit": vit, "resnet": resnet}[family](draw, channels)
    problem = draw.one("single_label_classification", "multi_label_classification")
    classes = draw.one(2, 3)
    config.problem_type, config.num_labels = problem, classes
    model = kind(config).eval()
    saved.randomize(model, draw)
    saved.save(model, folder, draw)

    rows = cases.random_rows(lambda: {"image": torch.randn(channels, *size), "label": draw.target(problem, classes)})
    tensors = {
        name: {"inputs": torch.stack([row["image"] for row in some]), "targets": torch.tensor([row["label"] for row in some])}
        for name, some in rows.items()
    }

    def loss(model, row):
        image = row["image"].to(next(model.parameters()).dtype)
        return cases.loss_of_label(model(pixel_values=image[None]).logits, row["label"], problem)

    return cases.Case(
        folder=folder, model=kind.from_pretrained(folder, dtype=torch.float32).eval(), files=saved.weights_of(folder),
        rows=rows, loss=loss, tensors=tensors,
        is_expected=lambda name, part: is_inside_blocks(name, part) and not name.startswith("classifier"),
    )


FAMILIES = {"vit": classifier, "resnet": classifier}
