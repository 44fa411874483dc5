"""What is made of neurons, under torch.compile, torch.func, pickle and deepcopy: as plain calls."""

import copy
import pickle

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

SAMPLES = {**samples.IN_ONE_STEP, **samples.LAYERS}
NAMES = (
    "Refractory",
    "Graded Adaptive",
    "MPBN",
    "FewSpike",
    "DSRIF",
    "Recurrent",
    "AssociativeLeaky",
    "OTTT",
    "Delay of each channel",
    "Recurrent delays",
)
"""One of each way to be made; tracing takes seconds."""
SLOW_NAMES = "GLIF", "SpikingLSTM", "ParallelLIF", "Inhibition", "BNTT"
"""Of the same kinds, with the largest graphs."""


def gradients(net, y):
    return torch.autograd.grad(
        (y + 1).square().sum(), list(net.parameters()), allow_unused=True, materialize_grads=True
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is
@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_NAMES)])
def test_compiled_transformed_and_copied(name):
    torch._dynamo.reset()
    layer = SAMPLES[name].make().train(name != "MPBN")  # which updates its statistics
    net, x = sl.Network(nn.Linear(3, samples.F), layer), torch.randn(6, 2, 3)
    y = net(x)
    wanted = gradients(net, y)
    assert any(float(g.abs().max()) > 0 for g in wanted)

    z = torch.compile(net, backend="aot_eager")(x)
    torch.testing.assert_close(z, y)
    for a, b in zip(gradients(net, z), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    params = {k: v.detach() for k, v in net.named_parameters()}
    found = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,)).add(1).square().sum())(params)
    for a, b in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(made(x), y)
