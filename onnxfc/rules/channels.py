"""Operators along the channels of a map, and normalisations over a whole map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.rules.per_window import along_axis, per_window
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, extent_of, positive
from onnxfc.views import Fixed, Map, Source, Window

_AXIS_DEFAULT = {"ArgMax": 0, "ArgMin": 0, "LpNormalization": -1, "TopK": -1}


@rule("LayerNormalization", "RMSNormalization", on=Map, attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(site: Site) -> Outcome:
    """Over the last axes: channels, where the map is channels-last; the whole native window, each place with its scale.

    https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    view = site.views[0]
    assert isinstance(view, Map)
    rank = len(site.shape_in())
    normalised = range(positive(int(site.attrs.get("axis", -1)), rank), rank)
    if set(view.spatial) <= set(normalised):
        return along_axis(site)
    if set(normalised) & set(view.spatial):
        return site.refuse("position-table", "normalises over the places of the native size, each with its own scale")
    return _kept(site, view, normalised)


@rule(*_AXIS_DEFAULT, on=Map, attributes=("axis", "k", "keepdims", "largest", "p", "select_last_index", "sorted"))
def along_channels(site: Site) -> Outcome:
    """Along one channel axis of each place."""
    view = site.views[0]
    assert isinstance(view, Map)
    axis = positive(int(site.attrs.get("axis", _AXIS_DEFAULT[site.op_type])), len(site.shape_in()))
    if axis in view.spatial:
        return site.refuse("along-space", "works along the places of the native size")
    outcome = _kept(site, view, [axis])
    if isinstance(outcome, list) and not site.attrs.get("keepdims", 1) and site.op_type in {"ArgMax", "ArgMin"}:
        spatial = tuple(place - (place > axis) for place in view.spatial)
        return site.maps(view.trace, spatial)
    return outcome


def _kept(site: Site, view: Map, axes: Sequence[int]) -> Outcome:
    if 0 in axes:
        return site.refuse("mixes-batch", "works along the batch")
    if any(not isinstance(other, Fixed) for other in site.views[1:] if other is not None):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    site.keep()
    return site.maps(view.trace, view.spatial)


@rule("InstanceNormalization", "GroupNormalization", on=Map, attributes=("epsilon", "num_groups", "stash_type"))
def whole_map_normalization(site: Site) -> Outcome:
    """Statistics of the whole map: context."""
    view = site.views[0]
    assert isinstance(view, Map)
    if view.spatial != tuple(range(2, len(site.shape_in()))):
        return site.refuse("layout", "normalises over axes that are not the image's")
    if view.trace.windows:
        return site.refuse("pools-then-convolves", "normalises over what a global pool left")
    site.keep()
    return site.maps(view.trace.tainted(site.taint("context")), view.spatial)


@rule("InstanceNormalization", on=Window, attributes=("epsilon",))
def group_normalization(site: Site) -> Outcome:
    """Group normalisation as exporters spell it: Reshape to (N, groups, -1), InstanceNormalization, Reshape back.

    The whole map is normalised, group by group: context.
    """
    view = site.views[0]
    assert isinstance(view, Window)
    source, groups = view.sources[0], view.index.shape[0]
    whole = view.plain and view.in_order and view.index.ndim == 2
    if (
        not whole
        or view.trunk is None
        or not _becomes_map_again(site, source)
        or source.channels % groups
        or set(source.step) != {1}
    ):
        return per_window(site, view)
    grouped = emit.reshape(site.draft, source.tensor, [0, groups, -1])
    normal = site.keep_renamed([grouped, *site.tensors_from(1)])[0]
    shape = site.draft.emit("Shape", [source.tensor])
    tensor = site.draft.emit("Reshape", [normal, shape])
    taint = site.taint("context")
    return [
        replace(
            view,
            sources=(replace(source, tensor=tensor),),
            trace=view.trace.tainted(taint),
            trunk=view.trunk.tainted(taint),
        )
    ]


def _becomes_map_again(site: Site, source: Source) -> bool:
    """Whether the result is given the map's own shape at once: where it is not, it is a vector that is normalised."""
    shape = (source.channels, *source.extent)
    readers = [node for node in site.state.graph.nodes if site.node.output[0] in node.input]
    return all(
        node.op_type == "Reshape"
        and (spec := site.native(node.output[0])).shapes is not None
        and spec.native[1:] == shape
        for node in readers
    )


@rule("Expand", on=Map)
def expand(site: Site) -> Outcome:
    """To the map's own shape it changes nothing; else the places must not be spread."""
    view = site.views[0]
    assert isinstance(view, Map)
    before, after = site.shape_in(), site.shape_out()
    if before == after:
        site.draft.emit("Identity", [view.tensor], site.node.output[0], instead=site.node)
        return site.maps(view.trace, view.spatial)
    if view.trace.windows and set(extent_of(site, view)) == {1} and len(before) == len(after):
        return site.rejoins()
    if len(before) != len(after) or before[0] != after[0] or extent_of(site, view) != _at(after, view):
        return site.refuse("size-locked", "spreads the map to the native size")
    ones = [1 if axis == 0 or axis in view.spatial else length for axis, length in enumerate(after)]
    site.keep([view.tensor, site.draft.constant(np.array(ones, np.int64), "shape")])
    return site.maps(view.trace, view.spatial)


def _at(shape: Sequence[int], view: Map) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in view.spatial)


@rule("Tile", on=Map)
def tile(site: Site) -> Outcome:
    """Copies of channels beside each other. https://onnx.ai/onnx/operators/onnx__Tile.html"""
    view = site.views[0]
    assert isinstance(view, Map)
    amounts = site.constant(1)
    if amounts is None or int(amounts[0]) != 1:
        return site.refuse("mixes-batch", "repeats the images of a batch, or how often is not constant")
    if any(int(amounts[axis]) != 1 for axis in view.spatial):
        if view.trace.windows and set(extent_of(site, view)) == {1}:
            return site.rejoins()
        return site.refuse("size-locked", "puts copies of the map side by side, so that its borders would move inside")
    site.keep()
    return site.maps(view.trace, view.spatial)
