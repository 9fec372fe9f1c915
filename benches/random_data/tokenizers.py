"""Small tokenizers of the kinds that models have, and chat templates in the styles of well-known ones."""

import pathlib

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .texts import WORDS

SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|begin_of_text|>", "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]", "<think>", "</think>"]
PACKAGE = pathlib.Path(trl.__file__).parent / "chat_templates"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# a system's turn where there is none
CHATML_WITH_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' %}\n    {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}\n{%- endif %}\n"
    + CHATML
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# the end of the turn is not what the assistant says
MARKED_WITHOUT_END = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>\\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content | trim }}{% endgeneration %}{{ eos_token + '\\n' }}{% else %}"
    "{{ message.content + '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
    "message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML, "chatml with system": CHATML_WITH_SYSTEM, "marked": MARKED, "marked without end": MARKED_WITHOUT_END,
    "headers": HEADERS, "brackets": BRACKETS,
    **{name: (PACKAGE / f"{name}.jinja").read_text() for name in ("qwen2_5", "qwen3", "llama3", "phi3", "gemma")},
}


def learned(kind):
    """A tokenizer of bytes as GPT-2's and Llama 3's, or of words with a mark in front as Llama 2's."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = []
    special = SPECIAL if kind == "bytes" else ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    corpus = [" ".join(WORDS[place:] + WORDS[:place]) for place in range(len(WORDS))]
    # the bytes of the second kind are no special tokens, but have to be in the vocabulary
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def tokenizer(draw):
    """A tokenizer, the name of its template, and all of it in words."""
    kind = draw.one("bytes", "bytes", "words")
    fast = learned(kind)
    bos = draw.one(None, "<s>", "<|begin_of_text|>")
    eos = draw.one("</s>", "<|im_end|>", "<|eot_id|>")
    pad = draw.one(None, "<pad>", eos, "<|im_end|>")
    adds = "nothing"
    if bos and draw.chance(0.6):
        ends = draw.chance(0.3)
        adds = "both" if ends else "begin"
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}" if ends else f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(token, fast.token_to_id(token)) for token in ([bos, eos] if ends else [bos])],
        )
    elif kind == "bytes" and draw.chance(0.3):
        fast.post_processor = processors.ByteLevel(trim_offsets=False)
    name = draw.one(*TEMPLATES)
    names = {"eos_token": eos, **({"bos_token": bos} if bos else {}), **({"pad_token": pad} if pad else {})}
    if draw.chance(0.1):
        names["eos_token"] = AddedToken(eos, lstrip=draw.one(True, False), rstrip=draw.one(True, False), special=True)
    made = PreTrainedTokenizerFast(tokenizer_object=fast, **names)
    made.chat_template = TEMPLATES[name]
    return made, name, f"{kind}, {name}, bos {bos}, eos {eos}, pad {pad}, adds {adds}"
