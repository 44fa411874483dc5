"""target: what is asked of a language that kernels are printed in. There is one object for each: C on CPUs, Triton on
GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from .norm import NormKernels
from .plan import Plan
from .program import Program
from .variant import Variant

Operands = dict[str, Tensor | None]
"""What a kernel reads and writes, by the names of :class:`spikeloom.kernel.variant.Layout`."""
Launch = Callable[[Operands], None]
"""Runs a kernel on its operands; it takes those that it knows, and more may be there."""


class Target(NormKernels, Hashable, Protocol):
    """Prints, builds and launches kernels."""

    @property
    def name(self) -> Any:
        """The name of its backend."""

    @property
    def inside(self) -> bool:
        """Whether kernels compute what depends on constants alone from the numbers themselves, and take a state at the
        start that is one value.
        """

    def segment_at_any(self, program: Program, io: torch.dtype) -> int:
        """How many steps lie between two states that are kept for the backward pass, whatever T: fewer keep more, and
        recompute less.
        """

    def segment_of(self, plan: Plan) -> int:
        """The same for the calls of a plan."""

    def ready(self, device: torch.device) -> None:
        """Raises BuildError where kernels cannot be built for this device."""

    def sources(self, plan: Plan, forward: Variant, backward: Variant) -> str:
        """The text of both kernels."""

    def forward(self, plan: Plan, variant: Variant, segment: int, kept: bool) -> Launch:
        """The forward kernel for the calls of a plan; ``kept``: whether it keeps states, one in each segment."""

    def backward(self, plan: Plan, variant: Variant, segment: int, gstride: int, ends: bool) -> Launch:
        """The backward kernel for the calls of a plan; ``gstride`` is the stride of the output's gradient in time, and
        ``ends`` says whether final states have a gradient or start states get one.
        """

    def packs(self, program: Program) -> bool:
        """Whether the forward kernel can write the output as bits."""

    def sums(self, plan: Plan, param: int) -> Tensor:
        """Memory ``[m, size, k]`` in which the backward kernel leaves the gradient of an operand that comes from
        numbers: summed over m and k it is that gradient.
        """
