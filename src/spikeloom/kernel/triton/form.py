"""triton/form: which of a program's kernels in Triton a call needs, and how much of the work one program takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..program import OPS, Program

_LIVE = 64
"""How many 32-bit values of a segment one thread of a backward kernel may hold. With addresses and what a step computes
that is 80 to 125 registers for one state; an H200 is fastest there, whatever else is chosen within it."""
_STEPS = 8
"""Most steps of a segment: 16 gained 1 % in float32 there, lost 5 % in float16, and compile three times as long."""
_THREADS = 64
"""Threads of a program; in twice and four times as many nothing changed."""
_DEAR = 144
"""From so many operations on, counting a slow one as six, a step itself needs the registers of half the neurons."""


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


def per_thread(program: Program, io: torch.dtype, steps: int, *, backward: bool) -> int:
    """Neurons of one thread, where a segment has ``steps`` steps.

    Forward, a thread reads 16 bytes at a time: 8 neurons in half precision (4 where they have several states), 4 in
    float32, 2 in float64. Backward, where many rows are read at once, two neurons are as fast where a segment has more
    than four steps, and four where it has fewer; of more, registers are short.
    """
    width = 16 // io.itemsize
    if not backward:
        return width if len(program.states) < 2 else min(4, width)
    width = min(width, 2 if steps > 4 else 4)
    while width > 1 and steps * width * weight(program, io) > _LIVE:
        width //= 2
    return max(1, width // 2) if dear(program) > _DEAR else width


def tile(program: Program, io: torch.dtype, T: int, *, backward: bool, sums: bool = False) -> Tile:
    """The tile of a program's kernels for inputs of a dtype; it takes more rows where a kernel ``sums`` over them."""
    width = per_thread(program, io, min(T, most_steps(program, io)), backward=backward)
    return Tile(_THREADS * width * (2 if backward and sums else 1), width)


def most_steps(program: Program, io: torch.dtype) -> int:
    """Most steps of a segment: as many as one thread of a backward kernel can hold for two neurons."""
    steps = _STEPS
    while steps > 2 and 2 * steps * weight(program, io) > _LIVE:
        steps //= 2
    return steps


def steps_for(T: int, most: int) -> int:
    """Steps of a segment for T steps: all of them where they are few, else a divisor of T that is not much less than
    ``most``, else ``most``.
    """
    if most >= T:
        return T
    return next((k for k in range(most, most // 2, -1) if T % k == 0), most)
