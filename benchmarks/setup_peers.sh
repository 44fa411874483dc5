#!/usr/bin/env bash
# Makes .peers, an environment with this project and the newest release of each peer, and .peers-jax, one with JAX.
# Versions are pinned.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv .peers
.peers/bin/python -m pip install -q torch -c constraints.txt
.peers/bin/python -m pip install -q numpy scipy matplotlib tqdm h5py nir nirtorch loguru
.peers/bin/python -m pip install -q --no-deps spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0
# Declared for Python 3.10 at most, but it runs; snetx imports termcolor.
.peers/bin/python -m pip install -q --no-deps --ignore-requires-python snngrow==0.1.1a1 snetx==0.1.3 termcolor==3.3.0
.peers/bin/python -m pip install -q -c constraints.txt tonic==1.7.0 expelliarmus==1.1.12  # readers of events
.peers/bin/python -m pip install -q -c constraints.txt -e '.[data]'
[ "$(uname)" = Linux ] && .peers/bin/python -m pip install -q triton  # a torch for GPUs brings its own
.peers/bin/python benchmarks/stubs.py
"${PYTHON:-python3}" -m venv .peers-jax  # which wants other versions of NumPy and of others
.peers-jax/bin/python -m pip install -q jax==0.10.2 numpy
echo "now: .peers/bin/python -m benchmarks"
