"""T5 and mT5."""

import torch
import torch.nn.functional as functional
import transformers

from . import case as cases
from . import saved
from .compare import is_inside_blocks
from .draw import PADDING, VOCABULARY

CLASSES = {
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
}


def configuration(family, draw):
    return CLASSES[family][0](
        vocab_size=VOCABULARY, d_model=draw.one(16, 32), d_kv=draw.one(4, 8), d_ff=draw.one(20, 40),
        num_layers=draw.one(1, 2), num_decoder_layers=draw.one(None, 1, 3), num_heads=draw.one(2, 4),
        relative_attention_num_buckets=draw.one(8, 32), relative_attention_max_distance=draw.one(8, 128),
        layer_norm_epsilon=draw.one(1e-6, 1e-2), feed_forward_proj=draw.one("relu", "gated-gelu", "gated-silu", "gelu"),
        tie_word_embeddings=draw.one(True, False), decoder_start_token_id=PADDING, pad_token_id=PADDING, eos_token_id=1,
    )


def built(family, draw):
    model = CLASSES[family][1]._from_config(configuration(family, draw), attn_implementation="eager").eval()
    saved.randomize(model, draw)
    return model


def row(draw):
    answer = [draw.number(3, VOCABULARY - 1) for _ in range(draw.number(1, 12))]
    return {"input_ids": draw.tokens(1, 20), "labels": answer}


def loss(model, row):
    labels = torch.tensor([row["labels"]])
    logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
    return functional.cross_entropy(logits[0], labels[0], reduction="sum")


def language_model(family, draw, folder):
    saved.save(built(family, draw), folder, draw)
    return cases.Case(
        folder=folder, model=saved.load(CLASSES[family][1], folder), files=saved.weights_of(folder),
        rows=cases.random_rows(lambda: row(draw)), loss=loss, is_expected=is_inside_blocks,
    )


FAMILIES = {"t5": language_model, "mt5": language_model}
