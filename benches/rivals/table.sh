#!/usr/bin/env bash
# Every comparison of docs/benchmarks.md in one run, on a machine that does nothing else meanwhile.
#
#   benches/rivals/table.sh SCRATCH [W1 W1-one-thread W1-bf16 W2 W3 ...]
#
# Installs the rivals in SCRATCH/venv, builds ascribe, writes the workloads, runs the sides alternately, and replaces the
# measured part of docs/benchmarks.md. An interrupted run goes on with the next repeat. Without names all are run, in
# this order: two hours on two cores, more than half of it W2.
set -euo pipefail
scratch=${1:?"usage: benches/rivals/table.sh SCRATCH [NAME ...]"}
shift
names=${*:-W1 W3 W1-one-thread W1-bf16 W2}
root=$(cd "$(dirname "$0")/../.." && pwd)
rivals=$root/benches/rivals
mkdir -p "$scratch"
scratch=$(cd "$scratch" && pwd)

if [ ! -e "$scratch/venv/bin/activate" ]; then
    python3.11 -m venv "$scratch/venv"
    # shellcheck disable=SC1091
    . "$scratch/venv/bin/activate"
    "$rivals/install.sh"
else
    # shellcheck disable=SC1091
    . "$scratch/venv/bin/activate"
fi
cargo build --release --manifest-path "$root/Cargo.toml" -p ascribe-cli
ascribe=$(cargo metadata --manifest-path "$root/Cargo.toml" --format-version 1 --no-deps |
    python -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/ascribe

reports=()
for name in $names; do
    workload=${name%%-*}
    [ -e "$scratch/$workload/workload.json" ] || python "$rivals/workloads.py" "$workload" "$scratch/$workload"
    arguments=(--repeats 2 --precision highest medium)
    case $name in
        W1) arguments+=(--bergson highest) ;;
        W1-one-thread) arguments+=(--repeats 1 --threads 1) ;;
        W1-bf16) arguments=(--repeats 2 --precision bf16 --ascribe-arg=--dtype=bf16) ;;
        W2) arguments=(--repeats 1 --precision highest medium) ;;
        W3) arguments=(--repeats 3 --precision highest medium) ;;
        *) echo "no workload \`$name\`: W1, W1-one-thread, W1-bf16, W2 or W3" >&2; exit 2 ;;
    esac
    if [ "$name" = W1-bf16 ] && ! grep -q avx512_bf16 /proc/cpuinfo; then
        echo "this processor has no bf16 products: $name is left out" >&2
        continue
    fi
    python "$rivals/compare.py" "$scratch/$workload" --ascribe "$ascribe" --work "$scratch/work-$name" \
        --report "$scratch/$name.md" "${arguments[@]}"
    reports+=("$scratch/$name.md")
done
python "$rivals/publish.py" "$root/docs/benchmarks.md" "${reports[@]}"
