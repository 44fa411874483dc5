"""Eligibility: what the weights of a layer did to the states of the neurons after it, carried from piece to piece.

For a layer with weight W before an elementwise neuron with states ``s_k``: ``e_k = ds_k / dW``. A piece of K steps
gives, by one backward pass for each state, ``a_k[t] = ds_k(end)/dx[t]`` and ``P_kj = ds_k(end)/ds_j(start)``:

    grad W   +=  sum_k (dL/ds_k at the start) e_k
    e_k      <-  sum_t a_k[t] pre[t]^T + sum_j P_kj e_j

Full: e is ``[B, *, N, M]``, for nn.Linear. Factorised: where a and P are the same for all neurons of a sample, e is
``[B, *input]`` times an identity, and the first sum is the vector-Jacobian product J(e_k, dL/ds_k), of any layer that
is linear in its weight. Whether they are is tried on random inputs first, and checked in each piece.

A read-out r with a leak alone, ``r <- P r + sum_t a[t] W z[t]``, is told of earlier pieces by the outputs z filtered as
it filters them: ``f <- P f + sum_t a[t] z[t]`` is one more state of the neurons before it, with ``dL/df = W^T dL/dr``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._hooks import has_hooks
from .._time import wide
from ..core import Network, TemporalModule
from ..core.layers import layers_of, runs_layers
from ..neuron import Dynamics
from ..nn import Recurrent
from ..spikes import SpikeTensor
from .decolle import DECOLLE
from .derivatives import is_constant, is_elementwise, jacobian, of_samples
from .eprop import EProp, RandomFeedback
from .influence import Influence, fed_back
from .products import LINEAR, accumulate, dense_values, product

_WHO = "learn.online"


class Eligibility:
    """The eligibilities of all pairs of a network."""

    def __init__(self, pairs: list[Pair | Influence], limit: int) -> None:
        self.pairs, self.limit = pairs, limit
        self.names = tuple(name for pair in pairs for name in pair.names)
        self._leaves: list[dict[str, Tensor]] = []

    @staticmethod
    def of(net: Network, limit: int, *, full: bool = False, filtered: bool = False) -> Eligibility:
        """Finds pairs, with ``full`` recurrent layers among them, and where ``filtered`` the last read-out's part in
        them; raises ValueError where a network has something else between weights and states."""
        pairs = _pairs(net, full)
        if filtered:
            _give_readout(pairs, net)
        return Eligibility(pairs, limit)

    def begin(self, state: Any, chosen: Callable[[Any], Any]) -> Any:
        """The state with the neurons' own as leaves of the graph, whose gradients are wanted."""
        self._chosen = chosen
        if state is None:
            self._leaves = [{} for _ in self.pairs]
            return None
        state = {path: dict(s) if isinstance(s, dict) else s for path, s in state.items()}
        self._leaves = []
        for pair in self.pairs:
            of_neuron = state[pair.path]
            leaves = {name: of_neuron[name].detach().requires_grad_() for name in pair.states}
            of_neuron.update(leaves)
            self._leaves.append(leaves)
            pair.back = of_neuron.get("fed_back")
        return state

    def end(self, result: Any, put: Callable[[Any, Any], Any]) -> None:
        """Adds what earlier pieces did to the gradients, and this piece to the eligibilities."""
        for pair, leaves in reversed(list(zip(self.pairs, self._leaves, strict=True))):  # a read-out comes first
            pair.run(result, leaves, self._chosen, put, self.limit)


class Pair:
    """A layer, the neuron after it, and the eligibility of its weight and bias in each state.

    Where ``readout`` is the pair after it, whose neuron has a leak alone, the outputs as that leak filters them are
    among the states: what the weights did to the read-out's states, but for its weights.
    """

    def __init__(self, layer: nn.Module, before: str, neuron: Dynamics | EProp, path: str) -> None:
        self.path, self.neuron = path, neuron
        inner = neuron.neuron if isinstance(neuron, EProp) else neuron
        self.inner: Dynamics = inner
        self.states = tuple(inner._rest)
        self.parts = [Part(layer, f"{before}.input", f"{before} and {path}")]
        self.names: tuple[str, ...] = (f"{before}.input", f"{path}.input")
        if isinstance(neuron, EProp):
            self.parts.append(Part(neuron.feedback, "", f"the feedback of {path}"))
            self.names = (*self.names, f"{path}.output")
        self.constant: bool | None = None
        self.back: Tensor | None = None  # the last output before the piece
        self.readout: Pair | None = None
        self.last: _Leak | None = None  # what the last piece of this pair was for the one before it

    def run(
        self,
        result: Any,
        leaves: dict[str, Tensor],
        chosen: Callable[[Any], Any],
        put: Callable[[Any, Any], Any],
        limit: int,
    ) -> None:
        """What a piece does; ``result`` is that of the network's call."""
        x, ends = result.record[f"{self.path}.input"], result.state[self.path]
        first = self.constant is None
        if first:
            self.constant = is_constant(self.inner, x.shape)
        gradients = {k: leaf.grad for k, leaf in leaves.items()}
        a: dict[str, Tensor | None] = {}
        P: dict[str, dict[str, Tensor]] = {}
        for k in self.states:
            a[k], P[k] = jacobian(ends[k], x, leaves)
            if first and (t := a[k]) is not None and not is_elementwise(ends[k], x, t):
                raise ValueError(
                    f"{_WHO}: the neurons of {self.path!r} depend on each other, so that their eligibility has no "
                    "place in memory; give method='truncated'"
                )
        if all(t is None for t in a.values()) and any(ends[k].requires_grad for k in self.states):
            raise RuntimeError(f"{_WHO}: {self.path!r} was not computed from the input that was recorded of it")
        if self.readout is not None:
            self._filter(self.readout, result.record[f"{self.path}.output"], x, leaves, gradients, a, P)
        constant = bool(self.constant) and self.readout is None
        dtype = wide(x.dtype)
        inputs = {k: torch.zeros_like(x, dtype=dtype) if t is None else t.to(dtype) for k, t in a.items()}
        with torch.no_grad():
            if constant:
                inputs, P = of_samples(inputs, P, self.path)
                self.last = _Leak(inputs, P, gradients)
            for part in self.parts:
                if part.pre:
                    pre = dense_values(result.record[part.pre], dtype)
                else:
                    pre = fed_back(dense_values(result.record[f"{self.path}.output"], dtype), self.back)
                part.run(gradients, inputs, P, pre, constant, chosen, put, limit)

    def _filter(
        self,
        readout: Pair,
        z: Tensor,
        x: Tensor,
        leaves: dict[str, Tensor],
        gradients: dict[str, Tensor | None],
        a: dict[str, Tensor | None],
        P: dict[str, dict[str, Tensor]],
    ) -> None:
        """Adds the filtered outputs to the states: their gradients, and derivatives by inputs and states."""
        if readout.last is None:
            raise ValueError(
                f"{_WHO}: leaky_readout=True: the neuron {readout.path!r} must have a leak alone, as sl.LI has"
            )
        leak, layer = readout.last, readout.parts[0].layer
        z = z.unpack() if isinstance(z, SpikeTensor) else z
        back = layer.feedback if isinstance(layer, RandomFeedback) else layer.weight
        for r, a_r in leak.a.items():
            name = f"{readout.path}.{r}"
            factor = _wide(a_r, z.ndim).expand_as(z).to(z.dtype)
            found = torch.autograd.grad(z, [x, *leaves.values()], factor, retain_graph=True, allow_unused=True)
            a[name] = found[0]
            P[name] = {j: g for j, g in zip(leaves, found[1:], strict=True) if g is not None}
            for q, P_rq in leak.P[r].items():
                P[name][f"{readout.path}.{q}"] = _wide(P_rq, z.ndim - 1).expand(z.shape[1:])
            g = leak.gradients.get(r)
            gradients[name] = None if g is None else g @ back.detach().to(g.dtype)  # type: ignore[operator]


class _Leak(NamedTuple):
    """What a neuron with a leak alone made of its inputs in a piece, by state."""

    a: dict[str, Tensor]
    """``[T, B]``."""
    P: dict[str, dict[str, Tensor]]
    """``[B]``."""
    gradients: dict[str, Tensor | None]
    """Those of the states at the start."""


class Part:
    """The eligibility of one layer's weight and bias."""

    def __init__(self, layer: nn.Module, pre: str, where: str) -> None:
        self.layer, self.pre, self.where = layer, pre, where
        self.weight: dict[str, Tensor] = {}
        self.bias: dict[str, Tensor] = {}

    def run(
        self,
        gradients: dict[str, Tensor | None],
        a: dict[str, Tensor],
        P: dict[str, dict[str, Tensor]],
        pre: Tensor,
        constant: bool,
        chosen: Callable[[Any], Any],
        put: Callable[[Any, Any], Any],
        limit: int,
    ) -> None:
        """Adds to the gradients, and goes on to the end of the piece."""
        if not constant:
            self._check(a, pre, limit)
        weights, biases = chosen(self.weight), chosen(self.bias)
        for k in weights:
            if (g := gradients.get(k)) is not None:
                self._add(g, weights[k], biases[k], constant)
        new_weight, new_bias = {}, {}
        for k, a_k in a.items():
            new_weight[k] = _carried(k, P[k], weights, a_k, pre, constant)
            b = a_k.sum(0)
            for j, P_kj in P[k].items():
                b = b + _wide(P_kj, b.ndim) * biases[j] if j in biases else b
            new_bias[k] = b
        old = self.weight
        self.weight = put(old, new_weight) if old else new_weight
        self.bias = put(self.bias, new_bias) if old else new_bias

    def _add(self, g: Tensor, e: Tensor, e_bias: Tensor, constant: bool) -> None:
        layer: Any = self.layer
        learned = [layer.weight, *([layer.feedback] if isinstance(layer, RandomFeedback) else [])]  # which has its part
        learned = [weight for weight in learned if weight.requires_grad]
        if learned:
            if constant:
                dw = product(layer, e.unsqueeze(0), g.unsqueeze(0), _WHO)
            else:
                dw = torch.bmm(g.flatten(0, -2).t().unsqueeze(1), e.flatten(0, -3).transpose(0, 1)).squeeze(1)
            for weight in learned:
                accumulate(weight, dw)
        if layer.bias is not None and layer.bias.requires_grad:
            channel = g.ndim - 1 if layer.weight.ndim <= 2 else 1
            accumulate(layer.bias, (_wide(e_bias, g.ndim) * g).sum([d for d in range(g.ndim) if d != channel]))

    def _check(self, a: dict[str, Tensor], pre: Tensor, limit: int) -> None:
        if type(self.layer) not in (nn.Linear, RandomFeedback):
            raise ValueError(
                f"{_WHO}: {self.where}: the eligibility of {type(self.layer).__name__} can be carried only where it is "
                "a trace of the input: for a neuron with a leak alone, reset='soft' or 'none' and detach_reset=True"
            )
        size = sum(t[0].numel() for t in a.values()) * pre.shape[-1] * pre.element_size()
        if size > limit:
            raise ValueError(
                f"{_WHO}: {self.where}: the eligibility takes {size} bytes, and limit= is {limit}; take smaller "
                "batches, method='truncated', or a neuron with reset='soft' and detach_reset=True, where it is a trace"
            )


def _pairs(net: Network, full: bool) -> list[Pair | Influence]:
    """The layers with weights, each with the neuron that comes directly after it."""
    bodies = list(net.body.blocks) if isinstance(net.body, DECOLLE) else [net.body]
    if not all(runs_layers(body) for body in bodies):
        raise ValueError(
            f"{_WHO}: method='eligibility' needs a network of layers in order, sl.Network(layer, neuron, ...), and no "
            f"forward of its own; the body is a {type(net.body).__name__}"
        )
    layers, paths = (
        [layer for body in bodies for layer in layers_of(body)],
        {m: path for path, m in net.body.named_modules()},
    )
    twice = [layer for i, layer in enumerate(layers) if layer in layers[:i]]
    if twice:
        raise ValueError(f"{_WHO}: method='eligibility': {paths[twice[0]]!r} is in the network more than once")
    found, between = list[Pair | Influence](), list[nn.Module]()
    for layer in layers:
        if not isinstance(layer, TemporalModule):
            between.append(layer)
            continue
        recurrent = type(layer) is Recurrent and type(layer.feedback) is nn.Linear
        if not isinstance(layer, (Dynamics, EProp)) and not (recurrent and full):
            remedy = "; method='rtrl' takes it" if recurrent else ""
            raise ValueError(
                f"{_WHO}: method='eligibility': {paths[layer]!r} is a {type(layer).__name__}, which is no "
                f"neuron{remedy}"
            )
        trained = [m for m in between if any(p.requires_grad for p in m.parameters())]
        if trained and not (trained == between[-1:] and type(trained[0]) in (*LINEAR, RandomFeedback)):
            names = ", ".join(f"{paths[m]!r} ({type(m).__name__})" for m in trained)
            raise ValueError(
                f"{_WHO}: method='eligibility': before the neuron {paths[layer]!r} there must be one layer with "
                f"parameters, linear in its weight and directly before it; there is {names}"
            )
        if trained:
            feedback = {f"{paths[layer]}.feedback": layer.feedback} if isinstance(layer, (EProp, Recurrent)) else {}
            for path, module in {paths[trained[0]]: trained[0], paths[layer]: layer, **feedback}.items():
                _check_plain(module, path)
        if trained and isinstance(layer, (Dynamics, EProp)):
            found.append(Pair(trained[0], paths[trained[0]], layer, paths[layer]))
        elif trained and isinstance(layer, Recurrent) and type(trained[0]) is nn.Linear:
            found.append(Influence(trained[0], paths[trained[0]], layer, paths[layer]))
        elif isinstance(layer, Recurrent):
            raise ValueError(f"{_WHO}: method='eligibility': {paths[layer]!r} needs a linear layer before it")
        between = []
    return found


def _check_plain(module: nn.Module, path: str) -> None:
    """Raises ValueError where a module is more than its equation: hooks, or a weight that comes of other parameters."""
    if not isinstance(module, TemporalModule) and not isinstance(module._parameters.get("weight"), nn.Parameter):
        raise ValueError(
            f"{_WHO}: the weight of {path!r} is no parameter of its own, so that it has no eligibility; remove "
            "weight_norm, spectral_norm or pruning, or give method='truncated'"
        )
    if has_hooks(module):
        raise ValueError(
            f"{_WHO}: something hooks into {path!r}, and what it does there has no eligibility; remove the hook, or "
            "give method='truncated'"
        )


def _give_readout(pairs: list[Pair | Influence], net: Network) -> None:
    """Tells the pair before the last that the last, with nothing between them, is its read-out."""
    layers = list(layers_of(net.body)) if runs_layers(net.body) else []
    paths = {m: path for path, m in net.body.named_modules()}
    last = pairs[-1] if pairs else None
    before = pairs[-2] if len(pairs) > 1 else None
    if isinstance(before, Influence):
        raise ValueError(f"{_WHO}: leaky_readout=True goes with neurons and sl.learn.EProp, not with {before.path!r}")
    if isinstance(last, Pair) and isinstance(before, Pair):
        layer = last.parts[0].layer
        order = [paths[m] for m in layers]
        at = order.index(before.path)
        if order[at : at + 3] == [before.path, paths[layer], last.path] and type(layer) in (nn.Linear, RandomFeedback):
            before.readout = last
            if f"{before.path}.output" not in before.names:
                before.names = (*before.names, f"{before.path}.output")
            return
    raise ValueError(
        f"{_WHO}: leaky_readout=True needs a network that ends in a neuron with weights before it, an nn.Linear and a "
        "neuron with a leak alone, where the weights of both learn; it ends in "
        f"{', '.join(type(m).__name__ for m in layers[-3:]) or 'a DECOLLE'}"
    )


def _traced(a: Tensor, pre: Tensor) -> Tensor:
    """``sum_t a[t] pre[t]`` with a ``[T, B]``."""
    return (a.reshape(*a.shape, *(1,) * (pre.ndim - 2)) * pre).sum(0)


def _carried(k: str, P_k: dict[str, Tensor], e: dict[str, Tensor], a: Tensor, pre: Tensor, constant: bool) -> Tensor:
    """``sum_j P_kj e_j + sum_t a[t] pre[t]^T``; where no other state has a part in it, in the memory of ``e_k``."""
    if not e:
        if constant:
            return _traced(a, pre)
        return _add_outer(a.new_zeros(*a.shape[1:], pre.shape[-1]), a, pre)
    total: Tensor | None = None
    for j, P_kj in P_k.items():
        P_wide = _wide(P_kj, e[j].ndim)
        if total is not None:
            total.addcmul_(P_wide, e[j])
        else:
            total = e[j].mul_(P_wide) if len(e) == 1 else e[j] * P_wide
    if constant:
        return _traced(a, pre) if total is None else total + _traced(a, pre)
    return _add_outer(torch.zeros_like(e[k]) if total is None else total, a, pre)


def _add_outer(total: Tensor, a: Tensor, pre: Tensor) -> Tensor:
    """Adds ``sum_t a[t] pre[t]^T`` to ``total`` ``[B, *, N, M]``, in place."""
    rows = total.flatten(0, -3)
    rows.baddbmm_(a.flatten(1, -2).permute(1, 2, 0), pre.flatten(1, -2).transpose(0, 1))
    return rows.view_as(total)


def _wide(t: Tensor, ndim: int) -> Tensor:
    return t.reshape(*t.shape, *(1,) * (ndim - t.ndim))
