"""How C functions are called: what each kind of argument becomes there."""

import numpy as np
import pytest
import torch

from spikeloom.native import build
from spikeloom.native.call import bound, call, threads

SOURCE = """
#include <stdint.h>
typedef struct { int64_t first, second; } pair;
int64_t mix(const float *a, const double *b, const float *none, int64_t n, int64_t yes, const pair *p) {
  return (int64_t)a[n] + 10 * (int64_t)b[n] + 100 * (none == 0) + 1000 * yes + 10000 * p->first + 100000 * p->second;
}
int64_t large(int64_t n) { return n * n; }
void fill(float *x, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] += 1.0f; }
"""


@pytest.fixture(scope="module")
def c():
    found = build.compiled(SOURCE)
    if found is None:
        pytest.skip("no C compiler on this machine")
    return found


def test_each_kind_of_argument(c):
    a, b = torch.tensor([1.0, 7.0]), np.array([2.0, 3.0])
    assert call(c.mix, a, b, None, 1, True, (4, 5)) == 7 + 30 + 100 + 1000 + 40000 + 500000
    assert call(c.mix, a, b, a, 0, False, (0, 2)) == 1 + 20 + 200000


def test_what_comes_back_has_64_bits(c):
    assert call(c.large, 1 << 20) == 1 << 40
    assert call(c.large, -3) == 9


def test_a_bound_call_reads_and_writes_what_is_there_then(c):
    x = torch.zeros(3)
    run = bound(c.fill, x[1:], 2)
    run()
    x[2] = 5.0
    run()
    assert x.tolist() == [0.0, 2.0, 6.0]


def test_a_bound_call_keeps_its_memory(c):
    mix = bound(c.mix, torch.full((100_000,), 6.0), np.full(100_000, 8.0), None, 99_999, 0, (0, 0))
    torch.full((100_000,), 1.0)
    assert mix() == 6 + 80 + 100


def test_threads_are_torchs_where_there_is_enough_work():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert [threads(work, at_least=10) for work in (0, 9, 10, 11)] == [1, 1, 3, 3]
    finally:
        torch.set_num_threads(before)
