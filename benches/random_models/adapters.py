"""LoRA adapters of PEFT over decoders, encoders and T5."""

import peft
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from ..random_cases import NotBuilt
from . import case as cases
from . import decoders, encoder_decoders, encoders, saved
from .compare import is_inside_blocks

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RELATIVES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "olmo", "olmo2", "smollm3")
BERT = ["query", "key", "value", "dense"]
# last parts of the names of linear layers
LINEAR = {
    **{name: LLAMA for name in RELATIVES},
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "modernbert": ["Wqkv", "Wi", "Wo"],
    "deberta-v2": ["query_proj", "key_proj", "value_proj", "dense"],
    "t5": ["q", "k", "v", "o", "wi", "wo", "wi_0", "wi_1"],
    "mt5": ["q", "k", "v", "o", "wi", "wo", "wi_0", "wi_1"],
}


class Task:
    """What the adapter was trained for: the class of the model, the rows and their loss."""

    def __init__(self, family, draw):
        self.load_options, self.is_classifier, self.is_decoder_classifier = {}, False, False
        if family in encoder_decoders.CLASSES:
            self.auto_class, self.peft_type = encoder_decoders.CLASSES[family][1], "SEQ_2_SEQ_LM"
            self.base = encoder_decoders.built(family, draw)
            self.row, self.loss = lambda: encoder_decoders.row(draw), encoder_decoders.loss
            return
        is_encoder = family in encoders.CONFIGURATIONS
        config = (encoders if is_encoder else decoders).configuration(family, draw)
        can_classify = family not in decoders.WITHOUT_CLASSIFIER
        self.is_classifier = can_classify and draw.chance(0.7 if is_encoder else 0.3)
        if self.is_classifier:
            self.of_classes(config, draw, is_encoder)
        elif is_encoder:
            self.auto_class, self.peft_type = AutoModelForMaskedLM, None
            self.row = lambda: encoders.add_masked_labels(encoders.random_row(draw, config), draw)
            self.loss = encoders.loss_of_masked
        else:
            self.auto_class, self.peft_type = AutoModelForCausalLM, "CAUSAL_LM"
            self.row = lambda: decoders.row_of_tokens(draw, decoders.longest(config))
            self.loss = cases.loss_of_next_tokens
        self.base = (encoders if is_encoder else decoders).built(self.auto_class, config, draw)

    def of_classes(self, config, draw, is_encoder):
        problem, classes = encoders.problem_of(draw)
        config.problem_type, config.num_labels = problem, classes
        self.auto_class, self.peft_type = AutoModelForSequenceClassification, "SEQ_CLS"
        self.load_options = {"num_labels": classes, "problem_type": problem}

        def row():
            most = 24 if is_encoder else decoders.longest(config)
            ids = encoders.random_row(draw, config) if is_encoder else {"input_ids": draw.tokens(2, most)}
            return {**ids, "label": draw.target(problem, classes)}

        self.row = row
        self.loss = lambda model, row: cases.loss_of_label(model(**encoders.inputs(row)).logits, row["label"], problem)


def settings(family, task, draw):
    """Arguments of `LoraConfig`."""
    present = {name.rsplit(".", 1)[-1] for name, _ in task.base.named_modules()}
    pool = [name for name in LINEAR[family] if name in present]
    targets = draw.some(pool)
    form = draw.one("list", "list", "all", "expression")
    arguments = dict(
        r=draw.one(1, 2, 4), lora_alpha=draw.one(1, 4, 16), lora_dropout=draw.one(0.0, 0.1),
        use_rslora=draw.one(True, False), use_dora=draw.one(False, False, True),
        bias=draw.one("none", "none", "lora_only", "all"), task_type=task.peft_type,
        target_modules={"list": targets, "all": "all-linear", "expression": rf".*\.({'|'.join(targets)})"}[form],
        fan_in_fan_out=family == "gpt2",
    )
    blocks = getattr(task.base.config, "num_hidden_layers", 1)
    if form == "list" and draw.chance(0.3) and family not in encoder_decoders.CLASSES:
        arguments["layers_to_transform"] = [draw.number(0, blocks - 1)]
    if draw.chance(0.3):
        arguments["rank_pattern"] = {draw.one(*pool): 3}
    if draw.chance(0.3):
        arguments["alpha_pattern"] = {draw.one(*pool): 7}
    if task.peft_type == "CAUSAL_LM" and draw.chance(0.25):
        arguments["modules_to_save"] = ["lm_head"]
    if draw.chance(0.25):
        arguments["init_lora_weights"] = draw.one("gaussian", False)
    return arguments


def adapter(name, draw, folder):
    family = name.removeprefix("lora-")
    task = Task(family, draw)
    base = folder / "base"
    # a classifier is often trained over a folder that has no head
    is_bare = task.is_classifier and draw.chance(0.5)
    saved.save(task.base.base_model if is_bare else task.base, base, draw)
    arguments = settings(family, task, draw)
    try:
        whole = saved.load(task.auto_class, base, **task.load_options)
        model = peft.get_peft_model(whole, peft.LoraConfig(**arguments))
    except Exception as error:
        raise NotBuilt(f"LoraConfig: {error}") from error
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.15 * torch.randn_like(parameter))
                if draw.chance(0.1):
                    parameter.copy_(parameter.bfloat16())
    model.save_pretrained(folder)
    trained = saved.load(task.auto_class, base, **task.load_options)
    trained = peft.PeftModel.from_pretrained(trained, folder, is_trainable=True).eval()
    case = cases.Case(
        folder=folder, model=trained, files=saved.weights_of(folder) + saved.weights_of(base),
        rows=cases.random_rows(task.row), loss=task.loss, options=["--base", base],
        is_expected=lambda name, _: "lora_" in name and "magnitude" not in name,
    )
    if draw.chance(0.2):
        # the base's layers at the merged weights, in place of the adapter's matrices
        case.options += ["--adapter", "merged"]
        case.model = trained.merge_and_unload().requires_grad_(True)
        case.stored, case.files = saved.load(task.auto_class, base, **task.load_options), saved.weights_of(base)
        case.is_expected = is_inside_blocks
    return case


FAMILIES = {f"lora-{name}": adapter for name in LINEAR}
