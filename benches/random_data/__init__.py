"""Random data that TRL's SFTTrainer prepares, and whether ascribe reads the same tokens and targets from the raw file.

A seed makes one case: rows (texts, prompts and completions, conversations), a tokenizer with its chat template, and an
`SFTConfig`. The real trainer prepares the data, collates them and trains one epoch with a rate of zero, which leaves a
folder as any run does: `training_args.bin`, the log, the tokenizer's files, a checkpoint. `ascribe influence` reads the
raw file beside that folder, with the flags that docs/data.md names for such a run. Scores are compared: a score is a
product of the gradients of a query, whose ids and labels are given, and of a training example, so an example with
another token, another target or another neighbour in its block has another score. The expected ones are those of
PyTorch's gradients of what the trainer's collator gave the model.

    python3 -m benches.random_data --binary target/release/ascribe                       # seeds 0 to 29
    python3 -m benches.random_data --binary … --seeds 100..200
    python3 -m benches.random_data --binary … --seeds 0..30 --careless                   # flags are left out by chance

from the root of the repository; it needs torch, transformers 5, trl and datasets. Verdicts:

    agreed     every score is PyTorch's
    refused    ascribe named what it does not read in this way, or what contradicts the trainer's record
    announced  scores differ, and the plan names what is read otherwise than in training, or with `--careless` warns
    WRONG      scores differ, and no warning says so; the exit status is 1
    not built  TRL refused the case

The folder of a WRONG case is kept, and the line of output ends with the command that repeats it.

    __main__.py    command line (seeds, folders and counts: ../random_cases.py)
    texts.py       the rows
    tokenizers.py  tokenizers and their chat templates
    training.py    the trainer, and what it gave the model
    reading.py     the flags, what ascribe says, and whether both agree
"""
