"""What is made of neurons, under torch.compile, torch.func, pickle and deepcopy: as plain calls."""

import copy
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl

LAYERS = {
    "Refractory": lambda: sl.Refractory(sl.LIF(v_threshold=0.2), steps=1),
    "Graded Adaptive": lambda: sl.Graded(sl.Adaptive(sl.LIF(v_threshold=0.2)), factor=nn.Parameter(torch.tensor(0.5))),
    "MPBN": lambda: sl.MPBN(sl.LIF(v_threshold=0.2), 5).eval(),
    "FewSpike": lambda: sl.FewSpike(sl.FewSpikeTable.relu(3, 2.0)),
    "GLIF": lambda: sl.nn.GLIF(6, 5),
    "DSRIF": lambda: sl.nn.DSRIF(v_threshold=0.5),
    "Recurrent": lambda: sl.nn.Recurrent(sl.LIF(v_threshold=0.2), nn.Linear(5, 5)),
    "SpikingLSTM": lambda: sl.nn.SpikingLSTM(5, 5),
    "ParallelLIF": lambda: sl.nn.ParallelLIF(sl.LIF(v_threshold=0.2)),
    "Inhibition": lambda: sl.nn.Inhibition(sl.LIF(v_threshold=0.2)),
    "AssociativeLeaky": lambda: sl.nn.AssociativeLeaky(5, d_value=2, d_key=3),
    "OTTT": lambda: sl.nn.OTTT(nn.Linear(5, 4)),
}


def gradients(net, y):
    return torch.autograd.grad(
        (y + 1).square().sum(), list(net.parameters()), allow_unused=True, materialize_grads=True
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_transformed_and_copied(name):
    torch._dynamo.reset()
    net, x = sl.Network(nn.Linear(3, 5), LAYERS[name]()), torch.randn(6, 2, 3)
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
