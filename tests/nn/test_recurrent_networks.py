"""SpikingRNN, LSTM, GRU, SConv2dLSTM, ILC and Inhibition: golden files of the peers, by hand, lengths, splits."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl


def close(a, b, tolerance=5e-6):
    return float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1.0)


NETWORKS = {
    "SpikingRNN": (lambda: sl.nn.SpikingRNN(7, 5, 2), ["cells-0", "cells-1"]),
    "SpikingLSTM": (
        lambda: sl.nn.SpikingLSTM(7, 5, 2, bidirectional=True),
        ["cells-0", "cells_reverse-0", "cells-1", "cells_reverse-1"],
    ),
    "SpikingGRU": (lambda: sl.nn.SpikingGRU(7, 5), ["cells-0"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_spiking_networks_are_spikingjellys(golden, name):
    data, (make, theirs) = golden("spikingjelly"), NETWORKS[name]
    network = make()
    named = {
        f"{there}-{part}-{kind}": getattr(getattr(layer, part), kind)
        for there, layer in zip(theirs, network.layers, strict=True)
        for part in ("linear_ih", "linear_hh")
        for kind in ("weight", "bias")
    }
    with torch.no_grad():
        for key, parameter in named.items():
            parameter.copy_(data[f"{name}/{key}"])
    x = data["x"].clone().requires_grad_()
    y, _ = network.sequence(x)
    assert torch.equal(y.detach(), data[f"{name}/outputs"])
    loss = (data["gs"][:, :, :5] * y[:, :, :5]).sum() + (data["gv"][:, :, :5] * y[:, :, -5:]).sum()
    grads = torch.autograd.grad(loss, [x, *named.values()])
    for key, grad in zip(["x", *named], grads, strict=True):
        assert close(grad, data[f"{name}/grad_{key}"], 2e-5), key
    with torch.no_grad():
        network.layers[0].linear_hh.weight.zero_()
    assert not torch.equal(network.sequence(x)[0].detach(), data[f"{name}/outputs"])


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_membrane_lstm_is_snntorchs(golden, reset):
    data, name = golden("snntorch"), f"SLSTM-{reset}"
    network = sl.nn.SpikingLSTM(7, 7, cell="membrane", v_threshold=0.1, reset=reset, strict=True)
    layer = network.layers[0]
    with torch.no_grad():
        for kind in ("weight", "bias"):
            getattr(layer.linear_ih, kind).copy_(data[f"{name}/{kind}_ih"])
            getattr(layer.linear_hh, kind).copy_(data[f"{name}/{kind}_hh"])
    x, state, spikes, membranes = data["x"].clone().requires_grad_(), None, [], []
    for x_t in x:
        y, state = network.step(x_t, state=state)
        spikes.append(y)
        membranes.append(state[0][0])
    y, h = torch.stack(spikes), torch.stack(membranes)
    assert torch.equal(y.detach(), data[f"{name}/spikes"].to(y.dtype))
    assert close(h.detach(), data[f"{name}/states"])
    leaves = [x, layer.linear_ih.weight, layer.linear_hh.weight]
    grads = torch.autograd.grad((data["gs"] * y).sum() + (data["gv"] * h).sum(), leaves)
    for grad, wanted in zip(grads, ("grad_x", "grad_0", "grad_1"), strict=True):
        assert close(grad, data[f"{name}/{wanted}"], 2e-5), wanted
    assert torch.equal(network.sequence(x)[0], y)


@pytest.mark.parametrize("pool", ["none", "max", "avg"])
def test_sconv2dlstm_is_snntorchs(golden, pool):
    data = {k.partition("/")[2]: v for k, v in golden("snntorch").items() if k.startswith(f"SConv2dLSTM-{pool}/")}
    pooling = {} if pool == "none" else {f"{pool}_pool": 2}
    network = sl.nn.SConv2dLSTM(1, 2, 3, v_threshold=0.05, strict=True, **pooling)
    with torch.no_grad():
        network.conv.weight.copy_(data["weight"])
        network.conv.bias.copy_(data["bias"])
    x = data["x"].clone().requires_grad_()
    y, state = network.sequence(x)
    assert state["h"].shape == (2, 2, 6, 6)
    assert torch.equal(y.detach(), data["spikes"])
    grads = torch.autograd.grad((data["up"] * y).sum(), [x, network.conv.weight, network.conv.bias])
    for grad, wanted in zip(grads, ("grad_x", "grad_0", "grad_1"), strict=True):
        assert close(grad, data[wanted], 2e-5), wanted


def test_memory_is_kept_when_input_and_hidden_sizes_differ():
    """snnTorch's SLSTM loses it: an input at the first step alone must still be seen at the last."""
    network = sl.nn.SpikingLSTM(3, 6, cell="membrane")
    x = torch.zeros(8, 1, 3)
    quiet, _ = network.sequence(x)
    x[0] = 5.0
    states = [network.sequence(v)[1][0][1].detach() for v in (torch.zeros(8, 1, 3), x)]
    assert float((states[0] - states[1]).abs().max()) > 1e-3
    assert quiet.shape == (8, 1, 6)


def test_rnn_by_hand():
    """One neuron, W = 1, U = -1, no bias: h = [x - h >= 0]."""
    network = sl.nn.SpikingRNN(1, 1, bias=False)
    with torch.no_grad():
        network.layers[0].linear_ih.weight.fill_(1.0)
        network.layers[0].linear_hh.weight.fill_(-1.0)
    y, state = network.sequence(torch.tensor([0.5, 0.5, 2.0, 0.5, -1.0]).view(5, 1, 1))
    # 0.5 -> 1; 0.5 - 1 -> 0; 2 -> 1; 0.5 - 1 -> 0; -1 -> 0
    assert y.flatten().tolist() == [1, 0, 1, 0, 0]
    assert state[0][0].item() == 0


@pytest.mark.parametrize("name", ["SpikingRNN", "SpikingLSTM", "SpikingGRU", "membrane"])
@pytest.mark.parametrize("both", [False, True])
def test_ragged_batches_equal_single_samples(name, both):
    torch.manual_seed(1)
    options = dict(num_layers=2, bidirectional=both)
    if name == "membrane":
        network = sl.nn.SpikingLSTM(3, 6, cell="membrane", v_threshold=0.05, **options)
    else:
        network = getattr(sl.nn, name)(3, 6, **options)
    x, lengths = torch.randn(9, 3, 3), torch.tensor([9, 4, 1])
    y, state = network.sequence(x, lengths=lengths)
    assert y.shape == (9, 3, 12 if both else 6)
    assert 0 < float(y.detach().ne(0).float().mean()) < 1
    for b, n in enumerate(lengths.tolist()):
        alone, end = network.sequence(x[:n, b : b + 1])
        assert torch.equal(y[:n, b : b + 1], alone)
        assert y[n:, b].abs().sum() == 0
        for layer, single in zip(state, end, strict=True):
            for s, e in zip(layer, single, strict=True):
                torch.testing.assert_close(s[b : b + 1], e)


def test_in_networks_streamed_and_causality():
    net = sl.Network(nn.Linear(3, 4), sl.nn.SpikingGRU(4, 6, num_layers=2), nn.Linear(6, 2)).eval()
    x = torch.randn(7, 2, 3)
    with torch.no_grad():
        whole = net(x)
        first, result = net(x[:3], return_state=True)
        second = net(x[3:], state=result.state)
        stream = net.stream()
        steps = torch.stack([stream(x_t) for x_t in x])
    for got in (torch.cat([first, second]), steps):
        torch.testing.assert_close(got, whole, atol=1e-5, rtol=0)
    both = sl.Network(sl.nn.SpikingRNN(3, 4, bidirectional=True))
    with pytest.raises(ValueError, match="causal"):
        both.stream()(x[0])


def test_dropout_between_layers():
    x = torch.randn(6, 4, 3)
    torch.manual_seed(0)
    network = sl.nn.SpikingRNN(3, 50, num_layers=2, dropout=0.5, same_mask=True)
    seen = []
    network.layers[1].linear_ih.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    network.sequence(x)
    network.eval().sequence(x)
    network.same_mask = False
    network.train().sequence(x)
    first, plain, other = seen
    assert sorted(first.unique().tolist()) == [0.0, 2.0]  # scaled by 1 / (1 - p)
    kept = (first > 0).any(0)
    assert torch.equal(first, torch.where(kept, 2 * plain, 0.0))
    assert 0.2 < float(((plain > 0).any(0) & ~kept).float().mean()) < 0.6
    assert not torch.equal(other, torch.where((other > 0).any(0), 2 * plain, 0.0))  # another mask at each step


def test_what_networks_refuse():
    for wrong, message in (
        (lambda: sl.nn.SpikingRNN(3, 0), "hidden_size must be at least 1, got 0"),
        (lambda: sl.nn.SpikingGRU(3, 4, dropout=1.0), "dropout must be at least 0 and less than 1"),
        (lambda: sl.nn.SpikingLSTM(3, 4, cell="gru"), "cell must be gates or membrane"),
        (lambda: sl.nn.SpikingLSTM(3, 4, reset="zero"), "reset must be soft, hard or none"),
        (lambda: sl.nn.SConv2dLSTM(1, 2, 4), "kernel_size must be odd"),
        (lambda: sl.nn.SConv2dLSTM(1, 2, 3, max_pool=2, avg_pool=2), "not both"),
        (lambda: sl.nn.SpikingRNN(3, 4).sequence(torch.rand(2, 1, 5)), r"expected \[T, B, 3\], got \[2, 1, 5\]"),
        (lambda: sl.nn.ILC(0, 3), "groups and size must be at least 1"),
        (lambda: sl.nn.ILC(2, 3)(torch.rand(1, 5)), r"expected \[B, 6\], got \[1, 5\]"),
        (lambda: sl.nn.Inhibition(sl.LIF(), among="batch"), "among must be channels or all"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_ilc_is_spikingjellys(golden):
    data = golden("spikingjelly")
    lif = sl.Leaky(
        beta=0.75, v_threshold=0.8, reset="hard", reset_delay=False, strict=False, surrogate=sl.surrogate.Rect(1.0)
    )
    neuron = sl.nn.Recurrent(lif, sl.nn.ILC(2, 3))
    with torch.no_grad():
        neuron.feedback.weight.copy_(data["ILC/weight"].view(2, 3, 3))
        neuron.feedback.bias.copy_(data["ILC/bias"].view(2, 3))
    # Theirs has no feedback into the first step; ours has the bias there: take it away from the input.
    x = data["x"][:, :, :6].clone().requires_grad_()
    first = torch.cat([x[:1] - neuron.feedback.bias.detach().flatten(), x[1:]])
    y, _ = neuron.sequence(first)
    assert torch.equal(y.detach(), data["ILC/spikes"].to(y.dtype))
    grads = torch.autograd.grad((data["gs"][:, :, :6] * y).sum(), [x, neuron.feedback.weight])
    assert close(grads[0], data["ILC/grad_x"], 2e-5)
    assert close(grads[1].flatten(), data["ILC/grad_0"].flatten(), 2e-5)


def test_inhibition_by_hand():
    """IF, v_threshold 1. Losers above their threshold keep their voltage and fire later."""
    x = torch.tensor([[1.5, 2.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.6]]).unsqueeze(1).requires_grad_()
    neuron = sl.nn.Inhibition(sl.IF())
    y, state = neuron.sequence(x)
    assert y[:, 0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert state["v"].flatten().tolist() == [0.0, 0.0, 0.0]
    (grad,) = torch.autograd.grad(y[0].sum(), x)
    assert grad[0, 0, 0] == grad[0, 0, 2] == 0
    assert float(grad[0, 0, 1]) == pytest.approx(1 / (1 + math.pi**2))  # ATan(2) at u = 1
    image = torch.rand(3, 2, 4, 5, 5) + 1.0
    at_places, _ = sl.nn.Inhibition(sl.IF()).sequence(image)
    assert torch.equal(at_places[0].sum(1), torch.ones(2, 5, 5))
    among_all, _ = sl.nn.Inhibition(sl.IF(), among="all").sequence(image)
    assert among_all[0].flatten(1).sum(1).tolist() == [1, 1]
    with pytest.raises(ValueError, match="fires twice"):
        sl.nn.Inhibition(sl.Leaky(beta=0.5)).sequence(torch.rand(2, 1, 3))
