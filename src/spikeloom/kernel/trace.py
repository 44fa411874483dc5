"""trace: makes a Program of a neuron's ``dynamics``.

``dynamics`` runs on small tensors under a dispatch mode that writes down each operation, and so does its
vector-Jacobian product. Values are known by their storage, so views, detach and in-place writes to temporaries need no
rule of their own.

A program serves inputs of every dtype and numbers of every kind, so ``dynamics`` runs once in each of :data:`WORLDS`:
where it does not write the same program in all of them, what it computes depends on something that no kernel knows.
What torch tells of a tensor besides its values and its dtype (shape, device, whether it needs a gradient) is refused
where it is read. The dtypes of results are torch's own in each world.
"""

from __future__ import annotations

import functools
import struct
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from .lines import TORCH, frames, is_users, line_of
from .marked import U, marked
from .program import NORM, OPS, Const, Node, Program, Ref
from .rules import ALIASES, RULES, SHAPES
from .values import Call, RefusedError, Values

__all__ = ["RefusedError", "trace"]

_KNOWN_BY_DTYPE = ("dtype.__get__", "is_floating_point", "is_complex")  # every dtype has a world


@dataclass(frozen=True)
class World:
    """One combination of dtypes and shapes with which ``dynamics`` may run."""

    state: torch.dtype
    """The dtype of inputs and states."""
    shape: tuple[int, ...] = (7,)
    number: torch.dtype | None = None
    """The dtype of numbers, which have no dimensions and no gradient (float64 for floats). With None all numbers are
    learnable and have the shape and dtype of a state, so that their gradients are elementwise."""
    grad: bool = True


WORLDS = (
    World(torch.float64),
    World(torch.float32),
    World(torch.float32, (2, 3), torch.float64),
    World(torch.float64, (2, 3), torch.float64, grad=False),
    World(torch.float32, (2, 3), torch.float32, grad=False),
)


def trace(neuron: Any, xs: tuple[str, ...] = ("x",), *, normed: bool = False, u: bool = False) -> Program:
    """The program of a neuron. It raises RefusedError where ``dynamics`` cannot be expressed.

    ``normed``: the program of ``dynamics(x * scale + shift, *states)``; the two numbers more are those of a batch norm.
    ``u``: it has what ``fire`` was given as its last state.

    It depends on no mode of torch but the default dtype, which gives some results their dtype (``(x > 0) * 0.5``).
    """
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autograd.set_detect_anomaly(False) if torch.is_anomaly_enabled() else nullcontext(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        torch.device("cpu"),
    ):
        try:
            return _trace(neuron, xs, normed, u, noting=False)
        except RefusedError:
            return _trace(neuron, xs, normed, u, noting=True)


def _trace(neuron: Any, xs: tuple[str, ...], normed: bool, u: bool, *, noting: bool) -> Program:
    """The program. With ``noting`` the line of each node is noted for the message, which takes longer."""
    found = []
    for world in WORLDS:
        with torch.set_grad_enabled(world.grad):
            found.append(_trace_in(world, neuron, xs, normed, u, noting))
    for other in found[1:]:
        _compare(neuron, found[0], other)
    return found[0][0]


def _trace_in(
    world: World, neuron: Any, xs: tuple[str, ...], normed: bool, u: bool, noting: bool
) -> tuple[Program, _Tracer]:
    states, numbers = (*neuron._rest, *([U] if u else ())), (*neuron.all_names(), *(NORM if normed else ()))
    lifted = {name: _number(world) for name in numbers}
    inputs = [_lifted(world) for _ in (*xs, *states)]
    upstream = [torch.full(world.shape, 0.5, dtype=world.state) for _ in range(1 + len(states))]
    tracer = _Tracer(world, [*inputs, *lifted.values(), *upstream], neuron, noting)
    tracer.sources = {k: frozenset([k]) for k in range(len(inputs), len(inputs) + len(numbers))}
    watch = _Watch(tracer, list(lifted.values()))
    with tracer, watch:
        x = inputs[0] * lifted.pop(NORM[0]) + lifted.pop(NORM[1]) if normed else inputs[0]
        bound = neuron.bind_to(lifted)
        out = _run(marked(bound) if u else bound, [x, *inputs[1:]])
    outputs = tracer.outputs(out, 1 + len(states))
    active = [(o, g) for o, g in zip(out, upstream, strict=True) if o.requires_grad]
    leaves = [*inputs, *watch.learnable]
    grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if active:
        with tracer, _Watch(tracer):
            # As torch.autograd.grad, which would take the mode away from what it calls.
            ends, given = tuple(o for o, _ in active), tuple(g for _, g in active)
            grads = Variable._execution_engine.run_backward(
                ends, given, False, False, tuple(leaves), allow_unreachable=True, accumulate_grad=False
            )
    number_grads: dict[int, Tensor] = {}
    for leaf, grad in zip(watch.learnable, grads[len(inputs) :], strict=True):
        at = tracer.ref(leaf)
        if grad is not None and isinstance(at, int):
            with tracer:  # an expression of numbers that is written twice is one value with two gradients
                number_grads[at] = number_grads[at] + grad if at in number_grads else grad
    program = Program(
        xs=xs,
        states=states,
        numbers=numbers,
        nodes=tuple(tracer.nodes),
        outputs=outputs,
        grads=tuple(None if g is None else tracer.ref(g) for g in grads[: len(inputs)]),
        number_grads=tuple((at, tracer.ref(g)) for at, g in number_grads.items()),
        depends=tuple(_depends(tracer, o, leaves) for o in out),
    )
    return program, tracer


def _depends(tracer: _Tracer, out: Tensor, leaves: list[Tensor]) -> tuple[int, ...]:
    """The values of ``leaves`` that autograd comes to from an output."""
    known = {leaf.grad_fn: leaf for leaf in leaves if leaf.grad_fn is not None}
    found, seen, todo = set(), set(), [out.grad_fn]
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        leaf = known.get(step, getattr(step, "variable", None))
        if leaf is None:
            todo += [before for before, _ in step.next_functions]
        else:
            found.add(tracer.ref(leaf))
    return tuple(sorted(ref for ref in found if isinstance(ref, int)))


def _lifted(world: World) -> Tensor:
    # Cloned, so that it is no leaf: autograd would stop an in-place write before the tracer can refuse it by name.
    return torch.full(world.shape, 0.5, dtype=world.state).requires_grad_().clone()


def _number(world: World) -> Tensor:
    return _lifted(world) if world.number is None else torch.full((), 0.5, dtype=world.number)


def _compare(neuron: Any, one: tuple[Program, _Tracer], other: tuple[Program, _Tracer]) -> None:
    """Refuses a neuron that is another program in another world. Constants that are equal in float32 count as equal."""
    names: dict[Any, int] = {}
    learnable = other[1].world.number is None  # else numbers have no gradient, and what remains has another order
    (same, known), (found, named) = (_formed(p, names, learnable) for p, _ in (one, other))
    if same == found:
        return
    new = [node for node, name in named.items() if name not in known.values()]
    where = other[1].line_of(new[0]) if new else ""
    raise RefusedError(
        f"{type(neuron).__name__}.dynamics computes something else {_told_apart(one[1].world, other[1].world)}{where}"
    )


def _formed(program: Program, names: dict[Any, int], gradients: bool) -> tuple[list[Any], dict[int, int]]:
    """The results of a program and the names of its nodes; equal expressions have equal names in all programs."""
    named: dict[int, int] = {}

    def name(ref: Ref | None) -> Any:
        return _rounded(ref.value) if isinstance(ref, Const) else ref if ref is None else named.get(ref, ref)

    for node in program.nodes:
        named[node.id] = -1 - names.setdefault((node.op, *map(name, node.args)), len(names))
    found = [*map(name, program.outputs)]
    if gradients:
        found += map(name, program.grads)
        found.append({name(i): name(g) for i, g in program.number_grads})
    return found, named


def _told_apart(one: World, other: World) -> str:
    if one.state != other.state:
        return f"for {other.state} than for {one.state}"
    return "without gradients than with them" if not other.grad else "with numbers that are floats"


def _rounded(value: float) -> bytes:
    try:
        return struct.pack("f", value)
    except OverflowError:
        return repr(value).encode()


def _run(bound: Any, inputs: list[Tensor]) -> tuple[Any, ...]:
    try:
        out = bound.dynamics(*inputs)
    except RefusedError:
        raise
    except Exception as error:  # the user's code may raise anything on 1-D input; eager decides what to make of it
        running = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        what = f"{type(error).__name__}: {error}{line_of(bound, running[::-1])}"
        raise RefusedError(f"{type(bound).__name__}.dynamics could not be traced: {what}") from error
    return (out,) if isinstance(out, Tensor) else tuple(out)


class _Watch(TorchFunctionMode):
    """A mode that refuses what reads more of a tensor than its values.

    It makes the result of every operation on ``numbers`` alone a leaf, so that its gradient is the direct one.
    """

    def __init__(self, tracer: _Tracer, numbers: list[Tensor] | None = None) -> None:
        super().__init__()
        self._tracer = tracer
        self.learnable = [n for n in numbers or () if n.requires_grad]  # leaves whose gradient is asked for
        self._alone = {id(n): n for n in numbers or ()}  # all that depends on numbers alone, comparisons too

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name.endswith((".to", ".cpu", ".cuda")) and _names_device((*args[1:], *kwargs.values())):
            self._tracer.refuse(f"{name}, which moves a tensor")
        if name.endswith((".detach_", ".requires_grad_")):
            self._tracer.refuse(f"{name}, which changes how a tensor is differentiated; write .detach()")
        out = func(*args, **kwargs)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if tensors and not _is_values(out) and not name.endswith(("__setitem__", *_KNOWN_BY_DTYPE)):
            frame = next((f for f in frames() if not f.f_code.co_filename.startswith(TORCH)), None)
            if frame is None or is_users(frame):
                self._tracer.refuse(f"{name.removesuffix('.__get__')}, and kernels know of a tensor its values only")
        if isinstance(out, Tensor) and tensors and all(id(t) in self._alone for t in tensors):
            if out.requires_grad:
                out = out.detach().requires_grad_()
                self.learnable.append(out)
            self._alone[id(out)] = out
        elif self._tracer.noting and isinstance(out, Tensor) and out.grad_fn is not None:
            self._tracer.remember_line(out.grad_fn)
        return out


@functools.lru_cache(maxsize=1024)
def _name(func: Any) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", func))


def _names_device(values: tuple[Any, ...]) -> bool:
    return any(isinstance(v, (str, torch.device)) for v in values)


def _is_values(out: Any) -> bool:
    return isinstance(out, Tensor) or (isinstance(out, (tuple, list)) and bool(out) and all(map(_is_values, out)))


class _Tracer(TorchDispatchMode, Values):
    def __init__(self, world: World, inputs: list[Tensor], neuron: Any, noting: bool) -> None:
        TorchDispatchMode.__init__(self)
        Values.__init__(self)
        self.world, self.number_dtype = world, world.number
        self.nodes: list[Node] = []
        self._values: dict[int, Ref] = {}
        self._keep: list[Any] = []  # storages are known by address: none may be freed meanwhile
        self._seen: dict[tuple[str, tuple[Ref, ...]], int] = {}
        self._lines: dict[int, str] = {}
        self._neuron, self.noting = neuron, noting
        self._inputs = {t.untyped_storage()._cdata for t in inputs}
        self._next = len(inputs)
        for k, tensor in enumerate(inputs):
            self._set(tensor, k)

    def ref(self, tensor: Tensor) -> Ref:
        """The value that a tensor holds."""
        key = tensor.untyped_storage()._cdata
        if key not in self._values:
            self.refuse("a tensor that dynamics captured from outside; declare it with self.numbers(...)")
        return self._values[key]

    def outputs(self, out: tuple[Any, ...], count: int) -> tuple[Ref, ...]:
        """The values that ``dynamics`` returned: the output and the new states."""
        name, world = type(self._neuron).__name__, self.world
        if len(out) != count or any(not isinstance(o, Tensor) or o.shape != world.shape for o in out):
            raise RefusedError(f"{name}.dynamics returned other shapes or another number of values")
        for k, state in enumerate(out[1:]):
            if state.dtype != world.state:
                raise RefusedError(
                    f"{name}.dynamics returned {state.dtype} as state {k + 1} where x is {world.state}; "
                    "write .to(x) behind it"
                )
        return tuple(self.number(o) for o in out)

    def expected(self, out: Tensor) -> torch.dtype:
        """The dtype in which a kernel computes a result: the state's, or that of numbers on which alone it depends."""
        return self.world.state if out.ndim or self.world.number is None else self.world.number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # what the tracer reads of tensors is its own business
            return self._write_down(func, args, kwargs or {})

    def _write_down(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.removeprefix("aten::")
        in_place = name.endswith("_") and not name.endswith("__")
        name = name.removesuffix("_") if in_place else name
        if name in RULES:
            call = Call(func, name, RULES[name], args, kwargs)
            self.check_arguments(call)
            if in_place and args[0].untyped_storage()._cdata in self._inputs:
                self.refuse(f"{func}, which writes to an input")
            out = func(*args, **kwargs)
            if out.shape not in (self.world.shape, ()):
                self.refuse(f"{func}, which makes a tensor of another shape")
            value = self.value_of(call, out)
            self._check_rounding(call, out, value)
            self._set(out, value)
            return out
        if name in ALIASES and not in_place:
            out = func(*args, **kwargs)
            if out.shape not in (self.world.shape, ()) or out.dtype != args[0].dtype:
                self.refuse(f"{func}, which changes shape or dtype")
            if name in SHAPES and not args[0].ndim and not out.ndim:
                self.refuse(f"{func} on numbers, whose shapes are known in each run only")
            self._set(out, self.ref(args[0]))
            self.follow(args[0], out)
            return out
        with self:
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            self.refuse(str(func))
        return out

    def _check_rounding(self, call: Call, out: Tensor, value: Ref) -> None:
        """Refuses what the loop computes of numbers in the dtype of x, and a program once, in float64.

        Gradients may round otherwise.
        """
        first = self._next - len(self.nodes)
        if self.world.number == self.world.state or value not in self.sources or not isinstance(value, int):
            return
        if self.world.number is None or not out.ndim or value < first or torch._C._current_autograd_node() is not None:
            return
        node = self.nodes[value - first]
        if not OPS[node.op].exact and not (node.op in ("add", "sub") and Const(0.0) in node.args):
            self.refuse(f"{call.func} on numbers in the shape and dtype of x; multiply them by x first")

    def node(self, op: str, *refs: Ref) -> Ref:
        """Adds a node (or finds the equal one) and returns its value."""
        if (op, refs) not in self._seen:
            self._seen[op, refs] = self._next
            self.nodes.append(Node(self._next, op, refs))
            if self.noting:
                self._lines[self._next] = self._where()
            self.is_boolean[self._next] = OPS[op].boolean
            self.depends(self._next, refs)
            self._next += 1
        return self._seen[op, refs]

    def _set(self, tensor: Tensor, value: Ref) -> None:
        self._keep.append(tensor)
        self._values[tensor.untyped_storage()._cdata] = value

    def refuse(self, what: str) -> NoReturn:
        """Raises RefusedError with the line of ``dynamics``."""
        raise RefusedError(f"{type(self._neuron).__name__}.dynamics uses {what}{self._where()}")

    def line_of(self, node: int) -> str:
        """The line that a node comes from, or an empty string."""
        return self._lines.get(node, "")

    def remember_line(self, last: Any) -> None:
        """Notes for the steps of the backward pass of which line they are the derivative."""
        where, todo = self._where(), [last]
        while todo and where:
            step = todo.pop()
            if step is not None and not isinstance(step, torch._C._FunctionBase) and _LINE not in step.metadata:
                step.metadata[_LINE] = where
                todo += [before for before, _ in step.next_functions]

    def _where(self) -> str:
        step: Any = torch._C._current_autograd_node()
        if step is None:
            return line_of(self._neuron, frames())
        backward = [f for f in frames() if is_users(f) and f.f_code.co_name == "backward"]
        return line_of(self._neuron, backward) or str(step.metadata.get(_LINE, ""))


_LINE = "line of dynamics"
