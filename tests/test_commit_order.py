"""The topological sort under every flush, on graphs that hypothesis makes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tent.data.orm.commit_order import CycleError, Edge, components, levels

Graph = tuple[list[int], list[Edge[int]]]


@st.composite
def graphs(draw: st.DrawFn, optional: st.SearchStrategy[bool] = st.booleans()) -> Graph:  # noqa: B008
    nodes = draw(st.permutations(range(draw(st.integers(1, 8)))))
    node = st.sampled_from(nodes)
    return list(nodes), draw(st.lists(st.builds(Edge, node, node, optional), max_size=20))


def reachable(start: int, edges: list[Edge[int]]) -> set[int]:
    """The nodes that a node needs, directly or not."""
    found: set[int] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for edge in edges:
            if edge.node == node and edge.needs not in found:
                found.add(edge.needs)
                waiting.append(edge.needs)
    return found


def in_a_cycle(edge: Edge[int], edges: list[Edge[int]]) -> bool:
    return edge.node == edge.needs or edge.node in reachable(edge.needs, edges)


def has_a_firm_cycle(edges: list[Edge[int]]) -> bool:
    firm = [edge for edge in edges if not edge.optional]
    return any(in_a_cycle(edge, firm) for edge in firm)


# Levels


@settings(deadline=None)
@given(graphs())
def test_each_node_is_in_a_level_after_those_that_it_needs_but_for_the_broken_edges(graph: Graph) -> None:
    nodes, edges = graph
    if has_a_firm_cycle(edges):
        with pytest.raises(CycleError):
            levels(nodes, edges)
        return
    ordered, broken = levels(nodes, edges)
    level_of = {node: number for number, level in enumerate(ordered) for node in level}
    gone = set(map(id, broken))
    assert sorted(node for level in ordered for node in level) == sorted(nodes)
    assert all(level_of[edge.needs] < level_of[edge.node] for edge in edges if id(edge) not in gone)


@settings(deadline=None)
@given(graphs())
def test_broken_edges_are_optional_and_part_of_a_cycle(graph: Graph) -> None:
    nodes, edges = graph
    if has_a_firm_cycle(edges):
        return
    _, broken = levels(nodes, edges)
    assert all(edge.optional and in_a_cycle(edge, edges) for edge in broken)
    assert len(set(map(id, broken))) == len(broken)
    assert {id(edge) for edge in broken} <= set(map(id, edges))


@settings(deadline=None)
@given(graphs())
def test_the_cycle_of_an_error_is_one_of_edges_that_are_not_optional(graph: Graph) -> None:
    nodes, edges = graph
    if not has_a_firm_cycle(edges):
        return
    with pytest.raises(CycleError) as caught:
        levels(nodes, edges)
    cycle = caught.value.cycle
    firm = {(edge.node, edge.needs) for edge in edges if not edge.optional}
    assert len(cycle) > 1 and cycle[0] == cycle[-1]
    assert set(itertools.pairwise(cycle)) <= firm
    assert str(caught.value) == " -> ".join(map(str, cycle))


@settings(deadline=None)
@given(graphs())
def test_nodes_of_a_level_keep_the_order_that_they_were_given_in(graph: Graph) -> None:
    nodes, edges = graph
    if has_a_firm_cycle(edges):
        return
    ordered, _ = levels(nodes, edges)
    assert all(level == sorted(level, key=nodes.index) for level in ordered)


@settings(deadline=None)
@given(graphs())
def test_there_are_no_more_levels_than_needed(graph: Graph) -> None:
    nodes, edges = graph
    if has_a_firm_cycle(edges):
        return
    ordered, broken = levels(nodes, edges)
    gone = set(map(id, broken))
    kept = [edge for edge in edges if id(edge) not in gone]
    level_of = {node: number for number, level in enumerate(ordered) for node in level}
    for node in nodes:
        needed = [level_of[edge.needs] for edge in kept if edge.node == node]
        assert level_of[node] == max(needed, default=-1) + 1


def test_a_graph_without_edges_is_one_level() -> None:
    assert levels("cab", []) == ([["c", "a", "b"]], [])


def test_nothing_has_no_levels() -> None:
    assert levels([], []) == ([], [])


def test_an_optional_edge_outside_a_cycle_is_kept() -> None:
    assert levels("ab", [Edge("a", "b", True)]) == ([["b"], ["a"]], [])


def test_a_cycle_is_broken_at_its_optional_edge() -> None:
    edges = [Edge("a", "b"), Edge("b", "c"), Edge("c", "a", True)]
    assert levels("abc", edges) == ([["c"], ["b"], ["a"]], [edges[2]])


def test_a_node_that_needs_itself_firmly_is_a_cycle() -> None:
    with pytest.raises(CycleError) as caught:
        levels("a", [Edge("a", "a")])
    assert caught.value.cycle == ("a", "a")


def test_a_long_chain_is_ordered_without_recursion() -> None:
    count = 20_000
    ordered, _ = levels(range(count), [Edge(node, node + 1) for node in range(count - 1)])
    assert ordered == [[node] for node in reversed(range(count))]


# Components


@settings(deadline=None)
@given(graphs())
def test_nodes_share_a_component_when_each_needs_the_other(graph: Graph) -> None:
    nodes, edges = graph
    groups = components(nodes, edges)
    group_of = {node: number for number, group in enumerate(groups) for node in group}
    assert sorted(node for group in groups for node in group) == sorted(nodes)
    needs = {node: reachable(node, edges) for node in nodes}
    for one in nodes:
        for two in nodes:
            together = one == two or (two in needs[one] and one in needs[two])
            assert (group_of[one] == group_of[two]) == together


@settings(deadline=None)
@given(graphs())
def test_a_component_comes_after_those_that_it_needs(graph: Graph) -> None:
    nodes, edges = graph
    group_of = {node: number for number, group in enumerate(components(nodes, edges)) for node in group}
    assert all(group_of[edge.needs] <= group_of[edge.node] for edge in edges)


def test_a_long_cycle_is_one_component_without_recursion() -> None:
    count = 20_000
    groups = components(range(count), [Edge(node, (node + 1) % count) for node in range(count)])
    assert [sorted(group) for group in groups] == [list(range(count))]
