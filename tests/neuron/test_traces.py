"""Hand-computed traces. x = .6 .6 .6 .6 0 1.2 .6 .6, threshold 1, decay .5; exact in binary but for rounding of x."""

import pytest
import torch

import spikeloom as sl

X = [0.6, 0.6, 0.6, 0.6, 0.0, 1.2, 0.6, 0.6]
RESIDUAL = [1.9, 1.9, 1.2, 0.0, 0.0]

CASES = {
    "Leaky soft, late": (
        lambda: sl.Leaky(beta=0.5), X, "00100100", [0.6, 0.9, 1.05, 0.125, 0.0625, 1.23125, 0.215625, 0.7078125],
    ),
    "Leaky soft, now": (
        lambda: sl.Leaky(beta=0.5, reset_delay=False), X, "00100100",
        [0.6, 0.9, 0.05, 0.625, 0.3125, 0.35625, 0.778125, 0.9890625],
    ),
    "LIF soft, full input gain": (
        lambda: sl.LIF(tau=2.0, decay_input=False, reset="soft"), X, "00100100",
        [0.6, 0.9, 0.05, 0.625, 0.3125, 0.35625, 0.778125, 0.9890625],
    ),
    "Leaky hard, late": (
        lambda: sl.Leaky(beta=0.5, reset="hard"), X, "00100100", [0.6, 0.9, 1.05, 0.6, 0.3, 1.35, 0.6, 0.9],
    ),
    "Leaky hard, now": (
        lambda: sl.Leaky(beta=0.5, reset="hard", reset_delay=False), X, "00100100",
        [0.6, 0.9, 0.0, 0.6, 0.3, 0.0, 0.6, 0.9],
    ),
    "LIF hard, full input gain": (
        lambda: sl.LIF(tau=2.0, decay_input=False), X, "00100100", [0.6, 0.9, 0.0, 0.6, 0.3, 0.0, 0.6, 0.9],
    ),
    "Leaky none": (
        lambda: sl.Leaky(beta=0.5, reset="none"), X, "00110111",
        [0.6, 0.9, 1.05, 1.125, 0.5625, 1.48125, 1.340625, 1.2703125],
    ),
    "LIF default": (
        lambda: sl.LIF(tau=2.0), X, "00000000",
        [0.3, 0.45, 0.525, 0.5625, 0.28125, 0.740625, 0.6703125, 0.63515625],
    ),
    "Synaptic soft": (
        lambda: sl.Synaptic(alpha=0.5, beta=0.5), X, "01010110",
        [0.6, 1.2, 0.65, 1.45, 0.2875, 1.625, 1.153125, 0.846875],
    ),
    "Synaptic hard": (
        lambda: sl.Synaptic(alpha=0.5, beta=0.5, reset="hard"), X, "01010101",
        [0.6, 1.2, 0.0, 1.125, 0.0, 1.48125, 0.0, 1.2703125],
    ),
    # By hand: i = .6 .9 1.05 1.125 .5625 1.48125 1.340625 1.2703125; reset at once, hard, so v is 0 after a spike.
    "Synaptic hard, now": (
        lambda: sl.Synaptic(alpha=0.5, beta=0.5, reset="hard", reset_delay=False), X, "01110111",
        [0.6, 0.0, 0.0, 0.0, 0.5625, 0.0, 0.0, 0.0],
    ),
    "residual above threshold fires again": (
        lambda: sl.LIF(tau=2.0, decay_input=False, reset="soft"), RESIDUAL, "11100",
        [0.9, 1.35, 0.875, 0.4375, 0.21875],
    ),
    "the same, Leaky soft, now (snnTorch gives 11000)": (
        lambda: sl.Leaky(beta=0.5, reset_delay=False), RESIDUAL, "11100", [0.9, 1.35, 0.875, 0.4375, 0.21875],
    ),
    "the same, Leaky soft, late": (
        lambda: sl.Leaky(beta=0.5), RESIDUAL, "11100", [1.9, 1.85, 1.125, -0.4375, -0.21875],
    ),
    "IF soft": (lambda: sl.IF(reset="soft"), [0.5, 0.25, 0.5, 1.75, 0.0], "00111", [0.5, 0.75, 0.25, 1.0, 0.0]),
    "IF hard to -0.5": (lambda: sl.IF(v_reset=-0.5), [1.5, 1.0, 0.5], "101", [-0.5, 0.5, -0.5]),
    "IF none": (lambda: sl.IF(reset="none"), [0.5, 0.5, -0.25], "010", [0.5, 1.0, 0.75]),
    # tau = 4, v_leak = .5: v starts at .5 and decays to it: h = v + (x - (v - .5)) / 4
    "LIF with v_leak": (lambda: sl.LIF(tau=4.0, v_leak=0.5), [0.0, 1.0, 2.0], "001", [0.5, 0.75, 0.0]),
    # hard reset to .2 is also the leak's target: h = v + (x - (v - .2)) / 2
    "LIF leaks to v_reset": (lambda: sl.LIF(v_reset=0.2), [0.8, 0.8, 2.0], "001", [0.6, 0.8, 0.2]),
    # the same with a soft reset leaks to 0
    "PLIF of tau 2 is LIF": (
        lambda: sl.PLIF(tau=2.0, decay_input=False), X, "00100100", [0.6, 0.9, 0.0, 0.6, 0.3, 0.0, 0.6, 0.9],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_trace(name):
    make, x, spikes, voltage = CASES[name]
    x = torch.tensor(x, dtype=torch.float64).view(-1, 1)
    y, state, recorded = make().sequence(x, record=("v",))
    assert "".join(str(int(s)) for s in y.flatten()) == spikes
    torch.testing.assert_close(recorded["v"].flatten(), torch.tensor(voltage, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.equal(state["v"], recorded["v"][-1])


def test_strict_fires_above_the_threshold_only():
    x = torch.tensor([[1.0], [1.0]])
    assert sl.IF().sequence(x)[0].flatten().tolist() == [1, 1]
    assert sl.IF(strict=True).sequence(x)[0].flatten().tolist() == [0, 1]


def test_li_is_an_exponential_average_and_never_fires():
    y, state = sl.LI(tau=4.0, v_leak=1.0).sequence(torch.full((50, 1), 2.0, dtype=torch.float64))
    steps = torch.arange(1, 51, dtype=torch.float64)
    torch.testing.assert_close(y.flatten(), 1 + 2 * (1 - 0.75**steps), atol=1e-12, rtol=0)
    assert torch.equal(state["v"], y[-1])


def test_li_with_infinite_tau_integrates():
    x = torch.tensor([[1.0], [2.0], [-4.0]])
    assert sl.LI(tau=float("inf"), decay_input=False).sequence(x)[0].flatten().tolist() == [1.0, 3.0, -1.0]
