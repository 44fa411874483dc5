"""Makes codes.npz beside it: what SpikingJelly's encoders and losses of spike trains give for random inputs.

It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_codes.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
T, B, F, N = 12, 5, 3, 6


def drawn(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def encoders(store):
    from spikingjelly.activation_based import encoding
    from spikingjelly.timing_based.encoding import GaussianTuning

    x = drawn(B, F, seed=0)
    store["x"] = x.numpy()
    for bits in (3, 8):
        encoder = encoding.WeightedPhaseEncoder(bits, step_mode="m")
        spikes = torch.stack([encoder.single_step_forward(x * (1 - 2**-bits)) for _ in range(bits)])
        store[f"weighted_phase-{bits}"] = spikes.numpy().astype(np.uint8)
    options = dict(obs_dim=F, pop_dim=N, spike_ts=T, mean_range=(-0.2, 1.2), std=0.3)
    spikes = encoding.PopSpikeEncoderDeterministic(**options)(x)
    store["population-deterministic"] = spikes.detach().numpy().astype(np.uint8)
    encoder = encoding.PopEncoder(**options)
    current = encoder(x.requires_grad_())
    g = torch.randn(*current.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((g * current).sum(), [x, encoder.mean, encoder.std])
    store["population-current"], store["population-g"] = current.detach().numpy(), g.numpy()
    for name, grad in zip(("x", "mean", "std"), grads, strict=True):
        store[f"population-grad_{name}"] = grad.numpy()
    low, high = torch.tensor([0.0, -1.0, 0.2]), torch.tensor([1.0, 2.0, 0.9])
    times, columns, offsets = GaussianTuning(F, N, low, high)(x.detach().unsqueeze(-1), duration=50.0)
    found = torch.full((B, F * N), 50.0)  # silent ones would fire at the end
    for b in range(B):
        part = slice(int(offsets[b]), int(offsets[b + 1]))
        found[b, columns[part]] = times[part]
    store["tuning-times"], store["tuning-low"], store["tuning-high"] = found.numpy(), low.numpy(), high.numpy()


def losses(store):
    from spikingjelly.activation_based.functional import loss

    spikes = (drawn(B, T, F, seed=2) < 0.4).float()
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]]).float()
    store["spikes"], store["labels"] = spikes.transpose(0, 1).numpy().astype(np.uint8), labels.numpy()
    kernels = {"linear": (), "polynomial": (1.5,), "sigmoid": (0.2,), "gaussian": (3.0,)}
    for name, arguments in kernels.items():
        flat = spikes.flatten(1)
        store[f"kernel-{name}"] = loss.kernel_dot_product(flat, flat, name, *arguments).numpy()
        for error in ("mse", "l1", "bce"):
            if (name, error) in (("linear", "bce"), ("polynomial", "bce")):
                continue  # which leave [0, 1]
            s = spikes.clone().requires_grad_()
            value = loss.spike_similar_loss(s, labels, name, error, *arguments)
            store[f"similar-{name}-{error}"] = value.detach().numpy()
            store[f"similar-{name}-{error}-grad"] = torch.autograd.grad(value, s)[0].transpose(0, 1).numpy()


def main():
    store = {}
    encoders(store)
    losses(store)
    np.savez_compressed(HERE / "codes.npz", version=version("spikingjelly"), torch=torch.__version__, **store)


if __name__ == "__main__":
    main()
