"""A pairwise cover of everything that kernels do, and, with ``make test-full``, a random sample of the full product."""

import pytest

from kernel import spec
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)

CASES = spec.pairwise(spec.AXES)


def test_the_cover_holds_every_pair():
    axes = {"a": (1, 2, 3), "b": ("x", "y"), "c": (0.5, 1.5)}
    cases = spec.pairwise(axes)
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert {(c[one], c[other]) for c in cases} == {(i, j) for i in axes[one] for j in axes[other]}
    assert len(cases) < 12  # of 12 in the full product


@pytest.mark.parametrize("part", range(8))
def test_pairwise_cover(part):
    rates = [spec.check(case) for case in CASES[part::8]]
    assert len(rates) >= 4
    assert any(0.05 < r < 0.95 for r in rates)


@pytest.mark.full
@pytest.mark.parametrize("part", range(40))
def test_random_sample_of_the_full_product(part):
    rates = [spec.check(case) for case in spec.sample(spec.AXES, 50, seed=100 + part)]
    assert sum(0.05 < r < 0.95 for r in rates) >= 15
