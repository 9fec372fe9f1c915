#!/usr/bin/env bash
# Compiles the feature `cuda` on a machine without a GPU or a CUDA toolkit: the compiler and headers come as Python
# packages into TOOLKIT (1.1 GiB, outside the repository). The first time takes some ten minutes of processor time,
# most of it candle's own kernels.
#
#   benches/gpu/check.sh TOOLKIT [further arguments of cargo check, e.g. --tests]
set -euo pipefail
toolkit=${1:?"usage: benches/gpu/check.sh TOOLKIT"}
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ ! -x "$toolkit/nvidia/cu13/bin/nvcc" ]; then
    python3 -m pip install --quiet --no-deps --target "$toolkit" \
        nvidia-cuda-nvcc==13.2.* nvidia-cuda-crt==13.2.* nvidia-cuda-cccl==13.2.* nvidia-cuda-runtime==13.2.* \
        nvidia-cuda-nvrtc==13.2.* nvidia-nvvm==13.2.* nvidia-cublas==13.* nvidia-curand
fi
CUDA_HOME=$(cd "$toolkit/nvidia/cu13" && pwd)
export CUDA_HOME CUDA_PATH=$CUDA_HOME PATH="$CUDA_HOME/bin:$PATH"
# no GPU to ask for its compute capability
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
cargo check --manifest-path "$root/Cargo.toml" --workspace --features ascribe-cli/cuda "$@"
