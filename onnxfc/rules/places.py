"""What is normalised or reduced along the places of a folded map: it looks at the whole image, so it is context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfc.axes import Atom, Groups
from onnxfc.gathered import Gathered
from onnxfc.receptive_field import Field
from onnxfc.rules.sums import in_part, rescaled, scale_of
from onnxfc.site import Outcome, Site
from onnxfc.views import Context, Placed, Share, Trace

_BOUNDED = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}
"""Reductions over places that say the same at every size once they are brought to the native number of places."""


def over_places(site: Site, axes: Sequence[int]) -> Outcome | None:
    """Softmax along places: weights that sum up to 1 over the image, whatever its size.

    None where each window has its own.
    """
    view = site.views[0]
    assert isinstance(view, Placed)
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    sides = {atom.side for atom in atoms if atom.kind == "space"}
    if (
        site.per_window
        or site.op_type in {"LogSoftmax", "LpNormalization"}
        or any(atom.kind == "batch" for atom in atoms)
    ):
        return None
    if len(sides) > 1:
        return None  # rows and columns of what relates places, together
    site.keep()
    shares = frozenset((site.name, atom.place) for atom in atoms if atom.kind == "space")
    made = replace(view, tensor=site.node.output[0], moved_by=None)
    return [_marked(made, site, dict.fromkeys(sides, shares))]


def _marked(view: Placed, site: Site, shares: dict[int, frozenset[Share]]) -> Placed:
    """Tainted, with shares along the places of each side."""

    def marked(trace: Trace, side: int) -> Trace:
        trace = replace(trace, shares=trace.shares | shares.get(side, frozenset()))
        return trace.tainted(site.taint("context"))

    other = view.other and replace(view.other, trace=marked(view.other.trace, 1))
    return replace(view, trace=marked(view.trace, 0), other=other)


def reduce_places(site: Site, axes: Sequence[int]) -> Outcome | None:
    """A figure of the whole image, or of a whole row of what relates places: None where each window has its own."""
    view = site.views[0]
    assert isinstance(view, Placed)
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    if any(atom.kind == "batch" for atom in atoms) or site.op_type not in _BOUNDED:
        return None
    if len({atom.side for atom in atoms if atom.kind == "space"}) > 1:
        return None  # rows and columns of what relates places
    weighted = any(place >= 0 for _, place in view.trace.shares)
    if site.per_window or not (view.other or weighted or site.role == "context"):
        return None
    kept = bool(site.attrs.get("keepdims", 1))
    groups = tuple(() if axis in axes else group for axis, group in enumerate(view.groups) if kept or axis not in axes)
    doubt = in_part(site, [side.trace for side in view.sides], view.tensor, axes)
    if doubt is not None:
        return doubt
    left = _left(site, view, groups)
    if left is None:
        return None
    sides = {atom.side for atom in atoms if atom.kind == "space"}
    places = [atom.place for atom in atoms if atom.kind == "space"]
    if not rescaled(
        site, scale_of(site, view.sides[sides.pop()].trace, view.tensor, axes, places), view.tensor, axes, kept
    ):
        site.keep()
    return [left]


def _left(site: Site, view: Placed, groups: Groups) -> Context | Placed | None:
    """The view of what is left of the axes."""
    name = site.node.output[0]
    atoms = [atom for group in groups for atom in group if atom.kind == "space"]
    taints = Gathered.joined(side.trace.taints for side in view.sides) | {site.taint("context")}
    if not atoms:
        if [atom.kind for atom in groups[0]] != ["batch"]:
            return None
        fields = (Field(),) * site.state.rank
        return Context(name, Trace(fields, taints, pools=frozenset({site.name})))
    sides = {atom.side for atom in atoms}
    if len(sides) != 1 or {atom.place for atom in atoms} != set(range(site.state.rank)):
        return None
    side = view.sides[sides.pop()]
    groups = tuple(tuple(_first_side(atom) for atom in group) for group in groups)
    trace = replace(side.trace, taints=taints)
    made = Placed(name, name, groups, trace, side.like, bounds=view.bounds)
    return replace(made, measured=None, bounds=frozenset()) if made.is_map else made


def _first_side(atom: Atom) -> Atom:
    return replace(atom, side=0)
