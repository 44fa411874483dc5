"""Derivatives of a neuron's states by its inputs and states, and whether all neurons of a layer have the same ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..neuron import Dynamics


def jacobian(end: Tensor, x: Tensor, leaves: dict[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """``a[t]`` and ``P_j`` of one end state: derivatives of each element by its own inputs (None where it has nothing
    of them) and states (those that it depends on)."""
    if not end.requires_grad:
        return None, {}
    found = torch.autograd.grad(end, [x, *leaves.values()], torch.ones_like(end), retain_graph=True, allow_unused=True)
    return found[0], {j: g for j, g in zip(leaves, found[1:], strict=True) if g is not None}


def is_elementwise(end: Tensor, x: Tensor, a: Tensor) -> bool:
    """Whether each element of a state depends on inputs of its own alone: random signs pass through to the inputs."""
    g = torch.Generator().manual_seed(0)
    signs = (2 * torch.randint(2, end.shape, generator=g) - 1).to(end)
    (found,) = torch.autograd.grad(end, x, signs, retain_graph=True)
    return bool((found - a * signs).abs().max() <= 1e-3 * a.abs().max())


def is_constant(neuron: Dynamics, shape: torch.Size) -> bool:
    """Whether derivatives of states by inputs and states are one number for all neurons, tried on large inputs."""
    probe = copy.deepcopy(neuron)
    g = torch.Generator().manual_seed(0)
    x = (40 * torch.rand(6, 2, *shape[2:], generator=g, dtype=torch.float64) - 20).requires_grad_()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        probe = probe.to("cpu")
        start = {k: s.detach().requires_grad_() for k, s in probe.initial_state(x[0]).items()}
        _, ends = probe.sequence(x, state=start)
        return all(_same(t) for end in ends.values() for t in _flat(*jacobian(end, x, start)))


def _flat(a: Tensor | None, P: dict[str, Tensor]) -> list[Tensor]:
    return [*([] if a is None else [a]), *(p.unsqueeze(0) for p in P.values())]


def _same(t: Tensor) -> bool:
    """Whether ``t`` ``[T, B, *]`` is one number for each step and sample."""
    flat = t.flatten(2)
    scale = 1e-10 if t.dtype == torch.float64 else 1e-5
    return bool((flat.amax(-1) - flat.amin(-1) <= scale * flat.abs().amax(-1)).all())


def of_samples(
    a: dict[str, Tensor], P: dict[str, dict[str, Tensor]], path: str
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """a ``[T, B]`` and P ``[B]`` of neurons that have them all in common."""
    for k in a:
        if not all(_same(t) for t in _flat(a[k], P[k])):
            raise RuntimeError(
                f"learn.online: the neurons of {path!r} were taken for ones with a leak alone, but their states do not "
                "all depend on the input alike in this piece; give method='truncated'"
            )
    return (
        {k: t.flatten(2)[..., 0] for k, t in a.items()},
        {k: {j: p.flatten(1)[..., 0] for j, p in row.items()} for k, row in P.items()},
    )
