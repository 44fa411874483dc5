"""Result: a converted network, with how values become sequences and sequences values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core import Network
from .methods import Method
from .report import Report


class Result:
    """What :func:`convert` gives.

    ``result(x, T=16)`` encodes, runs and decodes. ``network`` is the :class:`spikeloom.Network`, which takes what
    :meth:`encode` gives and gives what :meth:`decode` takes; ``report`` says what was done and what each layer loses.

    Args:
        network: the spiking network, of the model's input tensors in order.
        method: the method.
        takes, gives: the structures of the model's arguments and output.
        fixed: the leaves of the arguments that are no tensors, with None for tensors.
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
        return self.decode(self.network(*self.encode(*args, T=T)))

    def encode(self, *args: Any, T: int) -> tuple[Tensor, ...]:
        """The tensors of the model's arguments as sequences ``[T, B, *]``.

        Where values are means or each step is one by itself, the input is there at each step; where they are sums, it
        is there in the first one, and zeros follow. Raises TypeError for arguments of another structure, and ValueError
        for an argument that is no tensor and has another value than in the example, which is in the network.
        """
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
        return tuple(self._sequence(x, T) for x in leaves if isinstance(x, Tensor))

    def _check_steps(self, T: int) -> None:
        if isinstance(T, bool) or T < 1:
            raise ValueError(f"T must be a number of steps of at least 1, got {T!r}")
        if self.method.delay >= T:
            raise ValueError(f"T must be more than the delay, {self.method.delay}, got {T}")

    def _sequence(self, x: Tensor, T: int) -> Tensor:
        if self.method.coding != "sum":
            return x.expand(T, *x.shape)
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
        wanted, right = sorted(set(steps)), dict.fromkeys(sorted(set(steps)), 0)
        if wanted:
            self._check_steps(wanted[0])
        causal = all(getattr(module, "causal", True) for module in self.network.modules())
        with torch.no_grad():
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                out: Any = self.network(*self.encode(x, T=wanted[-1])) if causal else None
                for T in wanted:
                    prefix = out[:T] if causal else self.network(*self.encode(x, T=T))
                    scores = self.decode(prefix)
                    right[T] += int((scores.argmax(-1) == y.to(scores.device)).sum())
        return {T: n / len(labels) for T, n in right.items()}

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
