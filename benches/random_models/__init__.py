"""Random models, saved by transformers and PEFT, whose losses and scores have to be those of PyTorch.

A family and a seed make one case: a random configuration of the family (every key that changes the forward pass and
that transformers accepts), random weights, stored in 32 or 16 bits, in one file or in shards, and random rows. `ascribe
influence --curvature identity` reads the folder as it was saved; its losses and scores, which are products of gradients
over all tracked layers, are compared with those that PyTorch's backward pass gives in f64. So a key that is ignored, a
tensor that is read into another place, or a mask that is another one shows without anybody having thought of it.

    python3 -m benches.random_models --binary target/release/ascribe                        # every family, seeds 0 to 9
    python3 -m benches.random_models --binary … --family llama,lora-bert --seeds 100..120
    python3 -m benches.random_models --list

from the root of the repository; it needs torch, transformers 5, peft and safetensors. The exit status is 1 if a case is
WRONG. The folder of such a case is kept, and the line of output ends with the command that repeats it.

    __main__.py          command line (seeds, folders and counts: ../random_cases.py)
    draw.py              the numbers of one case
    case.py              a case, and what PyTorch says of it
    compare.py           what ascribe says of it, and whether both agree
    saved.py             random weights, and how they are stored and read back
    decoders.py          configurations of decoders and of experts, as language models and as classifiers
    encoders.py          BERT and its relatives, as classifiers and as masked language models
    encoder_decoders.py  T5 and mT5
    images.py            ViT and ResNet
    adapters.py          LoRA over all of these
    page.py              the section of docs/models.md that says how many cases agreed
"""
