"""Result: a converted network, with how values become sequences and sequences values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core import Network
from .methods import Method
from .report import Report

_ROWS = 1024
"""Steps times samples that run at once where no gradients are asked for: what they take stays near the cache."""


class Result:
    """What :func:`convert` gives.

    ``result(x, T=16)`` encodes, runs and decodes. ``network`` is the :class:`spikeloom.Network`, which takes what
    :meth:`encode` gives and gives what :meth:`decode` takes; ``report`` says what was done and what each layer loses.

    Args:
        network: the spiking network, of the model's input tensors in order.
        method: the method.
        takes, gives: the structures of the model's arguments and output.
        fixed: the leaves of the arguments that are no tensors, with None for tensors.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[0.25], [1.0], [-1.0]])
    >>> model, method = torch.nn.Sequential(torch.nn.ReLU()), sl.convert.Rate(quantile=1.0)
    >>> result = sl.convert.convert(model, method, example=x, readout="spikes")
    >>> result(x, T=8).flatten()
    tensor([0.2500, 1.0000, 0.0000])
    >>> result.outputs(x[:1], T=8).flatten()  # 2 spikes in 8 steps, worth the threshold, 1
    tensor([0., 1., 0., 0., 0., 1., 0., 0.])
    """

    report: Report

    def __init__(
        self, network: Network, method: Method, takes: pytree.TreeSpec, gives: pytree.TreeSpec, fixed: list[Any]
    ) -> None:
        self.network, self.method, self._fixed = network, method, fixed
        # Containers with numbers in place of leaves: torch warns where a TreeSpec is copied or pickled.
        self._takes = pytree.tree_unflatten(range(takes.num_leaves), takes)
        self._gives = pytree.tree_unflatten(range(gives.num_leaves), gives)

    def __call__(self, *args: Any, T: int) -> Any:
        """The decoded output after T steps, with the structure of the model's. Gradients flow where they are wanted."""
        return self.decode(self.outputs(*args, T=T))

    def outputs(self, *args: Any, T: int) -> Any:
        """What the network gives at each of T steps, ``[T, B, *]``, for the model's arguments; :meth:`decode` takes it.

        Where no gradients are asked for, some steps run at a time and the state is carried on, so that memory does not
        grow with T but for the outputs themselves; a network that waits for all of its input runs as a whole.
        """
        tensors = self._tensors(args, T)
        if torch.is_grad_enabled() or not self._causal():
            return self.network(*(self._sequence(x, T) for x in tensors))
        parts, state, done = [], None, 0
        for steps in self._parts(tensors, T):
            xs = (self._sequence(x, steps, begins=done == 0) for x in tensors)
            y, found = self.network(*xs, state=state, return_state=True)
            parts.append(pytree.tree_flatten(y)[0])
            state, done = found.state, done + steps
        leaves = [torch.cat(each) if isinstance(each[0], Tensor) else each[0] for each in zip(*parts, strict=True)]
        return pytree.tree_unflatten(leaves, pytree.tree_structure(y))

    def _parts(self, tensors: list[Tensor], T: int) -> Iterator[int]:
        """How many steps run at a time."""
        most = max(1, _ROWS // max(1, len(tensors[0])))
        for begin in range(0, T, most):
            yield min(most, T - begin)

    def _causal(self) -> bool:
        return all(getattr(module, "causal", True) for module in self.network.modules())

    def encode(self, *args: Any, T: int) -> tuple[Tensor, ...]:
        """The tensors of the model's arguments as sequences ``[T, B, *]``.

        Where values are means or each step is one by itself, the input is there at each step; where they are sums, it
        is there in the first one, and zeros follow. Raises TypeError for arguments of another structure, and ValueError
        for an argument that is no tensor and has another value than in the example, which is in the network.
        """
        return tuple(self._sequence(x, T) for x in self._tensors(args, T))

    def _tensors(self, args: tuple[Any, ...], T: int) -> list[Tensor]:
        """The tensors of the arguments, once everything is as it has to be."""
        self._check_steps(T)
        leaves, spec = pytree.tree_flatten((args, {}))
        if spec != pytree.tree_structure(self._takes):
            raise TypeError(f"the model was converted with arguments of another structure: {_words(self._takes)}")
        for given, fixed in zip(leaves, self._fixed, strict=True):
            if not isinstance(given, Tensor) and given is not fixed and given != fixed:
                raise ValueError(
                    f"the model was converted with the argument {fixed!r:.60}, got {given!r:.60}: an argument that is "
                    "no tensor is fixed; convert the model with the one that you need"
                )
        return [x for x in leaves if isinstance(x, Tensor)]

    def _check_steps(self, T: int) -> None:
        if isinstance(T, bool) or T < 1:
            raise ValueError(f"T must be a number of steps of at least 1, got {T!r}")
        if self.method.delay >= T:
            raise ValueError(f"T must be more than the delay, {self.method.delay}, got {T}")

    def _sequence(self, x: Tensor, T: int, *, begins: bool = True) -> Tensor:
        """T steps of an input, from the first one on or from a later one."""
        if self.method.coding != "sum" or (begins and T == 1):
            return x.expand(T, *x.shape)
        if not begins:
            return x.new_zeros(T, *x.shape)
        return torch.cat([x.unsqueeze(0), x.new_zeros(T - 1, *x.shape)])

    def decode(self, y: Any) -> Any:
        """What sequences of outputs ``[T, B, *]`` stand for: their mean behind the delay, or their sum."""
        leaves = [y] if isinstance(y, Tensor) or self._gives == 0 else y
        leaves = [self._value(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, pytree.tree_structure(self._gives))

    def _value(self, y: Tensor) -> Tensor:
        return y.sum(0) if self.method.coding == "sum" else y[self.method.delay :].mean(0)

    def curve(self, images: Tensor, labels: Tensor, *, steps: Sequence[int], batch_size: int = 256) -> dict[int, float]:
        """The accuracy after each number of steps: ``{T: share of right classes}``.

        It is from one run of the largest number, but for networks that wait for all of their input, which run for each.

        Args:
            images: what the model takes, one tensor.
            labels: the classes ``[N]``.
            steps: numbers of steps.
            batch_size: images that run at once.
        """
        right = dict.fromkeys(sorted(set(steps)), 0)
        with torch.no_grad():
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                for T, scores in self.after(x, steps=list(right)).items():
                    right[T] += int((scores.argmax(-1) == y.to(scores.device)).sum())
        return {T: n / len(labels) for T, n in right.items()}

    def after(self, *args: Any, steps: Sequence[int]) -> dict[int, Any]:
        """The decoded output after each number of steps, ``{T: output}``, of a model with one output.

        It is from one run of the largest number, but for networks that wait for all of their input, which run for each.
        """
        wanted = sorted(set(steps))
        if wanted:
            self._check_steps(wanted[0])
        if not self._causal():
            return {T: self(*args, T=T) for T in wanted}
        out: Any = self.outputs(*args, T=wanted[-1]) if wanted else None
        return {T: self.decode(out[:T]) for T in wanted}

    def sent(self, tensors: list[Tensor], T: int, paths: tuple[str, ...]) -> dict[str, Tensor]:
        """What the modules at some paths give at each step, ``[T, B, *]``, for the leaves of an input."""
        return self.sent_and_output(tensors, T, paths)[0]

    def sent_and_output(self, tensors: list[Tensor], T: int, paths: tuple[str, ...]) -> tuple[dict[str, Tensor], Any]:
        """:meth:`sent`, and the decoded output as the leaves of the model's."""
        self._check_steps(T)
        xs = tuple(self._sequence(x, T) for x in tensors)
        with torch.no_grad():
            if not paths:
                return {}, self.decode(self.network(*xs))
            y, found = self.network(*xs, record=tuple(f"{path}.output" for path in paths))
        return {path: found.record[f"{path}.output"] for path in paths}, self.decode(y)

    def __repr__(self) -> str:
        return f"Result of {self.report.summary}" if hasattr(self, "report") else "Result"


def _words(takes: Any) -> str:
    args = pytree.tree_map(lambda _: "*", takes[0])
    return ", ".join(str(a) for a in args)
