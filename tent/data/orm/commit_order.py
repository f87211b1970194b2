"""In which order to write what depends on each other: a pure topological sort, which knows no models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class Edge(Generic[N]):
    """`node` comes after `needs`; an optional edge may be broken, where a cycle can't be ordered otherwise.

    The label is the caller's, and hashable.
    """

    __slots__ = ("label", "needs", "node", "optional")

    def __init__(self, node: N, needs: N, optional: bool = False, label: object = None) -> None:
        self.node = node
        self.needs = needs
        self.optional = optional
        self.label = label

    def __repr__(self) -> str:
        return f"<Edge {self.node!r} needs {self.needs!r}>"


class CycleError(ValueError):
    """Nodes need each other, and no edge among them is optional. `cycle` has the first node again at its end."""

    def __init__(self, cycle: Sequence[Hashable]) -> None:
        super().__init__(" -> ".join(map(str, cycle)))
        self.cycle = tuple(cycle)


def components(nodes: Iterable[N], edges: Iterable[Edge[N]]) -> list[list[N]]:
    """Return the nodes in groups, each group after those that it needs; nodes in a cycle share a group.

    >>> components("abc", [Edge("a", "b"), Edge("b", "a"), Edge("a", "c")])
    [['c'], ['b', 'a']]
    """
    # Tarjan's algorithm (1972), with a stack of its own in place of recursion.
    nodes = list(nodes)
    needs = _needs(nodes, edges)
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    stack: list[N] = []
    stacked: set[N] = set()
    groups: list[list[N]] = []
    for root in nodes:
        if root in index:
            continue
        walk = [(root, iter(needs[root]))]
        while walk:
            node, rest = walk[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                stacked.add(node)
            for other in rest:
                if other not in index:
                    walk.append((other, iter(needs[other])))
                    break
                if other in stacked:
                    low[node] = min(low[node], index[other])
            else:
                walk.pop()
                if walk:
                    parent = walk[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    group = [stack.pop()]
                    while group[-1] != node:
                        group.append(stack.pop())
                    stacked.difference_update(group)
                    groups.append(group)
    return groups


def levels(nodes: Iterable[N], edges: Iterable[Edge[N]]) -> tuple[list[list[N]], list[Edge[N]]]:
    """Return the nodes in levels, none of which needs another of its level or a later one, and the edges broken.

    Within a level nodes keep their order. Optional edges are broken only where they are part of a cycle, those of one
    label together, the fewest first. Raises `CycleError` for a cycle without an optional edge.

    >>> levels("abc", [Edge("a", "b"), Edge("b", "a", True), Edge("c", "c", True)])
    ([['b', 'c'], ['a']], [<Edge 'b' needs 'a'>, <Edge 'c' needs 'c'>])
    """
    nodes, kept = list(nodes), list(edges)
    broken: list[Edge[N]] = []
    while True:
        ordered = _kahn(nodes, kept)
        if ordered is not None:
            return ordered, broken
        group_of = {node: number for number, group in enumerate(components(nodes, kept)) for node in group}
        inner = [edge for edge in kept if group_of[edge.node] == group_of[edge.needs]]
        breakable: dict[object, list[Edge[N]]] = {}
        for edge in inner:
            if edge.optional:
                breakable.setdefault(edge.label, []).append(edge)
        if not breakable:
            raise CycleError(_cycle(inner))
        whole = Counter(edge.label for edge in kept)
        fewest = min(breakable.values(), key=lambda edges: (len(edges), whole[edges[0].label]))
        broken += fewest
        gone = set(map(id, fewest))
        kept = [edge for edge in kept if id(edge) not in gone]


def _kahn(nodes: Sequence[N], edges: Iterable[Edge[N]]) -> list[list[N]] | None:
    """Return the nodes in levels, or None when there is a cycle."""
    place = {node: number for number, node in enumerate(nodes)}
    waits = dict.fromkeys(nodes, 0)
    frees: dict[N, list[N]] = {}
    for edge in edges:
        waits[edge.node] += 1
        frees.setdefault(edge.needs, []).append(edge.node)
    ordered, level = [], [node for node in nodes if not waits[node]]
    while level:
        ordered.append(level)
        following = []
        for node in level:
            for freed in frees.get(node, ()):
                waits[freed] -= 1
                if not waits[freed]:
                    following.append(freed)
        level = sorted(following, key=place.__getitem__)
    return ordered if sum(map(len, ordered)) == len(nodes) else None


def _needs(nodes: Sequence[N], edges: Iterable[Edge[N]]) -> Mapping[N, list[N]]:
    needs: dict[N, list[N]] = {node: [] for node in nodes}
    for edge in edges:
        needs[edge.node].append(edge.needs)
    return needs


def _cycle(edges: Sequence[Edge[Any]]) -> list[Any]:
    """Return a cycle among edges that are known to have one: from any of their nodes, follow them."""
    needs = {edge.node: edge.needs for edge in edges}
    node = edges[0].node
    path: list[Any] = []
    while node not in path:
        path.append(node)
        node = needs[node]
    return [*path[path.index(node) :], node]
