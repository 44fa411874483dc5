"""MPBN: batch normalisation of the membrane potential, between charge and fire.

    h = charge(x, v);  s = [BN(h) >= v_threshold];  v = reset(h, s)

Guo et al., Membrane Potential Batch Normalization for Spiking Neural Networks, ICCV 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .._constants import HasConstants
from ..core import Late, Sequence, State
from ..kernel import Found, Request, full_precision, scan_eager
from .base import Dynamics
from .options import Option, moved
from .threshold import moves_with_threshold


class _AnyBatchNorm(HasConstants, nn.modules.batchnorm._BatchNorm):
    not_carried = ("momentum",)  # which is of training alone

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        """Every ``[B, C, *]`` will do."""


class MPBN(Option):
    """Normalises the voltage that the inner neuron fires on, not the one it keeps: ``s = [BN(h) >= v_threshold]``.

    Args:
        neuron: one with ``v_threshold`` that fires once a step.
        features: channels (dimension 1 of the step) of the batch norm ``norm``, which is that of torch.nn.
        eps, momentum: see ``nn.BatchNorm1d``.

    In training every step is normalised by its own batch, which needs the PyTorch loop, and the running statistics move
    at each step. In evaluation it is an affine function in the kernel. Where that is equal, :meth:`fold` gives the
    neuron without it, whose thresholds are ``(v_threshold - bias) sigma / weight + mean``. It must be the outermost
    option. SpikingJelly's ``MPBNLIFNode`` also carries the normalised voltage on to the next step, where no threshold
    can stand for it.

    Input and output are ``[T, B, C, *]``; the states are the inner neuron's. It raises ValueError in training with
    lengths.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.options.MPBN(sl.LIF(), features=3).eval()
    >>> x = torch.rand(5, 2, 3) * 3
    >>> torch.equal(neuron.sequence(x)[0], neuron.fold().sequence(x)[0])
    True
    """

    paper = "Guo et al., Membrane Potential Batch Normalization for Spiking Neural Networks, ICCV 2023"
    nestable: ClassVar[bool] = False
    scale: Tensor
    shift: Tensor

    def __init__(self, neuron: Dynamics, features: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(neuron)
        if "v_threshold" not in self.core()._declared:
            raise TypeError(f"MPBN: {type(self.core()).__name__} has no v_threshold")
        self.norm = _AnyBatchNorm(features, eps=eps, momentum=momentum)
        self.numbers(scale=torch.ones(features), shift=torch.zeros(features))  # of the norm: see broadcast

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of the batch norm in evaluation, ``[features]``."""
        norm = self.norm
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None or norm.weight is None:
            raise TypeError(
                f"MPBN: norm must be a batch norm with a weight and running statistics, to be an affine function in "
                f"evaluation; got {norm!r}"
            )
        mean, variance = cast(Tensor, norm.running_mean), norm.running_var
        scale: Tensor = norm.weight * torch.rsqrt(variance + norm.eps)
        return scale, norm.bias - mean * scale

    def broadcast(self, name: str, step_shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A number, shaped to broadcast against one step; scale and shift are those of the batch norm."""
        if name not in ("scale", "shift"):
            return super().broadcast(name, step_shape, dtype)
        scale, shift = self.affine()
        if len(step_shape) < 2 or step_shape[1] != len(scale):
            raise ValueError(f"MPBN: has {len(scale)} features, got a step {list(step_shape)} [B, C, *]")
        value = scale if name == "scale" else shift
        return value.reshape(-1, *(1,) * (len(step_shape) - 2)).to(dtype)

    def constants(self) -> dict[str, Any]:
        """What checkpoints carry besides the inner neuron's constants; nothing of it is learned."""
        return {name: value for name, value in super().constants().items() if name not in ("scale", "shift")}

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        return self.normalised_by(lambda h: h * self.scale + self.shift, x, *states)

    def normalised_by(self, norm: Callable[[Tensor], Tensor], x: Tensor, *states: Tensor) -> Any:
        """The step that fires on ``norm(h)``."""
        threshold = self.core().v_threshold
        return moved(self.neuron, lambda u: norm(u + threshold) - threshold, "MPBN", x, *states)

    def fold(self) -> Dynamics:
        """The inner neuron, with constant thresholds that give the spikes and states of the batch norm in evaluation.

        Raises ValueError where no threshold can do that: where the inner neuron uses ``v_threshold`` for more than to
        fire (a soft reset subtracts it, an analog output or a state at rest depends on it), where it does not fire by a
        step function, for thresholds other than one or one per channel, and for a weight that is not positive. Raises
        TypeError where ``norm`` was replaced by something else than a batch norm.
        """
        with torch.no_grad():
            scale, shift = self.affine()
        reason = moves_with_threshold(self.neuron, len(scale))
        if reason:
            raise ValueError(f"MPBN: folding would change more than when the neuron fires: {reason}")
        core = self.core()
        with torch.no_grad():
            threshold = core.v_threshold.to(scale)
            if threshold.numel() != 1 and threshold.shape != scale.shape:
                raise ValueError(
                    f"MPBN: v_threshold {list(threshold.shape)} is not one value per channel {list(scale.shape)}"
                )
            moved_to = (threshold.reshape(-1) - shift) / scale
            if not bool(((scale > 0) & moved_to.isfinite()).all()):
                raise ValueError(
                    f"MPBN: {int((scale <= 0).sum())} of {len(scale)} weights of the batch norm are not positive, or "
                    "its statistics are not finite: such a channel fires below a threshold, always or never, which no "
                    "threshold can stand for"
                )
            folded = copy.deepcopy(self.neuron)
            inner = folded.core()
            inner._forget("v_threshold")
            inner.numbers(v_threshold=moved_to)
        folded.packed = self.packed
        return folded.train(self.training)

    def absorb(self, previous: nn.Module | Late) -> Sequence | None:
        """A batch norm before it joins the kernel in evaluation."""
        return None if self.training else super().absorb(previous)

    def step(self, *x_t: Tensor, state: State = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of ``[B, *]``: ``(spikes, state)``."""
        if not self.training:
            return super().step(*x_t, state=state)
        y, new = self._sequence(tuple(x.unsqueeze(0) for x in x_t), state, None, (), None)
        return y[0], new

    def recorded_step(
        self, *x_t: Tensor, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """:meth:`step`, and ``{name: [B, *]}`` of the names in ``record``."""
        if not self.training:
            return super().recorded_step(*x_t, state=state, record=record)
        xs = tuple(x.unsqueeze(0) for x in x_t)
        y, new, *recorded = self._sequence(xs, state, None, record, None)
        return y[0], new, {name: value[0] for found in recorded for name, value in found.items()}

    def _scan(self, request: Request) -> Found:
        if not self.training:
            return super()._scan(request)
        if request.lengths is not None:
            raise ValueError(
                "MPBN: in training its statistics are those of all samples of a step; lengths cannot be used"
            )
        with full_precision(request.device):
            return scan_eager(_InTraining(self.bind(request.step, request.dtype), self.norm), request)


class _InTraining:
    """The equation with the batch norm itself, which counts what it sees."""

    def __init__(self, view: MPBN, norm: nn.Module) -> None:
        self.neuron, self._norm = view, norm

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        return self.neuron.normalised_by(self._norm, x, *states)
