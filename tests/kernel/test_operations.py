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
    """Every second elementwise operation and some others, in a form each."""
    assert sample(listed, step=2, others=20, most=1) >= 15


@pytest.mark.slow
def test_more_operations(listed):
    """Every elementwise operation and some others, in a few forms each; those that kernels hold in more."""
    assert sample(listed, step=1, others=40, most=2) >= 60


def sample(listed, *, step, others, most):
    """Compares some operations, and says how many equations were computed; no fewer are refused."""
    r, tried = random.Random(0), operations.Tried(at_once=100)
    elementwise = [op for op in listed if is_elementwise(op)]
    for op in elementwise[::step] + r.sample([op for op in listed if not is_elementwise(op)], others):
        found = attempts(op, 1)
        for name, form in r.sample(found, min(len(found), most)):
            tried.add(op.name, name, form)
    tried.compare()
    assert not tried.wrong
    assert tried.count["refused"] >= tried.count["computed"]
    return tried.count["computed"]


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
