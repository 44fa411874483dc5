"""Spikes, states and all gradients against the peers' golden files (tests/reference/make_golden.py)."""

import math

import pytest
import torch

import spikeloom as sl

ATAN = sl.surrogate.ATan


def run(neuron, data, learned=()):
    x = data["x"].clone().requires_grad_()
    y, _, recorded = neuron.sequence(x, record=("v",))
    loss = (data["gs"] * y).sum() + (data["gv"] * recorded["v"]).sum()
    return y, recorded["v"], torch.autograd.grad(loss, [x, *learned])


def error(a, b):
    return float((a - b).abs().max() / b.abs().max())


def compare(name, data, neuron, learned=(), tolerance=2e-6):
    y, v, grads = run(neuron, data, learned)
    wanted = [data[f"{name}/grad_x"], *(data[f"{name}/grad_{i}"] for i in range(len(learned)))]
    assert torch.equal(y.detach(), data[f"{name}/spikes"].to(y.dtype))
    assert error(v.detach(), data[f"{name}/states"]) <= tolerance
    for got, want in zip(grads, wanted, strict=True):
        assert error(got, want) <= tolerance
        assert torch.cosine_similarity(got.flatten(), want.flatten(), dim=0) >= 1 - 1e-6


def differs(name, data, neuron, tolerance=2e-6):
    """A twin with a wrong mapping must be far off."""
    _, v, grads = run(neuron, data)
    far = max(error(v.detach(), data[f"{name}/states"]), error(grads[0], data[f"{name}/grad_x"]))
    assert far > 10 * tolerance


RESETS = {"hard": {}, "hard_low": {"v_reset": -0.2}, "soft": {"reset": "soft"}}


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach", [False, True])
def test_if_is_spikingjellys(golden, reset, detach):
    data = golden("spikingjelly")
    neuron = sl.IF(v_threshold=0.8, detach_reset=detach, **RESETS[reset])
    compare(f"IF-{reset}-{detach}", data, neuron)
    differs(f"IF-{reset}-{detach}", data, sl.IF(v_threshold=0.8, detach_reset=not detach, **RESETS[reset]))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("decay", [True, False])
def test_lif_is_spikingjellys(golden, reset, detach, decay):
    data, name = golden("spikingjelly"), f"LIF-{decay}-{reset}-{detach}"
    options = dict(v_threshold=0.8, detach_reset=detach, **RESETS[reset])
    compare(name, data, sl.LIF(tau=2.5, decay_input=decay, **options))
    differs(name, data, sl.LIF(tau=2.5, decay_input=not decay, **options))
    differs(name, data, sl.LIF(tau=2.5 / 1.5, decay_input=decay, **options))  # snetx's tau


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("decay", [True, False])
def test_plif_is_spikingjellys(golden, reset, detach, decay):
    data, name = golden("spikingjelly"), f"PLIF-{decay}-{reset}-{detach}"
    neuron = sl.PLIF(tau=2.5, decay_input=decay, v_threshold=0.8, detach_reset=detach, **RESETS[reset])
    compare(name, data, neuron, [neuron.w])


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_leaky_is_snntorchs(golden, reset, delay):
    data, name = golden("snntorch"), f"Leaky-{reset}-{delay}"
    if name == "Leaky-soft-False":
        # No parity: snnTorch misses the second spike of a residual above threshold, see test_traces.
        assert f"{name}/spikes" not in data
        return
    beta = torch.nn.Parameter(torch.tensor(0.6))
    neuron = sl.Leaky(beta=beta, v_threshold=0.8, reset=reset, reset_delay=delay)
    compare(name, data, neuron, [neuron.beta])
    if reset != "none":
        differs(name, data, sl.Leaky(beta=0.6, v_threshold=0.8, reset=reset, reset_delay=not delay))
        differs(name, data, sl.Leaky(beta=0.6, v_threshold=0.8, reset=reset, reset_delay=delay, detach_reset=not delay))


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_synaptic_is_snntorchs(golden, reset):
    data = golden("snntorch")
    alpha, beta = torch.nn.Parameter(torch.tensor(0.7)), torch.nn.Parameter(torch.tensor(0.6))
    neuron = sl.Synaptic(alpha=alpha, beta=beta, v_threshold=0.8, reset=reset)
    compare(f"Synaptic-{reset}", data, neuron, [neuron.alpha, neuron.beta])
    differs(f"Synaptic-{reset}", data, sl.Synaptic(alpha=0.6, beta=0.6, v_threshold=0.8, reset=reset))


@pytest.mark.parametrize(("v_leak", "v_reset"), [(0.0, 0.0), (0.1, -0.2)])
def test_lif_is_norses(golden, v_leak, v_reset):
    data, name = golden("norse"), f"LIF-{v_leak}-{v_reset}"
    options = dict(
        tau=2.5, v_threshold=0.8, v_leak=v_leak, v_reset=v_reset, surrogate=sl.surrogate.FastSigmoid(1.0)
    )  # norse ignores its alpha
    compare(name, data, sl.LIF(strict=True, **options))
    differs(name, data, sl.LIF(**{**options, "v_leak": v_leak + 0.01}))


def test_li_is_norses(golden):
    data = golden("norse")
    y, v, (grad,) = run(sl.LI(tau=2.5, v_leak=0.1), data)
    assert error(v.detach(), data["LI/states"]) <= 2e-6
    assert torch.equal(y, v)
    assert error(grad, data["LI/grad_x"]) <= 2e-6
    differs("LI", data, sl.LI(tau=2.5))


PARABOLA = dict(tau=2.5, a=0.7, v_c=0.6, v_reset=-0.2, v_threshold=0.8)
CATALOGUE = {
    "QIF": (sl.QIF, PARABOLA, dict(v_c=0.7)),
    "EIF": (sl.EIF, dict(tau=2.5, delta_t=0.9, v_rh=0.6, v_reset=-0.2, v_threshold=0.8), dict(delta_t=1.0)),
    "Izhikevich": (
        sl.Izhikevich,
        dict(
            dt=1 / 2.5, c2=0.7, c1=-0.7 * 0.6, c0=0.0, a=2.5 / 4, b=0.3, d=0.2, v_reset=-0.2, u_rest=0.0,
            v_threshold=0.8,
        ),
        dict(a=1 / 4),
    ),
    "ILIF": (sl.ILIF, dict(tau=4 / 3, v_threshold=0.8), dict(levels=3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_is_spikingjellys(golden, name):
    kind, options, wrong = CATALOGUE[name]
    data = golden("spikingjelly")
    if name == "Izhikevich":  # which begins at v_reset here, at v_rest there
        at_rest = dict(v=torch.zeros(3, 7), u=torch.zeros(3, 7))
        compare(name, data, Started(kind(**options), at_rest), tolerance=5e-6)
        differs(name, data, Started(kind(**{**options, **wrong}), at_rest))
        return
    compare(name, data, kind(**options), tolerance=5e-6)
    differs(name, data, kind(**{**options, **wrong}))


class Started:
    """A neuron with a given initial state."""

    def __init__(self, neuron, state):
        self.neuron, self.state = neuron, state

    def sequence(self, x, **options):
        return self.neuron.sequence(x, state=self.state, **options)


@pytest.mark.parametrize("scaled", [False, True])
def test_klif_is_spikingjellys(golden, scaled):
    data, name = golden("spikingjelly"), "KLIF-scaled" if scaled else "KLIF"
    options = dict(tau=2.5, v_threshold=0.8, **(dict(reset="soft") if scaled else dict(v_reset=-0.2)))
    neuron = sl.KLIF(k=torch.nn.Parameter(torch.tensor(1.3)), scale_reset=scaled, **options)
    compare(name, data, neuron, [neuron.k], tolerance=5e-6)
    differs(name, data, sl.KLIF(k=1.3, scale_reset=not scaled, **options))


def test_alpha_is_snntorchs(golden):
    data, options = golden("snntorch"), dict(alpha=0.9, v_threshold=0.4)
    compare("Alpha", data, sl.Alpha(beta=0.7, **options))
    differs("Alpha", data, sl.Alpha(beta=0.6, **options))
    differs("Alpha", data, sl.Alpha(beta=0.7, reset=False, **options))


def test_liaf_is_spikingjellys(golden):
    data, options = golden("spikingjelly"), dict(tau=2.5, v_threshold=0.8)
    y, v, grads = run(sl.LIAF(v_reset=-0.2, **options), data)
    assert error(y.detach(), data["LIAF/outputs"]) <= 2e-6
    assert error(v.detach(), data["LIAF/states"]) <= 2e-6
    assert error(grads[0], data["LIAF/grad_x"]) <= 2e-6
    differs("LIAF", data, sl.LIAF(v_reset=-0.2, threshold_related=False, **options))


TABLES = (
    sl.FewSpikeTable((0.9, 0.5, 0.2), (0.8, 0.45, 0.3), (0.7, 0.6, 0.1)),
    sl.FewSpikeTable((1.9, 1.1, 0.6), (1.7, 1.0, 0.5), (1.6, 1.2, 0.4)),
    sl.FewSpikeTable((2.2, 1.0, 0.4), (2.0, 0.9, 0.6), (1.9, 0.8, 0.7)),
)
FEW = {
    "FewSpike": (lambda: sl.FewSpike(TABLES[0])),
    "FewSpike-outliers": (lambda: sl.FewSpike(*TABLES[:2], gates=(1.0,), signed=True, clamp=(-1.8, 1.8))),
    "FewSpike-gates": (lambda: sl.FewSpike(*TABLES, gates=(0.2, 1.4))),
}


@pytest.mark.parametrize("name", FEW)
def test_few_spike_is_spikingjellys(golden, name):
    data = golden("spikingjelly")
    for make, same in ((FEW[name], True), (FEW["FewSpike" if name != "FewSpike" else "FewSpike-gates"], False)):
        x = data["x"].clone().requires_grad_()
        y, _ = make().sequence(x)
        (grad,) = torch.autograd.grad((data["gs"] * y).sum(), x)
        for got, wanted in ((y.detach(), data[f"{name}/outputs"]), (grad, data[f"{name}/grad_x"])):
            assert (error(got, wanted) <= 2e-6) == same


def test_neurons_of_converted_networks_are_spikingjellys(golden):
    data = golden("spikingjelly")
    threshold, offset = torch.linspace(0.6, 1.2, 7), torch.linspace(0.3, -0.1, 7)
    compare("ActivationAwareIF", data, sl.ActivationAwareIF(v_threshold=threshold, v_offset=offset))
    differs("ActivationAwareIF", data, sl.ActivationAwareIF(v_threshold=threshold, v_offset=-offset))
    half = sl.IF(v_threshold=0.8, reset="soft")
    compare("HalfThresholdIF", data, sl.options.HalfThreshold(half))
    differs("HalfThresholdIF", data, half)


@pytest.mark.parametrize("learnable", [False, True])
def test_synapse_filter_is_spikingjellys(golden, learnable):
    data, name = golden("layers"), "SynapseFilter-learned" if learnable else "SynapseFilter"
    for tau, same in ((4.0, True), (5.0, False)):
        neuron = sl.nn.SynapseFilter(tau=tau, learnable=learnable)
        x = data[f"{name}/x"].clone().requires_grad_()
        y, _ = neuron.sequence(x)
        grads = torch.autograd.grad((data[f"{name}/g"] * y).sum(), [x, *neuron.parameters()])
        found = [(y.detach(), data[f"{name}/y"]), (grads[0], data[f"{name}/grad_x"])]
        if learnable:
            found.append((grads[1], data[f"{name}/grad_w"]))
            assert 1 / torch.sigmoid(neuron.w).item() == pytest.approx(tau, rel=1e-5)
        for got, wanted in found:
            assert (error(got, wanted) <= 2e-6) == same


def test_current_based_lif_is_spikingjellys(golden):
    data = golden("spikingjelly")
    options = dict(beta=0.7, v_threshold=0.8, reset="hard", reset_delay=False, strict=False)
    compare("CUBALIF", data, sl.Synaptic(alpha=0.6, **options))
    differs("CUBALIF", data, sl.Synaptic(alpha=0.7, **options))


def test_state_leaky_is_a_leaky_without_reset(golden):
    """snnTorch's decay is exp(beta - 1), and its convolution over time adds in another order."""
    data = golden("snntorch")
    options = dict(v_threshold=0.8, reset="none")
    compare("StateLeaky", data, sl.Leaky(beta=math.exp(0.7 - 1), **options), tolerance=1e-5)
    differs("StateLeaky", data, sl.Leaky(beta=0.7, **options))


class WithGain:
    """A neuron whose input has the gain 1/tau."""

    def __init__(self, neuron, tau):
        self.neuron, self.tau = neuron, tau

    def sequence(self, x, **options):
        return self.neuron.sequence(x / self.tau, **options)


def test_current_based_lif_is_norses(golden):
    data = golden("norse")
    options = dict(
        beta=1 - 1 / 2.5, v_threshold=0.5, reset="hard", reset_delay=False, strict=True,
        surrogate=sl.surrogate.FastSigmoid(1.0),
    )  # fmt: skip
    compare("LIF-current", data, WithGain(sl.Synaptic(alpha=0.7, **options), 2.5))
    differs("LIF-current", data, WithGain(sl.Synaptic(alpha=0.6, **options), 2.5))


def test_lapicque_is_snntorchs_without_its_reset(golden):
    data = golden("snntorch")
    options = dict(r=2.0, c=1.5, dt=0.5, v_threshold=0.4, reset="none", strict=True)
    compare("Lapicque", data, sl.Lapicque(**options))
    differs("Lapicque", data, sl.Lapicque(**{**options, "r": 1.0}))


def test_golden_inputs_spike_neither_never_nor_always(golden):
    for peer in ("spikingjelly", "snntorch"):
        rates = [float(v.float().mean()) for k, v in golden(peer).items() if k.endswith("/spikes") and "loss" not in k]
        assert rates
        assert all(0.05 < r < 0.95 for r in rates)
