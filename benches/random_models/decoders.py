"""Configurations of decoders, as language models and as classifiers of the last token."""

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ..random_cases import NotBuilt
from . import case as cases
from . import saved
from .compare import is_inside_blocks
from .draw import PADDING, VOCABULARY

ACTIVATIONS = ["silu", "gelu", "gelu_pytorch_tanh", "relu", "gelu_new", "quick_gelu", "relu2", "tanh", "gelu_fast", "mish"]


class Keys:
    """Keys of a configuration, to which groups of keys are added by chance."""

    def __init__(self, draw):
        self.draw = draw
        heads = draw.one(2, 4)
        self.values = dict(
            vocab_size=VOCABULARY,
            hidden_size=draw.one(16, 24, 32),
            intermediate_size=draw.one(20, 36),
            num_hidden_layers=draw.one(1, 2, 3),
            num_attention_heads=heads,
            num_key_value_heads=draw.one(*(count for count in (1, 2, 4) if heads % count == 0)),
            max_position_embeddings=draw.one(16, 32, 64),
            tie_word_embeddings=draw.one(True, False),
            rms_norm_eps=draw.one(1e-6, 1e-5, 1e-2),
            pad_token_id=PADDING,
            bos_token_id=1,
            eos_token_id=2,
        )

    def set(self, **values):
        self.values.update(values)
        return self

    def without(self, *names):
        for name in names:
            del self.values[name]
        return self

    def head_size(self):
        if self.draw.chance(0.5):
            self.set(head_dim=self.draw.one(4, 8, 16))
        return self

    def flags(self, *names):
        for name in names:
            if self.draw.chance(0.5):
                self.set(**{name: self.draw.one(True, False)})
        return self

    def activation(self, names=ACTIVATIONS):
        if self.draw.chance(0.3):
            self.set(hidden_act=self.draw.one(*names))
        return self

    def windows(self, by_layer=True):
        if self.draw.chance(0.5):
            self.set(sliding_window=self.draw.one(3, 5, 8))
        if by_layer and self.draw.chance(0.5):
            self.layer_types()
            self.values.setdefault("sliding_window", 4)
        return self

    def layer_types(self):
        kinds = ("full_attention", "sliding_attention")
        return self.set(layer_types=[self.draw.one(*kinds) for _ in range(self.values["num_hidden_layers"])])

    def late_windows(self):
        return self.set(use_sliding_window=self.draw.one(True, False), max_window_layers=self.draw.one(0, 1, 2))

    def rotary(self, partial=False):
        draw = self.draw
        kind = draw.one("default", "default", "linear", "dynamic", "yarn", "llama3", None)
        if kind is None:
            return self
        parameters = {"rope_type": kind, "rope_theta": draw.one(10000.0, 500000.0, 100.0)}
        if kind in ("linear", "dynamic"):
            parameters["factor"] = draw.one(2.0, 3.0)
        if kind == "yarn":
            parameters.update(factor=draw.one(2.0, 4.0), original_max_position_embeddings=draw.one(8, 16))
            if draw.chance(0.5):
                parameters["attention_factor"] = draw.one(1.0, 1.3)
            if draw.chance(0.5):
                parameters.update(beta_fast=draw.one(32, 16), beta_slow=draw.one(1, 2))
            if draw.chance(0.5):
                parameters["truncate"] = draw.one(True, False)
            if draw.chance(0.5):
                parameters.update(mscale=1.0, mscale_all_dim=0.7)
        if kind == "llama3":
            parameters.update(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
            parameters["original_max_position_embeddings"] = draw.one(8, 16)
        if partial and draw.chance(0.3):
            parameters["partial_rotary_factor"] = 0.5
        return self.set(rope_parameters=parameters)

    def rotary_by_kind(self):
        """Other rotary embeddings in layers with a window than in those without."""
        full = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
        return self.set(rope_parameters={"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 77.0}})

    def experts(self, **values):
        return self.set(num_experts_per_tok=self.draw.one(1, 2), output_router_logits=False, **values)

    def softcaps(self):
        return self.set(
            final_logit_softcapping=self.draw.one(None, 3.0, 30.0), attn_logit_softcapping=self.draw.one(None, 2.0, 50.0)
        )


def llama(draw):
    return Keys(draw).head_size().rotary(partial=True).activation().flags("attention_bias", "mlp_bias")


def qwen2(draw):
    return Keys(draw).rotary(partial=True).activation().windows().late_windows()


def qwen3(draw):
    return Keys(draw).head_size().rotary(partial=True).activation().flags("attention_bias").windows().late_windows()


def mistral(draw):
    return Keys(draw).head_size().rotary(partial=True).activation().windows(by_layer=False)


def gemma(draw):
    return Keys(draw).head_size().rotary().flags("attention_bias").activation(["gelu_pytorch_tanh", "gelu", "silu"])


def gemma2(draw):
    keys = Keys(draw).head_size().rotary().flags("attention_bias").set(sliding_window=4).windows().softcaps()
    return keys.set(query_pre_attn_scalar=draw.one(8, 16, 144))


def gemma3(draw):
    keys = Keys(draw).head_size().flags("attention_bias")
    keys.set(query_pre_attn_scalar=draw.one(8, 16, 144), sliding_window=draw.one(3, 4, 8))
    if draw.chance(0.5):
        keys.softcaps()
    if draw.chance(0.5):
        keys.layer_types()
    if draw.chance(0.5):
        keys.rotary_by_kind()
    if draw.chance(0.1):
        keys.set(use_bidirectional_attention=True)
    return keys


def phi3(draw):
    keys = Keys(draw).activation().windows(by_layer=False)
    longest, head = keys.values["max_position_embeddings"], keys.values["hidden_size"] // keys.values["num_attention_heads"]
    share = draw.one(1.0, 0.5) if head % 4 == 0 else 1.0
    rotary = {"rope_type": "default", "rope_theta": draw.one(10000.0, 100.0), "partial_rotary_factor": share}
    keys.set(original_max_position_embeddings=longest)
    if draw.chance(0.5):
        pairs = int(head * share) // 2
        factors = {name: [1.0 + draw.random.random() for _ in range(pairs)] for name in ("short_factor", "long_factor")}
        keys.set(original_max_position_embeddings=draw.one(8, longest))
        rotary.update(rope_type="longrope", **factors)
    return keys.set(rope_parameters=rotary)


def olmo(draw):
    keys = Keys(draw).rotary().activation().flags("attention_bias").without("rms_norm_eps")
    return keys.set(clip_qkv=draw.one(None, 0.5, 2.0))


def olmo2(draw):
    return Keys(draw).rotary().activation().flags("attention_bias")


def olmo3(draw):
    keys = Keys(draw).activation().flags("attention_bias").set(sliding_window=4).windows()
    return keys.rotary_by_kind() if draw.chance(0.5) else keys


def smollm3(draw):
    keys = Keys(draw).rotary().activation().flags("attention_bias", "mlp_bias").windows()
    keys.set(use_sliding_window=draw.one(True, False))
    if draw.chance(0.5):
        keys.set(no_rope_layers=[draw.one(0, 1) for _ in range(keys.values["num_hidden_layers"])])
    elif draw.chance(0.5):
        keys.set(no_rope_layer_interval=draw.one(1, 2, 3))
    return keys


def gpt_neox(draw):
    keys = Keys(draw).rotary().without("num_key_value_heads", "rms_norm_eps").flags("attention_bias")
    rotary = keys.values.get("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})
    head = keys.values["hidden_size"] // keys.values["num_attention_heads"]
    rotary["partial_rotary_factor"] = draw.one(0.25, 0.5, 1.0) if head >= 8 else 1.0
    return keys.set(
        rope_parameters=rotary, hidden_act=draw.one("gelu", "gelu_new", "relu"), layer_norm_eps=draw.one(1e-5, 1e-3),
        use_parallel_residual=draw.one(True, False),
    )


def gptj(draw):
    keys = Keys(draw)
    keys.values = dict(
        vocab_size=VOCABULARY, n_positions=32, n_embd=draw.one(16, 32), n_layer=draw.one(1, 2), n_head=2,
        rotary_dim=draw.one(4, 8), n_inner=draw.one(None, 20), activation_function=draw.one("gelu_new", "gelu", "relu"),
        layer_norm_epsilon=draw.one(1e-5, 1e-2), tie_word_embeddings=False, pad_token_id=PADDING, bos_token_id=1,
        eos_token_id=2,
    )
    return keys


def opt(draw):
    keys = Keys(draw)
    keys.values = dict(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=draw.one(1, 2), ffn_dim=draw.one(20, 30),
        num_attention_heads=2, max_position_embeddings=32, do_layer_norm_before=draw.one(True, False),
        word_embed_proj_dim=draw.one(16, 8), activation_function=draw.one("relu", "gelu"),
        enable_bias=not draw.chance(0.2), layer_norm_elementwise_affine=not draw.chance(0.1),
        _remove_final_layer_norm=draw.one(False, True), tie_word_embeddings=draw.one(True, False),
        pad_token_id=PADDING, bos_token_id=2, eos_token_id=2,
    )
    return keys


def gpt2(draw):
    keys = Keys(draw)
    keys.values = dict(
        vocab_size=VOCABULARY, n_positions=32, n_embd=draw.one(16, 32), n_layer=draw.one(1, 2, 3), n_head=2,
        n_inner=draw.one(None, 20), activation_function=draw.one("gelu_new", "gelu", "relu", "silu", "tanh"),
        layer_norm_epsilon=draw.one(1e-5, 1e-2), scale_attn_weights=draw.one(True, False),
        scale_attn_by_inverse_layer_idx=draw.one(True, False), reorder_and_upcast_attn=draw.one(True, False),
        tie_word_embeddings=draw.one(True, False), pad_token_id=PADDING, bos_token_id=1, eos_token_id=2,
    )
    return keys


def mixtral(draw):
    keys = Keys(draw).rotary().activation().windows(by_layer=False).set(head_dim=draw.one(4, 8))
    return keys.experts(num_local_experts=draw.one(2, 4))


def qwen2_moe(draw):
    keys = Keys(draw).rotary().activation().windows().set(use_sliding_window=draw.one(True, False))
    return keys.experts(
        num_experts=draw.one(2, 4), moe_intermediate_size=draw.one(12, 20), qkv_bias=draw.one(True, False),
        shared_expert_intermediate_size=draw.one(12, 20), norm_topk_prob=draw.one(True, False),
        decoder_sparse_step=draw.one(1, 2), mlp_only_layers=draw.one([], [0]),
    )


def qwen3_moe(draw):
    keys = Keys(draw).head_size().rotary().activation().flags("attention_bias")
    keys.set(use_sliding_window=draw.one(True, False))
    return keys.experts(
        num_experts=draw.one(2, 4), moe_intermediate_size=draw.one(12, 20), norm_topk_prob=draw.one(True, False),
        decoder_sparse_step=draw.one(1, 2), mlp_only_layers=draw.one([], [0]),
    )


def olmoe(draw):
    keys = Keys(draw).rotary().activation().flags("attention_bias")
    return keys.experts(num_experts=draw.one(2, 4), norm_topk_prob=draw.one(True, False), clip_qkv=draw.one(None, 0.5))


CONFIGURATIONS = {
    "llama": (llama, "LlamaConfig"),
    "qwen2": (qwen2, "Qwen2Config"),
    "qwen3": (qwen3, "Qwen3Config"),
    "mistral": (mistral, "MistralConfig"),
    "gemma": (gemma, "GemmaConfig"),
    "gemma2": (gemma2, "Gemma2Config"),
    "gemma3": (gemma3, "Gemma3TextConfig"),
    "phi3": (phi3, "Phi3Config"),
    "olmo": (olmo, "OlmoConfig"),
    "olmo2": (olmo2, "Olmo2Config"),
    "olmo3": (olmo3, "Olmo3Config"),
    "smollm3": (smollm3, "SmolLM3Config"),
    "gpt_neox": (gpt_neox, "GPTNeoXConfig"),
    "gptj": (gptj, "GPTJConfig"),
    "opt": (opt, "OPTConfig"),
    "gpt2": (gpt2, "GPT2Config"),
    "mixtral": (mixtral, "MixtralConfig"),
    "qwen2_moe": (qwen2_moe, "Qwen2MoeConfig"),
    "qwen3_moe": (qwen3_moe, "Qwen3MoeConfig"),
    "olmoe": (olmoe, "OlmoeConfig"),
}
# of which transformers has no class of classifiers
WITHOUT_CLASSIFIER = ("olmo", "olmo2", "olmo3", "olmoe")


def configuration(family, draw):
    keys, name = CONFIGURATIONS[family]
    try:
        return getattr(transformers, name)(**keys(draw).values)
    except Exception as error:
        raise NotBuilt(f"{name}: {error}") from error


def longest(config):
    """How many tokens a row may have."""
    return min(24, config.max_position_embeddings)


def built(auto_class, config, draw):
    """A model with random weights; a configuration that its class cannot compute with counts as refused by it."""
    try:
        model = saved.build(auto_class, config)
        with torch.no_grad():
            model(input_ids=torch.tensor([[3, 4, 5]]))
    except Exception as error:
        raise NotBuilt(f"{type(config).__name__}: {error}") from error
    saved.randomize(model, draw)
    return model


def language_model(family, draw, folder):
    config = configuration(family, draw)
    saved.save(built(AutoModelForCausalLM, config, draw), folder, draw)
    return cases.Case(
        folder=folder, model=saved.load(AutoModelForCausalLM, folder), files=saved.weights_of(folder),
        rows=cases.random_rows(lambda: row_of_tokens(draw, longest(config))), loss=cases.loss_of_next_tokens,
        is_expected=is_inside_blocks,
    )


def row_of_tokens(draw, most):
    """Ids, in half of all rows with labels of which some are ignored."""
    row = {"input_ids": draw.tokens(2, most)}
    if draw.chance(0.5):
        labels = [cases.IGNORED if draw.chance(0.4) else token for token in row["input_ids"]]
        # a row without a target is refused
        row["labels"] = [*labels[:-1], row["input_ids"][-1]]
    return row


def classifier(family, draw, folder):
    config = configuration(family, draw)
    problem = draw.one("single_label_classification", "multi_label_classification", "regression")
    classes = draw.one(2, 3) if problem != "regression" else draw.one(1, 3)
    config.num_labels, config.problem_type = classes, problem
    saved.save(built(AutoModelForSequenceClassification, config, draw), folder, draw)

    def row():
        return {"input_ids": draw.tokens(2, longest(config)), "label": draw.target(problem, classes)}

    def loss(model, row):
        return cases.loss_of_label(model(input_ids=torch.tensor([row["input_ids"]])).logits, row["label"], problem)

    return cases.Case(
        folder=folder, model=saved.load(AutoModelForSequenceClassification, folder), files=saved.weights_of(folder),
        rows=cases.random_rows(row), loss=loss, is_expected=is_inside_blocks,
    )


FAMILIES = {
    **{name: language_model for name in CONFIGURATIONS},
    **{f"{name}-classifier": classifier for name in CONFIGURATIONS if name not in WITHOUT_CLASSIFIER},
}
