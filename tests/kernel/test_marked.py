"""u, what ``fire`` was given, as kernels record it: the loop's bits, of every neuron of the catalogue; gradients."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native import build
from spikeloom.native.build import BuildError

NAMES = {"Izhikevich", "Izhikevich small", "ResonateFire", "ResonateFire soft"}  # whose state u it is
WITHOUT = {
    "LI": "never calls self.fire",
    "SynapseFilter": "never calls self.fire",
    "ILIF": "never calls self.fire",
    "STBIF": "never calls self.fire",
    "SigmaDelta": "never calls self.fire",
    "FewSpike": "fires K times in a step",
}
"""The neurons without u, and why; each is there under the first word of its sample's name."""
WITH = [name for name in samples.IN_ONE_STEP if name not in NAMES and name.split()[0] not in WITHOUT]
TOO = ["c"]
try:
    TRITON.ready(torch.device("cpu"))
    TOO.append("triton")
except BuildError as missing:
    TOO.append(pytest.param("triton", marks=pytest.mark.skip(reason=f"Triton's interpreter does not run: {missing}")))


def recorded(neuron, x, backend, **options):
    torch.manual_seed(0)
    with sl.backend(backend):
        y, state, seen = neuron.sequence(x, record=(*neuron.recordable, "u"), **options)
    return y, state, seen


def test_every_neuron_has_u_or_says_why_not():
    for name, sample in samples.IN_ONE_STEP.items():
        neuron, x = sample.make(), samples.inputs(sample)
        if name in WITH:
            assert neuron.recordable_by_name == ("u",), name
            continue
        assert neuron.recordable_by_name == (), name
        if name in NAMES:
            assert "u" in neuron.recordable
            continue
        why = WITHOUT[name.split()[0]]
        for ask in (lambda: neuron.sequence(x, record=("u",)), lambda: sl.Network(neuron)(x, record=("0.u",))):
            with pytest.raises(ValueError, match=rf"cannot record '(0\.)?u'.*{type(neuron).__name__}.*{why}|{why}"):
                ask()


@pytest.mark.parametrize("backend", TOO)
@pytest.mark.parametrize("name", WITH)
def test_the_loops_bits(name, backend):
    """In parts and with lengths too; what is computed of exponentials within a rounding."""
    if backend == "c":
        _needs_c()
    sample = samples.IN_ONE_STEP[name]
    neuron, x = sample.make(), samples.inputs(sample)[:5]
    lengths = torch.arange(len(x[0])) % 4 + 2
    ragged = {} if name.startswith("MPBN") else {"lengths": lengths}
    for options in ({}, ragged):
        _, state, seen = recorded(neuron, x, "eager", **options)
        _, other, found = recorded(neuron, x, backend, **options)
        assert tuple(other) == tuple(state) == neuron.recordable
        for a, b in ((seen["u"], found["u"]), *zip(state.values(), other.values(), strict=True)):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0 if sample.exact else 1e-5, atol=0 if sample.exact else 1e-6)
        assert torch.equal(found["u"], seen["u"]) or not sample.exact
        if "lengths" in options:
            assert not found["u"][lengths.max() :].any()
            assert not found["u"][2:, lengths == 2].any()


@pytest.mark.parametrize("backend", ["eager", *TOO])
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_of_a_lif_and_its_gradient_by_hand(backend, reset):
    """h = v + (x - v) / tau and u = h - v_threshold, written once more; L = sum of w u has the gradient of that."""
    if backend == "c":
        _needs_c()
    g = torch.Generator().manual_seed(1)
    x = (2 * torch.rand(20, 2, 3, generator=g, dtype=torch.float64)).requires_grad_()
    w = torch.randn(20, 2, 3, generator=g, dtype=torch.float64)
    threshold = nn.Parameter(torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64))
    neuron = sl.LIF(tau=2.0, v_threshold=threshold, reset=reset, detach_reset=True)
    v, wanted = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(20):
        h = v + (x[t] - v) / 2
        wanted.append(h - threshold)
        s = (h >= threshold).double()
        v = {"hard": (1 - s) * h, "soft": h - s * threshold, "none": h}[reset]
    wanted = torch.stack(wanted)
    u = recorded(neuron, x, backend)[2]["u"]
    assert torch.equal(u, wanted)
    assert 0.1 < float((u >= 0).double().mean()) < 0.9
    a, b = (torch.autograd.grad((w * r).sum(), [x, threshold]) for r in (wanted, u))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_late_reset_and_both_signs():
    """Of two calls of fire the one that gives the output; of a ternary neuron the one at the upper threshold."""
    x = torch.tensor([[0.8], [0.8], [-3.0]])
    for backend in ("eager", "auto"):
        late = recorded(sl.Leaky(beta=0.5), x, backend)[2]
        assert torch.equal(late["u"], late["v"] - 1.0)
        signed = recorded(sl.TernaryIF(), x, backend)[2]["u"]
        torch.testing.assert_close(signed.flatten(), torch.tensor([-0.2, 0.6, -3.4]))


def test_a_moved_threshold_is_part_of_u():
    """What fire was given includes what options add: an adaptive threshold, noise, a batch norm."""
    neuron = sl.options.Adaptive(sl.IF(), beta=0.5, rho=1.0)
    seen = recorded(neuron, torch.ones(3, 1), "auto")[2]
    assert seen["u"].flatten().tolist() == [0.0, -0.5, 0.5]  # h is 1, 1, 2; the threshold 1, 1.5, 1.5


def test_neurons_whose_steps_are_computed_at_once():
    """u of a PSN is ``h = W x + b`` over time; of a ParallelLIF it is that of the LIF inside."""
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    psn, sliding, masked = sl.nn.PSN(6).double(), sl.nn.SlidingPSN(2).double(), sl.nn.MaskedPSN(6, order=2, lam=1.0)
    wanted = torch.einsum("tk,kbf->tbf", psn.weight, x) + psn.bias.view(-1, 1, 1)
    y, _, seen = psn.sequence(x, record=("u",))
    torch.testing.assert_close(seen["u"], wanted)
    assert torch.equal(y, (seen["u"] >= 0).double())
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    wanted = sliding.weight[0] * before + sliding.weight[1] * x - 1
    for options in ({}, {"lengths": torch.tensor([6, 3])}):
        _, result = sl.Network(sliding)(x, record=("0.u",), **options)
        torch.testing.assert_close(result.record["0.u"][:3], wanted[:3])
        assert bool(result.record["0.u"][3:, 1].any()) == (not options)
    stream = sl.Stream(masked.double())
    steps = [stream(x_t, record=("u",))[1].record["u"] for x_t in x]
    torch.testing.assert_close(torch.stack(steps), masked.sequence(x, record=("u",))[2]["u"])
    x = 2 * torch.rand(9, 2, 3)
    lif = sl.LIF(v_threshold=0.4)
    parallel = sl.nn.ParallelLIF(lif).sequence(x, record=("u",))[2]["u"]
    assert torch.equal(parallel, recorded(lif, x, "eager")[2]["u"])


def test_a_users_neuron():
    class Own(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(th=0.5)
            self.states(v=0.0)

        def both(self, h):
            return self.fire(h - self.th)

        def dynamics(self, x, v):
            s = self.both(v + x)
            return s, v + x - s

    class Silent(Own):
        def dynamics(self, x, v):
            return x - v, v

    class Twice(Own):
        def dynamics(self, x, v):
            return self.fire(x) + self.both(v), v

    x = torch.tensor([[0.25], [0.5]])
    for backend in ("eager", "auto"):
        assert recorded(Own(), x, backend)[2]["u"].flatten().tolist() == [-0.25, 0.25]
        with pytest.raises(ValueError, match=r"Silent: cannot record 'u', only v: its dynamics never calls self\.fire"):
            recorded(Silent(), x, backend)
        with pytest.raises(ValueError, match=r"Twice: cannot record 'u': its dynamics calls self\.fire 2 times in a"):
            recorded(Twice(), x, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_dtypes_and_bits(dtype, spikes):
    """u has the dtype of states, and spikes may be bits."""
    net = sl.Network(sl.LIF(v_threshold=nn.Parameter(torch.linspace(0.2, 0.9, 16))), spikes=spikes)
    x = torch.rand(6, 4, 16).to(dtype)
    found = []
    for backend in ("eager", "auto"):
        with sl.backend(backend):
            y, result = net(x, record=("0.u", "0.v"))
        found.append((y.unpack() if spikes == "packed" else y, result.record["0.u"], result.record["0.v"]))
    assert found[1][1].dtype == torch.float32
    assert torch.equal(found[1][0], (found[1][1] >= 0).to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nobody_pays_who_does_not_ask():
    """The text of kernels is the one without u, before and after u was recorded."""
    _needs_c()
    neuron, x = sl.LIF(), torch.rand(4, 2, 3)
    before = sl.kernel.source(neuron, x)
    assert "given_to_fire" not in before
    neuron.sequence(x, record=("u",))
    assert sl.kernel.source(neuron, x) == before
    fresh = "import torch, spikeloom as sl; print(sl.kernel.source(sl.LIF(), torch.rand(4, 2, 3)), end='')"
    path = os.pathsep.join([str(Path(sl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", fresh],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == before


def _needs_c():
    try:
        build.ready()
    except build.BuildError as missing:
        pytest.skip(f"no C kernels on this machine: {missing}")
