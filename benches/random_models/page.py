"""The section of docs/models.md that says how many cases agreed."""

import collections
import json

TITLE = "Random configurations"
VERDICTS = ("agreed", "refused", "WRONG", "not built")


def kind(family, decoders):
    """The row of the table that a family is counted in."""
    if family.startswith("lora-"):
        return "LoRA adapters over decoders, encoders, T5"
    if family.endswith("-masked"):
        return "encoders, masked language models"
    if family.endswith("-classifier"):
        return f"{'decoders' if family.removesuffix('-classifier') in decoders else 'encoders'}, classifiers"
    return "decoders, language models" if family in decoders else "T5, mT5, ViT, ResNet"


def section(files, decoders):
    """The section, of the counts in these files (`--counts`)."""
    rows, reasons = {}, collections.Counter()
    for file in files:
        counts = json.loads(file.read_text())
        reasons.update(counts["reasons"])
        for family, tally in counts["families"].items():
            rows.setdefault(kind(family, decoders), collections.Counter()).update(tally)
    rows["all"] = sum(rows.values(), collections.Counter())
    lines = [
        f"## {TITLE}",
        "",
        "Random configurations of every family, saved by transformers and PEFT in f32, bf16 or f16, in one file or in shards:",
        "`ascribe influence --curvature identity` is run on each, and losses and scores, gradient products over all tracked",
        "layers, are compared with those of PyTorch in f64. They differ if a loss is off by more than 1e-5 of the largest, or a",
        "score by more than 1e-4, beyond 30 times what PyTorch's own f32 is off. Refused are settings that this build does not",
        "know, by their names; not built are those that transformers or PEFT refuse. The counts of the last run:",
        "",
        "| models | agree | refused | differ | not built |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {name} | " + " | ".join(str(tally[verdict]) for verdict in VERDICTS) + " |" for name, tally in rows.items()]
    refused = [(words.removeprefix("refused: "), n) for words, n in reasons.most_common() if words.startswith("refused")]
    lines += ["", "Refused were:", ""] + [f"- {words} ({count})" for words, count in refused]
    lines += [
        "",
        "```sh",
        "python3 -m benches.random_models --binary target/release/ascribe --seeds 0..10 --counts counts.json",
        "python3 -m benches.random_models --page docs/models.md --of counts.json",
        "```",
        "",
        "runs them (torch, transformers, peft; half a second a case) and writes this section. A case that differs is kept, with",
        "the command that repeats it.",
    ]
    return "\n".join(lines) + "\n"


def write(path, files, decoders):
    """Puts the section in the place of the one that is there, or behind all others."""
    parts = path.read_text().split("\n## ")
    others = [part for part in parts if not part.startswith(TITLE)]
    path.write_text("\n## ".join(others).rstrip("\n") + "\n\n" + section(files, decoders))
