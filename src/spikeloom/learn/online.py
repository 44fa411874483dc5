"""online: networks run, and gradients are taken, in pieces of a few steps, in memory that does not grow with T."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._time import check_lengths
from ..core import Network, Result, State, detach
from .eligibility import Eligibility
from .eventprop import EventPropLIF
from .truncated import Cut

Loss = Callable[..., Tensor]
"""``(y [K, B, *], t0) -> scalar``, a sum over the K steps that begin at t0; ``(y, t0, record)`` with recordings."""


class Piece(NamedTuple):
    """What :func:`online` gives after each piece; nothing of it has a graph.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(1, 1), sl.LI())
    >>> _ = [torch.nn.init.zeros_(p) for p in net.parameters()]  # so that the output is 0
    >>> loss = lambda y, t0: (y - 1).square().sum()
    >>> [(piece.start, piece.loss.item()) for piece in sl.learn.online(net, torch.ones(4, 1, 1), loss, steps=2)]
    [(0, 2.0), (2, 2.0)]
    """

    start: int
    """The first step of the piece."""
    loss: Tensor
    """What the loss function gave."""
    output: Tensor
    """Outputs of the network, ``[K, B, *]``."""
    state: State
    """The state after the piece; ``online(..., state=)`` and the network go on from it."""


def online(
    net: Network,
    x: Tensor,
    loss: Loss,
    *,
    steps: int = 1,
    block: int = 1,
    method: Literal["truncated", "eligibility", "rtrl"] = "truncated",
    state: State = None,
    lengths: Tensor | None = None,
    repeat: int | None = None,
    record: tuple[str, ...] = (),
    backward: int | None = None,
    generator: torch.Generator | None = None,
    leaky_readout: bool = False,
    limit: int = 2**30,
) -> Iterator[Piece]:
    """Runs a network on a sequence piece by piece; after each piece its gradients are in ``.grad``.

    Args:
        net: a Network.
        x: ``[T, B, *]`` (``[B, T, *]`` if the network is ``batch_first``), or one step with ``repeat``.
        loss: a function of the outputs ``[K, B, *]`` of a piece and of its first step. Gradients are those of the sum
            over pieces, so it has to be a sum over steps: divide a mean by T, not by K.
        steps: K, steps of a piece; the last one may be shorter.
        block: so many pieces run in one call of the network, in which no gradient passes from one piece to the next
            either. What is said of a piece here then holds for a block: the loss gets its outputs, and the loop goes
            round once for each. It costs the memory of ``block * steps`` steps, and saves most of the time that short
            pieces take. The network must be one of plain layers and neurons, in order; with ``"truncated"`` alone.
        method: ``"truncated"``: no gradient passes from one piece to the next. ``"eligibility"``: what the weights of a
            layer did in earlier pieces to the state of the neurons directly after it is carried on, exactly; see below.
            ``"rtrl"``: the same, and recurrent layers with all that their neurons do to each other.
        state: where to begin, as a network takes it; None is rest. Eligibilities begin at 0.
        lengths: valid steps of each sample. Outputs past them are 0, and samples that have ended are left out of the
            network; pieces end with the longest sample.
        repeat: T, for an input that stays the same.
        record: names of places, as a network takes them. The loss is then given ``{name: [K, B, *]}`` as its third
            argument, for regularisers of voltages and rates.
        backward: of so many pieces, drawn at random, gradients are taken; the others only run. ``steps=1`` with it is
            SLTT-K. Gradients are not scaled. None is all. Not with ``"eligibility"``.
        generator: source of randomness of ``backward``.
        leaky_readout: with eligibilities, for a network that ends in a neuron, ``nn.Linear`` and a neuron with a leak
            alone, such as ``sl.LI``: what the weights before the former did to the read-out in earlier pieces is
            carried as well, as the derivative of the former's outputs filtered by the leak (kappa in e-prop).
        limit: bytes that eligibilities may take, see below.

    Gradients are taken under ``torch.no_grad`` too, and added to ``.grad``, so that the loop chooses: a step of the
    optimiser after each piece (online), or one at the end (the gradient of the whole sequence). With one step at the
    end and ``"truncated"``, ``steps=T`` is backpropagation through time, and ``steps=1`` spatial learning through time
    (SLTT); with :class:`spikeloom.nn.OTTT` around layers it is OTTT. A piece runs the ordinary kernels; only the state
    is kept from one to the next, so memory is that of K steps.

    **Eligibility.** For a layer with weight W directly before a neuron with states ``s_k``, ``e_k = ds_k / dW`` is
    carried, and a piece adds ``sum_k (dL/ds_k at its start) e_k`` to the gradient of W (and of the bias alike). As
    neurons are elementwise, one more backward pass for each state gives ``a_k[t] = ds_k(end)/dx[t]`` and ``P_kj =
    ds_k(end)/ds_j(start)``, and ``e_k = sum_t a_k[t] pre[t]^T + sum_j P_kj e_j``: no rule per neuron, surrogate and
    reset included. With one layer of neurons this is the gradient of backpropagation through time; with several, what a
    layer does to the states of *later* layers in earlier pieces is lost. Where a and P are the same for all neurons (a
    leak alone, with ``reset="soft"`` or ``"none"`` and ``detach_reset=True``), e is a trace of the layer's input, ``[B,
    M]`` instead of ``[B, N, M]`` for each state, and convolutions are possible. Weights that change between pieces
    leave e as it was, as in real-time recurrent learning. Learnable numbers of neurons get truncated gradients.

    **Full influence.** ``"rtrl"`` also takes :class:`spikeloom.nn.Recurrent` with ``nn.Linear`` before it and as
    feedback, of ``[B, N]``: for each of its states and for its outputs it carries the derivative of N values by all
    weights, ``[B, N, N, M + N]``, by N backward passes in each piece. One such layer has the gradient of
    backpropagation through time. It is meant for some dozens of neurons.

    :class:`EventPropLIF` takes differences of gradients between the steps of a piece, one-sided at both ends: with it
    every method only comes near to the gradient of whole sequences, the nearer the longer its pieces.

    Batch norm in training mode takes the statistics of each piece (of each block), and dropout draws a mask for each.

    Raises ValueError for ``block`` above 1 where a temporal module is no neuron alone, or has hooks; for
    ``"eligibility"`` where a layer with parameters before a neuron is not alone with it (a batch norm between), where
    one of both has hooks, or the weight comes of other parameters (pruning, weight norm), where a temporal module is no
    neuron, where a convolution meets a neuron whose eligibility is no trace, where the neurons of a layer depend on
    each other (MPBN in training), or where eligibilities would take more than ``limit`` bytes.

    Meng et al., ICCV 2023 (SLTT, SLTT-K); Xiao et al., NeurIPS 2022 (OTTT); Williams and Zipser, Neural Computation 1,
    1989 (real-time recurrent learning).

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 8), sl.LIF(), torch.nn.Linear(8, 2))
    >>> optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> x, target = torch.rand(100, 3, 4), torch.zeros(100, 3, 2)
    >>> def loss(y, t0):
    ...     return (y - target[t0 : t0 + len(y)]).square().sum() / target.numel()
    >>> losses = []
    >>> for piece in sl.learn.online(net, x, loss, steps=10, method="eligibility"):
    ...     optimiser.step()
    ...     optimiser.zero_grad()
    ...     losses.append(piece.loss)
    >>> len(losses)
    10
    """
    check_options(net, x, steps, method, backward, block)
    if repeat is not None:
        x = x.unsqueeze(0).expand(repeat, *x.shape)
    elif net.batch_first:
        x = x.transpose(0, 1)
    T, B = x.shape[:2]
    if x.grad_fn is not None and steps * block < T and torch.is_grad_enabled():
        raise ValueError(
            "learn.online: x comes out of a computation with gradient, which one piece would go back through and free "
            "for the next; give x.detach(), or let that computation be a part of the network"
        )
    if lengths is not None:
        lengths = check_lengths(lengths, T, B, device=x.device)
    longest = T if lengths is None or not B else int(lengths.max())
    drawn = _drawn(-(-longest // (steps * block)), backward, generator)
    cut = Cut(net, steps) if block > 1 else None
    if leaky_readout and method == "truncated":
        raise ValueError("learn.online: leaky_readout goes with eligibilities, method='eligibility' or 'rtrl'")
    asked = _Asked(loss, record, limit, cut, leaky_readout)
    return _pieces(net, x, asked, steps * block, method, state, lengths, drawn)


def check_options(net: object, x: object, steps: int, method: str, backward: int | None, block: int = 1) -> None:
    """Raises for what :func:`online` does not take."""
    if not isinstance(net, Network):
        raise TypeError(f"learn.online: takes an sl.Network, got {type(net).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"learn.online: x must be a tensor, got {type(x).__name__}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"learn.online: steps must be a number of steps of at least 1, got {steps!r}")
    if method not in ("truncated", "eligibility", "rtrl"):
        raise ValueError(f"learn.online: method must be truncated, eligibility or rtrl, got {method!r}")
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"learn.online: block must be a number of pieces of at least 1, got {block!r}")
    if block > 1 and method != "truncated":
        raise ValueError(
            "learn.online: an eligibility is carried from piece to piece, so block= goes with truncated alone"
        )
    if steps < 3 and any(isinstance(m, EventPropLIF) for m in net.modules()):
        raise ValueError(
            "learn.online: EventPropLIF learns by how gradients change from step to step of a piece, which fewer than "
            f"3 steps do not tell; got steps={steps}"
        )
    if backward is not None and method != "truncated":
        raise ValueError("learn.online: an eligibility needs every piece, so backward= goes with truncated alone")
    if backward is not None and backward < 1:
        raise ValueError(f"learn.online: backward must be at least 1, got {backward}")


def _drawn(pieces: int, k: int | None, generator: torch.Generator | None) -> set[int]:
    """The pieces of which gradients are taken."""
    if k is None or k >= pieces:
        return set(range(pieces))
    return set(torch.randperm(pieces, generator=generator)[:k].tolist())


class _Asked(NamedTuple):
    """What stays the same from piece to piece."""

    loss: Loss
    record: tuple[str, ...]
    limit: int
    cut: Cut | None
    filtered: bool


def _pieces(
    net: Network,
    x: Tensor,
    asked: _Asked,
    steps: int,
    method: str,
    state: State,
    lengths: Tensor | None,
    drawn: set[int],
) -> Iterator[Piece]:
    state = None if state is None else detach(state)
    carried = None
    if method != "truncated":
        carried = Eligibility.of(net, asked.limit, full=method == "rtrl", filtered=asked.filtered)
    T = len(x) if lengths is None else int(lengths.max())
    for n, t0 in enumerate(range(0, T, steps)):
        if torch.is_inference_mode_enabled():
            raise RuntimeError("learn.online: there are no gradients in torch.inference_mode; leave it")
        rows = _Rows(x.shape[1], lengths, t0, steps)
        with torch.enable_grad() if n in drawn else torch.no_grad():
            given = rows.chosen(state)
            if carried is not None:
                given = carried.begin(given, rows.chosen)
            piece = rows.chosen(x[t0 : t0 + steps], 1)
            if carried is not None:  # a still input would run once, apart from the inputs that are recorded
                piece = piece.contiguous()
            names = asked.record if carried is None else (*asked.record, *carried.names)
            y, result = _run(asked.cut or net, piece, given, rows.lengths, names)
            seen = [{name: rows.placed(result.record[name], 1) for name in asked.record}] if asked.record else []
            value = check_scalar(asked.loss(rows.placed(y, 1), t0, *seen))
            if value.requires_grad:
                value.backward(retain_graph=carried is not None)
            if carried is not None:
                carried.end(result, rows.put)
        state = rows.put(state, detach(result.state))
        yield Piece(t0, value.detach(), rows.placed(y.detach(), 1), state)


def _run(
    net: Network | Cut, x: Tensor, state: State, lengths: Tensor | None, names: tuple[str, ...]
) -> tuple[Tensor, Result]:
    y, new, *recorded = net.sequence(x, state=state, lengths=lengths, record=tuple(dict.fromkeys(names)))
    if not isinstance(y, Tensor):
        raise TypeError(f"learn.online: takes a network with one output, got {type(y).__name__}")
    return y, Result(new, recorded[0] if recorded else {})


def check_scalar(value: Any) -> Tensor:
    """What a loss gave; raises TypeError unless it is a scalar tensor."""
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"learn.online: loss(y, t0) must return a scalar tensor, got {got}")
    return value


class _Rows:
    """The samples that have not ended when a piece begins."""

    def __init__(self, B: int, lengths: Tensor | None, t0: int, steps: int) -> None:
        self.B = B
        self.index: Tensor | None = None
        self.lengths: Tensor | None = None
        if lengths is not None:
            left = (lengths - t0).clamp(0, steps)
            index = left.nonzero().flatten()
            self.lengths = left[index]
            self.index = None if len(index) == B else index

    def chosen(self, tree: Any, dim: int = 0) -> Any:
        """The rows of what belongs to samples."""
        index = self.index
        if index is None:
            return tree

        def rows(t: Any) -> Any:
            return t.index_select(dim, index) if self._of_samples(t, dim) else t

        return pytree.tree_map(rows, tree)

    def placed(self, y: Tensor, dim: int) -> Tensor:
        """``y`` with zeros for the samples that have ended."""
        if self.index is None:
            return y
        shape = [*y.shape]
        shape[dim] = self.B
        return y.new_zeros(shape).index_copy(dim, self.index, y)

    def put(self, old: Any, new: Any) -> Any:
        """``new``, with what ``old`` has of the samples that have ended."""
        index = self.index
        if index is None or old is None:
            return new

        def rows(before: Any, now: Any) -> Any:
            return before.index_copy(0, index, now) if self._of_samples(before, 0) else now

        return pytree.tree_map(rows, old, new)

    def _of_samples(self, t: Any, dim: int) -> bool:
        return isinstance(t, Tensor) and t.ndim > dim and t.shape[dim] == self.B
