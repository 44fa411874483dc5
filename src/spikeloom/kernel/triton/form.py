"""triton/form: which of a program's kernels in Triton a call needs, and how much of the work one program takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..program import OPS, Program

_LIVE = 64
"""How many 32-bit values of a segment one thread may hold; with addresses and what a step computes they stay under 128
registers, at which an SM still keeps 16 warps."""
_STEPS = 8
"""Most steps of a segment: with more, nothing is gained in flight and the code grows."""
_DEAR = 24
"""From so many operations on, counting a slow one as six, a step holds as many values as a segment."""


@dataclass(frozen=True)
class Tile:
    """How much of the work one program takes."""

    block: int
    """Neurons."""
    per_thread: int
    """Neurons of one thread: more read wider, and take more registers."""

    def warps(self, size: int) -> int:
        """Warps of a program, of ``size`` threads each."""
        return max(1, self.block // (self.per_thread * size))


@dataclass(frozen=True)
class Form:
    """What a kernel in Triton is printed for, besides its variant."""

    block: int
    """Neurons of one program."""
    segment: int
    """Steps between the states that are kept, which are unrolled."""
    whole: bool = False
    """Whether no neuron and no step is left over and there are no lengths, so that nothing needs a mask. A forward
    kernel takes what is left of the steps one by one."""
    kept: bool = False
    """Whether states are kept for the backward pass."""
    ends: bool = False
    """Whether the final states have a gradient or the start states get one."""
    rest: tuple[bool, ...] = ()
    """Of each state, whether it is one value at the start."""
    inside: tuple[int, ...] = ()
    """The params that the kernel computes from the numbers themselves."""
    runs: tuple[int, ...] = ()
    """Of each wanted param, how many adjacent neurons share one gradient sum; 0: each of the ``columns`` has one."""
    columns: int = 0
    """How many adjacent neurons of a row a program takes, where gradients are summed over rows, as those of channels in
    channels last: it takes as many rows as its block holds. 0: the neurons of a program are adjacent."""


def weight(program: Program, io: torch.dtype) -> int:
    """How many registers one neuron holds of one step while a backward kernel has read a segment."""
    words = 2 if io == torch.float64 else 1
    return words * (len(program.xs) + len(program.states) + 1)


def dear(program: Program) -> int:
    """How much a step and its gradient compute."""
    roots = (*program.outputs, *program.grads, *(ref for _, ref in program.number_grads))
    return sum(6 if OPS[node.op].slow else 1 for node in program.needed(roots))


def per_thread(program: Program, io: torch.dtype, *, backward: bool) -> int:
    """Neurons of one thread.

    A thread should read 16 bytes at a time, and at least 8: 8 neurons in half precision, 4 in float32, 2 in float64.
    Backward, where twice as many values are live, half as many in half precision, and fewer where a program has more
    states or computes much.
    """
    width = 16 // io.itemsize
    if not backward:
        return max(1, width // (2 if len(program.states) > 2 else 1))
    width = min(4, width)
    while width > 1 and 4 * width * weight(program, io) > _LIVE:
        width //= 2
    return max(1, width // 2) if dear(program) > 6 * _DEAR else width


def tile(program: Program, io: torch.dtype, *, backward: bool) -> Tile:
    """The tile of a program's kernels for inputs of a dtype: of 64 or 128 threads."""
    width = per_thread(program, io, backward=backward)
    return Tile(64 * width if width > 2 else 128 * width, width)


def most_steps(program: Program, io: torch.dtype) -> int:
    """Most steps of a segment: what one thread of a backward kernel can hold."""
    live = weight(program, io) * per_thread(program, io, backward=True)
    steps = _STEPS
    while steps > 2 and steps * live > _LIVE:
        steps //= 2
    return steps


def steps_for(T: int, most: int) -> int:
    """Steps of a segment for T steps: all of them where they are few, else a divisor of T that is not much less than
    ``most``, else ``most``.
    """
    if most >= T:
        return T
    return next((k for k in range(most, most // 2, -1) if T % k == 0), most)
