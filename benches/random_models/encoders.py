"""BERT and its relatives, as classifiers and as models that fill in masked tokens."""

import torch
import torch.nn.functional as functional
import transformers
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from ..random_cases import NotBuilt
from . import case as cases
from . import saved
from .compare import is_inside_blocks
from .draw import PADDING, VOCABULARY

POSITIONS = 40


def sizes(draw):
    return dict(
        vocab_size=VOCABULARY, hidden_size=draw.one(16, 32), num_hidden_layers=draw.one(1, 2),
        num_attention_heads=draw.one(2, 4), intermediate_size=draw.one(20, 36), max_position_embeddings=POSITIONS,
        pad_token_id=PADDING,
    )


def bert(draw):
    return transformers.BertConfig(
        **sizes(draw), hidden_act=draw.one("gelu", "gelu_new", "relu", "silu"), layer_norm_eps=draw.one(1e-12, 1e-3),
        type_vocab_size=draw.one(1, 2),
    )


def roberta(draw, kind=transformers.RobertaConfig):
    # positions are counted from the padding token's id on
    return kind(
        **{**sizes(draw), "pad_token_id": draw.one(0, 1)}, hidden_act=draw.one("gelu", "gelu_new", "relu"),
        layer_norm_eps=draw.one(1e-12, 1e-3), type_vocab_size=draw.one(1, 2),
    )


def xlm_roberta(draw):
    return roberta(draw, transformers.XLMRobertaConfig)


def distilbert(draw):
    return transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=draw.one(1, 2), n_heads=2, hidden_dim=draw.one(20, 32),
        max_position_embeddings=POSITIONS, activation=draw.one("gelu", "relu"), sinusoidal_pos_embds=draw.one(True, False),
    )


def modernbert(draw):
    keys = sizes(draw)
    keys.update(cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)
    return transformers.ModernBertConfig(
        **keys, hidden_activation=draw.one("gelu", "silu"), norm_eps=draw.one(1e-5, 1e-2), norm_bias=draw.one(True, False),
        attention_bias=draw.one(True, False), mlp_bias=draw.one(True, False), global_attn_every_n_layers=draw.one(1, 2, 3),
        local_attention=draw.one(4, 8, 128), classifier_pooling=draw.one("cls", "mean"),
        classifier_bias=draw.one(True, False), classifier_activation=draw.one("gelu", "relu"),
        decoder_bias=draw.one(True, False),
    )


def deberta_v2(draw):
    """Version 2 and 3 are one class; version 3 shares the layers of contents and distances."""
    keys = sizes(draw)
    keys.update(
        hidden_act=draw.one("gelu", "gelu_new", "relu"), layer_norm_eps=draw.one(1e-7, 1e-3),
        type_vocab_size=draw.one(0, 0, 2), position_biased_input=draw.one(True, False), relative_attention=not draw.chance(0.2),
        pos_att_type=draw.one(["p2c", "c2p"], ["p2c", "c2p"], "p2c|c2p", ["c2p"], ["p2c"], []),
        share_att_key=draw.one(True, False), norm_rel_ebd=draw.one("layer_norm", "none"), legacy=draw.one(True, False),
        pooler_hidden_act=draw.one("gelu", "tanh"),
    )
    if draw.chance(0.5):
        keys["position_buckets"] = draw.one(4, 6, 16)
    if draw.chance(0.5):
        keys["max_relative_positions"] = draw.one(6, 20, 40)
    if draw.chance(0.1):
        keys["conv_kernel_size"] = 3
    return transformers.DebertaV2Config(**keys)


CONFIGURATIONS = {
    "bert": bert, "roberta": roberta, "xlm-roberta": xlm_roberta, "distilbert": distilbert, "modernbert": modernbert,
    "deberta-v2": deberta_v2,
}


def configuration(family, draw):
    try:
        return CONFIGURATIONS[family](draw)
    except Exception as error:
        raise NotBuilt(f"{family}: {error}") from error


def problem_of(draw):
    """A problem and its number of outputs."""
    problem = draw.one("single_label_classification", "single_label_classification", "multi_label_classification", "regression")
    return problem, draw.one(1, 3) if problem == "regression" else draw.one(2, 3, 5)


def has_token_types(config):
    return getattr(config, "type_vocab_size", 0) == 2 and config.model_type in ("bert", "deberta-v2")


def random_row(draw, config):
    """Ids, and in half of all rows of a model of pairs the two texts' types."""
    row = {"input_ids": draw.tokens(2, 24)}
    if has_token_types(config) and draw.chance(0.5):
        first = draw.number(1, len(row["input_ids"]))
        row["token_type_ids"] = [0] * first + [1] * (len(row["input_ids"]) - first)
    return row


def inputs(row):
    """A row as the model takes it: all of its tokens are attended to."""
    ids = torch.tensor([row["input_ids"]])
    types = {"token_type_ids": torch.tensor([row["token_type_ids"]])} if "token_type_ids" in row else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **types}


def loss_of_masked(model, row):
    return functional.cross_entropy(
        model(**inputs(row)).logits[0], torch.tensor(row["labels"]), reduction="sum", ignore_index=cases.IGNORED
    )


def add_masked_labels(row, draw):
    row["labels"] = [draw.number(3, VOCABULARY - 1) if draw.chance(0.4) else cases.IGNORED for _ in row["input_ids"]]
    row["labels"][draw.number(0, len(row["labels"]) - 1)] = 7
    return row


def built(auto_class, config, draw):
    try:
        model = saved.build(auto_class, config)
        with torch.no_grad():
            model(**inputs({"input_ids": list(range(3, 27))}))
    except Exception as error:
        raise NotBuilt(f"{type(config).__name__}: {error}") from error
    saved.randomize(model, draw)
    return model


def classifier(family, draw, folder):
    config = configuration(family.removesuffix("-classifier"), draw)
    problem, classes = problem_of(draw)
    config.problem_type, config.num_labels = problem, classes
    saved.save(built(AutoModelForSequenceClassification, config, draw), folder, draw)

    def loss(model, row):
        return cases.loss_of_label(model(**inputs(row)).logits, row["label"], problem)

    return cases.Case(
        folder=folder, model=saved.load(AutoModelForSequenceClassification, folder), files=saved.weights_of(folder),
        rows=cases.random_rows(lambda: {**random_row(draw, config), "label": draw.target(problem, classes)}), loss=loss,
        is_expected=is_inside_blocks,
    )


def masked(family, draw, folder):
    config = configuration(family.removesuffix("-masked"), draw)
    if draw.chance(0.3):
        config.tie_word_embeddings = False
    saved.save(built(AutoModelForMaskedLM, config, draw), folder, draw)
    return cases.Case(
        folder=folder, model=saved.load(AutoModelForMaskedLM, folder), files=saved.weights_of(folder),
        rows=cases.random_rows(lambda: add_masked_labels(random_row(draw, config), draw)), loss=loss_of_masked,
        is_expected=is_inside_blocks,
    )


FAMILIES = {
    **{f"{name}-classifier": classifier for name in CONFIGURATIONS},
    **{f"{name}-masked": masked for name in CONFIGURATIONS},
}
