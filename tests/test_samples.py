"""Nothing is without a sample, and what samples say of themselves is true."""

import pytest
import torch

import samples
import spikeloom as sl
from spikeloom.native import build

BASES = {"Dynamics", "Neuron", "FewSpikeTable"}
BESIDES = {"td_batch_norm", "DelaySchedule"}
"""What sl.nn has besides modules."""


def classes(table):
    return {name.split()[0] for name in table}


def test_nothing_public_is_without_a_sample():
    """One that is added without a sample fails here: add it to tests/samples.py."""
    assert classes(samples.NEURONS) == set(sl.neuron.__all__) - BASES
    assert classes(samples.OPTIONS) == set(sl.options.__all__) - {"Option"}
    assert classes(samples.LAYERS) == set(sl.nn.__all__) - BESIDES | {"Loop", "Checkpoint", "Network"}
    assert set(samples.SURROGATES) | classes(samples.SCHEDULES) == set(sl.surrogate.__all__) - {"Surrogate", "Schedule"}
    inside = {f"options.{name}" for name in classes(samples.OPTIONS)} | {
        f"nn.{name}" for name in classes(samples.LAYERS)
    }
    assert set(sl.neurons()) <= classes(samples.NEURONS) | inside
    assert set(sl.surrogates()) <= set(samples.SURROGATES)


@pytest.mark.parametrize("table", ["NEURONS", "OPTIONS", "LAYERS", "SURROGATES", "SCHEDULES"])
def test_a_key_begins_with_the_name_of_the_class(table):
    for name, sample in getattr(samples, table).items():
        made = sample(sl.LIF()) if table == "SCHEDULES" else sample.make()
        assert type(made).__name__ == name.split()[0]


@pytest.mark.parametrize("name", [*samples.IN_ONE_STEP, *samples.LAYERS])
def test_every_sample_fires_on_its_inputs(name):
    sample = {**samples.IN_ONE_STEP, **samples.LAYERS}[name]
    net = sl.Network(sample.make()).eval()
    with sl.backend("eager"), torch.no_grad():
        y = net(samples.inputs(sample))
    assert y.shape[:2] == (samples.T, sample.step[0])
    assert y.isfinite().all()
    if not sample.analog:
        assert 0.03 < float(y.ne(0).float().mean()) < 0.97


@pytest.mark.parametrize("name", samples.SURROGATES)
def test_every_surrogate_fires_and_has_a_gradient(name):
    u = torch.tensor([-0.25, 0.25], requires_grad=True)
    torch.manual_seed(0)
    spikes = samples.SURROGATES[name].make()(u)
    assert spikes[0] == 0
    assert spikes.max() <= 1
    assert torch.autograd.grad(spikes.sum(), u)[0].isfinite().all()


@pytest.mark.parametrize(
    "name", [name for name, sample in samples.IN_ONE_STEP.items() if sample.exact and name != "MPBN"]
)
def test_what_is_exact_equals_the_loop_to_the_bit(name):
    try:
        build.ready()
    except build.BuildError as missing:
        pytest.skip(f"no C kernels on this machine: {missing}")
    sample = samples.IN_ONE_STEP[name]
    neuron, x, found = sample.make().eval(), samples.inputs(sample), []
    for backend in ("eager", "c"):
        with sl.backend(backend), torch.no_grad():
            y, state = neuron.sequence(x)
            found.append([y, *state.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
