"""What the calls of model-local functions come to, before anybody puts a function's nodes in place of its calls.

A few functions that each call the one before twice are millions of nodes, in a file of some kilobytes; one that calls
itself has no end. https://onnx.ai/onnx/repo-docs/IR.html#functions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

import onnx

from onnxfc.graph.index import canonical_domain, subgraphs

_Key: TypeAlias = tuple[str, str, str]
_FREE, _TIMES = 10_000, 100
"""Nodes that any file may come to, and times those that it has: where layers share a function that calls others, they
are many more than the file has."""


def calls_problem(model: onnx.ModelProto) -> str | None:
    """What keeps functions from being inlined: they call each other in a circle, or come to more nodes than a file of
    this size is good for. None where nothing does."""
    if not model.functions:
        return None
    bodies = {_key(item.domain, item.name, item.overload): list(_within(item.node)) for item in model.functions}
    needs = {key: {called for node in body if (called := _called(node)) in bodies} for key, body in bodies.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        return f"functions call each other in a circle: {circle([key[1] for key in reversed(error.args[1])])}"
    main = list(_within(model.graph.node))
    own = len(main) + sum(map(len, bodies.values()))
    most = _FREE + _TIMES * own
    sizes: dict[_Key, int] = {}
    for key in order:
        sizes[key] = min(most + 1, sum(sizes.get(_called(node), 1) for node in bodies[key]))
    if sum(sizes.get(_called(node), 1) for node in main) <= most:
        return None
    return f"its {own:,} nodes come to more than {most:,} once the calls of its {len(bodies)} functions are inlined"


def _within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes, and those of their subgraphs."""
    pending = [nodes]
    while pending:  # not recursive: subgraphs may be nested deeper than Python's stack
        for node in pending.pop():
            yield node
            pending += [graph.node for graph in subgraphs(node)]


def _called(node: onnx.NodeProto) -> _Key:
    return _key(node.domain, node.op_type, node.overload)


def _key(domain: str, name: str, overload: str) -> _Key:
    return canonical_domain(domain), name, overload


def circle(names: list[str]) -> str:
    """A way that ends where it begins, in a line."""
    more = f" and {len(names) - 5} more" if len(names) > 6 else ""
    return f"{' → '.join(names[:5] if more else names)}{more}"
