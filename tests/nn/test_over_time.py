"""Recurrent and the parallel neurons: golden files of the peers, by hand, streams, causality."""

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

PARALLEL = samples.layers(20, 7)


def close(a, b, tolerance=3e-6):
    return float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1.0)


@pytest.mark.parametrize("name", ["PSN", "MaskedPSN", "SlidingPSN"])
def test_parallel_neurons_are_spikingjellys(golden, name):
    data, neuron = golden("spikingjelly"), PARALLEL[name].make()
    with torch.no_grad():
        for key in ("weight", "bias"):
            parameter = getattr(neuron, key)
            parameter.copy_(data[f"{name}/{key}"].reshape(parameter.shape))
    x = data["x"].clone().requires_grad_()
    y, _ = neuron.sequence(x)
    assert torch.equal(y.detach(), data[f"{name}/spikes"].to(y.dtype))
    grads = torch.autograd.grad(((data["gs"] + data["gv"]) * y).sum(), [x, neuron.weight, neuron.bias])
    for i, (grad, wanted) in enumerate(zip(grads, ("grad_x", "grad_0", "grad_1"), strict=True)):
        assert close(grad.flatten(), data[f"{name}/{wanted}"].flatten()), i
    with torch.no_grad():
        neuron.weight.mul_(1.3)
    assert not torch.equal(neuron.sequence(x)[0].detach(), data[f"{name}/spikes"].to(y.dtype))


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_recurrent_is_snntorchs(golden, reset):
    data, name = golden("snntorch"), f"RLeaky-{reset}"
    # Its hard reset clears the input of the step too, as Synaptic's does, and unlike Leaky's.
    kinds = {
        "soft": sl.Leaky(beta=0.6, v_threshold=0.8),
        "hard": sl.Synaptic(alpha=0.0, beta=0.6, v_threshold=0.8, reset="hard"),
    }
    neuron = sl.nn.Recurrent(kinds[reset], nn.Linear(7, 7))
    neuron.feedback.load_state_dict({k: data[f"{name}/{k}"] for k in ("weight", "bias")})
    x = data["x"].clone().requires_grad_()
    y, _, recorded = neuron.sequence(x, record=("v",))
    assert torch.equal(y.detach(), data[f"{name}/spikes"].to(y.dtype))
    assert close(recorded["v"].detach(), data[f"{name}/states"])
    leaves = [x, neuron.feedback.weight, neuron.feedback.bias]
    grads = torch.autograd.grad((data["gs"] * y).sum() + (data["gv"] * recorded["v"]).sum(), leaves)
    for grad, wanted in zip(grads, ("grad_x", "grad_0", "grad_1"), strict=True):
        assert close(grad, data[f"{name}/{wanted}"], 2e-5), wanted
    plain = kinds[reset].sequence(x)[0]
    assert not torch.equal(plain, y)  # the feedback matters


def test_one_to_one_by_hand():
    """IF, v_threshold 1, each spike gives -0.75 back: x = 1 at every step."""
    neuron = sl.nn.Recurrent(sl.IF(), sl.nn.OneToOne(weight=-0.75))
    y, state = neuron.sequence(torch.ones(6, 1, 1))
    # h: 1 (fires), 0.25, 1.25 (fires), 0.25, 1.25 (fires), 0.25
    assert y.flatten().tolist() == [1, 0, 1, 0, 1, 0]
    assert state["v"].item() == 0.25
    assert state["fed_back"].item() == 0.0
    per_channel = sl.nn.OneToOne(3)
    with torch.no_grad():
        per_channel.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert per_channel(torch.ones(2, 3, 1, 1)).flatten(1).tolist() == [[1, 2, 3]] * 2
    with pytest.raises(ValueError, match=r"3 weights do not fit the channels of \[2, 4\]"):
        per_channel(torch.ones(2, 4))


def test_convolutional_feedback_in_a_network_split_and_streamed():
    net = sl.Network(
        nn.Conv2d(1, 4, 3),
        sl.nn.Recurrent(sl.LIF(v_threshold=0.2), nn.Conv2d(4, 4, 3, padding=1)),
        nn.Flatten(),
        nn.Linear(64, 3),
        sl.nn.SlidingPSN(3),
    ).eval()
    nn.init.constant_(net.body[4].bias, 0.0)
    x = torch.randn(11, 2, 1, 6, 6)
    with torch.no_grad():
        whole, result = net(x, return_state=True, record=("1.v",))
        first, half = net(x[:4], return_state=True)
        second, end = net(x[4:], state=half.state, return_state=True)
        stream = net.stream()
        steps = torch.stack([stream(x_t) for x_t in x])
    assert result.record["1.v"].shape == (11, 2, 4, 4, 4)
    assert 0.02 < float(whole.mean()) < 0.98
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(steps, whole)
    torch.testing.assert_close(end.state["1"]["v"], result.state["1"]["v"])
    assert end.state["4"].shape == (2, 2, 3)


def test_ragged_batches():
    neuron = sl.nn.SlidingPSN(3)
    recurrent = sl.nn.Recurrent(sl.LIF(v_threshold=0.3), nn.Linear(5, 5))
    x, lengths = torch.rand(8, 3, 5), torch.tensor([8, 3, 5])
    for module in (neuron, recurrent):
        y, state = module.sequence(x, lengths=lengths)
        for b, n in enumerate(lengths.tolist()):
            alone, final = module.sequence(x[:n, b : b + 1])
            torch.testing.assert_close(y[:n, b : b + 1], alone)
            assert (y[n:, b] == 0).all()
            for got, want in zip(
                torch.utils._pytree.tree_leaves(state), torch.utils._pytree.tree_leaves(final), strict=True
            ):
                torch.testing.assert_close(got[b : b + 1], want)


def test_a_masked_psn_is_causal_when_it_says_so():
    neuron = sl.nn.MaskedPSN(6, order=2, lam=1.0)
    assert neuron.causal
    x = torch.randn(6, 1, 1)
    changed = x.clone()
    changed[4:] += 10
    assert torch.equal(neuron.sequence(x)[0][:4], neuron.sequence(changed)[0][:4])
    assert (neuron.weights()[5, :4] == 0).all()
    assert (neuron.weights()[5, 4:] != 0).all()
    neuron.lam = 0.5
    assert not neuron.causal
    torch.testing.assert_close(neuron.weights()[0, 5], 0.5 * neuron.weight[0, 5])


def test_wrong_use():
    for make, message in (
        (lambda: sl.nn.PSN(0), "PSN: T must be at least 1, got 0"),
        (lambda: sl.nn.MaskedPSN(4, order=5), "order must be from 1 to T = 4, got 5"),
        (lambda: sl.nn.MaskedPSN(4, order=2, lam=1.5), "lam must be from 0 to 1, got 1.5"),
        (lambda: sl.nn.SlidingPSN(0), "order must be at least 1, got 0"),
        (lambda: sl.nn.PSN(4).sequence(torch.rand(5, 1, 1)), "was made for T = 4, got a sequence of 5 steps"),
        (lambda: sl.nn.PSN(4).sequence(torch.rand(4, 1, 1), lengths=torch.tensor([2])), "lengths cannot be used"),
        (
            lambda: sl.nn.Recurrent(sl.LIF(), nn.Linear(5, 4)).sequence(torch.rand(2, 1, 5)),
            r"the feedback gives \[1, 4\], the input has \[1, 5\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"expected a neuron such as sl.LIF\(\), got Linear"):
        sl.nn.Recurrent(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="causal"):
        sl.Network(sl.nn.PSN(4)).stream()
