"""One run of TRL's SFTTrainer, and what its collator gave the model."""

import json
import os

import datasets
import torch
from jinja2 import TemplateError
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..random_cases import NotBuilt
from .texts import Rows, is_conversation
from .tokenizers import CHATML, MARKED, tokenizer

IGNORED = -100


def settings(draw, rows, made, folder):
    """Fields of `SFTConfig` that decide what becomes of the rows."""
    found = {"max_length": draw.one(None, 12, 24, 24, 64), "dataset_text_field": rows.field}
    if found["max_length"] and draw.chance(0.4):
        found.update(packing=True, packing_strategy=draw.one("wrapped", "wrapped", "bfd", "bfd_split"))
    elif draw.chance(0.2):
        found["truncation_mode"] = "keep_end"
    if rows.form in ("prompt-completion", "chat-completion"):
        found["completion_only_loss"] = draw.one(None, None, True, False)
    # TRL refuses the other key
    if rows.form in ("messages", "chat-completion") and draw.chance(0.5):
        found["assistant_only_loss"] = True
    if is_conversation(rows.form) and draw.chance(0.15):
        path = folder / "template.jinja"
        path.write_text(draw.one(CHATML, MARKED))
        found["chat_template_path"] = str(path)
    if draw.chance(0.15):
        found["eos_token"] = draw.one("<|im_end|>", "</s>", "<pad>")
    if draw.chance(0.1):
        found["pad_token"] = draw.one("<pad>", "</s>")
    if draw.chance(0.1):
        found["pad_to_multiple_of"] = 8
    if draw.chance(0.1) and not found["max_length"]:
        found["padding_free"] = True
    if draw.chance(0.1):
        found["dataset_num_proc"] = 1
    return found


class Trained:
    """A finished run: its folder, the raw file, and the examples that the model was given."""

    def __init__(self, draw, folder):
        made, self.template, self.tokenizer_words = tokenizer(draw)
        self.rows = Rows(draw, made)
        self.settings = settings(draw, self.rows, made, folder)
        self.folder, self.run = folder, folder / "out"
        self.raw = self.write_raw(draw)
        config = LlamaConfig(
            vocab_size=len(made), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=None, bos_token_id=made.bos_token_id,
            eos_token_id=made.eos_token_id,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        try:
            trainer = SFTTrainer(
                model=model, processing_class=made, train_dataset=datasets.Dataset.from_list(self.rows.rows),
                args=SFTConfig(
                    output_dir=str(self.run), num_train_epochs=1, per_device_train_batch_size=draw.one(2, 4),
                    learning_rate=0.0, lr_scheduler_type="constant", weight_decay=0.0, logging_steps=1, save_steps=1,
                    use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], disable_tqdm=True,
                    dataloader_pin_memory=False, seed=draw.number(0, 99), **self.settings,
                ),
            )
        except (ValueError, RuntimeError, TemplateError) as error:
            raise NotBuilt(str(error)) from error
        trainer.remove_callback(PrinterCallback)
        self.examples = list(examples_of(trainer))
        if not self.examples:
            raise NotBuilt("nothing is left to train on")
        trainer.train()
        trainer.save_model()
        self.checkpoint = max(self.run.glob("checkpoint-*"), key=os.path.getmtime)
        self.queries = self.write_queries(draw, len(made))

    def write_raw(self, draw):
        if draw.chance(0.25):
            path = self.folder / "rows.parquet"
            datasets.Dataset.from_list(self.rows.rows).to_parquet(path)
            return path
        path = self.folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=draw.chance(0.5)) + "\n" for row in self.rows.rows))
        return path

    def write_queries(self, draw, vocabulary):
        self.asked = [[draw.number(0, vocabulary - 1) for _ in range(draw.number(4, 12))] for _ in range(3)]
        path = self.folder / "queries.jsonl"
        path.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in self.asked))
        return path

    def words(self):
        """What was drawn, in a line."""
        return f"{self.rows.form} ({self.raw.suffix[1:]}), {self.tokenizer_words}, {self.settings}"


def examples_of(trainer):
    """`(ids, labels)` of every example that the collator gives the model; of rows that hold several that do not see each
    other, each."""
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        length = len(row["input_ids"])
        lengths = row.get("seq_lengths") if trainer.padding_free else None
        start = 0
        for part in lengths or [length]:
            yield ids[start : start + part].tolist(), labels[start : start + part].tolist()
            start += part


def scores(trained):
    """`gradient · gradient / N` of every query and example over the layers inside the blocks, in f64: `[Q, N]`. N counts
    examples that have a target."""
    model = LlamaForCausalLM.from_pretrained(trained.checkpoint, attn_implementation="eager", dtype=torch.float32).double()
    parts = [part for name, part in model.named_parameters() if part.dim() > 1 and ".layers." in name]

    def gradient(ids, labels):
        model.zero_grad()
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        targets = torch.tensor(labels[1:])
        if not (targets != IGNORED).any():
            return torch.zeros(sum(part.numel() for part in parts), dtype=torch.float64)
        torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED).backward()
        return torch.cat([part.grad.flatten() for part in parts])

    asked = torch.stack([gradient(ids, ids) for ids in trained.asked])
    with_targets = [one for one in trained.examples if any(label != IGNORED for label in one[1][1:])]
    given = torch.stack([gradient(ids, labels) for ids, labels in with_targets])
    return asked @ given.T / len(given)
