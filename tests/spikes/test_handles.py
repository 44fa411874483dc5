"""One registry for what takes spikes as bits: what a handler of somebody's is asked, and what it may leave."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.spikes import handlers, handles, one_call

aten = torch.ops.aten
X = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def registry(monkeypatch):
    """Handlers of a test, which are forgotten after it."""
    monkeypatch.setattr(handlers, "HANDLERS", dict(handlers.HANDLERS))
    monkeypatch.setattr("spikeloom.spikes.tensor.HANDLERS", handlers.HANDLERS)


def test_an_operator_below_autograd(registry):
    seen = []

    @handles(aten.any.default)
    def any_of(operator, s):
        seen.append((operator, type(s)))
        return torch.tensor(s.count() > 0)

    assert torch.any(sl.pack(X)).item() is True
    assert torch.any(sl.pack(0 * X)).item() is False
    assert seen == [(aten.any.default, sl.SpikeTensor)] * 2


def test_what_a_handler_does_not_take_is_dense(registry):
    @handles(aten.cumsum.default)
    def cumulated(operator, s, dim, **options):
        return torch.full((2,), 7.0) if dim == 0 else NotImplemented

    assert torch.cumsum(sl.pack(X), 0).tolist() == [7.0, 7.0]
    assert torch.cumsum(sl.pack(X), 1).tolist() == [[0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0]]


def test_a_function_above_autograd_brings_its_own_gradient(registry):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, s):
            return 2 * s.unpack()

        @staticmethod
        def backward(ctx, grad):
            return 5 * grad

    @handles(F.relu6)
    def relu6(function, s, inplace=False):
        return Doubled.apply(s) if function is F.relu6 else NotImplemented

    s = sl.pack(X).requires_grad_()
    y = F.relu6(s)
    assert torch.equal(y, 2 * X)
    y.sum().backward()
    assert torch.equal(s.grad * 1, torch.full((2, 4), 5.0))


def test_explain_lists_computations_and_no_views(registry):
    @handles(aten.amax.default, compiled=one_call)
    def largest(operator, s, dim, keepdim=False):
        return torch.ones(2)

    with sl.kernel.watching() as seen:
        torch.amax(sl.pack(X).view(2, 4), 1)
    assert [(name, reason) for _, name, reason in seen] == [("bits", "37.5 % spikes")]


def test_errors_say_what_to_give(registry):
    with pytest.raises(TypeError, match=r"expected an operator with its overload \(torch.ops.aten.mm.default\)"):
        handles("mm")
    with pytest.raises(TypeError, match=r"with its overload .* got OpOverloadPacket aten.mm"):
        handles(aten.mm)
    with pytest.raises(ValueError, match=r"aten.mm.default is handled by spikeloom.spikes.products._mm already"):
        handles(aten.mm.default)(lambda operator, a, b: NotImplemented)


def test_a_cell_of_a_notebook_may_run_again(registry):
    for value in (1.0, 2.0):

        @handles(aten.prod.default)
        def product(operator, s, value=value, **options):
            return torch.tensor(value)

    assert torch.prod(sl.pack(X)) == 2.0


def test_layers_answer_through_the_operators_that_they_call():
    layer = nn.Linear(4, 3)
    with sl.kernel.watching() as seen, torch.no_grad():
        y = layer(sl.pack(X))
    assert [name for _, name, _ in seen] == ["bits"]
    torch.testing.assert_close(y, layer(X))
