"""Random neurons: kernels of arbitrary programs against the PyTorch loop, forward exactly, gradients in float64."""

import pytest
import torch

from kernel import spec
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


@pytest.mark.full
@pytest.mark.parametrize("part", range(25))
def test_a_thousand_random_neurons(part):
    agree(range(1000 + 40 * part, 1040 + 40 * part))


def test_ten_random_neurons():
    agree(range(10, 20))


@pytest.mark.slow
def test_thirty_more_random_neurons():
    agree([*range(10), *range(20, 40)])


def agree(seeds):
    """Of these random neurons at least 60 % spike between 5 and 95 % of the time, and as many are exact."""
    spiking = exact = 0
    for seed in seeds:
        torch.manual_seed(seed)
        x = torch.randn(19, 3, 4, 5, dtype=torch.float64) + 0.5
        for dtype in (torch.float32, torch.float64):
            (outs, grads), (got, kernel_grads) = (
                spec.results(spec.random_neuron(seed).to(dtype), x.to(dtype), backend) for backend in ("eager", "c")
            )
            if spec.random_neuron(seed).exact:
                exact += 1
                assert all(torch.equal(a, b) for a, b in zip(outs, got, strict=True)), seed
        assert torch.equal(outs[0], got[0]), seed
        for a, b in zip(outs, got, strict=True):
            torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
        spec.assert_gradients(grads, kernel_grads, 1e-9, seed)
        spiking += 0.05 < float(outs[0].mean()) < 0.95
    assert spiking >= 0.6 * len(seeds)
    assert exact >= 0.6 * len(seeds)
