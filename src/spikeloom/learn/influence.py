"""Influence: real-time recurrent learning of a recurrent layer, with the derivatives of all states by all weights.

For the states ``s_k`` of N neurons (their outputs, which come back, among them), with W in the layer before them and R
in the feedback, ``e_k[n] = ds_k[n] / d(W, R)`` is carried, ``[B, N, N, M]`` and ``[B, N, N, N]``. A piece gives, by one
backward pass for each state of each neuron, ``a_k[n, t] = ds_k[n](end)/dx[t]`` and
``P_kj[n] = ds_k[n](end)/ds_j(start)``:

    grad (W, R)  +=  sum_k sum_n (dL/ds_k[n] at the start) e_k[n]
    e_k[n]       <-  sum_t a_k[n, t] (pre[t], y[t-1])^T + sum_j sum_m P_kj[n, m] e_j[m]

Williams and Zipser, A Learning Algorithm for Continually Running Fully Recurrent Neural Networks, Neural Computation 1,
1989.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._time import wide
from ..nn import Recurrent
from .products import accumulate, dense_values


class Influence:
    """A linear layer, the recurrent neurons after it with linear feedback, and the influence of both on all states."""

    def __init__(self, layer: nn.Linear, before: str, recurrent: Recurrent, path: str) -> None:
        self.path = path
        self.states = (*recurrent.neuron._rest, "fed_back")
        self.names: tuple[str, ...] = (f"{before}.input", f"{path}.input", f"{path}.output")
        self.layers: tuple[Any, Any] = layer, recurrent.feedback
        self.back: Tensor | None = None  # the last output before the piece
        self._carried: list[dict[str, Tensor]] = [{}, {}]  # of each layer's weight
        self._biases: dict[str, Tensor] = {}  # which is the same for both

    def run(
        self,
        result: Any,
        leaves: dict[str, Tensor],
        chosen: Callable[[Any], Any],
        put: Callable[[Any, Any], Any],
        limit: int,
    ) -> None:
        """What a piece does; ``result`` is that of the network's call."""
        pre, x, y = (result.record[name] for name in self.names)
        dtype = wide(x.dtype)
        pres = [dense_values(pre, dtype), fed_back(dense_values(y, dtype), self.back)]
        self._check(x, pres, limit)
        with torch.no_grad():
            for k, leaf in leaves.items():
                if leaf.grad is not None and self._biases:
                    self._add(leaf.grad.to(dtype), k, chosen)
        jacobians = {k: _of_neurons(result.state[self.path][k], x, leaves, dtype) for k in self.states}
        with torch.no_grad():
            self._biases = self._on(self._biases, jacobians, None, chosen, put)
            carried = zip(self._carried, pres, strict=True)
            self._carried = [self._on(old, jacobians, before, chosen, put) for old, before in carried]

    @staticmethod
    def _on(
        old: dict[str, Tensor],
        jacobians: dict[str, tuple[Tensor, dict[str, Tensor]]],
        pre: Tensor | None,
        chosen: Callable[[Any], Any],
        put: Callable[[Any, Any], Any],
    ) -> dict[str, Tensor]:
        """The influence after a piece: of weights, or where ``pre`` is None of biases."""
        before, new = chosen(old), {}
        for k, (a, P) in jacobians.items():
            own = torch.einsum("ntbi->bni", a) if pre is None else torch.einsum("ntbi,tbm->bnim", a, pre)
            later = [torch.bmm(P[j], before[j].flatten(2)).view_as(before[j]) for j in P if j in before]
            new[k] = torch.stack([own, *later]).sum(0)
        found: dict[str, Tensor] = put(old, new) if old else new
        return found

    def _add(self, g: Tensor, k: str, chosen: Callable[[Any], Any]) -> None:
        """Adds what earlier pieces did to the gradients of both layers, by the gradient of a state at the start."""
        for layer, carried in zip(self.layers, self._carried, strict=True):
            if layer.weight.requires_grad:
                accumulate(layer.weight, torch.einsum("bn,bnim->im", g, chosen(carried)[k]))
            if layer.bias is not None and layer.bias.requires_grad:
                accumulate(layer.bias, torch.einsum("bn,bni->i", g, chosen(self._biases)[k]))

    def _check(self, x: Tensor, pres: list[Tensor], limit: int) -> None:
        if x.ndim != 3:
            raise ValueError(f"learn.online: {self.path!r}: method='rtrl' takes steps [B, N], got {list(x.shape[1:])}")
        per_state = x[0].numel() * x.shape[-1] * sum(p.shape[-1] for p in pres) * pres[0].element_size()
        size = len(self.states) * per_state
        if size > limit:
            raise ValueError(
                f"learn.online: {self.path!r}: the influence of all weights on all states takes {size} bytes, and "
                f"limit= is {limit}; take fewer neurons, smaller batches, or sl.learn.EProp with method='eligibility'"
            )


def fed_back(y: Tensor, back: Tensor | None) -> Tensor:
    """What came back at each step: the outputs of the steps before."""
    first = torch.zeros_like(y[0]) if back is None else back.detach().to(y.dtype)
    return torch.cat([first.unsqueeze(0), y[:-1]])


def _of_neurons(
    end: Tensor, x: Tensor, leaves: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """``a`` ``[N, T, B, N]`` and ``P_j`` ``[B, N, N]`` of one end state: its N elements by inputs and start states."""
    N = end.shape[-1]
    a = x.new_zeros(N, *x.shape, dtype=dtype)
    P = {j: x.new_zeros(len(end), N, N, dtype=dtype) for j in leaves}
    if end.requires_grad:
        for n in range(N):
            found = torch.autograd.grad(end[:, n].sum(), [x, *leaves.values()], retain_graph=True, allow_unused=True)
            if found[0] is not None:
                a[n] = found[0]
            for j, g in zip(leaves, found[1:], strict=True):
                if g is not None:
                    P[j][:, n] = g
    return a, P
