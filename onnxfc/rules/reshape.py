"""Reshape, Flatten, Squeeze, Unsqueeze on maps and folded maps.

What leaves the spatial axes whole stays a map. What does not is a folded map, or a window whose index moves as the data
would.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import target, trace_of
from onnxfc.builder.rule_context import Outcome, Site, axes_of
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.head.windows import moved_to
from onnxfc.layout.axes import Group, Groups, axis_of_places, is_map, may_fold, pure, regroup, survivors
from onnxfc.layout.views import Placed
from onnxfc.rules.channel_shuffle import permuted
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.spec import Shape


@rule("Flatten", "Reshape", on=PLACED, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome | None:
    """Atoms regrouped; None where places become features of a window."""
    view = site.placed_in()
    before, after = site.shape_in(), site.shape_out()
    if view.apart:
        places = survivors(before, after, view.spatial)
        if places is not None and not _unclear(view, before, after):
            return _each_alone(site, view, dict(zip(view.where, places, strict=True)))
        if view.trace.windows or 1 in view.extent:
            return pooled_in_part(site) if view.is_strip else None
    groups = regroup(view.groups, after)
    features = groups is None or (view.apart and not any(pure(group) for group in groups))
    if groups is None or features or not (is_map(groups) or may_fold(groups)):
        return pooled_in_part(site) if view.is_strip else None
    return _regrouped(site, view, groups)


def _unclear(view: Placed, before: Shape, after: Shape) -> bool:
    """Whether it cannot be told which axis of a strip one of native extent 1 becomes."""
    return view.is_strip and before != after and 1 in view.extent


def _each_alone(site: Site, view: Placed, where: Mapping[int, int]) -> Outcome:
    """Keep the node where its target follows the image, else write the target from the tensor's own dims."""
    after = site.shape_out()
    wanted = []
    for shape in site.draft.spec(view.tensor).shapes or ():
        dims = [shape[0], *after[1:]]
        for place, axis in where.items():
            dims[axis] = shape[view.where[place]]
        wanted.append(tuple(dims))
    outcome = site.placed(view, view.trace, where)
    if site.try_keep(wanted):
        return outcome
    shuffle = permuted(site, view)
    if shuffle is not None:
        before, order = shuffle
        inputs = [before.tensor, site.draft.constant(order, "order")]
        site.draft.emit("Gather", inputs, site.node.output[0], instead=site.node, axis=1)
    else:
        wanted_dims = _target(site, view, after, where)
        ops.reshape(site.draft, view.tensor, wanted_dims, site.node.output[0], site.node)
    return outcome


def _target(site: Site, view: Placed, after: Shape, where: Mapping[int, int]) -> list[int | str]:
    """Numbers for channels, 0 for dims that stay in their place, computed dims and one -1 for those that move."""
    found: list[int | str] = [0, *after[1:]]
    moved = []
    for place, axis in where.items():
        found[axis] = 0
        if view.where[place] != axis:
            moved.append((view.where[place], axis))
    for before, axis in moved[:-1]:
        found[axis] = ops.dims(site.draft, view.tensor, before, before + 1)
    if moved:
        found[moved[-1][1]] = -1
    return found


def _regrouped(site: Site, view: Placed, groups: Groups) -> Outcome:
    """Write the Reshape from one grouping to another."""
    wanted = _at_probes(site, view, groups)
    if wanted is None or not site.try_keep(wanted):
        ops.reshape(site.draft, view.tensor, target(site.draft, view, groups), site.node.output[0], site.node)
    if is_map(groups):
        return site.placed(view, trace_of(site, view.trace, groups), axis_of_places(groups))
    return [moved_to(site, view, groups)]


def _at_probes(site: Site, view: Placed, groups: Groups) -> list[Shape] | None:
    """The shapes at the probes if the places follow the image."""
    sides = [side.like for side in view.sides]
    rows = zip(*(site.draft.spec(like.tensor).shapes or () for like in sides), strict=True)
    return [tuple(_now(group, sides, shapes) for group in groups) for shapes in rows] or None


def _now(group: Group, sides: list[Placed], shapes: tuple[Shape, ...]) -> int:
    """The length of an axis where the sides' maps have these shapes."""
    total = Fraction(1)
    for atom in group:
        if atom.kind == "space":
            total *= atom.factor * shapes[atom.side][sides[atom.side].where[atom.place]]
        else:
            total *= shapes[0][0] if atom.kind == "batch" else atom.length
    return int(total)


@rule("Unsqueeze", on=PLACED, attributes=("axes",))
def unsqueeze(site: Site) -> Outcome:
    """New axes of extent 1. https://onnx.ai/onnx/operators/onnx__Unsqueeze.html"""
    view, rank = site.placed_in(), len(site.shape_out())
    axes = axes_of(site, 1, rank)
    if axes is None:
        return site.refuse("unknown-axes", "takes axes that are not constant")
    if 0 in axes and view.apart:
        return site.refuse("mixes-batch", "puts an axis before the batch")
    groups = list(view.groups)
    for axis in sorted(axes):
        groups.insert(axis, ())
    site.keep()
    return [moved_to(site, view, tuple(groups))]


@rule("Squeeze", on=PLACED, attributes=("axes",))
def squeeze(site: Site) -> Outcome | None:
    """Axes of extent 1 go; None where they are the batch or places of native extent 1, which become the window."""
    view, shape = site.placed_in(), site.shape_in()
    axes = axes_of(site, 1, len(shape))
    if axes is None and not site.has_input(1):
        axes = [axis for axis, length in enumerate(shape) if length == 1]
    if axes is None or any(view.groups[axis] for axis in axes):
        return pooled_in_part(site) if view.is_strip else None
    site.keep()
    groups = tuple(group for axis, group in enumerate(view.groups) if axis not in axes)
    return [moved_to(site, view, groups)]
