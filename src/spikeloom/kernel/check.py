"""check: what ``SPIKELOOM_DEBUG`` does: every kernel call against the PyTorch loop, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import launch
from .compiled import Kernels
from .loop import scan_eager
from .request import Found, Request
from .target import Target


def check_call(target: Target, kernels: Kernels, neuron: Any, request: Request, found: Found) -> None:
    """Raises RuntimeError where ``found``, or the gradients for a random upstream gradient, differ from the loop's.

    The request has no norm and asks for no bits.
    """
    needed = torch.is_grad_enabled()
    with torch.enable_grad():
        sides = []
        for eager in (True, False):
            leaves = tuple(map(_leaf, request.tensors)), tuple(s.detach().requires_grad_() for s in request.start)
            same = request._replace(tensors=leaves[0], states=leaves[1])
            if eager:
                outs = scan_eager(neuron.bind(request.step, request.dtype), same)
            else:
                outs = launch.run(target, kernels, neuron, same)
            sides.append(([outs[0], *outs[1], *outs[2]], [*leaves[0], *leaves[1]]))
        (wanted, _), _ = sides
        _compare(neuron, "forward", [found[0], *found[1], *found[2]], wanted, 1e-5)
        learned = [p for p in neuron.parameters() if p.requires_grad]
        active = [k for k, w in enumerate(wanted) if w.requires_grad]
        if not needed or not active:
            return
        generator = torch.Generator().manual_seed(0)
        upstream = [torch.randn(wanted[k].shape, generator=generator, dtype=torch.float64) for k in active]
        eager_grads, kernel_grads = (
            torch.autograd.grad(
                [outs[k] for k in active],
                [leaf for leaf in [*leaves, *learned] if leaf.requires_grad],
                [g.to(outs[k]) for k, g in zip(active, upstream, strict=True)],
                allow_unused=True,
                materialize_grads=True,
            )
            for outs, leaves in sides
        )
    _compare(neuron, "backward", list(kernel_grads), list(eager_grads), 1e-4)


def _leaf(x: Tensor) -> Tensor:
    leaf = x.detach().clone(memory_format=torch.preserve_format)
    return leaf.requires_grad_(leaf.dtype.is_floating_point)


def _compare(neuron: Any, pass_: str, got: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(got, wanted, strict=True):
        limit = 0.02 if b.dtype in (torch.bfloat16, torch.float16) else tolerance
        a, b = a.detach().double(), b.detach().double()
        scale = float(b.abs().nan_to_num(0.0, 0.0, 0.0).max()) if b.numel() else 0.0
        off = ~torch.isclose(a, b, atol=limit * max(1.0, scale), rtol=limit, equal_nan=True)
        if off.any():
            raise RuntimeError(
                f"SPIKELOOM_DEBUG: the {pass_} kernel of {type(neuron).__name__} differs from eager in "
                f"{int(off.sum())} of {off.numel()} values, first at {off.nonzero()[0].tolist()}; please report "
                "it with the neuron's code"
            )
