"""Operators along the channels of placed tensors, and normalisations over a whole map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfc.axes import kinds, pure
from onnxfc.rules.per_window import along_axis
from onnxfc.rules.table import PLACED, rule
from onnxfc.site import Outcome, Site
from onnxfc.views import Placed


@rule("LayerNormalization", "RMSNormalization", on=PLACED, attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(site: Site) -> Outcome | None:
    """Over the last axes: channels, where the map is channels-last; the whole native window, each place with its scale.

    https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    view, rank = site.placed_in(), len(site.shape_in())
    normalised = range(site.axis(), rank)
    if view.is_map and set(view.spatial) <= set(normalised):
        return along_axis(site)
    if view.apart and set(normalised) & set(view.spatial):
        return site.refuse("position-table", "normalises over the places of the native size, each with its own scale")
    return _kept(site, view, normalised)


@rule(
    "ArgMax",
    "ArgMin",
    "LpNormalization",
    "TopK",
    on=PLACED,
    attributes=("axis", "k", "keepdims", "largest", "p", "select_last_index", "sorted"),
)
def along_channels(site: Site) -> Outcome | None:
    """Along one channel axis of each place."""
    view = site.placed_in()
    axis = site.axis()
    if view.apart and axis in view.spatial:
        return site.refuse("along-space", "works along the places of the native size")
    made = _kept(site, view, [axis])
    if not isinstance(made, list):
        return made
    if not site.attrs.get("keepdims", 1) and site.op_type in {"ArgMax", "ArgMin"}:
        groups = view.groups[:axis] + view.groups[axis + 1 :]
        return [replace(item, groups=groups) for item in made if isinstance(item, Placed)]
    return site.of_channels(view, axis)


def _kept(site: Site, view: Placed, axes: Sequence[int]) -> Outcome | None:
    if 0 in axes and view.apart:
        return site.refuse("mixes-batch", "works along the batch")
    if not site.only_first:
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if not all(pure(view.groups[axis]) for axis in axes):
        return None
    site.keep()
    return site.same()


@rule("InstanceNormalization", "GroupNormalization", on=PLACED, attributes=("epsilon", "num_groups", "stash_type"))
def whole_map_normalization(site: Site) -> Outcome | None:
    """Statistics of the whole map: context."""
    view = site.placed_in()
    if view.is_folded:
        return _grouped(site, view)
    if min(view.spatial, default=2) < 2 or (view.is_map and not view.channels_first):
        return site.refuse("layout", "normalises over axes that are not the image's")
    if view.trace.windows:
        return site.refuse("pools-then-convolves", "normalises over what a global pool left")
    if not site.only_first:
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    site.keep()
    return site.same(tainted=True)


def _grouped(site: Site, view: Placed) -> Outcome | None:
    """Group normalisation as exporters spell it: Reshape to (N, groups, -1), InstanceNormalization, Reshape back.

    The whole map is normalised, group by group: context. None where it does not become the map again at once: then it
    is a vector that is normalised.
    """
    node, groups = view.moved_by, view.groups
    if site.op_type != "InstanceNormalization" or node is None or not site.only_first:
        return None
    before = site.native(node.input[0]).shapes
    readers = site.state.graph.readers.get(site.node.output[0], ())
    again = all(other.op_type == "Reshape" and site.native(other.output[0]).shapes == before for other in readers)
    if not again or kinds(groups[0]) != ["batch"] or not pure(groups[1]):
        return None
    site.keep()
    return site.same(tainted=True)
