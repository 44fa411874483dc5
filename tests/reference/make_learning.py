"""Makes learning.npz beside it: what the peers' learning rules change, for random spikes.

It runs where make_golden.py does, in the peers' environment, with SNNGrow's sources on PYTHONPATH:

    PYTHONPATH=<SNNGrow> .peers/bin/python tests/reference/make_learning.py

Every case stores spikes before and after a layer, its weight, and the change of the weight (SpikingJelly), or the
weight after each step of SNNGrow's own tutorial.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.modules.setdefault("torch.utils.tensorboard", SimpleNamespace(SummaryWriter=None))  # imported there, and not used

from snngrow.base.learning import STDP  # noqa: E402
from spikingjelly.activation_based import layer, learning, neuron  # noqa: E402

HERE = Path(__file__).parent
T, B = 12, 3


def spikes(*shape, seed, rate=0.4):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).double()


def weights(module, seed):
    """Weights such that about a third of the neurons after them fire."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.weight.copy_(torch.rand(module.weight.shape, generator=g) / module.weight[0].numel() * 3)
    return module.weight.detach().clone()


def whole(synapse, x, **taus):
    """STDP over all steps, at weights that do not change."""
    w = weights(synapse, 7)
    fires = neuron.IFNode(step_mode="m")
    learner = learning.STDPLearner("m", synapse, fires, **taus)
    with torch.no_grad():
        post = fires(synapse(x))
        dw = learner.step(on_grad=False)
    return dict(pre=x, post=post, weight=w, dw=dw)


def rewarded(kind, x, rewards, **taus):
    """A reward at each step, at weights that do not change."""
    synapse = layer.Linear(x.shape[-1], 4, bias=False)
    w = weights(synapse, 8)
    fires = neuron.IFNode()
    learner = kind("s", synapse, fires, **taus)
    posts, dw = [], torch.zeros_like(w)
    with torch.no_grad():
        for x_t, r_t in zip(x, rewards, strict=True):
            posts.append(fires(synapse(x_t)))
            dw += learner.step(r_t, on_grad=False)
    return dict(pre=x, post=torch.stack(posts), weight=w, dw=dw, reward=rewards)


def snngrow():
    """Its tutorial: constant weights of 0.4, which change at each step."""
    x = spikes(40, 2, 4, seed=5, rate=0.3)
    connection = torch.nn.Linear(4, 3, bias=False)  # SNNGrow's own needs a GPU; its ``update`` adds
    torch.nn.init.constant_(connection.weight.data, 0.4)
    rule = STDP(neuron.IFNode(), connection)  # SNNGrow's IFNode takes no dense tensors in this version
    posts, seen = [], []
    for x_t in x:
        post, dw = rule(x_t)
        connection.weight.data += dw * 0.01
        posts.append(post)
        seen.append(connection.weight.data.clone())
    return dict(pre=x, post=torch.stack(posts), weights=torch.stack(seen))


def main():
    torch.set_default_dtype(torch.float64)  # or sums of opposite signs would hide what differs
    cases = {
        "linear": whole(
            layer.Linear(5, 4, bias=False, step_mode="m"), spikes(T, B, 5, seed=1), tau_pre=2.0, tau_post=5.0
        ),
        "conv1d": whole(
            layer.Conv1d(2, 3, 3, stride=2, padding=1, bias=False, step_mode="m"),
            spikes(T, B, 2, 7, seed=2),
            tau_pre=3.0,
            tau_post=4.0,
        ),
        "conv2d": whole(
            layer.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=1, bias=False, step_mode="m"),
            spikes(T, B, 2, 5, 6, seed=3),
            tau_pre=3.0,
            tau_post=4.0,
        ),
        "mstdp": rewarded(
            learning.MSTDPLearner,
            spikes(T, B, 5, seed=4),
            torch.randn(T, B, generator=torch.Generator().manual_seed(1)),
            tau_pre=2.0,
            tau_post=3.0,
        ),
        "mstdpet": rewarded(
            learning.MSTDPETLearner,
            spikes(T, 5, seed=6),
            torch.randn(T, generator=torch.Generator().manual_seed(2)),
            tau_pre=2.0,
            tau_post=3.0,
            tau_trace=4.0,
        ),
        "snngrow": snngrow(),
    }
    for name, case in cases.items():
        rate = case["post"].mean().item()
        assert 0.05 < rate < 0.95, (name, rate)
    arrays = {f"{name}/{k}": v.numpy() for name, case in cases.items() for k, v in case.items()}
    np.savez_compressed(HERE / "learning.npz", **arrays, versions=np.array(f"spikingjelly {version('spikingjelly')}"))
    print({name: round(case["post"].mean().item(), 2) for name, case in cases.items()})


if __name__ == "__main__":
    main()
