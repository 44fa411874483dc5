"""c/kept: chooses what a backward kernel keeps of a step that it computes again, for the step's transpose.

The transpose needs some values of the step. Each is kept in L1 from the first pass over a segment to the second, or is
computed once more from others that are there. What costs least is a minimum cut: of the values that are needed on one
side, the inputs and states on the other.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection

from ..program import OPS, Node, Program, Ref

INPUT, KEPT = 4, 3
"""The prices of reading an input once more, whose rows may lie so that they have left the cache, and of keeping a value
or a state. They count operations like an addition."""
_SLOW, _DIVISION, _NEVER = 30, 8, 10**6


def kept(program: Program, roots: Collection[Ref | None], multiplied: Callable[[Node], bool]) -> set[int]:
    """The ids of the inputs, states and nodes that the transpose of a step should have to compute ``roots``.

    ``multiplied`` says of which divisions the kernel makes a product.
    """
    own = program.needed(program.outputs)
    ids = {node.id for node in own}
    leaves = range(len(program.xs) + len(program.states))
    values = ids.union(leaves)
    transposed = [node for node in program.needed(tuple(roots)) if node.id not in ids]
    needed = {ref for node in transposed for ref in node.args if ref in values}
    needed |= {ref for ref in roots if ref in values}

    flow = _Flow()
    for ref in needed:
        flow.edge("needed", ("there", ref), _NEVER)
    for k in leaves:
        flow.edge(("there", k), "price", INPUT if k < len(program.xs) else KEPT)
    for node in own:
        boolean, division = OPS[node.op].boolean, node.op == "div" and not multiplied(node)
        price = _SLOW if OPS[node.op].slow else _DIVISION if division else 0 if boolean else 1
        flow.edge(("there", node.id), ("computed", node.id), _NEVER if boolean else KEPT)
        flow.edge(("computed", node.id), "price", price)
        for ref in values.intersection(a for a in node.args if isinstance(a, int)):
            flow.edge(("computed", node.id), ("there", ref), _NEVER)
    paid = flow.reached("needed", "price")
    return {v for v in values if ("there", v) in paid and ("computed", v) not in paid}


class _Flow:
    """A graph with capacities."""

    def __init__(self) -> None:
        self.left: defaultdict[object, dict[object, int]] = defaultdict(dict)

    def edge(self, a: object, b: object, capacity: int) -> None:
        self.left[a][b] = self.left[a].get(b, 0) + capacity
        self.left[b].setdefault(a, 0)

    def reached(self, source: object, sink: object) -> set[object]:
        """The side of the source of a minimum cut: what a maximum flow leaves within reach of it."""
        while True:
            before: dict[object, object] = {source: source}
            queue = deque([source])
            while queue and sink not in before:
                a = queue.popleft()
                for b, capacity in self.left[a].items():
                    if capacity and b not in before:
                        before[b] = a
                        queue.append(b)
            if sink not in before:
                return set(before)
            path = [sink]
            while path[-1] != source:
                path.append(before[path[-1]])
            pairs = list(zip(path[1:], path, strict=False))
            most = min(self.left[a][b] for a, b in pairs)
            for a, b in pairs:
                self.left[a][b] -= most
                self.left[b][a] += most
