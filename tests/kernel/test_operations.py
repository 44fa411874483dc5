"""Operations of torch's own test list in equations: a kernel computes what the loop computes, or refuses with the line.

``make test`` tries a sample of them, ``make test-full`` all.
"""

import random
import warnings

import pytest
import torch

from kernel import operations
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)

PARTS = 24


@pytest.fixture(scope="module")
def listed():
    """Torch's list; a part of torch that makes no promises, and takes two seconds."""
    pytest.importorskip("expecttest", reason="torch's own list of operations needs it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return [op for op in op_db if not op.name.startswith(operations.NOT_TRIED)]


def is_elementwise(op):
    from torch.testing._internal.opinfo.core import BinaryUfuncInfo, UnaryUfuncInfo

    return isinstance(op, (BinaryUfuncInfo, UnaryUfuncInfo))


def attempts(op, most):
    """(name, equation) of each form of some samples of an operation."""
    return [
        (f"{op.name} {op.variant_test_name} {k}: {name}", form)
        for k, sample in enumerate(operations.samples_of(op, most))
        for name, form in operations.forms(op, sample).items()
    ]


def test_a_sample_of_operations(listed):
    """Every elementwise operation and some others, in a few forms each; those that kernels hold in more."""
    r, tried = random.Random(0), operations.Tried(at_once=100)
    ops = [op for op in listed if is_elementwise(op)] + r.sample([op for op in listed if not is_elementwise(op)], 40)
    for op in ops:
        found = attempts(op, 1)
        for name, form in r.sample(found, min(len(found), 2)):
            tried.add(op.name, name, form)
    tried.compare()
    assert not tried.wrong
    assert tried.count["computed"] >= 60
    assert tried.count["refused"] >= 100


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
def test_all_operations(part, listed):
    tried = operations.Tried((torch.float32, torch.float64, torch.bfloat16, torch.float16)[: 4 if part % 4 == 0 else 2])
    for op in listed[part::PARTS]:
        for name, form in attempts(op, 3):
            tried.add(op.name, name, form)
    tried.compare()
    assert not tried.wrong
    assert tried.count["computed"] > 0
    print(part, dict(tried.count), len(tried.computed), len(tried.refused))  # noqa: T201  # what `-rP` shows
