#!/bin/sh
# The same table with its inputs on a GPU. It needs a CUDA build of torch, and pip install ".[bench]". Not run for the page.
# What runs on no GPU (SciPy, numba, QuantEcon, Gymnasium, JAX without CUDA) fails to be set up, and is left out of its row.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
"$PYTHON" -m benchmarks --full --device cuda --threads 2 --budget 1 --json _build/speed-gpu.json "$@"
