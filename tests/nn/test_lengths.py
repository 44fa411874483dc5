"""Ragged batches: a sample gives what it gives alone, whatever stands behind its end, NaN too."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree

import samples
import spikeloom as sl

SAMPLES = {**samples.IN_ONE_STEP, **samples.LAYERS}
RAGGED = [
    name
    for name, sample in SAMPLES.items()
    if isinstance(sample.make(), sl.TemporalModule)
    and name not in ("PSN", "MaskedPSN", "Loop", "Loop of layers", "Network")
    and name.split()[0] not in ("TemporalAttention", "MultiDimensionalAttention", "TCJA")  # of T steps, no others
]


@pytest.mark.parametrize("name", RAGGED)
def test_what_stands_behind_the_end_of_a_sample_does_not_matter(name):
    sample = SAMPLES[name]
    module, x = sample.make().eval(), samples.inputs(sample)
    lengths = torch.tensor([samples.T, 5, 1])
    for b, n in enumerate(lengths):
        x[n:, b] = torch.nan
    x.requires_grad_()
    with sl.backend("eager"):
        y, states = module.sequence(x, lengths=lengths)
        for b, n in enumerate(lengths.tolist()):
            alone, ends = module.sequence(x[:n, b : b + 1])
            torch.testing.assert_close(y[:n, b : b + 1], alone)
            assert (y[n:, b] == 0).all()
            for got, want in zip(pytree.tree_leaves(states), pytree.tree_leaves(ends), strict=True):
                if want is None:  # there is no state
                    continue
                torch.testing.assert_close(got[b : b + 1], want)
    if y.requires_grad:
        leaves = [x, *module.parameters()]
        grads = torch.autograd.grad((y * torch.randn_like(y)).sum(), leaves, materialize_grads=True, allow_unused=True)
        assert all(g.isfinite().all() for g in grads)
        assert all((grads[0][n:, b] == 0).all() for b, n in enumerate(lengths))


def test_weights_of_a_rate_count_from_the_end_of_each_sample():
    """1500 padded steps: counted from the end of the batch, all weights of the short sample would be 0."""
    neuron = sl.nn.DSRLIF(tau=2.0, dt=0.5, v_threshold=9.0)
    x = torch.rand(1502, 2, 1, requires_grad=True)
    y, _ = neuron.sequence(x, lengths=torch.tensor([1502, 2]))
    (grad,) = torch.autograd.grad(y[0, 1].sum(), x)
    older = math.exp(-0.25)
    assert grad[:2, 1].flatten().tolist() == pytest.approx([older / (older + 1) / 2, 1 / (older + 1) / 2])
