"""GLIF and DSR: golden files of SpikingJelly, by hand, in networks."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl


def close(a, b, tolerance=5e-6):
    return float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1.0)


# ours -> SpikingJelly's
GATES = {
    "neuron.alpha": "alpha", "beta": "beta", "neuron.gamma": "gamma", "neuron.tau": "tau",
    "neuron.v_threshold": "v_threshold", "neuron.leak": "linear_decay", "neuron.v_subreset": "v_subreset",
    "conduct": "conduct",
}  # fmt: skip


def glif(data):
    neuron = sl.nn.GLIF(20, 7)
    with torch.no_grad():
        for name, parameter in neuron.named_parameters():
            parameter.copy_(data[f"GLIF/{GATES[name]}"])
    return neuron


def test_glif_is_spikingjellys(golden):
    data = golden("spikingjelly")
    neuron, x = glif(data), data["x"].clone().requires_grad_()
    y, _ = neuron.sequence(x)
    assert torch.equal(y.detach(), data["GLIF/spikes"].to(y.dtype))
    named = dict(neuron.named_parameters())
    leaves = [x, *(named[ours] for ours in GATES)]
    grads = torch.autograd.grad(((data["gs"] + data["gv"]) * y).sum(), leaves)
    for i, grad in enumerate(grads):
        assert close(grad, data["GLIF/grad_x" if i == 0 else f"GLIF/grad_{i - 1}"]), i
    with torch.no_grad():
        neuron.conduct.mul_(-1)
    assert not torch.equal(neuron.sequence(x)[0].detach(), data["GLIF/spikes"].to(y.dtype))


def test_glif_knows_its_step_in_streams_splits_and_ragged_batches(golden):
    data = golden("spikingjelly")
    neuron, x = glif(data), data["x"]
    with torch.no_grad():
        whole, end = neuron.sequence(x)
        first, state = neuron.sequence(x[:7])
        second, state = neuron.sequence(x[7:], state=state)
        assert torch.equal(torch.cat([first, second]), whole)
        assert state["step"].tolist() == end["step"].tolist() == [20, 20, 20]
        state, steps = None, []
        for x_t in x:
            y, state = neuron.step(x_t, state=state)
            steps.append(y)
        assert torch.equal(torch.stack(steps), whole)
        lengths = torch.tensor([20, 3, 11])
        ragged, state = neuron.sequence(x, lengths=lengths)
        assert state["step"].tolist() == [20, 3, 11]
        for b, n in enumerate(lengths.tolist()):
            assert torch.equal(ragged[:n, b], whole[:n, b])
            assert ragged[n:, b].eq(0).all()
        alone, _ = neuron.sequence(x[3:7, 1:2], state={name: v[1:2] for name, v in state.items()})
        assert torch.equal(alone, whole[3:7, 1:2])
        with pytest.raises(ValueError, match="conductances for T = 20 steps, this sequence goes to step 24"):
            neuron.sequence(x[:4], state=end)
        with pytest.raises(ValueError, match=r"has 7 features, got a step \[3, 5\]"):
            neuron.sequence(torch.rand(4, 3, 5))
    for wrong, message in ((dict(T=0), "T must be at least 1"), (dict(T=2, tau=1.0), "tau must be between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            sl.nn.GLIF(**wrong)
    net = sl.Network(nn.Conv2d(1, 4, 3), sl.nn.GLIF(6, 4), nn.Flatten(), nn.Linear(64, 2))
    net(torch.rand(6, 2, 1, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_dsr_if_is_spikingjellys(golden):
    data = golden("spikingjelly")
    neuron, x = sl.nn.DSRIF(v_threshold=1.1, alpha=0.6), data["x"].clone().requires_grad_()
    y, _ = neuron.sequence(x)
    assert close(y.detach(), 1.1 * data["DSRIF/spikes"].float())
    loss = (data["gs"] * y / 1.1 + data["gv"] * y).sum()
    grad_x, grad_threshold = torch.autograd.grad(loss, [x, neuron.neuron.v_threshold])
    assert close(grad_x, data["DSRIF/grad_x"])
    assert close(grad_threshold, data["DSRIF/grad_0"])
    other = torch.autograd.grad((data["gs"] * sl.nn.DSRIF(v_threshold=0.3).sequence(x)[0]).sum(), x)[0]
    assert not close(other, data["DSRIF/grad_x"])


def test_dsr_lif_by_hand():
    """tau = 2, dt = 0.5: b = exp(-1/4); weights exp(-(T - t) / 4) of the gradient, which is 1/tau of the mean's."""
    x = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64, requires_grad=True)
    neuron = sl.nn.DSRLIF(tau=2.0, dt=0.5, v_threshold=0.8, alpha=0.5).double()
    y, state = neuron.sequence(x)
    b = math.exp(-0.25)
    v, spikes = 0.0, []
    for value in (1.0, 2.0, 0.5):
        v = b * v + (1 - b) * value
        s = 0.8 if v >= 0.4 else 0.0
        v -= s
        spikes.append(s / 0.5)
    assert sum(spikes) > 0
    torch.testing.assert_close(y.detach().flatten(), torch.tensor(spikes, dtype=torch.float64), rtol=1e-6, atol=0)
    assert state["v"].item() == pytest.approx(v, rel=1e-6)
    w = [math.exp(-0.5), math.exp(-0.25), 1.0]
    (grad,) = torch.autograd.grad(y.sum(), x)
    wanted = [3 * w_t / sum(w) / 2.0 for w_t in w]  # 3 outputs stand for the same rate
    assert grad.flatten().tolist() == pytest.approx(wanted, rel=1e-6)
    y, _ = neuron.sequence(10 * x)  # above v_threshold / dt: the threshold's gradient is that of v_threshold / dt
    grad, by_threshold = torch.autograd.grad(y.sum(), [x, neuron.neuron.v_threshold])
    assert grad.abs().max().item() == 0
    assert by_threshold.item() == pytest.approx(3 / 0.5)


def test_dsr_weighs_from_the_end_of_each_sample():
    """After 4,000 steps of padding exp(-(T - t) / 2) of a sample of 3 steps is 0, and its mean 0 / 0."""
    x = torch.full((4000, 2, 1), math.nan, dtype=torch.float64)
    x[:, 0], x[:3, 1, 0] = 0.5, torch.tensor([0.4, 0.2, 0.1], dtype=torch.float64)
    x.requires_grad_()
    neuron = sl.nn.DSRLIF(tau=2.0, dt=1.0, v_threshold=0.8).double()
    y, _ = neuron.sequence(x, lengths=torch.tensor([4000, 3]))
    (grad,) = torch.autograd.grad(y[:, 1].sum(), x)
    w = [math.exp(-1.0), math.exp(-0.5), 1.0]
    assert grad[:3, 1, 0].tolist() == pytest.approx([3 * w_t / sum(w) / 2.0 for w_t in w], rel=1e-9)
    assert grad[3:, 1].abs().max() == grad[:, 0].abs().max() == 0


def test_dsr_counts_steps_of_bfloat16_in_whole_numbers():
    x = torch.full((400, 1, 1), 0.25, dtype=torch.bfloat16, requires_grad=True)
    y, _ = sl.nn.DSRLIF(tau=20.0, dt=1.0).sequence(x)
    assert y.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(y[0].sum(), x)
    w = torch.exp(-torch.arange(399, -1, -1.0, dtype=torch.float64) / 20)
    torch.testing.assert_close(grad.flatten().double(), w / w.sum() / 20, rtol=0.005, atol=0)  # bfloat16 has 0.4 %


def test_dsr_with_lengths_and_wrong_numbers():
    x = torch.rand(6, 2, 3, dtype=torch.float64)
    for neuron in (sl.nn.DSRIF(v_threshold=0.7).double(), sl.nn.DSRLIF(v_threshold=0.2).double()):
        ragged = x.clone().requires_grad_()
        y, _ = neuron.sequence(ragged, lengths=torch.tensor([6, 4]))
        alone = x[:4, 1:].clone().requires_grad_()
        z, _ = neuron.sequence(alone)
        assert torch.equal(y[:4, 1:], z)
        assert y[4:, 1].abs().max().item() == 0
        (a,) = torch.autograd.grad(y[:, 1].sum(), ragged)
        (b,) = torch.autograd.grad(z.sum(), alone)
        torch.testing.assert_close(a[:4, 1:], b)
        assert a[4:, 1].abs().max().item() == 0
    for wrong, message in (
        (lambda: sl.nn.DSRIF(alpha=0.0), "alpha must be above 0"),
        (lambda: sl.nn.DSRIF(v_threshold=0.5, least=0.6), "least must be above 0 and at most v_threshold"),
        (lambda: sl.nn.DSRLIF(tau=-1.0), "tau and dt must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
