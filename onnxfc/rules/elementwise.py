"""Fused operators of onnxruntime's optimised dumps (domain com.microsoft): as the operators that they are made of."""

from __future__ import annotations

from dataclasses import replace

from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.graph.op_kinds import UNARY, UNARY_ATTRIBUTES
from onnxfc.head.windows import to_scores
from onnxfc.layout.views import Placed, Refused, ScoreMap, View, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule

MICROSOFT = "com.microsoft"


@rule(*UNARY, on=PLACED, attributes=UNARY_ATTRIBUTES)
def elementwise(site: Site) -> Outcome:
    """Each element alone: the output lies as the input does."""
    if not site.only_first:
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    site.keep()
    by_size = any(site.follows_size(position) for position in range(1, len(site.views)))
    return site.same(tainted=by_size)


rule("Gelu", "QuickGelu", on=PLACED, domain=MICROSOFT, attributes=("alpha",))(elementwise)


@rule(*UNARY, on=FEATURES, attributes=UNARY_ATTRIBUTES)
def elementwise_features(site: Site) -> Outcome:
    """The activation of a window is the window of the map's activation."""
    view = site.views[0]
    if not site.only_first:
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if isinstance(view, Window):
        pending = view.scale is not None or view.shift is not None
        if not pending or site.op_type == "Identity":
            return [_on_sources(site, view)]
    assert view is not None
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    site.keep([scores.tensor, *site.tensors_from(1)])
    return [replace(scores, tensor=site.node.output[0])]


rule("Gelu", "QuickGelu", on=FEATURES, domain=MICROSOFT, attributes=("alpha",))(elementwise_features)


def _on_sources(site: Site, view: Window) -> Window:
    """The node written once for every map that the window reads."""
    if site.op_type == "Identity":
        return view
    sources = tuple(replace(source, tensor=_again(site, source.tensor)) for source in view.sources)
    return replace(view, sources=sources)


def _again(site: Site, tensor: str) -> str:
    return site.keep_renamed([tensor, *site.tensors_from(1)])[0]


_DROPOUT = ("ratio", "seed", "is_test")


@rule("Dropout", on=FEATURES, attributes=_DROPOUT)
@rule("Dropout", on=PLACED, attributes=_DROPOUT)
def dropout(site: Site) -> Outcome:
    """Dropout in inference is the identity (its mask must not be used)."""
    view = site.views[0]
    training = site.constant(2)
    if site.has_input(2) and (training is None or bool(training.any())):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if site.output_used(1):
        return site.refuse("dropout-mask", "gives its mask to another node", "export the model in eval mode")
    mask: list[View] = [Refused(site.refuse("dropout-mask", "mask"))] * (len(site.node.output) - 1)
    if isinstance(view, Window):
        return [view, *mask]
    assert isinstance(view, Placed | ScoreMap)
    site.keep([view.tensor, *site.tensors_from(1)])
    first = site.same()[0] if isinstance(view, Placed) else replace(view, tensor=site.node.output[0])
    return [first, *mask]
