"""Learning rules: STDP against SpikingJelly's steps and a layer's own gradient, pieces against all steps, EventProp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based.functional import learning as theirs
from torch import Tensor, nn

import spikeloom as sl

from .common import compare

T, B = 100, 8


def main() -> dict[str, Any]:
    """Rows for a linear layer and a convolution, for pieces of a sequence, and for a neuron that learns by times."""
    torch.manual_seed(0)
    rows = {
        "STDP of a linear layer 784 - 400, T 100, batch 8": stdp(nn.Linear(784, 400), (784,), (400,)),
        "STDP of a convolution 32 - 64, 3x3, 8x8 places, T 100, batch 8": stdp(
            nn.Conv2d(32, 64, 3, padding=1), (32, 8, 8), (64, 8, 8)
        ),
        "64 - 256 - 256 - 10, T 512, batch 16, gradients of all weights": pieces(),
        "EventPropLIF of 150 neurons, T 120, batch 150, forward and backward": eventprop(),
    }
    return {work: {"sides": sides} for work, sides in rows.items()}


def stdp(layer: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
    """10 % spikes on both sides."""
    pre, post = (torch.rand(T, B, *before) < 0.1).float(), (torch.rand(T, B, *after) < 0.1).float()
    rule, w = sl.learn.STDP(f_pre=torch.positive, f_post=torch.positive), layer.weight.detach()

    def ours() -> Tensor:
        return rule.sequence(layer, pre, post)[0]

    def steps() -> Tensor:
        x = pre if len(before) == 1 else nn.functional.pad(pre, (1, 1, 1, 1))
        traces, dw = (torch.zeros_like(x[0]), torch.zeros_like(post[0])), torch.zeros_like(w)
        for x_t, y_t in zip(x, post, strict=True):
            given: Any = (x_t, y_t, traces, w)
            if len(before) == 1:
                found, traces = theirs.stdp_linear_step(*given, tau_pre=20.0, tau_post=20.0)
            else:
                found, traces = theirs.stdp_conv2d_step(*given, stride=(1, 1), tau_pre=20.0, tau_post=20.0)
            dw += found
        return dw

    def gradient() -> Any:
        y = layer(pre.flatten(0, 1))
        return torch.autograd.grad(y, layer.weight, post.flatten(0, 1))

    if float((ours() - steps()).abs().max() / steps().abs().max()) > 1e-4:
        raise SystemExit("another change than SpikingJelly's; nothing was timed")
    sides = {"spikeloom": ours, "SpikingJelly, step by step": steps, "the layer and its weight's gradient": gradient}
    return compare(sides, seconds=6.0)


def pieces() -> Any:
    """The whole sequence first: ratios are those of pieces to it."""
    net = sl.Network(nn.Linear(64, 256), sl.LIF(), nn.Linear(256, 256), sl.LIF(), nn.Linear(256, 10))
    x = torch.rand(512, 16, 64)

    def loss(y: Tensor, t0: int) -> Tensor:
        return y.square().sum()

    def whole() -> None:
        net.zero_grad()
        loss(net(x), 0).backward()

    def online(**options: Any) -> Callable[[], None]:
        def run() -> None:
            net.zero_grad()
            for _ in sl.learn.online(net, x, loss, steps=8, **options):
                pass

        return run

    return compare(
        {
            "all steps at once": whole,
            "pieces of 8": online(),
            "pieces of 8, 8 of them in a call": online(block=8),
            "pieces of 8, 16 of them in a call": online(block=16),
            "eligibility": online(method="eligibility"),
        }
    )


def eventprop() -> Any:
    """Against a neuron of the same states with a surrogate."""
    x = (3 * torch.rand(120, 150, 150)).requires_grad_()
    g = torch.linspace(0, 1, 120).view(-1, 1, 1).expand(x.shape).contiguous()
    neurons = sl.learn.EventPropLIF(tau_mem=40.0, tau_syn=10.0), sl.Synaptic(alpha=0.9, beta=0.95, reset_delay=False)
    first, second = (lambda n=n: torch.autograd.grad(n.sequence(x)[0], x, g) for n in neurons)
    return compare({"spikeloom": first, "Synaptic": second}, seconds=4.0)
