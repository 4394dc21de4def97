"""BatchNormalization, LayerNormalization, GroupNormalization, InstanceNormalization, LRN."""

from __future__ import annotations

import numpy as np

from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.head.windows import affine, to_scores
from onnxfc.layout.axes import kinds, pure
from onnxfc.layout.views import Fixed, Placed, ScoreMap, View, Window
from onnxfc.rules.along_axis import along_axis, kept
from onnxfc.rules.registry import FEATURES, PLACED, rule


@rule("LRN", on=PLACED, attributes=("alpha", "beta", "bias", "size"))
def lrn(site: Site) -> Outcome | None:
    """Normalises over neighbouring channels (axis 1) of one place."""
    return _over_channels(site)


@rule("BatchNormalization", on=PLACED, attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(site: Site) -> Outcome | None:
    """A scale and a shift per channel (axis 1). https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"""
    if site.attrs.get("training_mode", 0) or any(site.output_used(k) for k in range(1, len(site.node.output))):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if not site.attrs.get("spatial", 1):
        return site.refuse("position-table", "has statistics for every place of the native size")
    return _over_channels(site)


def _over_channels(site: Site) -> Outcome | None:
    view = site.placed_in()
    if not pure(view.groups[1]) or not site.only_first:
        return site.refuse("layout", "works on axis 1, which is one of the image's") if view.apart else None
    site.keep()
    return site.same()


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
    return kept(site, view, normalised)


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


_BATCH_NORM = ("epsilon", "momentum", "spatial", "training_mode")


@rule("BatchNormalization", on=FEATURES, attributes=_BATCH_NORM)
def batch_normalization_features(site: Site) -> Outcome:
    """A scale and a shift per feature (axis 1): pending in a window, as it is on scores."""
    if site.attrs.get("training_mode", 0) or any(site.output_used(k) for k in range(1, len(site.node.output))):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if any(not isinstance(view, Fixed) for view in site.views[1:]):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    view = site.views[0]
    if isinstance(view, Window):
        pending = _pending(site, view)
        if pending is not None:
            return [pending]
    assert view is not None
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    site.keep([scores.tensor, *site.tensors_from(1)])
    return site.score_maps(scores.trace)


def _pending(site: Site, view: Window) -> View | None:
    """gamma * (x - mean) / sqrt(var + eps) + beta as one scale and shift, in float64."""
    found = [site.weights(name) for name in site.node.input[1:5]]
    if any(value is None for value in found) or view.batch_axis:
        return None
    gamma, beta, mean, var = (np.asarray(value, np.float64) for value in found)
    scale = gamma / np.sqrt(var + float(site.attrs.get("epsilon", 1e-5)))
    shape = (-1,) + (1,) * (view.index.ndim - 1)
    scales, shifts = (np.broadcast_to(value.reshape(shape), view.index.shape) for value in (scale, beta - mean * scale))
    return affine(view, scales, shifts)
