"""What the outputs of a second model are to those of the original: maps, cells, lists, or one value of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxfc.checker.growth import FAR, Growth
from onnxfc.claim.claim import Claim, Form, Output
from onnxfc.graph.op_kinds import SAME_VALUES
from onnxfc.rewriter.analysis import Analysis
from onnxfc.shapes.spec import Shape

_REDUCTIONS: dict[str, Form] = {"ReduceMean": "mean", "GlobalAveragePool": "mean", "ReduceMax": "max"}
_REDUCTIONS["GlobalMaxPool"] = "max"
_IDLE = {*SAME_VALUES, "Flatten", "Reshape", "Squeeze"}


@dataclass(frozen=True)
class Forms:
    """The outputs of a second model by their shapes. ``own``: what a rewrite of the original would claim, and
    ``alike``: of the rewrite's tensors those of the second model that have their shapes at all sizes. ``notes`` get
    what a reader should know."""

    growth: Growth
    own: Claim | None
    alike: Mapping[str, Sequence[str]]
    notes: list[str] = field(default_factory=list)

    def of(self, name: str) -> Output:
        """What an output is."""
        want = self.growth.before.get(name)
        axes, _ = self.growth.of(name)
        if not self.growth.takes_more:
            return self._single(name)
        if want is None or not axes:
            return self._whole(name)
        got = self.growth.near[name]
        if listed := self._listed(name):
            return listed
        if len(axes) != len(self.growth.native):
            self.notes.append(f"output {name} is {list(got)}, of which {len(axes)} axis grows: no grid of cells")
            return Output(name, "global")
        if len(got) == len(want) + len(axes) and axes == tuple(range(len(want), len(got))):
            return Output(name, "map" if all(got[axis] == 1 for axis in axes) else "activation", axes)
        if len(got) == len(want) and all(want[axis] == 1 for axis in axes):
            return Output(name, "cells", axes)
        if len(got) == len(want):
            return Output(name, "features", axes)
        self.notes.append(f"output {name} is {list(got)} where the original has {list(want)}: no form of score map")
        return Output(name, "global")

    def _listed(self, name: str) -> Output | None:
        """A list that a rewrite of the original has, each level with a tensor that has its places; None else."""
        own = next((item for item in self.own.outputs if item.name == name), None) if self.own else None
        if own is None or not own.levels:
            return None
        if any(level.tensor not in self.alike for level in own.levels):
            self.notes.append(f"output {name}: no tensor tells how many places a level of the list has")
            return None
        return replace(own, levels=tuple(replace(level, tensor=self.alike[level.tensor][0]) for level in own.levels))

    def _single(self, name: str) -> Output:
        """Of a model that takes the native size only, or whose shapes cannot be told: a map of one cell, or as the
        original's."""
        want, got, dims = self.growth.before.get(name), self.growth.near.get(name), len(self.growth.native)
        if want is not None and got is None and self.growth.declared.get(name) == len(want) + dims:
            got = (*want, *[1] * dims)
        if want is not None and got == (*want, *[1] * dims):
            return Output(name, "map", tuple(range(len(want), len(got))))
        return Output(name, "global")

    def _whole(self, name: str) -> Output:
        """An output that does not grow."""
        form = reduced(self.growth, name)
        if form == "global":
            self.notes.append(
                f"output {name} has one value at every image size: larger images show only that it is that of "
                "repeated native features"
            )
        return Output(name, form)


def reduced(growth: Growth, name: str) -> Form:
    """What an output that does not grow is: reduced over its cells, if its last nodes say so."""
    node = growth.producers.get(name)
    while node is not None and node.op_type in _IDLE:
        node = growth.producers.get(node.input[0])
    if node is None or node.op_type not in _REDUCTIONS:
        return "global"
    axes, _ = growth.of(node.input[0])
    cells = bool(axes) and {growth.near[node.input[0]][axis] for axis in axes} == {1}
    return _REDUCTIONS[node.op_type] if cells else "global"


def as_long_as(found: Analysis, growth: Growth, own: Claim) -> dict[str, list[str]]:
    """For tensors of a rewrite that its claim names those of the other model with the same shapes at several sizes,
    that of its name first."""
    both, renamed = list(_shapes(found, growth)), found.state.builder.renamed
    if not both:
        return {}
    mine, theirs = ([pair[k] for pair in both] for k in (0, 1))
    alike: dict[tuple[Shape | None, ...], list[str]] = {}
    for name in theirs[0]:
        alike.setdefault(_all(theirs, name), []).append(name)
    named = {item.rewritten for item in own.boundaries}
    named |= {level.tensor for output in own.outputs for level in output.levels}
    told = {renamed.get(name, name): _all(mine, name) for name in mine[0]}
    known = {name: told[name] for name in told if name in named}
    return {name: sorted(alike[shapes], key=name.__ne__) for name, shapes in known.items() if shapes in alike}


def _shapes(found: Analysis, growth: Growth) -> Iterator[tuple[Mapping[str, Shape], Mapping[str, Shape]]]:
    """Those of all tensors of a rewrite and of the other model, at several sizes."""
    sizing, axes = found.sizing(), range(1, 1 + len(growth.native))
    for more in ([0 for _ in axes], [FAR * k for k in axes], *([n + 3 * k for k in axes] for n in range(4, 12))):
        own = sizing.shapes([native + n for native, n in zip(growth.native, more, strict=True)])
        other = growth.at(*more)
        if own is not None and other is not None:
            yield own, other


def _all(sizes: Sequence[Mapping[str, Shape]], name: str) -> tuple[Shape | None, ...]:
    return tuple(shapes.get(name) for shapes in sizes)
