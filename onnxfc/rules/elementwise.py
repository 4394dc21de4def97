"""Operators that work on each element alone: activations, casts, Dropout, Identity.

They commute with any movement of data, so a window's activation is the map's own.
"""

from __future__ import annotations

from dataclasses import replace

from onnxfc.lift import to_scores
from onnxfc.op_kinds import BROADCAST as BROADCAST
from onnxfc.op_kinds import UNARY as UNARY
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site
from onnxfc.views import Fixed, Map, Refused, ScoreMap, View, Window

UNARY_ATTRIBUTES = (
    *("alpha", "approximate", "beta", "bias", "detect_negative", "detect_positive", "gamma", "lambd"),
    *("max", "min", "round_mode", "saturate", "to"),
)


@rule(*UNARY, on=(Map, Window, ScoreMap), attributes=UNARY_ATTRIBUTES)
def elementwise(site: Site) -> Outcome:
    """f(map) stays a map, f(window of a map) is a window of f(map), f(score map) is a score map."""
    if any(not isinstance(view, Fixed) for view in site.views[1:] if view is not None):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    return apply(site, site.views[0])


def apply(site: Site, view: View | None) -> Outcome:
    """The node on one lifted view, its other inputs as they are."""
    if isinstance(view, Map):
        site.keep()
        by_size = any(site.follows_size(position) for position in range(1, len(site.views)))
        return site.maps(view.trace.tainted(*([site.taint("context")] if by_size else [])), view.spatial)
    if isinstance(view, Window):
        pending = view.scale is not None or view.shift is not None
        if not pending or site.op_type == "Identity":
            return [_on_sources(site, view)]
        scores = to_scores(site, view)
        if not isinstance(scores, ScoreMap):
            return scores
        view = scores
    assert isinstance(view, ScoreMap)
    site.keep([view.tensor, *site.tensors_from(1)])
    return [replace(view, tensor=site.node.output[0])]


def _on_sources(site: Site, view: Window) -> Window:
    """The node written once for every map that the window reads."""
    if site.op_type == "Identity":
        return view
    sources = tuple(replace(source, tensor=_on_map(site, source.tensor)) for source in view.sources)
    return replace(view, sources=sources)


def _on_map(site: Site, tensor: str) -> str:
    return site.keep_renamed([tensor, *site.tensors_from(1)])[0]


@rule("Dropout", on=(Map, Window, ScoreMap), attributes=("ratio", "seed", "is_test"))
def dropout(site: Site) -> Outcome:
    """Dropout in inference is the identity (its mask must not be used)."""
    training = site.constant(2)
    if site.has_input(2) and (training is None or bool(training.any())):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if site.output_used(1):
        return site.refuse("dropout-mask", "gives its mask to another node", "export the model in eval mode")
    view = site.views[0]
    mask: list[View] = [Refused(site.refuse("dropout-mask", "mask"))] * (len(site.node.output) - 1)
    if isinstance(view, Window):
        return [view, *mask]
    assert isinstance(view, Map | ScoreMap)
    site.keep([view.tensor, *site.tensors_from(1)])
    name = site.node.output[0]
    if isinstance(view, Map):
        return [Map(name, name, view.spatial, view.trace), *mask]
    return [replace(view, tensor=name), *mask]
