"""Pickles of plain arrays, read opcode by opcode. Nothing is imported, called or given a state: an array is made of
numbers that were checked, and a dtype of a letter and a size, so that no pickle can forge one.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_NAMES = {
    f"{module}.{name}": name
    for modules, name in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct"),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar"),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
        (("numpy",), "ndarray"),
        (("numpy",), "dtype"),
        (("_codecs",), "encode"),  # Python 3 writes bytes for Python 2 in this way
        (("__builtin__", "builtins"), "bytes"),  # and in this way if they are empty
    )
    for module in modules
}
_PUSHED = {  # opcodes that push the value that stands in the pickle itself
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PLAIN = re.compile(r"[<>|=]?(?:\?|b1|[iuf][1248]|f16|c8|c16|[SU][1-9]\d{0,6})")
_DEPTH = 32  # levels: a pickle that nests containers deeper raises
_SHARED = 64  # a pickle that names things so often that it would hold more than this times its size raises


def unpickle_arrays(raw: bytes, where: str) -> Any:
    """The content of a pickle of arrays of plain dtypes, containers, strings and numbers. Anything else raises, and
    nothing of the pickle runs. An array of objects may hold the same kinds."""
    try:
        return _Result(_SHARED * len(raw) + 4096).plain(_Machine().run(raw))
    except DataError as refused:
        raise DataError(f"{where}: {refused}; it was not loaded") from None
    except Exception as broken:  # a damaged pickle can raise anything
        raise DataError(f"{where}: not a pickle of plain arrays ({broken})") from broken


@dataclass(frozen=True)
class _Global:
    """What a pickle asks for by name."""

    name: str


@dataclass(eq=False)
class _Dtype:
    """A dtype that a pickle asks for."""

    spec: Any
    state: Any = None


@dataclass(eq=False)
class _Array:
    """An array that a pickle asks for: shape, dtype, order and bytes, not yet checked."""

    state: Any = None
    scalar: bool = False


class _Machine:
    """The stack, the marks and the memo of a pickle while it is read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, raw: bytes) -> Any:
        """The value on top of the stack when the pickle stops."""
        for opcode, argument, _ in pickletools.genops(raw):
            name = opcode.name
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name == "STOP":
                break
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise DataError(f"holds the opcode {name}, which no plain array needs")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Takes all items above the last mark off the stack."""
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Appends items to the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise DataError("appends to what is no list")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        """Puts keys and values into the dictionary on the stack."""
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise DataError("sets items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int):  # hashing other kinds may never end
                raise DataError(f"a dictionary has a {type(key).__name__} for a key")
            self.stack[-1][key] = value

    def last(self, n: int) -> list[Any]:
        """Takes the last ``n`` items off the stack."""
        if len(self.stack) < n:
            raise IndexError("its stack is empty")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def mapping(self) -> None:
        """Pushes a dictionary of the items above the last mark."""
        items = self.marked()
        self.stack.append({})
        self.fill(items)

    def ask(self, module: Any, name: Any) -> None:
        """Pushes what the pickle asks for by name; a name that no plain array needs raises."""
        if f"{module}.{name}" not in _NAMES:
            raise DataError(f"asks for {module}.{name}, which is no plain array")
        self.stack.append(_Global(_NAMES[f"{module}.{name}"]))

    def reduce(self) -> None:
        """Notes what the pickle wants to call, without calling it."""
        what, arguments = self.last(2)
        if type(what) is not _Global or type(arguments) is not tuple or what.name not in _MADE:
            raise DataError("calls something that makes no array")
        self.stack.append(_MADE[what.name](*arguments))

    def build(self) -> None:
        """Keeps the state of a dtype or an array, to be checked at the end."""
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_Dtype, _Array):
            raise DataError("sets the state of what is no array")
        self.stack[-1].state = state


def _encoded(text: Any, codec: Any = "") -> bytes:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise DataError(f"encodes a {type(text).__name__} as {codec!r}")
    return text.encode("latin1")


_MADE: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda *_: _Array(),
    "dtype": lambda spec, *_: _Dtype(spec),
    "encode": _encoded,
    "bytes": lambda: b"",
    "scalar": lambda dtype, content: _Array((1, (), dtype, False, content), scalar=True),
    "_frombuffer": lambda content, dtype, shape, order, *_: _Array((1, shape, dtype, order == "F", content)),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "DICT": lambda m, _: m.mapping(),
    "SETITEM": lambda m, _: m.fill(m.last(2)),
    "SETITEMS": lambda m, _: m.fill(m.marked()),
    "PUT": lambda m, at: m.memo.__setitem__(at, m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GET": lambda m, at: m.stack.append(m.memo[at]),
    "GLOBAL": lambda m, names: m.ask(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.ask(*m.last(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
_STEPS |= {f"{size}{name}": _STEPS[name] for name in ("PUT", "GET") for size in ("BIN", "LONG_BIN")}


class _Result:
    """Turns what a pickle leaves into objects of Python and NumPy.

    Args:
        room: the bytes that the result may hold, where a thing that is named several times counts each time.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._made: dict[int, Any] = {}

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The value with real arrays in place of those that were asked for."""
        kind = type(value)
        self._take(1 + (len(value) if kind in (str, bytes, bytearray) else 0))
        if kind in (list, tuple, dict) and depth == _DEPTH:
            raise DataError(f"nests containers more than {_DEPTH} deep")
        if kind in (list, tuple):
            return kind(self.plain(item, depth + 1) for item in value)
        if kind is dict:
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if kind is _Array:
            if id(value) not in self._made:
                self._made[id(value)] = self._array(value, depth)
            self._take(self._made[id(value)].nbytes)
            return self._made[id(value)]
        if value is not None and kind not in (bool, int, float, str, bytes, bytearray):
            raise DataError(f"holds a {kind.__name__.strip('_')}, which is no array, container, string or number")
        return value

    def _take(self, n: int) -> None:
        self._room -= n
        if self._room < 0:
            raise DataError("names what it holds so often that it would take far more than its size")

    def _array(self, asked: _Array, depth: int) -> Any:
        if type(asked.state) is not tuple or len(asked.state) != 5:
            raise DataError("an array without shape, dtype and content")
        _, shape, dtype, fortran, content = asked.state
        if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
            raise DataError(f"an array of shape {shape!r:.60}")
        made, count = _dtype(dtype), 1
        for n in shape:
            count *= n
        if made.hasobject:
            if type(content) is not list or len(content) != count:
                raise DataError(f"an array of {count:,} objects that are not there")
            objects = np.empty(count, object)
            for k, item in enumerate(content):
                objects[k] = self.plain(item, depth + 1)
            return objects.reshape(shape)
        content = content.encode("latin1") if type(content) is str else content
        if type(content) not in (bytes, bytearray) or count * made.itemsize != len(content):
            have = len(content) if isinstance(content, (bytes, bytearray)) else 0
            raise DataError(
                f"an array {list(shape)} of {made} takes {count * made.itemsize:,} bytes, {have:,} are there"
            )
        array = of_bytes(content, made, shape, fortran=bool(fortran))
        return array[()] if asked.scalar else array


def of_bytes(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool = False) -> NDArray[Any]:
    """A new array made of exactly the bytes that it takes. Booleans become 0 or 1, whatever their bytes are."""
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy(order="K")
    if dtype.kind == "b":
        array[...] = array.view(np.uint8) != 0
    for name in dtype.names or ():
        if dtype[name].kind == "b":
            array[name] = array[name].view(np.uint8) != 0
    return array


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether values of a dtype are numbers, booleans, strings of a fixed length of at least a byte, or records of
    these."""
    if dtype.names is not None:
        return all(dtype[name].names is None and is_plain(dtype[name]) for name in dtype.names)
    return dtype.kind in "biufcSU" and dtype.itemsize > 0 and dtype.subdtype is None and not dtype.hasobject


def _dtype(asked: Any) -> np.dtype[Any]:
    """A new dtype like the one that a pickle asks for; one that is not plain raises."""
    state = getattr(asked, "state", None)
    if type(asked) is not _Dtype or type(asked.spec) is not str or type(state) is not tuple or len(state) < 6:
        raise DataError("an array without a dtype")
    _, order, within, names, fields, itemsize = state[:6]
    if asked.spec in ("O", "O8") and (within, names, fields) == (None, None, None):
        return np.dtype(object)
    if within is not None or order not in ("<", ">", "|", "="):
        raise DataError(f"a dtype {asked.spec!r:.20} of parts or of an order {order!r:.20}")
    if names is None and fields is None and _PLAIN.fullmatch(asked.spec):
        return np.dtype(asked.spec).newbyteorder(order)
    if type(names) is not tuple or type(fields) is not dict or set(names) != set(fields) or type(itemsize) is not int:
        raise DataError(f"a dtype {asked.spec!r:.20}, which is none of plain numbers or records of them")
    places = [fields[name] for name in names]
    if not all(type(p) is tuple and len(p) == 2 and type(p[1]) is int and p[1] >= 0 for p in places):
        raise DataError("a record of fields without places")
    if any(type(p[0]) is not _Dtype or not p[0].state or p[0].state[3] is not None for p in places):
        raise DataError("a record of other records")
    formats = [_dtype(p[0]) for p in places]
    made = np.dtype({"names": list(names), "formats": formats, "offsets": [p[1] for p in places], "itemsize": itemsize})
    if not is_plain(made) or made.itemsize != itemsize:
        raise DataError(f"a record {made}, which is none of plain numbers")
    return made
