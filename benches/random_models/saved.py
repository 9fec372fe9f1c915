"""Random weights, and how they are stored and read back."""

import pathlib

import torch
from transformers import AutoConfig


def randomize(model, draw):
    """Weights large enough that every path through the model shows in its loss; norms stay near 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * draw.one(0.15, 0.3))
            elif any(part in name.lower() for part in ("norm", "ln", "normalization")):
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    # where the head is the embedding it was drawn twice
    if hasattr(model, "tie_weights"):
        model.tie_weights()


def save(model, folder, draw):
    """Stores the model in f32 or rounded to 16 bits, in one file or in shards of 20 KB."""
    dtype = draw.one(torch.float32, torch.float32, torch.bfloat16, torch.float16)
    options = {"max_shard_size": "20KB"} if draw.chance(0.3) else {}
    model.to(dtype).save_pretrained(folder, **options)


def weights_of(folder):
    return sorted(pathlib.Path(folder).glob("*.safetensors"))


def build(auto_class, config):
    """A model of the class that transformers chooses for the configuration, with eager attention."""
    return auto_class.from_config(config, attn_implementation="eager").eval()


def load(auto_class, folder, **options):
    """The stored model; rounded weights are taken as they are and computed with in 32 bits."""
    # the other implementations of experts have no f64
    options.update(attn_implementation="eager", experts_implementation="eager", dtype=torch.float32)
    model = auto_class.from_pretrained(folder, **options).eval()
    stored = AutoConfig.from_pretrained(folder).dtype
    for module in model.modules():
        # Gemma's factor of embeddings has the type of the weights, so that it was rounded with them where they were trained
        # or run as they are stored
        if hasattr(module, "embed_scale"):
            module.embed_scale.copy_(module.embed_scale.to(stored))
    return model
