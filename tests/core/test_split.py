"""Split equality: one run, any split with the state carried, and a stream give the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import samples
import spikeloom as sl


class BasicBlock(nn.Module):
    """A residual block in torchvision's form: one shared in-place ReLU called twice, and +=."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def residual_net():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), BasicBlock(6), BasicBlock(6))
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(6, 4))
    sl.replace(model, nn.ReLU, lambda path, old: sl.LIF(tau=1.5, v_threshold=0.4))
    return sl.Network(model)


def agree(net, x, inner):
    net.eval()
    with torch.no_grad():
        whole, result = net(x, return_state=True, record=(inner,))
        parts, state, records = [], None, []
        for piece in x.split([1, 4, 2, x.shape[0] - 7]):
            y, r = net(piece, state=state, record=(inner,))
            parts.append(y)
            records.append(r.record[inner])
            state = r.state
        stream = net.stream()
        steps = torch.stack([stream(x_t) for x_t in x])
    assert (result.record[inner] != 0).float().mean() > 0.02
    # Convolutions of another batch size add in another order: equal up to rounding before the threshold.
    torch.testing.assert_close(torch.cat(records), result.record[inner], atol=1e-5, rtol=0)
    for got in (torch.cat(parts), steps):
        torch.testing.assert_close(got, whole, atol=1e-5, rtol=0)
    for key, value in result.state.items():
        for name, v in value.items():
            torch.testing.assert_close(state[key][name], v, atol=1e-5, rtol=0)
            torch.testing.assert_close(stream.state[key][name], v, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name, sample in samples.IN_ONE_STEP.items() if sample.causal])
def test_every_neuron(name):
    sample = samples.IN_ONE_STEP[name]
    neuron = samples.learnable(sample.make(), samples.F).float()
    net = sl.Network(nn.Linear(5, samples.F), neuron, nn.Linear(samples.F, 3), sl.LIF(v_threshold=0.2))
    with torch.no_grad():
        net.body[0].weight.mul_(2 * sample.gain)
    state = neuron.recordable[-1] if neuron.recordable else "output"
    kernels = name in ("IF", "LIF", "PLIF", "Leaky", "Synaptic", "LI")  # those of the others: test_catalogue.py
    with sl.backend("auto" if kernels else "eager"):
        agree(net, torch.randn(12, 3, 5), f"1.{state}")


def test_residual_net_with_a_shared_neuron():
    net = residual_net()
    agree(net, torch.randn(10, 2, 1, 10, 10), "3.relu.v")
    _, result = net(torch.randn(2, 2, 1, 10, 10), return_state=True)
    assert list(result.state) == ["2", "3.relu", "3.relu#1", "4.relu", "4.relu#1"]


def test_residual_net_trains():
    net = residual_net()
    loss = F.cross_entropy(net(torch.randn(6, 4, 1, 10, 10)).mean(0), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_stream_keeps_resets_and_detaches_its_state():
    net = sl.Network(nn.Linear(1, 1), sl.LI())
    stream = net.stream()
    assert stream.state is None
    x = torch.ones(1, 1)
    first, second = stream(x), stream(x)
    assert not torch.equal(first, second)
    assert stream.state["1"]["v"].requires_grad
    stream.detach()
    assert not stream.state["1"]["v"].requires_grad
    stream.reset()
    assert torch.equal(stream(x), first)
    with pytest.raises(ValueError, match=r"stream.reset\(\)"):
        stream(torch.ones(2, 1))


def test_truncated_backpropagation_stops_at_the_cut():
    net = sl.Network(sl.LI(tau=2.0, decay_input=False))
    x = torch.ones(4, 1, 1, requires_grad=True)
    _, result = net(x[:2], return_state=True)
    y = net(x[2:], state=sl.detach(result.state))
    y[-1].sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 0.0, 0.5, 1.0]


def test_layers_that_work_in_place_do_not_reach_states_or_recordings():
    x = torch.tensor([-1.0, 2.0, -4.0]).view(3, 1, 1)
    net = sl.Network(sl.LI(tau=2.0), nn.ReLU(inplace=True))
    y, result = net(x, return_state=True, record=("0.output", "0.v"))
    assert y.flatten().tolist() == [0.0, 0.75, 0.0]
    assert result.record["0.output"].flatten().tolist() == [-0.5, 0.75, -1.625]
    assert result.record["0.v"].flatten().tolist() == [-0.5, 0.75, -1.625]
    assert result.state["0"]["v"].flatten().tolist() == [-1.625]
    stream = net.stream()
    assert [float(stream(x_t)) for x_t in x] == [0.0, 0.75, 0.0]
    assert float(stream.state["0"]["v"]) == -1.625

    class Last(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.states(v=0.0)

        def dynamics(self, x, v):
            return v, x

    x = torch.ones(1, 1)
    _, state = Last().step(x)
    x.zero_()
    assert float(state["v"]) == 1.0
