"""Ragged batches: every sample as if it had run alone; layers never see padding."""

import pytest
import torch
from torch import nn

import spikeloom as sl

LENGTHS = torch.tensor([3, 7, 5])


class Cumulative(sl.TemporalModule):
    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        total = (self.initial_state(x_t) if state is None else state) + x_t
        return total, total


def ragged(*shape, fill=float("nan")):
    x = torch.randn(7, 3, *shape)
    for b, n in enumerate(LENGTHS):
        x[n:, b] = fill
    return x


def net():
    return sl.Network(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        sl.LIF(v_threshold=0.3),
        nn.Linear(6, 2),
        sl.Loop(sl.Leaky(beta=0.9)),
        Cumulative(),
    )


def test_each_sample_equals_its_own_run_and_nan_padding_is_harmless():
    model, x = net().eval(), ragged(4)
    y, result = model(x, lengths=LENGTHS, return_state=True, record=("2.v",))
    for b, n in enumerate(LENGTHS):
        alone, r = model(x[:n, b : b + 1], return_state=True, record=("2.v",))
        torch.testing.assert_close(y[:n, b], alone[:, 0], atol=1e-6, rtol=0)
        assert (y[n:, b] == 0).all()
        torch.testing.assert_close(result.record["2.v"][:n, b], r.record["2.v"][:, 0], atol=1e-6, rtol=0)
        assert (result.record["2.v"][n:, b] == 0).all()
        torch.testing.assert_close(result.state["2"]["v"][b], r.state["2"]["v"][0], atol=1e-6, rtol=0)
        looped = result.state["4"]
        torch.testing.assert_close(looped["4.module"]["v"][b], r.state["4"]["4.module"]["v"][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(result.state["5"][b], r.state["5"][0], atol=1e-6, rtol=0)


def test_batch_norm_sees_valid_steps_only():
    model, x = net().train(), ragged(4)
    model(x, lengths=LENGTHS)
    valid = torch.cat([x[:n, b] for b, n in enumerate(LENGTHS)])
    rows = model.body[0](valid)
    torch.testing.assert_close(model.body[1].running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(model.body[1].running_var, 0.9 + 0.1 * rows.var(0))


def test_gradients_do_not_see_padding_either():
    model, x = net().eval(), ragged(4)
    model(x, lengths=LENGTHS).sum().backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sum(model(x[:n, b : b + 1]).sum() for b, n in enumerate(LENGTHS)).backward()
    for g, p in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad, atol=1e-4, rtol=1e-4)


def test_a_neuron_alone_takes_lengths():
    x = ragged(2).requires_grad_()
    neuron = sl.LIF(tau=torch.nn.Parameter(torch.tensor(2.0)), v_threshold=0.2)
    y, state, recorded = neuron.sequence(x, lengths=LENGTHS, record=("v",))
    for b, n in enumerate(LENGTHS):
        alone, final = neuron.sequence(x[:n, b : b + 1])
        assert torch.equal(y[:n, b], alone[:, 0])
        assert torch.equal(state["v"][b], final["v"][0])
        assert (y[n:, b] == 0).all()
        assert (recorded["v"][n:, b] == 0).all()
    (y.sum() + recorded["v"].sum()).backward()
    assert neuron.tau.grad.isfinite()
    assert x.grad.isfinite().all()


def test_full_lengths_change_nothing():
    model, x = net().eval(), torch.randn(7, 3, 4)
    assert torch.equal(model(x, lengths=torch.full((3,), 7)), model(x))


def test_batch_first_with_lengths():
    model, x = net().eval(), ragged(4, fill=0.0)
    wanted = model(x, lengths=LENGTHS).transpose(0, 1)
    model.batch_first = True
    assert torch.equal(model(x.transpose(0, 1), lengths=LENGTHS), wanted)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (torch.tensor([1, 2]), ValueError, r"shape \[B\] = \[3\]"),
        (torch.tensor([0, 2, 3]), ValueError, "between 1 and T = 7, got values from 0 to 3"),
        (torch.tensor([1, 2, 8]), ValueError, "from 1 to 8"),
        (torch.tensor([1.0, 2.0, 3.0]), TypeError, "integers"),
        ([1, 2, 9], ValueError, "from 1 to 9"),
    ],
)
def test_bad_lengths_raise(lengths, error, message):
    with pytest.raises(error, match=message):
        net()(torch.randn(7, 3, 4), lengths=lengths)
    with pytest.raises(error, match=message):
        sl.LIF().sequence(torch.randn(7, 3, 4), lengths=lengths)
    with pytest.raises(error, match=message):
        sl.decode.rate(torch.rand(7, 3, 4), lengths=lengths)


def test_recording_inside_a_loop_of_a_ragged_batch():
    model, x = net().eval(), ragged(4, fill=0.0)
    _, result = model(x, lengths=LENGTHS, record=("4.module.v",))
    for b, n in enumerate(LENGTHS):
        _, r = model(x[:n, b : b + 1], record=("4.module.v",))
        torch.testing.assert_close(result.record["4.module.v"][:n, b], r.record["4.module.v"][:, 0], atol=1e-6, rtol=0)
        assert (result.record["4.module.v"][n:, b] == 0).all()


@pytest.mark.parametrize("neuron", [lambda: sl.LIF(v_threshold=0.3), lambda: sl.Leaky(beta=0.9, v_threshold=0.3)])
def test_steps_after_the_longest_sample_are_empty(neuron):
    """A ragged batch whose longest sample ends before T: no step of 0 samples runs, outputs and recordings are 0."""
    torch.manual_seed(0)
    recurrent = sl.nn.Recurrent(neuron(), nn.Linear(5, 5))
    model = sl.Network(nn.Linear(3, 5), recurrent)
    x, lengths = torch.rand(6, 2, 3), torch.tensor([2, 4])
    y, result = model(x, lengths=lengths, return_state=True, record=("1.v",))
    for b, n in enumerate(lengths):
        alone, r = model(x[:n, b : b + 1], return_state=True, record=("1.v",))
        torch.testing.assert_close(y[:n, b], alone[:, 0])
        torch.testing.assert_close(result.record["1.v"][:n, b], r.record["1.v"][:, 0])
        torch.testing.assert_close(result.state["1"]["v"][b], r.state["1"]["v"][0])
        assert not y[n:, b].any()
        assert not result.record["1.v"][n:, b].any()
    assert y.any()
    y.sum().backward()
    assert recurrent.feedback.weight.grad.isfinite().all()


def test_a_loop_runs_no_step_of_no_samples():
    seen = []

    class Sees(nn.Module):
        def forward(self, x):
            seen.append(x.shape[0])
            return x

    y = sl.Network(sl.Loop(Sees()))(torch.ones(6, 3, 1), lengths=torch.tensor([2, 4, 1]))
    assert seen == [3, 2, 1, 1]
    assert y.sum() == 7
    assert y.shape == (6, 3, 1)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e38])
@pytest.mark.parametrize("kind", ["LIF", "QIF", "DeltaLeaky", "Izhikevich"])
def test_a_state_that_is_not_finite_reaches_no_gradient_by_padded_steps(kind, value, backend):
    """Gradients of a sample are those of the sample alone, which has no padding."""
    neuron = {
        "LIF": lambda: sl.LIF(tau=2.0, v_leak=0.2, reset="none"),
        "QIF": sl.QIF,
        "DeltaLeaky": lambda: sl.DeltaLeaky(beta=0.8),
        "Izhikevich": sl.Izhikevich,
    }[kind]()
    x = torch.rand(6, 2, 3)
    x[1, 0, 1] = value
    x.requires_grad_()
    with sl.backend(backend):
        y, state = neuron.sequence(x, lengths=torch.tensor([2, 6]))
        (y.sum() + sum(v.sum() for v in state.values())).backward()
    alone = x.detach()[:2, :1].clone().requires_grad_()
    with sl.backend("eager"):
        y, state = neuron.sequence(alone)
        (y.sum() + sum(v.sum() for v in state.values())).backward()
    torch.testing.assert_close(x.grad[:2, :1], alone.grad, equal_nan=True)
    assert not x.grad[2:, 0].any()


def test_lengths_that_are_no_numbers():
    with pytest.raises(TypeError, match="lengths must hold integers, got str"):
        sl.decode.count(torch.ones(3, 2, 2), lengths="ab")
