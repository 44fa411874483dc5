"""Random equations of mixed types: truth values, whole numbers, literals, casts, numbers of every kind; as the loop."""

import random

import pytest
import torch
from torch import Tensor, nn

import spikeloom as sl
from kernel import operations
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


LEAVES = {
    **{name: lambda e, name=name: e[name] for name in ("x", "v", "w", "a", "b")},
    "literal": lambda e: torch.tensor(0.3),
    "whole literal": lambda e: torch.tensor(2),
    "zeros": lambda e: torch.zeros_like(e["x"]),
    "true": lambda e: torch.ones_like(e["x"], dtype=torch.bool),
    "x > 0.3": lambda e: e["x"] > 0.3,
    "v > 0.3": lambda e: e["v"] > 0.3,
    **{repr(value): lambda e, value=value: value for value in (0.3, 2, True, -1.0, 0.5)},
}
UNARY = {
    "neg": lambda p, x: -p,
    "abs": lambda p, x: abs(p),
    "not": lambda p, x: ~p,
    "logical not": lambda p, x: torch.logical_not(tensor(p)),
    "float": lambda p, x: tensor(p).float(),
    "double": lambda p, x: tensor(p).double(),
    "long": lambda p, x: tensor(p).long(),
    "byte": lambda p, x: tensor(p).byte(),
    "bool": lambda p, x: tensor(p).bool(),
    "to x": lambda p, x: tensor(p).to(x),
    "clamp": lambda p, x: tensor(p).clamp(-1, 1.5),
    "clamp below": lambda p, x: tensor(p).clamp(min=-0.5),
    "relu": lambda p, x: torch.relu(tensor(p)),
    "sign": lambda p, x: torch.sign(tensor(p)),
    "square": lambda p, x: tensor(p) ** 2,
    "floor": lambda p, x: torch.floor(tensor(p)),
    "in place": lambda p, x: (x * 2).mul_(p),
    "copied": lambda p, x: torch.zeros_like(x).copy_(tensor(p)),
    "filled": lambda p, x: tensor(p).masked_fill(x > 0, 0.5),
}
BINARY = {
    "add": lambda p, q: p + q,
    "sub": lambda p, q: p - q,
    "mul": lambda p, q: p * q,
    "div": lambda p, q: p / q,
    "or": lambda p, q: p | q,
    "and": lambda p, q: p & q,
    "xor": lambda p, q: p ^ q,
    "logical or": lambda p, q: torch.logical_or(tensor(p), tensor(q)),
    "maximum": lambda p, q: torch.maximum(tensor(p), tensor(q)),
    "minimum": lambda p, q: torch.minimum(tensor(p), tensor(q)),
    "greater": lambda p, q: tensor(p) > q,
    "at least": lambda p, q: tensor(p) >= q,
    "equal": lambda p, q: tensor(p) == q,
}
NUMBERS = {
    "float": lambda v: v,
    "learnable": lambda v: nn.Parameter(torch.tensor(v)),
    "feature": lambda v: nn.Parameter(torch.linspace(v - 1, v + 1, operations.F)),
}


def tensor(value):
    return value if isinstance(value, Tensor) else torch.tensor(value)


def grow(r, depth):
    if depth == 0 or r.random() < 0.12:
        return r.choice([*LEAVES, "x", "a", "b"])
    kind = r.random()
    if kind < 0.45:
        return (r.choice([*BINARY]), grow(r, depth - 1), grow(r, depth - 1))
    if kind < 0.65:
        return ("where", ("greater", grow(r, depth - 1), grow(r, depth - 1)), grow(r, depth - 1), grow(r, depth - 1))
    return (r.choice([*UNARY]), grow(r, depth - 1))


def evaluate(tree, env):
    if isinstance(tree, str):
        return LEAVES[tree](env)
    op, *args = tree
    args = [evaluate(a, env) for a in args]
    if op == "where":
        return torch.where(*args)
    return UNARY[op](*args, env["x"]) if op in UNARY else BINARY[op](*args)


class Mixed(operations.Equation):
    def __init__(self, seed, depth):
        sl.Neuron.__init__(self)
        r = random.Random(seed)
        tree, use = grow(r, depth), r.choice(["times", "times", "plus", "alone"])
        self.numbers(a=NUMBERS[r.choice([*NUMBERS])](0.7), b=NUMBERS[r.choice([*NUMBERS])](1.6))
        self.states(v=0.0, w=0.0)

        def form(self, x, v, w):
            found = evaluate(tree, {"x": x, "v": v, "w": w, "a": self.a, "b": self.b})
            return {"times": lambda: x * found, "plus": lambda: x + found, "alone": lambda: found}[use]()

        self.__dict__["form"] = form


def agree(seeds, depth, computed):
    tried = operations.Tried(at_once=200)
    for seed in seeds:
        tried.add_neuron("", str(seed), Mixed(seed, depth))
    tried.compare()
    assert not tried.wrong
    assert tried.count["computed"] >= computed * len(seeds)


def test_random_equations_of_mixed_types():
    agree(range(200), 3, computed=0.2)


@pytest.mark.full
@pytest.mark.parametrize("part", range(10))
def test_many_random_equations_of_mixed_types(part):
    agree(range(1000 * part + 1000, 1000 * part + 1500), 3 + part % 2, computed=0.1)
