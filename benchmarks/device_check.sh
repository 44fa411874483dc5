#!/usr/bin/env bash
# The device tests and benchmarks.gpu on a machine with a GPU, torch and pytest, and no package index. Run it from the
# project's root. Wheels of the peers, if there are any, lie in .whl, fetched before on another machine:
#     pip download --no-deps -d .whl spikingjelly==2.0.0 snntorch==1.0.0 nir nirtorch loguru
# It needs about six minutes. Arguments go to benchmarks.gpu: --rows lif,norm; --seconds 2. Results go to $OUT.
set -u
OUT=${OUT:-device}
PYTHON=${PYTHON:-python3}
site=$(mktemp -d)
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --target "$site" .whl/*.whl || echo "the peers could not be installed"
fi
export PYTHONPATH="$site:$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export SPIKELOOM_CACHE="${SPIKELOOM_CACHE:-$site/kernels}"
mkdir -p "$OUT"
workers=()
"$PYTHON" -c "import xdist" 2>/dev/null && workers=(-n 12)
check() { # a recording that fails may leave its process unable to do more: graphs have processes of their own
  timeout "${TEST_SECONDS:-150}" "$PYTHON" -m pytest -q "${workers[@]}" -p no:cacheprovider -rfE --tb=short \
    --import-mode=importlib -o addopts= -o filterwarnings=default "$@" 2>&1
}
{
  check tests/kernel/test_gpu*.py --ignore=tests/kernel/test_gpu_graphs.py
  check tests/kernel/test_gpu_graphs.py
} | tee "$OUT/tests.txt" | tail -n 120
timeout "${BENCH_SECONDS:-270}" "$PYTHON" -m benchmarks.gpu --out "$OUT" "$@" 2>&1 | tee "$OUT/benchmarks.txt"
