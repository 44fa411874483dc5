"""ParallelLIF against the sequential neuron, bit by bit and with all gradients; AssociativeLeaky and OTTT."""

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl
from spikeloom.nn.at_once import linear_scan

NAMES = ("IF", "IF soft", "LIF", "LIF leak", "LIF strict", "Leaky now", "Leaky none")


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fixed_point_is_the_sequential_result_to_the_bit(name, dtype, detach):
    neuron = samples.learnable(samples.NEURONS[name].make(), 3).to(dtype)
    neuron.detach_reset = detach
    x = (0.3 + torch.randn(64, 2, 3, dtype=dtype)).requires_grad_()
    start = {"v": torch.randn(2, 3, dtype=dtype).requires_grad_()}
    weights = [torch.randn(64, 2, 3, dtype=dtype) for _ in range(2)]
    leaves, found = [x, start["v"], *neuron.parameters()], []
    parallel = sl.nn.ParallelLIF(neuron)
    with sl.backend("eager"):
        for module in (neuron, parallel):
            also = ("iterations",) if module is parallel else ()
            y, final, recorded = module.sequence(x, state=start, record=("v", *also))
            loss = (weights[0] * y).sum() + (weights[1] * recorded["v"]).sum() + final["v"].square().sum()
            grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            found.append(([y, final["v"], recorded["v"]], grads))
    (outs, grads), (others, other_grads) = found
    assert 0.05 < float(outs[0].detach().mean()) < 0.95
    assert all(torch.equal(a, b) for a, b in zip(outs, others, strict=True))
    limit = 1e-10 if dtype == torch.float64 else 2e-4
    for a, b in zip(grads, other_grads, strict=True):
        assert float((a - b).abs().max()) <= limit * max(float(a.abs().max()), 1.0)
    assert 1 < int(recorded["iterations"][0, 0]) <= 2 * 64


def test_iterations_follow_the_spikes_not_the_steps():
    x = torch.rand(500, 4, 8) * 0.5
    parallel = sl.nn.ParallelLIF(sl.LIF(v_threshold=0.3))
    y, _, recorded = parallel.sequence(x, record=("iterations",))
    assert 0.02 < float(y.mean()) < 0.9
    assert list(recorded) == ["iterations"]
    assert recorded["iterations"].shape == (500, 4)
    assert len(recorded["iterations"].unique()) == 1
    assert recorded["iterations"].max() < 100
    silent = sl.nn.ParallelLIF(sl.LIF(v_threshold=9.0))
    recorded = silent.sequence(x, record=("v", "iterations"))[2]
    assert list(recorded) == ["v", "iterations"]
    assert recorded["iterations"].max() < 40  # no spike: one for the spikes, the rest for the last bits


def test_a_call_leaves_nothing_in_the_module():
    parallel = sl.nn.ParallelLIF(sl.LIF(v_threshold=0.3))
    before = {name: id(value) for name, value in vars(parallel).items()}
    parallel.sequence(torch.rand(20, 2, 3))
    assert {name: id(value) for name, value in vars(parallel).items()} == before


def test_parallel_lif_with_lengths_in_networks_and_streams():
    neuron = sl.LIF(v_threshold=0.4)
    parallel, x = sl.nn.ParallelLIF(neuron), torch.rand(12, 3, 4)
    x[8:, 1] = float("nan")
    lengths = torch.tensor([12, 8, 3])
    for a, b in zip(parallel.sequence(x, lengths=lengths), neuron.sequence(x, lengths=lengths), strict=True):
        if isinstance(a, dict):
            assert torch.equal(a["v"], b["v"])
        else:
            assert torch.equal(a, b)
    net = sl.Network(nn.Linear(4, 5), parallel)
    x = torch.rand(6, 2, 4)
    stream = net.stream()
    torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x]), net(x))
    for wrong, kind, message in (
        (lambda: sl.nn.ParallelLIF(sl.QIF()), TypeError, "expected sl.IF, sl.LIF or sl.Leaky, got QIF"),
        (lambda: sl.nn.ParallelLIF(sl.Leaky(beta=0.5)), ValueError, "reset_delay=False"),
    ):
        with pytest.raises(kind, match=message):
            wrong()


def test_parallel_lif_in_torch_func():
    net, x = sl.Network(nn.Linear(4, 5), sl.nn.ParallelLIF(sl.LIF(v_threshold=0.3, tau=3.0))), torch.randn(12, 2, 4)
    params = {k: v.detach() for k, v in net.named_parameters()}
    wanted = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    grads = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,)).square().sum())(params)
    for a, b in zip(wanted, grads.values(), strict=True):
        torch.testing.assert_close(a, b)


def test_linear_scan():
    """h[t] = a[t] h[t-1] + b[t]: by a loop, for lengths around powers of two."""
    for T in (1, 2, 3, 8, 9, 31):
        a, b = torch.randn(2, T, 4, dtype=torch.float64)
        h, wanted = torch.zeros(4).double(), []
        for t in range(T):
            h = a[t] * h + b[t]
            wanted.append(h)
        torch.testing.assert_close(linear_scan(a, b), torch.stack(wanted))


def test_associative_leaky_is_snntorchs(golden):
    """Over 8 steps with decays next to 1: theirs divides by products of decays."""
    data = golden("snntorch")
    module = sl.nn.AssociativeLeaky(7, d_value=3, d_key=4, v_threshold=0.3, strict=True)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(data[f"AssociativeLeaky/{name}"])
    x = data["x"][:8].clone().requires_grad_()
    y, _ = module.sequence(x)
    torch.testing.assert_close(y.detach(), data["AssociativeLeaky/outputs"], atol=1e-5, rtol=1e-5)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    wanted = data["AssociativeLeaky/grad_x"]
    assert float((grad - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
    with torch.no_grad():
        module.to_alpha.bias.add_(1.0)
    assert not torch.allclose(module.sequence(x)[0].detach(), data["AssociativeLeaky/outputs"], atol=1e-3)


def test_associative_leaky_by_its_recurrence_and_split():
    module = sl.nn.AssociativeLeaky(3, d_value=2, d_key=4, query=False, v_threshold=0.2)
    x = torch.randn(40, 2, 3)
    y, state = module.sequence(x)
    S = torch.zeros(2, 2, 4)
    for t, x_t in enumerate(x):
        alpha = torch.sigmoid(module.to_alpha(x_t))
        S = S * alpha.unsqueeze(1) + module.to_v(x_t).unsqueeze(2) @ module.to_k(x_t).unsqueeze(1)
        clear = (S - 0.2).abs() > 1e-5
        assert torch.equal(y[t].view(2, 2, 4)[clear], (S >= 0.2).float()[clear])
    torch.testing.assert_close(state["v"], S)
    first, state = module.sequence(x[:15])
    assert torch.equal(torch.cat([first, module.sequence(x[15:], state=state)[0]]), y)
    with pytest.raises(ValueError, match=r"expected \[T, B, 3\], got \[4, 2, 5\]"):
        module.sequence(torch.rand(4, 2, 5))
    with pytest.raises(ValueError, match="d_key must be at least 1, got 0"):
        sl.nn.AssociativeLeaky(3, d_value=1, d_key=0)


def test_ottt_weights_learn_from_traces():
    """Inputs .4 .8 .2 .9, tau = 2, v_threshold = .5: trace[t] = trace[t-1] / 2 + s[t], dL/dW = sum g[t] trace[t]."""
    inputs = torch.tensor([0.4, 0.8, 0.2, 0.9], dtype=torch.float64).view(4, 1, 1)
    before = sl.options.SLTT(sl.LIF(tau=2.0, decay_input=False, v_threshold=0.5, reset="soft", detach_reset=True))
    spikes = before.sequence(inputs)[0]
    # h: .4 | .2 + .8 = 1.0 fires, .5 | .25 + .2 = .45 | .225 + .9 = 1.125 fires
    assert spikes.flatten().tolist() == [0, 1, 0, 1]
    layer = sl.nn.OTTT(nn.Linear(1, 2).double(), tau=2.0)
    s = spikes.clone().requires_grad_()
    y, state = layer.sequence(s)
    torch.testing.assert_close(y, layer.layer(s))
    assert state["v"].item() == 1.25
    g = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0], [-2.0, 1.0]], dtype=torch.float64).unsqueeze(1)
    weight, bias = layer.layer.weight, layer.layer.bias
    by_weight, by_bias, by_input = torch.autograd.grad((g * y).sum(), [weight, bias, s])
    trace = torch.tensor([0.0, 1.0, 0.5, 1.25], dtype=torch.float64)
    torch.testing.assert_close(by_weight, (g[:, 0] * trace.unsqueeze(1)).sum(0).unsqueeze(1))
    torch.testing.assert_close(by_bias, g.sum((0, 1)))
    torch.testing.assert_close(by_input, g @ weight.detach())


def test_ottt_trains_a_network_step_by_step_as_over_the_whole_sequence():
    torch.manual_seed(2)
    net = sl.Network(
        nn.Linear(3, 6),
        sl.options.SLTT(sl.LIF(v_threshold=0.2)),
        sl.nn.OTTT(nn.Linear(6, 2)),
        sl.options.SLTT(sl.LIF(v_threshold=0.2)),
    )
    x, g = torch.randn(9, 4, 3), torch.randn(9, 4, 2)
    whole = torch.autograd.grad((g * net(x)).sum(), list(net.parameters()))
    stream, online = net.stream(), [torch.zeros_like(w) for w in net.parameters()]
    for x_t, g_t in zip(x, g, strict=True):
        grads = torch.autograd.grad((g_t * stream(x_t)).sum(), list(net.parameters()))
        online = [a + b for a, b in zip(online, grads, strict=True)]
        stream.detach()  # nothing of earlier steps is needed
    for a, b in zip(whole, online, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="tau must be at least 1"):
        sl.nn.OTTT(nn.Linear(1, 1), tau=0.5)
