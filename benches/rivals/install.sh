#!/usr/bin/env bash
# Installs the rivals and what they need into the active virtual environment, without the parts that need a GPU.
set -euo pipefail
pip install --quiet torch==2.15.0 transformers==5.23.0 datasets accelerate scipy einconv opt_einsum einops threadpoolctl
pip install --quiet --no-deps kronfluence==1.0.1
pip install --quiet --no-deps bergson==2.5.1 jaxtyping wadler_lindig natsort petname pyarrow pyyaml simple-parsing docstring-parser \
    ml_dtypes peft torchopt optree graphviz
# Dependencies were left out above, so that what a side needs and does not find is seen here and not in the middle of a table.
python -c 'import kronfluence.analyzer, bergson.hessians.pipeline'
