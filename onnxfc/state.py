"""What a walk knows, and what it has found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxfc.draft import Draft
from onnxfc.errors import Refusal
from onnxfc.graph import Graph
from onnxfc.specs import Shape, Spec
from onnxfc.views import View

GlobalPool = Literal["window", "keep", "drop"]
Role = Literal["head", "context", "local"]
"""What a pool over the whole native window is: the head's beginning; context, as it meets its trunk again; or a pool of
the trunk like any other, as something slides over what it left."""


@dataclass(frozen=True)
class Replacement:
    """One replaced piece of the head: node, what it was, what it is."""

    node: str
    before: str
    after: str


@dataclass
class State:
    """All that a walk knows; rules read it through their Site only.

    ``single``: the batch is 1 and stays so. ``rank``: how many spatial axes images have; ``image_shapes``: the image
    at every probe. ``reached``: how many nodes it visited before the first refusal. ``blocked``: the pools from which
    something descends that was refused. ``conditions`` of Ifs that were refused, but are the same at every size.
    ``because``: by node, why what it makes of a head's windows cannot be context.
    ``frozen``: nodes that keep what was computed for the native size. ``pieces``: nodes that cut a head's part out of
    a map. ``dense``: no head follows, so that borders may be what the graph makes of them at any size. ``aligned``:
    whether something was read as a head's windows want it.
    ``open``: the original takes any size already, so that a kernel is as large as it says.
    ``guessed``: pools that are taken for context on trial, as others of their kind were blocked.
    ``covering``: pools whose one window covers one of the native map's axes: what they are was not decided yet.
    """

    graph: Graph
    draft: Draft
    native: Mapping[str, Spec]
    global_pool: GlobalPool
    roles: Mapping[str, Role]
    single: bool
    rank: int
    image_shapes: tuple[Shape, ...]
    views: dict[str, View] = field(default_factory=dict)
    found: dict[str, Role] = field(default_factory=dict)
    replacements: list[Replacement] = field(default_factory=list)
    notes: list[Refusal] = field(default_factory=list)
    not_affine: list[Refusal] = field(default_factory=list)
    undecided: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    conditions: dict[str, bool] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    frozen: list[str] = field(default_factory=list)
    dense: bool = False
    open: bool = False
    guessed: frozenset[str] = frozenset()
    aligned: bool = False
    pieces: set[str] = field(default_factory=set)
    covering: set[str] = field(default_factory=set)
    because: dict[str, Refusal] = field(default_factory=dict)
    reached: int = 0
    refused: bool = False
