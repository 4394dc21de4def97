"""Slice on maps: channels, borders, crops to another map's size, and pieces, which may be a head's or the trunk's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from onnx import TensorProto

from onnxfc.analysis.reference_sizes import CROPPED, images, references
from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, Site, positive
from onnxfc.head.placed_windows import as_piece, pooled_in_part
from onnxfc.layout.axes import is_mixed, lengths, pure
from onnxfc.layout.axis_map import Pixels
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Placed
from onnxfc.rules.joined_strips import axis_of, ends_of, sliced_part
from onnxfc.rules.registry import PLACED, rule

Cuts = dict[int, tuple[int, int, int]]
"""Start, end and step of a Slice by axis."""


@rule("Slice", on=PLACED, attributes=("axes", "ends", "starts"))
def slice_(site: Site) -> Outcome | None:
    """Some of the channels, or a border cut off and every n-th place kept.

    A piece of the native size is a window's, unless it meets a map of its size further on: then it is a crop to that.
    Where the trunk goes on behind a piece, a crop leaves out the same border at every size.

    https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    view, cuts = site.placed_in(), cuts_of(site)
    if view.is_folded:
        return _of_channels(site, view)
    if cuts is None:
        return site.refuse("unknown-axes", "takes bounds that are not constant")
    if view.parts:
        return _joined_piece(site, view, cuts)
    if 0 in cuts and site.shape_in()[0] != site.shape_out()[0]:
        return pooled_in_part(site) if view.is_strip else None
    return _of_map(site, view, cuts)


def _of_map(site: Site, view: Placed, cuts: Cuts) -> Outcome:
    """Places are cut off, or a piece is cut out."""
    along = {axis: cuts[axis] for axis in view.spatial if axis in cuts}
    if any(step < 0 for _, _, step in along.values()):
        return site.refuse("flipped", "turns the map around: a cell would read the other end of the image")
    if site.follows_size(1) or site.follows_size(2):
        return _computed_piece(site, view, cuts)
    if any(site.shape_in()[axis] < end < _OPEN for axis, (_, end, _) in along.items()):
        if site.state.dense:
            return site.refuse("cut-out", "cuts off what is behind a fixed place", LEAVE)
        site.state.aligned = True  # of a head's window it cuts off nothing
    baked = [axis for axis in view.spatial if _is_baked(site, axis, cuts.get(axis))]
    sister = next(_cropped_like(site, view, baked), None) if baked and view.is_map else None
    if sister is not None:
        return _crop_to(site, view, sister, cuts, baked)
    if baked and site.role != "head":
        return _cut_borders(site, view, cuts, baked)
    if baked or any(start < 0 for start, _, _ in along.values()):
        return as_piece(site)
    return _sliced(site, view, cuts, {axis: min(end, 0) or _OPEN for axis, (_, end, _) in cuts.items()})


def _of_channels(site: Site, view: Placed) -> Outcome | None:
    """Some channels of a folded tensor; None where more than channels is cut."""
    before, after = site.shape_in(), site.shape_out()
    touched = [axis for axis, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) > 1]
    if not site.only_first or is_mixed(view.groups) or len(touched) != 1 or not pure(view.groups[touched[0]]):
        return None
    site.keep()
    return site.of_channels(view, touched[0])


def _joined_piece(site: Site, view: Placed, cuts: Cuts) -> Outcome:
    """Channels of strips that were joined, or one of the strips."""
    axis = axis_of(view)
    if axis not in cuts:
        return _of_channels(site, view) or pooled_in_part(site)
    ends = ends_of(site, view)
    start, end, step = cuts[axis]
    bounds = slice(start, end, step).indices(site.shape_in()[axis])
    whole = [(first, last, 1) for first, last in zip([0, *ends], ends, strict=False)]
    if len(cuts) > 1 or bounds not in whole or site.opset < 10:
        return site.refuse("cut-out", "cuts pieces of the native size out of the map")
    return [sliced_part(site, view, whole.index(bounds), site.node.output[0])]


def _crop_to(site: Site, view: Placed, sister: Placed, cuts: Cuts, baked: Sequence[int]) -> Outcome:
    """As much as makes it as large as its sister, whatever that is."""
    ends = {axis: min(end, 0) or _OPEN for axis, (_, end, _) in cuts.items()}
    ends |= {axis: cuts[axis][1] - site.shape_in()[axis] for axis in baked}
    written = {axis: _end_like(site, sister, axis, cuts[axis][0], ends[axis]) for axis in baked}
    tainted = replace(view, trace=view.trace.tainted(site.taint(CROPPED)))
    return _sliced(site, tainted, cuts, ends, written)


def _cut_borders(site: Site, view: Placed, cuts: Cuts, baked: Sequence[int]) -> Outcome:
    """Cut off as much of the border at any size.

    Where the trunk goes on behind it alone, only what is cut off on both sides is a border; else it is a piece. If it
    meets its trunk again, another map of its extent says so.
    """
    for axis in baked:
        (start, end, _), length = cuts[axis], site.shape_in()[axis]
        even = start == length - end and 2 * start < end - start
        if start < 0 or not (even or site.role == "context"):
            return as_piece(site)
    ends = {axis: end - site.shape_in()[axis] if axis in baked else end for axis, (_, end, _) in cuts.items()}
    return _sliced(site, view, cuts, {axis: min(end, 0) or _OPEN for axis, end in ends.items()})


_GOES_ON = "and more than FC layers works on it"


def _computed_piece(site: Site, view: Placed, cuts: Cuts) -> Outcome:
    """Bounds that are computed from the image's size stay so, if the piece begins at one place at every size.

    A part of the map (its first half, say) may be a head's: then it is the part of a window.
    """
    old, new = (site.draft.spec(name).shapes or () for name in (view.tensor, _kept(site)))
    axes = [axis for axis in view.spatial if axis in cuts]
    rest = [[a[axis] - b[axis] * cuts[axis][2] for a, b in zip(old, new, strict=True)] for axis in axes]
    steady = all(max(cut) - min(cut) < cuts[axis][2] for axis, cut in zip(axes, rest, strict=True))
    if not steady and site.role == "head" and not site.state.dense:
        site.state.aligned = True
        site.draft.nodes.pop()
        return as_piece(site)
    start = site.draft.spec(site.tensors()[1])
    begins = start.alike if not site.state.dense else site.constant(1) if site.same_on_grid(1) else None
    if begins is None or begins.min() < 0 or not steady:
        return site.refuse("cut-out", f"cuts out a part that does not grow as the map does, {_GOES_ON}", LEAVE)
    ends = {axis: min(0, end - site.shape_in()[axis] if end >= 0 else end) for axis, (_, end, _) in cuts.items()}
    return site.placed(view, _trace(view, _at_most(site, cuts), ends), view.where)


def _at_most(site: Site, cuts: Cuts) -> Cuts:
    """The cuts with the largest starts at any size that was looked at."""
    starts = np.max(np.stack(site.draft.spec(site.tensors()[1]).values or ()), axis=0)
    most = zip(cuts.items(), starts.tolist(), strict=True)
    return {axis: (int(start), end, step) for (axis, (_, end, step)), start in most}


def _trace(view: Placed, cuts: Cuts, ends: Mapping[int, int]) -> Trace:
    """Of a map without what was cut off; ``ends`` are counted from behind, 0 or more where nothing is."""
    fields = list(view.trace.fields)
    for place, axis in view.where.items():
        if axis in cuts:
            start, _, step = cuts[axis]
            field = fields[place].cut(start, max(0, -ends[axis]))
            fields[place] = replace(field, stride=field.stride * step)
    return replace(view.trace, fields=tuple(fields))


def _kept(site: Site) -> str:
    site.keep()
    return str(site.node.output[0])


def _is_baked(site: Site, axis: int, cut: tuple[int, int, int] | None) -> bool:
    """Whether a cut ends at a fixed place of the native map."""
    return cut is not None and cut[2] > 0 and 0 <= cut[1] < site.shape_in()[axis]


def _cropped_like(site: Site, view: Placed, axes: Sequence[int]) -> Iterator[Placed]:
    """Maps of the same stride that the slice meets, or the image: it is a crop to their size, whatever that is."""

    def strides(trace: Trace) -> list[Pixels]:
        return [trace.fields[place].stride for place, axis in view.where.items() if axis in axes]

    if view.trace.windows:
        return iter(())
    wanted, shape = strides(view.trace), site.shape_out()
    native = ((image, lengths(image.groups)) for image in images(site) if image.spatial == view.spatial)
    whole = (image for image, own in native if all(own[axis] == shape[axis] for axis in axes))
    return (other for other in chain(references(site, view, axes), whole) if strides(other.trace) == wanted)


def _end_like(site: Site, sister: Placed, axis: int, start: int, end: int) -> int | str:
    """Where a crop of a sister's size ends: so many elements behind its start. Before opset 10 counted from the end."""
    if site.opset < 10:
        return end
    size = ops.dims(site.draft, sister.tensor, axis, axis + 1)
    return site.draft.emit("Add", [size, site.draft.constant([start], "start")]) if start else size


_OPEN = 2**31 - 1
"""The end of a Slice that goes on to the border, whatever the size."""


def cuts_of(site: Site) -> Cuts | None:
    """Start, end and step by axis; None where they are not constant."""
    rank = len(site.shape_in())
    if site.opset < 10:
        starts, ends = list(site.attrs["starts"]), list(site.attrs["ends"])
        axes, steps = list(site.attrs.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        given = [site.constant(place) for place in range(1, 5)]
        if any(value is None and site.has_input(place) for place, value in enumerate(given, 1)) or given[0] is None:
            return None
        starts, ends = given[0].tolist(), np.asarray(given[1]).tolist()
        axes = list(range(len(starts))) if given[2] is None else given[2].tolist()
        steps = [1] * len(starts) if given[3] is None else given[3].tolist()
    found = zip(starts, ends, steps, strict=True)
    return {positive(int(axis), rank): cut for axis, cut in zip(axes, found, strict=True)}


def _sliced(
    site: Site, view: Placed, cuts: Cuts, ends: Mapping[int, int], written: Mapping[int, int | str] | None = None
) -> Outcome:
    """The node as it is, or with its ends opened where they were baked at the native size.

    ``ends``: by axis, counted from behind, or open. ``written``: what is to be written instead.
    """
    outcome = site.placed(view, _trace(view, cuts, ends), view.where)
    own = {*view.spatial, 0} if site.free_batch else {*view.spatial}
    spatial: dict[int, int | str] = {axis: end for axis, end in ends.items() if axis in own}
    spatial |= written or {}
    if all(spatial.get(axis, end) == end or end >= _OPEN for axis, (_, end, _) in cuts.items()):
        site.keep()
        return outcome
    opened = [spatial.get(axis, end) for axis, (_, end, _) in cuts.items()]
    if site.opset < 10:
        site.keep(ends=opened)
        return outcome
    inputs = site.tensors()
    inputs[2] = ops.numbers(site.draft, opened)
    kind = site.native(site.node.input[1]).dtype
    if kind != TensorProto.INT64:
        inputs[2] = site.draft.emit("Cast", [inputs[2]], to=kind)
    site.keep(inputs)
    return outcome
