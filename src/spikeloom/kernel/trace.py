"""Trace: from a neuron's ``dynamics`` to a Program.

``dynamics`` runs once on small tensors under a dispatch mode that writes down each operation, and so does its
vector-Jacobian product. Values are known by their storage, so views, detach and in-place writes to temporaries need no
rule of their own.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .program import Const, Node, Program, Ref

_SIZE = 7


class RefusedError(Exception):
    """An operation that has no place in a kernel; the message names it and the line of ``dynamics``."""


def trace(neuron: Any, xs: tuple[str, ...] = ("x",)) -> Program:
    """The program of a neuron. Raises RefusedError where ``dynamics`` cannot be expressed."""
    states, numbers = tuple(neuron._rest), tuple(neuron.all_names())
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        lifted = {name: _lifted() for name in numbers}
        inputs = [_lifted() for _ in (*xs, *states)]
        upstream = [torch.full((_SIZE,), 0.5) for _ in range(1 + len(states))]
        tracer = _Tracer([*inputs, *lifted.values(), *upstream], neuron)
        cut = _Cut(list(lifted.values()))
        with tracer, cut:
            out = _run(neuron.bind_to(lifted), inputs)
        if len(out) != 1 + len(states) or any(o.shape != (_SIZE,) for o in out):
            raise RefusedError(f"{type(neuron).__name__}.dynamics returned other shapes or another number of values")
        outputs = tuple(tracer.ref(o) for o in out)
        active = [(o, g) for o, g in zip(out, upstream, strict=True) if o.requires_grad]
        leaves = [*inputs, *cut.numbers]
        grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if active:
            with tracer:
                grads = torch.autograd.grad([o for o, _ in active], leaves, [g for _, g in active], allow_unused=True)
    number_grads: dict[int, Tensor] = {}
    for leaf, grad in zip(cut.numbers, grads[len(inputs) :], strict=True):
        at = tracer.ref(leaf)
        if grad is not None and isinstance(at, int):
            with tracer:  # an expression of numbers that is written twice is one value with two gradients
                number_grads[at] = number_grads[at] + grad if at in number_grads else grad
    input_grads = tuple(None if g is None else tracer.ref(g) for g in grads[: len(inputs)])
    return Program(
        xs=xs,
        states=states,
        numbers=numbers,
        nodes=tuple(tracer.nodes),
        outputs=outputs,
        grads=input_grads,
        number_grads=tuple((at, tracer.ref(g)) for at, g in number_grads.items()),
    )


def _lifted() -> Tensor:
    # Cloned, so that it is no leaf: autograd would stop an in-place write before the tracer can refuse it by name.
    return torch.full((_SIZE,), 0.5).requires_grad_().clone()


def _run(bound: Any, inputs: list[Tensor]) -> tuple[Any, ...]:
    try:
        out = bound.dynamics(*inputs)
    except RefusedError:
        raise
    except Exception as error:  # the user's code may raise anything on 1-D input; eager decides what to make of it
        where = _line(bound, traceback.extract_tb(error.__traceback__))
        name = type(bound).__name__
        raise RefusedError(f"{name}.dynamics could not be traced: {type(error).__name__}: {error}{where}") from error
    return (out,) if isinstance(out, Tensor) else tuple(out)


def _line(neuron: Any, frames: traceback.StackSummary) -> str:
    """`` at file:line: code`` of the frame that is ``dynamics``."""
    code = type(neuron).dynamics.__code__
    found = [f for f in frames if f.filename == code.co_filename and f.name == code.co_name]
    return f" at {found[-1].filename}:{found[-1].lineno}: {found[-1].line}" if found else ""


class _Cut(TorchFunctionMode):
    """Makes the result of every operation on numbers alone a leaf: its gradient is the direct one."""

    def __init__(self, numbers: list[Tensor]) -> None:
        super().__init__()
        self.numbers = list(numbers)  # leaves whose gradient is asked for
        self._alone = {id(n): n for n in numbers}  # all that depends on numbers alone, comparisons too

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
        if isinstance(out, Tensor) and tensors and all(id(t) in self._alone for t in tensors):
            if out.requires_grad:
                out = out.detach().requires_grad_()
                self.numbers.append(out)
            self._alone[id(out)] = out
        return out


class _Tracer(TorchDispatchMode):
    def __init__(self, inputs: list[Tensor], neuron: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self._values: dict[int, Ref] = {}
        self._keep: list[Any] = []  # storages are known by address: none may be freed meanwhile
        self._seen: dict[tuple[str, tuple[Ref, ...]], int] = {}
        self._neuron = neuron
        self._next = 0
        for tensor in inputs:
            self._set(tensor, self._next)
            self._next += 1

    def ref(self, tensor: Tensor) -> Ref:
        """The value that a tensor holds."""
        key = tensor.untyped_storage()._cdata
        if key not in self._values:
            self.refuse("a tensor that dynamics captured from outside; declare it with self.numbers(...)")
        return self._values[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        in_place = name.endswith("_") and not name.endswith("__")
        name = name.removesuffix("_") if in_place else name
        if name in _RULES:
            out = func(*args, **kwargs)
            if in_place and self.ref(args[0]) in range(self._inputs()):
                self.refuse(f"{func}, which writes to an input")
            value = _RULES[name](self, func, args, kwargs)
            self._set(out, value)
            return out
        if name in _ALIASES:
            out = func(*args, **kwargs)
            if out.shape not in ((_SIZE,), ()):
                self.refuse(f"{func}, which changes the shape")
            self._set(out, self.ref(args[0]))
            return out
        with self:
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            self.refuse(str(func))
        return out

    def emit(self, op: str, *args: Any) -> Ref:
        """Adds a node (or finds the equal one) and returns its value."""
        refs = tuple(self.ref(a) if isinstance(a, Tensor) else a.id if _is_id(a) else Const(float(a)) for a in args)
        if op == "mul" and Const(1.0) in refs:
            return refs[0] if refs[1] == Const(1.0) else refs[1]
        constants = [r.value for r in refs if isinstance(r, Const)]
        if len(constants) == len(refs) and op in _FOLD:
            return Const(_FOLD[op](*constants))
        if (op, refs) not in self._seen:
            self._seen[op, refs] = self._next
            self.nodes.append(Node(self._next, op, refs))
            self._next += 1
        return self._seen[op, refs]

    def _inputs(self) -> int:
        return self._next - len(self.nodes)

    def _set(self, tensor: Tensor, value: Ref) -> None:
        self._keep.append(tensor)
        self._values[tensor.untyped_storage()._cdata] = value

    def refuse(self, what: str) -> NoReturn:
        """Raises RefusedError with the line of ``dynamics``."""
        where = _line(self._neuron, traceback.extract_stack())
        raise RefusedError(f"{type(self._neuron).__name__}.dynamics uses {what}{where}")


class _Id:
    def __init__(self, id: Ref) -> None:  # noqa: A002  # a value's id
        self.id = id


def _is_id(a: Any) -> bool:
    return isinstance(a, _Id)


_ALIASES = frozenset(["detach", "alias", "view", "_unsafe_view", "expand", "reshape", "clone", "contiguous"])
_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
}

Rule = Callable[[_Tracer, Any, Any, Any], Ref]


def _plain(op: str) -> Rule:
    return lambda t, func, args, kwargs: t.emit(op, *args)


def _scaled(op: str) -> Rule:
    """add and sub have a factor alpha for their second operand."""

    def rule(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
        alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        second: Any = args[1] if alpha == 1 else _Id(t.emit("mul", args[1], alpha))
        return t.emit(op, args[0], second)

    return rule


def _rsub(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    first: Any = args[0] if alpha == 1 else _Id(t.emit("mul", args[0], alpha))
    return t.emit("sub", args[1], first)


def _pow(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    if isinstance(args[1], Tensor) or args[1] not in (0.5, 1, 2):
        t.refuse(f"{func} with exponent {args[1]}")
    if args[1] == 2:
        return t.emit("mul", args[0], args[0])
    return t.emit("sqrt", args[0]) if args[1] == 0.5 else t.ref(args[0])


def _to_copy(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    source, dtype = args[0].dtype, kwargs.get("dtype") or args[0].dtype
    if source == dtype:
        return t.ref(args[0])
    if source == torch.bool and dtype == torch.float32:
        return t.emit("to_float", args[0])
    if source == torch.float32 and dtype == torch.bool:
        return t.emit("ne", args[0], 0.0)
    return t.refuse(f"a conversion from {source} to {dtype}")


def _filled(value: float) -> Rule:
    return lambda t, func, args, kwargs: Const(value)


def _full(position: int) -> Rule:
    return lambda t, func, args, kwargs: Const(float(args[position]))


def _clamp(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    value: Any = args[0]
    if low is not None:
        value = _Id(t.emit("maximum", value, low))
    if high is not None:
        value = _Id(t.emit("minimum", value, high))
    return value.id if _is_id(value) else t.ref(value)


def _threshold_backward(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    grad, x, threshold = args
    return t.emit("where", _Id(t.emit("le", x, threshold)), 0.0, grad)


def _tanh_backward(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    grad, y = args
    return t.emit("mul", grad, _Id(t.emit("sub", 1.0, _Id(t.emit("mul", y, y)))))


def _sigmoid_backward(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    grad, y = args
    inner = _Id(t.emit("mul", _Id(t.emit("sub", 1.0, y)), y))
    return t.emit("mul", grad, inner)


def _masked_fill(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    x, mask, value = args
    return t.emit("where", mask, value, x)


def _literal(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    if args[0].ndim > 0:
        t.refuse("a tensor literal with dimensions; declare it with self.numbers(...)")
    return Const(float(args[0]))


def _copy(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    return t.ref(args[1])


def _div(t: _Tracer, func: Any, args: Any, kwargs: Any) -> Ref:
    if kwargs.get("rounding_mode") is not None:
        t.refuse(f"{func} with rounding_mode={kwargs['rounding_mode']!r}")
    return t.emit("div", *args)


_SAME = """
    mul neg reciprocal abs sqrt exp expm1 log log1p tanh sigmoid sin cos atan erf erfc floor ceil round sign relu
    maximum minimum ge gt le lt eq ne logical_and logical_or logical_not where
"""
_RULES: dict[str, Rule] = {
    **{op: _plain(op) for op in _SAME.split()},
    "div": _div,
    "true_divide": _plain("div"),
    "bitwise_and": _plain("logical_and"),
    "bitwise_or": _plain("logical_or"),
    "bitwise_not": _plain("logical_not"),
    "sgn": _plain("sign"),
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": _rsub,
    "pow": _pow,
    "square": lambda t, func, args, kwargs: t.emit("mul", args[0], args[0]),
    "_to_copy": _to_copy,
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "new_zeros": _filled(0.0),
    "new_ones": _filled(1.0),
    "zero": _filled(0.0),
    "full_like": _full(1),
    "fill": _full(1),
    "new_full": _full(2),
    "scalar_tensor": _full(0),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "threshold_backward": _threshold_backward,
    "tanh_backward": _tanh_backward,
    "sigmoid_backward": _sigmoid_backward,
    "masked_fill": _masked_fill,
    "copy": _copy,
    "lift_fresh": _literal,
    "lift_fresh_copy": _literal,
}
